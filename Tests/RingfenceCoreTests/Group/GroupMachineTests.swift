// SPDX-License-Identifier: Apache-2.0
//
// One process' view of a group, answer by answer. (Under loss, delay and recovery the simulation tells it.)
import RingfenceCore
import Testing

@Suite struct GroupMachineTests {
    private func answer(
        _ version: Int64, generation: String = "g1", members: [String]?, primary: String,
        settings: [String: String] = [:]
    ) -> GroupAnswer {
        let records = members?.map { MemberRecord(id: $0, session: "s", leaseMilliseconds: 1000) }
        let role = GroupRole(epoch: version, primary: primary, session: "s", phase: .ready)
        return GroupAnswer(
            status: .watching, generation: generation, sequence: version, version: version,
            mark: "\(generation):\(version)",
            nextMilliseconds: nil, paceMilliseconds: 200, graceMilliseconds: 0, recoveryMilliseconds: 0,
            content: GroupAnswer.Content(
                members: records, policy: RingPolicy(seed: 1, pointsPerWeight: 2), role: role, settings: settings))
    }

    @Test func `members that have not changed stay, and what changed is taken`() {
        var view = GroupMachine()
        #expect(view.answered(answer(3, members: ["a", "b"], primary: "a"), sentAt: 1, now: 2) == .show)
        #expect(view.answered(answer(5, members: nil, primary: "b"), sentAt: 3, now: 4) == .show)
        #expect(view.shown.members.map(\.id) == ["a", "b"] && view.shown.role.primary == "b")
        #expect(view.shown.version == 5 && view.knowledge.mark == "g1:5")
    }

    @Test func `the breaker is what was ordered last, through changes of members, and a strange word is no order`() {
        var view = GroupMachine()
        func sees(_ version: Int64, _ word: String?) -> GroupBreaker {
            let settings = word.map { ["breaker": $0] } ?? [:]
            let news = answer(version, members: nil, primary: "a", settings: settings)
            _ = view.answered(news, sentAt: version, now: version)
            return view.shown.breaker
        }
        _ = view.answered(answer(1, members: ["a"], primary: "a"), sentAt: 1, now: 1)
        #expect(view.shown.breaker == .automatic)
        #expect(sees(2, "open") == .open)
        let left = GroupEvent(generation: "g1", sequence: 3, version: 3, of: 1, kind: .left("a"))
        #expect(view.happened(left, now: 3) == .show && view.shown.breaker == .open)
        let order = GroupEvent(generation: "g1", sequence: 4, version: 4, of: 1, kind: .other)
        #expect(view.happened(order, now: 4) == .look, "what it says is asked for at once")
        #expect(sees(4, "closed") == .closed && sees(5, "half") == .automatic && sees(6, nil) == .automatic)
    }

    @Test func `that nothing changed is not believed of another generation`() {
        var view = GroupMachine()
        _ = view.answered(answer(3, members: ["a", "b"], primary: "a"), sentAt: 1, now: 2)
        // It was asked while the old one was known, and overtaken by an answer of the new one.
        _ = view.answered(answer(4, generation: "g2", members: ["a"], primary: "a"), sentAt: 3, now: 4)
        #expect(view.answered(answer(5, members: nil, primary: "b"), sentAt: 3, now: 5) == .look)
        #expect(view.shown.members.map(\.id) == ["a"] && view.shown.version == 4)
        #expect(view.wakeAt(dice: 0) <= 5)
    }
}
