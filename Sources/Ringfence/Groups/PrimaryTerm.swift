// SPDX-License-Identifier: Apache-2.0
//
// What stops a primary's work. `RoleMachine` decides that the role is over, by its own clock or by Redis' word; the
// group tells its listeners (`MemberObservers.tell`), and that cancels the term, and so the task that runs the body.
// An agent has no body: its `onSuspend` hook does the same to the resource.

import NIOCore
import RingfenceCore
import Synchronization

/// One run of a body as primary, for the code that must end it.
final class PrimaryTerm: Sendable {
    private struct State {
        var cancel: (@Sendable () -> Void)?
        var isCancelled = false
        var isOver = false
        var waiters: [Int: CheckedContinuation<Void, Never>] = [:]
        var lastWaiter = 0
    }

    /// The term whose body the present task runs: that cannot wait for its own end.
    @TaskLocal static var current: PrimaryTerm?

    let epoch: Int64
    private let state = Mutex(State())

    init(epoch: Int64) { self.epoch = epoch }

    func onCancel(_ cancel: @escaping @Sendable () -> Void) {
        let isLate = state.withLock { state in
            state.cancel = cancel
            return state.isCancelled
        }
        if isLate { cancel() }
    }

    func cancel() {
        let cancel = state.withLock { state in
            state.isCancelled = true
            return state.cancel
        }
        cancel?()
    }

    /// The body has ended, and Redis is being told.
    func over() {
        let waiters = state.withLock { state in
            state.isOver = true
            defer { state.waiters = [:] }
            return state.waiters.values
        }
        for waiter in waiters { waiter.resume() }
    }

    /// Cancels it and waits for its end, but not longer than the role lasts anyway. A cancelled task waits too: it may
    /// be the one that shuts the client down, and the body is still at work.
    func end(before deadline: Nanos, on eventLoop: any EventLoop) async {
        cancel()
        if PrimaryTerm.current === self { return }
        await withCheckedContinuation { continuation in
            let number = state.withLock { state -> Int? in
                guard !state.isOver else { return nil }
                state.lastWaiter += 1
                state.waiters[state.lastWaiter] = continuation
                return state.lastWaiter
            }
            guard let number else { return continuation.resume() }
            eventLoop.scheduleTask(in: .nanoseconds(max(0, deadline - Moment.now))) { [weak self] in
                self?.state.withLock { $0.waiters.removeValue(forKey: number) }?.resume()
            }
        }
    }
}
