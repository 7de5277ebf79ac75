// SPDX-License-Identifier: Apache-2.0
//
// Scripts: by their SHA-1, and by their text where the server does not know them yet.

extension RedisClient {
    /// Runs a script by its SHA-1; sends its text instead, for this call alone, when the server does not know it.
    ///
    /// `encode` writes `keys` keys, then `arguments` arguments; it runs twice when the text had to be sent. The
    /// deadline holds for both sends together.
    package func run(
        _ script: RedisScript, keys: Int, arguments: Int, deadline: Duration? = nil,
        _ encode: (inout CommandWriter) -> Void
    ) async throws(RedisError) -> RedisReply {
        // No sum of durations here: at 300,000 commands a second it is felt.
        let start = monotonicNow()
        var result = await core.answer(replies: 1, isSingle: true, deadline: deadline) { writer in
            script.begin(&writer, keys: keys, arguments: arguments, whole: false)
            encode(&writer)
        }
        if result.isUnknownScript {
            let left = max(.zero, (deadline ?? commandTimeout) - .nanoseconds(monotonicNow() - start))
            result = await core.answer(replies: 1, isSingle: true, deadline: left) { writer in
                script.begin(&writer, keys: keys, arguments: arguments, whole: true)
                encode(&writer)
            }
        }
        return try result.reply()
    }

    /// The same for a call that may have a large answer, which then waits until there is room for it.
    package func run(_ call: ScriptCall, deadline: Duration? = nil) async throws(RedisError) -> RedisReply {
        guard let bytes = call.answerBytes else {
            return try await run(
                call.script, keys: call.keys, arguments: call.arguments, deadline: deadline, call.encode)
        }
        return try await bulk(call, answerBytes: bytes, deadline: deadline)
    }

    /// The same with a callback on the event loop, exactly once. Not cancellable.
    package func run(
        _ call: ScriptCall, deadline: Duration? = nil,
        completion: @escaping @Sendable (Result<RedisReply, RedisError>) -> Void
    ) {
        run(ScriptCallRequest(call, deadline: deadline, completion: completion))
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
        var number: UInt64
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
    /// The script was refused by NOSCRIPT: it did not run.
    fileprivate var isUnknownScript: Bool {
        if case .success(.error(let error)) = self { error.prefix == .noScript } else { false }
    }
}
