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
    let commandTimeout: Duration
    let bulkRoom: BulkRoom
    private let core: CommandCore

    /// `eventLoop` must outlive the client. `onConnection` is told of each new connection on it, before any command of
    /// a caller is written there.
    package init(
        _ configuration: RedisConfiguration,
        eventLoop: any EventLoop = MultiThreadedEventLoopGroup.singleton.any(),
        logger: Logger, onConnection: (@Sendable (ConnectionInfo) -> Void)? = nil
    ) {
        self.eventLoop = eventLoop
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

// MARK: scripts

extension RedisClient {
    /// Runs a script by its SHA-1; sends its text instead, for this call alone, when the server does not know it.
    ///
    /// `encode` writes `keys` keys, then `arguments` arguments; it runs twice when the text had to be sent. The
    /// deadline holds for each of the two sends.
    package func run(
        _ script: RedisScript, keys: Int, arguments: Int, deadline: Duration? = nil,
        _ encode: (inout CommandWriter) -> Void
    ) async throws(RedisError) -> RedisReply {
        var result = await core.answer(replies: 1, isSingle: true, deadline: deadline) { writer in
            script.begin(&writer, keys: keys, arguments: arguments, whole: false)
            encode(&writer)
        }
        if result.isUnknownScript {
            result = await core.answer(replies: 1, isSingle: true, deadline: deadline) { writer in
                script.begin(&writer, keys: keys, arguments: arguments, whole: true)
                encode(&writer)
            }
        }
        return try result.reply()
    }

    /// The same with a callback on the event loop, exactly once. Not cancellable.
    package func run(
        _ script: RedisScript, keys: Int, arguments: Int, deadline: Duration? = nil,
        _ encode: @escaping @Sendable (inout CommandWriter) -> Void,
        completion: @escaping @Sendable (Result<RedisReply, RedisError>) -> Void
    ) {
        run(
            ScriptRun(
                script: script, keys: keys, arguments: arguments, deadline: deadline, encode: encode,
                completion: completion))
    }

    /// The same with all that belongs to it in one object of the caller's: where a script is run a hundred thousand
    /// times a second, closures are felt. It is told the result on the event loop, exactly once.
    ///
    /// - Returns: by what `withdraw` finds it.
    @discardableResult
    package func run(_ request: any ScriptRequest) -> Submission { .init(number: core.submit(request, whole: false)) }

    /// A command on its way to Redis.
    package struct Submission: Sendable {
        /// 0: it was refused, and never was on its way.
        fileprivate var number: UInt64
    }

    /// Takes a command back that was not written yet: it never will be, and its callback is not called for it; but it
    /// may be about to be called for a command that ended unwritten before, with an error of effect `none`. False if
    /// Redis may know of the command.
    package func withdraw(_ submission: Submission) -> Bool {
        submission.number == 0 || core.withdraw(submission.number) || !core.wasWritten(submission.number)
    }

    /// The same, but false for a command that ended unwritten or was refused: its callback is called for that.
    func tookBack(_ submission: Submission) -> Bool { submission.number != 0 && core.withdraw(submission.number) }

    /// Whether the bytes of a command left; true as well when it ended otherwise.
    package func wasWritten(_ submission: Submission) -> Bool {
        submission.number != 0 && core.wasWritten(submission.number)
    }

    /// What a script followed by WAIT gave.
    package struct Confirmed: Sendable, Equatable {
        package var reply: RedisReply
        /// Replicas that acknowledged all writes of this connection so far.
        package var acknowledged: Int

        package init(reply: RedisReply, acknowledged: Int) {
            self.reply = reply
            self.acknowledged = acknowledged
        }
    }

    /// Runs a script and, in the same write on the same connection, `WAIT replicas milliseconds`.
    ///
    /// WAIT counts for its own connection only, so the two are never split over a reconnect. All commands of the client
    /// behind it wait too. Give it a `deadline` beyond `within`. An error of the script is thrown with its own effect;
    /// an error of WAIT with effect `unknown`, since the script ran.
    package func runAndWait(
        _ script: RedisScript, keys: Int, arguments: Int, replicas: Int, within: Duration, deadline: Duration? = nil,
        _ encode: (inout CommandWriter) -> Void
    ) async throws(RedisError) -> Confirmed {
        var result = await core.answer(replies: 2, isSingle: false, deadline: deadline) { writer in
            script.begin(&writer, keys: keys, arguments: arguments, whole: false)
            encode(&writer)
            writer.wait(replicas: replicas, within: within)
        }
        if result.isUnknownScript {
            result = await core.answer(replies: 2, isSingle: false, deadline: deadline) { writer in
                script.begin(&writer, keys: keys, arguments: arguments, whole: true)
                encode(&writer)
                writer.wait(replicas: replicas, within: within)
            }
        }
        switch result.confirmed {
        case .success(let confirmed): return confirmed
        case .failure(let error): throw error
        }
    }

    /// A script of a group.
    package struct ScriptPart: Sendable {
        package var script: RedisScript
        package var keys: Int
        package var arguments: Int
        package var encode: @Sendable (inout CommandWriter) -> Void
        /// By its text.
        package var isWhole = false

        package init(
            script: RedisScript, keys: Int, arguments: Int, encode: @escaping @Sendable (inout CommandWriter) -> Void
        ) {
            self.script = script
            self.keys = keys
            self.arguments = arguments
            self.encode = encode
        }
    }

    /// What a group of scripts and the WAIT behind them gave.
    package struct ConfirmedParts: Sendable {
        fileprivate var replies: [RedisReply]

        /// Of one of the scripts. An unknown script is an error: it did not run, and is for the caller to send again,
        /// whole.
        package func part(_ index: Int) -> Result<Confirmed, RedisError> {
            Result<RedisReply, RedisError>.success(.array([replies[index], replies[replies.count - 1]])).confirmed
        }
    }

    /// Runs scripts and, in the same write on the same connection, one `WAIT replicas milliseconds` for all of them.
    /// The callback comes on the event loop, exactly once, unless all of it was taken back.
    ///
    /// - Returns: by what `withdraw` finds it.
    package func runAndWait(
        _ parts: [ScriptPart], replicas: Int, within: Duration, deadline: Duration? = nil,
        completion: @escaping @Sendable (Result<ConfirmedParts, RedisError>) -> Void
    ) -> Submission {
        let waiter = Waiter.callback { result in
            completion(
                result.flatMap { reply in
                    guard case .array(let replies) = reply, replies.count == parts.count + 1 else {
                        return .failure(
                            RedisError(.protocolViolation, effect: .unknown, "a group was not answered as one"))
                    }
                    return .success(ConfirmedParts(replies: replies))
                })
        }
        let number = core.submit(waiter, replies: parts.count + 1, isSingle: false, deadline: deadline) { writer in
            for part in parts {
                part.script.begin(&writer, keys: part.keys, arguments: part.arguments, whole: part.isWhole)
                part.encode(&writer)
            }
            writer.wait(replicas: replicas, within: within)
        }
        return Submission(number: number)
    }
}

/// A script to be run, and who is told.
package protocol ScriptRequest: AnyObject, Sendable {
    var script: RedisScript { get }
    var keys: Int { get }
    var arguments: Int { get }
    /// From when it is submitted; nil: the configuration's `commandTimeout`.
    var deadline: Duration? { get }
    /// Writes the keys and arguments; once, or twice if the server does not know the script yet.
    func encode(_ writer: inout CommandWriter)
    func finish(_ result: Result<RedisReply, RedisError>)
}

/// A request of closures.
final class ScriptRun: ScriptRequest {
    let script: RedisScript
    let keys: Int
    let arguments: Int
    let deadline: Duration?
    private let encode: @Sendable (inout CommandWriter) -> Void
    private let completion: @Sendable (Result<RedisReply, RedisError>) -> Void

    init(
        script: RedisScript, keys: Int, arguments: Int, deadline: Duration?,
        encode: @escaping @Sendable (inout CommandWriter) -> Void,
        completion: @escaping @Sendable (Result<RedisReply, RedisError>) -> Void
    ) {
        self.script = script
        self.keys = keys
        self.arguments = arguments
        self.deadline = deadline
        self.encode = encode
        self.completion = completion
    }

    func encode(_ writer: inout CommandWriter) { encode(&writer) }
    func finish(_ result: Result<RedisReply, RedisError>) { completion(result) }
}

extension CommandCore {
    /// `whole`: by its text, the last resort.
    @discardableResult
    fileprivate func submit(_ request: any ScriptRequest, whole: Bool) -> UInt64 {
        let waiter: Waiter = whole ? .callback { request.finish($0.throwingErrorReply()) } : .script(request)
        return submit(waiter, replies: 1, isSingle: true, deadline: request.deadline) { writer in
            request.script.begin(&writer, keys: request.keys, arguments: request.arguments, whole: whole)
            request.encode(&writer)
        }
    }
}

extension Waiter {
    /// `core`: whose queue it stood in.
    func finish(_ result: Result<RedisReply, RedisError>, of core: CommandCore) {
        switch self {
        case .task(let continuation, _): continuation.resume(returning: result)
        case .callback(let completion): completion(result)
        case .script(let request):
            if result.isUnknownScript {
                core.submit(request, whole: true)
            } else {
                request.finish(result.throwingErrorReply())
            }
        case .probe: break
        }
    }
}

extension CommandWriter {
    /// `WAIT`: how many replicas have all writes of this connection. Nothing behind it is looked at before it is
    /// answered.
    package mutating func wait(replicas: Int, within: Duration) {
        begin(3)
        argument("WAIT")
        argument(replicas)
        // 0 would mean for ever.
        argument(max(1, Int(within / .milliseconds(1))))
    }
}

extension Result<RedisReply, RedisError> {
    /// The script, alone or first of a group, was refused by NOSCRIPT: it did not run.
    fileprivate var isUnknownScript: Bool {
        guard case .success(let reply) = self else { return false }
        let first: RedisReply? = if case .array(let replies) = reply { replies.first } else { reply }
        return first?.error?.prefix == .noScript
    }

    fileprivate var confirmed: Result<RedisClient.Confirmed, RedisError> {
        flatMap { reply in
            let replies = reply.array ?? []
            if let error = replies.first?.error { return .failure(RedisError(error)) }
            if let error = replies.last?.error {
                return .failure(RedisError(.server, effect: .unknown, "WAIT failed: \(error)", server: error))
            }
            guard replies.count == 2, let acknowledged = replies[1].int else {
                return .failure(RedisError(.protocolViolation, effect: .unknown, "WAIT did not answer a number"))
            }
            return .success(RedisClient.Confirmed(reply: replies[0], acknowledged: Int(acknowledged)))
        }
    }
}
