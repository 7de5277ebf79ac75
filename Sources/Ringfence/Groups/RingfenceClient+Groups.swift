// SPDX-License-Identifier: Apache-2.0
//
// The way to groups, and which groups there are. What is asked and ordered of one is in Group+Operations.swift.

import Hiredis
import RingfenceCore

/// The options of a group's ring. The first member to join fixes them.
public struct GroupOptions: Sendable, Hashable {
    /// The seed of the ring: groups with different seeds place keys independently. nil: the group's own; 0 for a new
    /// group.
    public var seed: UInt64?
    /// The points on the ring for each 1 of weight. 1 to 4096; nil: the group's own; 256 for a new group.
    public var pointsPerWeight: Int?

    /// Creates options; nil leaves the choice to the group.
    public init(seed: UInt64? = nil, pointsPerWeight: Int? = nil) {
        self.seed = seed
        self.pointsPerWeight = pointsPerWeight
    }
}

/// A group in the list of all groups.
public struct GroupSummary: Sendable, Hashable {
    /// The group's name.
    public var name: String
    /// The group's version, which grows by one with every change. 0: it never had a member.
    public var version: Int64
    /// The number of members, including those whose lease is over but not yet expired.
    public var memberCount: Int
    /// The role of primary; nil for a group without candidates that never elected one.
    public var primary: PrimaryStatus?
}

extension RingfenceClient {
    /// Returns the group of this name, with its first view fetched: the same object for the same name, as long as it
    /// is referenced.
    ///
    /// - Parameters:
    ///   - name: 1 to 512 bytes of UTF-8 without control or format characters.
    ///   - options: the options of its ring; nil in them: the group's own.
    /// - Throws: ``RingfenceError``: `argument.invalid`; `group.policyMismatch` when the group was made with others
    ///   than `options` ask for; `coordinator.unavailable`. Nothing is changed by asking.
    public func group(_ name: String, options: GroupOptions = GroupOptions()) async throws -> Group {
        do {
            try Limits.check(group: name)
            if let pointsPerWeight = options.pointsPerWeight {
                try Limits.check(pointsPerWeight, "pointsPerWeight", Limits.pointsPerWeight)
            }
        } catch { throw RingfenceError(error) }
        let group = try await hub.followed(name)
        if let mismatch = group.mismatch(with: options) { throw mismatch }
        group.want(options)
        return group
    }

    /// Returns the names of all groups that ever had a member, in the order of their bytes.
    ///
    /// - Throws: ``RingfenceError``; nothing is changed by asking.
    public func groupNames() async throws -> [String] {
        var names: [[UInt8]: String] = [:]
        var cursor = ScannedPage.first
        repeat {
            let reply = try await fetch("listing groups", answerBytes: 200_000) { [keys, cursor] writer in
                ScannedPage.ofGroups(keys, from: cursor, count: 1000, to: &writer)
            }
            guard let page = ScannedPage(reply) else { throw RingfenceError.unexpected(reply) }
            // One may come twice while others come and go.
            for name in page.items { names[Array(name.utf8)] = name }
            cursor = page.next
        } while cursor != ScannedPage.first
        return Array(names.values).sortedByBytes
    }

    /// Returns a summary of each group that ever had a member, in the order of the names' bytes. One round trip, and
    /// one more for each 100 groups, so the summaries are not of one moment.
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
        async let state = fetch("reading the group '\(name)'", answerBytes: 1024) { [keys] writer in
            writer.begin(2 + fields.count)
            writer.argument("HMGET")
            writer.argument(keys.state, name)
            for field in fields { writer.argument(field) }
        }
        async let count = fetch("reading the group '\(name)'", answerBytes: 64) { [keys] writer in
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
}
