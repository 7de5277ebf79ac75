// SPDX-License-Identifier: Apache-2.0
//
// The replicated cache on real servers that are killed, flushed, frozen, joined and drained, every read checked.
import Ringfence
import RingfenceCache
import RingfencePlatform
import TestSupport
import Testing

@Suite struct CacheTests {
    @Test func `what is set is found until it is removed or its time is over`() async throws {
        try await CacheStage.with(3) { stage in
            let cache = try await stage.client.cache(CacheStage.name)
            #expect(try await cache.get("a") == nil)
            try await cache.set("a", [1, 2, 3])
            #expect(try await cache.get("a") == [1, 2, 3])
            try await cache.set("a", [])
            #expect(try await cache.get("a") == [])
            try await cache.remove("a")
            #expect(try await cache.get("a") == nil)
            // Two keys that are one string to Swift, and two to Redis.
            try await cache.set("caf\u{e9}", [1])
            try await cache.set("cafe\u{301}", [2])
            #expect(try await cache.get("caf\u{e9}") == [1])
            #expect(try await cache.get("cafe\u{301}") == [2])

            // What is over does not uncover what was there before.
            try await cache.set("b", [1])
            try await cache.set("b", [2], for: .milliseconds(50))
            try await eventually("its time is over") { try await cache.get("b") == nil }
            try await stage.calm(cache, "at the end")
        }
    }

    @Test func `bad arguments are named before anything is sent`() async throws {
        try await CacheStage.with(3) { stage in
            let cache = try await stage.client.cache(CacheStage.name)
            func message(_ body: () async throws -> Void) async -> String {
                let error = await failure { try await body() }
                return error?.code == .argumentInvalid ? error?.message ?? "" : "\(String(describing: error))"
            }
            #expect(await message { _ = try await cache.get("") }.hasPrefix("key must be 1 to 512 bytes"))
            #expect(await message { try await cache.set("a\n", []) } == "key must not hold control characters")
            #expect(
                await message { try await cache.set("a", .init(repeating: 0, count: 1 << 20 + 1)) }.hasPrefix(
                    "value must be at most 1048576 bytes"))
            #expect(await message { try await cache.set("a", [], for: .zero) }.hasPrefix("ttl must be"))
            #expect(await message { try await cache.set("a", [], writes: 4) } == "writes must be 1 to 3, not 4")
            #expect(await message { _ = try await cache.get("a", reads: 0) } == "reads must be 1 to 3, not 0")
            #expect(await message { try await cache.forget("node-1") }.contains("is a member of the group"))
            #expect(await message { try await cache.forget("other") }.contains("is no node"))
            for options in [
                CacheOptions(replicationFactor: 9), .init(writeQuorum: 4), .init(timeout: .seconds(2)),
                .init(repairKeysPerSecond: 1),
            ] {
                #expect(await message { _ = try await stage.client.cache(CacheStage.name, options: options) } != "")
            }
            let mismatch = await failure {
                _ = try await stage.client.cache(CacheStage.name, options: .init(writeQuorum: 3, readQuorum: 1))
            }
            #expect(mismatch?.code == .groupPolicyMismatch)
            let nodes = await failure { _ = try await stage.client.cache("nobody") }
            #expect(nodes?.code == .cacheNodes && nodes?.isRetriable == true)
        }
    }

    @Test func `a node is killed under load and returns empty: no call fails, no read is stale, and it is healed`()
        async throws
    {
        try await CacheStage.with(3) { stage in
            let cache = try await stage.client.cache(CacheStage.name)
            try await stage.calm(cache, "at first")
            let load = RegisterLoad(cache)
            try await load.run {
                try await load.goOn(500)
                await stage.node("node-2").kill(SIGKILL)
                try await load.goOn(500)
                #expect(await cache.status().nodes[1].state == .away)
                try await stage.node("node-2").restart()
                try await stage.calm(cache, "after its return")
                try await load.goOn(200)
                // Its copy counts now: another one may be lost.
                await stage.node("node-1").kill(SIGKILL)
                try await load.goOn(500)
                try await stage.node("node-1").restart()
                try await stage.calm(cache, "after another's return")
            }
            await load.readAll()
            #expect(load.failures.prefix(3) == [])
            #expect(load.wrong.prefix(3) == [])
        }
    }

    @Test func `a node is flushed under load, and one freezes`() async throws {
        try await CacheStage.with(3) { stage in
            let cache = try await stage.client.cache(CacheStage.name)
            try await stage.calm(cache, "at first")
            let load = RegisterLoad(cache)
            try await load.run {
                try await load.goOn(500)
                _ = try await stage.node("node-3").cli("FLUSHALL")
                try await load.goOn(200)
                try await stage.calm(cache, "after the flush")
                kill(stage.node("node-1").pid, SIGSTOP)
                try await load.goOn(200)
                kill(stage.node("node-1").pid, SIGCONT)
                try await stage.calm(cache, "after the thaw")
            }
            await load.readAll()
            #expect(load.failures.prefix(3) == [])
            #expect(load.wrong.prefix(3) == [])
        }
    }

    @Test func `a node joins and another is drained under load, and goes`() async throws {
        try await CacheStage.with(3) { stage in
            let cache = try await stage.client.cache(CacheStage.name)
            try await stage.calm(cache, "at first")
            let load = RegisterLoad(cache)
            try await load.run {
                try await stage.add("node-4")
                try await stage.calm(cache, "after a join", nodes: ["node-1", "node-2", "node-3", "node-4"])
                try await stage.membership("node-1").update(weight: 0)
                try await eventually("the drained node has no key of the cache any more", within: .seconds(60)) {
                    let status = await cache.status()
                    return !status.isMoving && status.epoch >= 7
                }
                await stage.node("node-1").kill(SIGKILL)
                try await stage.membership("node-1").leave()
                try await load.goOn(500)
                try await cache.forget("node-1")
                try await stage.calm(cache, "at the end", nodes: ["node-2", "node-3", "node-4"])
            }
            await load.readAll()
            #expect(load.failures.prefix(3) == [])
            #expect(load.wrong.prefix(3) == [])
        }
    }
}
