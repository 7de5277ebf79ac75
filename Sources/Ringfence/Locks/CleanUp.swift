// SPDX-License-Identifier: Apache-2.0
//
// What nobody waits for but must be done: withdrawing an acquire that was given up, letting go of a value that may still
// stand. Each is written at once, behind the command it undoes on the same connection, and repeated until Redis answered
// or until what it would undo has expired by itself. If that connection breaks, the next one begins by ending the old one
// at Redis, so the undone command cannot come after its undoing.

import Hiredis
import Logging
import NIOCore
import RingfenceCore
import Synchronization

final class CleanUp: Sendable {
    private struct State {
        var outstanding = 0
        var waiters: [CheckedContinuation<Void, Never>] = []
    }

    private let courier: Courier
    private let logger: Logger
    private let state = Mutex(State())

    init(courier: Courier, logger: Logger) {
        self.courier = courier
        self.logger = logger
    }

    /// Sends `call` now, and again until it is answered, for at least `holdMilliseconds`.
    func perform(_ call: ScriptCall, confirmation: Courier.Confirmation?, holdMilliseconds: Int64) {
        state.withLock { $0.outstanding += 1 }
        let until = Moment.now.adding(max(holdMilliseconds, 60_000) * .millisecond)
        send(call, confirmation: confirmation, until: until, failures: 0)
    }

    private func send(_ call: ScriptCall, confirmation: Courier.Confirmation?, until: Nanos, failures: Int64) {
        courier.run(call, confirmation: confirmation) { [self] result in
            guard case .failure(let error) = result, error.code != .closed else { return finished() }
            guard error.isTransient, Moment.now < until else {
                logger.warning(
                    "a clean-up was given up; what it would undo ends with its own time to live",
                    metadata: [LoggingKeys.error: "\(error)"])
                return finished()
            }
            let delay = Int64(min(20 << min(failures, 6), 1000))
            courier.main.eventLoop.scheduleTask(in: .milliseconds(delay)) {
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
            courier.main.eventLoop.scheduleTask(in: limit) { [self] in
                let late = state.withLock { state in
                    defer { state.waiters = [] }
                    return state.waiters
                }
                for waiter in late { waiter.resume() }
            }
        }
    }
}
