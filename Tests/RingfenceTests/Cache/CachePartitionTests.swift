// SPDX-License-Identifier: Apache-2.0
//
// The replicated cache with a network that fails: between each client and each node there is a proxy, and one more
// before the coordinator. Every read is checked by RegisterLoad, and whether the errors say truly what became of a
// write.
//
// All clients find the nodes at the same addresses, so there is one proxy for each node and not one for each client. It
// tells the clients apart by the Redis user they log in as, which stands in the first bytes of each connection: so two
// clients can be on different sides of a partition.
//
// A node may be lost to a client in three ways, and they differ in what the client can know. Silent: what is sent waits
// somewhere, and may arrive long after its writer gave up. Deaf: it arrives and is done, and the answers are lost. Cut:
// both sides see the connection end, and nothing that is tried later arrives.
import Ringfence
import RingfenceCache
import RingfencePlatform
import TestSupport
import Testing

@Suite struct CachePartitionTests {
    /// Those whom the nodes know.
    static let users = ["left", "right"]

    /// A client of its own on one side of the partition.
    private func with(
        _ user: String, on stage: CacheStage,
        _ body: @Sendable (ReplicatedCache) async throws -> Void
    ) async throws {
        try await withClient(stage.coordinator.unixURL, owner: user) { client in
            let cache = try await client.cache(CacheStage.name, options: .init(username: user, password: "any"))
            do {
                try await body(cache)
                await cache.close()
            } catch {
                await cache.close()
                throw error
            }
        }
    }

    /// Waits until a client has noticed that it does not reach a node, so that its calls do not wait for it any more.
    private func away(_ node: String, for cache: ReplicatedCache) async throws {
        try await eventually("\(node) is away", within: .seconds(60), every: .milliseconds(20)) {
            await cache.status().nodes.first { $0.id == node }?.state == .away
        }
    }

    /// Waits until a client's calls reach a node again.
    private func reached(_ node: String, by cache: ReplicatedCache) async throws {
        try await eventually("\(node) is reached", within: .seconds(60)) {
            await cache.status().nodes.first { $0.id == node }?.state != .away
        }
    }

    /// A user's connections to a node end, and new ones are silent.
    private func cut(_ user: String, from nodes: String..., on stage: CacheStage) {
        for node in nodes {
            stage.proxy(node).update { $0.isolated.insert(user) }
            stage.proxy(node).cut(user)
        }
    }

    private func rejoin(_ stage: CacheStage) {
        for node in stage.nodes { stage.proxy(node).update { $0.isolated = [] } }
    }

    @Test func `one node after another is silent, deaf and cut off: no call fails, no read is stale, all is healed`()
        async throws
    {
        try await CacheStage.with(3, isProxied: true) { stage in
            let cache = try await stage.client.cache(CacheStage.name)
            try await stage.calm(cache, "at first")
            let load = RegisterLoad(cache)
            try await load.run {
                try await load.goOn(300)

                // What was held back arrives when all others have gone on.
                let silent = stage.proxy("node-1")
                silent.update {
                    $0.clientToServer.isStalled = true
                    $0.serverToClient.isStalled = true
                }
                try await away("node-1", for: cache)
                try await load.goOn(300)
                silent.update {
                    $0.clientToServer.isStalled = false
                    $0.serverToClient.isStalled = false
                }
                try await stage.calm(cache, "after the silence")

                let deaf = stage.proxy("node-2")
                deaf.update { $0.serverToClient.isStalled = true }
                try await away("node-2", for: cache)
                try await load.goOn(300)
                deaf.cut()
                deaf.update { $0.serverToClient.isStalled = false }
                try await stage.calm(cache, "after the answers were lost")

                let closed = stage.proxy("node-3")
                await closed.refuse()
                closed.cut()
                try await away("node-3", for: cache)
                try await load.goOn(300)
                try await closed.listen()
                try await stage.calm(cache, "after the cut")
            }
            try await stage.equal()
            await load.readAll()
            #expect(load.failures == [])
            #expect(load.wrong == [])
        }
    }

    @Test func `two clients that reach two of three nodes each, and not the same two, find what the other wrote`()
        async throws
    {
        try await CacheStage.with(3, isProxied: true) { stage in
            try await with("left", on: stage) { left in
                try await with("right", on: stage) { right in
                    try await stage.calm(left, "at first")
                    let load = RegisterLoad(left, right)
                    try await load.run {
                        try await load.goOn(300)
                        cut("left", from: "node-3", on: stage)
                        cut("right", from: "node-1", on: stage)
                        try await away("node-3", for: left)
                        try await away("node-1", for: right)
                        try await load.goOn(1000)
                        // The other way round, at once.
                        rejoin(stage)
                        try await reached("node-3", by: left)
                        try await reached("node-1", by: right)
                        cut("left", from: "node-1", on: stage)
                        cut("right", from: "node-2", on: stage)
                        try await load.goOn(1000)
                        rejoin(stage)
                        try await stage.calm(left, "at the end")
                        try await stage.calm(right, "at the end")
                    }
                    try await stage.equal()
                    for store in [0, 1] { await load.readAll(through: store) }
                    #expect(load.tally(0).writes > 0 && load.tally(1).writes > 0)
                    #expect(load.failures == [])
                    #expect(load.wrong == [])
                }
            }
        }
    }

    @Test func `a client without its quorum fails, says truly what became of its writes, and disturbs nobody`()
        async throws
    {
        try await CacheStage.with(3, isProxied: true) { stage in
            try await with("left", on: stage) { left in
                try await with("right", on: stage) { right in
                    try await stage.calm(left, "at first")
                    let load = RegisterLoad(left, right)
                    try await load.run {
                        try await load.goOn(300)

                        // One node of three: what it writes there is no success, and may be there.
                        cut("left", from: "node-1", "node-2", on: stage)
                        try await away("node-1", for: left)
                        try await away("node-2", for: left)
                        let before = load.tally(0)
                        try await eventually("left fails", within: .seconds(60)) {
                            load.tally(0).failedUnknown > before.failedUnknown + 20
                                && load.tally(0).failedReads > before.failedReads + 20
                        }
                        try await load.goOn(300)

                        // None: nothing is sent, so nothing is there.
                        cut("left", from: "node-3", on: stage)
                        try await away("node-3", for: left)
                        let alone = load.tally(0)
                        try await eventually("left fails without effect", within: .seconds(60)) {
                            load.tally(0).failedWithoutEffect > alone.failedWithoutEffect + 20
                        }
                        try await load.goOn(300)
                        let last = load.tally(0)
                        #expect(last.writes == alone.writes, "what reaches nobody is acknowledged by nobody")
                        rejoin(stage)
                        try await stage.calm(left, "when left is back")
                        try await load.goOn(300)

                        // All of them silent: it cannot know, and all of it arrives later.
                        for node in stage.nodes { stage.proxy(node).update { $0.isolated = ["left"] } }
                        try await eventually("left does not know", within: .seconds(60)) {
                            load.tally(0).failedUnknown > last.failedUnknown
                        }
                        try await load.goOn(300)
                        rejoin(stage)
                        try await stage.calm(right, "at the end")
                        let end = load.tally(0)
                        try await eventually("left goes on", within: .seconds(60)) {
                            load.tally(0).writes > end.writes + 50
                        }
                    }
                    try await stage.equal()
                    for store in [0, 1] { await load.readAll(through: store) }
                    #expect(load.tally(1).failed == 0, "\(load.failures)")
                    #expect(load.wrong == [])
                }
            }
        }
    }

    @Test func `the coordinator is cut off: calls go on, also when a node is lost, and it is healed all the same`()
        async throws
    {
        try await CacheStage.with(3) { stage in
            let proxy = try await TCPProxy.start(to: stage.coordinator)
            try await withClient(proxy.url) { client in
                let cache = try await client.cache(CacheStage.name)
                try await stage.calm(cache, "at first")
                let load = RegisterLoad(cache)
                try await load.run {
                    try await load.goOn(300)
                    await proxy.refuse()
                    proxy.cut()
                    // Who tends the cache goes on without its lock.
                    try await eventually("its lock is free", within: .seconds(60), every: .milliseconds(50)) {
                        try await stage.client.inspect("cache/\(CacheStage.name)").holder == nil
                    }
                    try await load.goOn(300)
                    await stage.node("node-2").kill(SIGKILL)
                    try await away("node-2", for: cache)
                    try await load.goOn(300)
                    try await stage.node("node-2").restart()
                    try await stage.calm(cache, "without its coordinator")
                    #expect(try await stage.client.inspect("cache/\(CacheStage.name)").holder == nil)
                    try await load.goOn(300)
                    try await proxy.listen()
                    try await stage.calm(cache, "when the coordinator is back")
                    try await load.goOn(300)
                }
                try await stage.equal()
                await load.readAll()
                #expect(load.failures == [])
                #expect(load.wrong == [])
                await cache.close()
            }
            await proxy.close()
        }
    }

    @Test func `with R + W of no more than N the same checker finds a stale read`() async throws {
        try await CacheStage.with(3, isProxied: true) { stage in
            try await with("left", on: stage) { left in
                try await with("right", on: stage) { right in
                    try await stage.calm(left, "at first")
                    /// A write of the left side, which reaches node 1 only, and a read of the right one, which reaches
                    /// the others.
                    func met(
                        writes: Int, reads: Int
                    ) async throws -> (hasWritten: Bool, hasRead: Bool, wrong: [String]) {
                        let load = RegisterLoad(
                            [left, right].map { RegisterStore($0, writes: writes, reads: reads) }, keys: 1)
                        #expect(await load.write(0))
                        try await stage.calm(left, "before the partition")
                        try await stage.equal()
                        #expect(await load.read(0, through: 1))
                        cut("left", from: "node-2", "node-3", on: stage)
                        cut("right", from: "node-1", on: stage)
                        for node in ["node-2", "node-3"] { try await away(node, for: left) }
                        try await away("node-1", for: right)
                        let hasWritten = await load.write(0)
                        let hasRead = await load.read(0, through: 1)
                        rejoin(stage)
                        try await stage.calm(left, "after the partition")
                        try await stage.calm(right, "after the partition")
                        return (hasWritten, hasRead, load.wrong)
                    }
                    let weak = try await met(writes: 1, reads: 1)
                    #expect(weak.hasWritten && weak.hasRead)
                    #expect(weak.wrong == ["key-0: 1, after 2 was acknowledged"])
                    // The quorum of the cache: the write fails, and so the read owes it nothing.
                    let quorum = try await met(writes: 2, reads: 2)
                    #expect(!quorum.hasWritten && quorum.hasRead)
                    #expect(quorum.wrong == [])
                }
            }
        }
    }
}
