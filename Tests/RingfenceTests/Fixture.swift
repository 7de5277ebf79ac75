// SPDX-License-Identifier: Apache-2.0

import Logging
import Ringfence
import RingfenceCore
import Synchronization
import TestSupport

/// Quiet, but for what a failing test wants to show.
let testLogger: Logger = {
    var logger = Logger(label: "test")
    logger.logLevel = .error
    return logger
}()

/// Makes a client, hands it out, and shuts it down however the body ends.
///
/// Its timeouts are for a machine full of tests; a test in which Redis is gone shortens them.
func withClient<Result: Sendable>(
    _ url: String, owner: String? = nil, _ configure: (inout RingfenceConfiguration) -> Void = { _ in },
    _ body: @Sendable (RingfenceClient) async throws -> Result
) async throws -> Result {
    var configuration = RingfenceConfiguration(
        url: url, owner: owner, commandTimeout: .seconds(20), connectTimeout: .seconds(20))
    configure(&configuration)
    let client = try RingfenceClient(configuration, logger: testLogger)
    do {
        let result = try await body(client)
        await client.shutdown()
        return result
    } catch {
        await client.shutdown()
        throw error
    }
}

/// Several clients, each with connections of its own, as processes have.
func withClients<Result: Sendable>(
    _ url: String, _ count: Int, _ made: [RingfenceClient] = [],
    _ body: @Sendable ([RingfenceClient]) async throws -> Result
) async throws -> Result {
    if made.count == count { return try await body(made) }
    return try await withClient(url, owner: "client \(made.count)") { client in
        try await withClients(url, count, made + [client], body)
    }
}

/// A Redis of its own and a client on it.
func withRingfence<Result: Sendable>(
    _ configure: (inout RingfenceConfiguration) -> Void = { _ in },
    _ body: @Sendable (RedisServer, RingfenceClient) async throws -> Result
) async throws -> Result {
    try await withRedis { server in
        try await withClient(server.unixURL, configure) { client in try await body(server, client) }
    }
}

extension RedisServer {
    /// The keys of locks and queues: what a released lock must not leave behind.
    func remains() async throws -> [String] {
        try await cli("KEYS", "*").split(separator: "\n").map { String($0) }
            .filter { key in
                // What follows the namespace; a name may look like a key itself.
                let rest = key.split(separator: "}", maxSplits: 1).last ?? ""
                return rest.hasPrefix(":lock:") || rest.hasPrefix(":queue:")
            }
    }
}

/// The error of a call that must fail with a RingfenceError.
func failure<Result>(_ body: () async throws -> Result) async -> RingfenceError? {
    do {
        _ = try await body()
        return nil
    } catch { return error as? RingfenceError }
}

/// A value that many tasks change.
final class Shared<Value: Sendable>: Sendable {
    private let mutex: Mutex<Value>
    init(_ value: Value) { mutex = Mutex(value) }
    var value: Value { mutex.withLock { $0 } }
    func change<Result: Sendable>(_ body: (inout Value) -> Result) -> Result { mutex.withLock { body(&$0) } }
}
