// SPDX-License-Identifier: Apache-2.0
//
// A group's members as a list: JSON, or one line each, for scripts that write the server list of a proxy.
//
// The lines are asked for by `?format=text` and not by an Accept header: the format is part of the address that people
// paste, configure and find in logs, and curl's `*/*` says nothing. A line is `id address weight zone`, to be split at
// the blanks: an empty field is `-`, and what would break the split is percent-encoded, as it is in paths. What JSON
// says beside the members is in headers, so that a script that only reads lines is not misled by one of another kind.
import HTTPTypes
import Ringfence
import RingfenceCore
import RingfenceOperations

enum MemberList {
    enum Format: String, CaseIterable { case json, text }

    static func route(_ view: @Sendable @escaping (String) async throws -> GroupView) -> Route {
        let words = GroupView.Filter.words
        let list = words.map { "\"\($0)\"" }.joined(separator: ",")
        return Route(
            method: .get, path: "/v1/groups/{name}/members", operation: "listMembers",
            summary: "Lists a group's members, or some of them: for load balancers.",
            query: [
                (
                    "state", #"{"type":"string","enum":[\#(list)],"default":"all"}"#,
                    "Only those. healthy: it lives, its check passes and its weight is not 0; unhealthy: all others."
                ),
                (
                    "format", #"{"type":"string","enum":["json","text"],"default":"json"}"#,
                    "text: a line `id address weight zone` for each, an empty field as -, blanks in one as %20; stale "
                        + "and age in the headers Ringfence-Stale and Ringfence-Age-Ms."
                ),
            ],
            response: "Members", isAlsoText: true,
            handle: { exchange in
                let query = exchange.query
                guard let filter = GroupView.Filter(query["state"] ?? "all") else {
                    throw InvalidArgument("state", "must be one of \(words.joined(separator: ", "))")
                }
                guard let format = Format(rawValue: query["format"] ?? "json") else {
                    throw InvalidArgument("format", "must be json or text")
                }
                let view = try await view(exchange["name"])
                switch format {
                case .json: return Reply(JSONWriter.members(of: view, filter))
                case .text: return text(of: view, filter)
                }
            })
    }

    private static func text(of view: GroupView, _ filter: GroupView.Filter) -> Reply {
        var text = ""
        for entry in view.members(filter) {
            let member = entry.member
            text += "\(field(member.id)) \(field(member.address)) \(member.weight) \(field(member.zone))\n"
        }
        var reply = Reply(text: text, type: "text/plain; charset=utf-8")
        let facts = [
            ("Ringfence-Version", "\(view.version)"), ("Ringfence-Stale", "\(view.isStale)"),
            ("Ringfence-Age-Ms", "\(view.age.wholeMilliseconds)"), ("Ringfence-Breaker", view.breaker.rawValue),
        ]
        for (name, value) in facts {
            if let name = HTTPField.Name(name) { reply.headers.append(HTTPField(name: name, value: value)) }
        }
        return reply
    }

    /// A field of a line: never empty, and without a blank.
    static func field(_ text: String) -> String {
        guard text != "-" else { return "%2D" }
        guard !text.isEmpty else { return "-" }
        var field = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "%": field += "%25"
            case _ where scalar.properties.isWhitespace:
                for byte in String(scalar).utf8 { field += "%" + hex(byte) }
            default: field.unicodeScalars.append(scalar)
            }
        }
        return field
    }

    private static func hex(_ byte: UInt8) -> String {
        let digits = String(byte, radix: 16, uppercase: true)
        return digits.count < 2 ? "0" + digits : digits
    }
}
