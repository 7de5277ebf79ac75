// SPDX-License-Identifier: Apache-2.0
//
// The small values of a lock as they stand in Redis: the value of a lock key and a waiter's place in a queue. lock.lua
// reads and writes the same text; both are made here only, so that a comparison at Redis is one of bytes.

import CXXHash

/// The value of a lock key, `<fence>:<nonce>:<owner>`. Holding it is the right to renew and release.
package struct LockValue: Hashable, Sendable {
    package var fence: Int64
    /// Random, one per logical acquire: `<process>-<counter>-<secret>`; for several names the counter is
    /// followed by `x` and their number, and the secret by their digest.
    package var nonce: String
    package var owner: String

    package init(fence: Int64, nonce: String, owner: String) {
        self.fence = fence
        self.nonce = nonce
        self.owner = owner
    }

    package init?(parsing text: some StringProtocol) {
        // By bytes: a colon and a combining mark behind it, as an owner may begin, are one character to Swift.
        let parts = text.utf8.split(
            separator: UInt8(ascii: ":"), maxSplits: 2, omittingEmptySubsequences: false
        ).map { String(decoding: $0, as: UTF8.self) }
        guard parts.count == 3, let fence = Int64(parts[0]), fence > 0, !parts[1].isEmpty else { return nil }
        self.init(fence: fence, nonce: parts[1], owner: parts[2])
    }

    package var text: String {
        // Not interpolated: that grows step by step, and this is made for each release.
        var text = ""
        text.reserveCapacity(24 + nonce.utf8.count + owner.utf8.count)
        text += String(fence)
        text += ":"
        text += nonce
        text += ":"
        text += owner
        return text
    }

    /// What may be shown and stored: the nonce without its secret.
    package var id: String { Self.id(of: nonce) }

    package static func id(of nonce: String) -> String {
        guard let (_, secret) = parts(of: nonce) else { return nonce }
        return String(nonce.utf8[..<nonce.utf8.index(before: secret.startIndex)]) ?? nonce
    }

    /// What stands behind the first and the second dash; nil without two. By bytes: it is done for each release.
    private static func parts(of nonce: String) -> (counter: Substring.UTF8View, secret: Substring.UTF8View)? {
        let dash = UInt8(ascii: "-")
        guard let first = nonce.utf8.firstIndex(of: dash) else { return nil }
        let rest = nonce.utf8[nonce.utf8.index(after: first)...]
        guard let second = rest.firstIndex(of: dash) else { return nil }
        return (rest[..<second], rest[rest.index(after: second)...])
    }

    /// How many names were taken together under this nonce: its counter says so, if there were several.
    package var nameCount: Int {
        guard let counter = Self.parts(of: nonce)?.counter, let mark = counter.lastIndex(of: UInt8(ascii: "x"))
        else { return 1 }
        return Int(Substring(counter[counter.index(after: mark)...])) ?? 1
    }

    /// False if it was taken for other names than these, which stand in the order of their bytes. (Of one name only
    /// Redis knows, and compares.)
    package func isOf(_ names: [String]) -> Bool {
        guard nameCount == names.count else { return false }
        guard names.count > 1, let secret = Self.parts(of: nonce)?.secret, secret.count == 48 else { return true }
        return UInt64(Substring(secret.suffix(16)), radix: 16) == Self.digest(of: names)
    }

    /// Tells names taken together from others: to find mistakes, not forgers.
    package static func digest(of names: [String]) -> UInt64 {
        var text = names.joined(separator: "\n")
        return text.withUTF8 { rf_xxh3_64($0.baseAddress, $0.count, 0) }
    }
}

/// A waiter's place in Redis' queues: all that a grant to it needs. Several names stand in `place:<nonce>`, once.
package struct Place: Hashable, Sendable {
    package var nonce: String
    package var owner: String
    package var holdMilliseconds: Int64
    package var names: [String]

    package init(nonce: String, owner: String, holdMilliseconds: Int64, names: [String]) {
        self.nonce = nonce
        self.owner = owner
        self.holdMilliseconds = holdMilliseconds
        self.names = names
    }

    /// From the member of a queue. `names` are all of them, a line each, as they stand beside it if there are several.
    package init?(parsing text: some StringProtocol, names: String = "") {
        let lines = Self.lines(text)
        guard lines.count >= 4, let hold = Int64(lines[2]) else { return nil }
        self.init(
            nonce: lines[0], owner: lines[1], holdMilliseconds: hold,
            names: names.isEmpty ? Array(lines[3...]) : Self.lines(names))
    }

    private static func lines(_ text: some StringProtocol) -> [String] {
        text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
            .map { String(decoding: $0, as: UTF8.self) }
    }

    /// The queue member, as lock.lua makes it: of several names the first, for it stands in the queue of each.
    package var text: String { "\(nonce)\n\(owner)\n\(holdMilliseconds)\n\(names[0])" }
}

/// On what terms a lock is wanted.
package struct LockTerms: Hashable, Sendable {
    package var owner: String
    /// How long the holder may rely on the lock after it was asked for, before the margin for drift.
    package var ttl: Nanos

    package init(owner: String, ttl: Nanos) {
        self.owner = owner
        self.ttl = ttl
    }

    /// How long Redis keeps the key: the ttl and a grace, so that the holder, whose clock may run slow beside Redis' by
    /// what ``ClockDrift`` allows, always gives up first. It is also the delay before a dead holder's lock is given to
    /// the next.
    package var holdMilliseconds: Int64 { (ttl + grace) / .millisecond }

    /// 10 ms and 1 % of the ttl, at most 500 ms: no waiter is kept longer by it than that.
    package var grace: Nanos { Swift.min(10 * .millisecond + ttl / ClockDrift.part, 500 * .millisecond) }

    /// When a holder that asked at `sentAt` must stop: the ttl less 1 %, for clocks that run apart.
    package func deadline(sentAt: Nanos) -> Nanos { sentAt + ClockDrift.shortened(ttl) }
}
