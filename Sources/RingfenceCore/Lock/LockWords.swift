// SPDX-License-Identifier: Apache-2.0
//
// The small values of a lock as they stand in Redis: the value of a lock key and a waiter's place in a queue. lock.lua
// reads and writes the same text; both are made here only, so that a comparison at Redis is one of bytes.

/// The value of a lock key, `<fence>:<nonce>:<owner>`. Holding it is the right to renew and release.
package struct LockValue: Hashable, Sendable {
    package var fence: Int64
    /// Random, one per logical acquire: `<process>-<counter>-<secret>`.
    package var nonce: String
    package var owner: String

    package init(fence: Int64, nonce: String, owner: String) {
        self.fence = fence
        self.nonce = nonce
        self.owner = owner
    }

    package init?(parsing text: some StringProtocol) {
        let parts = text.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3, let fence = Int64(parts[0]), fence > 0, !parts[1].isEmpty else { return nil }
        self.init(fence: fence, nonce: String(parts[1]), owner: String(parts[2]))
    }

    package var text: String { "\(fence):\(nonce):\(owner)" }

    /// What may be shown and stored: the nonce without its secret.
    package var id: String { Self.id(of: nonce) }

    package static func id(of nonce: String) -> String {
        let parts = nonce.split(separator: "-", maxSplits: 2)
        return parts.count == 3 ? "\(parts[0])-\(parts[1])" : nonce
    }
}

/// A waiter's place in Redis' queues: all that a grant to it needs.
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

    package init?(parsing text: some StringProtocol) {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        guard lines.count >= 4, let hold = Int64(lines[2]) else { return nil }
        self.init(
            nonce: String(lines[0]), owner: String(lines[1]), holdMilliseconds: hold,
            names: lines[3...].map { String($0) })
    }

    /// The queue member, as lock.lua makes it.
    package var text: String {
        if names.count == 1 { return "\(nonce)\n\(owner)\n\(holdMilliseconds)\n\(names[0])" }
        return "\(nonce)\n\(owner)\n\(holdMilliseconds)\n\(names.joined(separator: "\n"))"
    }
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

    /// How long Redis keeps the key: the ttl and a grace, so that the holder, whose clock may run up to 1 % slow beside
    /// Redis', always gives up first. It is also the delay before a dead holder's lock is given to the next.
    package var holdMilliseconds: Int64 { (ttl + grace) / .millisecond }

    /// 10 ms and 1 % of the ttl, at most 500 ms: no waiter is kept longer by it than that.
    package var grace: Nanos { Swift.min(10 * .millisecond + ttl / 100, 500 * .millisecond) }

    /// When a holder that asked at `sentAt` must stop: the ttl less 1 %, for clocks that run apart.
    package func deadline(sentAt: Nanos) -> Nanos { sentAt + ttl - ttl / 100 }
}
