// SPDX-License-Identifier: Apache-2.0
//
// Balancing over HTTP: which member to call now, and reports of how the calls ended. Answered from the snapshot this
// process holds, as the ring is: no round trip to Redis, and when Redis is away the last one serves.
//
// A pick alone tells nothing of load. For `leastLoaded` and `peakEWMA` to mean something, and for bad members to be
// left out, a caller gives `trackMs` and reports how the call ended (OutstandingCalls.swift). A balancer belongs to its
// group here and lives as long as that is held (GroupCache.swift): all that ask this instance for one policy share one,
// and other instances count for themselves.
import HTTPTypes
import NIOCore
import Ringfence
import RingfenceCore
import RingfenceOperations

/// The routes of picks and their calls.
struct PickRoutes: Sendable {
    let groups: GroupCache
    let calls = OutstandingCalls()

    static let pickSchema = Route.Schema(name: "PickRequest", fields: ["policy", "key", "zone", "trackMs"])
    static let outcomeSchema = Route.Schema(name: "OutcomeRequest", fields: ["outcome"])
    static let trackLimits: ClosedRange<Int64> = 1...600_000

    var routes: [Route] {
        [
            Route(
                method: .post, path: "/v1/groups/{name}/pick", operation: "pickMember",
                summary: "Says which member to call now; with trackMs the call is counted until it is reported.",
                request: Self.pickSchema, requestIsOptional: true, response: "Pick",
                problems: [.breakerOpen, .noMember], gives: true, isQuestion: true,
                handle: { exchange in try await pick(exchange) }),
            Route(
                method: .post, path: "/v1/groups/{name}/calls/{call}", operation: "endCall",
                summary: "Reports how a call ended, to the instance that picked it: the balancer learns.",
                request: Self.outcomeSchema, response: "EndedCall", problems: [.callNotFound],
                handle: { exchange in try end(exchange) }),
        ]
    }

    private func pick(_ exchange: Exchange) async throws -> Reply {
        let body = exchange.body.readableBytes > 0 ? try JSONObject(exchange.body, Self.pickSchema) : nil
        let key = try body?.text("key")
        let asked = try BalancePolicy(
            name: try body?.text("policy"), zone: try body?.text("zone"), hasKey: key != nil)
        let track = try body?.integer("trackMs", Self.trackLimits)
        let group = try await groups.group(exchange["name"])
        let snapshot = group.snapshot
        guard snapshot.version > 0 else {
            throw Problem(.noMember, "the group has nobody to call: nobody ever joined it", retryAfterMs: 1_000)
        }
        let balancer = try group.balancer(Self.policy(asked, in: snapshot))
        guard let track, calls.hasRoom else {
            let member = try key.map { try balancer.pick(key: $0) } ?? balancer.pick()
            return Reply(JSONWriter.describing(PickView(snapshot, asked, member)))
        }
        let call = try key.map { try balancer.begin(key: $0) } ?? balancer.begin()
        let id = calls.keep(call, of: exchange["name"], for: track, on: exchange.channel.eventLoop)
        var reply = Reply(JSONWriter.describing(PickView(snapshot, asked, call.member, call: id)))
        // Nobody knows of it, so nobody will report.
        reply.undo = { [calls] in if let id { _ = calls.end(id, of: exchange["name"], .cancelled) } }
        return reply
    }

    /// Zones come from strangers, and each has a balancer. One that no member is in is as good as none.
    private static func policy(_ asked: BalancePolicy, in snapshot: GroupSnapshot) -> BalancePolicy {
        guard let zone = asked.zone, !snapshot.members.contains(where: { $0.zone == zone }) else { return asked }
        return .leastLoaded
    }

    private func end(_ exchange: Exchange) throws -> Reply {
        let body = try JSONObject(exchange.body, Self.outcomeSchema)
        let words = BalancedCall.Outcome.allCases.map(\.rawValue).joined(separator: ", ")
        guard let text = try body.text("outcome") else { throw InvalidArgument("outcome", "is missing: \(words)") }
        guard let outcome = BalancedCall.Outcome(rawValue: text) else {
            throw InvalidArgument("outcome", "must be one of \(words)")
        }
        guard let member = calls.end(exchange["call"], of: exchange["name"], outcome) else {
            throw Problem(
                .callNotFound,
                "there is no such call: it was reported already, its trackMs are over, or another instance of the "
                    + "service picked it")
        }
        var json = JSONWriter(capacity: 128)
        json.object { json in
            json.field("group", exchange["name"])
            json.field("call", exchange["call"])
            json.field("member", member.id)
            json.field("outcome", outcome.rawValue)
        }
        return Reply(json)
    }
}
