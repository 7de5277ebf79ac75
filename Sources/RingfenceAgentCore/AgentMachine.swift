// SPDX-License-Identifier: Apache-2.0
//
// The agent's decisions: a role, checks and a group's primary come in; calls of hooks and of the library come out.
//
// It is level-triggered. It keeps no history: after every input the machine compares the state the resource was last
// brought to (`resource`) with what the role asks for, and takes one step towards that. So after a missed message, a
// hook that was killed half way or a restart of the agent it ends in the same place. All that is asked of hooks is to
// be idempotent.
//
//   role        the resource should be      way there
//   elected     promoted, checks agree      [onSuspend unless suspended before] prePromote, onPromote,
//                                           look; ready
//   primary     promoted                    nothing; after an aborted switchover onPromote
//               (too few standbys, and so   onSuspend; onPromote when there are enough again
//               it must not write)
//   handingOver ready to hand over          onHandover, final position; ready to hand over
//   ended       suspended                   onSuspend, unless it had handed over; it comes before anything else
//   standby     following the primary       onDemote, whenever the ready primary changes, or the resource says it
//                                           is primary, or is down by itself (for a while also if there is nobody
//                                           to follow)
//
// Safety rests on two rules. From the start of onPromote the resource counts as writable, whatever the hook says; and a
// resource that was writable under a role that is over is suspended before anything else happens to it, above all
// before another promotion and before a role is given up voluntarily. But if onSuspend fails, the machine gives the
// role up all the same: the lease would end anyway, only later.
//
// One hook runs at a time. onSuspend ends any other at once; a promotion or handover that is no longer wanted is ended;
// a demotion is allowed to finish (a rewind cut short may leave no usable data), unless a healthy resource is to be
// promoted.
package import RingfenceCore

/// Decides for an agent. Pure: time is an argument.
package struct AgentMachine: Sendable {
    /// The state that the resource was last brought to.
    enum ResourceState: Sendable, Hashable {
        /// As it was found.
        case untouched
        /// A promotion was begun under this epoch.
        case writable(Int64)
        case readyToHandOver(Int64)
        case suspended
        /// Demoted for this primary.
        case following(Int64, String)
    }

    /// The end of the handover of an epoch.
    struct Handover: Sendable {
        var epoch: Int64
        var at: Nanos
        var position: Int64?
    }

    /// Between looks while the old primary waits for this one's position.
    static let targetPause: Nanos = 50 * .millisecond

    let policy: AgentPolicy
    var checks: [CheckMachine]
    /// The newest look of each check, and when it began.
    var seen: [(observation: Observation, begun: Nanos)?]
    /// Looks in a row in which the primary's resource said it is a standby.
    var mismatches: [Int]
    var toldPosition: Int64?

    var role = AgentRole.standby
    var primary: AgentPrimary?
    /// The last one known, even if Redis has lost its data since.
    var lastReign = AgentReign()
    /// Whether a switchover to this member is under way: the old primary waits for its position.
    var isTarget = false
    /// Since when there is no primary; nil: there is one, or it is not known.
    var vacantSince: Nanos?

    var resource = ResourceState.untouched
    var resourceSince: Nanos = .min
    /// Why the resource must be suspended before anything else.
    var mustSuspend: String?
    /// Under which epoch it was writable.
    var suspendedEpoch: Int64 = 0
    /// Why the role that is held is given up as soon as onSuspend has been tried.
    var releasing: String?
    /// Epochs under which this was done; 0: none.
    var prePassed: Int64 = 0
    var promoted: Int64 = 0
    var saidReady: Int64 = 0
    var saidReadyToHandOver: Int64 = 0
    var gaveUp: Int64 = 0
    /// The checks must agree with a promotion: looks begun since, and the time by which.
    var verifying: (since: Nanos, until: Nanos)?
    var handover: Handover?

    var running: HookCall?
    var isKilling = false
    var hookCount = 0
    /// Failures in a row, and when to try again.
    var failures: [HookKind: Int] = [:]
    var retryAt: [HookKind: Nanos] = [:]
    /// Demotions that passed and have not helped yet.
    var strikes = 0
    /// It was healthy when it was suspended or handed over: if it does not answer, that is our own doing.
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
        reportedHealth = health
    }

    // MARK: inputs

    /// The library tells another role.
    package mutating func took(_ new: AgentRole, now: Nanos) -> [AgentOutput] {
        var outputs: [AgentOutput] = []
        if let old = role.held, new.held != old {
            var reason = "lost"
            if case .ended(old, let told) = new { reason = told }
            ended(reason)
            if mustSuspend == nil { outputs.append(.stopped(old)) }
        }
        if case .handingOver = new {} else { handover = nil }
        role = new
        return outputs + settle(now)
    }

    /// The group's primary, whenever it may have changed.
    /// - Parameters:
    ///   - new: nil: there is none.
    ///   - reign: the last primary that was ready.
    ///   - isTarget: whether a switchover to this member is under way.
    package mutating func took(
        primary new: AgentPrimary?, lastReady reign: AgentReign = .init(), isTarget: Bool = false, now: Nanos
    ) -> [AgentOutput] {
        if let new, new.isReady, new.epoch != primary?.epoch || primary?.isReady != true {
            // Failures with the primary before no longer count.
            failures[.onDemote] = nil
            retryAt[.onDemote] = nil
            strikes = 0
        }
        primary = new
        vacantSince = new == nil ? vacantSince ?? now : nil
        if reign.epoch > lastReign.epoch { lastReign = reign }
        defer { self.isTarget = isTarget }
        return settle(now) + (isTarget && !self.isTarget ? [.look] : [])
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
            if observation.role != .primary, failing == nil { strikes = 0 }
            let isWrong = observation.role == .standby && isPromoted && verifying == nil && begun >= resourceSince
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
        // Of a hook that was ended because it was no longer wanted only the effects count, and those are in `resource`.
        if wasKilled, case .failed = outcome { return settle(now) }
        let outputs = ended(call.kind, call.epoch, call.reason, outcome, now: now)
        return outputs + settle(now)
    }

    /// Time has passed.
    package mutating func tick(now: Nanos) -> [AgentOutput] { settle(now) }

    /// The agent is to end: a role that is held is given up, and the resource suspended before that.
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
        if isTarget { return min(pause, Self.targetPause) }
        let isWaiting = verifying != nil || (handover != nil && role.held != saidReadyToHandOver)
        return isWaiting ? min(pause, checks[check].policy.fastInterval) : pause
    }
}
