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
        var isStopped = false
    }

    private let eventLoop: any EventLoop
    private let ring: Ringing
    private let state = Mutex(State())

    /// A closure in a box. Bare in a generic `Mutex`, it would be wrapped once more at every access.
    private final class Ringing: Sendable {
        let run: @Sendable (Nanos) -> Void
        init(_ run: @escaping @Sendable (Nanos) -> Void) { self.run = run }
    }

    package init(eventLoop: any EventLoop, _ ring: @escaping @Sendable (Nanos) -> Void) {
        self.eventLoop = eventLoop
        self.ring = Ringing(ring)
    }

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
        let isDue = state.withLock { state in
            // The loop's clock and ours may differ by a little.
            guard !state.isStopped, state.at != .never else { return false }
            state.at = .never
            state.timer = nil
            return true
        }
        if isDue { ring.run(now) }
    }

    package func stop() {
        state.withLock { state in
            state.isStopped = true
            state.timer?.cancel()
            state.timer = nil
        }
    }
}
