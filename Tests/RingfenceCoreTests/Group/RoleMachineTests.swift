// SPDX-License-Identifier: Apache-2.0
import RingfenceCore
import Testing

@Suite struct RoleMachineTests {
    private static let second = Nanos.second
    /// The membership's deadline, unless a test says otherwise.
    private static let deadline = 10 * second

    /// A candidate `a` under the session `s`, and what it is told.
    private struct Player {
        var machine = RoleMachine(margin: RoleMachineTests.second)
        var version: Int64 = 0
        var told: [RoleMachine.Tell] = []
        var speaks = false

        mutating func take(_ output: RoleMachine.Output) {
            told += output.tell
            speaks = output.speaks
        }

        mutating func saw(
            _ phase: GroupRole.Phase, epoch: Int64, by session: String = "s", of id: String = "a", forced: Bool = false,
            gen: String = "gen1", version: Int64? = nil, now: Nanos = 0, deadline: Nanos = RoleMachineTests.deadline,
            isMember: Bool = true, asOf: Nanos? = nil
        ) {
            self.version = version ?? self.version + 1
            let isVacant = phase == .vacant || phase == .recovering
            let role = GroupRole(
                epoch: epoch, primary: isVacant ? "" : id, session: isVacant ? "" : session, phase: phase,
                isForced: forced)
            take(
                machine.saw(
                    role, gen: gen, version: self.version, asOf: asOf ?? now, id: "a", session: "s", now: now,
                    deadline: deadline,
                    isMember: isMember))
        }

        @discardableResult
        mutating func say(_ change: (inout RoleMachine) -> RoleMachine.Output?) -> Bool {
            guard let output = change(&machine) else { return false }
            take(output)
            return true
        }

        mutating func tick(now: Nanos, isMember: Bool = true) {
            take(machine.tick(now: now, deadline: RoleMachineTests.deadline, isMember: isMember))
        }

        func holds(_ epoch: Int64, now: Nanos = 0) -> Bool {
            machine.holds(epoch, deadline: RoleMachineTests.deadline, isMember: true, now: now)
        }

        var claim: RoleClaim { machine.status.claim }
    }

    private static func primary(_ epoch: Int64 = 3) -> Player {
        var player = Player()
        player.saw(.elected, epoch: epoch)
        player.say { $0.ready(epoch) }
        player.saw(.ready, epoch: epoch)
        player.told = []
        return player
    }

    private static func drained() -> Player {
        var player = primary()
        player.saw(.draining, epoch: 3)
        player.say { $0.drained(3, position: 70) }
        player.told = []
        return player
    }

    @Test(arguments: [
        ("a", "s", true, 0, true), ("a", "t", true, 0, false), ("b", "s", true, 0, false), ("a", "s", false, 0, false),
        ("a", "s", true, 9 * Nanos.second, false),
    ])
    func `it begins a role only under its own session, and with more time than its margin`(
        id: String, session: String, isMember: Bool, now: Nanos, begins: Bool
    ) {
        var player = Player()
        player.saw(.elected, epoch: 3, by: session, of: id, now: now, isMember: isMember)
        #expect(player.told == (begins ? [.state(.elected(3))] : []))
        #expect(player.holds(3) == begins)
    }

    @Test func `it claims what it does with each beat`() {
        var player = Player()
        #expect(player.claim == .none)
        player.saw(.elected, epoch: 3)
        #expect(player.claim == .elected(3))
        let isTaken1 = player.say { $0.ready(3) }
        #expect(isTaken1 && player.speaks && player.claim == .ready(3))
        player.saw(.draining, epoch: 3, version: 7)
        #expect(player.claim == .ready(3), "it has not stopped yet")
        let isTaken2 = player.say { $0.drained(3, position: 70) }
        #expect(isTaken2 && player.speaks)
        #expect(player.claim == .drained(3, position: 70, asOf: 7))
        #expect(player.claim.text == "d:3:70:7")
    }

    @Test func `what is said of another epoch, or twice, is not taken`() {
        var player = Self.primary()
        let isTaken3 = player.say { $0.ready(3) }
        #expect(!isTaken3)
        let isTaken4 = player.say { $0.ready(2) }
        #expect(!isTaken4)
        let isTaken5 = player.say { $0.drained(3, position: nil) }
        #expect(!isTaken5, "nobody asked for it")
        let isTaken6 = player.say { $0.giveUp(2, reason: "") }
        #expect(!isTaken6)
        let isTaken7 = player.say { $0.stopped(3) }
        #expect(!isTaken7)
        #expect(player.told.isEmpty && player.claim == .ready(3))
    }

    @Test func `its own clock ends it a margin before the deadline, and it says so when that is over`() {
        var player = Self.primary()
        #expect(player.machine.wakeAt(deadline: Self.deadline) == 9 * Self.second)
        #expect(player.holds(3, now: 9 * Self.second - 1) && !player.holds(3, now: 9 * Self.second))
        player.tick(now: 9 * Self.second - 1)
        #expect(player.told.isEmpty)
        player.tick(now: 9 * Self.second)
        #expect(player.told == [.ended(3, .suspended), .state(.standby)])
        #expect(player.claim == .none && !player.speaks, "what it did may still be stopping")
        #expect(player.machine.wakeAt(deadline: 20 * Self.second) == Self.deadline)
        player.tick(now: Self.deadline)
        #expect(player.claim == .gone(3, reason: "suspended") && player.speaks)
    }

    @Test func `it says at once that it is over when its holder has stopped`() {
        var player = Self.primary()
        player.tick(now: 9 * Self.second)
        let isTaken8 = player.say { $0.stopped(3) }
        #expect(isTaken8 && player.speaks)
        #expect(player.claim == .gone(3, reason: "suspended"))
        player.saw(.vacant, epoch: 3)
        #expect(player.claim == .none, "Redis has heard it")
    }

    @Test func `an epoch that ended never begins again, and whoever names it is told so`() {
        var player = Self.primary()
        let isTaken9 = player.say { $0.giveUp(3, reason: "unhealthy") }
        #expect(isTaken9)
        player.saw(.vacant, epoch: 3)
        player.told = []
        // An older copy of Redis.
        player.saw(.ready, epoch: 3, gen: "gen2")
        #expect(player.told.isEmpty && player.claim == .gone(3, reason: "suspended") && player.speaks)
        player.saw(.elected, epoch: 4, gen: "gen2")
        #expect(player.told == [.state(.elected(4))] && player.claim == .elected(4))
    }

    @Test func `a failover by hand ends it, and it is said when the holder stopped or the deadline is past`() {
        var player = Self.primary()
        player.saw(.draining, epoch: 3, forced: true)
        #expect(player.told == [.ended(3, .failover), .state(.standby)] && player.claim == .none)
        var other = player
        let isTaken10 = player.say { $0.stopped(3) }
        #expect(isTaken10 && player.claim == .gone(3, reason: "failover"))
        other.tick(now: Self.deadline)
        #expect(other.claim == .gone(3, reason: "failover"))
    }

    @Test func `a role that is being taken away is not begun`() {
        var player = Player()
        player.saw(.draining, epoch: 3)
        #expect(player.told.isEmpty && player.claim == .gone(3, reason: "failover"))
    }

    @Test func `who drained does not hold the epoch any more, and the target has it`() {
        var player = Self.drained()
        #expect(!player.holds(3))
        player.saw(.elected, epoch: 4, by: "t", of: "b")
        #expect(player.told == [.ended(3, .handedOver), .state(.standby)] && player.claim == .none)
    }

    @Test func `a switchover that is taken back goes on where it was`() {
        var player = Self.drained()
        player.saw(.ready, epoch: 3)
        #expect(player.told == [.state(.primary(3))] && player.holds(3) && player.claim == .ready(3))
        var other = Self.primary()
        other.saw(.draining, epoch: 3)
        other.saw(.ready, epoch: 3)
        #expect(other.told == [.state(.draining(3)), .state(.primary(3))])
    }

    @Test func `what looks like a switchover taken back, by a Redis that lost data, is an end`() {
        var player = Self.drained()
        player.saw(.ready, epoch: 3, gen: "gen2")
        #expect(player.told == [.ended(3, .suspended), .state(.standby)])
        #expect(player.claim == .gone(3, reason: "suspended"))
    }

    @Test func `another that has it, or a newer epoch of its own, ends it`() {
        var player = Self.primary()
        player.saw(.ready, epoch: 4, by: "t", of: "b")
        #expect(player.told == [.ended(3, .lost), .state(.standby)])
        var other = Self.primary()
        other.saw(.elected, epoch: 5)
        #expect(other.told == [.ended(3, .lost), .state(.standby), .state(.elected(5))])
    }

    @Test func `a Redis that lost data and asks for the holder is told`() {
        var player = Self.primary()
        player.saw(.recovering, epoch: 3, gen: "gen2")
        #expect(player.told.isEmpty && player.claim == .ready(3) && player.holds(3))
        player.saw(.ready, epoch: 2, by: "t", of: "b", gen: "gen2")
        #expect(player.told.isEmpty, "an epoch of before")
        player.saw(.recovering, epoch: 4, gen: "gen2")
        #expect(player.told == [.ended(3, .lost), .state(.standby)])
    }

    @Test func `a view from before the newest is passed over`() {
        var player = Player()
        player.saw(.vacant, epoch: 3, version: 9)
        player.saw(.elected, epoch: 4, version: 8)
        #expect(player.told.isEmpty)
    }

    @Test func `who stands no more is elected in vain, and says so`() {
        var player = Player()
        player.machine.withdraw()
        player.saw(.elected, epoch: 3)
        #expect(player.told.isEmpty && player.claim == .gone(3, reason: "stepDown"))
        player.machine.stand(margin: 0)
        player.saw(.elected, epoch: 4)
        #expect(player.told == [.state(.elected(4))])
    }

    @Test func `a membership that ends takes the role with it, and another session owes nothing`() {
        var player = Self.primary()
        player.tick(now: 0, isMember: false)
        #expect(player.told == [.ended(3, .suspended), .state(.standby)])
        player.machine.changedSession()
        player.tick(now: Self.deadline)
        #expect(player.claim == .none)
    }

    @Test func `only a change from fit to unfit or back is worth a beat of its own`() {
        var player = Player()
        let isNews1 = player.machine.report(position: 1, unfit: "")
        #expect(!isNews1)
        let isNews2 = player.machine.report(position: 2, unfit: "busy")
        #expect(isNews2)
        let isNews3 = player.machine.report(position: 3, unfit: "very busy")
        #expect(!isNews3)
        let isNews4 = player.machine.report(position: nil, unfit: "")
        #expect(isNews4)
        #expect(player.machine.status == CandidateStatus())
    }
}
