// SPDX-License-Identifier: Apache-2.0

public import Ringfence
import RingfenceCore

/// How a ``ReplicatedCache`` keeps its values. The first three are fixed when the cache is made; all who open it must
/// ask for the same.
public struct CacheOptions: Sendable, Hashable {
    /// How many nodes keep each key: N. 1 to 8.
    public var copies: Int
    /// How many of them a write waits for: W. 1 to N.
    public var writes: Int
    /// How many of them a read waits for: R. 1 to N. With R + W > N a read sees the latest write.
    public var reads: Int
    /// How long a call may take before it fails, at most 1 s. 10 ms to 1 s.
    public var timeout: Duration
    /// How long removals, and values whose time is over, are remembered. Every node is completed from the others three
    /// times as often; one that nobody could do that for within three quarters of this is emptied and filled anew. 1
    /// minute to 7 days. Values with a time to live take room for so much longer.
    public var remembrance: Duration
    /// How long a node may be no member of the group before its copies are made anew on others. 1 s to 7 days.
    public var replaceAfter: Duration
    /// How many keys a second are handed over when a node is completed or brought what it missed. 100 to 1,000,000.
    public var pace: Int
    /// How many keys a node remembers for another that misses them. What is beyond is found by completing it. 0 to
    /// 10,000,000.
    public var hintLimit: Int
    /// The user name at the nodes; nil: none.
    public var username: String?
    /// The password at the nodes; nil: none.
    public var password: String?
    /// TLS material, for nodes whose address is a `rediss://` URL.
    public var tls: RingfenceConfiguration.TLS

    /// The longest a value may be.
    public static let maximumValueBytes = 1 << 20

    /// The longest any call may take; part of what keeps quorums right, so nobody can change it for himself.
    static let callLimit: Duration = .seconds(1)

    /// Three copies, of which two are written and two read.
    public init(
        copies: Int = 3, writes: Int = 2, reads: Int = 2, timeout: Duration = .seconds(1),
        remembrance: Duration = .seconds(3600), replaceAfter: Duration = .seconds(600), pace: Int = 20_000,
        hintLimit: Int = 100_000, username: String? = nil, password: String? = nil,
        tls: RingfenceConfiguration.TLS = .init()
    ) {
        self.copies = copies
        self.writes = writes
        self.reads = reads
        self.timeout = timeout
        self.remembrance = remembrance
        self.replaceAfter = replaceAfter
        self.pace = pace
        self.hintLimit = hintLimit
        self.username = username
        self.password = password
        self.tls = tls
    }

    func check() throws(InvalidArgument) {
        try Limits.check(copies, "copies", 1...8)
        try Limits.check(writes, "writes", 1...copies)
        try Limits.check(reads, "reads", 1...copies)
        try Limits.check(Nanos(saturating: timeout), "timeout", 10 * .millisecond...Nanos(saturating: Self.callLimit))
        try Limits.check(Nanos(saturating: remembrance), "remembrance", 60 * .second...7 * 86_400 * .second)
        try Limits.check(Nanos(saturating: replaceAfter), "replaceAfter", .second...7 * 86_400 * .second)
        try Limits.check(pace, "pace", 100...1_000_000)
        try Limits.check(hintLimit, "hintLimit", 0...10_000_000)
    }

    static func check(value: [UInt8]) throws(InvalidArgument) {
        guard value.count <= maximumValueBytes else {
            throw InvalidArgument("value", "must be at most \(maximumValueBytes) bytes, not \(value.count)")
        }
    }

    /// A time to live in ms.
    static func milliseconds(_ ttl: Duration?) throws(InvalidArgument) -> Int64? {
        guard let nanos = ttl.map({ Nanos(saturating: $0) }) else { return nil }
        try Limits.check(nanos, "ttl", .millisecond...365 * 86_400 * .second)
        return nanos / .millisecond
    }

    /// ms.
    var life: Int64 { Nanos(saturating: remembrance) / .millisecond }
    /// ms that a completed node counts as complete.
    var freshness: Int64 { life / 4 * 3 }
}

extension CacheOptions: CustomStringConvertible, CustomReflectable {
    /// The quorum; no password.
    public var description: String { "CacheOptions(N \(copies) W \(writes) R \(reads))" }
    /// Nothing beyond the description.
    public var customMirror: Mirror { Mirror(self, children: [:]) }
}
