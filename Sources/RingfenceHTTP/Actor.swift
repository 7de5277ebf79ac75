// SPDX-License-Identifier: Apache-2.0
//
// The actor of an order. What a client says of itself is not an identity: any client with a token may say anything. So
// the record begins with what the service saw, and the client's own claim follows, marked as such.
import NIOCore
import RingfenceCore

extension Exchange {
    /// The caller's address, with what the caller says it is: `http/127.0.0.1 (says ann)`.
    /// - Throws: `InvalidArgument` for `actor`.
    func actor(says name: String?) throws -> String {
        let peer = "http/\(channel.remoteAddress?.ipAddress ?? "unknown")"
        guard let name else { return peer }
        try Limits.check(owner: name, field: "actor")
        let (before, after) = (peer + " (says ", ")")
        let room = Limits.ownerBytes.upperBound - before.utf8.count - after.utf8.count
        guard name.utf8.count > room else { return before + name + after }
        var shown = name[...]
        while shown.utf8.count > room - 3 { shown = shown.dropLast() }
        return before + shown + "\u{2026}" + after
    }
}
