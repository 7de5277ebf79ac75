// SPDX-License-Identifier: Apache-2.0
//
// A replicated cache on real servers: one Redis that coordinates, and some that keep data, each a member of the group.
import Ringfence
import Synchronization
import TestSupport

/// The servers of a cache, and who joins them.
final class CacheStage: Sendable {
    static let name = "sessions"

    let coordinator: RedisServer
    let client: RingfenceClient
    let group: Group
    private let state = Mutex(State())

    private struct State {
        var nodes: [String: RedisServer] = [:]
        var memberships: [String: Membership] = [:]
    }

    private init(_ coordinator: RedisServer, _ client: RingfenceClient, _ group: Group) {
        self.coordinator = coordinator
        self.client = client
        self.group = group
    }

    /// Runs `body` with a coordinator and so many nodes, `node-1` and so on.
    static func with(_ count: Int, _ body: @Sendable (CacheStage) async throws -> Void) async throws {
        try await withRedis { coordinator in
            try await withClient(coordinator.unixURL) { client in
                let stage = CacheStage(coordinator, client, try await client.group(name))
                do {
                    for number in 1...count { try await stage.add("node-\(number)") }
                    try await body(stage)
                } catch {
                    await stage.stop()
                    throw error
                }
                await stage.stop()
            }
        }
    }

    private func stop() async {
        for node in state.withLock({ $0.nodes.values }) { await node.stop() }
    }

    func node(_ id: String) -> RedisServer { state.withLock { $0.nodes[id]! } }

    /// Starts a server and lets it join.
    func add(_ id: String) async throws {
        let server = try await RedisServer.start()
        state.withLock { $0.nodes[id] = server }
        let membership = try await group.join(id, address: server.unixURL)
        state.withLock { $0.memberships[id] = membership }
    }

    func membership(_ id: String) -> Membership { state.withLock { $0.memberships[id]! } }

    /// Waits until all nodes are up and nothing is left to do.
    func calm(_ cache: ReplicatedCache, _ what: String, nodes: [String]? = nil) async throws {
        try await eventually("the cache is calm \(what)", within: .seconds(60), every: .milliseconds(20)) {
            let status = await cache.status()
            return !status.isMoving && status.nodes.allSatisfy { $0.state == .up && $0.hints == 0 }
                && (nodes.map { $0 == status.nodes.map(\.id) } ?? true)
        }
    }
}

/// Writes and reads all the time, and knows what it may find.
final class CacheLoad: Sendable {
    private struct State {
        /// By key: the last number that was acknowledged, and the last that was tried.
        var acknowledged: [Int: Int] = [:]
        var tried: [Int: Int] = [:]
        var failures: [String] = []
        var stale: [String] = []
        var calls = 0
        var isOver = false
    }

    private let cache: ReplicatedCache
    private let keys: Int
    private let state = Mutex(State())

    init(_ cache: ReplicatedCache, keys: Int = 64) {
        self.cache = cache
        self.keys = keys
    }

    var calls: Int { state.withLock { $0.calls } }
    var failures: [String] { state.withLock { $0.failures } }
    var stale: [String] { state.withLock { $0.stale } }

    /// Runs so many writers at once until `body` returns. Each has keys of its own, so what a read may find is known.
    func run(_ writers: Int = 4, _ body: @Sendable () async throws -> Void) async throws {
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for writer in 0..<writers {
                tasks.addTask { [self] in await write(writer, of: writers) }
            }
            do {
                try await body()
            } catch {
                state.withLock { $0.isOver = true }
                throw error
            }
            state.withLock { $0.isOver = true }
            try await tasks.waitForAll()
        }
    }

    private func write(_ writer: Int, of writers: Int) async {
        var number = 0
        while !state.withLock({ $0.isOver }) {
            let key = writer + writers * (number % (keys / writers))
            number += 1
            do {
                state.withLock { $0.tried[key] = number }
                try await cache.set("key-\(key)", Array("\(number)".utf8))
                state.withLock { $0.acknowledged[key] = number }
            } catch { state.withLock { $0.failures.append("set: \(error)") } }
            do {
                let other = writer + writers * (number * 7 % (keys / writers))
                let floor = state.withLock { $0.acknowledged[other] }
                let bytes = try await cache.get("key-\(other)")
                let found = bytes.flatMap { Int(String(decoding: $0, as: UTF8.self)) } ?? 0
                state.withLock { state in
                    state.calls += 2
                    if found < floor ?? 0 {
                        state.stale.append("key-\(other): \(found), after \(floor ?? 0) was acknowledged")
                    }
                }
            } catch { state.withLock { $0.failures.append("get: \(error)") } }
        }
    }

    /// Every key, read once more.
    func check() async throws -> [String] {
        var wrong: [String] = []
        for (key, number) in state.withLock({ $0.acknowledged }) {
            let found = try await cache.get("key-\(key)").flatMap { Int(String(decoding: $0, as: UTF8.self)) } ?? 0
            if found < number { wrong.append("key-\(key): \(found), not \(number)") }
        }
        return wrong
    }
}
