// SPDX-License-Identifier: Apache-2.0
import Testing

@Suite struct FailoverHistoryTests {
    private func violations(_ facts: [FailoverHistory.Fact]) -> [String] {
        var history = FailoverHistory()
        for fact in facts { history.add(fact) }
        return history.violations
    }

    private func heard(_ sequence: Int64, _ member: String = "m", generation: String = "a") -> FailoverHistory.Fact {
        .heard(generation: generation, sequence: sequence, type: "member.joined", member: member)
    }

    @Test func `a run in which all is well has no violation`() {
        let facts: [FailoverHistory.Fact] = [
            .joined(member: "m"), heard(1), .fault("kill"), .reset, heard(9, "n", generation: "b"),
            .joined(member: "n"), heard(10, "o", generation: "b"), .goesOn(without: []), .served([0, 1, 2]),
            .left([]),
        ]
        #expect(violations(facts) == [])
    }

    @Test func `a hole in the sequence and a generation that goes on without a reset are found`() {
        #expect(violations([heard(1), heard(3)]).count == 1)
        #expect(violations([heard(1), .fault("kill"), heard(5, generation: "b")]).count == 1)
        #expect(violations([heard(1), heard(2, generation: "b")]) == [], "a fork of which nothing is missing")
    }

    @Test func `an answered join that the subscriber never hears of is found, unless a reset told it to look`() {
        #expect(violations([.joined(member: "m")]).count == 1)
        #expect(violations([.joined(member: "m"), .reset]) == [])
        #expect(violations([.reset, .joined(member: "m")]).count == 1)
    }

    @Test func `a client without a lock, waiters out of order and what is left behind are found`() {
        #expect(violations([.goesOn(without: [3])]).count == 1)
        #expect(violations([.served([0, 2, 1])]).count == 1)
        #expect(violations([.left(["ringfence:{default}:lock:a"])]).count == 1)
    }

    @Test func `two holders at once are counted`() {
        var history = FailoverHistory()
        history.add(.begins(name: "a", client: 0, fence: 1))
        history.add(.begins(name: "a", client: 1, fence: 2))
        history.add(.ends(name: "a", client: 0))
        history.add(.ends(name: "a", client: 1))
        history.add(.begins(name: "a", client: 0, fence: 3))
        #expect(history.overlaps == 1)
    }
}
