// SPDX-License-Identifier: Apache-2.0
//
// The way to groups; and what operators ask of them without being members: which groups there are, who is in one and
// how long each lease still lasts, and to take one out.

import Hiredis
package import RingfenceCore

/// What is fixed when a group is made, by whoever joins it first.
public struct GroupOptions: Sendable, Hashable {
    /// Two groups with different seeds place keys independently. nil: whatever the group has; 0 for a new one.
    public var seed: UInt64?
    /// Points of the ring for each pointsPerWeight of weight, 1 to 4096. nil: whatever the group has; 256 for a new
    /// one.
    public var pointsPerWeight: Int?

    /// What is nil is as the group has it.
    public init(seed: UInt64? = nil, pointsPerWeight: Int? = nil) {
        self.seed = seed
        self.pointsPerWeight = pointsPerWeight
    }
}

/// A group as Redis has it at this moment.
public struct GroupStatus: Sendable {
    /// A member and what is left of its lease.
    public struct Entry: Sendable {
        /// The member.
        public var member: Member
        /// Until it is taken out, unless it beats. Zero: any moment now.
        public var remaining: Duration
    }

    /// The group.
    public var name: String
    /// Grows by one with every change set. 0: it never had a member.
    public var version: Int64
    /// The generation of the event log that this version was made in.
    public var generation: String
    /// In the order of their ids' bytes.
    public var members: [Entry]
    /// For so long nobody is taken out, because Redis was out of reach or lost data.
    public var expiryGrace: Duration
    /// The seed of its ring; nil for a group that never had a member.
    public var seed: UInt64?
    /// Points of its ring for each pointsPerWeight of weight.
    public var pointsPerWeight: Int?
    /// Who is primary; an epoch of 0 for a group that never elected anybody.
    public var primary: PrimaryStatus
    /// For so long the role has been in this phase.
    public var phaseDuration: Duration
    /// For so long nothing is elected by itself, because an operator paused the group.
    public var paused: Duration { .milliseconds(report.pausedMilliseconds) }
    /// For so long nobody is elected if more than one could be, because there were too many failovers.
    public var braked: Duration { .milliseconds(report.brakedMilliseconds) }
    /// So long a switchover still may take.
    public var handoverRemaining: Duration { .milliseconds(report.handoverMilliseconds) }
    /// How it elects, where that was ever set.
    public var settings: ElectionSettings
    /// What an operator ordered about calls to its members.
    public var breaker: BreakerOverride
    package var report: RoleReport

    /// Who stands for primary, in the order in which they would be elected.
    public var candidates: [GroupPlan.Candidate] { report.candidates.map { .init(candidate: $0) } }
}

extension GroupStatus {
    /// All of the group, page by page if it is a large one; nil if an answer is none to this question.
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
            name: name, version: answer.version, generation: String(answer.mark.prefix { $0 != ":" }),
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

/// One line of the list of groups.
public struct GroupSummary: Sendable, Hashable {
    /// The group.
    public var name: String
    /// Grows by one with every change set.
    public var version: Int64
    /// How many members it has, the dead that nobody has found yet among them.
    public var memberCount: Int
    /// Who is primary; nil for a group that never elected anybody and in which nobody stands.
    public var primary: PrimaryStatus?
}

extension RingfenceClient {
    /// The group of this name, with its first view fetched. The same object for the same name, as long as somebody
    /// holds it.
    ///
    /// - Parameters:
    ///   - name: 1 to 512 bytes of UTF-8 without control or format characters.
    ///   - options: seed and points per weight of its ring, if you need them to be certain ones.
    /// - Throws: ``RingfenceError``: `argument.invalid`; `group.policyMismatch` when the group was made with others
    ///   than `options` ask for; `coordinator.unavailable`. Nothing is changed by asking.
    public func group(_ name: String, options: GroupOptions = GroupOptions()) async throws -> Group {
        do {
            try Limits.check(group: name)
            if let pointsPerWeight = options.pointsPerWeight {
                try Limits.check(pointsPerWeight, "pointsPerWeight", Limits.pointsPerWeight)
            }
        } catch { throw RingfenceError(error) }
        guard !hub.isShutDown else { throw RingfenceError.shutDown }
        let group = hub.group(name)
        if !group.isKnown { try await group.refresh() }
        if let mismatch = group.mismatch(with: options) { throw mismatch }
        group.want(options)
        return group
    }

    /// The names of all groups that ever had a member, in the order of their bytes.
    ///
    /// - Throws: ``RingfenceError``; nothing is changed by asking.
    public func groupNames() async throws -> [String] {
        var names: [[UInt8]: String] = [:]
        var cursor = "0"
        repeat {
            let at = cursor
            let reply = try await fetch("listing groups", answerBytes: 200_000) { [keys] writer in
                writer.begin(5)
                writer.argument("SSCAN")
                writer.argument(keys.groups)
                for word in [at, "COUNT", "1000"] { writer.argument(word) }
            }
            guard case .array(let page) = reply, page.count == 2, let next = page[0].text,
                case .array(let found) = page[1]
            else { throw RingfenceError.unexpected(reply) }
            for name in found {
                guard let text = name.text else { throw RingfenceError.unexpected(reply) }
                // One may come twice while others come and go.
                names[Array(text.utf8)] = text
            }
            cursor = next
        } while cursor != "0"
        return Array(names.values).sortedByBytes
    }

    /// Who is in a group and how long each lease still lasts, asked of Redis now.
    ///
    /// - Throws: ``RingfenceError``; nothing is changed by asking, but that who is dead by now is found out.
    public func inspectGroup(_ name: String) async throws -> GroupStatus {
        do { try Limits.check(group: name) } catch { throw RingfenceError(error) }
        let status = try await GroupStatus.gathered(name) { cursor in
            let call = groupScripts.watch(name, .none, leases: true, cursor: cursor)
            let reply = try await run(call, "inspecting the group '\(name)'")
            guard let answer = GroupScripts.answer(reply) else { throw RingfenceError.unexpected(reply) }
            return answer
        }
        guard let status else {
            throw RingfenceError(
                .refused, effect: .none, "inspecting the group '\(name)': leases were asked for, and none came")
        }
        return status
    }

    /// All groups that ever had a member, in the order of their names' bytes, with how far each has come. One round
    /// trip, and one more for each 100 groups; not one look at all of them at the same moment.
    ///
    /// - Throws: ``RingfenceError``; nothing is changed by asking.
    public func groupSummaries() async throws -> [GroupSummary] {
        let names = try await groupNames()
        var summaries: [GroupSummary] = []
        summaries.reserveCapacity(names.count)
        for start in stride(from: 0, to: names.count, by: 100) {
            let page = names[start..<min(start + 100, names.count)]
            summaries += try await withThrowingTaskGroup(of: GroupSummary.self) { tasks in
                for name in page { tasks.addTask { try await self.summary(of: name) } }
                var page: [GroupSummary] = []
                for try await summary in tasks { page.append(summary) }
                return page.sorted { $0.name.isBefore($1.name) }
            }
        }
        return summaries
    }

    private func summary(of name: String) async throws -> GroupSummary {
        let fields = ["version", "epoch", "primary", "pSession", "phase", "target", "candidates"]
        async let state = send("reading the group '\(name)'") { [keys] writer in
            writer.begin(2 + fields.count)
            writer.argument("HMGET")
            writer.argument(keys.state, name)
            for field in fields { writer.argument(field) }
        }
        async let count = send("reading the group '\(name)'") { [keys] writer in
            writer.begin(2)
            writer.argument("ZCARD")
            writer.argument(keys.leases, name)
        }
        let (stateReply, countReply) = (try await state, try await count)
        guard case .integer(let count) = countReply else { throw RingfenceError.unexpected(countReply) }
        guard let values = stateReply.array, values.count == fields.count else {
            throw RingfenceError.unexpected(stateReply)
        }
        // A group whose state Redis lost is in the set without a version.
        guard !values[0].isNull else { return GroupSummary(name: name, version: 0, memberCount: Int(count)) }
        guard let version = values[0].text.flatMap({ Int64($0) }) else { throw RingfenceError.unexpected(stateReply) }
        var summary = GroupSummary(name: name, version: version, memberCount: Int(count))
        let role = GroupRole(
            epoch: values[1].int ?? 0, primary: values[2].text ?? "", session: values[3].text ?? "",
            phase: values[4].text.flatMap { GroupRole.Phase(rawValue: $0) } ?? .vacant, target: values[5].text ?? "")
        if role.epoch > 0 || (values[6].int ?? 0) > 0 { summary.primary = PrimaryStatus(role) }
        return summary
    }

    /// Takes a member out of a group, whoever it is. A member that lives learns it at its next beat
    /// (`membership.expired`).
    ///
    /// - Parameters:
    ///   - member: its id.
    ///   - group: the group.
    ///   - session: only if it is a member under this session; nil: in any case.
    ///   - actor: who does it, for the event: 1 to 128 bytes.
    ///   - reason: why, for the event: up to 512 bytes.
    /// - Returns: whether it was there.
    /// - Throws: ``RingfenceError``. It may be repeated: it then returns false.
    @discardableResult
    public func removeMember(
        _ member: String, from group: String, session: String? = nil, actor: String? = nil, reason: String = ""
    ) async throws -> Bool {
        let actor = actor ?? configuration.owner
        do {
            try Limits.check(group: group)
            try Limits.check(member: member)
            try Limits.check(owner: actor, field: "actor")
            try Limits.check(reason: reason)
            if let session { try Limits.check(session: session) }
        } catch { throw RingfenceError(error) }
        let reply = try await run(
            groupScripts.leave(group, .notAsking, id: member, session: session ?? "", reason: reason, actor: actor),
            "removing '\(member)' from the group '\(group)'")
        guard let answer = GroupScripts.answer(reply) else { throw RingfenceError.unexpected(reply) }
        return answer.status == .left
    }
}
