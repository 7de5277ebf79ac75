// SPDX-License-Identifier: Apache-2.0
//
// How soon a lock is granted at another server: ordered and unordered failovers of Sentinels, the death of a Cluster's
// owner, the migration of a slot.

import Hiredis
import Logging
import Ringfence
import RingfenceConsole
import RingfencePlatform
import TestServers

extension Topologies {
    // MARK: Sentinels

    func sentinelMoves() async throws {
        progress.show("starting three Sentinels, a primary and its replica")
        try await withSentinels { sentinels in
            // Servers look at each other more often than usual (from 7.0 on), so that the next failover may begin
            // sooner. It changes nothing of one that has begun.
            for index in sentinels.sentinels.indices {
                try await sentinels.ask(index, "SENTINEL", "DEBUG", "info-period", "500")
            }
            try await withPushes(sentinels) { pushes in
                try await withGrants(sentinels.url()) { grants in
                    try await ordered(sentinels, grants, pushes)
                    try await killed(sentinels, grants, pushes)
                }
            }
            try await handOffs("sentinel", sentinels.url()) {
                let old = try await sentinels.primary()
                try await order(sentinels)
                let new = try other(than: old, of: sentinels)
                try await follow(new, old, sentinels)
                return new
            }
        }
    }

    private func order(_ sentinels: RedisSentinels) async throws {
        try await eventually("a failover may begin", within: .seconds(60), every: .milliseconds(20)) {
            try await sentinels.ask(0, "SENTINEL", "FAILOVER", sentinels.options.name).hasPrefix("OK")
        }
    }

    /// The Sentinels make the old primary a replica after 8 s; here that is done when all has been measured.
    private func follow(_ new: RedisServer, _ old: RedisServer, _ sentinels: RedisSentinels) async throws {
        try await sentinels.promotion(after: old)
        try await sentinels.tell(old, "REPLICAOF", "127.0.0.1", "\(new.port)")
        try await sentinels.waitUntilComplete()
    }

    private func ordered(_ sentinels: RedisSentinels, _ grants: Grants, _ pushes: Pushes) async throws {
        var late: [Double] = []
        let count = rounds * 4
        for round in 0..<count {
            progress.show("failovers that were ordered, \(round + 1) of \(count)")
            let old = try await sentinels.primary()
            let new = try other(than: old, of: sentinels)
            pushes.forget()
            grants.forget()
            try await order(sentinels)
            late.append(try await (grants.first(at: new) - pushes.first(naming: new)).milliseconds)
            try await follow(new, old, sentinels)
        }
        tell(Figure(name: "topology.sentinel.ordered", pushed: late))
    }

    private func killed(_ sentinels: RedisSentinels, _ grants: Grants, _ pushes: Pushes) async throws {
        var late: [Double] = []
        var without: [Double] = []
        var unheard: [Double] = []
        for round in 0..<rounds {
            progress.show("primaries under Sentinels killed, \(round + 1) of \(rounds)")
            // They begin no second failover within twice their time for one, 3 s, and the wait would be measured.
            try await Task.sleep(for: .seconds(6))
            let old = try await sentinels.primary()
            let new = try other(than: old, of: sentinels)
            pushes.forget()
            grants.forget()
            let start = ContinuousClock.now
            await old.kill(SIGKILL)
            let (granted, pushed) = try await (grants.first(at: new), pushes.first(naming: new))
            late.append((granted - pushed).milliseconds)
            without.append((granted - start).seconds)
            unheard.append((pushed - start).seconds)
            try await old.restart()
            try await follow(new, old, sentinels)
        }
        tell(Figure(name: "topology.sentinel.killed", late: late, bar: 50))
        tell(
            Figure(
                name: "topology.sentinel.without", unit: "s", rounds: Rounds(references: unheard, values: without),
                bar: nil))
    }

    private func other(than old: RedisServer, of sentinels: RedisSentinels) throws -> RedisServer {
        guard let other = sentinels.servers.first(where: { $0 !== old }) else { throw CommandFailure("no replica") }
        return other
    }

    /// Runs `body` beside plain connections that hear what each Sentinel says.
    private func withPushes(_ sentinels: RedisSentinels, _ body: (Pushes) async throws -> Void) async throws {
        let pushes = Pushes()
        var subscribers: [RedisSubscriber] = []
        for sentinel in sentinels.sentinels {
            let subscriber = RedisSubscriber(
                try RedisConfiguration(url: sentinel.url), channels: ["+switch-master"], logger: logger
            ) { pushes.heard($0) }
            subscriber.start()
            subscribers.append(subscriber)
        }
        do {
            try await eventually("all Sentinels are listened to") { pushes.listening == sentinels.sentinels.count }
            try await body(pushes)
        } catch {
            for subscriber in subscribers { await subscriber.close() }
            throw error
        }
        for subscriber in subscribers { await subscriber.close() }
    }

    // MARK: Clusters

    func clusterMoves() async throws {
        progress.show("starting a Cluster of six")
        try await withRedisCluster { cluster in
            try await withGrants(cluster.url()) { grants in
                try await migrations(cluster, grants)
                try await ownersKilled(cluster, grants)
            }
            try await handOffs("cluster", cluster.url()) {
                let move = try await cluster.migration(ofNamespace: Self.namespace)
                try await move.run()
                return move.target
            }
        }
    }

    private func migrations(_ cluster: RedisCluster, _ grants: Grants) async throws {
        var late: [Double] = []
        let count = rounds * 2
        for round in 0..<count {
            progress.show("slots migrated, \(round + 1) of \(count)")
            try await rest()
            let move = try await cluster.migration(ofNamespace: Self.namespace)
            grants.forget()
            try await move.begin()
            try await move.moveKeys()
            let end = try await withPlain(move.target) { target in
                try await withPlain(move.source) { source in
                    let words = ["CLUSTER", "SETSLOT", "\(move.slot)", "NODE", cluster.id(of: move.target)]
                    _ = try await target.send { $0.command(words) }
                    let end = ContinuousClock.now
                    _ = try await source.send { $0.command(words) }
                    return end
                }
            }
            late.append((try await grants.first(at: move.target) - end).milliseconds)
            try await move.end()
        }
        tell(Figure(name: "topology.cluster.migrated", late: late, bar: 100))
    }

    private func ownersKilled(_ cluster: RedisCluster, _ grants: Grants) async throws {
        var late: [Double] = []
        var without: [Double] = []
        var refused: [Double] = []
        for round in 0..<rounds {
            progress.show("owners in a Cluster killed, \(round + 1) of \(rounds)")
            let owner = try await cluster.owner(ofNamespace: Self.namespace)
            let replica = try await cluster.replica(of: owner)
            try await rest()
            grants.forget()
            async let firstWrite = firstWrite(at: replica)
            let start = ContinuousClock.now
            await owner.kill(SIGKILL)
            let (granted, written) = try await (grants.first(at: replica), firstWrite)
            late.append((granted - written).milliseconds)
            without.append((granted - start).seconds)
            refused.append((written - start).seconds)
            try await owner.restart()
            try await cluster.settle()
        }
        tell(Figure(name: "topology.cluster.killed", late: late, bar: 150))
        tell(
            Figure(
                name: "topology.cluster.without", unit: "s", rounds: Rounds(references: refused, values: without),
                bar: nil))
    }

    /// A client that loses one place after the other within a second slows down on purpose.
    private func rest() async throws { try await Task.sleep(for: .milliseconds(Int.random(in: 1200...1500))) }

    /// When this node takes its first write to the slot of the namespace.
    private func firstWrite(at node: RedisServer) async throws -> ContinuousClock.Instant {
        try await withPlain(node) { plain in
            var written: ContinuousClock.Instant?
            try await eventually("the replica takes a write", within: .seconds(60), every: .milliseconds(1)) {
                let reply = try? await plain.send {
                    $0.command(["SET", "ringfence:{\(Self.namespace)}:bench-probe", "1"])
                }
                if reply != nil { written = .now }
                return reply != nil
            }
            return written ?? .now
        }
    }

    /// Runs `body` with a plain connection to a server.
    private func withPlain<Result>(
        _ server: RedisServer, _ body: (RedisClient) async throws -> Result
    ) async throws -> Result {
        try await withConnection(RedisConfiguration(url: server.unixURL), logger: logger, body)
    }
}

extension Figure {
    /// How much later than the first word of a Sentinel a lock was granted.
    fileprivate init(name: String, pushed milliseconds: [Double]) {
        self.init(name: name, late: milliseconds, bar: 50)
        bar = .percentilesAtMost(p50: 10, p99: 50)
    }
}

/// What the Sentinels said, and when the first of them said it.
private final class Pushes: Sendable {
    private struct State {
        var listening = 0
        /// By the new primary's port: who led a failover says it seconds after the others.
        var first: [Int: ContinuousClock.Instant] = [:]
    }
    private let state = Shared(State())

    var listening: Int { state.value.listening }

    func forget() { state.withLock { $0.first = [:] } }

    func heard(_ event: RedisSubscriber.Event) {
        let now = ContinuousClock.now
        state.withLock { state in
            switch event {
            case .subscribed(true): state.listening += 1
            case .message(_, let payload):
                // NAME, the old host and port, the new host and port.
                let port = String(decoding: payload, as: UTF8.self).split(separator: " ").last.flatMap { Int($0) }
                if let port, state.first[port] == nil { state.first[port] = now }
            default: break
            }
        }
    }

    func first(naming server: RedisServer) async throws -> ContinuousClock.Instant {
        try await eventually("a Sentinel tells of the failover", within: .seconds(60)) {
            state.value.first[server.port] != nil
        }
        return state.value.first[server.port] ?? .now
    }
}
