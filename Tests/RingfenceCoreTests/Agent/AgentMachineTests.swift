// SPDX-License-Identifier: Apache-2.0
import RingfenceAgentCore
import RingfenceCore
import Testing

/// A machine, a clock, and what it asked for.
struct AgentBench {
    var machine: AgentMachine
    var now: Nanos = 1_000 * .second
    var outputs: [AgentOutput] = []
    var running: HookCall?
    private var reign = AgentReign()

    static let allHooks: [HookKind: Nanos] = [
        .prePromote: 5 * .second, .onPromote: 30 * .second, .onHandover: 10 * .second, .onDemote: 60 * .second,
        .onSuspend: 5 * .second,
    ]

    init(hooks: [HookKind: Nanos] = allHooks, checks: Int = 1, releases: Bool = true) {
        machine = AgentMachine(
            AgentPolicy(
                member: "a", hooks: hooks, fenceBudget: .second, releasesWhenUnhealthy: releases,
                checks: (0..<checks).map { ("check \($0)", CheckPolicy()) }))
    }

    mutating func take(_ new: [AgentOutput]) {
        outputs = new
        for output in new {
            switch output {
            case .run(let call):
                #expect(running == nil, "one hook at a time")
                running = call
            default: break
            }
        }
    }

    mutating func role(_ role: AgentRole) { take(machine.took(role, now: now)) }
    mutating func primary(
        _ member: String?, _ epoch: Int64 = 1, ready: Bool = true, reason: String = "expired", suspends: Bool = false
    ) {
        let primary = member.map {
            AgentPrimary(
                member: $0, epoch: epoch, address: "\($0):5432", isReady: ready, reason: reason,
                suspendsWrites: suspends)
        }
        if ready, let member { reign = AgentReign(member: member, epoch: epoch) }
        take(machine.took(primary: primary, lastReady: reign, now: now))
    }
    mutating func sees(_ role: ResourceRole? = nil, position: Int64? = nil, failure: String? = nil, times: Int = 1) {
        for _ in 0..<times {
            now += 10 * .millisecond
            take(
                machine.saw(
                    Observation(failure: failure, role: role, position: position), check: 0, begun: now, now: now))
        }
    }
    mutating func hook(passes position: Int64? = nil) { ends(.passed(position: position)) }
    mutating func hook(fails why: String) { ends(.failed(why)) }
    private mutating func ends(_ outcome: HookOutcome) {
        now += 10 * .millisecond
        guard let call = running else { return #expect(Bool(false), "no hook runs") }
        running = nil
        take(machine.hookEnded(call.id, outcome, now: now))
    }
    mutating func wait(_ time: Nanos) {
        now += time
        take(machine.tick(now: now))
    }
    mutating func stop() { take(machine.stop(now: now)) }

    var hook: HookKind? { running?.kind }
    var unfit: String { machine.status(now: now).unfit }

    /// Elected, promoted, ready and primary under `epoch`.
    mutating func becomePrimary(_ epoch: Int64 = 1) {
        sees(.standby, position: 100, times: 2)
        role(.elected(epoch))
        #expect(hook == .prePromote)
        hook(passes: nil)
        #expect(hook == .onPromote)
        hook(passes: nil)
        sees(.primary, position: 100)
        #expect(outputs.contains(.ready(epoch)))
        primary("a", epoch)
        role(.primary(epoch))
        #expect(machine.status(now: now).isServingPrimary)
    }
}

struct AgentMachineTests {
    @Test func `an elected member is promoted in order, and ready is said once the check agrees`() {
        var bench = AgentBench()
        bench.sees(.standby, position: 7, times: 2)
        bench.role(.elected(3))
        #expect(bench.hook == .prePromote)
        #expect(bench.running?.epoch == 3)
        #expect(bench.running?.role == .primary)
        bench.hook(passes: nil)
        #expect(bench.hook == .onPromote)
        bench.sees(.primary, position: 7)
        #expect(!bench.outputs.contains(.ready(3)), "the hook has not ended")
        bench.hook(passes: nil)
        #expect(bench.outputs.contains(.look))
        #expect(!bench.outputs.contains(.ready(3)), "a look from before does not count")
        bench.sees(.standby, position: 7)
        #expect(!bench.outputs.contains(.ready(3)))
        bench.sees(.primary, position: 7)
        #expect(bench.outputs == [.ready(3)])
        bench.sees(.primary, position: 7)
        #expect(bench.outputs.isEmpty, "once")
    }

    @Test func `a look that began before the promotion ended does not prove it`() {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.role(.elected(1))
        bench.hook(passes: nil)
        let begun = bench.now
        bench.hook(passes: nil)
        bench.take(bench.machine.saw(Observation(role: .primary), check: 0, begun: begun, now: bench.now))
        #expect(!bench.outputs.contains(.ready(1)))
    }

    @Test func `without hooks and checks an elected member is ready at once`() {
        var bench = AgentBench(hooks: [:], checks: 0)
        bench.role(.elected(1))
        #expect(bench.outputs.contains(.ready(1)))
        bench.role(.primary(1))
        #expect(bench.machine.status(now: bench.now).isServingPrimary)
        bench.role(.handingOver(1, until: bench.now + .second))
        #expect(bench.outputs.contains(.readyToHandOver(1, position: nil)))
    }

    @Test func `a refusal gives the epoch up, and makes unfit first`() throws {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.role(.elected(1))
        bench.hook(fails: "exited with 1: lag")
        #expect(bench.outputs.last == .giveUp(1, reason: "refused"))
        #expect(bench.outputs.first == .report(position: nil, unfit: "prePromote refused: exited with 1: lag"))
        #expect(bench.hook == nil, "nothing was done, so nothing is undone")
        bench.role(.ended(1, reason: "refused"))
        #expect(bench.hook == nil)
        // Not for ever: it may be the only one.
        bench.wait(10 * .second)
        #expect(bench.unfit == "")
        bench.role(.elected(2))
        bench.hook(fails: "still not")
        bench.wait(10 * .second)
        #expect(bench.unfit == "")
    }

    @Test func `a failed promotion is fenced before the epoch is given up`() {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.role(.elected(1))
        bench.hook(passes: nil)
        bench.hook(fails: "deadline")
        #expect(bench.hook == .onSuspend)
        #expect(!bench.outputs.contains(.giveUp(1, reason: "promotionFailed")))
        bench.hook(passes: nil)
        #expect(bench.outputs.contains(.giveUp(1, reason: "promotionFailed")))
        bench.role(.ended(1, reason: "promotionFailed"))
        #expect(bench.hook == nil, "it is fenced already")
        // It is tried again, less and less often.
        bench.wait(10 * .second)
        #expect(bench.unfit == "")
        bench.role(.elected(2))
        bench.hook(passes: nil)
        bench.hook(fails: "deadline")
        bench.hook(passes: nil)
        bench.wait(10 * .second)
        #expect(bench.unfit == "onPromote failed: deadline")
        bench.wait(10 * .second)
        #expect(bench.unfit == "")
    }

    @Test func `a promotion the check never agrees with is taken back after its time`() {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.role(.elected(1))
        bench.hook(passes: nil)
        bench.hook(passes: nil)
        bench.sees(.standby)
        #expect(bench.machine.wakeAt < .never)
        bench.wait(10 * .second)
        #expect(bench.hook == .onSuspend)
        bench.hook(passes: nil)
        #expect(bench.outputs.contains(.giveUp(1, reason: "promotionFailed")))
        #expect(bench.unfit == "promoted, but check 0 says it is a standby")
    }

    @Test func `a fence that fails does not keep the epoch`() {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.role(.elected(1))
        bench.hook(passes: nil)
        bench.hook(fails: "no")
        bench.hook(fails: "no")
        #expect(bench.outputs.contains(.giveUp(1, reason: "promotionFailed")))
        #expect(bench.hook == .onSuspend, "tried again at once, then with pauses")
        bench.hook(fails: "no")
        #expect(bench.hook == nil)
        bench.wait(.second)
        #expect(bench.hook == .onSuspend)
        #expect(bench.unfit == "onSuspend failed")
    }

    @Test(arguments: ["expired", "suspended", "failover", "replaced", "removed"])
    func `the end of a primary's role suspends the resource at once`(reason: String) {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.role(.ended(1, reason: reason))
        #expect(bench.hook == .onSuspend)
        #expect(bench.running?.reason == reason)
        #expect(bench.running?.limit == .second, "within the fence budget")
        #expect(!bench.machine.status(now: bench.now).isServingPrimary)
        bench.role(.standby)
        bench.hook(passes: nil)
        #expect(bench.hook == nil)
        bench.primary("b", 2, ready: false)
        #expect(bench.hook == nil)
        bench.primary("b", 2)
        #expect(bench.hook == .onDemote)
        #expect(bench.running?.primaryAddress == "b:5432")
    }

    @Test(arguments: [HookKind.prePromote, .onPromote])
    func `the role's end stops a promotion that runs`(kind: HookKind) throws {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.role(.elected(1))
        if kind == .onPromote { bench.hook(passes: nil) }
        let call = try #require(bench.running)
        bench.role(.ended(1, reason: "expired"))
        #expect(bench.outputs.contains(.kill(call.id)))
        bench.hook(fails: "killed")
        #expect(bench.hook == (kind == .onPromote ? .onSuspend : nil), "only what may write is fenced")
    }

    @Test func `a promotion that passed in the moment its role ended is fenced all the same`() {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.role(.elected(1))
        bench.hook(passes: nil)
        bench.role(.ended(1, reason: "expired"))
        bench.hook(passes: nil)
        #expect(bench.hook == .onSuspend)
        #expect(!bench.outputs.contains(.ready(1)))
    }

    @Test func `elected anew before the fence was done, it is fenced first and promoted then`() {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.role(.elected(2))
        #expect(bench.hook == .onSuspend)
        bench.hook(passes: nil)
        #expect(bench.hook == .prePromote)
        bench.hook(passes: nil)
        #expect(bench.hook == .onPromote)
        bench.hook(passes: nil)
        bench.sees(.primary)
        #expect(bench.outputs.contains(.ready(2)))
    }

    @Test func `what was suspended by its own agent while it was well may be elected again`() {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.role(.ended(1, reason: "expired"))
        bench.hook(passes: nil)
        bench.role(.standby)
        bench.sees(failure: "connection refused", times: 4)
        #expect(bench.unfit == "")
        #expect(bench.machine.status(now: bench.now).verdict == .failing)
        // And is not ill by what was seen then, once it is promoted again.
        bench.role(.elected(2))
        bench.hook(passes: nil)
        bench.hook(passes: nil)
        bench.sees(.primary)
        #expect(bench.outputs.contains(.ready(2)))
        bench.role(.primary(2))
        #expect(bench.hook == nil)
        #expect(bench.machine.status(now: bench.now).isServingPrimary)
    }

    @Test func `what failed by itself may not be elected`() {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.sees(failure: "connection refused", times: 3)
        #expect(bench.unfit == "check 0: connection refused")
        #expect(bench.outputs.contains(.health("check 0: connection refused")))
        bench.sees(.standby, times: 2)
        #expect(bench.unfit == "")
        #expect(bench.outputs.contains(.health("")))
    }

    @Test func `an unhealthy primary is fenced and gives its role up`() {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.sees(failure: "refused", times: 2)
        #expect(bench.hook == nil)
        bench.sees(failure: "refused")
        #expect(bench.hook == .onSuspend)
        #expect(bench.running?.reason == "unhealthy")
        #expect(bench.running?.limit == 5 * .second, "its lease goes on meanwhile")
        #expect(!bench.machine.status(now: bench.now).isServingPrimary)
        bench.hook(passes: nil)
        #expect(bench.outputs.last == .giveUp(1, reason: "unhealthy"))
        #expect(bench.unfit == "check 0: refused")
    }

    @Test func `an unhealthy primary stays if it is told to`() {
        var bench = AgentBench(releases: false)
        bench.becomePrimary()
        bench.sees(failure: "refused", times: 9)
        #expect(bench.hook == nil)
        #expect(bench.machine.status(now: bench.now).isServingPrimary)
    }

    @Test func `a primary whose resource was demoted behind its back gives its role up`() {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.sees(.standby, times: 3)
        #expect(bench.hook == .onSuspend)
        bench.hook(passes: nil)
        #expect(bench.outputs.contains(.giveUp(1, reason: "unhealthy")))
    }

    @Test func `a switchover drains, tells the final position as seen after it, and demotes when the other is ready`() {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.role(.handingOver(1, until: bench.now + 5 * .second))
        #expect(bench.hook == .onHandover)
        #expect(bench.running?.limit == 5 * .second)
        bench.sees(.primary, position: 120)
        bench.hook(passes: nil)
        #expect(bench.outputs.contains(.look))
        #expect(!bench.outputs.contains { if case .readyToHandOver = $0 { true } else { false } })
        bench.sees(.primary, position: 130)
        #expect(bench.outputs.contains(.readyToHandOver(1, position: 130)))
        bench.sees(failure: "shut down", times: 5)
        #expect(bench.hook == nil, "the end of what was drained is no ill health")
        bench.role(.ended(1, reason: "switchover"))
        #expect(bench.hook == nil, "it is fenced: it was drained")
        bench.role(.standby)
        bench.primary("b", 2, ready: false)
        bench.primary("b", 2)
        #expect(bench.hook == .onDemote)
    }

    @Test func `a position the drain prints is the final one`() {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.role(.handingOver(1, until: bench.now + 5 * .second))
        bench.hook(passes: 4711)
        #expect(bench.outputs.contains(.readyToHandOver(1, position: 4711)))
    }

    @Test func `where positions are told, there is no drained without one`() {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.role(.handingOver(1, until: bench.now + 5 * .second))
        bench.hook(passes: nil)
        bench.sees(failure: "shut down", times: 5)
        bench.wait(10 * .second)
        #expect(!bench.outputs.contains { if case .readyToHandOver = $0 { true } else { false } })
    }

    @Test func `an aborted switchover is resumed by a promotion under the same epoch`() {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.role(.handingOver(1, until: bench.now + 5 * .second))
        bench.hook(passes: 4711)
        bench.role(.primary(1))
        #expect(bench.hook == .onPromote)
        #expect(bench.running?.reason == "resumed")
        #expect(!bench.machine.status(now: bench.now).isServingPrimary)
        bench.hook(passes: nil)
        bench.sees(.primary)
        #expect(bench.machine.status(now: bench.now).isServingPrimary)
        #expect(!bench.outputs.contains(.ready(1)), "it was said")
    }

    @Test func `a switchover aborted while it drains ends the drain and resumes`() throws {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.role(.handingOver(1, until: bench.now + 5 * .second))
        let call = try #require(bench.running)
        bench.role(.primary(1))
        #expect(bench.outputs.contains(.kill(call.id)))
        bench.hook(fails: "killed")
        #expect(bench.hook == .onPromote)
    }

    @Test func `a role that ends while it drains is fenced`() throws {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.role(.handingOver(1, until: bench.now + 5 * .second))
        let call = try #require(bench.running)
        bench.role(.ended(1, reason: "expired"))
        #expect(bench.outputs.contains(.kill(call.id)))
        bench.hook(fails: "killed")
        #expect(bench.hook == .onSuspend)
    }

    @Test func `a failed drain is tried again, and the fence drains where there is no drain`() {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.role(.handingOver(1, until: bench.now + 5 * .second))
        bench.hook(fails: "busy")
        #expect(bench.hook == nil)
        bench.wait(.second)
        #expect(bench.hook == .onHandover)

        var hooks = AgentBench.allHooks
        hooks[.onHandover] = nil
        var other = AgentBench(hooks: hooks)
        other.becomePrimary()
        other.role(.handingOver(1, until: other.now + 5 * .second))
        #expect(other.hook == .onSuspend)
        other.hook(fails: "busy")
        #expect(other.hook == nil)
        other.wait(.second)
        #expect(other.hook == .onSuspend)
        other.hook(passes: 12)
        #expect(other.outputs.contains(.readyToHandOver(1, position: 12)))
        other.role(.primary(1))
        #expect(other.hook == .onPromote)
    }

    @Test func `a standby follows each new ready primary, and not itself`() {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.primary("a", 1)
        #expect(bench.hook == nil)
        bench.primary("b", 2, reason: "failover")
        #expect(bench.hook == .onDemote)
        #expect(bench.running?.reason == "failover")
        #expect(bench.running?.role == .standby)
        bench.hook(passes: nil)
        #expect(bench.hook == nil)
        bench.primary("c", 3)
        #expect(bench.hook == .onDemote)
        bench.primary("b", 4)
        bench.hook(passes: nil)
        #expect(bench.hook == .onDemote, "of the newest primary, though another demotion passed")
        #expect(bench.running?.epoch == 4)
    }

    @Test func `a failed demotion is tried again with growing pauses`() {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.primary("b", 2)
        for pause in [1, 2, 4, 8, 8] {
            bench.hook(fails: "no")
            bench.wait(Nanos(pause) * .second - .millisecond)
            #expect(bench.hook == nil)
            bench.wait(.millisecond)
            #expect(bench.hook == .onDemote)
        }
    }

    @Test func `a resource that says it is primary while another one is gets demoted, again if need be`() {
        var bench = AgentBench()
        bench.sees(.primary, position: 9, times: 2)
        bench.primary("b", 2)
        bench.hook(passes: nil)
        bench.sees(.standby)
        #expect(bench.hook == nil)
        bench.sees(.primary)
        #expect(bench.hook == .onDemote)
        bench.hook(passes: nil)
        bench.sees(.primary)
        #expect(bench.hook == nil, "not in a tight loop")
        bench.wait(.second)
        #expect(bench.hook == .onDemote)
        bench.hook(passes: nil)
        bench.sees(.primary)
        bench.wait(.second)
        #expect(bench.hook == nil, "with growing pauses")
        bench.wait(.second)
        #expect(bench.hook == .onDemote)
        bench.hook(passes: nil)
        bench.sees(.standby)
        bench.wait(60 * .second)
        #expect(bench.hook == nil)
    }

    @Test func `a standby that dies by itself is brought up by a demotion, again if need be`() {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.primary("b", 2)
        bench.hook(passes: nil)
        bench.sees(.standby)
        bench.sees(failure: "refused", times: 2)
        #expect(bench.hook == nil)
        bench.sees(failure: "refused")
        #expect(bench.hook == .onDemote)
        bench.hook(passes: nil)
        bench.sees(failure: "starting")
        #expect(bench.hook == nil)
        bench.wait(.second)
        #expect(bench.hook == .onDemote)
        bench.hook(passes: nil)
        bench.sees(.standby, times: 2)
        bench.wait(60 * .second)
        #expect(bench.hook == nil)
        #expect(bench.unfit == "")
    }

    @Test func `what is down while nobody leads is brought up to follow nobody, but not what its agent stopped`() {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.primary(nil)
        bench.sees(failure: "refused", times: 3)
        #expect(bench.hook == nil, "somebody may be elected yet")
        bench.wait(3 * .second)
        #expect(bench.hook == .onDemote)
        #expect(bench.running?.primaryAddress == "")
        #expect(bench.running?.reason == "vacant")
        bench.hook(passes: nil)
        bench.sees(.standby, times: 2)
        #expect(bench.unfit == "")
        bench.primary("b", 2)
        #expect(bench.hook == .onDemote)

        var other = AgentBench()
        other.becomePrimary()
        other.role(.ended(1, reason: "suspended"))
        other.hook(passes: nil)
        other.role(.standby)
        other.primary(nil)
        other.sees(failure: "refused", times: 4)
        other.wait(60 * .second)
        #expect(other.hook == nil, "it may be elected as it is")
        #expect(other.unfit == "")
    }

    @Test func `that it has stopped is said behind the fence, and at once if there was nothing to stop`() throws {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.role(.ended(1, reason: "failover"))
        #expect(!bench.outputs.contains(.stopped(1)))
        bench.hook(fails: "busy")
        #expect(!bench.outputs.contains(.stopped(1)))
        bench.hook(passes: nil)
        #expect(bench.outputs.contains(.stopped(1)))

        var other = AgentBench()
        other.sees(.standby, times: 2)
        other.role(.elected(4))
        #expect(other.hook == .prePromote)
        other.role(.ended(4, reason: "failover"))
        #expect(other.outputs.contains(.stopped(4)))
    }

    @Test func `hooks are told who was ready last, also after Redis forgot it`() {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.primary("b", 7)
        bench.hook(passes: nil)
        bench.take(bench.machine.took(primary: nil, now: bench.now))
        bench.role(.elected(24))
        #expect(bench.running?.previous == "b")
        #expect(bench.running?.previousEpoch == 7)
    }

    @Test func `the target of a switchover looks at once, and often`() {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        let primary = AgentPrimary(member: "b", epoch: 2, address: "", isReady: true)
        bench.take(bench.machine.took(primary: primary, isTarget: true, now: bench.now))
        #expect(bench.outputs.contains(.look))
        #expect(bench.machine.pause(check: 0, dice: 0.5) == 50 * .millisecond)
        bench.take(bench.machine.took(primary: primary, isTarget: true, now: bench.now))
        #expect(!bench.outputs.contains(.look))
        bench.take(bench.machine.took(primary: primary, now: bench.now))
        #expect(bench.machine.pause(check: 0, dice: 0.5) == .second)
    }

    @Test func `a resource that says it is primary while another is elected takes no more writes`() {
        var bench = AgentBench()
        bench.sees(.primary, times: 2)
        #expect(bench.hook == nil, "nobody is elected: it will be")
        bench.primary("b", 2, ready: false)
        #expect(bench.hook == .onSuspend)
        #expect(bench.running?.reason == "notPrimary")
        bench.hook(passes: nil)
        bench.sees(.primary, times: 3)
        #expect(bench.hook == nil, "a read-only primary still says it is one")
        bench.primary("b", 2)
        #expect(bench.hook == .onDemote)
    }

    @Test func `elected while it is being rebuilt, it refuses, and the rebuild goes on`() {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.primary("b", 2)
        #expect(bench.hook == .onDemote)
        bench.sees(failure: "starting up")
        #expect(bench.unfit == "onDemote is running")
        bench.role(.elected(3))
        #expect(bench.outputs.contains(.giveUp(3, reason: "refused")))
        #expect(bench.hook == .onDemote)
        #expect(!bench.outputs.contains { if case .kill = $0 { true } else { false } })
    }

    @Test func `elected while a demotion waits and the resource is well, it is promoted`() throws {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.primary("b", 2)
        let call = try #require(bench.running)
        bench.role(.elected(3))
        #expect(bench.outputs.contains(.kill(call.id)))
        bench.hook(fails: "killed")
        #expect(bench.hook == .prePromote)
    }

    @Test func `a demotion may do what a failing fence cannot, when another is primary`() {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.role(.ended(1, reason: "expired"))
        bench.role(.standby)
        bench.hook(fails: "no")
        bench.hook(fails: "no")
        bench.primary("b", 2)
        #expect(bench.hook == .onDemote)
        bench.wait(60 * .second)
        #expect(bench.hook == .onDemote, "it is not ended for the fence")
        bench.hook(passes: nil)
        #expect(bench.outputs.contains(.stopped(1)))
        bench.wait(60 * .second)
        #expect(bench.hook == nil)
    }

    @Test func `a primary that must not write for want of standbys is suspended, and resumed when there are enough`() {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.primary("a", 1, suspends: true)
        #expect(bench.hook == .onSuspend)
        #expect(bench.running?.reason == "standbys")
        bench.hook(passes: nil)
        #expect(bench.hook == nil)
        #expect(!bench.machine.status(now: bench.now).isServingPrimary)
        bench.sees(failure: "read only", times: 9)
        #expect(bench.hook == nil, "it keeps its role")
        bench.primary("a", 1)
        #expect(bench.hook == .onPromote)
        bench.hook(passes: nil)
        bench.sees(.primary)
        #expect(bench.machine.status(now: bench.now).isServingPrimary)
    }

    @Test func `stopped as primary, the agent fences, gives the role up and is finished`() {
        var bench = AgentBench()
        bench.becomePrimary()
        bench.stop()
        #expect(bench.hook == .onSuspend)
        #expect(bench.running?.reason == "left")
        bench.hook(passes: nil)
        #expect(bench.outputs.contains(.giveUp(1, reason: "left")))
        #expect(bench.outputs.last == .finished)
    }

    @Test func `what was not looked at yet is not well, and nobody says so twice`() {
        var bench = AgentBench()
        #expect(bench.machine.health == "not checked yet")
        bench.sees(.standby)
        #expect(bench.machine.health == "not checked yet")
        bench.sees(.standby)
        #expect(bench.machine.health == "")
        let told = bench.outputs.filter { if case .health = $0 { true } else { false } }
        #expect(told == [.health("")])
        #expect(AgentMachine(AgentPolicy(member: "a", checks: [])).health == "", "there is nothing to look at")
    }

    @Test func `stopped as standby, the agent is finished once its hook is`() {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        bench.primary("b", 2)
        bench.stop()
        #expect(!bench.outputs.contains(.finished))
        bench.hook(passes: nil)
        #expect(bench.outputs.contains(.finished))
    }

    @Test func `every check must pass and agree`() {
        var bench = AgentBench(checks: 2)
        bench.sees(.standby, times: 2)
        #expect(bench.unfit == "not checked yet")
        for _ in 0..<2 {
            bench.take(bench.machine.saw(Observation(), check: 1, begun: bench.now, now: bench.now))
        }
        #expect(bench.unfit == "")
        bench.role(.elected(1))
        bench.hook(passes: nil)
        bench.hook(passes: nil)
        bench.sees(.primary)
        #expect(!bench.outputs.contains(.ready(1)))
        bench.take(bench.machine.saw(Observation(), check: 1, begun: bench.now, now: bench.now))
        #expect(bench.outputs.contains(.ready(1)))
    }

    @Test func `looks come fast while a promotion is being proved`() {
        var bench = AgentBench()
        bench.sees(.standby, times: 2)
        #expect(bench.machine.pause(check: 0, dice: 0.5) == .second)
        bench.role(.elected(1))
        bench.hook(passes: nil)
        bench.hook(passes: nil)
        #expect(bench.machine.pause(check: 0, dice: 0.5) == 200 * .millisecond)
        bench.sees(.primary)
        #expect(bench.machine.pause(check: 0, dice: 0.5) == .second)
    }
}
