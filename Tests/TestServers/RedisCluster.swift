// SPDX-License-Identifier: Apache-2.0
//
// A real Redis Cluster on loopback: three primaries, with a replica each if wanted.
//
// Nodes usually meet by gossip, and that takes seconds. Here each node is given the file in which it would have kept
// what it knows of the others, so all know each other when they start. What is left is the time a primary waits after a
// start before it takes writes: 2 s.
//
// A node's bus listens at its port + 10000, and both stay below the range of ports that the system gives out.
import RingfencePlatform

/// Starts a cluster, runs `body` with it, stops it.
package func withRedisCluster<Result>(
    _ arguments: [String] = [], replicas: Bool = true, tls: RedisServer.TLS? = nil,
    isolation: isolated (any Actor)? = #isolation, _ body: (RedisCluster) async throws -> sending Result
) async throws -> sending Result {
    let cluster = try await RedisCluster.start(arguments, replicas: replicas, tls: tls)
    do {
        let result = try await body(cluster)
        await cluster.stop()
        return result
    } catch {
        await cluster.stop()
        throw error
    }
}

/// The nodes of a cluster, and what operators do with them.
package final class RedisCluster: Sendable {
    /// Three primaries, then their replicas in the same order, as it was at the start.
    package let nodes: [RedisServer]
    private let isSecure: Bool

    private init(_ nodes: [RedisServer], isSecure: Bool) {
        self.nodes = nodes
        self.isSecure = isSecure
    }

    /// After how long, in ms, a node that does not answer counts as down.
    package static let nodeTimeout = 2000
    private static let primaries = 3
    private static let slots = 16384

    // MARK: Life

    package static func start(
        _ arguments: [String] = [], replicas: Bool = true, tls: RedisServer.TLS? = nil
    ) async throws -> RedisCluster {
        var failure: any Error = TestSupportError("no cluster was tried")
        for _ in 0..<8 {
            let cluster = try await make(arguments, count: replicas ? 2 * primaries : primaries, tls)
            do {
                try await cluster.launch()
                return cluster
            } catch {
                await cluster.stop()
                failure = error
            }
        }
        throw failure
    }

    private static func make(
        _ arguments: [String], count: Int, _ tls: RedisServer.TLS?
    ) async throws -> RedisCluster {
        var all = [
            "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf",
            "--cluster-node-timeout", "\(nodeTimeout)",
            // Replicas stay with their primaries, and may follow them however long ago they heard of them.
            "--cluster-migration-barrier", "10", "--cluster-replica-validity-factor", "0",
        ]
        if tls != nil { all += ["--tls-cluster", "yes", "--tls-replication", "yes"] }
        var ports: Set<Int> = []
        while ports.count < 2 * count { ports.insert(try freePort(in: 12_000..<22_000)) }
        let list = Array(ports)
        let nodes = try (0..<count).map { index in
            RedisServer(
                directory: try TemporaryDirectory(), port: list[index], tlsPort: tls == nil ? 0 : list[count + index],
                arguments: all + RedisServer.arguments(of: tls) + arguments)
        }
        // From 7.2 on a node has the id of its shard there, and without it stops at the first SPUBLISH.
        let version = try await output(of: RedisServer.program, ["--version"]).firstMatch(of: /v=([0-9]+)\.([0-9]+)/)
        let hasShards = version.map { (Int($0.1) ?? 0, Int($0.2) ?? 0) >= (7, 2) } ?? true
        for node in nodes {
            let file = Self.file(of: node, nodes, isSecure: tls != nil, hasShards: hasShards)
            try writeFile(node.directory.path + "/nodes.conf", file)
        }
        return RedisCluster(nodes, isSecure: tls != nil)
    }

    /// What `node` would have kept of all.
    private static func file(
        of node: RedisServer, _ nodes: [RedisServer], isSecure: Bool, hasShards: Bool
    ) -> String {
        var text = ""
        for (index, other) in nodes.enumerated() {
            let port = isSecure ? other.tlsPort : other.port
            let shard = index % primaries
            let role = index < primaries ? "master -" : "slave \(id(of: shard))"
            let range = index < primaries ? " \(slots * shard / primaries)-\(slots * (shard + 1) / primaries - 1)" : ""
            let details = hasShards ? ",,shard-id=\(id(of: shard + 6))" : ""
            text += "\(id(of: index)) 127.0.0.1:\(port)@\(port + 10_000)\(details) "
            text += "\(other === node ? "myself," : "")\(role)"
            text += " 0 0 \(shard + 1) connected\(range)\n"
        }
        return text + "vars currentEpoch \(primaries) lastVoteEpoch 0\n"
    }

    private static func id(of index: Int) -> String { String(repeating: "\(index + 1)", count: 40) }

    /// The id by which the cluster knows a node.
    package func id(of node: RedisServer) -> String { Self.id(of: nodes.firstIndex { $0 === node }!) }

    private func launch() async throws {
        for node in nodes { try await node.launch() }
        try await settle()
    }

    /// Waits until every node that runs takes part, and every replica follows its primary.
    package func settle() async throws {
        for node in running {
            try await eventually("the node on port \(node.port) takes part", within: .seconds(60)) {
                guard try await node.cli("CLUSTER", "INFO").contains("cluster_state:ok") else { return false }
                let replication = try await node.cli("INFO", "replication")
                return replication.contains("role:master") || replication.contains("master_link_status:up")
            }
        }
    }

    package func stop() async {
        for node in nodes { await node.stop() }
    }

    /// The nodes whose process was not ended.
    package var running: [RedisServer] { nodes.filter { $0.pid != 0 } }

    // MARK: Where things are

    /// Names so many primaries as seeds.
    package func url(seeds: Int = 3, user: String = "") -> String {
        let hosts = nodes.prefix(seeds).map { isSecure ? "localhost:\($0.tlsPort)" : "127.0.0.1:\($0.port)" }
        return "\(isSecure ? "rediss" : "redis")+cluster://\(user)\(hosts.joined(separator: ","))"
    }

    package func slot(ofNamespace namespace: String) async throws -> Int {
        let text = try await running[0].cli("CLUSTER", "KEYSLOT", "ringfence:{\(namespace)}:")
        guard let slot = Int(text) else { throw TestSupportError("no slot: \(text)") }
        return slot
    }

    /// The node that says of itself that it is the primary of the slot of `namespace`; of several the one of the newest
    /// epoch.
    package func owner(ofNamespace namespace: String) async throws -> RedisServer {
        let slot = try await slot(ofNamespace: namespace)
        var newest: (node: RedisServer, epoch: Int)?
        for node in running {
            guard let line = try? await myself(node), line[2].contains("master"), Self.holds(line, slot),
                let epoch = Int(line[6])
            else { continue }
            if epoch > newest?.epoch ?? -1 { newest = (node, epoch) }
        }
        guard let newest else { throw TestSupportError("no node has the slot \(slot)") }
        return newest.node
    }

    /// The replica of `node`.
    package func replica(of node: RedisServer) async throws -> RedisServer {
        let id = id(of: node)
        for other in running where try await myself(other)[3] == id { return other }
        throw TestSupportError("the node on port \(node.port) has no replica")
    }

    /// A primary other than `node`.
    package func otherPrimary(than node: RedisServer) async throws -> RedisServer {
        for other in running where other !== node {
            if try await myself(other)[2].contains("master") { return other }
        }
        throw TestSupportError("there is no other primary")
    }

    /// A node's line about itself in CLUSTER NODES.
    private func myself(_ node: RedisServer) async throws -> [Substring] {
        let lines = try await node.cli("CLUSTER", "NODES").split(separator: "\n")
        guard let line = lines.first(where: { $0.contains("myself") })?.split(separator: " "), line.count >= 8 else {
            throw TestSupportError("the node on port \(node.port) does not know itself: \(lines)")
        }
        return line
    }

    private static func holds(_ line: [Substring], _ slot: Int) -> Bool {
        line.dropFirst(8).contains { range in
            let ends = range.split(separator: "-").compactMap { Int($0) }
            guard !range.hasPrefix("["), let first = ends.first, let last = ends.last else { return false }
            return (first...last).contains(slot)
        }
    }

    // MARK: What operators do

    /// Sets an option of all nodes that run.
    package func set(_ option: String, _ value: String) async throws {
        for node in running { try await node.cli("CONFIG", "SET", option, value) }
    }

    /// Makes the replica of the owner the owner; returns it when it is.
    @discardableResult
    package func failOver(namespace: String) async throws -> RedisServer {
        let replica = try await replica(of: owner(ofNamespace: namespace))
        var askedAt = ContinuousClock.now - .seconds(60)
        try await eventually("the replica is a primary", within: .seconds(90)) {
            // It gives up by itself after 5 s, as where it is not in step in time.
            if askedAt.duration(to: .now) > .seconds(6) {
                askedAt = .now
                try await replica.cli("CLUSTER", "FAILOVER")
            }
            return try await replica.cli("INFO", "replication").contains("role:master")
        }
        return replica
    }

    /// A move of the slot of `namespace` to another primary, key by key, not yet begun.
    package func migration(ofNamespace namespace: String) async throws -> SlotMigration {
        let source = try await owner(ofNamespace: namespace)
        return SlotMigration(
            cluster: self, slot: try await slot(ofNamespace: namespace), source: source,
            target: try await otherPrimary(than: source))
    }

    /// Moves the slot in one step, as servers can that know CLUSTER MIGRATESLOTS; returns when it has moved. False if
    /// this server cannot.
    package func migrateAtomically(namespace: String) async throws -> Bool {
        let move = try await migration(ofNamespace: namespace)
        let slot = "\(move.slot)"
        let answer = try await move.source.cli(
            "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", id(of: move.target))
        guard answer == "OK" else { return false }
        try await eventually("the slot has moved", within: .seconds(60)) {
            Self.holds(try await self.myself(move.target), move.slot)
        }
        return true
    }
}

/// The classic way to move a slot, in steps between which a test can look.
package struct SlotMigration: Sendable {
    private let cluster: RedisCluster
    package let slot: Int
    package let source: RedisServer
    package let target: RedisServer

    fileprivate init(cluster: RedisCluster, slot: Int, source: RedisServer, target: RedisServer) {
        self.cluster = cluster
        self.slot = slot
        self.source = source
        self.target = target
    }

    /// From here on the source refuses what is not wholly there.
    package func begin() async throws {
        try await target.cli("CLUSTER", "SETSLOT", "\(slot)", "IMPORTING", cluster.id(of: source))
        try await source.cli("CLUSTER", "SETSLOT", "\(slot)", "MIGRATING", cluster.id(of: target))
    }

    /// Moves at most `most` keys; returns how many moved.
    @discardableResult
    package func moveKeys(_ most: Int = .max) async throws -> Int {
        var moved = 0
        while moved < most {
            let keys = try await source.cli("CLUSTER", "GETKEYSINSLOT", "\(slot)", "\(min(500, most - moved))")
                .split(separator: "\n").map { String($0) }
            if keys.isEmpty { break }
            let answer = try await redisCLI(
                ["-s", source.socketPath, "MIGRATE", "127.0.0.1", "\(target.port)", "", "0", "10000", "KEYS"] + keys)
            guard answer == "OK" || answer == "NOKEY" else { throw TestSupportError("MIGRATE: \(answer)") }
            moved += keys.count
        }
        return moved
    }

    /// The target is the owner; all are told.
    package func end() async throws {
        for node in [target, source] + cluster.running.filter({ $0 !== target && $0 !== source }) {
            // A replica may not be told, and learns it from the others.
            try await node.cli("CLUSTER", "SETSLOT", "\(slot)", "NODE", cluster.id(of: target))
        }
    }

    /// All of it.
    package func run() async throws {
        try await begin()
        try await moveKeys()
        try await end()
    }

    /// It is given up before a key was moved, which is the only time at which nothing is lost by that.
    package func abort() async throws {
        for node in [source, target] { try await node.cli("CLUSTER", "SETSLOT", "\(slot)", "STABLE") }
    }
}
