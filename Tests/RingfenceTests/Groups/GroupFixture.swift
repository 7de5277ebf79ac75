// SPDX-License-Identifier: Apache-2.0

import Hiredis
import RingfenceCore
import TestSupport
import Testing

@testable import Ringfence

/// An event as it stands in the log.
struct LoggedEvent: Sendable, Equatable {
    var generation: String
    var sequence: Int64
    var at: Int64
    var type: String
    var member: String?
    var version: Int64?
    var of: Int64
    var reason: String?
    var previous: String?

    init(_ text: String) throws {
        let object = try JSONObject(text.utf8, allowed: nil, depth: 3)
        func string(_ name: String) -> String? {
            if case .string(let text)? = object[name] { text } else { nil }
        }
        func integer(_ name: String) -> Int64? {
            if case .integer(let number)? = object[name] { number } else { nil }
        }
        generation = try #require(string("generation"))
        sequence = try #require(integer("sequence"))
        at = try #require(integer("at"))
        type = try #require(string("type"))
        member = string("member")
        version = integer("version")
        of = integer("of") ?? 1
        reason = string("reason")
        previous = string("previous")
    }
}

extension Observer {
    /// The whole event log.
    func events() async throws -> [LoggedEvent] {
        let reply = try await send("XRANGE", "ringfence:{default}:events", "-", "+")
        return try (reply.array ?? []).map { entry in
            let event = try LoggedEvent(try #require(entry.array?.last?.array?.last?.text))
            let id = try #require(entry.array?.first?.text)
            #expect(id == "\(event.sequence)-0")
            return event
        }
    }

    /// The events of a type, in order.
    func events(_ type: String) async throws -> [LoggedEvent] { try await events().filter { $0.type == type } }

    /// Numbers without a hole, versions that rise by one a change set.
    func checkLog(_ location: SourceLocation = #_sourceLocation) async throws {
        var last: LoggedEvent?
        var version: Int64 = 0
        var left: Int64 = 0
        for event in try await events() {
            if let last { #expect(event.sequence == last.sequence + 1, sourceLocation: location) }
            last = event
            guard let its = event.version else { continue }
            if left > 0 {
                #expect(its == version, "a change set is one version", sourceLocation: location)
                left -= 1
            } else {
                #expect(its > version, "versions grow", sourceLocation: location)
                if event.type != "state.rolledBack" { #expect(its == version + 1, sourceLocation: location) }
                version = its
                left = event.of - 1
            }
        }
        #expect(left == 0, sourceLocation: location)
    }
}

/// The ids in a snapshot.
extension GroupSnapshot {
    var ids: [String] { members.map(\.id) }
}

/// Waits until a group's snapshot satisfies a condition.
func eventually(
    _ group: Group, _ what: String, within limit: Duration = .seconds(90),
    _ condition: @escaping @Sendable (GroupSnapshot) -> Bool
) async throws {
    try await eventually(what, within: limit) { condition(group.snapshot) }
}
