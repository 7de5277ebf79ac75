// SPDX-License-Identifier: Apache-2.0
//
// From the fields of a request body to checked values. The limits are those of the library (`Limits`), checked here
// already so that the problem can name the field as the client wrote it (`ttlMs`), before anything is sent to Redis.
import NIOCore
import Ringfence
import RingfenceCore
import RingfenceOperations

/// The largest body that is read.
let bodyBytesMaximum = 65_536
/// The longest a request may wait for a lock: beyond it proxies and clients have given up long ago.
let waitMsMaximum: Int64 = 300_000

extension JSONObject {
    /// Reads a request's body.
    /// - Throws: ``JSONError``.
    init(_ body: ByteBuffer, _ schema: Route.Schema, depth: Int = 0) throws {
        if body.readableBytes == 0 { throw JSONError(message: "the body must be a JSON object", offset: 0) }
        try self.init(body.readableBytesView, allowed: schema.fields, depth: depth)
    }

    func text(_ name: String) throws -> String? {
        switch self[name] {
        case nil: return nil
        case .string(let text)?: return text
        case let value?: throw InvalidArgument(name, "must be a string, not \(value.kind)")
        }
    }

    func requiredText(_ name: String) throws -> String {
        guard let text = try text(name) else { throw InvalidArgument(name, "is missing") }
        return text
    }

    func integer(_ name: String, _ range: ClosedRange<Int64>) throws -> Int64? {
        switch self[name] {
        case nil: return nil
        case .integer(let number)?:
            guard range.contains(number) else {
                throw InvalidArgument(name, "must be \(range.lowerBound) to \(range.upperBound), not \(number)")
            }
            return number
        case .otherNumber?:
            throw InvalidArgument(name, "must be an integer from \(range.lowerBound) to \(range.upperBound)")
        case let value?: throw InvalidArgument(name, "must be an integer, not \(value.kind)")
        }
    }

    /// `ttlMs`, which has no default: only the caller knows how long its work may take.
    func ttl() throws -> Duration {
        let range = (Limits.ttl.lowerBound / .millisecond)...(Limits.ttl.upperBound / .millisecond)
        guard let ttl = try integer("ttlMs", range) else {
            throw InvalidArgument("ttlMs", "is missing: milliseconds, \(range.lowerBound) to \(range.upperBound)")
        }
        return .milliseconds(ttl)
    }

    /// `waitMs`; without it the answer comes at once.
    func wait() throws -> Duration {
        .milliseconds(try integer("waitMs", 0...waitMsMaximum) ?? 0)
    }

    func owner() throws -> String? {
        guard let owner = try text("owner") else { return nil }
        try Limits.check(owner: owner)
        return owner
    }

    /// `requestId`: a client that knows it needs no token, hence its minimum length.
    func requestId() throws -> String? {
        guard let id = try text("requestId") else { return nil }
        guard (16...128).contains(id.utf8.count), id.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else {
            throw InvalidArgument("requestId", "must be 16 to 128 characters of ASCII without blanks, chosen at random")
        }
        return id
    }

    /// `confirm`: the replicas that must have the grant before it is told.
    func durability(_ ttl: Duration) throws -> Durability {
        guard let value = self["confirm"] else { return .primary }
        guard case .object(let confirm) = value else {
            throw InvalidArgument("confirm", "must be an object, not \(value.kind)")
        }
        for field in confirm.fields where field.name != "replicas" && field.name != "withinMs" {
            throw InvalidArgument(field.name, "is unknown; the fields of confirm are replicas, withinMs")
        }
        let longest = min(5_000, ttl.wholeMilliseconds / 3)
        guard let within = try confirm.integer("withinMs", 1...5_000) else {
            throw InvalidArgument("withinMs", "of confirm is missing: 1 to \(longest)")
        }
        guard within <= longest else {
            throw InvalidArgument(
                "withinMs", "of confirm must be 1 to \(longest): a third of ttlMs, and at most 5000")
        }
        switch confirm["replicas"] {
        case .string("all")?: return .confirmed(replicas: .all, within: .milliseconds(within))
        case .integer(let number)? where (1...1_000).contains(number):
            return .confirmed(replicas: Int(number), within: .milliseconds(within))
        case nil: throw InvalidArgument("replicas", #"of confirm is missing: 1 to 1000, or "all""#)
        default: throw InvalidArgument("replicas", #"of confirm must be 1 to 1000, or "all""#)
        }
    }

    func names() throws -> [String] {
        switch self["names"] {
        case nil: throw InvalidArgument("names", "is missing")
        case .strings(let names)?:
            try Limits.check(names: names)
            return names
        case let value?: throw InvalidArgument("names", "must be an array of strings, not \(value.kind)")
        }
    }

    /// `token`: checked for its length only, as what is in it is between the library and Redis.
    func token() throws -> String {
        let token = try requiredText("token")
        guard (1...512).contains(token.utf8.count) else {
            throw InvalidArgument("token", "must be 1 to 512 bytes")
        }
        return token
    }
}

/// The parameter `limit` of a list.
func pageLimit(_ query: [String: String]) throws -> Int {
    try number(query, "limit", Limits.page) ?? 100
}

/// A parameter that is a number, in digits alone.
func number(_ query: [String: String], _ name: String, _ range: ClosedRange<Int>) throws -> Int? {
    guard let text = query[name] else { return nil }
    guard let number = UInt64(digits: text).flatMap({ Int(exactly: $0) }), range.contains(number) else {
        throw InvalidArgument(name, "must be \(range.lowerBound) to \(range.upperBound)")
    }
    return number
}

extension UInt64 {
    /// From up to 20 digits, without a sign.
    init?(digits text: String) {
        guard (1...20).contains(text.utf8.count), text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else {
            return nil
        }
        self.init(text)
    }
}
