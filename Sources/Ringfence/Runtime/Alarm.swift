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
        /// It is about to ring for what was due when it was set.
        var isSummoned = false
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

    /// Rings at `moment`, and for what it was set to before if that is sooner, or if `moment` is past: then it rings in
    /// the loop's next turn, and the timer, which is dear to move from another thread, stays as it is.
    package func set(_ moment: Nanos, now: Nanos = Moment.now) {
        guard moment != .never else { return }
        state.withLock { state in
            guard !state.isStopped, moment < state.at else { return }
            guard moment > now else {
                guard !state.isSummoned else { return }
                state.isSummoned = true
                return eventLoop.execute { [weak self] in self?.fire(isSummoned: true) }
            }
            state.timer?.cancel()
            state.at = moment
            state.timer = eventLoop.scheduleTask(in: .nanoseconds(max(0, moment - now))) { [weak self] in
                self?.fire(isSummoned: false)
            }
        }
    }

    private func fire(isSummoned: Bool) {
        let now = Moment.now
        let ring = state.withLock { state -> (@Sendable (Nanos) -> Void)? in
            guard !state.isStopped else { return nil }
            if isSummoned {
                state.isSummoned = false
                return state.ring
            }
            // The loop's clock and ours may differ by a little.
            guard state.at != .never else { return nil }
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
