// SPDX-License-Identifier: Apache-2.0

import Hiredis
import Ringfence
import TestSupport

/// A look at Redis beside the client that is tested, over a connection of its own.
final class Observer: Sendable {
    private let client: RedisClient

    init(_ url: String) throws {
        var configuration = try RedisConfiguration(url: url)
        configuration.commandTimeout = .seconds(60)
        configuration.connectTimeout = .seconds(20)
        client = RedisClient(configuration, logger: testLogger)
    }

    func close() async { await client.close() }

    @discardableResult
    func send(_ words: String...) async throws -> RedisReply { try await send(words) }

    func send(_ words: [String]) async throws -> RedisReply {
        try await client.send { writer in
            writer.begin(words.count)
            for word in words { writer.argument(word) }
        }
    }

    /// The value of a lock key.
    func value(of name: String) async throws -> String? {
        try await send("GET", "ringfence:{default}:lock:\(name)").text
    }

    /// Whether neither a hold nor a place in the queue is left of this lock.
    func isClean(_ name: String) async throws -> Bool {
        try await send("EXISTS", "ringfence:{default}:lock:\(name)", "ringfence:{default}:queue:\(name)") == .integer(0)
    }

    /// Redis' clock in µs: what fences are made of.
    func now() async throws -> Int64 {
        guard case .array(let parts) = try await send("TIME"), let seconds = parts[0].text.flatMap({ Int64($0) }),
            let micros = parts[1].text.flatMap({ Int64($0) })
        else { throw TestSupportError("TIME") }
        return seconds * 1_000_000 + micros
    }
}

/// A Redis of its own and a look at it; clients are the test's business.
func withObservedRedis<Result: Sendable>(
    _ arguments: [String] = [], under command: [String] = [],
    _ body: @Sendable (RedisServer, Observer) async throws -> Result
) async throws -> Result {
    try await withRedis(arguments, under: command) { server in
        let observer = try Observer(server.unixURL)
        do {
            let result = try await body(server, observer)
            await observer.close()
            return result
        } catch {
            await observer.close()
            throw error
        }
    }
}
