// SPDX-License-Identifier: Apache-2.0
//
// Membership over HTTP: PUT joins, and each repeat of it, with the session that the join gave, is the beat. Nothing
// beats for a member here: the service is stateless, any process of it takes any call, and a member whose calls stop
// dies of it.
//
// PUT writes the whole member each time, so a beat and a change of the member are the same call, and repeating one
// whose answer was lost does no harm. A join without a session takes the id from its current holder, as a restarted
// process must; a beat takes nothing from anybody and never joins: a member that was taken out is told so (409), for
// others may have taken over its work since. `deadlineMs` counts as that of a lock does (LockRoutes.swift).
//
// A group is looked at here for a while after each call, so that a death is found at once though no member runs the
// library.
import HTTPTypes
import NIOCore
import Ringfence
import RingfenceCore
import RingfenceOperations

/// The routes of a group's members.
struct GroupRoutes: Sendable {
    let client: RingfenceClient
    let groups: GroupCache
    private let views = SharedRuns<GroupView>()
    private let replies = SharedRuns<Reply>()

    init(client: RingfenceClient, groups: GroupCache) {
        self.client = client
        self.groups = groups
    }

    static let memberSchema = Route.Schema(
        name: "MemberRequest",
        fields: [
            "session", "address", "zone", "weight", "priority", "capabilities", "metadata", "ttlMs", "candidate",
            "health",
            "position", "unfit", "claim",
        ])
    static let leaveSchema = Route.Schema(name: "LeaveRequest", fields: ["session", "actor", "reason"])
    static let defaultLeaseMilliseconds: Int64 = 3_000

    var routes: [Route] {
        [
            Route(
                method: .get, path: "/v1/groups", operation: "listGroups",
                summary: "Lists all groups that ever had a member.",
                response: "Groups",
                handle: { _ in
                    let list = try await groups.list()
                    var json = JSONWriter(capacity: 64 + 64 * list.groups.count)
                    json.object { json in
                        json.field("stale", list.isStale)
                        json.field("ageMs", list.asked.duration(to: .now).wholeMilliseconds)
                        json.key("groups")
                        json.array(list.groups) { $0.group($1) }
                    }
                    return Reply(json)
                }),
            Route(
                method: .get, path: "/v1/groups/{name}", operation: "getGroup",
                summary: "Shows a group's members, and what is left of each lease.",
                response: "Group",
                handle: { exchange in
                    let name = exchange["name"]
                    return try await replies.value(name) { Reply(JSONWriter.describing(try await view(name))) }
                }),
            Route(
                method: .put, path: "/v1/groups/{name}/members/{member}", operation: "putMember",
                summary: "Joins a group, or with the session of the join, beats and updates. Repeat it each paceMs.",
                request: Self.memberSchema, response: "MemberGrant",
                problems: [.taken, .replaced, .expired, .limitReached], gives: true,
                handle: { exchange in try await put(exchange) }),
            Route(
                method: .delete, path: "/v1/groups/{name}/members/{member}", operation: "removeMember",
                summary: "Leaves a group, or without a session, takes a member out and records who did it.",
                query: [
                    ("session", OpenAPI.reference("Session"), "Only if it is a member under this one.")
                ] + Route.orderQuery,
                request: Self.leaveSchema, requestIsOptional: true, response: "Removed",
                handle: { exchange in try await remove(&exchange) }),
        ]
    }

    /// As Redis has it; when Redis is away, or is just being told anew what it lost, as it was last seen.
    func view(_ name: String) async throws -> GroupView {
        try await views.value(name) { try await currentView(name) }
    }

    private func currentView(_ name: String) async throws -> GroupView {
        let group = try await groups.group(name)
        if group.snapshot.isStale { return GroupView(lastSeen: group.snapshot) }
        do {
            let status = try await group.inspect()
            if !group.snapshot.isStale { return GroupView(status) }
        } catch let error as RingfenceError where error.code == .coordinatorUnavailable {}
        return GroupView(lastSeen: group.snapshot)
    }

    private func put(_ exchange: Exchange) async throws -> Reply {
        let (record, status, isBeat) = try Self.record(exchange)
        let group = try await groups.group(exchange["name"])
        // A client that asked again elsewhere is not replaced by a call of its own that has hung up.
        if !isBeat, exchange.hangUp?.hasHappened == true { throw ConnectionEnded() }
        let grant =
            isBeat ? try await group.renew(record, status: status) : try await group.admit(record, status: status)
        groups.keep(group)
        let deadline = (ContinuousClock.now - exchange.arrived) + grant.remaining
        var json = JSONWriter(capacity: 256)
        json.object { json in
            json.field("group", exchange["name"])
            json.field("member", exchange["member"])
            json.field("session", grant.record.session)
            json.field("generation", grant.generation)
            json.field("version", grant.version)
            json.field("ttlMs", grant.record.leaseMilliseconds)
            json.field("deadlineMs", deadline.wholeMilliseconds)
            json.field("paceMs", grant.pace.wholeMilliseconds)
            json.key("primary")
            json.primary(record.isCandidate ? grant.primary : nil, lasted: nil)
        }
        var reply = Reply(json)
        if !isBeat { reply.undo = { group.withdraw(grant) } }
        return reply
    }

    /// What the body says of the member, checked; and whether it has a session.
    private static func record(_ exchange: Exchange) throws -> (MemberRecord, CandidateStatus?, isBeat: Bool) {
        let body = try JSONObject(exchange.body, memberSchema, depth: 1)
        let session = try body.text("session")
        if let session { try Limits.check(session: session) }
        let leases = (Limits.memberLease.lowerBound / .millisecond)...(Limits.memberLease.upperBound / .millisecond)
        var record = MemberRecord(
            // A join gets its own: this one only has the length of the longest.
            id: exchange["member"], session: session ?? String(repeating: "0", count: Limits.sessionBytes.upperBound),
            leaseMilliseconds: try body.integer("ttlMs", leases) ?? defaultLeaseMilliseconds)
        record.address = try body.text("address") ?? ""
        record.zone = try body.text("zone") ?? ""
        record.weight = try body.number("weight", Limits.weight) ?? 1
        record.priority = try body.number("priority", Limits.priority) ?? 0
        record.capabilities = try body.strings("capabilities")
        switch body["metadata"] {
        case nil: break
        case .object(let pairs)?: record.metadata = try MemberRecord.metadata(pairs)
        case let value?: throw InvalidArgument("metadata", "must be an object of strings, not \(value.kind)")
        }
        record.isCandidate = try body.bool("candidate") ?? false
        record.health = try body.text("health") ?? ""
        try Limits.check(record)
        return (record, try status(body, isCandidate: record.isCandidate), session != nil)
    }

    /// What a candidate says of itself: how far its data is, and what it does as primary.
    private static func status(_ body: JSONObject, isCandidate: Bool) throws -> CandidateStatus? {
        guard isCandidate else {
            for name in ["position", "unfit", "claim"] where body[name] != nil {
                throw InvalidArgument(name, "is said by candidates only: give candidate true with it")
            }
            return nil
        }
        var status = CandidateStatus(
            position: try body.integer("position", Limits.position), unfit: try body.text("unfit") ?? "")
        try Limits.check(unfit: status.unfit)
        switch body["claim"] {
        case nil: break
        case .object(let claim)?:
            for field in claim.fields where !["state", "epoch", "position", "reason", "version"].contains(field.name) {
                throw InvalidArgument(
                    field.name, "is unknown; the fields of a claim are state, epoch, position, reason, version")
            }
            guard let epoch = try claim.integer("epoch", 1...Limits.position.upperBound) else {
                throw InvalidArgument("epoch", "is missing in claim")
            }
            switch try claim.text("state") {
            case "elected": status.claim = .elected(epoch)
            case "ready": status.claim = .ready(epoch)
            case "readyToHandOver":
                // Without it what is said of one switchover would be taken for an answer to the next.
                guard let version = try claim.integer("version", Limits.position) else {
                    throw InvalidArgument("version", "is missing in claim: that of the last answer")
                }
                status.claim = .readyToHandOver(
                    epoch, position: try claim.integer("position", Limits.position), asOf: version)
            case "gone":
                let reason = try claim.text("reason") ?? "stepDown"
                guard reason.utf8.count <= 64, reason.utf8.allSatisfy({ (0x20...0x7E).contains($0) }) else {
                    throw InvalidArgument("reason", "of a claim must be up to 64 characters of ASCII")
                }
                status.claim = .gone(epoch, reason: reason)
            default: throw InvalidArgument("state", "of a claim must be elected, ready, readyToHandOver or gone")
            }
        case let value?: throw InvalidArgument("claim", "must be an object, not \(value.kind)")
        }
        return status
    }

    private func remove(_ exchange: inout Exchange) async throws -> Reply {
        let body = exchange.body.readableBytes > 0 ? try JSONObject(exchange.body, Self.leaveSchema) : nil
        let session = try exchange.text("session", body) { try Limits.check(session: $0) }
        let actor = try exchange.readActor(body)
        let reason = try exchange.reason(body)
        let removed = try await client.operations(on: exchange["name"]).removeMember(
            exchange["member"], session: session, actor: actor, reason: reason)
        var json = JSONWriter(capacity: 24)
        json.object { $0.field("removed", removed) }
        return Reply(json)
    }
}

extension JSONObject {
    fileprivate func number(_ name: String, _ range: ClosedRange<Int>) throws -> Int? {
        try integer(name, Int64(range.lowerBound)...Int64(range.upperBound)).map { Int($0) }
    }
}
