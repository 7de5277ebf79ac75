// SPDX-License-Identifier: Apache-2.0
//
// What nobody waits for but must be done: withdrawing an acquire that was given up, letting go of a value that may
// still stand. Each is written at once, behind the command it undoes on the same connection. If that connection breaks,
// the next one begins by ending the old one at Redis, so the undone command cannot come after its undoing, which is
// written again.
//
// On a connection that stands nothing is repeated, however long the answer takes: a Redis that is slow would only get
// more to do (seen: undoing 64 joins, again each second, kept a Redis busy for good). So a call waits for its answer
// until what it would undo has expired by itself. After an error it is repeated, each time later and at most each half
// minute. And there are only as many at once as commands may be in flight: what would be one too many ends with its own
// time to live too, and a metric counts it and the log says it once.

import CoreMetrics
import Hiredis
import Logging
import NIOCore
import RingfenceCore
import Synchronization

final class CleanUp: Sendable {
    private struct State {
        var outstanding = 0
        /// Some were not even begun, and that was said.
        var isOverfull = false
        var waiters: [CheckedContinuation<Void, Never>] = []
    }

    static let most = 65_536
    private let most: Int
    private let metrics: RingfenceMetrics
    private static let longestDelay: Int64 = 30_000

    private let runner: ScriptRunner
    private let logger: Logger
    private let state = Mutex(State())

    init(runner: ScriptRunner, metrics: RingfenceMetrics, logger: Logger, most: Int = CleanUp.most) {
        self.runner = runner
        self.metrics = metrics
        self.most = most
        self.logger = logger
    }

    /// Whether nothing is left to be done.
    var isSettled: Bool { state.withLock { $0.outstanding == 0 } }

    /// Sends `call` now, and again after an error, for at least `holdMilliseconds`.
    func perform(_ call: ScriptCall, confirmation: ScriptRunner.Confirmation?, holdMilliseconds: Int64) {
        let (hasRoom, isNews) = state.withLock { state in
            guard state.outstanding >= most else {
                state.outstanding += 1
                if state.outstanding < most / 2 { state.isOverfull = false }
                return (true, false)
            }
            defer { state.isOverfull = true }
            return (false, !state.isOverfull)
        }
        if isNews {
            logger.warning(
                "too many clean-ups wait for an answer; what further ones would undo ends with its own time to live",
                metadata: [LoggingKeys.reason: "\(most)"])
        }
        guard hasRoom else { return metrics.cleanUpsDropped.increment() }
        let until = Moment.now.adding(max(holdMilliseconds, 60_000) * .millisecond)
        send(call, confirmation: confirmation, until: until, failures: 0)
    }

    private func send(_ call: ScriptCall, confirmation: ScriptRunner.Confirmation?, until: Nanos, failures: Int64) {
        let left = Duration.nanoseconds(max(0, until - Moment.now))
        runner.run(call, confirmation: confirmation, deadline: left) { [self] result in
            guard case .failure(let error) = result, error.code != .closed else { return finished() }
            guard error.isTransient, Moment.now < until else {
                logger.warning(
                    "a clean-up was given up; what it would undo ends with its own time to live",
                    metadata: [LoggingKeys.error: "\(error)"])
                return finished()
            }
            let delay = min(20 << min(failures, 16), Self.longestDelay)
            runner.main.eventLoop.scheduleTask(in: .milliseconds(delay)) {
                self.send(call, confirmation: confirmation, until: until, failures: failures + 1)
            }
        }
    }

    private func finished() {
        let done = state.withLock { state in
            state.outstanding -= 1
            guard state.outstanding == 0 else { return [CheckedContinuation<Void, Never>]() }
            defer { state.waiters = [] }
            return state.waiters
        }
        for waiter in done { waiter.resume() }
    }

    /// Returns when nothing is outstanding, or after `limit`.
    func settle(within limit: TimeAmount) async {
        await withCheckedContinuation { continuation in
            let settled = state.withLock { state in
                if state.outstanding == 0 { return true }
                state.waiters.append(continuation)
                return false
            }
            if settled { return continuation.resume() }
            runner.main.eventLoop.scheduleTask(in: limit) { [self] in
                let late = state.withLock { state in
                    defer { state.waiters = [] }
                    return state.waiters
                }
                for waiter in late { waiter.resume() }
            }
        }
    }
}
