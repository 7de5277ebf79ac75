// SPDX-License-Identifier: Apache-2.0
//
// Carries script calls to Redis. Plain ones share one pipelined connection. Calls for locks that replicas confirm go
// through a second one, made when first needed, because `WAIT` stops everything behind it; and all calls of such a lock go
// there, releases and clean-ups too, because the order of commands is only kept within a connection.

import Hiredis
import Logging
import NIOCore
import RingfenceCore
import Synchronization

final class Courier: Sendable {
    typealias Confirmation = Durability.Confirmation

    let main: RedisClient
    private let configuration: RedisConfiguration
    private let logger: Logger
    private let confirming = Mutex<RedisClient?>(nil)
    private let isClosed = Atomic<Bool>(false)

    init(_ configuration: RedisConfiguration, logger: Logger) {
        self.configuration = configuration
        self.logger = logger
        main = RedisClient(configuration, logger: logger)
    }

    private func client(for confirmation: Confirmation?) -> RedisClient {
        guard confirmation != nil else { return main }
        return confirming.withLock { client in
            if let client { return client }
            guard !isClosed.load(ordering: .acquiring) else { return main }
            var configuration = configuration
            // A WAIT of up to 5 s keeps a probe waiting too; that is no dead connection.
            configuration.probeInterval = .seconds(10)
            let made = RedisClient(configuration, logger: logger)
            client = made
            return made
        }
    }

    /// Runs the call; `completion` comes exactly once, on an event loop, never before this returns.
    func run(
        _ call: ScriptCall, confirmation: Confirmation?, deadline: Duration? = nil,
        completion: @escaping @Sendable (Result<RedisReply, RedisError>) -> Void
    ) {
        client(for: confirmation).run(
            call.script, keys: call.keys, arguments: call.arguments, deadline: deadline, call.encode,
            completion: completion)
    }

    /// The same for what stands in one object.
    func run(_ errand: any ScriptErrand, confirmation: Confirmation?) {
        client(for: confirmation).run(errand)
    }

    /// Runs the call and asks, in the same write, how many replicas have it.
    func runConfirmed(
        _ call: ScriptCall, _ confirmation: Confirmation,
        completion: @escaping @Sendable (Result<RedisClient.Confirmed, RedisError>) -> Void
    ) {
        let within = Duration.milliseconds(confirmation.milliseconds)
        client(for: confirmation).runAndWait(
            call.script, keys: call.keys, arguments: call.arguments,
            replicas: confirmation.replicas, within: within,
            deadline: configuration.commandTimeout + within, call.encode, completion: completion)
    }

    /// Runs the call for a caller that waits for the answer.
    func run(_ call: ScriptCall) async throws(RedisError) -> RedisReply {
        try await main.run(call.script, keys: call.keys, arguments: call.arguments, call.encode)
    }

    /// The same with a failure as a value: it is news too.
    func result(of call: ScriptCall) async -> Result<RedisReply, RedisError> {
        do { return .success(try await run(call)) } catch { return .failure(error) }
    }

    func close() async {
        isClosed.store(true, ordering: .releasing)
        await main.close()
        let confirming = confirming.withLock { client in
            defer { client = nil }
            return client
        }
        await confirming?.close()
    }
}
