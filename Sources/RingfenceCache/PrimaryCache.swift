// SPDX-License-Identifier: Apache-2.0
//
// A cache where Redis itself replicates: values stand as plain strings at the primary of a group, and its replicas
// follow.
//
// Nothing here runs on its own. Each call looks at the group's snapshot, which costs no round trip, and goes to its
// ready primary there; a new connection is made when that is another member, or at another address, than the time
// before. The old one is not cut but released: calls that are under way on it get their server's answer, and the last
// one closes it.
//
// A Redis that is no longer primary says so itself: it is a replica then, and refuses writes. What no client can find
// out is that its primary is isolated and another was elected meanwhile. So the primary must notice that alone
// (`min-replicas-to-write`), or the caller asks for a confirmation, which an isolated primary does not get.

import CoreMetrics
import Hiredis
public import Ringfence
import RingfenceCacheCore
import RingfenceCore
import Synchronization

/// Values at the Redis that is primary of a group, where Redis' own replication copies them.
///
/// ```swift
/// let cache = try await ringfence.primaryCache(
///     "cache", options: .init(durability: .confirmed(replicas: 1, within: .milliseconds(100))))
/// try await cache.set("user/17", bytes, for: .seconds(600))
/// let bytes = try await cache.get("user/17")
/// ```
///
/// Calls go to the group's ready primary, and follow a switchover or failover. While there is none they fail at once.
///
/// What you get is what Redis' replication gives. A read sees the latest write that the primary has. **A write that was
/// acknowledged may be lost in a failover**: replicas get it a moment later. With
/// `Durability.confirmed(replicas:within:)` the call waits until that many have it, and checks the count. That makes a
/// loss rarer, but is no consensus: a replica that does not have the write may be elected. Where that must not be, use
/// a ``ReplicatedCache``.
public final class PrimaryCache: Sendable {
    private struct State {
        var node: PrimaryNode?
        var isClosed = false
    }

    /// The cache's name: that of its group.
    public let name: String
    private let options: PrimaryCacheOptions
    private let group: Group
    private let client: RingfenceClient
    private let metrics = CacheMetrics()
    /// Before each key. The name's length stands in it, so no key of one cache can be one of another.
    private let prefix: [UInt8]
    private let mark: [UInt8]
    private let state = Mutex(State())

    init(_ group: Group, _ options: PrimaryCacheOptions, client: RingfenceClient) {
        name = group.name
        self.options = options
        self.group = group
        self.client = client
        let name = "\(group.name.utf8.count):\(group.name)"
        prefix = Array("\(client.keyPrefix)cachevalue:\(name):".utf8)
        mark = Array("\(client.keyPrefix)cachemark:\(name)".utf8)
    }

    // MARK: Values

    /// The value of a key; nil if there is none, it was removed, or its time is over.
    ///
    /// A primary that hands over is still read. Around a failover the value may be older than the latest write: it may
    /// come from an old primary that was not recognized as such yet, or from a new one that did not have the write.
    /// - Parameter key: 1 to 512 bytes of UTF-8 without control characters.
    /// - Throws: `RingfenceError`, effect `none`: `argument.invalid`; `cache.primary` if there is no primary, or it
    ///   does not answer within ``PrimaryCacheOptions/timeout``; `cancelled`; `client.shutDown`.
    public func get(_ key: String) async throws -> [UInt8]? {
        try check(key)
        let (node, member) = try primary(isReading: true)
        do { return try await node.get(prefix + key.utf8) } catch {
            var failure = failure(error, "reading from", member)
            failure.effect = .none
            throw failure
        }
    }

    /// Stores a value.
    ///
    /// - Parameters:
    ///   - key: 1 to 512 bytes of UTF-8 without control characters.
    ///   - value: up to 1 MiB.
    ///   - ttl: the time to live, 1 ms to 365 days; nil: for ever.
    ///   - durability: the durability to wait for; nil: the cache's own. `within` is 1 ms to 5 s.
    /// - Throws: `RingfenceError`: `argument.invalid`, effect `none`; `cache.primary`, with effect `none` if there is
    ///   no primary, it is not reached, or refuses, and `unknown` if no answer came; `cache.notConfirmed`, effect
    ///   `unknown`: the primary has it, and fewer replicas than asked for, so a failover may lose it; `cancelled`;
    ///   `client.shutDown`. Writing the same value again does no harm, unless another client wrote another value
    ///   meanwhile.
    ///
    /// A confirmed write ignores cancellation: it ends within twice ``PrimaryCacheOptions/timeout`` plus `within`, its
    /// own or, where it comes behind others that ask for longer, theirs.
    public func set(
        _ key: String, _ value: [UInt8], for ttl: Duration? = nil, durability: Durability? = nil
    ) async throws {
        let milliseconds: Int64?
        do throws(InvalidArgument) {
            try CacheOptions.check(value: value)
            milliseconds = try CacheOptions.milliseconds(ttl)
        } catch { throw RingfenceError(error) }
        try await write(key, value, milliseconds, durability)
    }

    /// Removes a key, whether there is a value or not. As ``set(_:_:for:durability:)``.
    public func remove(_ key: String, durability: Durability? = nil) async throws {
        try await write(key, nil, nil, durability)
    }

    private func write(_ key: String, _ value: [UInt8]?, _ ttl: Int64?, _ durability: Durability?) async throws {
        let durability = durability ?? options.durability
        do throws(InvalidArgument) { try PrimaryCacheOptions.check(durability) } catch { throw RingfenceError(error) }
        try check(key)
        let (node, member) = try primary(isReading: false)
        let write = PrimaryWrite(key: prefix + key.utf8, value: value, ttl: ttl)
        let doing = value == nil ? "removing from" : "writing to"
        guard let confirmation = durability.confirmation else {
            do { return try await node.write(write) } catch { throw failure(error, doing, member) }
        }
        switch await node.write(write, confirmation) {
        case .confirmed: break
        case .failed(let error): throw failure(error, doing, member)
        case .done(let acknowledgement):
            throw notConfirmed(doing, member, acknowledgement.words(confirmation), nil)
        case .uncounted(let error):
            throw notConfirmed(doing, member, "how many replicas have it is not known: \(error.message)", error)
        }
    }

    private func notConfirmed(_ doing: String, _ member: String, _ why: String, _ error: RedisError?) -> RingfenceError
    {
        metrics.notConfirmed.increment()
        return RingfenceError(
            .cacheNotConfirmed, effect: .unknown, isRetriable: error?.server?.prefix != .noPermission,
            underlying: error,
            "\(doing) the cache '\(name)': it is done at its primary '\(member)', but \(why). "
                + "A failover may undo it; repeat it, or see to the replicas")
    }

    /// Closes the connections. Further calls throw `client.shutDown`. Dropping the cache does the same.
    public func close() async {
        let node = state.withLock { state in
            state.isClosed = true
            defer { state.node = nil }
            return state.node
        }
        await node?.close()
    }

    // MARK: The primary

    private func check(_ key: String) throws {
        do throws(InvalidArgument) { try Limits.check(key: key) } catch { throw RingfenceError(error) }
        guard !client.isClosed, !state.withLock({ $0.isClosed }) else { throw RingfenceError.shutDown }
    }

    /// The primary, as this process last heard, and the way there. One that hands over takes no writes, but is read.
    private func primary(isReading: Bool) throws -> (PrimaryNode, member: String) {
        let snapshot = group.snapshot
        guard let role = snapshot.primary?.role, let member = snapshot.member(role.primary),
            role.isReady(member.record) || (isReading && role.isDraining(member.record))
        else { throw absent(snapshot.primary?.role.noneReady ?? "it has no primary", isRetriable: true) }
        guard !member.address.isEmpty else {
            throw absent("its primary '\(member.id)' has no address", isRetriable: false)
        }
        do {
            let node = try state.withLock { state in
                guard !state.isClosed else { throw RingfenceError.shutDown }
                if let node = state.node, node.address == member.address { return node }
                let node = try PrimaryNode(member.address, options, mark: mark, on: client)
                state.node = node
                return node
            }
            return (node, member.id)
        } catch let error as RedisError {
            throw absent(
                "the address of its primary '\(member.id)' cannot be read: \(error.message)", isRetriable: false)
        }
    }

    private func absent(_ why: String, isRetriable: Bool) -> RingfenceError {
        metrics.failed.increment()
        return RingfenceError(
            .cachePrimary, effect: .none, isRetriable: isRetriable, "nobody to ask for the cache '\(name)': \(why)")
    }

    private func failure(_ error: RedisError, _ doing: String, _ member: String) -> RingfenceError {
        var failure = RingfenceError(error, "\(doing) the cache '\(name)'")
        switch error.code {
        case .cancelled, .closed, .overloaded: return failure
        default: break
        }
        metrics.failed.increment()
        failure.code = .cachePrimary
        let advice =
            switch error.server?.prefix {
            case .readOnly: "; it is primary no more, and the group will say who is"
            case .noReplicas: "; it takes no writes until its replicas are back or another is primary"
            default: ""
            }
        let says = error.code == .server ? "refuses" : "is not reached or does not answer"
        failure.message = "\(doing) the cache '\(name)': its primary '\(member)' \(says): \(error.message)\(advice)"
        return failure
    }
}

/// How a ``PrimaryCache`` writes, and as which user.
public struct PrimaryCacheOptions: Sendable, Hashable {
    /// The durability of a write that does not name its own.
    public var durability: Durability
    /// How long the primary may take to answer before a call fails, beside what replicas take to confirm. 10 ms to 1
    /// minute.
    public var timeout: Duration
    /// The user name at the servers; nil: none.
    public var username: String?
    /// The password at the servers; nil: none.
    public var password: String?
    /// TLS material, for servers whose address is a `rediss://` URL.
    public var tls: RingfenceConfiguration.TLS

    /// ms.
    static let longestConfirmation: Int64 = 5000

    /// Creates options; by default the primary's acknowledgement is enough.
    public init(
        durability: Durability = .primary, timeout: Duration = .seconds(1), username: String? = nil,
        password: String? = nil, tls: RingfenceConfiguration.TLS = .init()
    ) {
        self.durability = durability
        self.timeout = timeout
        self.username = username
        self.password = password
        self.tls = tls
    }

    static func check(_ durability: Durability) throws(InvalidArgument) {
        try durability.check(longest: longestConfirmation, "5 s")
    }

    func check() throws(InvalidArgument) {
        try Self.check(durability)
        try Limits.check(Nanos(saturating: timeout), "timeout", 10 * .millisecond...60 * .second)
    }
}

extension PrimaryCacheOptions: CustomStringConvertible, CustomReflectable {
    /// The timeout; no password.
    public var description: String { "PrimaryCacheOptions(timeout \(timeout))" }
    /// Nothing beyond the description.
    public var customMirror: Mirror { Mirror(self, children: [:]) }
}

extension RingfenceClient {
    /// The cache at the primary of the group of this name, where Redis itself replicates. The members are the Redis
    /// servers, and the address of each is `host:port`, or a `redis://`, `rediss://` or `unix://` URL; `ringfence
    /// agent` joins them, and makes the elected one the primary.
    ///
    /// Returns whether there is a primary or not.
    /// - Throws: `RingfenceError`, effect `none`: `argument.invalid`; `coordinator.unavailable`; `client.shutDown`.
    public func primaryCache(
        _ name: String, options: PrimaryCacheOptions = PrimaryCacheOptions()
    ) async throws -> PrimaryCache {
        do { try options.check() } catch { throw RingfenceError(error) }
        return PrimaryCache(try await group(name), options, client: self)
    }
}
