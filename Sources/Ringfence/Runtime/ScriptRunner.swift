// SPDX-License-Identifier: Apache-2.0
//
// Carries script calls to Redis. Plain ones share one pipelined connection. Calls for locks that replicas confirm go
// through a second one, made when first needed, because `WAIT` stops everything behind it; and all calls of such a lock
// go there, releases and clean-ups too, because the order of commands is only kept within a connection.

import Hiredis
import Logging
import NIOCore
import NIOPosix
import RingfenceCore
import Synchronization

final class ScriptRunner: Sendable {
    typealias Confirmation = Durability.Confirmation

    let main: RedisClient
    private let configuration: RedisConfiguration
    private let logger: Logger
    private let confirming = Mutex<ConfirmingLane?>(nil)
    private let isClosed = Atomic<Bool>(false)
    let refusals: Refusals

    init(
        _ configuration: RedisConfiguration, logger: Logger,
        onConnection: @escaping @Sendable (ConnectionInfo) -> Void = { _ in }
    ) {
        self.configuration = configuration
        self.logger = logger
        refusals = Refusals(namespace: configuration.hashTag)
        // On the locator's own loop: the first connection is made without a detour.
        let eventLoop = configuration.locator?.eventLoop ?? MultiThreadedEventLoopGroup.singleton.any()
        main = RedisClient(configuration, eventLoop: eventLoop, logger: logger, onConnection: onConnection)
    }

    /// nil once closed.
    private var lane: ConfirmingLane? {
        confirming.withLock { lane in
            if let lane { return lane }
            guard !isClosed.load(ordering: .acquiring) else { return nil }
            var configuration = configuration
            // A WAIT of up to 5 s keeps a probe waiting too; that is no dead connection.
            configuration.probeInterval = .seconds(10)
            let made = ConfirmingLane(
                RedisClient(configuration, logger: logger), commandTimeout: configuration.commandTimeout,
                limit: configuration.maximumCommandsInFlight)
            lane = made
            return made
        }
    }

    /// Runs the call; `completion` comes exactly once, on an event loop, never before this returns.
    func run(
        _ call: ScriptCall, confirmation: Confirmation?, deadline: Duration? = nil,
        completion: @escaping @Sendable (Result<RedisReply, RedisError>) -> Void
    ) {
        guard confirmation != nil, let lane else {
            return main.run(call, deadline: deadline, completion: completion)
        }
        lane.run(ScriptCallRequest(call, deadline: deadline, completion: completion))
    }

    /// The same for what stands in one object.
    func run(_ request: any ScriptRequest, confirmation: Confirmation?) -> Submission {
        if confirmation != nil, let lane { return .confirming(lane, lane.run(request)) }
        return .main(main, main.run(request))
    }

    /// A command on its way, by which it can be taken back while it was not written.
    enum Submission: Sendable {
        case main(RedisClient, RedisClient.Submission)
        case confirming(ConfirmingLane, ConfirmingLane.Submission)
        /// It was refused, and never was on its way.
        case refused

        /// True if it never reached Redis and never will; then nobody is told of it any more.
        func withdraw() -> Bool {
            switch self {
            case .main(let client, let inner): client.withdraw(inner)
            case .confirming(let lane, let inner): lane.withdraw(inner)
            case .refused: true
            }
        }

        var wasWritten: Bool {
            switch self {
            case .main(let client, let inner): client.wasWritten(inner)
            case .confirming(let lane, let inner): lane.wasWritten(inner)
            case .refused: false
            }
        }

        /// Why it was not written.
        var absence: RedisError? {
            switch self {
            case .main(let client, _): client.absence
            case .confirming(let lane, _): lane.client.absence
            case .refused: nil
            }
        }
    }

    /// Runs the call and asks, in the same write, how many replicas have it.
    @discardableResult
    func runConfirmed(
        _ call: ScriptCall, _ confirmation: Confirmation,
        completion: @escaping @Sendable (Result<RedisClient.Confirmed, RedisError>) -> Void
    ) -> Submission {
        guard let lane else {
            main.eventLoop.execute {
                completion(.failure(RedisError(.closed, effect: .none, "the client is closed")))
            }
            return .refused
        }
        return .confirming(lane, lane.run(call, confirmation, completion: completion))
    }

    /// Runs the call for a caller that waits for the answer; again, while Redis refuses it for now.
    func result(of call: ScriptCall) async -> Result<RedisReply, RedisError> { await timed(call).result }

    /// The same with the moment of the send that was answered, from which a lease counts.
    func timed(_ call: ScriptCall) async -> (result: Result<RedisReply, RedisError>, sentAt: Nanos) {
        var sentAt = Moment.now
        let result = await main.patiently { left in
            sentAt = Moment.now
            do throws(RedisError) {
                return .success(try await main.run(call, deadline: left))
            } catch {
                return .failure(refusals.noted(error))
            }
        }
        return (result, sentAt)
    }

    func run(_ call: ScriptCall) async throws(RedisError) -> RedisReply { try await result(of: call).get() }

    /// The same, with its errors put in this library's words.
    func run(_ call: ScriptCall, _ doing: String) async throws -> RedisReply {
        do { return try await run(call) } catch { throw RingfenceError(error, doing) }
    }

    /// Sends `count` commands in one write whose answers may be large, about `answerBytes` together; all of them again,
    /// while Redis refuses one of them for now. An error reply of another kind is an element.
    func bulk(
        count: Int, answerBytes: Int, _ encode: @escaping @Sendable (inout CommandWriter) -> Void
    ) async throws(RedisError) -> [RedisReply] {
        let result = await main.patiently { left -> Result<[RedisReply], RedisError> in
            do throws(RedisError) {
                let replies = try await main.bulk(
                    count: count, answerBytes: answerBytes, deadline: left, encode)
                let refusal = replies.lazy.compactMap(\.error).map { RedisError($0) }.first { $0.isForNow }
                return refusal.map { .failure(refusals.noted($0)) } ?? .success(replies)
            } catch { return .failure(refusals.noted(error)) }
        }
        return try result.get()
    }

    var commandTimeout: Nanos { Nanos(saturating: configuration.commandTimeout) }

    func close() async {
        isClosed.store(true, ordering: .releasing)
        await main.close()
        let confirming = confirming.withLock { lane in
            defer { lane = nil }
            return lane
        }
        await confirming?.client.close()
    }
}
