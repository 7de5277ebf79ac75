// SPDX-License-Identifier: Apache-2.0
//
// The machine in a world that does anything in any order: roles that end at every moment, hooks that fail, hang and
// pass late, checks that lie. Whatever happens, the rules that keep two from writing must hold; and once the world is
// kind again, an elected member must become ready.
import RingfenceAgentCore
import RingfenceCore
import TestSupport
import Testing

struct AgentMachineRandomTests {
    /// What was seen of the machine, and the rules.
    private struct Witness {
        var heldRole = AgentRole.standby
        var now: Nanos = 0
        var running: HookCall?
        var killed: Set<Int> = []
        /// The promotion that passed last, unless something that takes it back was begun since.
        var promoted: Int64?
        /// A promotion was begun, and no fence, drain or demotion has passed since the role it was begun under ended.
        var mayWrite: Int64?
        var needsFence = false
        var drained: Int64?
        var ready: Set<Int64> = []
        var gaveUp: Set<Int64> = []
        var violations: [String] = []
        /// What led to the first violation, for whoever reads a failure.
        var story: [String] = []
        let hooks: Set<HookKind>

        mutating func tell(_ line: String) {
            guard violations.isEmpty else { return }
            story.append("\(now / .millisecond) \(line)")
            if story.count > 30 { story.removeFirst() }
        }

        mutating func roleIs(_ role: AgentRole) {
            tell("role \(role)")
            if let old = heldRole.held, role.held != old {
                if mayWrite == old { needsFence = true }
                promoted = nil
                drained = nil
            }
            heldRole = role
        }

        mutating func check(_ outputs: [AgentOutput]) {
            for output in outputs {
                tell("\(output)")
                switch output {
                case .run(let call): ran(call)
                case .kill(let id):
                    if running?.id != id { violations.append("killed what does not run") }
                    if running?.kind == .onSuspend { violations.append("killed a fence") }
                    killed.insert(id)
                case .ready(let epoch):
                    if heldRole != .elected(epoch) { violations.append("ready without being elected") }
                    if hooks.contains(.onPromote), promoted != epoch { violations.append("ready without a promotion") }
                    if needsFence { violations.append("ready before the fence") }
                    if !ready.insert(epoch).inserted { violations.append("ready twice") }
                case .readyToHandOver(let epoch, _):
                    guard case .handingOver(epoch, _) = heldRole else {
                        violations.append("drained without draining")
                        continue
                    }
                    if drained != epoch, !hooks.isDisjoint(with: [.onHandover, .onSuspend]) {
                        violations.append("drained without a drain")
                    }
                case .giveUp(let epoch, let reason):
                    if heldRole.held != epoch { violations.append("gave up what it does not hold") }
                    if !gaveUp.insert(epoch).inserted { violations.append("gave up twice: \(reason)") }
                case .stopped(let epoch):
                    if heldRole.held == epoch { violations.append("stopped in a role") }
                    if needsFence, hooks.contains(.onSuspend) { violations.append("stopped before the fence") }
                case .report, .health, .verdict, .look, .finished: break
                }
            }
        }

        mutating func ran(_ call: HookCall) {
            if running != nil { violations.append("two hooks at once") }
            if call.limit <= 0 { violations.append("no time for \(call.kind)") }
            running = call
            switch call.kind {
            case .prePromote, .onPromote:
                if heldRole.held != call.epoch { violations.append("\(call.kind) without a role") }
                if gaveUp.contains(call.epoch) { violations.append("\(call.kind) after giving up") }
                if needsFence, hooks.contains(.onSuspend) { violations.append("\(call.kind) before the fence") }
                if call.kind == .onPromote { mayWrite = call.epoch }
                promoted = nil
            case .onHandover: promoted = nil
            case .onSuspend, .onDemote:
                promoted = nil
                if call.kind == .onDemote, heldRole.held.map({ !gaveUp.contains($0) }) ?? false {
                    violations.append("demoted in a role")
                }
            }
        }

        mutating func ended(_ outcome: HookOutcome) {
            guard let call = running else { return }
            running = nil
            tell("\(call.kind) \(outcome)")
            guard case .passed = outcome else { return }
            switch call.kind {
            case .prePromote: break
            case .onPromote: if heldRole.held == call.epoch { promoted = call.epoch }
            case .onHandover, .onSuspend:
                drained = heldRole.held
                (mayWrite, needsFence) = (nil, false)
            case .onDemote: (mayWrite, needsFence) = (nil, false)
            }
        }
    }

    private func run(seed: UInt64, steps: Int) -> Witness {
        var dice = SplitMix64(seed: seed)
        var hooks = AgentBench.allHooks
        for kind in HookKind.allCases where Int.random(in: 0..<6, using: &dice) == 0 { hooks[kind] = nil }
        let checks = Int.random(in: 0...2, using: &dice)
        var machine = AgentMachine(
            AgentPolicy(
                member: "a", hooks: hooks, releasesWhenUnhealthy: Bool.random(using: &dice),
                checks: (0..<checks).map { ("check \($0)", CheckPolicy()) }))
        var witness = Witness(hooks: Set(hooks.keys))
        var epoch: Int64 = 0
        func take(_ outputs: [AgentOutput]) { witness.check(outputs) }
        func setRole(_ role: AgentRole) {
            witness.roleIs(role)
            // No onSuspend: nothing suspends it but a drain or a demotion, and nothing waits for it.
            if !witness.hooks.contains(.onSuspend) { (witness.needsFence, witness.mayWrite) = (false, nil) }
            take(machine.took(role, now: witness.now))
        }
        for _ in 0..<steps {
            witness.now += Nanos.random(in: 0...2 * .second, using: &dice)
            switch Int.random(in: 0..<12, using: &dice) {
            case 0, 1:
                switch witness.heldRole {
                case .standby, .ended:
                    epoch += 1
                    setRole(.elected(epoch))
                case .elected(let held):
                    let isReady = witness.ready.contains(held)
                    setRole(isReady ? .primary(held) : .ended(held, reason: "expired"))
                case .primary(let held):
                    setRole(
                        Bool.random(using: &dice)
                            ? .handingOver(held, until: witness.now + 5 * .second) : .ended(held, reason: "expired"))
                case .handingOver(let held, _):
                    setRole(Bool.random(using: &dice) ? .primary(held) : .ended(held, reason: "switchover"))
                }
            case 2: if let held = witness.heldRole.held { setRole(.ended(held, reason: "expired")) }
            case 3:
                if Bool.random(using: &dice) {
                    setRole(.standby)
                } else {
                    epoch += 1
                    setRole(.elected(epoch))
                }
            case 4:
                let member = ["a", "b", "c"].randomElement(using: &dice) ?? "b"
                let isReady = Bool.random(using: &dice)
                take(
                    machine.took(
                        primary: AgentPrimary(
                            member: member, epoch: epoch, address: "", isReady: isReady,
                            suspendsWrites: Int.random(in: 0..<4, using: &dice) == 0),
                        now: witness.now))
            case 5, 6, 7:
                guard checks > 0 else { continue }
                let failure = Int.random(in: 0..<4, using: &dice) == 0 ? "no" : nil
                let role: ResourceRole? = [.primary, .standby, nil].randomElement(using: &dice) ?? nil
                let begun = witness.now - Nanos.random(in: 0...Nanos.second, using: &dice)
                take(
                    machine.saw(
                        Observation(failure: failure, role: role, position: 1),
                        check: Int.random(in: 0..<checks, using: &dice), begun: begun, now: witness.now))
            case 8, 9, 10:
                guard let call = witness.running else { continue }
                let passes =
                    witness.killed.contains(call.id)
                    ? Int.random(in: 0..<8, using: &dice) == 0 : Int.random(in: 0..<4, using: &dice) > 0
                let outcome: HookOutcome = passes ? .passed(position: nil) : .failed("no")
                witness.ended(outcome)
                take(machine.hookEnded(call.id, outcome, now: witness.now))
            default: take(machine.tick(now: witness.now))
            }
        }
        take(machine.took(primary: nil, now: witness.now))
        // A kind world: what runs passes, the checks say what the resource should be, and a new election comes.
        epoch += 1
        setRole(.elected(epoch))
        for _ in 0..<60 where !witness.ready.contains(epoch) {
            witness.now += .second
            if let call = witness.running {
                witness.ended(.passed(position: nil))
                take(machine.hookEnded(call.id, .passed(position: nil), now: witness.now))
            }
            for check in 0..<checks {
                take(
                    machine.saw(
                        Observation(role: .primary, position: 1), check: check, begun: witness.now, now: witness.now))
            }
            take(machine.tick(now: witness.now))
            if witness.gaveUp.contains(epoch) {
                epoch += 1
                setRole(.elected(epoch))
            }
        }
        if !witness.ready.contains(epoch) { witness.violations.append("never ready in a kind world") }
        return witness
    }

    @Test func `no order of events breaks the rules, and kindness ends in a primary`() {
        for seed in 0..<UInt64(3_000) {
            let witness = run(seed: seed, steps: 150)
            guard witness.violations.isEmpty else {
                let story = witness.story.joined(separator: "\n")
                Issue.record("seed \(seed): \(witness.violations.prefix(3))\n\(story)")
                return
            }
        }
    }
}
