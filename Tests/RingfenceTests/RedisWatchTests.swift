// SPDX-License-Identifier: Apache-2.0
//
// What must always hold of a Redis: looked at with each connection, tried when somebody asks whether we are ready.

import RingfencePlatform
import TestSupport
import Testing

@testable import Ringfence

@Suite struct RedisWatchTests {
    @Test func `a Redis that comes back with an eviction policy gives no locks to a client that refuses it`()
        async throws
    {
        // Its settings are those of its file, as they are for a Redis that is started anew.
        let directory = try TemporaryDirectory()
        let file = directory.path + "/redis.conf"
        try writeFile(file, "maxmemory 100mb\nmaxmemory-policy noeviction\n")
        try await withRedis(["--include", file]) { server in
            let url = "redis://127.0.0.1:\(server.port)"
            try await withClient(url, { $0.refusesEviction = true }) { client in
                try await client.withLock("before") { _ in }
                _ = try await client.readiness()
                await server.kill(SIGKILL)
                // What is written before that goes nowhere, and says so.
                try await eventually("the loss is noticed") { !client.isConnected }
                try writeFile(file, "maxmemory 100mb\nmaxmemory-policy allkeys-lru\n")
                try await server.restart()
                // The first one too: what Redis is like is known before anything is written to it.
                for wait in [Duration.zero, .seconds(5)] {
                    let error = await failure { try await client.acquire("k", ttl: .seconds(600), wait: wait) }
                    #expect(error?.code == .coordinatorRefused && error?.effect == RingfenceError.Effect.none)
                    #expect(error?.message.contains("allkeys-lru") == true)
                }
                #expect(await failure { try await client.readiness() }?.message.contains("allkeys-lru") == true)
                try await eventually("nothing is held") { try await server.remains() == [] }
                try await server.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")
                try await eventually("it is good again") {
                    await failure { try await client.withLock("k") { _ in } } == nil
                }
            }
            // One that does not refuse is told by readiness and the log.
            try await server.cli("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
            try await withClient(url) { client in
                try await client.withLock("k") { _ in }
                #expect(await failure { try await client.readiness() }?.code == .coordinatorRefused)
            }
        }
    }

    @Test func `ready means able: role, memory and the right to run scripts`() async throws {
        try await withRedis { primary in
            try await withClient(primary.unixURL) { client in
                _ = try await client.readiness()
                #expect(try await primary.cli("KEYS", "*") == "", "asking leaves nothing")
                try await primary.cli("CONFIG", "SET", "maxmemory", "1")
                try await eventually("it is full") {
                    await failure { try await client.readiness() }?.message.contains("OOM") == true
                }
                try await primary.cli("CONFIG", "SET", "maxmemory", "0")
                try await eventually("it has room") { await failure { try await client.readiness() } == nil }
            }
            try await primary.cli("ACL", "SETUSER", "weak", "on", ">pw", "~*", "&*", "+@all", "-evalsha", "-eval")
            try await withClient("redis://weak:pw@127.0.0.1:\(primary.port)") { client in
                let error = await failure { try await client.readiness() }
                #expect(error?.code == .coordinatorRefused && error?.message.contains("evalsha") == true)
            }
            try await withRedis(["--replicaof", "127.0.0.1", "\(primary.port)"]) { replica in
                try await eventually { try await replica.cli("INFO", "replication").contains("master_link_status:up") }
                try await withClient(replica.unixURL) { client in
                    #expect(await failure { try await client.readiness() }?.message.contains("replica") == true)
                    try await replica.cli("REPLICAOF", "NO", "ONE")
                    try await eventually("it is promoted") { await failure { try await client.readiness() } == nil }
                }
            }
        }
    }

    @Test func `a Sentinel and a node of a Cluster are told at once, with the URL to use`() async throws {
        try await withRedis(["--cluster-enabled", "yes"]) { node in
            try await withClient(node.url) { client in
                let error = await failure { try await client.readiness() }
                #expect(error?.code == .coordinatorRefused && error?.effect == RingfenceError.Effect.none)
                #expect(error?.message.contains("redis+cluster://127.0.0.1:\(node.port)") == true)
                let acquiring = await failure { try await client.acquire("k", wait: .seconds(600)) }
                #expect(acquiring?.code == .coordinatorRefused)
            }
        }
    }
}
