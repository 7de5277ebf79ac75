// SPDX-License-Identifier: Apache-2.0
//
// A group as Redis has it at this moment: its members, what is left of each lease, the state of the role of primary,
// and what would become of that if the primary died now. Asked page by page when the group is large; made of one
// answer, so that all of it is of one version.

package import RingfenceCore

/// A group as Redis has it at this moment.
public struct GroupStatus: Sendable {
    /// A member and the time left of its lease.
    public struct Entry: Sendable {
        /// The member.
        public var member: Member
        /// Time left until the member expires unless it beats; zero: it expires at any moment.
        public var remaining: Duration
    }

    /// The group's name.
    public var name: String
    /// The group's version, which grows by one with every change. 0: it never had a member.
    public var version: Int64
    /// The generation of the event log in which this version was made.
    public var generation: String
    /// The members, in the order of their ids' bytes.
    public var members: [Entry]
    /// Time left during which no member is expired, because Redis was out of reach or lost data.
    public var expiryGrace: Duration
    /// The seed of the ring; nil for a group that never had a member.
    public var seed: UInt64?
    /// The points on the ring for each 1 of weight; nil for a group that never had a member.
    public var pointsPerWeight: Int?
    /// The role of primary; epoch 0 for a group that never elected one.
    public var primary: PrimaryStatus
    /// How long the role has been in its phase.
    public var phaseDuration: Duration
    /// Time left of an operator's pause, during which there is no automatic election.
    public var paused: Duration { .milliseconds(report.pausedMilliseconds) }
    /// Time left during which the brake is on: after too many failovers there is no automatic election while more than
    /// one candidate is eligible.
    public var braked: Duration { .milliseconds(report.brakedMilliseconds) }
    /// Time left for the current switchover.
    public var handoverRemaining: Duration { .milliseconds(report.handoverMilliseconds) }
    /// The election settings that were set; nil in them: the default.
    public var settings: ElectionSettings
    /// An operator's override of the circuit breaker.
    public var breaker: BreakerOverride
    package var report: RoleReport

    /// The candidates, in the order in which they would be elected.
    public var candidates: [GroupPlan.Candidate] { report.candidates.map { .init(candidate: $0) } }
}

extension GroupStatus {
    /// The whole group, page by page if it is a large one; nil if an answer does not fit the question.
    static func gathered(
        _ name: String, _ ask: (_ cursor: String) async throws -> GroupAnswer
    ) async throws -> GroupStatus? {
        var members: [MemberRecord] = []
        var left: [[UInt8]: Int64] = [:]
        var cursor = ""
        while true {
            var answer = try await ask(cursor)
            guard let page = answer.content?.page else { return GroupStatus(name, answer) }
            // From the beginning too when what the cursor needs is forgotten.
            if page.from == GroupAnswer.Page.start { members = [] } else if page.from != cursor { return nil }
            members = page.applied(to: members)
            for (member, milliseconds) in zip(page.members, answer.content?.leases ?? []) {
                left[Array(member.id.utf8)] = milliseconds
            }
            guard page.next.isEmpty else {
                cursor = page.next
                continue
            }
            answer.content?.members = members
            answer.content?.leases = members.map { left[Array($0.id.utf8)] ?? 0 }
            return GroupStatus(name, answer)
        }
    }

    /// nil for an answer that was not asked for the leases.
    init?(_ name: String, _ answer: GroupAnswer) {
        guard let content = answer.content, let records = content.members, content.leases.count == records.count,
            let report = content.report
        else { return nil }
        self.init(
            name: name, version: answer.version, generation: GroupMachine.generation(of: answer.mark),
            members: zip(records, content.leases).map {
                .init(member: Member($0), remaining: .milliseconds($1))
            },
            expiryGrace: .milliseconds(answer.graceMilliseconds), seed: content.policy?.seed,
            pointsPerWeight: content.policy?.pointsPerWeight,
            primary: PrimaryStatus(content.role), phaseDuration: .milliseconds(content.sinceMilliseconds),
            // What somebody wrote by hand is as if it were not there; the script takes its default too.
            settings: ElectionSettings(of: content.settings), breaker: BreakerOverride(GroupBreaker(content.settings)),
            report: report)
    }
}

/// The next primary if the current one died now, and why each of the others would not be elected.
public struct GroupPlan: Sendable {
    /// A candidate and whether it may be elected.
    public struct Candidate: Sendable, Hashable {
        package let candidate: RoleReport.Candidate

        /// The member's id.
        public var id: String { candidate.id }
        /// Whether it may be elected.
        public var isEligible: Bool { candidate.reasons.isEmpty }
        /// All reasons why it may not be elected; empty if it may.
        public var reasons: [Refusal] { candidate.reasons.map { Refusal($0) } }
        /// How far its data is behind the primary's last known position, in units of that; nil if either is unknown.
        public var lag: Int64? { candidate.lag }
        /// The last position it reported; nil if it reports none.
        public var position: Int64? { candidate.position }
        /// The penalty for losing the role involuntarily: it grows by 1 each time and halves every 5 minutes. At 3 or
        /// more the candidate ranks last.
        public var penalty: Double { Double(candidate.penalty) / 1000 }
        /// Time since it last joined, reported itself ineligible, or was unhealthy.
        public var fitFor: Duration { .milliseconds(candidate.fitMilliseconds) }
        /// Whether an operator took it out of the election.
        public var isInMaintenance: Bool { candidate.isInMaintenance }
    }

    /// The group's name.
    public var group: String
    /// The role of primary now.
    public var primary: PrimaryStatus
    /// The id of the candidate that would be elected; nil if none can be.
    public var winner: String?
    /// Upper bound on the time to a new primary if the current one died now; nil if none can be elected.
    public var electionWithin: Duration?
    /// The reasons that keep the group as a whole from electing; empty if none do.
    public var blocked: [Refusal]
    /// The candidates in the order in which they would be elected, those that may not be at the end.
    public var candidates: [Candidate]
}

extension GroupStatus {
    /// The next primary if the current one died now, and why each of the others would not be elected.
    public var plan: GroupPlan {
        let candidates = report.candidates.map { GroupPlan.Candidate(candidate: $0) }
        let winner = candidates.first { $0.isEligible }?.id
        var blocked: [Refusal] = []
        func block(_ code: String, _ milliseconds: Int64) {
            if milliseconds > 0 { blocked.append(Refusal(RoleReason(code, detail: "\(milliseconds) ms"))) }
        }
        block("paused", report.pausedMilliseconds)
        if candidates.count(where: { $0.isEligible }) > 1 { block("braked", report.brakedMilliseconds) }
        block("waiting", report.electMilliseconds)
        if winner == nil { blocked.append(Refusal(RoleReason("noCandidate"))) }
        let isPossible = winner != nil && report.pausedMilliseconds == 0 && !blocked.contains { $0.code == "braked" }
        let lease = members.first { $0.member.id == primary.member }?.remaining ?? .zero
        let waiting = max(lease + expiryGrace, .milliseconds(report.electMilliseconds))
        return GroupPlan(
            group: name, primary: primary, winner: isPossible ? winner : nil,
            electionWithin: isPossible ? waiting : nil,
            blocked: blocked, candidates: candidates)
    }
}

extension GroupOperations {
    /// What ``Group/status()`` says.
    package func status() async throws -> GroupStatus {
        do { try Limits.check(group: name) } catch { throw RingfenceError(error) }
        let status = try await GroupStatus.gathered(name) { cursor in
            let call = hub.scripts.watch(name, .none, leases: true, cursor: cursor)
            let reply = try await hub.runner.run(call, "inspecting the group '\(name)'")
            guard let answer = GroupScripts.answer(reply) else { throw RingfenceError.unexpected(reply) }
            return answer
        }
        guard let status else {
            throw RingfenceError(
                .coordinatorRefused, effect: .none,
                "inspecting the group '\(name)': leases were asked for, and none came")
        }
        return status
    }

    /// What ``Group/plan()`` says.
    package func plan() async throws -> GroupPlan { try await status().plan }
}
