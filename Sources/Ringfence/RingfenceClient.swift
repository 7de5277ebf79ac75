// SPDX-License-Identifier: Apache-2.0

public import struct Logging.Logger
public import ServiceLifecycle

/// STUB while the library is being written: signatures are final, bodies are not.
public final class RingfenceClient: Service, Sendable {
    /// Makes a client; refuses a bad configuration with `argument.invalid`. Connects at the first use.
    public init(_ configuration: RingfenceConfiguration, logger: Logger? = nil) throws { fatalError() }
    /// Stays until graceful shutdown or cancellation, then releases what is held and closes.
    public func run() async throws { fatalError() }
    /// Releases what this client holds, ends all waits with `client.shutDown`, and closes. Idempotent.
    public func shutdown() async { fatalError() }
    /// One PING; returns its round trip.
    public func ping() async throws -> Duration { fatalError() }

    // scoped
    public func withLock<Result: Sendable>(
        _ name: String, ttl: Duration = .seconds(10), wait: Duration = .seconds(10), options: LockOptions = .init(),
        _ body: @Sendable @escaping (Lease) async throws -> Result
    ) async throws -> Result { fatalError() }
    public func withLock<Result: Sendable>(
        _ names: [String], ttl: Duration = .seconds(10), wait: Duration = .seconds(10), options: LockOptions = .init(),
        _ body: @Sendable @escaping (Lease) async throws -> Result
    ) async throws -> Result { fatalError() }

    // handles; both also take [String]
    public func tryAcquire(_ names: String..., ttl: Duration = .seconds(10), options: LockOptions = .init()) async throws -> Lease? { fatalError() }
    public func tryAcquire(_ names: [String], ttl: Duration = .seconds(10), options: LockOptions = .init()) async throws -> Lease? { fatalError() }
    public func acquire(_ names: String..., ttl: Duration = .seconds(10), wait: Duration = .seconds(10), options: LockOptions = .init()) async throws -> Lease { fatalError() }
    public func acquire(_ names: [String], ttl: Duration = .seconds(10), wait: Duration = .seconds(10), options: LockOptions = .init()) async throws -> Lease { fatalError() }

    // by token: for holders that live in another process (the HTTP service)
    /// Acquires for a holder outside this process: no automatic renewal, own place in the queue. Throws `lock.busy` after `wait` (0: at once).
    public func acquireGrant(_ names: [String], owner: String? = nil, ttl: Duration, wait: Duration = .zero) async throws -> LockGrant { fatalError() }
    /// Renews the grant for `ttl` from now; throws `lock.notHeld`.
    public func renew(_ names: [String], token: String, ttl: Duration) async throws -> LockGrant { fatalError() }
    /// Releases; throws `lock.notHeld`.
    public func release(_ names: [String], token: String) async throws { fatalError() }

    // operators
    public func inspect(_ name: String) async throws -> LockStatus { fatalError() }
    /// A page of held locks whose name starts with `prefix`. `cursor` nil starts; a nil `next` ends. `limit` 1...1000 is a hint.
    public func locks(prefix: String = "", cursor: String? = nil, limit: Int = 100) async throws -> LockPage { fatalError() }
    /// Takes the lock away from whoever holds it, tells the holder, raises the fence and audits it; nil when nobody held it.
    public func forceRelease(_ name: String, actor: String, reason: String = "") async throws -> ForcedRelease? { fatalError() }
    /// The newest `limit` (1...1000) audit records, newest first; optionally of one lock.
    public func audit(limit: Int = 100) async throws -> [AuditRecord] { fatalError() }
}

/// Options of one acquire.
public struct LockOptions: Sendable {
    /// Label of the holder; nil: the configuration's `owner`.
    public var owner: String?
    /// Renewed automatically at ttl/3 (default true).
    public var renews: Bool = true
    /// The lease is lost after this time however often it was renewed. Default 1 hour.
    public var maximumHold: Duration = .seconds(3600)
    /// Ask replicas to acknowledge the grant. Default: `.primary` (none).
    public var durability: Durability = .primary
    public init(owner: String? = nil, renews: Bool = true, maximumHold: Duration = .seconds(3600), durability: Durability = .primary) {}
    public struct Durability: Sendable, Hashable {
        public static let primary = Durability()
        public static func confirmed(replicas: Int, within: Duration) -> Durability { Durability() }
    }
}

/// A lock held by this process; an ordinary Sendable handle. When the last copy goes away unreleased, it is released.
public struct Lease: Sendable {
    public var names: [String] { fatalError() }
    /// Only grows per lock: hand it to the resource, which refuses older ones.
    public var fence: Int64 { fatalError() }
    public var owner: String { fatalError() }
    /// Public, unique id of this hold: `<process>-<counter>`; the guards' owner argument. Not a secret.
    public var id: String { fatalError() }
    /// The right to renew and release, for another process. A secret.
    public var token: String { fatalError() }
    public var deadline: ContinuousClock.Instant { fatalError() }
    public var remaining: Duration { fatalError() }
    public var isHeld: Bool { fatalError() }
    /// Throws `lease.lost` if it is over. Local: no round trip.
    public func check() throws { fatalError() }
    public func renew(ttl: Duration? = nil) async throws { fatalError() }
    public func release() async throws { fatalError() }
}

/// A lock held for somebody outside this process.
public struct LockGrant: Sendable {
    public var names: [String]
    public var fence: Int64
    public var owner: String
    public var token: String
    /// From now, as seen by this process: the holder must stop by then.
    public var remaining: Duration
}

/// What `inspect` sees, in one atomic look.
public struct LockStatus: Sendable {
    public struct Waiter: Sendable { public var owner: String; public var waiting: Duration; public var names: [String] }
    public var name: String
    public var holder: LockHolder?
    /// The last fence ever given in the last 24 h; nil when unknown.
    public var lastFence: Int64?
    public var queueLength: Int
    /// The first 100 waiters, first come first.
    public var queue: [Waiter]
}
public struct LockHolder: Sendable { public var name: String; public var owner: String; public var id: String; public var fence: Int64; public var remaining: Duration }
public struct LockPage: Sendable { public var locks: [LockHolder]; public var next: String? }
public struct ForcedRelease: Sendable { public var previous: LockHolder; /** Every fence up to this one is dead: raise your guards to it. */ public var fence: Int64 }
public struct AuditRecord: Sendable {
    public var at: Int64 /* ms since 1970, Redis' clock */
    public var action: String /* grant | release | pass | force | cancel */
    public var names: [String]; public var owner: String; public var fence: Int64; public var held: Duration?; public var waited: Duration?; public var reason: String?
}
