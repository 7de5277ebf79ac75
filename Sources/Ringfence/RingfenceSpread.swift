// SPDX-License-Identifier: Apache-2.0
//
// Several namespaces in place of one.
//
// A namespace is one slot of a Cluster, so one server does all its work: that is what makes a hand-off one atomic step.
// More servers are of use to more namespaces. Which of them a lock is in must be the same for everybody, always,
// without anybody being asked; so its name alone decides.

public import Logging
import RingfenceCore
public import ServiceLifecycle

/// Locks spread over several namespaces, and so over the servers of a Redis Cluster.
///
/// ```swift
/// let spread = try RingfenceSpread(.init(url: "redis+cluster://n1,n2,n3", namespace: "payments"), over: 12)
/// let receipt = try await spread.client(for: "account/4711").withLock("account/4711") { lease in
///     try await ledger.debit("4711", 25_00, fence: lease.fence)
/// }
/// ```
///
/// The namespaces are `payments-0`, `payments-1` and so on, each with a client and connections of its own, each where
/// its slot is. Four for each server spread the load well enough; `redis-cli CLUSTER KEYSLOT 'ringfence:{payments-0}:'`
/// tells the slot of one.
///
/// What it cannot do:
/// - Names that are locked together must be in one namespace. Give all of them one key: the client for the customer
///   locks both accounts.
/// - All processes must spread over the same number. With another number a name is in another namespace, where nobody
///   knows who holds it. Change it only while nobody holds or waits for a lock.
/// - Groups, events, limits and the audit are those of one namespace. Keep a group in one of ``clients``, or with a
///   client of its own.
public final class RingfenceSpread: Service, Sendable {
    /// How many namespaces there may be.
    public static let range = 1...64

    /// One for each namespace, in the order of their numbers.
    public let clients: [RingfenceClient]

    /// Clients as configured, but for the namespace, which is the beginning of theirs.
    ///
    /// - Parameters:
    ///   - configuration: as for one client; its namespace is what theirs begin with.
    ///   - count: how many namespaces: 1 to 64.
    ///   - logger: of all of them.
    /// - Throws: ``RingfenceError`` with code `argument.invalid` and effect `none`, as the initializer of
    ///   ``RingfenceClient`` does.
    public init(_ configuration: RingfenceConfiguration, over count: Int, logger: Logger = .current) throws {
        do { try Limits.check(count, "count", Self.range) } catch { throw RingfenceError(error) }
        clients = try (0..<count).map { number in
            var configuration = configuration
            configuration.namespace += "-\(number)"
            return try RingfenceClient(configuration, logger: logger)
        }
    }

    /// The client whose namespace has what belongs to `key`: usually the name of the lock; of names that are locked
    /// together, one key for all of them. For ever the same for a key and a number of namespaces: XXH3-64 of the key's
    /// bytes, without a seed, modulo the number.
    public func client(for key: String) -> RingfenceClient { clients[Self.index(of: key, count: clients.count)] }

    static func index(of key: String, count: Int) -> Int {
        Int(RingHash.position(of: key, seed: 0) % UInt64(count))
    }

    /// Waits for a graceful shutdown or the cancellation of the task, shuts all clients down and returns. It throws
    /// nothing.
    public func run() async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for client in clients { group.addTask { try await client.run() } }
            for try await _ in group {}
        }
    }

    /// Shuts all clients down: see ``RingfenceClient/shutdown()``.
    public func shutdown() async {
        await withTaskGroup(of: Void.self) { group in
            for client in clients { group.addTask { await client.shutdown() } }
        }
    }
}
