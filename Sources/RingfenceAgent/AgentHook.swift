// SPDX-License-Identifier: Apache-2.0
//
// What a hook is given, and how its end is judged.
//
// It gets everything twice: as RINGFENCE_* in its environment, for shell scripts, and as one JSON object on standard
// input. Of the agent's own environment it gets all but RINGFENCE_*: that is where the agent's Redis password may
// stand.
//
// A promotion dies with the agent: an agent that cannot renew the lease must not make a primary. A suspension, a
// handover and a demotion go on: they make things safe.
import RingfenceAgentCore
import RingfenceCore
import RingfenceOperations

/// The context shared by all calls of one agent's hooks.
struct HookContext: Sendable {
    var group: String
    var member: String
    var address: String
    /// The agent's environment without RINGFENCE_*.
    var environment: [String]

    init(_ configuration: AgentConfiguration) {
        group = configuration.group
        member = configuration.member
        address = configuration.address
        environment = Self.inherited
    }

    /// This process' environment without what is meant for the agent alone.
    static var inherited: [String] { Environment.current.filter { !$0.hasPrefix("RINGFENCE_") } }

    /// The run of `hook` for `call`.
    func plan(_ hook: AgentConfiguration.Hook, _ call: HookCall) -> BoundedRun.Plan {
        var call = call
        if call.primary == member { call.primaryAddress = address }
        let limit = Duration.nanoseconds(call.limit)
        let isPromotion = call.kind == .prePromote || call.kind == .onPromote
        var plan = BoundedRun.Plan(
            hook.command,
            environment: environment + [
                "RINGFENCE_HOOK=\(call.kind.rawValue)", "RINGFENCE_GROUP=\(group)", "RINGFENCE_MEMBER=\(member)",
                "RINGFENCE_ADDRESS=\(address)", "RINGFENCE_ROLE=\(call.role.rawValue)", "RINGFENCE_EPOCH=\(call.epoch)",
                "RINGFENCE_PRIMARY=\(call.primary)", "RINGFENCE_PRIMARY_ADDRESS=\(call.primaryAddress)",
                "RINGFENCE_PREVIOUS=\(call.previous)", "RINGFENCE_PREVIOUS_EPOCH=\(call.previousEpoch)",
                "RINGFENCE_REASON=\(call.reason)",
                "RINGFENCE_DEADLINE_MS=\(limit.wholeMilliseconds)",
            ], limit: limit)
        var json = JSONWriter()
        json.object { json in
            json.field("hook", call.kind.rawValue)
            json.field("group", group)
            json.field("member", member)
            json.field("address", address)
            json.field("role", call.role.rawValue)
            json.field("epoch", call.epoch)
            json.field("primary", call.primary)
            json.field("primaryAddress", call.primaryAddress)
            json.field("previous", call.previous)
            json.field("previousEpoch", call.previousEpoch)
            json.field("reason", call.reason)
            json.field("deadlineMs", limit.wholeMilliseconds)
        }
        plan.input = Array(json.text.utf8)
        plan.diesWithUs = isPromotion
        return plan
    }

    /// The run of `onEvent` for an event of the group.
    func plan(_ hook: AgentConfiguration.Hook, event: (type: String, json: [UInt8])) -> BoundedRun.Plan {
        var plan = BoundedRun.Plan(
            hook.command,
            environment: environment + [
                "RINGFENCE_HOOK=onEvent", "RINGFENCE_GROUP=\(group)", "RINGFENCE_MEMBER=\(member)",
                "RINGFENCE_ADDRESS=\(address)", "RINGFENCE_EVENT=\(event.type)",
                "RINGFENCE_DEADLINE_MS=\(hook.timeout.wholeMilliseconds)",
            ], limit: hook.timeout)
        plan.input = event.json
        return plan
    }
}

extension BoundedRun.Result {
    /// For the machine.
    var outcome: HookOutcome {
        if case .exited(.code(0)) = end { return .passed(position: Self.position(in: output)) }
        return .failed(what)
    }

    /// What happened, and the last line it printed.
    var what: String {
        let what =
            switch end {
            case .exited(.code(let code)): "exited with \(code)"
            case .exited(.signal(let signal)): "ended by signal \(signal)"
            case .timedOut: "not done in time"
            case .killed: "no longer wanted"
            case .notStarted(let why): why
            }
        let last = output.split(whereSeparator: \.isNewline).last { $0.contains { !$0.isWhitespace } }
        guard let last, case .exited = end else { return what }
        return "\(what): \(last.prefix(200))"
    }

    /// The number of the last line `position=NUMBER`.
    static func position(in output: String) -> Int64? {
        word("position", in: output).flatMap { Int64($0) }
    }

    /// The text after `name=` in the last line that begins so.
    static func word(_ name: String, in output: String) -> Substring? {
        output.split(whereSeparator: \.isNewline).last { $0.hasPrefix("\(name)=") }?
            .dropFirst(name.utf8.count + 1)
    }

    /// For an `agent.hook` event: the last 4 KiB of the output.
    func json(_ call: HookCall) -> String {
        var json = JSONWriter()
        json.object { json in
            json.field("hook", call.kind.rawValue)
            json.field("epoch", call.epoch)
            json.field("reason", call.reason)
            json.field("passed", end == .exited(.code(0)))
            switch end {
            case .exited(.code(let code)): json.field("exit", code)
            case .exited(.signal(let signal)): json.field("signal", signal)
            case .timedOut: json.field("ended", "timeout")
            case .killed: json.field("ended", "preempted")
            case .notStarted(let why): json.field("ended", why)
            }
            json.field("tookMs", took.wholeMilliseconds)
            // Without what JSON needs six bytes for: an event has at most 16 KiB.
            let tail = String(decoding: output.utf8.suffix(4_096), as: UTF8.self).unicodeScalars
            json.field(
                "output",
                String(String.UnicodeScalarView(tail.map { $0.value < 0x20 && $0 != "\n" && $0 != "\t" ? "?" : $0 })))
        }
        return json.text
    }
}
