// SPDX-License-Identifier: Apache-2.0
import RingfenceConsole
import Testing

@testable import RingfenceBench

@Suite struct FigureTests {
    @Test func `percentiles are nearest ranks`() {
        let values = [5, 1, 4, 2, 3]
        #expect(Statistics.percentile(values, 0.5) == 3)
        #expect(Statistics.percentile(values, 0.99) == 5)
        #expect(Statistics.percentile(values, 0) == 1)
        #expect(Statistics.percentile([Int](), 0.5) == nil)
    }

    @Test func `the median of an even number of values is the mean of the middle two`() {
        #expect(Statistics.median([4, 1, 3, 2]) == 2.5)
        #expect(Statistics.median([9]) == 9)
    }

    @Test func `the ratio is the median of the rounds' ratios, not the ratio of the medians`() {
        let rounds = Rounds(references: [100, 200, 1000], values: [90, 100, 100])
        #expect(rounds.ratio == 0.5)
    }

    @Test func `rounds are taken turn about, and who begins alternates`() async throws {
        var order: [String] = []
        let rounds = try await Rounds.alternate(3) {
            order.append("reference")
            return 2
        } ours: {
            order.append("ours")
            return 1
        }
        #expect(order == ["reference", "ours", "ours", "reference", "reference", "ours"])
        #expect(rounds.values.count == 3)
        #expect(rounds.ratio == 0.5)
    }

    @Test func `a figure is one JSON object, and what does not apply is left out`() {
        var figure = Figure(name: "lock.cpu.64", unit: "us/command", value: 1.25, trials: 5)
        #expect(figure.json == #"{"figure":"lock.cpu.64","unit":"us/command","value":1.25,"trials":5}"#)
        figure.reference = 200_000.4
        figure.ratio = 0.7004
        figure.p50 = 12.34
        figure.p99 = 0.001
        #expect(
            figure.json
                == #"{"figure":"lock.cpu.64","unit":"us/command","value":1.25,"reference":200000,"ratio":0.7,"#
                + #""trials":5,"p50":12.3,"p99":0.001}"#)
    }

    @Test func `a figure that has a bar says which, and whether it is met`() {
        var figure = Figure(name: "x", unit: "ms p99", value: 12, trials: 5, bar: .valueAtMost(10))
        #expect(figure.json.hasSuffix(#""trials":5,"bar":"<= 10 ms p99","met":false}"#))
        (figure.value, figure.bar) = (2, .ratioAtLeast(0.88))
        // Without a ratio nothing is met.
        #expect(figure.json.hasSuffix(#""trials":5,"bar":"ratio >= 0.88"}"#))
        figure.ratio = 0.9
        #expect(figure.json.hasSuffix(#""bar":"ratio >= 0.88","met":true}"#))
    }

    @Test(arguments: [(9.0, 49.0, true), (11, 49, false), (9, 51, false)])
    func `times of moves pass by both of their percentiles`(p50: Double, p99: Double, passes: Bool) {
        var figure = Figure(name: "x", late: Array(repeating: p50, count: 60) + [p99], bar: 0)
        figure.bar = .percentilesAtMost(p50: 10, p99: 50)
        #expect(figure.passes == passes)
    }

    @Test(arguments: [
        (Figure.Bar.ratioAtLeast(0.7), true), (.ratioAtLeast(0.8), false), (.valueAtMost(10), true),
        (.valueAtMost(9.9), false), (.bothAtMost(value: 10, ratio: 0.7), true),
        (.bothAtMost(value: 9.9, ratio: 0.7), false), (.bothAtMost(value: 10, ratio: 0.6), false),
    ])
    func `a bar is passed at its limit and failed beyond it`(bar: Figure.Bar, passes: Bool) {
        let figure = Figure(name: "x", unit: "y", value: 10, reference: 14, ratio: 0.7, trials: 5, bar: bar)
        #expect(figure.passes == passes)
    }

    @Test func `a fair queue shows no overtaking, an unfair one does`() {
        var fair = FairnessWatch(tasks: 3)
        for task in 0..<3 { fair.arrived(task) }
        for _ in 0..<10 {
            for task in 0..<3 {
                fair.granted(task)
                fair.arrived(task)
            }
        }
        #expect(fair.overtakings == 0)

        var unfair = FairnessWatch(tasks: 3)
        for task in 0..<3 { unfair.arrived(task) }
        for _ in 0..<5 {
            unfair.granted(1)
            unfair.arrived(1)
        }
        #expect(unfair.overtakings == 4)
    }

    @Test func `commands are counted from what Redis reports`() {
        let text = """
            # Commandstats\r
            cmdstat_evalsha:calls=12,usec=5,usec_per_call=0.1,rejected_calls=0,failed_calls=0\r
            cmdstat_script|load:calls=3,usec=5\r
            cmdstat_get:calls=999,usec=5\r

            """
        #expect(CommandCounter.count(text, CommandCounter.sentByTheLibrary) == 15)
        #expect(CommandCounter.count(text, ["get"]) == 999)
    }

    @Test func `numbers have as many digits as mean something`() {
        #expect(shortNumber(-0.5) == "-0.5")
        #expect(shortNumber(.nan) == "0")
    }
}
