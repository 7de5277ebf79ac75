// SPDX-License-Identifier: Apache-2.0
//
// One timer for a machine that says when it wants to be woken. On the event loop, never on the cooperative pool: a pool
// that is blocked by its users' code must not let a lease run out. The lock's ticker is not used for this: its 10 ms
// are too coarse where a death is to be noticed within 10 ms.

package import NIOCore
package import RingfenceCore
import Synchronization

package final class Alarm: Sendable {
    private struct State {
        var at = Nanos.never
        var timer: Scheduled<Void>?
        var ring: (@Sendable (Nanos) -> Void)?
        var isStopped = false
    }

    private let eventLoop: any EventLoop
    private let state: Mutex<State>

    package init(eventLoop: any EventLoop, _ ring: (@Sendable (Nanos) -> Void)? = nil) {
        self.eventLoop = eventLoop
        state = Mutex(State(ring: ring))
    }

    /// Who is rung: for an object that owns its alarm, and so is not there yet when that is made.
    package func onRing(_ ring: @escaping @Sendable (Nanos) -> Void) { state.withLock { $0.ring = ring } }

    deinit { state.withLock { $0.timer?.cancel() } }

    /// Rings at `moment`, or sooner if it was set so before. It rings once.
    package func set(_ moment: Nanos, now: Nanos = Moment.now) {
        guard moment != .never else { return }
        state.withLock { state in
            guard !state.isStopped, moment < state.at else { return }
            state.timer?.cancel()
            state.at = moment
            state.timer = eventLoop.scheduleTask(in: .nanoseconds(max(0, moment - now))) { [weak self] in
                self?.fire()
            }
        }
    }

    private func fire() {
        let now = Moment.now
        let ring = state.withLock { state -> (@Sendable (Nanos) -> Void)? in
            // The loop's clock and ours may differ by a little.
            guard !state.isStopped, state.at != .never else { return nil }
            state.at = .never
            state.timer = nil
            return state.ring
        }
        ring?(now)
    }

    package func stop() {
        state.withLock { state in
            state.isStopped = true
            state.timer?.cancel()
            state.timer = nil
        }
    }
}
