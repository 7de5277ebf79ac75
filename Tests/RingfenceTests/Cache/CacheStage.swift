// SPDX-License-Identifier: Apache-2.0
//
// A replicated cache on real servers: one Redis that coordinates, and some that keep data, each a member of the group.
import Ringfence
import RingfenceCache
import Synchronization
import TestSupport

/// The servers of a cache, and who joins them.
final class CacheStage: Sendable {
    static let name = "sessions"

    let coordinator: RedisServer
    let client: RingfenceClient
    let group: Group
    private let isProxied: Bool
    private let state = Mutex(State())

    private struct State {
        var nodes: [String: RedisServer] = [:]
        var proxies: [String: TCPProxy] = [:]
        var memberships: [String: Membership] = [:]
    }

    private init(_ coordinator: RedisServer, _ client: RingfenceClient, _ group: Group, isProxied: Bool) {
        self.coordinator = coordinator
        self.client = client
        self.group = group
        self.isProxied = isProxied
    }

    /// Runs `body` with a coordinator and so many nodes, `node-1` and so on.
    /// - Parameter isProxied: there is a network between the clients and the nodes, in which something may go wrong.
    static func with(
        _ count: Int, isProxied: Bool = false, _ body: @Sendable (CacheStage) async throws -> Void
    ) async throws {
        try await withRedis { coordinator in
            try await withClient(coordinator.unixURL) { client in
                let stage = CacheStage(coordinator, client, try await client.group(name), isProxied: isProxied)
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
        for proxy in state.withLock({ $0.proxies.values }) { await proxy.close() }
        for node in state.withLock({ $0.nodes.values }) { await node.stop() }
    }

    func node(_ id: String) -> RedisServer { state.withLock { $0.nodes[id]! } }
    func proxy(_ id: String) -> TCPProxy { state.withLock { $0.proxies[id]! } }
    var nodes: [String] { state.withLock { $0.nodes.keys.sorted() } }

    /// Starts a server and lets it join.
    func add(_ id: String) async throws {
        let users = CachePartitionTests.users.flatMap { ["--user", $0, "on", "nopass", "~*", "&*", "+@all"] }
        let server = try await RedisServer.start(isProxied ? users : [])
        state.withLock { $0.nodes[id] = server }
        var address = server.unixURL
        if isProxied {
            let proxy = try await TCPProxy.start(to: server)
            state.withLock { $0.proxies[id] = proxy }
            address = proxy.url
        }
        let membership = try await group.join(id, address: address)
        state.withLock { $0.memberships[id] = membership }
    }

    func membership(_ id: String) -> Membership { state.withLock { $0.memberships[id]! } }

    /// Waits until every node has the same of every key, for which there are as many nodes as copies.
    func equal() async throws {
        try await eventually("all nodes have the same", within: .seconds(60), every: .milliseconds(50)) {
            let all = try await copies()
            return all.values.allSatisfy { $0 == all["node-1"] }
        }
    }

    /// What each node really has.
    func copies() async throws -> [String: [String: String]] {
        var all: [String: [String: String]] = [:]
        for id in nodes { all[id] = try await node(id).cacheCopies(Self.name) }
        return all
    }

    /// Waits until all nodes are up and nothing is left to do.
    func calm(_ cache: ReplicatedCache, _ what: String, nodes: [String]? = nil) async throws {
        try await eventually("the cache is calm \(what)", within: .seconds(60), every: .milliseconds(20)) {
            let status = await cache.status()
            return !status.isMoving && status.nodes.allSatisfy { $0.state == .up && $0.hints == 0 }
                && (nodes.map { $0 == status.nodes.map(\.id) } ?? true)
        }
    }
}

extension RegisterLoad {
    /// A load on a cache; on several ways to the same one, each a client of its own.
    convenience init(_ caches: ReplicatedCache..., keys: Int = 64) {
        self.init(caches.map { RegisterStore($0) }, keys: keys)
    }
}

extension RegisterStore {
    /// - Parameters: as of a call; nil: as the cache was made.
    init(_ cache: ReplicatedCache, writes: Int? = nil, reads: Int? = nil) {
        self.init(
            get: { try await cache.get($0, reads: reads) },
            set: { key, value in
                if let value {
                    try await cache.set(key, value, writes: writes)
                } else {
                    try await cache.remove(key, writes: writes)
                }
            },
            isWithoutEffect: { ($0 as? RingfenceError)?.effect == RingfenceError.Effect.none })
    }
}
