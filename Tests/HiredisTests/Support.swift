// SPDX-License-Identifier: Apache-2.0
import Hiredis
import Logging
import NIOCore

extension CommandWriter {
    /// One whole command of text arguments.
    mutating func command(_ arguments: String...) {
        begin(arguments.count)
        for argument in arguments { self.argument(argument) }
    }
}

extension RedisClient {
    /// Sends one command of text arguments.
    ///
    /// Use this inside `#expect`, never `send { … }`: closures in a macro's arguments and closures around it can get
    /// the same symbol (Swift 6.3.1), and then one command silently is another.
    @discardableResult
    func call(_ arguments: String..., deadline: Duration? = nil) async throws -> RedisReply {
        try await call(arguments, deadline: deadline)
    }

    @discardableResult
    func call(_ arguments: [String], deadline: Duration? = nil) async throws -> RedisReply {
        try await send(deadline: deadline) { writer in
            writer.begin(arguments.count)
            for argument in arguments { writer.argument(argument) }
        }
    }
}

let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

/// A client for `body`, closed after it.
func withClient<Result>(
    _ configuration: RedisConfiguration, logger: Logger = quiet, isolation: isolated (any Actor)? = #isolation,
    _ body: (RedisClient) async throws -> sending Result
) async throws -> sending Result {
    let client = RedisClient(configuration, logger: logger)
    do {
        let result = try await body(client)
        await client.close()
        return result
    } catch {
        await client.close()
        throw error
    }
}

/// A client for `body` with patience beyond any slow machine, closed after it.
func withClient<Result>(
    _ url: String, isolation: isolated (any Actor)? = #isolation,
    _ change: (inout RedisConfiguration) -> Void = { _ in },
    _ body: (RedisClient) async throws -> sending Result
) async throws -> sending Result {
    var configuration = try RedisConfiguration(url: url)
    configuration.commandTimeout = .seconds(30)
    configuration.connectTimeout = .seconds(10)
    change(&configuration)
    return try await withClient(configuration, body)
}

/// The error that `body` throws; nil when it throws none, or one of another kind.
func redisError(_ body: () async throws -> Void) async -> RedisError? {
    do {
        try await body()
        return nil
    } catch {
        return error as? RedisError
    }
}
