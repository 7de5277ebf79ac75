// SPDX-License-Identifier: Apache-2.0
//
// Time for the machines: every 10 ms on the connection's event loop while there is anything to watch, and nothing at
// all while there is not. One tick for everything costs less than a timer for each lease, of which there may be 100,000
// a second, and being up to 10 ms late is inside every margin (the grace of a lease is never less).

import NIOCore
import RingfenceCore
import Synchronization

final class Ticker: Sendable {
    private static let interval = TimeAmount.milliseconds(10)
    /// Ticks with nothing to watch before it stops.
    private static let idleTicks = 100

    private let eventLoop: any EventLoop
    private let isRunning = Atomic<Bool>(false)
    private let work = Mutex(Work())

    /// A struct, because a bare closure in a generic `Mutex` would be wrapped once more at every access.
    private struct Work {
        var run: (@Sendable (Nanos) -> Bool)?
    }

    init(eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    /// What to do at each tick; it returns whether there is anything left to watch.
    func onTick(_ work: @escaping @Sendable (Nanos) -> Bool) { self.work.withLock { $0.run = work } }

    /// Makes sure that it ticks. Cheap when it does.
    func start() {
        guard !isRunning.load(ordering: .relaxed) else { return }
        guard isRunning.compareExchange(expected: false, desired: true, ordering: .acquiringAndReleasing).exchanged
        else { return }
        let idle = IdleCount()
        // Not weak: every retain and release of an object that is referred to weakly takes a longer way, and this is
        // asked for with every lease. It ends itself when there is nothing to do.
        eventLoop.scheduleRepeatedTask(initialDelay: Self.interval, delay: Self.interval) { [self] task in
            guard let run = work.withLock({ $0 }).run else { return task.cancel() }
            if run(Moment.now) { return idle.reset() }
            guard idle.increment() >= Self.idleTicks else { return }
            task.cancel()
            isRunning.store(false, ordering: .sequentiallyConsistent)
            // What came between the look and the stop found it running.
            if run(Moment.now) { start() }
        }
    }

    func stop() { work.withLock { $0.run = nil } }
}

/// Counts on one event loop; an atomic only because the closure that holds it must be Sendable.
private final class IdleCount: Sendable {
    private let value = Atomic<Int>(0)
    func reset() { value.store(0, ordering: .relaxed) }
    func increment() -> Int { value.add(1, ordering: .relaxed).newValue }
}
