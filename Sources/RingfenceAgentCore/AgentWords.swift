// SPDX-License-Identifier: Apache-2.0
//
// What goes into the agent's machine and what comes out of it.
package import RingfenceCore

/// The hooks that an agent calls to change its resource. (`onEvent` is not among them: it decides nothing.)
package enum HookKind: String, Sendable, Hashable, CaseIterable {
    /// May this resource be made primary? Failing refuses.
    case prePromote
    /// Make it primary.
    case onPromote
    /// Take no more writes, for a planned handover.
    case onHandover
    /// Be a standby of the primary.
    case onDemote
    /// Take no more writes, now: the role is over.
    case onSuspend
}

/// One call of a hook.
package struct HookCall: Sendable, Hashable {
    /// Its number, which identifies it when its end is reported.
    package var id: Int
    package var kind: HookKind
    /// The epoch it is called under, or, for `onDemote`, that of the primary to follow.
    package var epoch: Int64
    package var reason: String
    /// The primary as this agent sees it: this member itself when it is to be promoted; empty: none.
    package var primary: String
    package var primaryAddress: String
    /// The last primary that was ready, and under which epoch; empty and 0: none is known.
    package var previous: String
    package var previousEpoch: Int64
    /// How long it may take.
    package var limit: Nanos

    /// The role the resource is being brought to.
    package var role: ResourceRole {
        switch kind {
        case .prePromote, .onPromote: .primary
        case .onHandover, .onDemote, .onSuspend: .standby
        }
    }
}

/// How a hook ended.
package enum HookOutcome: Sendable, Hashable {
    case passed(position: Int64?)
    /// Exit code, signal, deadline, or it could not be started.
    case failed(String)
}

/// This member's role, as the library tells it.
package enum AgentRole: Sendable, Hashable {
    case standby
    case elected(Int64)
    case primary(Int64)
    /// The deadline for being ready to hand over.
    case handingOver(Int64, until: Nanos)
    case ended(Int64, reason: String)

    /// The epoch of a role that is held.
    package var held: Int64? {
        switch self {
        case .elected(let epoch), .primary(let epoch), .handingOver(let epoch, _): epoch
        case .standby, .ended: nil
        }
    }

    package var name: String {
        switch self {
        case .standby: "standby"
        case .elected: "elected"
        case .primary: "primary"
        case .handingOver: "handingOver"
        case .ended: "ended"
        }
    }
}

/// The group's primary, as this agent sees it.
package struct AgentPrimary: Sendable, Hashable {
    package var member: String
    package var epoch: Int64
    package var address: String
    /// It has said that it is promoted.
    package var isReady: Bool
    /// Why it was elected, if that is known.
    package var reason: String
    /// It must not write: there are fewer standbys than the group's settings ask for.
    package var suspendsWrites: Bool

    package init(
        member: String, epoch: Int64, address: String, isReady: Bool, reason: String = "",
        suspendsWrites: Bool = false
    ) {
        self.member = member
        self.epoch = epoch
        self.address = address
        self.isReady = isReady
        self.reason = reason
        self.suspendsWrites = suspendsWrites
    }
}

/// The last primary that was ready.
package struct AgentReign: Sendable, Hashable {
    package var member: String
    package var epoch: Int64

    package init(member: String = "", epoch: Int64 = 0) {
        self.member = member
        self.epoch = epoch
    }
}

/// The machine's outputs, to be performed in order.
package enum AgentOutput: Sendable, Hashable {
    case run(HookCall)
    /// End the hook that runs, with all it started, at once.
    case kill(Int)
    case ready(Int64)
    case readyToHandOver(Int64, position: Int64?)
    case giveUp(Int64, reason: String)
    /// Report that nothing is done any more under an epoch that an operator's order ended.
    case stopped(Int64)
    /// What goes with the member's beats.
    case report(position: Int64?, unfit: String)
    /// What stands in the member's record; empty: it passes.
    case health(String)
    /// The verdict of a check changed.
    case verdict(check: Int, isPassing: Bool, why: String)
    /// All checks look now.
    case look
    /// After `stop`: nothing more is to be done, the member may leave.
    case finished
}

/// The policy of an agent.
package struct AgentPolicy: Sendable {
    /// This member's id.
    package var member: String
    /// The hooks there are, and how long each may take.
    package var hooks: [HookKind: Nanos]
    /// How long before its lease ends a role is over, which is what `onSuspend` has.
    package var suspendBudget: Nanos
    /// Whether an unhealthy primary gives its role up.
    package var releasesWhenUnhealthy: Bool
    package var checks: [(name: String, policy: CheckPolicy)]
    /// How long after `onPromote` the checks may take to agree.
    package var agreement: Nanos
    /// How long there must have been no primary before an instance that is down is started without one to follow.
    package var vacancy: Nanos

    package init(
        member: String, hooks: [HookKind: Nanos] = [:], suspendBudget: Nanos = .second,
        releasesWhenUnhealthy: Bool = true, checks: [(name: String, policy: CheckPolicy)] = [],
        agreement: Nanos = 10 * .second, vacancy: Nanos = 3 * .second
    ) {
        self.member = member
        self.hooks = hooks
        self.suspendBudget = suspendBudget
        self.releasesWhenUnhealthy = releasesWhenUnhealthy
        self.checks = checks
        self.agreement = agreement
        self.vacancy = vacancy
    }
}

/// The state of an agent, for its health endpoints.
package struct AgentStatus: Sendable, Hashable {
    /// The role held, and its epoch.
    package var role = AgentRole.standby
    /// Promoted, verified, and nothing is being undone: what `GET /primary` asks, beside the role's own deadline.
    package var isServingPrimary = false
    /// No role, and not suspended: it may serve as a standby if it is healthy.
    package var isStandby = false
    package var verdict = CheckMachine.Verdict.unknown
    /// Why it does not pass.
    package var why = ""
    package var resourceRole: ResourceRole?
    package var position: Int64?
    /// Why it may not be elected; empty: it may.
    package var unfit = ""
    /// The hook that runs.
    package var hook: HookKind?
    /// What the checks said beside that.
    package var detail: [String: String] = [:]

    package init() {}
}
