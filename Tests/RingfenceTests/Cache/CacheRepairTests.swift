// SPDX-License-Identifier: Apache-2.0
//
// Who tends a cache: told what another process knows, and on its own where the coordinator is away.
import Ringfence
import RingfenceCache
import RingfencePlatform
import TestSupport
import Testing

@Suite struct CacheRepairTests {
    @Test func `a node that any process says is gone for good is replaced, also where one is a quorum`() async throws {
        try await CacheStage.with(4) { stage in
            let options = CacheOptions(writeQuorum: 3, readQuorum: 1)
            let cache = try await stage.client.cache(CacheStage.name, options: options)
            try await stage.calm(cache, "at first")
            for number in 0..<50 as Range<UInt8> { try await cache.set("key \(number)", [number]) }
            try await withClient(stage.coordinator.unixURL) { client in
                let other = try await client.cache(CacheStage.name, options: options)
                await stage.node("node-4").kill(SIGKILL)
                try await stage.membership("node-4").leave()
                try await eventually("the other one knows that it left", within: .seconds(20)) {
                    await failure { try await other.forget("node-4") } == nil
                }
                try await stage.calm(cache, "without it", nodes: ["node-1", "node-2", "node-3"])
                await other.close()
            }
            for number in 0..<50 as Range<UInt8> { #expect(try await cache.get("key \(number)") == [number]) }
            try await cache.set("key 0", [7])
            #expect(try await cache.get("key 0") == [7])
        }
    }

    @Test func `nodes are completed for longer than the lock lives while the coordinator is away`() async throws {
        try await CacheStage.with(3) { stage in
            let cache = try await stage.client.cache(CacheStage.name)
            try await stage.calm(cache, "at first")
            try await cache.set("key", [1])
            await stage.coordinator.kill(SIGSTOP)
            let start = ContinuousClock.now
            // The lock is over after 5 s.
            repeat {
                _ = try await stage.node("node-2").cli("FLUSHALL")
                try await stage.calm(cache, "after a flush, without its coordinator")
            } while ContinuousClock.now - start < .seconds(8)
            #expect(try await cache.get("key") == [1])
            try await cache.set("key", [2])
            await stage.coordinator.kill(SIGCONT)
            #expect(try await cache.get("key") == [2])
            try await stage.calm(cache, "at the end")
        }
    }
}
