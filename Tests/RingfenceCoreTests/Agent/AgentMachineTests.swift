// SPDX-License-Identifier: Apache-2.0
import RingfenceAgentCore
import RingfenceCore
import Testing

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
}
