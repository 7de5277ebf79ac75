// SPDX-License-Identifier: Apache-2.0
//
// Refusals in the middle of a script: a full Redis, a user who may not push, a key of another type. What keeps or frees
// goes through, what only informs may fail, and one bad key is nobody else's.

import Hiredis
import TestSupport
import Testing

@testable import Ringfence
@testable import RingfenceCore

@Suite struct FullRedisTests {
    @Test func `a full Redis renews, passes on, hands on, takes away and releases, and refuses only new locks`()
        async throws
    {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let lease = try await clients[0].acquire("a", ttl: .seconds(600))
                async let here = clients[0].acquire("a", ttl: .seconds(600), wait: .seconds(600))
                try await eventually { clients[0].waiterCount == 1 }
                async let there = clients[1].acquire("a", ttl: .seconds(600), wait: .seconds(600))
                try await eventually { try await clients[0].inspect("a").queueLength == 1 }
                let other = try await clients[1].acquire("b", ttl: .seconds(600))
                try await observer.send("CONFIG", "SET", "maxmemory", "100000")
                #expect(await failure { try await clients[0].tryAcquire("c") }?.code == .coordinatorRefused)
                #expect(
                    await failure { try await clients[0].acquire("b", wait: .seconds(60)) }?.code == .coordinatorRefused
                )
                try await lease.renew()
                try await lease.release()
                let second = try await here
                try await second.renew()
                try await second.release()
                let third = try await there
                #expect(try await observer.value(of: "a") == third.token)
                try await third.release()
                let forced = try #require(try await clients[0].forceRelease("b", actor: "ops", reason: "full"))
                #expect(forced.previous.id == other.id)
                try await eventually { !other.isHeld }
                #expect(try await clients[0].audit().contains { $0.action == "force" && $0.reason == "ops: full" })
                #expect(try await observer.isClean("a"))
                #expect(try await observer.isClean("b"))
            }
        }
    }

    @Test func `on a full Redis a waiter that comes back gets the place it had`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let lease = try await clients[0].acquire("a", ttl: .seconds(600))
                async let waiting = clients[1].acquire("a", ttl: .seconds(600), wait: .seconds(600))
                try await eventually { try await clients[0].inspect("a").queueLength == 1 }
                try await observer.send("CONFIG", "SET", "maxmemory", "100000")
                try await observer.send("DEL", "ringfence:{default}:queue:a")
                try await observer.send("CLIENT", "KILL", "TYPE", "pubsub")
                try await eventually { try await clients[0].inspect("a").queueLength == 1 }
                try await lease.release()
                try await waiting.release()
            }
        }
    }

    @Test func `a user who may not push takes away with its audit entry, and hands on`() async throws {
        try await withObservedRedis { server, observer in
            try await observer.send("ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", "+@all")
            try await withClients(server.unixURL, 2) { clients in
                try await withClient("redis://app:pw@127.0.0.1:\(server.port)") { app in
                    _ = try await clients[0].acquireGrant(["a"], owner: "holder", ttl: .seconds(3600))
                    async let waiting = clients[1].acquire("a", ttl: .seconds(60), wait: .seconds(600))
                    try await eventually { try await clients[0].inspect("a").queueLength == 1 }
                    let forced = try #require(try await app.forceRelease("a", actor: "ops", reason: "ticket 1"))
                    #expect(forced.previous.owner == "holder")
                    #expect(try await app.audit().contains { $0.action == "force" && $0.reason == "ops: ticket 1" })
                    try await waiting.release()

                    let held = try await app.acquire("b", ttl: .seconds(600))
                    async let next = clients[1].acquire("b", ttl: .seconds(60), wait: .seconds(600))
                    try await eventually { try await clients[0].inspect("b").queueLength == 1 }
                    try await held.release()
                    try await next.release()
                    #expect(try await observer.isClean("b"))
                }
            }
        }
    }

    @Test func `a key of another type is the loss of its own lease only`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let grants = [
                    try await client.acquireGrant(["a"], ttl: .seconds(600)),
                    try await client.acquireGrant(["b"], ttl: .seconds(600)),
                ]
                try await observer.send("DEL", "ringfence:{default}:lock:a")
                try await observer.send("HSET", "ringfence:{default}:lock:a", "not", "a lock")
                let reply = try await client.runner.run(
                    client.scripts.renew(grants.map { ($0.names, $0.token, 600_000) }), "renewing")
                #expect(LockScripts.renewed(reply, count: 2) == [false, true])
            }
        }
    }

    @Test func `a queue of another type does not keep a lock from being released or taken away`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let lease = try await client.acquire("a", ttl: .seconds(600))
                try await observer.send("SET", "ringfence:{default}:queue:a", "not a queue")
                try await client.release(["a"], token: lease.token)
                #expect(try await observer.value(of: "a") == nil)
                try await observer.send("SET", "ringfence:{default}:lock:a", "7:x-1-s:somebody")
                #expect(try await client.forceRelease("a", actor: "ops")?.previous.owner == "somebody")
            }
        }
    }

    @Test func `of a hold from which a part was taken, a release gives the rest back`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let grant = try await client.acquireGrant(["a", "b", "c"], ttl: .seconds(3600))
                _ = try #require(try await client.forceRelease("b", actor: "ops"))
                let error = await failure { try await client.release(grant.names, token: grant.token) }
                #expect(error?.code == .lockNotHeld && error?.message.contains("given back") == true)
                #expect(try await observer.isClean("a"))
                #expect(try await observer.isClean("c"))
            }
        }
    }

    @Test func `of a hold from which a part was taken, a renewal tells it and cuts nothing short`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let grant = try await client.acquireGrant(["a", "b"], ttl: .seconds(3600))
                _ = try #require(try await client.forceRelease("b", actor: "ops"))
                let error = await failure { try await client.renew(grant.names, token: grant.token, ttl: .seconds(60)) }
                #expect(error?.code == .lockNotHeld)
                // Its holder may not hear of it, and goes by its deadline then.
                let left = try await observer.send("PTTL", "ringfence:{default}:lock:a").int ?? 0
                #expect(left > 3_000_000)
                _ = await failure { try await client.release(grant.names, token: grant.token) }
                #expect(try await observer.isClean("a"))
            }
        }
    }
}
