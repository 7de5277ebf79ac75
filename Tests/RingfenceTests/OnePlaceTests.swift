// SPDX-License-Identifier: Apache-2.0
//
// Redis moves, and what was split before goes on together: waiters are granted in their order, subscribers hear,
// holders renew. The old server lives on as a primary, which is what makes it hard: nothing breaks by itself.

import CoreMetrics
import Hiredis
import MetricsTestKit
import Ringfence
import RingfencePlatform
import TestSupport
import Testing

@Suite struct OnePlaceTests {
    /// A primary, a replica in step with it, and an address that leads to the primary.
    private func withPair(
        _ body: @Sendable (_ old: RedisServer, _ new: RedisServer, _ proxy: TCPProxy) async throws -> Void
    ) async throws {
        try await withRedis { old in
            try await withRedis(["--replicaof", "127.0.0.1", "\(old.port)"]) { new in
                try await eventually("the replica is in step") {
                    try await new.cli("INFO", "replication").contains("master_link_status:up")
                }
                let proxy = try await TCPProxy.start(to: old)
                do { try await body(old, new, proxy) } catch {
                    await proxy.close()
                    throw error
                }
                await proxy.close()
            }
        }
    }

    /// The address leads to the replica, which is promoted, and the old primary goes on.
    private func move(_ old: RedisServer, _ new: RedisServer, _ proxy: TCPProxy) async throws {
        try await eventually("all is replicated") {
            func offset(_ server: RedisServer) async throws -> Substring? {
                try await server.cli("INFO", "replication").split(whereSeparator: \.isNewline)
                    .first { $0.hasPrefix("master_repl_offset:") }
            }
            return try await offset(old) == offset(new)
        }
        try await new.cli("REPLICAOF", "NO", "ONE")
        try proxy.retarget(to: new)
    }

    @Test func `eight waiters get the lock in their order after only the connections for commands have moved`()
        async throws
    {
        try await withPair { old, new, proxy in
            try await withClient(proxy.url, owner: "holder") { holder in
                try await withClients(proxy.url, 8) { waiting in
                    let lease = try await holder.acquire("k", ttl: .seconds(60))
                    let order = Shared<[Int]>([])
                    try await withThrowingTaskGroup(of: Void.self) { group in
                        for (number, client) in waiting.enumerated() {
                            group.addTask {
                                try await client.withLock("k", wait: .seconds(300)) { _ in
                                    order.change { $0.append(number) }
                                }
                            }
                            try await eventually { try await holder.inspect("k").queueLength == number + 1 }
                        }
                        try await move(old, new, proxy)
                        // Those that listen live on at the old primary, unless somebody tells them.
                        try await old.cli("CLIENT", "KILL", "TYPE", "normal")
                        try await eventually("the queue is at the new primary") {
                            // It may be under way when the connection is killed.
                            (try? await holder.inspect("k").queueLength) == 8
                        }
                        try await eventually("nobody is left at the old primary") {
                            try await !old.cli("CLIENT", "LIST").contains("name=ringfence")
                        }
                        try await lease.release()
                        for try await _ in group {}
                    }
                    #expect(order.value == Array(0..<8))
                }
            }
        }
    }

    @Test func `a subscriber gets what happens after the move, and nothing is lost in silence`() async throws {
        try await withPair { old, new, proxy in
            try await withClient(proxy.url) { client in
                try await withClient(new.unixURL, { $0.commandTimeout = .seconds(1) }) { other in
                    let listener = Listener(client.events())
                    try await listener.began()
                    try await move(old, new, proxy)
                    try await old.cli("CLIENT", "KILL", "TYPE", "normal")
                    // Any call finds that the address leads elsewhere.
                    try await client.withLock("k") { _ in }
                    let member = try await other.group("workers").join("one", lease: .seconds(60))
                    try await eventually("the event is heard") {
                        listener.events.contains { $0.type.description == "member.joined" && $0.member == "one" }
                    }
                    try await member.leave()
                }
            }
        }
    }

    @Test func `a lock is held across a planned move, and its holder never stops`() async throws {
        try await withPair { old, new, proxy in
            let metrics = TestMetrics()
            try await withMetricsFactory(metrics) {
                try await withClient(proxy.url) { client in
                    let lease = try await client.acquire("k", ttl: .seconds(30))
                    try await move(old, new, proxy)
                    try await old.cli("REPLICAOF", "127.0.0.1", "\(new.port)")
                    // The old server refuses by being a replica; the call itself waits and comes through.
                    try await client.withLock("other", wait: .seconds(60)) { _ in }
                    try await lease.renew()
                    #expect(lease.isHeld)
                    let holder = try await client.inspect("k").holder
                    #expect(holder?.fence == lease.fence)
                    try await lease.release()
                    let moves = metrics.counters.filter { $0.label == "ringfence_redis_moves_total" }
                    #expect(moves.reduce(0) { $0 + $1.totalValue } == 1)
                    #expect(metrics.counterTotal(label: "ringfence_redis_redirects_total") >= 1)
                    #expect(try metrics.expectTimer("ringfence_redis_lookup_seconds").values.count >= 2)
                }
            }
        }
    }

    @Test func `a name that was moved is followed while the old server lives`() async throws {
        try await withRedis { old in
            try await withRedis { new in
                let directory = try TemporaryDirectory()
                let hosts = directory.path + "/hosts"
                func lead(to address: String) throws { try writeFile(hosts, "\(address) redis.test\n", mode: 0o644) }
                // The same port at another loopback address.
                try await new.cli("CONFIG", "SET", "bind", "127.0.0.2")
                try await new.cli("CONFIG", "SET", "port", "\(old.port)")
                try lead(to: "127.0.0.1")
                let script = "mount --bind \(hosts) /etc/hosts && exec \"$@\""
                let url = "redis://redis.test:\(old.port)"
                let holder = try TalkingProcess.start(
                    program: "/usr/bin/unshare",
                    [
                        "--mount", "--map-root-user", "sh", "-c", script, "sh", builtExecutable("TestHolder"), url, "a",
                        "60000",
                    ])
                let said = try await holder.line()
                #expect(said?.hasPrefix("held") == true)
                #expect(try await old.cli("EXISTS", "ringfence:{default}:lock:a") == "1")
                try lead(to: "127.0.0.2")
                try await eventually("the holder's connections are at the other server", within: .seconds(60)) {
                    let (before, after) = try await (old.cli("CLIENT", "LIST"), new.cli("CLIENT", "LIST"))
                    return after.contains("name=ringfence") && !before.contains("name=ringfence")
                }
                try await holder.end()
            }
        }
    }
}
