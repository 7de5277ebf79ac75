// SPDX-License-Identifier: Apache-2.0
//
// One lock, handed through eight waiters that are clients of their own, with a move while they wait and without.

import Hiredis
import Ringfence
import RingfenceConsole
import TestServers

extension Topologies {
    private static let waiters = 8

    /// `move` makes another server the primary, and returns it.
    func handOffs(_ name: String, _ url: String, _ move: @escaping () async throws -> RedisServer) async throws {
        let clients = Array(repeating: Self.configuration(url), count: Self.waiters + 1)
        try await withClients(clients) { clients in
            var disorders = 0
            var round = 0
            let times = try await Rounds.alternate(rounds) {
                try await handOff(clients, "before-\(round)", &disorders)
            } ours: {
                progress.show("hand-offs after a move, \(round + 1) of \(rounds)")
                round += 1
                return try await handOff(clients, "after-\(round)", &disorders, after: move)
            }
            tell(
                Figure(
                    name: "topology.\(name).handoff.\(Self.waiters)", unit: "ms", rounds: times,
                    bar: .ratioAtMost(1.5)))
            tell(
                Figure(
                    name: "topology.\(name).disorder.\(Self.waiters)", unit: "hand-offs", value: Double(disorders),
                    trials: rounds * 2, bar: .valueAtMost(0)))
        }
    }

    /// The time in ms from the release until all have had it.
    private func handOff(
        _ clients: [RingfenceClient], _ lock: String, _ disorders: inout Int,
        after move: (() async throws -> RedisServer)? = nil
    ) async throws -> Double {
        let holder = clients[0]
        let lease = try await holder.acquire(lock, ttl: .seconds(60))
        let order = Shared<[Int]>([])
        var start = ContinuousClock.now
        try await withThrowingTaskGroup(of: Void.self) { group in
            for waiter in 1...Self.waiters {
                let client = clients[waiter]
                group.addTask {
                    try await client.withLock(lock, wait: .seconds(120)) { _ in order.withLock { $0.append(waiter) } }
                }
                try await eventually("waiter \(waiter) is in the queue") {
                    try await holder.inspect(lock).queueLength == waiter
                }
            }
            if let move {
                let server = try await move()
                try await eventually("all are at the new server", within: .seconds(60)) {
                    guard clients.allSatisfy({ $0.locator.status.isAt(server) }) else { return false }
                    return (try? await holder.inspect(lock).queueLength) == Self.waiters
                }
            }
            start = .now
            try await lease.release()
            for try await _ in group {}
        }
        let time = (ContinuousClock.now - start).milliseconds
        if order.value != Array(1...Self.waiters) { disorders += 1 }
        return time
    }
}
