// SPDX-License-Identifier: Apache-2.0
//
// The agent's machine on a bench: a clock, what it is told, and what it asked for.
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
                member: "a", hooks: hooks, suspendBudget: .second, releasesWhenUnhealthy: releases,
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
