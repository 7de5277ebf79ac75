// SPDX-License-Identifier: Apache-2.0
//
// How groups look in JSON: the HTTP answers and the command line's --json are the same words.
package import Ringfence

/// A group with what is left of each lease, or, when Redis cannot be asked, as it was last seen.
package struct GroupView: Sendable {
    /// How a member is, in one word.
    package enum State: String, Sendable, CaseIterable {
        case healthy
        /// Its check fails.
        case failing
        /// It says itself that it may not lead now.
        case unfit
        /// An operator took it out of the election.
        case maintenance
        /// Its weight is 0.
        case draining
        /// Its lease is over, and nobody has taken it out yet.
        case lost
    }

    /// Which part a member plays.
    package enum Role: String, Sendable {
        case primary
        /// It stands for primary.
        case standby
        /// It does not.
        case member
    }

    package struct Entry: Sendable {
        package var member: Member
        /// nil when Redis cannot be asked.
        package var remaining: Duration?
        package var role: Role
        package var state: State
        /// What an election would think of it; nil for one that does not stand, and when Redis cannot be asked.
        package var candidate: GroupPlan.Candidate?

        /// Whether calls may go to it: it lives, its check passes and its weight is not 0. What an election thinks of
        /// it is another matter: one in maintenance answers calls.
        package var isHealthy: Bool {
            remaining.map { $0 > .zero } ?? true && member.health.isEmpty && !member.isDraining
        }
    }

    /// Which members a list has.
    package enum Filter: Sendable, Hashable {
        case all, healthy, unhealthy
        case state(State)

        /// `all`, `healthy`, `unhealthy`, or any other state.
        package init?(_ text: String) {
            switch text {
            case "all": self = .all
            case "healthy": self = .healthy
            case "unhealthy": self = .unhealthy
            default:
                guard let state = State(rawValue: text) else { return nil }
                self = .state(state)
            }
        }

        package static var words: [String] {
            ["all", "healthy", "unhealthy"] + State.allCases.filter { $0 != .healthy }.map(\.rawValue)
        }
    }

    /// What only Redis knows.
    package struct Election: Sendable {
        package var phaseDuration: Duration
        package var paused: Duration
        package var braked: Duration
        package var handoverRemaining: Duration
        package var settings: ElectionSettings
        package var plan: GroupPlan
    }

    package var group: String
    package var version: Int64
    package var generation: String
    package var isStale: Bool
    package var age: Duration
    /// nil when Redis cannot be asked.
    package var expiryGrace: Duration?
    /// nil for a group that never elected anybody and in which nobody stands.
    package var primary: PrimaryStatus?
    /// What an operator ordered about calls to its members.
    package var breaker: BreakerOverride
    /// nil without a primary's group, and when Redis cannot be asked.
    package var election: Election?
    package var members: [Entry]

    /// Those a filter lets through.
    package func members(_ filter: Filter) -> [Entry] {
        members.filter { entry in
            switch filter {
            case .all: true
            case .healthy: entry.isHealthy
            case .unhealthy: !entry.isHealthy
            case .state(let state): entry.state == state
            }
        }
    }

    /// As Redis has just answered.
    package init(_ status: GroupStatus) {
        group = status.name
        version = status.version
        generation = status.generation
        isStale = false
        age = .zero
        expiryGrace = status.expiryGrace
        breaker = status.breaker
        let plan = status.plan
        let primary = status.primary
        if primary.epoch > 0 || !plan.candidates.isEmpty || status.members.contains(where: \.member.isCandidate) {
            self.primary = primary
            election = Election(
                phaseDuration: status.phaseDuration, paused: status.paused, braked: status.braked,
                handoverRemaining: status.handoverRemaining, settings: status.settings, plan: plan)
        }
        var candidates: [[UInt8]: GroupPlan.Candidate] = [:]
        for candidate in plan.candidates { candidates[Array(candidate.id.utf8)] = candidate }
        members = status.members.map { entry in
            let candidate = candidates[Array(entry.member.id.utf8)]
            return Entry(
                member: entry.member, remaining: entry.remaining, role: Role(entry.member, primary),
                state: State(entry.member, candidate), candidate: candidate)
        }
    }

    /// As this process last saw it.
    package init(lastSeen snapshot: GroupSnapshot) {
        group = snapshot.group
        version = snapshot.version
        generation = snapshot.generation
        isStale = true
        age = snapshot.age
        breaker = snapshot.breaker
        primary = snapshot.primary
        let primary = snapshot.primary
        members = snapshot.members.map { Entry(member: $0, role: Role($0, primary), state: State($0, nil)) }
    }
}

extension GroupView.Role {
    fileprivate init(_ member: Member, _ primary: PrimaryStatus?) {
        // By the session: who comes back under the same id is not the primary.
        if let primary, primary.member != nil, primary.session == member.session {
            self = .primary
        } else {
            self = member.isCandidate ? .standby : .member
        }
    }
}

extension GroupView.State {
    fileprivate init(_ member: Member, _ candidate: GroupPlan.Candidate?) {
        let codes = candidate.map { Set($0.reasons.map(\.code)) } ?? []
        if codes.contains("lease") {
            self = .lost
        } else if !member.health.isEmpty {
            self = .failing
        } else if candidate?.isInMaintenance == true {
            self = .maintenance
        } else if codes.contains("unfit") {
            self = .unfit
        } else {
            self = member.isDraining ? .draining : .healthy
        }
    }
}

extension JSONWriter {
    /// A group.
    package static func describing(_ view: GroupView) -> JSONWriter {
        var json = JSONWriter(capacity: 512 + 512 * view.members.count)
        json.object { json in
            json.head(of: view)
            if let election = view.election {
                json.field("pausedMs", election.paused.wholeMilliseconds)
                json.field("brakedMs", election.braked.wholeMilliseconds)
                json.key("settings")
                json.settings(election.settings)
                json.key("plan")
                json.object { $0.fields(of: election.plan) }
            }
            json.key("members")
            json.array(view.members) { $0.entry($1) }
        }
        return json
    }

    /// The members of a group, or some of them.
    package static func members(of view: GroupView, _ filter: GroupView.Filter) -> JSONWriter {
        var json = JSONWriter(capacity: 256 + 512 * view.members.count)
        json.object { json in
            json.head(of: view)
            json.key("members")
            json.array(view.members(filter)) { $0.entry($1) }
        }
        return json
    }

    /// The primary and its address: for a client that wants to talk to it.
    package static func primary(of view: GroupView) -> JSONWriter {
        var json = JSONWriter(capacity: 512)
        json.object { json in
            json.head(of: view)
            json.key("member")
            if let entry = view.members.first(where: { $0.role == .primary }) {
                json.entry(entry)
            } else {
                json.null()
            }
        }
        return json
    }

    /// The plan: which candidate would be primary next.
    package static func describing(_ plan: GroupPlan) -> JSONWriter {
        var json = JSONWriter(capacity: 512 + 256 * plan.candidates.count)
        json.object { json in
            json.field("group", plan.group)
            json.key("primary")
            json.primary(plan.primary.epoch > 0 || !plan.candidates.isEmpty ? plan.primary : nil, lasted: nil)
            json.fields(of: plan)
            json.key("candidates")
            json.array(plan.candidates) { json, candidate in
                json.object { json in
                    json.field("member", candidate.id)
                    json.fields(of: candidate)
                }
            }
        }
        return json
    }

    /// What came of an order.
    package static func describing(_ outcome: String, of group: String, _ primary: PrimaryStatus?) -> JSONWriter {
        var json = JSONWriter(capacity: 256)
        json.object { json in
            json.field("group", group)
            json.field("outcome", outcome)
            json.key("primary")
            json.primary(primary, lasted: nil)
        }
        return json
    }

    /// The settings of an election: those in force, set or by default.
    package mutating func settings(_ settings: ElectionSettings) {
        object { json in
            for (name, value) in settings.inForce {
                json.key(name)
                if let number = Int64(value) { json.integer(number) } else { json.string(value) }
            }
        }
    }

    /// Reasons of a refusal.
    package mutating func reasons(_ reasons: [Refusal]) {
        array(reasons) { json, reason in
            json.object { json in
                json.field("code", reason.code)
                if let member = reason.member { json.field("member", member) }
                json.field("detail", reason.description)
            }
        }
    }

    /// One line of the list of groups.
    package mutating func group(_ summary: GroupSummary) {
        object { json in
            json.field("group", summary.name)
            json.field("version", summary.version)
            json.field("members", summary.memberCount)
            guard let primary = summary.primary else { return }
            json.key("primary")
            json.primary(primary, lasted: nil)
        }
    }

    private mutating func head(of view: GroupView) {
        field("group", view.group)
        field("version", view.version)
        field("generation", view.generation)
        field("stale", view.isStale)
        field("ageMs", view.age.wholeMilliseconds)
        milliseconds("expiryGraceMs", view.expiryGrace)
        field("breaker", view.breaker.rawValue)
        key("primary")
        primary(view.primary, lasted: view.election?.phaseDuration)
    }

    package mutating func primary(_ primary: PrimaryStatus?, lasted: Duration?) {
        guard let primary else { return null() }
        object { json in
            json.field("epoch", primary.epoch)
            json.text("member", primary.member)
            json.text("session", primary.session)
            json.field("phase", primary.phase.rawValue)
            if let lasted { json.field("phaseMs", lasted.wholeMilliseconds) }
            if let target = primary.target { json.field("target", target) }
            if let last = primary.last { json.field("last", last) }
            if primary.lacksStandbys { json.field("lacksStandbys", true) }
        }
    }

    private mutating func fields(of plan: GroupPlan) {
        text("winner", plan.winner)
        milliseconds("electionWithinMs", plan.electionWithin)
        key("blocked")
        reasons(plan.blocked)
    }

    private mutating func fields(of candidate: GroupPlan.Candidate) {
        field("eligible", candidate.isEligible)
        key("lag")
        if let lag = candidate.lag { integer(lag) } else { null() }
        key("position")
        if let position = candidate.position { integer(position) } else { null() }
        key("penalty")
        raw("\(candidate.penalty)")
        field("fitForMs", candidate.fitFor.wholeMilliseconds)
        field("maintenance", candidate.isInMaintenance)
        key("reasons")
        reasons(candidate.reasons)
    }

    private mutating func entry(_ entry: GroupView.Entry) {
        object { json in
            json.fields(of: entry.member)
            json.milliseconds("remainingMs", entry.remaining)
            json.field("role", entry.role.rawValue)
            json.field("state", entry.state.rawValue)
            guard let candidate = entry.candidate else { return }
            json.key("election")
            json.object { $0.fields(of: candidate) }
        }
    }

    private mutating func text(_ name: String, _ text: String?) {
        key(name)
        if let text { string(text) } else { null() }
    }

    /// A member, as its record has it, with its id.
    package mutating func member(_ member: Member) {
        object { $0.fields(of: member) }
    }

    private mutating func fields(of member: Member) {
        field("id", member.id)
        field("session", member.session)
        field("leaseMs", member.lease.wholeMilliseconds)
        if !member.address.isEmpty { field("address", member.address) }
        if !member.zone.isEmpty { field("zone", member.zone) }
        if member.isCandidate { field("candidate", true) }
        if !member.health.isEmpty { field("health", member.health) }
        field("weight", member.weight)
        field("priority", member.priority)
        if !member.capabilities.isEmpty { field("capabilities", member.capabilities) }
        if !member.metadata.isEmpty {
            key("metadata")
            object { json in
                for (key, value) in member.metadata.sorted(by: { $0.key < $1.key }) { json.field(key, value) }
            }
        }
    }

    private mutating func milliseconds(_ name: String, _ duration: Duration?) {
        key(name)
        if let duration { integer(duration.wholeMilliseconds) } else { null() }
    }
}
