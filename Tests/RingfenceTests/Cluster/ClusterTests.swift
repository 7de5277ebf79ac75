// SPDX-License-Identifier: Apache-2.0
//
// A client on a real Cluster, through what happens to clusters: the owner of its slot is killed, another is promoted,
// the slot is moved.

import Hiredis
import Ringfence
import TestSupport
import Testing

@Suite struct ClusterTests {
    /// Redis 6.2 has no channels that belong to a slot, and does not know MIGRATESLOTS, as most do not.
    private func knows(_ server: RedisServer, _ words: String...) async throws -> Bool {
        try await !redisCLI(["-s", server.socketPath] + words).hasPrefix("ERR")
    }

    /// Keys beside ours in the slot, so that a move takes its time.
    private func fill(_ server: RedisServer, _ count: Int) async throws {
        try await redisCLI(
            ["-s", server.socketPath, "EVAL"] + [
                "for i = 1, \(count) do redis.call('SET', KEYS[1] .. i, 'x') end", "1", "ringfence:{default}:filler:",
            ])
    }

    private func connections(_ server: RedisServer) async throws -> Int {
        try await server.cli("CLIENT", "LIST").split(separator: "\n").count { $0.contains("name=ringfence") }
    }

    @Test func `a client of any seed works where the slot of its namespace is, and only there`() async throws {
        try await withRedisCluster { cluster in
            for namespace in ["default", "eu", "us", "4"] {
                let owner = try await cluster.owner(ofNamespace: namespace)
                let others = cluster.nodes.filter { $0 !== owner }
                try await withClient(cluster.url(seeds: 1)) {
                    $0.namespace = namespace
                } _: { client in
                    try await client.withLock("a") { _ in }
                    let listener = Listener(client.events(after: .start))
                    let group = try await client.group("g")
                    let membership = try await group.join("m", lease: .seconds(20))
                    try await eventually("the event comes") { listener.events.count == 1 }
                    try await membership.leave()
                    try await eventually("who was asked is left") {
                        var left = 0
                        for other in others { left += try await self.connections(other) }
                        return left == 0
                    }
                    // Commands, the inbox and the events.
                    let here = try await self.connections(owner)
                    #expect((3...4).contains(here), "\(here) connections")
                    if try await self.knows(owner, "PUBSUB", "SHARDCHANNELS") {
                        #expect(try await owner.cli("PUBSUB", "CHANNELS") == "")
                        let channels = try await owner.cli("PUBSUB", "SHARDCHANNELS")
                        #expect(channels.split(separator: "\n").count == 2, "\(channels)")
                    }
                }
            }
        }
    }

    @Test func `the documented user may do all that is needed`() async throws {
        try await withRedisCluster(replicas: false) { cluster in
            for node in cluster.nodes {
                try await redisCLI(
                    ["-s", node.socketPath, "ACL", "SETUSER", "ringfence", "on", ">secret", "~ringfence:{default}:*"]
                        + ["resetchannels", "&ringfence:{default}:*", "-@all", "+@read", "+@write", "+@pubsub"]
                        + ["-@dangerous", "+eval", "+evalsha", "+time", "+ping", "+select", "+wait", "+info"]
                        + ["+client|setname", "+client|id", "+client|kill", "+cluster|slots"])
            }
            try await withClusterClients(cluster.url(user: "ringfence:secret@"), 3) { clients in
                let load = ClusterLoad(clients)
                try await load.run {
                    try await load.goesOn()
                    try await cluster.migration(ofNamespace: "default").run()
                    try await load.goesOn()
                }
                #expect(load.failures.isEmpty, "\(load.failures.first.map { "\($0)" } ?? "")")
                _ = try await clients[0].readiness()
            }
        }
    }

    @Test func `a promoted replica takes over with everything, and nobody notices more than a pause`() async throws {
        try await withRedisCluster { cluster in
            try await withClusterClients(cluster.url(seeds: 2), 3) { clients in
                let load = ClusterLoad(clients)
                try await load.run {
                    try await load.goesOn()
                    for _ in 0..<2 {
                        try await cluster.failOver(namespace: "default")
                        try await load.goesOn()
                        try await cluster.settle()
                    }
                }
                try await load.judge(try await cluster.owner(ofNamespace: "default"))
            }
        }
    }

    @Test func `when the owner of its slot is killed a client goes on at the promoted replica`() async throws {
        try await withRedisCluster { cluster in
            try await withClusterClients(cluster.url(), 3) { clients in
                let load = ClusterLoad(clients)
                let owner = try await cluster.owner(ofNamespace: "default")
                try await load.run {
                    try await load.goesOn()
                    await owner.kill(9)
                    try await load.goesOn(200)
                }
                // The last writes may be lost, and with them a lock; never the order of fences, nor an event unsaid.
                load.expectRisingFences()
                let promoted = try await cluster.owner(ofNamespace: "default")
                #expect(promoted !== owner)
                let observer = try Observer(promoted.unixURL)
                let last = try #require(try await observer.events().last)
                try await eventually("the listener is at the end", within: .seconds(90)) {
                    load.listener.events.last?.sequence == last.sequence
                        && load.listener.events.last?.generation == last.generation
                }
                await observer.close()
            }
        }
    }

    // MARK: The slot is moved

    /// 64 locks are held and 64 waiters wait for them while the slot is moved.
    private func holdingMany(
        _ clients: [RingfenceClient], _ body: @Sendable () async throws -> Void
    ) async throws {
        var leases: [Lease] = []
        for number in 0..<64 { leases.append(try await clients[0].acquire("held \(number)", ttl: .seconds(60))) }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for lease in leases {
                group.addTask {
                    try await clients[1].withLock(lease.names[0], ttl: .seconds(60), wait: .seconds(120)) { next in
                        #expect(next.fence > lease.fence)
                    }
                }
            }
            for lease in leases {
                try await eventually("it is waited for") {
                    try await clients[0].inspect(lease.names[0]).queueLength == 1
                }
            }
            try await body()
            for lease in leases { try lease.check() }
            for lease in leases { try await lease.release() }
            for try await _ in group {}
        }
    }

    @Test func `a slot that is moved key by key stops its namespace for a while, and breaks nothing`() async throws {
        try await withRedisCluster(replicas: false) { cluster in
            try await withClusterClients(cluster.url(), 3) { clients in
                let load = ClusterLoad(clients)
                let source = try await cluster.owner(ofNamespace: "default")
                try await fill(source, 10_000)
                try await holdingMany(clients) {
                    try await load.run {
                        try await load.goesOn()
                        let move = try await cluster.migration(ofNamespace: "default")
                        try await move.begin()
                        // Nothing is granted from here, on whatever side the keys are.
                        let before = load.count
                        try await move.moveKeys(3_000)
                        try await move.moveKeys()
                        #expect(load.count - before <= 16, "what was granted before it began")
                        try await move.end()
                        try await load.goesOn()
                        try await cluster.migration(ofNamespace: "default").run()
                        try await load.goesOn()
                    }
                }
                try await load.judge(try await cluster.owner(ofNamespace: "default"))
                // No script began that could not end.
                for node in cluster.nodes {
                    let errors = try await node.cli("INFO", "errorstats")
                    #expect(!errors.contains("errorstat_ERR:"), "\(errors)")
                }
            }
        }
    }

    @Test func `a move that is given up leaves everything where it was`() async throws {
        try await withRedisCluster(replicas: false) { cluster in
            try await withClusterClients(cluster.url(), 3) { clients in
                let load = ClusterLoad(clients)
                let source = try await cluster.owner(ofNamespace: "default")
                try await holdingMany(clients) {
                    try await load.run {
                        try await load.goesOn()
                        let move = try await cluster.migration(ofNamespace: "default")
                        try await move.begin()
                        try await eventually("it is felt") {
                            try await source.cli("INFO", "errorstats").contains(/TRYAGAIN|ASK/)
                        }
                        try await move.abort()
                        try await load.goesOn()
                    }
                }
                #expect(try await cluster.owner(ofNamespace: "default") === source)
                try await load.judge(source)
            }
        }
    }

    @Test func `a slot that is moved in one step stops nobody`() async throws {
        try await withRedisCluster(replicas: false) { cluster in
            guard try await knows(cluster.nodes[0], "CLUSTER", "GETSLOTMIGRATIONS") else { return }
            try await withClusterClients(cluster.url(), 3) { clients in
                let load = ClusterLoad(clients)
                let source = try await cluster.owner(ofNamespace: "default")
                try await fill(source, 10_000)
                try await holdingMany(clients) {
                    try await load.run {
                        try await load.goesOn()
                        #expect(try await cluster.migrateAtomically(namespace: "default"))
                        try await load.goesOn()
                    }
                }
                let target = try await cluster.owner(ofNamespace: "default")
                #expect(target !== source)
                try await load.judge(target)
            }
        }
    }

    // MARK: What nodes are called

    @Test func `nodes may be known by their names, or by nothing but a port`() async throws {
        try await withRedisCluster(replicas: false) { cluster in
            guard try await knows(cluster.nodes[0], "CONFIG", "SET", "cluster-announce-hostname", "localhost") else {
                return
            }
            try await cluster.set("cluster-announce-hostname", "localhost")
            for kind in ["hostname", "unknown-endpoint"] {
                try await cluster.set("cluster-preferred-endpoint-type", kind)
                try await withClusterClients(cluster.url(seeds: 1), 3) { clients in
                    let load = ClusterLoad(clients)
                    try await load.run {
                        try await load.goesOn()
                        try await cluster.migration(ofNamespace: "default").run()
                        try await load.goesOn()
                    }
                }
            }
        }
    }

    @Test func `with TLS a node is verified by the name it announces`() async throws {
        let certificates = try await TestCertificates.make(serverNames: "DNS:localhost")
        try await withRedisCluster(replicas: false, tls: .init(certificates: certificates)) { cluster in
            guard try await knows(cluster.nodes[0], "CONFIG", "SET", "cluster-announce-hostname", "localhost") else {
                return
            }
            try await cluster.set("cluster-announce-hostname", "localhost")
            func lock(within limit: Duration) async throws {
                try await withClient(cluster.url(seeds: 1)) { configuration in
                    configuration.tls.authorityFile = certificates.authority
                    configuration.namespace = "us"
                } _: { client in
                    try await client.withLock("a", wait: limit) { _ in }
                }
            }
            // By its address, for which the certificate is not, a node is not believed.
            let error = await failure { try await lock(within: .seconds(1)) }
            #expect(error?.code == .coordinatorUnavailable, "\(error.map { "\($0)" } ?? "locked")")
            try await cluster.set("cluster-preferred-endpoint-type", "hostname")
            try await lock(within: .seconds(60))
        }
    }

    @Test func `a client that lost its seeds goes on with the nodes it learnt of`() async throws {
        try await withRedisCluster { cluster in
            // The seed is no owner of ours.
            let seed = try await cluster.otherPrimary(than: cluster.owner(ofNamespace: "default"))
            let heir = try await cluster.replica(of: seed)
            let index = try #require(cluster.nodes.firstIndex { $0 === seed })
            let url = "redis+cluster://127.0.0.1:\(cluster.nodes[index].port)"
            try await withClusterClients(url, 3) { clients in
                let load = ClusterLoad(clients)
                try await load.run {
                    try await load.goesOn()
                    // Its replica takes over from it, so that the cluster as a whole goes on.
                    await seed.kill(9)
                    try await eventually("its replica took over", within: .seconds(90)) {
                        try await heir.cli("INFO", "replication").contains("role:master")
                    }
                    try await cluster.failOver(namespace: "default")
                    try await load.goesOn()
                }
                try await load.judge(try await cluster.owner(ofNamespace: "default"))
            }
        }
    }
}
