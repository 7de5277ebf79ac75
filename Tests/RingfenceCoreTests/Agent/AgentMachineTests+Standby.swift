// SPDX-License-Identifier: Apache-2.0
//
// What an agent does while another member is primary, and how it ends.
import RingfenceAgentCore
import RingfenceCore
import Testing

extension AgentMachineTests {
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

    @Test func `stopped as primary, the agent suspends its resource, gives the role up and is finished`() {
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
