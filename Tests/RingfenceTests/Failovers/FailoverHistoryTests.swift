// SPDX-License-Identifier: Apache-2.0
import Testing

@Suite struct FailoverHistoryTests {
    private typealias What = FailoverHistory.What

    /// A second between two facts, each with its process.
    private func history(_ facts: [(by: Int, what: FailoverHistory.What)]) -> FailoverHistory {
        var history = FailoverHistory()
        for (second, fact) in facts.enumerated() {
            history.add(.init(at: Int64(second) * 1_000_000, by: fact.by, what: fact.what))
        }
        return history
    }

    private func place(_ sequence: Int64, _ generation: String = "a") -> FailoverHistory.Place {
        .init(generation: generation, sequence: sequence)
    }

    private func heard(_ sequence: Int64, _ key: String = "other", in generation: String = "a") -> (Int, What) {
        (2, .heard(place(sequence, generation), key))
    }

    @Test func `a run in which all is well has no violation`() {
        let run = history([
            (2, .follows(place(0))), (1, .begins(name: "a", fence: 1)), (0, .complete), (1, .asks("k")),
            (1, .told("k")), heard(1, "k"), (0, .kept), (0, .fault("kill")), (1, .ends(name: "a")),
            (1, .returned(name: "a", code: "none")), (2, .reset(place(8, "b"), lost: nil)), heard(9, in: "b"),
            (0, .goesOn(without: [])), (0, .stood(Array(0..<FailoverHistory.line))), (0, .served([0, 1, 2])),
            (0, .left([])),
        ])
        #expect(run.violations == [])
        #expect(run.owed.map(\.key) == ["k"])
    }

    @Test func `a hole in the sequence, and a generation that goes on without a reset, are found`() {
        #expect(history([heard(1), heard(3)]).violations.count == 1)
        #expect(history([(2, .follows(place(4))), heard(6)]).violations.count == 1)
        #expect(history([heard(1), heard(5, in: "b")]).violations.count == 1)
        #expect(history([heard(1), heard(2, in: "b")]).violations == [], "a fork of which nothing is missing")
        #expect(history([heard(1), (3, .follows(place(7))), heard(2)]).violations == [], "each has its own events")
    }

    @Test func `a reset that tells of more or fewer events than are missing is found`() {
        for (lost, count) in [(2, 1), (3, 0), (4, 1)] {
            let run = history([heard(1), (2, .reset(place(4), lost: Int64(lost))), heard(5)])
            #expect(run.violations.count == count, "\(lost)")
        }
    }

    @Test func `a change that had to be heard and was not is found, unless a reset told to look`() {
        let begin: [(Int, What)] = [(2, .follows(place(0))), (0, .complete)]
        let change: [(Int, What)] = [(1, .asks("k")), (1, .told("k"))]
        #expect(history(begin + change + [(0, .kept)]).violations == ["2 never heard of k"])
        #expect(history(begin + change + [(0, .kept), heard(1, "k")]).violations == [])
        let reset: (Int, What) = (2, .reset(place(5), lost: 5))
        #expect(history(begin + change + [(0, .kept), reset]).violations == [])
        #expect(history(begin + [reset] + change + [(0, .kept)]).violations.count == 1, "it told of what was before")
        // What the new primary may lack.
        #expect(history(begin + change + [(0, .fault("kill")), (0, .kept)]).violations == [])
        #expect(history(begin + [(0, .fault("kill"))] + change + [(0, .complete), (0, .kept)]).violations == [])
    }

    @Test func `a caller that gets nothing, one that is silent, and a subscription that ends are found`() {
        #expect(history([(0, .goesOn(without: ["3 lock a"]))]).violations.count == 1)
        #expect(history([(2, .unfollowed("end"))]).violations.count == 1)
        var slow = FailoverHistory()
        slow.add(.init(at: 0, by: 1, what: .returned(name: "a", code: "none")))
        slow.add(.init(at: 61_000_000, by: 1, what: .begins(name: "a", fence: 1)))
        #expect(slow.violations.count == 1)
    }

    @Test func `waiters out of order, or not served, and what is left behind are found`() {
        #expect(history([(0, .served([0, 2, 1]))]).violations.count == 1)
        #expect(history([(0, .stood([0, 1]))]).violations.count == 1)
        #expect(history([(0, .left(["ringfence:{default}:lock:a"]))]).violations.count == 1)
        let swapped = history([(0, .stood([1, 0] + Array(2..<FailoverHistory.line)))])
        #expect(swapped.violations == [] && swapped.standingOutOfOrder == 1)
    }

    @Test func `two holders at once, and how long nobody was given a lock, are counted`() {
        let run = history([
            (1, .begins(name: "a", fence: 1)), (0, .fault("kill")), (2, .begins(name: "a", fence: 2)),
            (1, .ends(name: "a")), (2, .ends(name: "a")), (1, .begins(name: "a", fence: 3)),
        ])
        #expect(run.overlaps == 1)
        #expect(run.pauses.map(\.microseconds) == [3_000_000])
    }

    @Test func `what a caller says is read, and anything else is not`() {
        let fact = FailoverHistory.Fact("7 heard g 3 m1/2", by: 4)
        #expect(fact == .init(at: 7, by: 4, what: .heard(place(3, "g"), "m1/2")))
        #expect(FailoverHistory.Fact("7 reset g 3 -1", by: 4)?.what == .reset(place(3, "g"), lost: nil))
        for line in ["", "7", "x quiet", "7 begins a", "7 begins a b", "7 heard g x k", "7 sings"] {
            #expect(FailoverHistory.Fact(Substring(line), by: 1) == nil, "\(line)")
        }
    }
}
