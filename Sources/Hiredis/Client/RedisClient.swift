// SPDX-License-Identifier: Apache-2.0
//
// The client: many tasks, one pipelined connection, which comes back by itself.
//
// A command costs one lock, its bytes in the slab, one slot in the ring, and one resume. The first submitter of a batch
// schedules one flush on the event loop; all that were submitted until it runs leave in one write. Replies of one read
// are matched under one lock and resumed outside it. Deadlines and cancellations are looked for every 10 ms while
// something is in flight: a timer or a cancellation handler per command cost a tenth of the throughput when measured.
package import Logging
package import NIOCore
import NIOPosix

/// One connection to Redis, shared by any number of tasks. Connects at the first command; reconnects until `close()`.
///
/// The connection is shared: do not send commands that block it (BLPOP, long WAITs) or change it (SUBSCRIBE, MULTI over
/// several calls, SELECT).
package final class RedisClient: Sendable {
    package let eventLoop: any EventLoop
    /// What it was configured for.
    package let place: RedisPlace
    let commandTimeout: Duration
    let bulkRoom: BulkRoom
    let core: CommandCore

    /// `eventLoop` must outlive the client. `onConnection` is told of each new connection on it, before any command of
    /// a caller is written there.
    package init(
        _ configuration: RedisConfiguration,
        eventLoop: any EventLoop = MultiThreadedEventLoopGroup.singleton.any(),
        logger: Logger, onConnection: (@Sendable (ConnectionInfo) -> Void)? = nil
    ) {
        self.eventLoop = eventLoop
        place = configuration.place
        commandTimeout = configuration.commandTimeout
        bulkRoom = BulkRoom(size: configuration.maximumAnswerBytesInFlight)
        core = CommandCore(configuration, eventLoop: eventLoop, logger: logger, onConnection: onConnection)
    }

    deinit { _ = core.close() }

    /// Starts to connect now rather than at the first command.
    package func connect() { core.kick() }

    /// nil while not connected; another one after each reconnection.
    package var connection: ConnectionInfo? { core.connection }

    /// Whether there is one now.
    package var isConnected: Bool { core.isConnected }

    /// Why there is no connection; nil while there is one.
    package var absence: RedisError? { core.absence }

    /// Closes the connection. What waits fails with `closed`; so does all that comes later. Idempotent.
    package func close() async {
        try? await core.close().get()
    }

    // MARK: single commands

    /// Sends one command and waits for its reply.
    ///
    /// - Parameters:
    ///   - deadline: From now; nil: the configuration's `commandTimeout`. Waiting for a connection counts.
    ///   - encode: Encodes exactly one command. Runs once, at once, under the client's lock: it must not use the
    ///     client.
    /// - Throws: An error reply as code `server`; else see `RedisError.Code`. A cancelled task throws `cancelled`
    ///   within 10 ms, with effect `none` when the command was not written yet (it then never will be), else `unknown`.
    package func send(
        deadline: Duration? = nil, _ encode: (inout CommandWriter) -> Void
    ) async throws(RedisError) -> RedisReply {
        try await core.answer(replies: 1, isSingle: true, deadline: deadline, encode).reply()
    }

    /// The same with a callback on the event loop, exactly once. Not cancellable.
    package func send(
        deadline: Duration? = nil, _ encode: (inout CommandWriter) -> Void,
        completion: @escaping @Sendable (Result<RedisReply, RedisError>) -> Void
    ) {
        core.submit(
            .callback { completion($0.throwingErrorReply()) }, replies: 1, isSingle: true, deadline: deadline, encode)
    }

    // MARK: groups

    /// Sends `count` commands in one write on one connection and waits for all their replies, in order. An error reply
    /// is an element; a failure of the connection fails the whole group.
    package func pipeline(
        count: Int, deadline: Duration? = nil, _ encode: (inout CommandWriter) -> Void
    ) async throws(RedisError) -> [RedisReply] {
        try await core.answer(replies: count, isSingle: false, deadline: deadline, encode).replies()
    }

    /// The same with a callback on the event loop, exactly once. Not cancellable.
    package func pipeline(
        count: Int, deadline: Duration? = nil, _ encode: (inout CommandWriter) -> Void,
        completion: @escaping @Sendable (Result<[RedisReply], RedisError>) -> Void
    ) {
        core.submit(
            .callback { completion($0.map { $0.array ?? [] }) }, replies: count, isSingle: false, deadline: deadline,
            encode)
    }

    /// The same, and it can be withdrawn; the answer is an array.
    func submit(
        count: Int, deadline: Duration, _ encode: (inout CommandWriter) -> Void,
        completion: @escaping @Sendable (Result<RedisReply, RedisError>) -> Void
    ) -> Submission {
        .init(number: core.submit(.callback(completion), replies: count, isSingle: false, deadline: deadline, encode))
    }
}

extension Result<RedisReply, RedisError> {
    /// An error reply as a failure.
    func throwingErrorReply() -> Self {
        if case .success(.error(let error)) = self { .failure(RedisError(error)) } else { self }
    }

    func reply() throws(RedisError) -> RedisReply {
        switch self {
        case .success(.error(let error)): throw RedisError(error)
        case .success(let reply): return reply
        case .failure(let error): throw error
        }
    }

    func replies() throws(RedisError) -> [RedisReply] {
        switch self {
        case .success(let reply): return reply.array ?? []
        case .failure(let error): throw error
        }
    }
}
