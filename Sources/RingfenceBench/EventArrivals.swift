// SPDX-License-Identifier: Apache-2.0
//
// When a subscriber was told of an event: a client of its own that does nothing but follow the log, as a dashboard
// would. What is measured waits for it by the group's name.

import Ringfence
import RingfenceConsole
import Synchronization

/// Which groups' events have arrived, and when.
final class EventArrivals: Sendable {
    private struct State {
        var arrived: [String: ContinuousClock.Instant] = [:]
        var waiting: [String: CheckedContinuation<ContinuousClock.Instant, Never>] = [:]
    }

    /// Watches groups, as any member or service does; it does not follow the log.
    let watcher: RingfenceClient
    private let state = Mutex(State())

    private init(watcher: RingfenceClient) { self.watcher = watcher }

    /// Runs `body` beside a subscriber that notes when it is told of events of this type.
    static func following<Result: Sendable>(
        _ type: String, _ settings: BenchSettings, _ namespace: String,
        _ body: @Sendable (EventArrivals) async throws -> Result
    ) async throws -> Result {
        let configuration = RingfenceConfiguration(url: settings.redis.url, namespace: namespace)
        return try await withRingfenceClient(configuration, settings.logger) { watcher in
            try await withRingfenceClient(configuration, settings.logger) { subscriber in
                let arrivals = EventArrivals(watcher: watcher)
                let following = Task {
                    for try await item in subscriber.events() {
                        switch item {
                        case .state: break
                        case .event(let event):
                            if event.type.description == type, let group = event.group { arrivals.tell(group) }
                        case .reset: throw CommandFailure("the subscriber was reset")
                        }
                    }
                }
                defer { following.cancel() }
                while !subscriber.eventStatus.isLive { try await Task.sleep(for: .milliseconds(1)) }
                return try await body(arrivals)
            }
        }
    }

    private func tell(_ group: String) {
        let now = ContinuousClock.now
        let waiting = state.withLock { state in
            let waiting = state.waiting.removeValue(forKey: group)
            if waiting == nil { state.arrived[group] = now }
            return waiting
        }
        waiting?.resume(returning: now)
    }

    /// When the next event about this group came, or the newest that nobody has asked for.
    func arrival(of group: String) async -> ContinuousClock.Instant {
        await withCheckedContinuation { continuation in
            let now = state.withLock { state in
                let now = state.arrived.removeValue(forKey: group)
                if now == nil { state.waiting[group] = continuation }
                return now
            }
            if let now { continuation.resume(returning: now) }
        }
    }

    /// Forgets what came so far.
    func forget(_ group: String) { _ = state.withLock { $0.arrived.removeValue(forKey: group) } }
}
