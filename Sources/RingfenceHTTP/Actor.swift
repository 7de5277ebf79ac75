// SPDX-License-Identifier: Apache-2.0
//
// The actor of an order. What a client says of itself is not an identity: any client with a token may say anything. So
// the record begins with what the service saw, and the client's own claim follows, marked as such.
import NIOCore
import RingfenceCore

extension Exchange {
    /// What an order says beside its name: in the body, or else in the query; both must be good.
    func text(_ name: String, _ body: JSONObject?, _ check: (String) throws -> Void) throws -> String? {
        let (inBody, inQuery) = (try body?.text(name), query[name])
        for text in [inBody, inQuery] { if let text { try check(text) } }
        return inBody ?? inQuery
    }

    /// Why it is given; empty if it does not say.
    func reason(_ body: JSONObject?) throws -> String {
        try text("reason", body) { try Limits.check(reason: $0) } ?? ""
    }

    /// The caller's address, with what the caller says it is: `http/127.0.0.1 (says ann)`. It is in `actor` then.
    /// - Throws: `InvalidArgument` for `actor`.
    mutating func readActor(_ body: JSONObject?) throws -> String {
        let actor = shown(try text("actor", body) { try Limits.check(owner: $0, field: "actor") })
        self.actor = actor
        return actor
    }

    private func shown(_ name: String?) -> String {
        let peer = peer(of: channel)
        guard let name else { return peer }
        let (before, after) = (peer + " (says ", ")")
        let room = Limits.ownerBytes.upperBound - before.utf8.count - after.utf8.count
        guard name.utf8.count > room else { return before + name + after }
        var shown = name[...]
        while shown.utf8.count > room - 3 { shown = shown.dropLast() }
        return before + shown + "\u{2026}" + after
    }
}
