// SPDX-License-Identifier: Apache-2.0
//
// The way to groups; and what operators ask of them without being members: which groups there are, who is in one and how
// long each lease still lasts, and to take one out.

import Hiredis
import RingfenceCore

/// What is fixed when a group is made, by whoever joins it first.
public struct GroupOptions: Sendable, Hashable {
    /// Two groups with different seeds place keys independently. nil: whatever the group has; 0 for a new one.
    public var seed: UInt64?
    /// Points of the ring for each unit of weight, 1 to 4096. nil: whatever the group has; 256 for a new one.
    public var unit: Int?

    /// What is nil is as the group has it.
    public init(seed: UInt64? = nil, unit: Int? = nil) {
        self.seed = seed
        self.unit = unit
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
    public var gen: String
    /// In the order of their ids' bytes.
    public var members: [Entry]
    /// For so long nobody is taken out, because Redis was out of reach or lost data.
    public var held: Duration
    /// The seed of its ring; nil for a group that never had a member.
    public var seed: UInt64?
    /// Points of its ring for each unit of weight.
    public var unit: Int?
}

extension RingfenceClient {
    /// The group of this name, with its first view fetched. The same object for the same name, as long as somebody holds it.
    ///
    /// - Parameters:
    ///   - name: 1 to 512 bytes of UTF-8 without control characters.
    ///   - options: seed and unit of its ring, if you need them to be certain ones.
    /// - Throws: ``RingfenceError``: `argument.invalid`; `group.policyMismatch` when the group was made with others than
    ///   `options` ask for; `coordinator.unavailable`. Nothing is changed by asking.
    public func group(_ name: String, options: GroupOptions = GroupOptions()) async throws -> Group {
        do {
            try Limits.check(group: name)
            if let unit = options.unit { try Limits.check(unit, "unit", Limits.unit) }
        } catch { throw RingfenceError(error) }
        guard !hub.isShutDown else { throw RingfenceError.shutDown }
        let group = hub.group(name)
        group.want(options)
        if !group.isKnown { try await group.refresh() }
        guard let policy = group.policy else { return group }
        if options.seed ?? policy.seed != policy.seed || options.unit ?? policy.unit != policy.unit {
            throw RingfenceError(
                .policyMismatch, effect: .none,
                "the group '\(name)' was made with seed \(policy.seed) and unit \(policy.unit): ask for those, or for none"
            )
        }
        return group
    }

    /// The names of all groups that ever had a member, in the order of their bytes.
    ///
    /// - Throws: ``RingfenceError``; nothing is changed by asking.
    public func groupNames() async throws -> [String] {
        let reply = try await send("listing groups") { [keys] writer in
            writer.begin(2)
            writer.argument("SMEMBERS")
            writer.argument(keys.groups)
        }
        guard let names = reply.array?.map(\.text), !names.contains(nil) else {
            throw RingfenceError.unexpected(reply)
        }
        return names.compactMap { $0 }.sortedByBytes
    }

    /// Who is in a group and how long each lease still lasts, asked of Redis now.
    ///
    /// - Throws: ``RingfenceError``; nothing is changed by asking, but that who is dead by now is found out.
    public func inspectGroup(_ name: String) async throws -> GroupStatus {
        do { try Limits.check(group: name) } catch { throw RingfenceError(error) }
        let reply = try await run(groupScripts.watch(name, .none, leases: true), "inspecting the group '\(name)'")
        guard let answer = GroupScripts.answer(reply), let content = answer.content else {
            throw RingfenceError.unexpected(reply)
        }
        return GroupStatus(
            name: name, version: answer.version, gen: String(answer.mark.prefix { $0 != ":" }),
            members: zip(content.members, content.leases).map {
                .init(member: Member($0), remaining: .milliseconds($1))
            },
            held: .milliseconds(answer.heldMilliseconds), seed: content.policy?.seed, unit: content.policy?.unit)
    }

    /// Takes a member out of a group, whoever it is. A member that lives learns it at its next beat (`membership.expired`).
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
            groupScripts.leave(group, .none, id: member, session: session ?? "", reason: reason, actor: actor),
            "removing '\(member)' from the group '\(group)'")
        guard let answer = GroupScripts.answer(reply) else { throw RingfenceError.unexpected(reply) }
        return answer.status == .left
    }
}
