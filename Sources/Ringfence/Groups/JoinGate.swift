// SPDX-License-Identifier: Apache-2.0
//
// Joins of one client take turns. A join changes its group for all its watchers, and a deployment makes hundreds of
// joins at once; locks, beats and looks share the connection, the event loop and the processor with them, and have to
// wait behind them. Nobody minds a join that takes a few milliseconds longer, but a lock must not. So a few joins are
// under way and the others wait here, first come, first served, no longer than a command may take.

import NIOCore
import RingfenceCore
import Synchronization

final class JoinGate: Sendable {
    private struct State {
        var free: Int
        var next: UInt64 = 0
        var waiting: [(id: UInt64, continuation: CheckedContinuation<Bool, Never>, timer: Scheduled<Void>)] = []
    }

    private let eventLoop: any EventLoop
    private let state: Mutex<State>

    init(_ eventLoop: any EventLoop, places: Int = 2) {
        self.eventLoop = eventLoop
        state = Mutex(State(free: places))
    }

    /// Waits for a place; false if there was none in time. A caller that got one gives it back by ``leave()``.
    func enter(until: Nanos) async -> Bool {
        await withCheckedContinuation { continuation in
            let isFree = state.withLock { state in
                guard state.free == 0 else {
                    state.free -= 1
                    return true
                }
                let id = state.next
                state.next += 1
                let timer = eventLoop.scheduleTask(in: .nanoseconds(max(0, until - Moment.now))) { [self] in
                    giveUp(id)
                }
                state.waiting.append((id, continuation, timer))
                return false
            }
            if isFree { continuation.resume(returning: true) }
        }
    }

    func leave() {
        let next = state.withLock { state in
            guard !state.waiting.isEmpty else {
                state.free += 1
                return nil as (id: UInt64, continuation: CheckedContinuation<Bool, Never>, timer: Scheduled<Void>)?
            }
            return state.waiting.removeFirst()
        }
        next?.timer.cancel()
        next?.continuation.resume(returning: true)
    }

    private func giveUp(_ id: UInt64) {
        let late = state.withLock { state in
            state.waiting.firstIndex { $0.id == id }.map { state.waiting.remove(at: $0) }
        }
        late?.continuation.resume(returning: false)
    }
}
