// SPDX-License-Identifier: Apache-2.0
//
// `cache.*`: what three copies cost beside one.
//
// Three redis-servers of their own, by TCP on the loopback, for three copies are on three machines; members of a group
// at the benchmark's Redis. A write is measured one at a time, by the 50th percentile: three servers and this process
// share the machine, so with many at once their processor time would be compared and not what a caller waits for. The
// reference is a plain SET of the same value on one of the servers, by the same kind of connection.
//
// For the drain one node refuses scripts for a while (its ACL), as one does that is out of reach: what is written
// meanwhile is hinted. From the moment it takes them again, until it has everything.

import Hiredis
import Logging
import Ringfence
import RingfenceCache
import RingfenceConsole
import RingfenceOperations

struct Caching: Sendable {
    static let namespace = "bench-cache"
    private static let hints = 10_000
    private static let value = [UInt8](repeating: 7, count: 100)

    let settings: BenchSettings

    func run(report: (Figure) -> Void) async throws {
        let directory = try CommandRedis.temporaryDirectory()
        var servers: [EmbeddedRedis] = []
        do {
            for number in 1...3 {
                servers.append(
                    try await EmbeddedRedis.start(directory: "\(directory)/\(number)", logger: settings.logger))
            }
            try await measure(servers, report)
        } catch {
            await end(servers, directory)
            throw error
        }
        await end(servers, directory)
    }

    private func end(_ servers: [EmbeddedRedis], _ directory: String) async {
        for server in servers { await server.stop() }
        CommandRedis.remove(directory)
    }

    private func measure(_ servers: [EmbeddedRedis], _ report: (Figure) -> Void) async throws {
        var addresses: [String] = []
        for server in servers {
            try await send(["CONFIG", "SET", "appendonly", "no"], to: server)
            addresses.append("127.0.0.1:\(try await listen(server))")
        }
        let client = try RingfenceClient(
            .init(url: settings.redis.url, namespace: Self.namespace), logger: settings.logger)
        do {
            let name = "bench-\(UInt32.random(in: 0 ... .max))"
            let group = try await client.group(name)
            for (index, address) in addresses.enumerated() {
                _ = try await group.join("node-\(index + 1)", address: address)
            }
            // So that a drain is not slowed on purpose: that is what is measured.
            let cache = try await client.cache(name, options: .init(repairKeysPerSecond: 1_000_000))
            try await calm(cache)
            let figures = try await settings.withPlain(RedisConfiguration(url: "redis://\(addresses[0])")) { plain in
                try await writes(cache, plain)
            }
            for figure in figures { report(figure) }
            report(try await drain(cache, servers[2]))
            await cache.close()
            await client.shutdown()
        } catch {
            await client.shutdown()
            throw error
        }
    }

    /// By TCP too. - Returns: the port.
    private func listen(_ server: EmbeddedRedis) async throws -> Int {
        let port = try ServiceProcess.freePort()
        try await send(["CONFIG", "SET", "bind", "127.0.0.1", "port", "\(port)"], to: server)
        return port
    }

    private func send(_ words: [String], to server: EmbeddedRedis) async throws {
        try await settings.withPlain(RedisConfiguration(url: server.url)) { plain in
            _ = try await plain.send { writer in
                writer.begin(words.count)
                for word in words { writer.argument(word) }
            }
        }
    }

    private func calm(_ cache: ReplicatedCache) async throws {
        let end = ContinuousClock.now + .seconds(60)
        while true {
            let status = await cache.status()
            if !status.isMoving, status.nodes.allSatisfy({ $0.state == .up && $0.hints == 0 }) { return }
            guard ContinuousClock.now < end else { throw CommandFailure("the nodes were not complete within 60 s") }
            try await Task.sleep(for: .milliseconds(5))
        }
    }

    // MARK: Writes and reads

    private func writes(_ cache: ReplicatedCache, _ plain: RedisClient) async throws -> [Figure] {
        let key = "account/4711"
        var written: [Double] = []
        let set = try await Rounds.alternate(settings.rounds) {
            try await p50 {
                let reply = try await plain.send { writer in
                    writer.begin(3)
                    writer.argument("SET")
                    writer.argument(key)
                    writer.argument(Self.value)
                }
                guard reply.text == "OK" else { throw CommandFailure("SET answered \(reply)") }
            }
        } ours: {
            try await p50(&written) { try await cache.set(key, Self.value) }
        }
        var read: [Double] = []
        let get = try await Rounds.alternate(settings.rounds) {
            try await p50 {
                let reply = try await plain.send { writer in
                    writer.begin(2)
                    writer.argument("GET")
                    writer.argument(key)
                }
                guard reply.bytes == Self.value else { throw CommandFailure("GET answered something else") }
            }
        } ours: {
            try await p50(&read) {
                guard try await cache.get(key) == Self.value else { throw CommandFailure("a read found another value") }
            }
        }
        return [
            Figure(
                name: "cache.write.3.2", unit: "us", rounds: set, latencies: written, bar: .ratioAtMost(1.5)),
            Figure(name: "cache.read.3.2", unit: "us", rounds: get, latencies: read, bar: nil),
        ]
    }

    private func p50(_ body: () async throws -> Void) async throws -> Double {
        var all: [Double] = []
        return try await p50(&all, body)
    }

    /// The median time in µs of one after the other; each is added to `all`.
    private func p50(_ all: inout [Double], _ body: () async throws -> Void) async throws -> Double {
        let clock = ContinuousClock()
        var own: [Double] = []
        let start = clock.now
        repeat {
            let before = clock.now
            try await body()
            own.append((clock.now - before).microseconds)
        } while clock.now - start < .seconds(settings.seconds)
        all += own
        return Statistics.median(own)
    }

    // MARK: Hints

    private func drain(_ cache: ReplicatedCache, _ node: EmbeddedRedis) async throws -> Figure {
        var trials: [Double] = []
        for _ in 0..<min(settings.rounds, 5) {
            try await send(["ACL", "SETUSER", "default", "-eval", "-evalsha"], to: node)
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for part in 0..<settings.tasks {
                    tasks.addTask {
                        for number in stride(from: part, to: Self.hints, by: settings.tasks) {
                            try await cache.set("hinted/\(number)", Self.value)
                        }
                    }
                }
                for try await _ in tasks {}
            }
            // The last of them are on their way.
            let end = ContinuousClock.now + .seconds(10)
            while await cache.status().nodes[2].hints < Self.hints {
                guard ContinuousClock.now < end else { throw CommandFailure("not all that was missed was hinted") }
                try await Task.sleep(for: .milliseconds(5))
            }
            try await send(["ACL", "SETUSER", "default", "+@all"], to: node)
            let start = ContinuousClock.now
            try await calm(cache)
            trials.append((ContinuousClock.now - start).milliseconds)
        }
        return Figure(
            name: "cache.drain.\(Self.hints)", unit: "ms", value: Statistics.median(trials), trials: trials.count,
            bar: .valueAtMost(2_000))
    }
}
