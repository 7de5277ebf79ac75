// SPDX-License-Identifier: Apache-2.0
//
// The agent's mind: a role, checks and a group's primary come in; calls of hooks and words to the library come out.
//
// It is level-triggered. Nothing is remembered of the way by which things came to be as they are: after every input the
// machine compares what the resource was last brought to (`hold`) with what the role asks for, and takes one step towards it.
// So a missed message, a hook that was killed half way and an agent that was started in the middle of it all end in the
// same place. Hooks must be idempotent, and that is all that is asked of them.
//
//   role        the resource should be      way there
//   elected     promoted, checks agree      [onSuspend if an earlier role was not fenced] prePromote, onPromote, look; ready
//   primary     promoted                    nothing; after an aborted switchover onPromote
//               (too few standbys, and so   onSuspend; onPromote when there are enough again
//               it must not write)
//   draining    drained                     onDrain, final position; drained
//   ended       fenced                      onSuspend, unless it was drained; it comes before anything else
//   standby     following the primary       onDemote, whenever the ready primary changes or the resource says it is primary
//
// Two rules carry the safety. From the begin of onPromote the resource counts as writable, whatever the hook says; and a
// resource that was writable under a role that is over is fenced before anything else happens to it, above all before
// another promotion and before a role is given up by will. What the machine may not do is wait for a fence that fails to
// give the role up: the lease would end then anyway, only later.
//
// One hook runs at a time. A fence ends any other at once; a promotion or drain nobody wants any more is ended; a demotion is
// left to end by itself (a rewind cut short may leave no usable data), except for a promotion of a resource that is well.

/// Decides for an agent. Pure: time is an argument.
package struct AgentMachine: Sendable {
    /// What the resource was last brought to.
    enum Hold: Sendable, Hashable {
        /// As it was found.
        case untouched
        /// A promotion was begun under this epoch.
        case writable(Int64)
        case drained(Int64)
        case suspended
        /// Demoted for this primary.
        case following(Int64, String)
    }

    /// The end of the drain of an epoch.
    struct Drain: Sendable {
        var epoch: Int64
        var at: Nanos
        var position: Int64?
    }

    let policy: AgentPolicy
    var checks: [CheckMachine]
    /// The newest look of each check, and when it began.
    var seen: [(observation: Observation, begun: Nanos)?]
    /// Looks in a row in which the primary's resource said it is a standby.
    var mismatches: [Int]
    var toldPosition: Int64?

    var role = AgentRole.standby
    var primary: AgentPrimary?

    var hold = Hold.untouched
    var holdSince: Nanos = .min
    /// Why the resource must be fenced before anything else.
    var mustFence: String?
    /// Under which epoch it was writable.
    var fencedEpoch: Int64 = 0
    /// Why the role that is held is given up as soon as the fence has been tried.
    var releasing: String?
    /// Epochs under which this was done; 0: none.
    var prePassed: Int64 = 0
    var promoted: Int64 = 0
    var saidReady: Int64 = 0
    var saidDrained: Int64 = 0
    var gaveUp: Int64 = 0
    /// The checks must agree with a promotion: looks begun since, and the time by which.
    var verifying: (since: Nanos, until: Nanos)?
    var drain: Drain?

    var running: HookCall?
    var isKilling = false
    var hookCount = 0
    /// Failures in a row, and when to try again.
    var failures: [HookKind: Int] = [:]
    var retryAt: [HookKind: Nanos] = [:]
    /// It was well when it was fenced or drained, so that it does not answer is our own doing.
    var isDownByUs = false
    /// After a failed or refused promotion: not elected again so soon.
    var unfitUntil: Nanos = .min
    var unfitWhy = ""
    var rejections = 0

    var isStopping = false
    var isFinished = false
    var reported: (position: Int64?, unfit: String)?
    var reportedHealth = ""

    package init(_ policy: AgentPolicy) {
        self.policy = policy
        checks = policy.checks.map { CheckMachine($0.policy) }
        seen = policy.checks.map { _ in nil }
        mismatches = policy.checks.map { _ in 0 }
    }

    // MARK: inputs

    /// The library tells another role.
    package mutating func took(_ new: AgentRole, now: Nanos) -> [AgentOutput] {
        if let old = role.held, new.held != old {
            var reason = "lost"
            if case .ended(old, let told) = new { reason = told }
            ended(reason)
        }
        if case .draining = new {} else { drain = nil }
        role = new
        return settle(now)
    }

    /// The group's primary, whenever it may have changed.
    package mutating func took(primary new: AgentPrimary?, now: Nanos) -> [AgentOutput] {
        primary = new
        return settle(now)
    }

    /// What a check saw, and when that look began.
    package mutating func saw(_ observation: Observation, check: Int, begun: Nanos, now: Nanos) -> [AgentOutput] {
        var outputs: [AgentOutput] = []
        if checks[check].saw(observation) {
            let isPassing = checks[check].verdict == .passing
            outputs.append(.verdict(check: check, isPassing: isPassing, why: checks[check].why))
        }
        seen[check] = (observation, begun)
        if observation.failure == nil {
            if let position = observation.position { toldPosition = position }
            let isWrong = observation.role == .standby && isPromoted && verifying == nil && begun >= holdSince
            mismatches[check] = isWrong ? mismatches[check] + 1 : 0
        }
        return outputs + settle(now)
    }

    /// A hook ended, by itself or because it was killed.
    package mutating func hookEnded(_ id: Int, _ outcome: HookOutcome, now: Nanos) -> [AgentOutput] {
        guard let call = running, call.id == id else { return [] }
        running = nil
        let wasKilled = isKilling
        isKilling = false
        // Of a hook that was ended because nobody wanted it any more only its traces count, and those are in `hold`.
        if wasKilled, case .failed = outcome { return settle(now) }
        let outputs = ended(call.kind, call.epoch, call.reason, outcome, now: now)
        return outputs + settle(now)
    }

    /// Time has passed.
    package mutating func tick(now: Nanos) -> [AgentOutput] { settle(now) }

    /// The agent shall end: whatever role is held is given up, and the resource fenced before that.
    package mutating func stop(now: Nanos) -> [AgentOutput] {
        isStopping = true
        return settle(now)
    }

    /// When to call `tick`, if nothing comes before.
    package var wakeAt: Nanos {
        var at = Nanos.never
        if running == nil { for time in retryAt.values { at = min(at, time) } }
        if let verifying { at = min(at, verifying.until) }
        if unfitUntil > .min { at = min(at, unfitUntil) }
        return at
    }

    /// From the begin of one look of a check to the begin of the next.
    package func pause(check: Int, dice: Double) -> Nanos {
        let pause = checks[check].pause(dice: dice)
        let isWaiting = verifying != nil || (drain != nil && role.held != saidDrained)
        return isWaiting ? min(pause, checks[check].policy.fastInterval) : pause
    }
}

// MARK: what is to be done

extension AgentMachine {
    /// The role that is held and was not given up.
    private var held: Int64? { role.held.flatMap { $0 == gaveUp ? nil : $0 } }

    /// The resource was made primary under the role that is held.
    var isPromoted: Bool {
        guard let held, promoted == held else { return false }
        return hold == .writable(held)
    }

    /// The group's settings keep its primary from writing until there are more standbys.
    private var suspendsWrites: Bool {
        guard let primary, primary.suspendsWrites else { return false }
        return primary.member == policy.member && primary.epoch == held
    }

    private mutating func ended(_ reason: String) {
        releasing = nil
        verifying = nil
        (prePassed, promoted) = (0, 0)
        if case .writable = hold, mustFence == nil { fence(reason) }
    }

    private mutating func fence(_ reason: String) {
        mustFence = reason
        if case .writable(let epoch) = hold { fencedEpoch = epoch }
        failures[.onSuspend] = nil
        retryAt[.onSuspend] = nil
    }

    /// Gives the role up: at once if nothing was done to the resource under it, else behind the fence.
    private mutating func release(_ epoch: Int64, _ reason: String, _ outputs: inout [AgentOutput], _ now: Nanos) {
        verifying = nil
        if case .writable = hold {
            releasing = reason
            fence(reason)
        } else {
            giveUp(epoch, reason, &outputs, now)
        }
    }

    private mutating func giveUp(_ epoch: Int64, _ reason: String, _ outputs: inout [AgentOutput], _ now: Nanos) {
        releasing = nil
        gaveUp = epoch
        (prePassed, promoted, drain) = (0, 0, nil)
        // First what it is worth now: the beat that gives the role up may elect.
        report(&outputs, now)
        outputs.append(.giveUp(epoch, reason: reason))
    }

    /// Steps until nothing is left to do now.
    private mutating func settle(_ now: Nanos) -> [AgentOutput] {
        var outputs: [AgentOutput] = []
        for (kind, time) in retryAt where time <= now { retryAt[kind] = nil }
        if unfitUntil <= now { unfitUntil = .min }
        // Bounded, because a hook that is not there ends at once: a way of five steps at most.
        for _ in 0..<16 where step(now, &outputs) {}
        report(&outputs, now)
        return outputs
    }

    /// - Returns: whether there may be more to do.
    private mutating func step(_ now: Nanos, _ outputs: inout [AgentOutput]) -> Bool {
        guard !isFinished else { return false }
        if judge(now, &outputs) { return true }
        let wanted = wanted(now)
        if let running {
            if !isKilling, isObsolete(running, wanted) {
                isKilling = true
                outputs.append(.kill(running.id))
            }
            return false
        }
        guard let wanted else {
            guard isStopping, mustFence == nil || failures[.onSuspend] != nil else { return false }
            isFinished = true
            outputs.append(.finished)
            return false
        }
        return begin(wanted, now, &outputs)
    }

    /// What follows from looking, without a hook.
    private mutating func judge(_ now: Nanos, _ outputs: inout [AgentOutput]) -> Bool {
        guard let epoch = held, releasing == nil else { return false }
        if isStopping {
            release(epoch, "left", &outputs, now)
            return true
        }
        switch role {
        case .elected where cannotBePromoted:
            reject("it cannot be promoted now", now)
            release(epoch, "refused", &outputs, now)
            return true
        case .elected, .primary:
            guard isPromoted else { return false }
            if let verifying {
                if agrees(since: verifying.since) {
                    self.verifying = nil
                    isDownByUs = false
                    // Else it were ill at once by what was seen while it was fenced.
                    for check in checks.indices where checks[check].believe() {
                        outputs.append(.verdict(check: check, isPassing: true, why: ""))
                    }
                } else if verifying.until <= now {
                    reject("promoted, but \(disagreement)", now)
                    release(epoch, "promotionFailed", &outputs, now)
                    return true
                } else {
                    return false
                }
            }
            if case .elected = role, saidReady != epoch {
                saidReady = epoch
                rejections = 0
                outputs.append(.ready(epoch))
            }
            guard policy.releasesWhenUnhealthy, case .primary = role, let why = unhealthy else { return false }
            unfitWhy = why
            release(epoch, "unhealthy", &outputs, now)
            return true
        case .draining: return settleDrain(epoch, &outputs)
        case .standby, .ended: return false
        }
    }

    /// A fence of an earlier role that fails, or a rebuild under way: somebody else should be elected.
    private var cannotBePromoted: Bool {
        if mustFence != nil, failures[.onSuspend, default: 0] > 1 { return true }
        return running?.kind == .onDemote && !isKilling && isNewestFailed
    }

    private mutating func settleDrain(_ epoch: Int64, _ outputs: inout [AgentOutput]) -> Bool {
        guard let drain, drain.epoch == epoch, saidDrained != epoch else { return false }
        var position = drain.position
        if position == nil, toldPosition != nil {
            position = seen.lazy.compactMap { $0 }
                .first { $0.begun >= drain.at && $0.observation.failure == nil && $0.observation.position != nil }?
                .observation.position
            // The final position decides when the other may take over, so there is no going on without it.
            guard position != nil else { return false }
        }
        saidDrained = epoch
        outputs.append(.drained(epoch, position: position))
        return false
    }

    /// The hook that should run now.
    private func wanted(_ now: Nanos) -> HookCall? {
        if let reason = mustFence {
            // A fence that fails is tried again and again, but a demotion may do it too.
            let mayDemoteInstead = failures[.onSuspend] != nil && held == nil && policy.hooks[.onDemote] != nil
            if mayDemoteInstead, retryAt[.onSuspend] != nil, let call = following(now) { return call }
            guard retryAt[.onSuspend] == nil else { return nil }
            return call(.onSuspend, fencedEpoch, reason)
        }
        guard !isStopping else { return nil }
        guard let epoch = held else { return following(now) }
        switch role {
        case .elected:
            guard !isPromoted else { return nil }
            let reason = primary.flatMap { $0.epoch == epoch ? $0.reason : nil } ?? ""
            return call(prePassed == epoch ? .onPromote : .prePromote, epoch, reason)
        case .primary:
            if suspendsWrites {
                guard case .writable = hold, retryAt[.onSuspend] == nil else { return nil }
                return call(.onSuspend, epoch, "standbys")
            }
            return isPromoted ? nil : call(.onPromote, epoch, "resumed")
        case .draining:
            let isDone = drain?.epoch == epoch || saidDrained == epoch
            return isDone || retryAt[.onDrain] != nil ? nil : call(.onDrain, epoch, "switchover")
        case .standby, .ended: return nil
        }
    }

    /// The demotion that should run now.
    private func following(_ now: Nanos) -> HookCall? {
        guard let primary, primary.member != policy.member else { return nil }
        if primary.isReady {
            let isFollowing = hold == .following(primary.epoch, primary.member) && mustFence == nil
            guard retryAt[.onDemote] == nil, !isFollowing || saysPrimary else { return nil }
            return call(.onDemote, primary.epoch, primary.reason)
        }
        // Another is elected, and this one believes it is primary still: no writes until there is somebody to follow.
        switch hold {
        case .untouched, .following:
            return saysPrimary && mustFence == nil ? call(.onSuspend, primary.epoch, "notPrimary") : nil
        case .writable, .drained, .suspended: return nil
        }
    }

    private func call(_ kind: HookKind, _ epoch: Int64, _ reason: String) -> HookCall {
        var call = HookCall(
            id: hookCount + 1, kind: kind, epoch: epoch, reason: reason, primary: primary?.member ?? "",
            primaryAddress: primary?.address ?? "", previous: primary?.previous ?? "", limit: policy.hooks[kind] ?? 0)
        if kind == .prePromote || kind == .onPromote {
            (call.primary, call.primaryAddress) = (policy.member, "")
        } else if primary?.member == policy.member {
            (call.primary, call.primaryAddress) = ("", "")
        }
        return call
    }

    private func isObsolete(_ running: HookCall, _ wanted: HookCall?) -> Bool {
        if wanted?.kind == running.kind, wanted?.epoch == running.epoch { return false }
        switch running.kind {
        case .onSuspend: return false
        case .onDemote:
            guard let kind = wanted?.kind else { return false }
            return kind == .onSuspend && mustFence != nil || kind == .prePromote || kind == .onPromote
        case .prePromote, .onPromote, .onDrain: return true
        }
    }

    private mutating func begin(_ wanted: HookCall, _ now: Nanos, _ outputs: inout [AgentOutput]) -> Bool {
        var call = wanted
        switch call.kind {
        case .onPromote:
            hold = .writable(call.epoch)
            holdSince = now
            (promoted, verifying) = (0, nil)
        case .onDrain:
            isDownByUs = isWell
            promoted = 0
            if case .draining(_, let until) = role { call.limit = min(call.limit, max(1, until - now)) }
        case .onSuspend:
            // Or what was down stays so: its promotion failed.
            if !isDrained { isDownByUs = isWell || isDownByUs }
            // In the time between the role's end and the lease's.
            if releasing == nil, failures[.onSuspend] == nil { call.limit = min(call.limit, policy.fenceBudget) }
        case .onDemote: isDownByUs = false
        case .prePromote: break
        }
        // Without onDrain the fence drains.
        let isThere = policy.hooks[call.kind] != nil
        if call.kind == .onDrain, !isThere, let limit = policy.hooks[.onSuspend] {
            call.kind = .onSuspend
            call.limit = min(limit, wanted.limit == 0 ? limit : wanted.limit)
        } else if !isThere {
            outputs += ended(call.kind, call.epoch, call.reason, .passed(position: nil), now: now)
            return true
        }
        hookCount += 1
        running = call
        outputs.append(.run(call))
        return false
    }

    /// A hook ended, or would have if there were one.
    private mutating func ended(
        _ kind: HookKind, _ epoch: Int64, _ reason: String, _ outcome: HookOutcome, now: Nanos
    ) -> [AgentOutput] {
        var outputs: [AgentOutput] = []
        switch outcome {
        case .passed(let position):
            failures[kind] = nil
            retryAt[kind] = nil
            passed(kind, epoch, position, &outputs, now)
        case .failed(let why):
            let count = failures[kind, default: 0] + 1
            failures[kind] = count
            failed(kind, epoch, count, why, &outputs, now)
        }
        if kind == .onSuspend, releasing != nil, let held { giveUp(held, releasing ?? reason, &outputs, now) }
        return outputs
    }

    private mutating func passed(
        _ kind: HookKind, _ epoch: Int64, _ position: Int64?, _ outputs: inout [AgentOutput], _ now: Nanos
    ) {
        switch kind {
        case .prePromote: prePassed = epoch
        case .onPromote:
            guard held == epoch, hold == .writable(epoch) else { return }
            promoted = epoch
            for check in mismatches.indices { mismatches[check] = 0 }
            if !checks.isEmpty {
                verifying = (now, now + policy.agreement)
                outputs.append(.look)
            }
        case .onDrain: drained(epoch, position, &outputs, now)
        case .onSuspend:
            if case .draining(epoch, _) = role, mustFence == nil {
                drained(epoch, position, &outputs, now)
            } else {
                mustFence = nil
                if !isDrained { (hold, holdSince) = (.suspended, now) }
            }
        case .onDemote:
            guard let primary, primary.isReady, primary.epoch == epoch else { return }
            // Done before and the resource says it is primary still: not in a tight loop.
            if hold == .following(epoch, primary.member) { retry(.onDemote, 3, now) }
            if policy.hooks[.onDemote] != nil { mustFence = nil }
            (hold, holdSince) = (.following(epoch, primary.member), now)
            outputs.append(.look)
        }
    }

    private mutating func drained(
        _ epoch: Int64, _ position: Int64?, _ outputs: inout [AgentOutput], _ now: Nanos
    ) {
        guard case .draining(epoch, _) = role else { return }
        (hold, holdSince) = (.drained(epoch), now)
        drain = Drain(epoch: epoch, at: now, position: position)
        if position == nil, toldPosition != nil { outputs.append(.look) }
    }

    private mutating func failed(
        _ kind: HookKind, _ epoch: Int64, _ count: Int, _ why: String, _ outputs: inout [AgentOutput], _ now: Nanos
    ) {
        switch kind {
        case .prePromote:
            guard held == epoch else { return }
            reject("prePromote refused: \(why)", now)
            release(epoch, "refused", &outputs, now)
        case .onPromote:
            guard held == epoch else { return }
            reject("onPromote failed: \(why)", now)
            release(epoch, "promotionFailed", &outputs, now)
        case .onDrain: retry(kind, 1, now)
        case .onSuspend:
            if case .draining(epoch, _) = role, mustFence == nil {
                retry(.onDrain, 1, now)
            } else if count > 1 {
                retry(kind, count - 1, now)
            }
        case .onDemote: retry(kind, count, now)
        }
    }

    /// One second, doubling to half a minute.
    private mutating func retry(_ kind: HookKind, _ count: Int, _ now: Nanos) {
        retryAt[kind] = now + min(30, 1 << min(max(0, count - 1), 5)) * .second
    }

    /// Not elected again for ten seconds, doubling to five minutes.
    private mutating func reject(_ why: String, _ now: Nanos) {
        unfitUntil = now + min(300, 10 << min(rejections, 5)) * .second
        unfitWhy = why
        rejections += 1
    }
}

// MARK: what is seen

extension AgentMachine {
    /// Whether it is drained and was not fenced for anything since.
    private var isDrained: Bool { if case .drained = hold { true } else { false } }
    private var isWell: Bool { checks.allSatisfy { $0.verdict == .passing } }
    private var isNewestFailed: Bool { seen.contains { $0?.observation.failure != nil } }

    /// A look since the last thing that was done to the resource says that it is primary.
    private var saysPrimary: Bool {
        seen.contains { seen in
            guard let seen, seen.begun >= holdSince else { return false }
            return seen.observation.failure == nil && seen.observation.role == .primary
        }
    }

    /// Every check has looked since, and none objects to this being the primary.
    private func agrees(since: Nanos) -> Bool {
        seen.allSatisfy { seen in
            guard let seen, seen.begun >= since else { return false }
            return seen.observation.failure == nil && seen.observation.role != .standby
        }
    }

    private var disagreement: String {
        for (index, entry) in seen.enumerated() {
            guard let observation = entry?.observation else { return "\(policy.checks[index].name) says nothing" }
            if let failure = observation.failure { return "\(policy.checks[index].name): \(failure)" }
            if observation.role == .standby { return "\(policy.checks[index].name) says it is a standby" }
        }
        return "not every check has looked since"
    }

    /// The first check that fails.
    private var failing: String? {
        for (index, check) in checks.enumerated() where check.verdict == .failing {
            return "\(policy.checks[index].name): \(check.why)"
        }
        return nil
    }

    private var unhealthy: String? {
        if let failing { return failing }
        for (index, count) in mismatches.enumerated() where count >= checks[index].policy.fall {
            return "\(policy.checks[index].name) says it is a standby"
        }
        return nil
    }

    private func unfit(_ now: Nanos) -> String {
        if isStopping { return "the agent is stopping" }
        if mustFence != nil, failures[.onSuspend] != nil { return "onSuspend failed" }
        if now < unfitUntil { return unfitWhy }
        if running?.kind == .onDemote, isNewestFailed { return "onDemote is running" }
        if isDownByUs { return "" }
        if let failing { return failing }
        return checks.contains { $0.verdict == .unknown } ? "not checked yet" : ""
    }

    private mutating func report(_ outputs: inout [AgentOutput], _ now: Nanos) {
        let unfit = unfit(now)
        if reported == nil || reported! != (toldPosition, unfit) {
            reported = (toldPosition, unfit)
            outputs.append(.report(position: toldPosition, unfit: unfit))
        }
        // What the agent itself stopped is not ill: it may be elected again.
        let health = isDownByUs ? "" : failing ?? ""
        if health != reportedHealth {
            reportedHealth = health
            outputs.append(.health(health))
        }
    }

    /// How things are.
    package func status(now: Nanos) -> AgentStatus {
        var status = AgentStatus()
        status.role = role
        if case .primary = role {
            status.isServingPrimary = isPromoted && verifying == nil && releasing == nil && mustFence == nil
        }
        switch hold {
        case .untouched, .following: status.isStandby = role.held == nil && mustFence == nil
        case .writable, .drained, .suspended: break
        }
        let verdicts = checks.map(\.verdict)
        status.verdict =
            verdicts.contains(.failing) ? .failing : verdicts.contains(.unknown) ? .unknown : .passing
        status.why = failing ?? ""
        let passed = seen.lazy.compactMap { $0?.observation }.filter { $0.failure == nil }
        status.resourceRole = passed.compactMap(\.role).first
        status.position = toldPosition
        status.unfit = unfit(now)
        status.hook = running?.kind
        for observation in passed { status.detail.merge(observation.detail) { first, _ in first } }
        return status
    }
}
