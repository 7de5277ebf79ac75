// SPDX-License-Identifier: Apache-2.0

public import Ringfence
import RingfenceCore

/// The options of a ``ReplicatedCache``. The first three are fixed when the cache is made; all processes that open it
/// must ask for the same.
public struct CacheOptions: Sendable, Hashable {
    /// The number N of nodes that keep each key. 1 to 8; default 3.
    public var replicationFactor: Int
    /// The number W of nodes that a write waits for. 1 to N; default 2.
    public var writeQuorum: Int
    /// The number R of nodes that a read waits for. 1 to N; default 2. With R + W > N a read sees the latest write.
    public var readQuorum: Int
    /// The time limit of a call. 10 ms to 1 s; default 1 s.
    public var timeout: Duration
    /// How long removals and expired values are remembered. 1 minute to 7 days; default 1 h. Values with a time to live
    /// occupy memory for this much longer. Every node is completed from the others three times in this period; a node
    /// that could not be completed within three quarters of it is emptied and filled anew.
    public var tombstoneLifetime: Duration
    /// How long a node may be missing from the group before its copies are made anew on others. 1 s to 7 days; default
    /// 10 minutes.
    public var replaceAfter: Duration
    /// The number of keys a second that are copied when a node is completed or its hints are replayed. 100 to
    /// 1,000,000; default 20,000.
    public var repairKeysPerSecond: Int
    /// The number of keys that a node keeps as hints for another that missed them. 0 to 10,000,000; default 100,000.
    /// Keys beyond that are found when the node is completed.
    public var hintLimit: Int
    /// The user name at the nodes; nil, the default: none.
    public var username: String?
    /// The password at the nodes; nil, the default: none.
    public var password: String?
    /// TLS material, for nodes whose address is a `rediss://` URL.
    public var tls: RingfenceConfiguration.TLS

    /// The largest value, in bytes.
    public static let maximumValueBytes = 1 << 20

    /// The longest time that any call may take. Quorums rest on it, so it cannot be configured.
    static let callLimit: Duration = .seconds(1)

    /// Three copies, of which two are written and two read.
    public init(
        replicationFactor: Int = 3, writeQuorum: Int = 2, readQuorum: Int = 2, timeout: Duration = .seconds(1),
        tombstoneLifetime: Duration = .seconds(3600), replaceAfter: Duration = .seconds(600),
        repairKeysPerSecond: Int = 20_000,
        hintLimit: Int = 100_000, username: String? = nil, password: String? = nil,
        tls: RingfenceConfiguration.TLS = .init()
    ) {
        self.replicationFactor = replicationFactor
        self.writeQuorum = writeQuorum
        self.readQuorum = readQuorum
        self.timeout = timeout
        self.tombstoneLifetime = tombstoneLifetime
        self.replaceAfter = replaceAfter
        self.repairKeysPerSecond = repairKeysPerSecond
        self.hintLimit = hintLimit
        self.username = username
        self.password = password
        self.tls = tls
    }

    func check() throws(InvalidArgument) {
        try Limits.check(replicationFactor, "replicationFactor", 1...8)
        try Limits.check(writeQuorum, "writeQuorum", 1...replicationFactor)
        try Limits.check(readQuorum, "readQuorum", 1...replicationFactor)
        try Limits.check(Nanos(saturating: timeout), "timeout", 10 * .millisecond...Nanos(saturating: Self.callLimit))
        try Limits.check(Nanos(saturating: tombstoneLifetime), "tombstoneLifetime", 60 * .second...7 * 86_400 * .second)
        try Limits.check(Nanos(saturating: replaceAfter), "replaceAfter", .second...7 * 86_400 * .second)
        try Limits.check(repairKeysPerSecond, "repairKeysPerSecond", 100...1_000_000)
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
    var life: Int64 { Nanos(saturating: tombstoneLifetime) / .millisecond }
    /// ms that a completed node counts as complete.
    var freshness: Int64 { life / 4 * 3 }
}

extension CacheOptions: CustomStringConvertible, CustomReflectable {
    /// The quorum; no password.
    public var description: String { "CacheOptions(N \(replicationFactor) W \(writeQuorum) R \(readQuorum))" }
    /// Nothing beyond the description.
    public var customMirror: Mirror { Mirror(self, children: [:]) }
}
