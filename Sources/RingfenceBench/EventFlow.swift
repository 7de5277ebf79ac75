// SPDX-License-Identifier: Apache-2.0
//
// `event.*`: how long after it is done a change is known elsewhere, and how quickly one who was away has caught up.
//
// A change is an update of a member, by the public API of one client, and it is known when the iteration of another
// client gives it out; the reference is a plain PUBLISH of the same bytes between two plain connections. Catching up is
// a new client with the cursor 0:0, connecting included; the reference reads the same pages and looks at nothing in
// them. Every event is checked: one lost or given twice ends the benchmark with an error.

import Hiredis
import Logging
import Ringfence
import RingfenceConsole
import Synchronization

struct EventFlow: Sendable {
    static let namespace = "bench-events"
    private static let replayed = 10_000

    let settings: BenchSettings
    let configuration: RedisConfiguration

    func run(report: (Figure) -> Void) async throws {
        try await clear()
        let figures = try await withClient { publisher in
            let group = try await publisher.group("bench")
            let member = try await group.join("m", weight: 1, lease: .seconds(3600))
            let published = try await withClient { try await publish(member, to: $0) }
            return (published, try await replay(group, publisher))
        }
        try await clear()
        report(figures.0)
        report(figures.1)
    }

    private func withClient<Result: Sendable>(
        _ body: (RingfenceClient) async throws -> Result
    ) async throws -> Result {
        try await withRingfenceClient(
            .init(url: settings.redis.url, namespace: Self.namespace, eventLength: 100_000), settings.logger, body)
    }

    private func clear() async throws {
        let client = RedisClient(configuration, logger: settings.logger)
        let prefix = "ringfence:{\(Self.namespace)}:"
        _ = try await client.send { writer in
            let keys = ["events", "log", "groups", "leases:bench", "members:bench", "state:bench", "policy:bench"]
            writer.begin(1 + keys.count)
            writer.argument("UNLINK")
            for key in keys { writer.argument(prefix + key) }
        }
        await client.close()
    }

    // MARK: From a change to its subscriber

    private func publish(
        _ member: Membership, to subscriber: RingfenceClient
    ) async throws -> Figure {
        let arrivals = Arrivals()
        let following = Task {
            for try await item in subscriber.events() {
                switch item {
                case .state: arrivals.arrived()
                case .event: arrivals.arrived()
                case .reset: throw CommandFailure("a subscriber was reset")
                }
            }
        }
        defer { following.cancel() }
        await arrivals.next()
        while !subscriber.eventStatus.isLive { try await Task.sleep(for: .milliseconds(1)) }
        let plain = RedisClient(configuration, logger: settings.logger)
        let heard = Arrivals()
        let listener = RedisSubscriber(
            configuration, channels: ["bench-plain"], eventLoop: plain.eventLoop, logger: settings.logger
        ) { _ in heard.arrived() }
        listener.start()
        await heard.next()
        let bytes = String(repeating: "x", count: 200)
        var latencies: [Double] = []
        var rounds: Rounds
        do {
            let weights = Shared(1)
            rounds = try await Rounds.alternate(settings.rounds) {
                try await measure(heard) {
                    _ = try await plain.send { writer in
                        writer.begin(3)
                        writer.argument("PUBLISH")
                        writer.argument("bench-plain")
                        writer.argument(bytes)
                    }
                }.median
            } ours: {
                let measured = try await measure(arrivals) {
                    let weight = weights.withLock { weight in
                        weight = weight % 1000 + 1
                        return weight
                    }
                    try await member.update(weight: weight)
                }
                latencies += measured.all
                return measured.median
            }
        } catch {
            await listener.close()
            await plain.close()
            throw error
        }
        await listener.close()
        await plain.close()
        return Figure(name: "event.publish", unit: "us", rounds: rounds, latencies: latencies, bar: .valueAtMost(150))
    }

    /// Microseconds from before `send` to the arrival, one after the other.
    private func measure(
        _ arrivals: Arrivals, _ send: () async throws -> Void
    ) async throws -> (median: Double, all: [Double]) {
        var all: [Double] = []
        let end = ContinuousClock.now + .seconds(settings.seconds)
        while ContinuousClock.now < end {
            let start = ContinuousClock.now
            try await send()
            let arrived = await arrivals.next()
            all.append((arrived - start).microseconds)
        }
        return (Statistics.median(all), all)
    }

    // MARK: Catching up

    private func replay(_ group: Group, _ client: RingfenceClient) async throws -> Figure {
        let start = try await client.eventPage(limit: 1).end
        let tasks = 16
        try await withThrowingTaskGroup(of: Void.self) { adding in
            for task in 0..<tasks {
                adding.addTask {
                    let member = try await group.join("r\(task)", weight: 1, lease: .seconds(3600))
                    for weight in 2...(Self.replayed / tasks) { try await member.update(weight: weight % 1000) }
                }
            }
            for try await _ in adding {}
        }
        let end = try await client.eventPage(limit: 1).end
        let count = Int(end.sequence - start.sequence)
        guard count == Self.replayed else { throw CommandFailure("\(count) events were written, not \(Self.replayed)") }
        let rounds = try await Rounds.alternate(settings.rounds) {
            try await readPages(from: start.sequence, to: end.sequence)
        } ours: {
            let began = ContinuousClock.now
            return try await withClient { reader in
                var next = start.sequence + 1
                for try await item in reader.events(after: start) {
                    guard case .event(let event) = item, event.sequence == next else {
                        throw CommandFailure("event \(next) was lost or came twice")
                    }
                    next += 1
                    if event.cursor == end { break }
                }
                return (ContinuousClock.now - began).milliseconds
            }
        }
        return Figure(name: "event.replay.\(Self.replayed)", unit: "ms", rounds: rounds, bar: .valueAtMost(250))
    }

    /// Milliseconds to read the same entries by XRANGE, 512 a page, on a new connection.
    private func readPages(from: Int64, to: Int64) async throws -> Double {
        let began = ContinuousClock.now
        let client = RedisClient(configuration, logger: settings.logger)
        var next = from + 1
        var count = 0
        while next <= to {
            let reply = try await client.send { writer in
                writer.begin(6)
                writer.argument("XRANGE")
                writer.argument("ringfence:{\(Self.namespace)}:events")
                writer.argument("\(next)-0")
                writer.argument("+")
                writer.argument("COUNT")
                writer.argument(512)
            }
            guard let entries = reply.array, !entries.isEmpty else { throw CommandFailure("XRANGE gave nothing") }
            count += entries.count
            next += Int64(entries.count)
        }
        let milliseconds = (ContinuousClock.now - began).milliseconds
        await client.close()
        guard count == Int(to - from) else { throw CommandFailure("XRANGE gave \(count) events") }
        return milliseconds
    }
}

/// When things arrived, for one who waits for the next.
private final class Arrivals: Sendable {
    private struct State {
        var arrived: [ContinuousClock.Instant] = []
        var waiter: CheckedContinuation<ContinuousClock.Instant, Never>?
    }

    private let state = Mutex(State())

    func arrived() {
        let now = ContinuousClock.now
        let waiter = state.withLock { state -> CheckedContinuation<ContinuousClock.Instant, Never>? in
            if let waiter = state.waiter {
                state.waiter = nil
                return waiter
            }
            state.arrived.append(now)
            return nil
        }
        waiter?.resume(returning: now)
    }

    @discardableResult
    func next() async -> ContinuousClock.Instant {
        await withCheckedContinuation { continuation in
            let now: ContinuousClock.Instant? = state.withLock { state in
                if !state.arrived.isEmpty { return state.arrived.removeFirst() }
                state.waiter = continuation
                return nil
            }
            if let now { continuation.resume(returning: now) }
        }
    }
}
