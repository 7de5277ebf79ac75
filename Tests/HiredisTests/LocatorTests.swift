// SPDX-License-Identifier: Apache-2.0
//
// Several connections of one client and one place for all of them, on real servers. A proxy that forwards to another
// server from some moment on is a name, a virtual address or a load balancer that moved while the old server lives.
import Logging
import NIOCore
import NIOPosix
import Synchronization
import TestSupport
import Testing

@testable import Hiredis

@Suite struct LocatorTests {
    /// What a subscriber was told.
    private final class Heard: Sendable {
        private let events = Mutex<[RedisSubscriber.Event]>([])
        func hear(_ event: RedisSubscriber.Event) { events.withLock { $0.append(event) } }
        var all: [RedisSubscriber.Event] { events.withLock { $0 } }
        var subscriptions: Int { all.count { if case .subscribed = $0 { true } else { false } } }
    }

    /// A client with two connections for commands and one that listens.
    private func withConnections(
        _ url: String, _ change: (inout RedisConfiguration) -> Void = { _ in },
        _ body: (_ first: RedisClient, _ second: RedisClient, _ heard: Heard, Locator) async throws -> Void
    ) async throws {
        var configuration = try RedisConfiguration(url: url)
        configuration.requiresPrimary = true
        configuration.commandTimeout = .seconds(30)
        configuration.connectTimeout = .seconds(10)
        change(&configuration)
        let locator = Locator(configuration, logger: quiet)
        configuration.locator = locator
        let heard = Heard()
        let clients = (0..<2).map { _ in
            RedisClient(configuration, eventLoop: MultiThreadedEventLoopGroup.singleton.any(), logger: quiet)
        }
        let subscriber = RedisSubscriber(configuration, channels: ["news"], logger: quiet) { heard.hear($0) }
        subscriber.start()
        do {
            try await body(clients[0], clients[1], heard, locator)
        } catch {
            await subscriber.close()
            for client in clients { await client.close() }
            throw error
        }
        await subscriber.close()
        for client in clients { await client.close() }
    }

    private func port(_ client: RedisClient) async throws -> String {
        try await client.call("CONFIG", "GET", "port").array?.last?.text ?? ""
    }

    @Test func `when one connection meets another server, all connections go there`() async throws {
        try await withRedis { old in
            try await withRedis { new in
                let proxy = try await TCPProxy.start(to: old)
                try await withConnections(proxy.url) { first, second, heard, locator in
                    #expect(try await port(first) == "\(old.port)")
                    #expect(try await port(second) == "\(old.port)")
                    try await eventually { heard.subscriptions == 1 }
                    try proxy.retarget(to: new)
                    // One connection alone breaks; the others would live on for ever.
                    let id = try await first.call("CLIENT", "ID").int ?? 0
                    try await old.cli("CLIENT", "KILL", "ID", "\(id)")
                    try await eventually { (try? await port(first)) == "\(new.port)" }
                    #expect(try await port(second) == "\(new.port)")
                    try await eventually { heard.subscriptions == 2 }
                    #expect(heard.all.contains { if case .disconnected = $0 { true } else { false } })
                    try await new.cli("PUBLISH", "news", "here")
                    try await eventually {
                        heard.all.contains(.message(channel: "news", payload: Array("here".utf8)))
                    }
                    #expect(locator.status.generation >= 2)
                }
                await proxy.close()
            }
        }
    }

    @Test func `a demotion makes all connections leave, and commands wait for the promotion`() async throws {
        try await withRedis { server in
            try await withRedis { other in
                try await withConnections(server.url) { first, second, heard, locator in
                    _ = try await (first.call("SET", "k", "1"), second.call("SET", "k", "2"))
                    try await eventually { heard.subscriptions == 1 }
                    try await server.cli("REPLICAOF", "127.0.0.1", "\(other.port)")
                    let refused = await redisError { try await first.call("SET", "k", "3") }
                    #expect(refused?.server?.prefix == .readOnly && refused?.effect == RedisError.Effect.none)
                    try await eventually { locator.status.plight?.fault == .replica }
                    #expect(locator.status.plight?.message.contains("replica of 127.0.0.1:\(other.port)") == true)
                    async let waiting = second.call("SET", "k", "4")
                    try await server.cli("REPLICAOF", "NO", "ONE")
                    #expect(try await waiting == .ok)
                    try await eventually { heard.subscriptions == 2 }
                }
            }
        }
    }

    @Test func `of the addresses of localhost the one with Redis is used, and a dead server is waited for`()
        async throws
    {
        try await withRedis { server in
            try await withConnections("redis://localhost:\(server.port)") { first, _, _, locator in
                _ = try await first.call("PING")
                #expect(locator.status.address == .tcp(host: "127.0.0.1", port: server.port))
                await server.kill(SIGKILL)
                async let waiting = first.call("GET", "k")
                try await server.restart()
                // The first may have been written before the server died.
                _ = try? await waiting
                #expect(try await first.call("PING") == .status("PONG"))
            }
        }
    }

    @Test func `the primary of a list is found again after a failover`() async throws {
        try await withRedis { one in
            try await withRedis(["--replicaof", "127.0.0.1", "\(one.port)"]) { two in
                let url = "redis+replicated://127.0.0.1:\(two.port),127.0.0.1:\(one.port)"
                try await withConnections(url) { first, second, heard, locator in
                    #expect(try await port(first) == "\(one.port)")
                    #expect(try await port(second) == "\(one.port)")
                    await one.kill(SIGKILL)
                    try await eventually { locator.status.plight?.fault == .noPrimary }
                    #expect(locator.status.plight?.message.contains("none of the 2 servers is a primary") == true)
                    try await two.cli("REPLICAOF", "NO", "ONE")
                    #expect(try await port(first) == "\(two.port)")
                    #expect(try await port(second) == "\(two.port)")
                    try await eventually { heard.subscriptions == 2 }
                }
            }
        }
    }

    @Test func `a wrong server is told at once, with the URL to use`() async throws {
        try await withRedis(["--cluster-enabled", "yes"]) { node in
            try await withConnections(node.url) { first, second, _, _ in
                for client in [first, second] {
                    let error = await redisError { try await client.call("PING") }
                    #expect(error?.code == .wrongServer)
                    #expect(error?.message.contains("use redis+cluster://127.0.0.1:\(node.port)") == true)
                }
            }
        }
        try await withRedis { server in
            try await withConnections("redis+cluster://127.0.0.1:\(server.port)") { first, _, _, _ in
                let error = await redisError { try await first.call("PING", deadline: .seconds(5)) }
                #expect(error?.message.contains("redis://127.0.0.1:\(server.port)") == true)
            }
        }
    }
}
