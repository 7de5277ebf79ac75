// SPDX-License-Identifier: Apache-2.0
//
// docker/examples/replicated, run for real: Redis servers with an agent beside each, and two clients of the library
// that have the cache open, write and read all the time, and check every read (RegisterLoad). The servers do not know
// each other, and the agents do nothing to them; who heals is the library, in one of the two clients.
//
// A few keys are written and read all the time; many more only fill the servers, so that there is something to copy.
// What each server really has is read past all of that, key by key, and held against the others and against the ring.
// The figures of the recipe's README are printed here.
import Ringfence
import RingfenceCache
import RingfenceOperations
import RingfencePlatform
import Synchronization
import TestSupport
import Testing

extension Scenarios {
    @Suite("Replicated Redis nodes") struct ReplicatedTests {
        private static let group = "sessions"
        private static let busy = 240
        private static let all = 5000

        static func name(_ index: Int) -> String { "sessions-\(index + 1)" }

        /// The recipe on one machine.
        private final class Nodes: Sendable {
            let stage: Stage
            let servers: [RedisServer]
            let client: RingfenceClient
            /// The same cache, as two processes have it open.
            let caches: [ReplicatedCache]
            let group: Group
            /// On the keys that are busy.
            let load: RegisterLoad
            /// On the others.
            let rest: RegisterLoad
            private let other: RingfenceClient
            private let agents: Mutex<[Int: ChildProcess]>

            /// Starts so many of four nodes, each with its agent, and fills the cache.
            init(_ stage: Stage, _ servers: [RedisServer], started count: Int) async throws {
                self.stage = stage
                self.servers = servers
                for index in 0..<4 { try Self.configure(stage, servers, index) }
                var agents: [Int: ChildProcess] = [:]
                for index in 0..<count { agents[index] = try await stage.startAgent(name(index), environment: []) }
                self.agents = Mutex(agents)
                client = try RingfenceClient(.init(url: stage.redis.url, owner: "shop-1"))
                other = try RingfenceClient(.init(url: stage.redis.url, owner: "shop-2"))
                group = try await client.group(ReplicatedTests.group)
                try await eventually("\(count) agents have joined", within: .seconds(60)) { [group] in
                    group.snapshot.members.count == count
                }
                caches = [
                    try await client.cache(ReplicatedTests.group), try await other.cache(ReplicatedTests.group),
                ]
                load = RegisterLoad(caches.map { Self.store($0, "busy/") }, keys: ReplicatedTests.busy)
                rest = RegisterLoad(
                    caches.map { Self.store($0, "rest/") }, keys: ReplicatedTests.all - ReplicatedTests.busy)
                try await calm("at first")
                await load.fill()
                await rest.fill()
            }

            private static func store(_ cache: ReplicatedCache, _ prefix: String) -> RegisterStore {
                RegisterStore(
                    get: { try await cache.get(prefix + $0) },
                    set: { key, value in
                        if let value {
                            try await cache.set(prefix + key, value)
                        } else {
                            try await cache.remove(prefix + key)
                        }
                    },
                    isWithoutEffect: { ($0 as? RingfenceError)?.effect == RingfenceError.Effect.none })
            }

            func close() async {
                for cache in caches { await cache.close() }
                await client.shutdown()
                await other.shutdown()
            }

            static func configure(
                _ stage: Stage, _ servers: [RedisServer], _ index: Int, weight: Int = 1
            ) throws {
                try stage.configure(
                    name(index), from: ["a.json", "b.json", "c.json", "d.json"][index],
                    [
                        "redis://127.0.0.1:6379": stage.redis.url,
                        "10.0.0.\(index + 1):6380": "127.0.0.1:\(servers[index].port)",
                        "10.0.0.\(index + 1):8011": "127.0.0.1:\(try freePort())",
                        #""weight": 1"#: #""weight": \#(weight)"#,
                    ])
            }

            func startAgent(_ index: Int, weight: Int = 1) async throws {
                try Self.configure(stage, servers, index, weight: weight)
                let agent = try await stage.startAgent(name(index), environment: [])
                agents.withLock { $0[index] = agent }
            }

            /// SIGTERM: it leaves the group. SIGKILL: its lease ends.
            func stopAgent(_ index: Int, _ signal: Int32 = SIGTERM) async {
                let agent = agents.withLock { $0[index] }
                agent?.signal(signal)
                _ = await agent?.wait()
            }

            /// Waits until the group says of a member what its agent's check found.
            func seen(_ index: Int, isWell: Bool) async throws {
                try await eventually("the check of \(name(index)) is heard", within: .seconds(60)) {
                    group.snapshot.member(name(index))?.health.isEmpty == isWell
                }
            }

            /// Waits until all nodes are up, nothing is on its way, and nothing is noted for anybody.
            func calm(_ what: String, _ indices: [Int]? = nil) async throws {
                try await eventually("the cache is calm \(what)", within: .seconds(60), every: .milliseconds(10)) {
                    let status = await caches[0].status()
                    return !status.isMoving && status.nodes.allSatisfy { $0.state == .up && $0.hints == 0 }
                        && (indices.map { $0.map(name) == status.nodes.map(\.id) } ?? true)
                }
            }

            func state(_ index: Int) async -> CacheStatus.Node.State? {
                await caches[0].status().nodes.first { $0.id == name(index) }?.state
            }

            /// How often each kind of event of the cache is in the log.
            func events() async throws -> [String: Int] {
                let log = try await stage.redis.cli("--raw", "XRANGE", "ringfence:{default}:events", "-", "+")
                var counts: [String: Int] = [:]
                for line in log.split(separator: "\n") {
                    guard let start = line.firstRange(of: #""type":"cache."#) else { continue }
                    counts["cache." + line[start.upperBound...].prefix { $0 != "\"" }, default: 0] += 1
                }
                return counts
            }

            func moves() async throws -> Int { try await events()["cache.moved", default: 0] }

            /// Waits until every key has three copies that are equal, on the nodes of its preference list.
            /// - Returns: how many keys each node has.
            func complete(_ what: String) async throws -> [Int] {
                let ring = group.ring
                let keys =
                    (0..<load.keys).map { "busy/" + RegisterLoad.name($0) }
                    + (0..<rest.keys).map { "rest/" + RegisterLoad.name($0) }
                let found = Mutex((counts: [Int](), lacking: 0))
                do {
                    try await eventually("every key has its copies \(what)", every: .milliseconds(100)) {
                        var copies: [String: [String: String]] = [:]
                        var counts: [Int] = []
                        for (index, server) in servers.enumerated() {
                            let all = server.pid == 0 ? [:] : try await server.cacheCopies(ReplicatedTests.group)
                            copies[name(index)] = all
                            counts.append(all.count)
                        }
                        let lacking = keys.count { key in
                            let owners = ring.preferenceList(for: key, count: 3).map { copies[$0]?[key] }
                            return owners.count != 3 || owners.contains { $0 == nil || $0 != owners[0] }
                        }
                        found.withLock { $0 = (counts, lacking) }
                        return lacking == 0
                    }
                } catch { throw TestSupportError("\(error): \(found.withLock { "\($0)" })") }
                return found.withLock { $0.counts }
            }
        }

        private func withNodes(_ started: Int, _ body: (Nodes) async throws -> Void) async throws {
            let stage = try await Stage("replicated")
            var servers: [RedisServer] = []
            do {
                for _ in 0..<4 {
                    servers.append(try await RedisServer.start(["--include", stage.files + "/redis.conf"]))
                }
                let nodes = try await Nodes(stage, servers, started: started)
                try await body(nodes)
                await nodes.close()
            } catch {
                let story = await stage.story(Self.group)
                await stage.end()
                for server in servers { await server.stop() }
                throw TestSupportError("\(error)\n\(story)")
            }
            await stage.end()
            for server in servers { await server.stop() }
        }

        private func show(_ what: String, _ nodes: Nodes, since start: ContinuousClock.Instant) {
            let time = ContinuousClock.now - start
            let longest = [0, 1].map { nodes.load.tally($0).longest }.max() ?? .zero
            print(
                "replicated: \(what): \(Int(time / .milliseconds(1))) ms, \(nodes.load.calls) calls so far,",
                "the longest",
                "\(Int(longest / .milliseconds(1))) ms")
        }

        /// All calls of the load were right, and every key still is.
        private func check(_ nodes: Nodes) async {
            for store in [0, 1] { await nodes.load.readAll(through: store) }
            await nodes.rest.readAll()
            for load in [nodes.load, nodes.rest] {
                #expect(load.failures == [])
                #expect(load.wrong == [])
            }
        }

        @Test("one is killed and returns with its data, a fourth joins, and the first leaves for good: no call notices")
        func joinAndLeave() async throws {
            try await withNodes(3) { nodes in
                try await nodes.load.run {
                    try await nodes.load.goOn(500)

                    await nodes.servers[1].kill(SIGKILL)
                    try await nodes.load.goOn(1000)
                    try await nodes.seen(1, isWell: false)
                    #expect(await nodes.state(1) == .away)
                    var start = ContinuousClock.now
                    try await nodes.servers[1].restart()
                    try await nodes.calm("after its return", [0, 1, 2])
                    show("killed, and returned with its data", nodes, since: start)
                    try await nodes.seen(1, isWell: true)

                    // In the zone of the first, which it is to replace. While its Redis does not answer it gets no
                    // keys.
                    await nodes.servers[3].kill(SIGKILL)
                    try await nodes.startAgent(3)
                    try await nodes.seen(3, isWell: false)
                    try await nodes.load.goOn(1000)
                    #expect(try await nodes.events()["cache.moving"] == nil)
                    start = .now
                    try await nodes.servers[3].restart()
                    try await eventually("it has moved in", within: .seconds(60)) { try await nodes.moves() == 1 }
                    try await nodes.calm("after the join", [0, 1, 2, 3])
                    show("joined", nodes, since: start)
                    try await nodes.load.goOn(500)
                }
                let counts = try await nodes.complete("after the join")
                #expect(counts[3] > Self.all / 4, "the fourth has its share: \(counts)")
                await check(nodes)

                // As the README says: weight 0, wait, stop. It is read until its keys have moved.
                try await nodes.load.run {
                    let start = ContinuousClock.now
                    await nodes.stopAgent(0)
                    try await nodes.startAgent(0, weight: 0)
                    try await eventually("it has moved out", within: .seconds(60)) { try await nodes.moves() == 2 }
                    try await nodes.calm("after the drain")
                    show("drained", nodes, since: start)
                    await nodes.stopAgent(0)
                    await nodes.servers[0].kill(SIGKILL)
                    try await nodes.load.goOn(1000)
                }
                let left = try await nodes.complete("on the rest")
                #expect(left.dropFirst().allSatisfy { $0 == Self.all }, "\(left)")
                await check(nodes)
                let events = try await nodes.events()
                for kind in ["cache.completing", "cache.completed", "cache.moving"] { #expect(events[kind] != nil) }
                #expect(events["cache.lost"] == nil)
            }
        }

        @Test("one returns empty, one freezes, and one is lost with its machine and given up: no call notices")
        func losses() async throws {
            try await withNodes(4) { nodes in
                try await nodes.load.run {
                    try await nodes.load.goOn(500)
                    await nodes.servers[1].kill(SIGKILL)
                    nodes.servers[1].deleteData()
                    try await nodes.load.goOn(500)
                    var start = ContinuousClock.now
                    try await nodes.servers[1].restart()
                    try await nodes.calm("after its return", [0, 1, 2, 3])
                    show("killed, and returned empty", nodes, since: start)

                    // It runs, and keeps what it has: what it missed is all that it is brought.
                    await nodes.servers[2].kill(SIGSTOP)
                    try await eventually("it is away", within: .seconds(60)) { await nodes.state(2) == .away }
                    try await nodes.load.goOn(500)
                    start = .now
                    await nodes.servers[2].kill(SIGCONT)
                    try await nodes.calm("after the thaw", [0, 1, 2, 3])
                    show("frozen, and thawed", nodes, since: start)
                }
                _ = try await nodes.complete("after both are back")
                await check(nodes)

                try await nodes.load.run {
                    await nodes.stopAgent(3, SIGKILL)
                    await nodes.servers[3].kill(SIGKILL)
                    try await eventually("its lease ends", within: .seconds(60)) {
                        nodes.group.snapshot.member(Self.name(3)) == nil
                    }
                    let start = ContinuousClock.now
                    // Whoever tends the cache: each is told.
                    for cache in nodes.caches { try await cache.forget(Self.name(3)) }
                    try await nodes.calm("without it", [0, 1, 2])
                    show("given up", nodes, since: start)
                    try await nodes.load.goOn(500)
                }
                let left = try await nodes.complete("on the rest")
                #expect(left.dropLast().allSatisfy { $0 == Self.all }, "\(left)")
                await check(nodes)
                let events = try await nodes.events()
                for kind in ["completing", "completed", "drained", "moving", "moved"] {
                    #expect(events["cache." + kind] != nil, "cache.\(kind): \(events)")
                }
                #expect(events["cache.lost"] == nil)
            }
        }
    }
}
