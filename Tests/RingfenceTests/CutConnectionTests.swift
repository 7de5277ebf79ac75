// SPDX-License-Identifier: Apache-2.0
//
// A connection that breaks at every byte of every command of a lock, in both directions. Whatever the caller is told
// must be true (a lease is in Redis, a failure's effect is what happened), and nothing may be left over that nobody
// knows of.
//
// Positions are shared out among a few lanes, each on a lock of its own, so that all of them take seconds. Acquire and
// release are cut at every byte; the longer exchange of a wait, its push and its claim at every seventh.

import Hiredis
import Ringfence
import TestSupport
import Testing

// Serialized: it has lanes of its own, and leaves some of the machine to the tests whose leases run.
@Suite(.serialized) struct CutConnectionTests {
    enum Way: CaseIterable { case toServer, toClient }

    /// One client behind a proxy that cuts.
    struct Lane: Sendable {
        let proxy: TCPProxy
        let client: RingfenceClient
        /// On the server itself: it is not cut.
        let other: RingfenceClient
        let observer: Observer
        let name: String

        func cut(_ way: Way, after bytes: Int) {
            proxy.update { faults in
                switch way {
                case .toServer: faults.clientToServer.cutAfter = bytes
                case .toClient: faults.serverToClient.cutAfter = bytes
                }
            }
        }

        func heal() {
            proxy.update { faults in
                faults.clientToServer.cutAfter = nil
                faults.serverToClient.cutAfter = nil
            }
        }

        func passed(_ way: Way) -> Int { way == .toServer ? proxy.bytesToServer : proxy.bytesToClient }

        /// Both connections stand and the scripts are loaded: the next bytes are those of the next call.
        func connect() async throws {
            let lease = try await client.acquire(name, ttl: .seconds(30), wait: .seconds(30))
            let inbox = "ringfence:{default}:inbox:\(lease.id.prefix { $0 != "-" })"
            try await lease.release()
            try await eventually("the inbox is heard") {
                try await observer.send("PUBSUB", "NUMSUB", inbox).array?.last == .integer(1)
            }
        }

        /// Nothing is left, and the lock can be had: what every cut must end in.
        func isWhole() async throws {
            heal()
            try await eventually("no ghost of \(name)") { try await observer.isClean(name) }
            let next = try await client.acquire(name, ttl: .seconds(30), wait: .seconds(30))
            try await next.release()
            #expect(try await observer.isClean(name))
        }
    }

    /// Runs `body` for every position of the exchange whose bytes `measure` counts, each time with a new client: one
    /// that was cut again and again would wait longer and longer before it connects.
    private func everywhere(
        _ way: Way, every step: Int = 1, measure: @escaping @Sendable (Lane) async throws -> Int,
        _ body: @escaping @Sendable (Lane, Int) async throws -> Void
    ) async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { other in
                let proxy = try await TCPProxy.start(to: server)
                let bytes = try await withClient(proxy.url) { client in
                    let lane = Lane(proxy: proxy, client: client, other: other, observer: observer, name: "lane 9")
                    try await lane.connect()
                    return try await measure(lane)
                }
                await proxy.close()
                try await withThrowingTaskGroup { group in
                    let lanes = 4
                    for number in 0..<lanes {
                        group.addTask {
                            for position in stride(from: number * step, through: bytes + 1, by: lanes * step) {
                                let proxy = try await TCPProxy.start(to: server)
                                try await withClient(proxy.url) { client in
                                    let lane = Lane(
                                        proxy: proxy, client: client, other: other, observer: observer,
                                        name: "lane \(number)")
                                    try await lane.connect()
                                    try await body(lane, position)
                                    try await lane.isWhole()
                                }
                                await proxy.close()
                            }
                        }
                    }
                    for try await _ in group {}
                }
            }
        }
    }

    @Test(arguments: Way.allCases)
    func `an acquire cut anywhere is a lease or a failure that left nothing`(_ way: Way) async throws {
        try await everywhere(way) { lane in
            let start = lane.passed(way)
            let lease = try await lane.client.tryAcquire(lane.name, ttl: .seconds(30))
            defer { withExtendedLifetime(lease) {} }
            return lane.passed(way) - start
        } _: { lane, position in
            lane.cut(way, after: position)
            do {
                let lease = try await lane.client.tryAcquire(lane.name, ttl: .seconds(30))
                // A cut of the connection at rest is no reason to be told `busy`.
                let held = try #require(lease)
                #expect(try await lane.observer.value(of: lane.name) == held.token)
                lane.heal()
                try? await held.release()
            } catch let error as RingfenceError {
                #expect(error.code == .coordinatorUnavailable)
                #expect(error.isRetriable)
            }
        }
    }

    @Test(arguments: Way.allCases)
    func `a release cut anywhere sets the lock free`(_ way: Way) async throws {
        try await everywhere(way) { lane in
            let lease = try await lane.client.tryAcquire(lane.name, ttl: .seconds(30))
            let start = lane.passed(way)
            try await lease?.release()
            return lane.passed(way) - start
        } _: { lane, position in
            let lease = try #require(try await lane.client.tryAcquire(lane.name, ttl: .seconds(30)))
            lane.cut(way, after: position)
            try await lease.release()
        }
    }

    @Test(arguments: Way.allCases)
    func `a wait cut anywhere ends with the lock`(_ way: Way) async throws {
        try await everywhere(way, every: 7) { lane in
            let start = lane.passed(way)
            try await handOff(lane) {}
            return lane.passed(way) - start
        } _: { lane, position in
            lane.cut(way, after: position)
            try await handOff(lane) {}
        }
    }

    @Test(arguments: Way.allCases)
    func `a push and a claim cut anywhere end with the lock`(_ way: Way) async throws {
        try await everywhere(way, every: 7) { lane in
            let start = lane.passed(way)
            try await handOff(lane) {}
            return lane.passed(way) - start
        } _: { lane, position in
            try await handOff(lane) { lane.cut(way, after: position) }
        }
    }

    /// Another holds the lock, the lane's client waits for it, `disturb` runs, and it is handed over.
    private func handOff(_ lane: Lane, _ disturb: @Sendable () -> Void) async throws {
        let first = try #require(try await lane.other.tryAcquire(lane.name, ttl: .seconds(30)))
        async let waiting = lane.client.acquire(lane.name, ttl: .seconds(30), wait: .seconds(60))
        try await eventually("queued") {
            try await lane.observer.send("ZCARD", "ringfence:{default}:queue:\(lane.name)") == .integer(1)
        }
        disturb()
        try await first.release()
        let lease = try await waiting
        #expect(lease.fence > first.fence)
        #expect(try await lane.observer.value(of: lane.name) == lease.token)
        lane.heal()
        try await lease.release()
    }
}
