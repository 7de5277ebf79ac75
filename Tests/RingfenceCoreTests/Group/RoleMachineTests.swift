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
            generation: String = "gen1", version: Int64? = nil, now: Nanos = 0,
            deadline: Nanos = RoleMachineTests.deadline,
            isMember: Bool = true, asOf: Nanos? = nil
        ) {
            self.version = version ?? self.version + 1
            let isVacant = phase == .vacant || phase == .recovering
            let role = GroupRole(
                epoch: epoch, primary: isVacant ? "" : id, session: isVacant ? "" : session, phase: phase,
                isForced: forced)
            take(
                machine.saw(
                    role, generation: generation, version: self.version, asOf: asOf ?? now, id: "a", session: "s",
                    now: now,
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

    private static func readyToHandOver() -> Player {
        var player = primary()
        player.saw(.handingOver, epoch: 3)
        player.say { $0.readyToHandOver(3, position: 70) }
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
        player.saw(.handingOver, epoch: 3, version: 7)
        #expect(player.claim == .ready(3), "it has not stopped yet")
        let isTaken2 = player.say { $0.readyToHandOver(3, position: 70) }
        #expect(isTaken2 && player.speaks)
        #expect(player.claim == .readyToHandOver(3, position: 70, asOf: 7))
        #expect(player.claim.text == "d:3:70:7")
    }

    @Test func `what is said of another epoch, or twice, is not taken`() {
        var player = Self.primary()
        let isTaken3 = player.say { $0.ready(3) }
        #expect(!isTaken3)
        let isTaken4 = player.say { $0.ready(2) }
        #expect(!isTaken4)
        let isTaken5 = player.say { $0.readyToHandOver(3, position: nil) }
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
        player.saw(.ready, epoch: 3, generation: "gen2")
        #expect(player.told.isEmpty && player.claim == .gone(3, reason: "suspended") && player.speaks)
        player.saw(.elected, epoch: 4, generation: "gen2")
        #expect(player.told == [.state(.elected(4))] && player.claim == .elected(4))
    }

    @Test func `a failover by hand ends it, and it is said when the holder stopped or the deadline is past`() {
        var player = Self.primary()
        player.saw(.handingOver, epoch: 3, forced: true)
        #expect(player.told == [.ended(3, .failover), .state(.standby)] && player.claim == .none)
        var other = player
        let isTaken10 = player.say { $0.stopped(3) }
        #expect(isTaken10 && player.claim == .gone(3, reason: "failover"))
        other.tick(now: Self.deadline)
        #expect(other.claim == .gone(3, reason: "failover"))
    }

    @Test func `a role that is being taken away is not begun`() {
        var player = Player()
        player.saw(.handingOver, epoch: 3)
        #expect(player.told.isEmpty && player.claim == .gone(3, reason: "failover"))
    }

    @Test func `who drained does not hold the epoch any more, and the target has it`() {
        var player = Self.readyToHandOver()
        #expect(!player.holds(3))
        player.saw(.elected, epoch: 4, by: "t", of: "b")
        #expect(player.told == [.ended(3, .handedOver), .state(.standby)] && player.claim == .none)
    }

    @Test func `a switchover that is taken back goes on where it was`() {
        var player = Self.readyToHandOver()
        player.saw(.ready, epoch: 3)
        #expect(player.told == [.state(.primary(3))] && player.holds(3) && player.claim == .ready(3))
        var other = Self.primary()
        other.saw(.handingOver, epoch: 3)
        other.saw(.ready, epoch: 3)
        #expect(other.told == [.state(.handingOver(3)), .state(.primary(3))])
    }

    @Test func `what looks like a switchover taken back, by a Redis that lost data, is an end`() {
        var player = Self.readyToHandOver()
        player.saw(.ready, epoch: 3, generation: "gen2")
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
        player.saw(.recovering, epoch: 3, generation: "gen2")
        #expect(player.told.isEmpty && player.claim == .ready(3) && player.holds(3))
        player.saw(.ready, epoch: 2, by: "t", of: "b", generation: "gen2")
        #expect(player.told.isEmpty, "an epoch of before")
        player.saw(.recovering, epoch: 4, generation: "gen2")
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
        player.machine.campaign(margin: 0)
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

    // MARK: While Redis is away

    private func expectPromise(
        _ isPromised: Bool, _ player: inout Player, _ epoch: Int64, until: Nanos, _ why: String = "",
        location: SourceLocation = #_sourceLocation
    ) {
        let answer = player.machine.promise(epoch, until: until)
        #expect(answer == isPromised, "\(why)", sourceLocation: location)
    }

    @Test func `a role goes on beyond the deadline as long as the others promised, and no longer`() {
        var player = Self.primary()
        player.machine.extend(3, until: 13 * Self.second)
        player.tick(now: 11 * Self.second, isMember: false)
        #expect(player.told.isEmpty && player.holds(3, now: 11 * Self.second))
        #expect(!player.holds(3, now: 12 * Self.second), "it ends a margin before")
        player.tick(now: 12 * Self.second, isMember: false)
        #expect(player.told == [.ended(3, .suspended), .state(.standby)])
        player.tick(now: 12 * Self.second + 1, isMember: false)
        #expect(player.claim == .none, "others wait until what they promised is over")
        player.tick(now: 13 * Self.second, isMember: false)
        #expect(player.claim == .gone(3, reason: "suspended"))
    }

    @Test func `what others promised counts for the role it was promised to, and not for a membership that is over`() {
        var player = Self.primary()
        player.machine.extend(2, until: 13 * Self.second)
        #expect(!player.holds(3, now: 11 * Self.second))
        player.machine.extend(3, until: 13 * Self.second)
        player.machine.endFailsafe()
        player.tick(now: 11 * Self.second, isMember: false)
        #expect(player.told == [.ended(3, .suspended), .state(.standby)])
        player.machine.extend(3, until: 20 * Self.second)
        #expect(!player.holds(3, now: 9 * Self.second))
    }

    @Test func `who promised begins a role when Redis confirms it after that, and not by its own clock`() {
        var player = Player()
        expectPromise(true, &player, 3, until: 5 * Self.second)
        player.saw(.elected, epoch: 4, now: 1 * Self.second)
        #expect(player.told.isEmpty)
        #expect(player.machine.wakeAt(deadline: Self.deadline) == 5 * Self.second)
        player.tick(now: 5 * Self.second)
        #expect(player.told.isEmpty && player.speaks, "it asks")
        player.saw(.elected, epoch: 4, version: player.version, now: 6 * Self.second, asOf: 4 * Self.second)
        #expect(player.told.isEmpty, "an answer from before")
        player.saw(.elected, epoch: 4, version: player.version, now: 6 * Self.second, asOf: 5 * Self.second)
        #expect(player.told == [.state(.elected(4))])
    }

    @Test func `nothing is promised by who has a role, waits for one, or knows a later one`() {
        var player = Self.primary()
        expectPromise(false, &player, 3, until: Self.second)
        player.say { $0.giveUp(3, reason: "left") }
        expectPromise(false, &player, 3, until: Self.second, "that one is over")
        expectPromise(true, &player, 4, until: Self.second)
        player.saw(.elected, epoch: 5)
        expectPromise(false, &player, 4, until: 2 * Self.second, "it is elected, and waits")
        player.saw(.vacant, epoch: 5)
        expectPromise(true, &player, 6, until: 2 * Self.second)
    }
}

@Suite struct FailsafeMachineTests {
    private static let question = FailsafeMachine.Question(epoch: 3, session: "p", leaseMilliseconds: 1000)

    private static func view(_ candidates: String..., limit: Nanos? = 60 * .second) -> GroupMachine.View {
        let members = (["a"] + candidates).map {
            MemberRecord(id: $0, session: $0 == "a" ? "p" : "s-" + $0, leaseMilliseconds: 1000, isCandidate: true)
        }
        let role = GroupRole(epoch: 3, primary: "a", session: "p", phase: .ready)
        return GroupMachine.View(
            generation: "g", version: 9,
            members: members + [MemberRecord(id: "w", session: "s-w", leaseMilliseconds: 1000)],
            policy: nil, isRecovering: false, role: role, failsafeLimit: limit)
    }

    @Test func `the earliest promise of all that are known counts, and the limit`() {
        var hold = FailsafeMachine(epoch: 3)
        func until(_ view: GroupMachine.View) -> Nanos { hold.until(view, but: "a", deadline: 0) }
        hold.promised("s-b", until: 5 * .second)
        hold.promised("s-c", until: 4 * .second)
        #expect(until(Self.view("b", "c")) == 4 * .second)
        #expect(until(Self.view("b")) == 5 * .second)
        #expect(until(Self.view("b", "d")) == .min, "one more has come, who promised nothing")
        #expect(until(Self.view("b", limit: nil)) == .min, "the settings say fence")
        hold.promised("s-b", until: 3 * .second)
        #expect(until(Self.view("b")) == 5 * .second, "what was promised once is kept")
        hold.promised("s-b", until: 100 * .second)
        #expect(until(Self.view("b")) == 59_400 * .millisecond, "the limit, less 1 %")
        #expect(until(Self.view()) == 59_400 * .millisecond, "nobody else can be elected")
    }

    @Test func `who asks in vain: not the primary, another lease, settings that do not say hold`() {
        let view = Self.view("b")
        #expect(FailsafeMachine.objection(to: Self.question, view) == nil)
        #expect(FailsafeMachine.objection(to: Self.question, Self.view("b", limit: nil)) != nil)
        for wrong in [
            FailsafeMachine.Question(epoch: 4, session: "p", leaseMilliseconds: 1000),
            FailsafeMachine.Question(epoch: 3, session: "x", leaseMilliseconds: 1000),
            FailsafeMachine.Question(epoch: 3, session: "p", leaseMilliseconds: 60_000),
        ] { #expect(FailsafeMachine.objection(to: wrong, view) != nil) }
    }

    @Test func `a promise binds longer than it is counted on, by clocks that run apart by 1 %`() {
        let counted = FailsafeMachine.end(Self.question, askedAt: 0)
        let binding = FailsafeMachine.binding(Self.question, now: 0)
        // The one's second is 1 % longer, the other's 1 % shorter.
        #expect(counted * 100 / 99 <= binding * 100 / 101)
        #expect(counted < Self.question.lease && binding > Self.question.lease)
    }
}
