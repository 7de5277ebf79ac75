// SPDX-License-Identifier: Apache-2.0
//
// A group's ring over HTTP. Answered from the snapshot this process holds: no round trip to Redis, and when Redis is
// away the last one serves, with `stale` and its age.
import HTTPTypes
import NIOCore
import Ringfence
import RingfenceCore
import RingfenceOperations

/// The routes of a group's ring: owners, and what would move.
struct RingRoutes: Sendable {
    let groups: GroupCache

    static let planSchema = Route.Schema(name: "RingPlanRequest", fields: ["joining", "leaving", "ranges"])
    static let counts = 1...1_000

    var routes: [Route] {
        [
            Route(
                method: .get, path: "/v1/groups/{name}/ring", operation: "getRing",
                summary: "Shows who owns how much of a group's ring, or with a key, who holds it.",
                query: [
                    ("key", #"{"type":"string"}"#, "A key as text: its owner and preference list are answered."),
                    ("number", OpenAPI.reference("Unsigned64"), "A key as an unsigned 64-bit number."),
                    (
                        "count", #"{"type":"integer","minimum":1,"maximum":1000,"default":3}"#,
                        "How many members a key's preference list has at most."
                    ),
                ],
                response: "RingAnswer",
                handle: { exchange in
                    let query = exchange.query
                    let key = try Self.key(query)
                    // Without a key too: some clients send each parameter with its default.
                    let count = try number(query, "count", Self.counts) ?? 3
                    let view = RingView(of: try await groups.group(exchange["name"]))
                    guard let key else { return Reply(JSONWriter.describing(view)) }
                    return Reply(JSONWriter.describing(key, count: count, on: view))
                }),
            Route(
                method: .post, path: "/v1/groups/{name}/ring/plan", operation: "planRing",
                summary: "Says which keys would move if members joined, changed or left. Changes nothing.",
                request: Self.planSchema, response: "RingPlan", problems: [.memberNotFound], isQuestion: true,
                handle: { exchange in
                    let body = try Self.planBody(exchange.body)
                    let leaving = try body.strings("leaving")
                    let ranges = try body.bool("ranges") ?? false
                    let view = RingView(of: try await groups.group(exchange["name"]))
                    for id in leaving where view.ring.member(id) == nil {
                        throw Problem(.memberNotFound, "\(quoted(id)) is no member of the ring", field: "leaving")
                    }
                    let joining = try Self.joining(body, on: view.ring)
                    let plan = try view.ring.plan(joining: joining, leaving: leaving)
                    let next = try view.ring.applying(joining: joining, leaving: leaving)
                    return Reply(JSONWriter.describing(plan, to: next, from: view, ranges: ranges))
                }),
        ]
    }

    private static func key(_ query: [String: String]) throws -> RingKey? {
        switch (query["key"], query["number"]) {
        case (nil, nil): return nil
        case (let text?, nil): return .text(text)
        case (nil, let digits?):
            guard let number = UInt64(digits: digits) else {
                throw InvalidArgument("number", "must be an unsigned 64-bit number in decimal")
            }
            return .number(number)
        default: throw InvalidArgument("number", "must not be given beside key: a key is a text or a number")
        }
    }

    private static func planBody(_ body: ByteBuffer) throws -> JSONObject {
        if body.readableBytes == 0 { throw JSONError(message: "the body must be a JSON object", offset: 0) }
        return try JSONObject(body.readableBytesView, allowed: planSchema.fields, depth: 2)
    }

    private static func joining(_ body: JSONObject, on ring: HashRing) throws -> [HashRing.Member] {
        switch body["joining"] {
        case nil: return []
        case .object(let members)?:
            return try members.fields.map { field in
                guard case .object(let fields) = field.value else {
                    throw InvalidArgument("joining", "must hold an object for each id, not \(field.value.kind)")
                }
                for inner in fields.fields where inner.name != "weight" && inner.name != "zone" {
                    throw InvalidArgument(inner.name, "is unknown; the fields of a joining member are weight, zone")
                }
                let known = ring.member(field.name)
                if known == nil { try Limits.check(member: field.name, field: "joining") }
                var member = known ?? HashRing.Member(id: field.name)
                let weights = RingLimits.weights
                if let weight = try fields.integer("weight", Int64(weights.lowerBound)...Int64(weights.upperBound)) {
                    member.weight = Int(weight)
                }
                if let zone = try fields.text("zone") {
                    try Limits.check(zone: zone)
                    member.zone = zone
                }
                return member
            }
        case let value?: throw InvalidArgument("joining", "must be an object with ids as names, not \(value.kind)")
        }
    }
}

extension JSONObject {
    /// A list of texts; empty when it is left out.
    func strings(_ name: String) throws -> [String] {
        switch self[name] {
        case nil: return []
        case .strings(let list)?: return list
        case let value?: throw InvalidArgument(name, "must be an array of strings, not \(value.kind)")
        }
    }

    func bool(_ name: String) throws -> Bool? {
        switch self[name] {
        case nil: return nil
        case .bool(let flag)?: return flag
        case let value?: throw InvalidArgument(name, "must be true or false, not \(value.kind)")
        }
    }
}
