// SPDX-License-Identifier: Apache-2.0
//
// A group's primary over HTTP: which member it is, which would be next, its history, and the orders of operators. The
// orders are those of the command line, with the same refusals: 409 with all reasons, and nothing changed.
//
// A switchover and a failover answer when the new primary is ready. If the client hangs up before that, the order
// stands all the same; DELETE takes a switchover back.
import HTTPTypes
import NIOCore
import Ringfence
import RingfenceCore
import RingfenceOperations

/// The routes of a group's primary and its elections.
struct ElectionRoutes: Sendable {
    let client: RingfenceClient
    let groups: GroupCache
    /// A group as Redis has it, or as it was last seen.
    let view: @Sendable (String) async throws -> GroupView

    static let switchoverSchema = Route.Schema(
        name: "SwitchoverRequest", fields: ["to", "timeoutMs", "actor", "reason"])
    static let failoverSchema = Route.Schema(
        name: "FailoverRequest", fields: ["to", "acceptsDataLoss", "actor", "reason"])
    static let pauseSchema = Route.Schema(name: "PauseRequest", fields: ["forMs", "actor", "reason"])
    static let orderSchema = Route.Schema(name: "OrderRequest", fields: ["actor", "reason"])
    static let maintenanceSchema = Route.Schema(
        name: "MaintenanceRequest", fields: ["member", "on", "actor", "reason"])
    static let breakerSchema = Route.Schema(name: "BreakerRequest", fields: ["state", "actor", "reason"])
    static let settingsSchema = Route.Schema(
        name: "SettingsRequest", fields: ElectionSettings.names + ["actor", "reason"])

    var routes: [Route] { looks + orders }

    private var looks: [Route] {
        [
            Route(
                method: .get, path: "/v1/groups/{name}/primary", operation: "getPrimary",
                summary: "Shows who is primary, and where it can be reached.", response: "Primary",
                handle: { exchange in Reply(JSONWriter.primary(of: try await view(exchange["name"]))) }),
            MemberList.route(view),
            Route(
                method: .get, path: "/v1/groups/{name}/plan", operation: "getPlan",
                summary: "Says who would be primary if it died now, how soon, and why not each of the others.",
                response: "Plan",
                handle: { exchange in
                    Reply(JSONWriter.describing(try await client.operations(on: exchange["name"]).plan()))
                }),
            Route(
                method: .get, path: "/v1/groups/{name}/history", operation: "getHistory",
                summary:
                    "Lists the changes of the primary: when, from and to whom, why, by whose order, how long it took.",
                query: [("limit", OpenAPI.reference("PageLimit"), "How many entries at most, the newest.")],
                response: "History",
                handle: { exchange in
                    let limit = try pageLimit(exchange.query)
                    let newest = try await GroupHistory.newest(limit, of: exchange["name"], client, most: 100_000)
                    return Reply(JSONWriter.describing(newest, of: exchange["name"]))
                }),
        ]
    }

    private var orders: [Route] {
        [
            order("switchover", Self.switchoverSchema, "Hands the role of primary over, without losing anything.") {
                order in
                let limits = (Limits.handover.lowerBound / .millisecond)...(Limits.handover.upperBound / .millisecond)
                let timeout = try order.body?.integer("timeoutMs", limits) ?? 30_000
                let to = try order.body?.text("to")
                return try await order.group.switchover(
                    to: to, timeout: .milliseconds(timeout), actor: order.actor, reason: order.reason)
            },
            order(
                "switchover", Self.orderSchema, "Takes a switchover back: the primary goes on.", method: .delete,
                operation: "abortSwitchover"
            ) { order in
                try await order.group.abortSwitchover(actor: order.actor, reason: order.reason)
                return nil
            },
            order("", Self.orderSchema, "Removes a group that nobody is in.", method: .delete, operation: "removeGroup")
            {
                order in
                try await order.group.remove(actor: order.actor, reason: order.reason)
                return nil
            },
            order(
                "failover", Self.failoverSchema, "Gives the role of primary to a member and accepts lost writes."
            ) { order in
                guard let to = try order.body?.text("to") else {
                    throw InvalidArgument("to", "is missing: who shall be primary")
                }
                return try await order.group.failover(
                    to: to, acceptsDataLoss: try order.body?.bool("acceptsDataLoss") ?? false, actor: order.actor,
                    reason: order.reason)
            },
            order("pause", Self.pauseSchema, "Pauses automatic election for a while.") { order in
                let limits = (Limits.pause.lowerBound / .millisecond)...(Limits.pause.upperBound / .millisecond)
                guard let length = try order.body?.integer("forMs", limits) else {
                    throw InvalidArgument("forMs", "is missing: a pause has an end")
                }
                try await order.group.pause(for: .milliseconds(length), actor: order.actor, reason: order.reason)
                return nil
            },
            order("resume", Self.orderSchema, "Ends a pause.") { order in
                try await order.group.resume(actor: order.actor, reason: order.reason)
                return nil
            },
            order("acknowledge", Self.orderSchema, "Acknowledges repeated failovers and resumes automatic election.") {
                order in
                try await order.group.acknowledge(actor: order.actor, reason: order.reason)
                return nil
            },
            order("maintenance", Self.maintenanceSchema, "Takes a member out of the election, or back into it.") {
                order in
                guard let member = try order.body?.text("member") else { throw InvalidArgument("member", "is missing") }
                guard let isOn = try order.body?.bool("on") else { throw InvalidArgument("on", "is missing") }
                try await order.group.setMaintenance(isOn, for: member, actor: order.actor, reason: order.reason)
                return nil
            },
            order("settings", Self.settingsSchema, "Changes how the group elects; what is left out stays.") {
                order in
                try await order.group.update(
                    try order.body.map { try Self.settings($0) } ?? ElectionSettings(), actor: order.actor,
                    reason: order.reason)
                return nil
            },
            order(
                "breaker", Self.breakerSchema,
                "Forces the group's circuit breaker open or closed for all clients, or returns it to automatic."
            ) { order in
                guard let text = try order.body?.text("state") else {
                    throw InvalidArgument("state", "is missing: open, closed or automatic")
                }
                guard let state = BreakerOverride(rawValue: text) else {
                    throw InvalidArgument("state", "must be open, closed or automatic")
                }
                guard !order.reason.isEmpty else {
                    throw InvalidArgument(
                        "reason", "is missing: it tells callers why all their calls, or none, are refused")
                }
                try await order.group.overrideBreaker(state, actor: order.actor, reason: order.reason)
                return nil
            },
        ]
    }

    private struct Order {
        var group: GroupOperations
        var body: JSONObject?
        var actor: String
        var reason: String
    }

    private func order(
        _ name: String, _ schema: Route.Schema, _ summary: String, method: HTTPRequest.Method = .post,
        operation: String? = nil,
        _ give: @Sendable @escaping (Order) async throws -> PrimaryStatus?
    ) -> Route {
        Route(
            method: method, path: "/v1/groups/{name}" + (name.isEmpty ? "" : "/" + name),
            operation: operation ?? name + "Group", summary: summary,
            query: method == .delete ? Route.orderQuery : [], request: schema, requestIsOptional: true,
            response: "Ordered",
            problems: [.orderRefused, .switchoverAborted, .failoverAborted],
            handle: { exchange in
                let body = exchange.body.readableBytes > 0 ? try JSONObject(exchange.body, schema) : nil
                let order = Order(
                    group: client.operations(on: exchange["name"]), body: body,
                    actor: try exchange.readActor(body), reason: try exchange.reason(body))
                let primary = try await give(order)
                return Reply(JSONWriter.describing("done", of: exchange["name"], primary))
            })
    }

    /// The settings that are words; the others are numbers.
    private static let words: Set<String> = ["rank", "zone", "failback", "minStandbysAction", "onCoordinatorLoss"]

    private static func settings(_ body: JSONObject) throws -> ElectionSettings {
        var stored: [String: String] = [:]
        for field in body.fields where field.name != "actor" && field.name != "reason" {
            let isWord = words.contains(field.name)
            switch field.value {
            case .string(let text) where isWord: stored[field.name] = text
            case .integer(let number) where !isWord: stored[field.name] = "\(number)"
            case let value:
                let kind = isWord ? "a string" : "an integer"
                throw InvalidArgument(field.name, "must be \(kind), not \(value.kind)")
            }
        }
        return try ElectionSettings(stored: stored)
    }
}
