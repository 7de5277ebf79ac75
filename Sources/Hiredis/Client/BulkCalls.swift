// SPDX-License-Identifier: Apache-2.0
//
// Calls with large answers: pages, lists, looks at everything. An answer that nobody waits for any more is on its way
// all the same, and lies in Redis' memory until it is read here. If callers that gave up ask again, while answers come
// slower than they are asked for, Redis' memory fills.
//
// So each call says how large its answer may be, and only a limited number of bytes is under way on a connection at a
// time. The other calls wait in line, first come, first served, no longer than they would have waited for the answer.
// The room that an answer was given comes free when the answer is here, or can no longer come: not when its caller
// gives up.

import NIOCore
import Synchronization

/// The room for large answers on one connection, and the calls that wait for it.
final class BulkRoom: Sendable {
    private struct State {
        var free: Int
        /// In the order in which they came, which is that of their numbers.
        var line: [BulkCall] = []
        var lastNumber: UInt64 = 0
    }

    let size: Int
    private let state: Mutex<State>

    init(size: Int) {
        self.size = size
        state = Mutex(State(free: size))
    }

    /// Begins the call when there is room for its answer.
    func enter(_ call: BulkCall) {
        state.withLock { state in
            state.lastNumber += 1
            call.number.store(state.lastNumber, ordering: .relaxed)
            state.line.append(call)
        }
        admit()
    }

    /// A call that did not begin will not.
    func leaveLine(_ call: BulkCall) {
        let number = call.number.load(ordering: .relaxed)
        state.withLock { state in
            var (low, high) = (0, state.line.count)
            while low < high {
                let middle = (low + high) / 2
                if state.line[middle].number.load(ordering: .relaxed) < number {
                    low = middle + 1
                } else {
                    high = middle
                }
            }
            if low < state.line.count, state.line[low] === call { state.line.remove(at: low) }
        }
        // The next may need less.
        admit()
    }

    func giveBack(_ bytes: Int) {
        state.withLock { $0.free += bytes }
        admit()
    }

    private func admit() {
        let calls = state.withLock { state in
            var count = 0
            while count < state.line.count, state.line[count].answerBytes <= state.free {
                state.free -= state.line[count].answerBytes
                count += 1
            }
            guard count > 0 else { return ArraySlice<BulkCall>() }
            defer { state.line.removeFirst(count) }
            return state.line[..<count]
        }
        for call in calls { call.begin() }
    }
}

/// One such call: in line, then under way, then answered; and until when somebody waits for it.
final class BulkCall: Sendable {
    typealias Answer = Result<RedisReply, RedisError>

    private struct State {
        /// nil: nobody waits any more.
        var waiter: CheckedContinuation<Answer, Never>?
        var isWanted = true
        var timer: Scheduled<Void>?
        /// nil: it stands in line.
        var submission: RedisClient.Submission?
    }

    let answerBytes: Int
    /// In the line.
    let number = Atomic<UInt64>(0)
    private let client: RedisClient
    private let room: BulkRoom
    /// Writes the call; its completion is called exactly once.
    private let submit: @Sendable (@escaping @Sendable (Answer) -> Void) -> RedisClient.Submission
    private let state = Mutex(State())

    init(
        _ client: RedisClient, answerBytes: Int,
        _ submit: @escaping @Sendable (@escaping @Sendable (Answer) -> Void) -> RedisClient.Submission
    ) {
        self.client = client
        room = client.bulkRoom
        self.answerBytes = min(max(1, answerBytes), room.size)
        self.submit = submit
    }

    /// Waits for the answer, up to `patience`, all together.
    func answer(within patience: Duration) async -> Answer {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let timer = client.eventLoop.scheduleTask(in: TimeAmount(patience)) { self.giveUp(isLate: true) }
                let isWanted = state.withLock { state in
                    state.waiter = continuation
                    state.timer = timer
                    return state.isWanted
                }
                guard isWanted else { return giveUp(isLate: false) }
                room.enter(self)
            }
        } onCancel: {
            giveUp(isLate: false)
        }
    }

    /// There is room for its answer.
    func begin() {
        guard state.withLock({ $0.isWanted }) else { return room.giveBack(answerBytes) }
        let submission = submit { self.ended($0) }
        let isWanted = state.withLock { state in
            state.submission = submission
            return state.isWanted
        }
        if !isWanted, client.tookBack(submission) { room.giveBack(answerBytes) }
    }

    /// The answer is here, or will not come.
    private func ended(_ answer: Answer) {
        room.giveBack(answerBytes)
        finish(answer)
    }

    private func giveUp(isLate: Bool) {
        let (submission, hasWaiter) = state.withLock { state in
            state.isWanted = false
            return (state.submission, state.waiter != nil)
        }
        // Cancelled before it began to wait.
        guard hasWaiter else { return }
        var effect = RedisError.Effect.none
        if let submission {
            if client.tookBack(submission) { room.giveBack(answerBytes) } else { effect = .unknown }
        } else {
            room.leaveLine(self)
        }
        let reason: RedisError
        if !isLate {
            reason = RedisError(.cancelled, effect: effect, "the task was cancelled while it waited for the answer")
        } else if effect == .unknown {
            reason = RedisError(.timedOut, effect: effect, "no answer within the deadline")
        } else if let absence = client.absence {
            reason = RedisError(
                .notConnected, effect: effect, "no connection within the deadline; last: \(absence.message)",
                server: absence.server)
        } else {
            reason = RedisError(
                .overloaded, effect: effect, "large answers to others are on their way, and its turn did not come")
        }
        finish(.failure(reason))
    }

    private func finish(_ answer: Answer) {
        let (waiter, timer) = state.withLock { state in
            defer { (state.waiter, state.timer) = (nil, nil) }
            state.isWanted = false
            return (state.waiter, state.timer)
        }
        timer?.cancel()
        waiter?.resume(returning: answer)
    }
}

extension RedisClient {
    /// Longer than anybody waits: an answer that is due keeps its room until it comes or the connection ends.
    private static let untilAnswered = Duration.seconds(3600)

    /// Runs a script whose answer may be large: about `answerBytes`.
    func bulk(
        _ call: ScriptCall, answerBytes: Int, deadline: Duration? = nil
    ) async throws(RedisError) -> RedisReply {
        let bulk = BulkCall(self, answerBytes: answerBytes) { completion in
            self.run(ScriptCallRequest(call, deadline: Self.untilAnswered, completion: completion))
        }
        return try await bulk.answer(within: deadline ?? commandTimeout).reply()
    }

    /// Sends `count` commands in one write whose answers may be large: about `answerBytes` together. An error reply is
    /// an element.
    package func bulk(
        count: Int, answerBytes: Int, deadline: Duration? = nil,
        _ encode: @escaping @Sendable (inout CommandWriter) -> Void
    ) async throws(RedisError) -> [RedisReply] {
        let call = BulkCall(self, answerBytes: answerBytes) { completion in
            self.submit(count: count, deadline: Self.untilAnswered, encode, completion: completion)
        }
        return try await call.answer(within: deadline ?? commandTimeout).replies()
    }
}
