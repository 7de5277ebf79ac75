// SPDX-License-Identifier: Apache-2.0
//
// Sentinels that lie, are late, answer half or want a password: byte by byte, so that each does what no real one would
// do on demand.
import NIOCore
import NIOPosix
import Synchronization
import TestSupport
import Testing

@testable import Hiredis

/// A server that answers commands as a test says, in RESP.
private final class ScriptedServer: Sendable {
    /// The reply to a command; nil: none, for ever.
    typealias Script = @Sendable (_ words: [String]) -> String?

    private let script: Mutex<Script>
    private let channel: Mutex<(any Channel)?> = Mutex(nil)
    private let connections = Mutex<[any Channel]>([])
    /// Those that have subscribed.
    private let listeners = Mutex<[any Channel]>([])

    init(_ script: @escaping Script) { self.script = Mutex(script) }

    static func start(_ script: @escaping Script) async throws -> ScriptedServer {
        let server = ScriptedServer(script)
        let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                server.connections.withLock { $0.append(channel) }
                return channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(ScriptedHandler(server))
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        server.channel.withLock { $0 = channel }
        return server
    }

    var address: String { "127.0.0.1:\(channel.withLock { $0?.localAddress?.port } ?? 0)" }

    func close() async {
        for listener in listeners.withLock({ $0 }) { listener.close(promise: nil) }
        try? await channel.withLock { $0 }?.close()
    }

    func dropConnections() {
        for connection in connections.withLock({ $0 }) { connection.close(promise: nil) }
    }

    func say(_ script: @escaping Script) { self.script.withLock { $0 = script } }

    /// Tells all that listen.
    func push(_ channel: String, _ text: String) {
        let message = RESP.array([RESP.bulk("message"), RESP.bulk(channel), RESP.bulk(text)])
        for listener in listeners.withLock({ $0 }) { listener.writeAndFlush(ByteBuffer(string: message), promise: nil) }
    }

    var hasListeners: Bool { listeners.withLock { !$0.isEmpty } }

    /// What a Sentinel says to the handshake, and the script to everything else.
    fileprivate func reply(to words: [String], _ channel: any Channel) -> String? {
        if let text = script.withLock({ $0 })(words) { return text }
        switch words[0] {
        case "PING": return "+PONG\r\n"
        case "CLIENT": return ":1\r\n"
        case "SENTINEL": return RESP.bulk("the id of \(ObjectIdentifier(self))")
        case "INFO": return RESP.bulk("run_id:\(ObjectIdentifier(self))\r\nredis_mode:sentinel\r\n")
        case "SUBSCRIBE":
            listeners.withLock { $0.append(channel) }
            return words.dropFirst().enumerated().map { index, name in
                RESP.array([RESP.bulk("subscribe"), RESP.bulk(name), ":\(index + 1)\r\n"])
            }.joined()
        default: return nil
        }
    }
}

private enum RESP {
    static func bulk(_ text: String) -> String { "$\(text.utf8.count)\r\n\(text)\r\n" }
    static func array(_ items: [String]) -> String { "*\(items.count)\r\n" + items.joined() }
}

private final class ScriptedHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let server: ScriptedServer
    private let reader = ReplyReader()

    init(_ server: ScriptedServer) { self.server = server }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        unwrapInboundIn(data).withUnsafeReadableBytes { _ = reader.feed($0) }
        // A command is written as an array of texts.
        for command in reader.replies {
            let words = (command.array ?? []).map { $0.text ?? "" }
            guard let text = server.reply(to: words, context.channel) else { continue }
            context.writeAndFlush(NIOAny(ByteBuffer(string: text)), promise: nil)
        }
        reader.replies.removeAll()
    }
}

@Suite struct ScriptedSentinelTests {
    /// The answers of a Sentinel of three that names `port` under `epoch`.
    private static func naming(_ port: Int, _ epoch: Int, others: Int = 2) -> ScriptedServer.Script {
        { words in
            guard words[0] == "SENTINEL" else { return nil }
            switch words[1] {
            case "GET-MASTER-ADDR-BY-NAME": return RESP.array([RESP.bulk("127.0.0.1"), RESP.bulk("\(port)")])
            case "MASTER":
                return RESP.array(
                    ["flags", "master", "config-epoch", "\(epoch)", "num-other-sentinels", "\(others)"].map(RESP.bulk))
            case "SENTINELS": return RESP.array([])
            default: return nil
            }
        }
    }

    private func withServers(
        _ scripts: [ScriptedServer.Script], _ body: ([ScriptedServer], String) async throws -> Void
    ) async throws {
        var servers: [ScriptedServer] = []
        for script in scripts { servers.append(try await ScriptedServer.start(script)) }
        let url = "redis+sentinel://\(servers.map(\.address).joined(separator: ","))/main"
        do { try await body(servers, url) } catch {
            for server in servers { await server.close() }
            throw error
        }
        for server in servers { await server.close() }
    }

    private func port(_ client: RedisClient) async throws -> String {
        try await client.call("CONFIG", "GET", "port").array?.last?.text ?? ""
    }

    @Test func `the word of a later failover is followed as soon as it is pushed, and a lie of before is not`()
        async throws
    {
        try await withRedis { old in
            try await withRedis { new in
                let before = Self.naming(old.port, 7)
                try await withServers([before, before, before]) { servers, url in
                    func patient(_ configuration: inout RedisConfiguration) {
                        configuration.watchInterval = .seconds(3600)
                    }
                    try await withLocatedClient(url, patient) { client, locator in
                        let first = try await port(client)
                        #expect(first == "\(old.port)")
                        try await eventually { servers.allSatisfy(\.hasListeners) }
                        // Another primary's failover, and a lie: the epoch is not higher.
                        servers[1].push("+switch-master", "other 127.0.0.1 1 127.0.0.1 2")
                        servers[2].say(Self.naming(new.port, 6))
                        servers[2].push("+switch-master", "main 127.0.0.1 \(old.port) 127.0.0.1 \(new.port)")
                        for _ in 0..<100 {
                            let next = try await port(client)
                            #expect(next == "\(old.port)")
                        }
                        servers[1].say(Self.naming(new.port, 8))
                        servers[1].push("+switch-master", "main 127.0.0.1 \(old.port) 127.0.0.1 \(new.port)")
                        try await eventually { (try? await port(client)) == "\(new.port)" }
                        #expect(locator.status.epoch == 8)
                    }
                }
            }
        }
    }

    @Test func `one that never answers, one that answers half and one that wants a password keep nobody waiting`()
        async throws
    {
        try await withRedis { redis in
            let good = Self.naming(redis.port, 7, others: 4)
            let mute: ScriptedServer.Script = { $0[0] == "SENTINEL" ? "" : nil }
            let half: ScriptedServer.Script = { $0[0] == "SENTINEL" ? "*-1\r\n" : nil }
            let locked: ScriptedServer.Script = { _ in "-NOAUTH Authentication required.\r\n" }
            try await withServers([mute, half, locked, good, Self.naming(redis.port, 7, others: 3)]) { _, url in
                try await withLocatedClient(url) { client, _ in
                    let found = try await port(client)
                    #expect(found == "\(redis.port)")
                }
            }
            try await withServers([locked, locked]) { _, url in
                let error = await redisError {
                    try await withLocatedClient(url, { $0.commandTimeout = .seconds(1) }) { client, _ in
                        _ = try await client.call("PING")
                    }
                }
                #expect(error?.message.contains("RINGFENCE_SENTINEL_PASSWORD") == true, "\(error?.message ?? "")")
            }
        }
    }

    @Test func `a Sentinel is asked for its id once on each connection`() async throws {
        try await withRedis { redis in
            let naming = Self.naming(redis.port, 7, others: 0)
            let commands = Mutex<[String]>([])
            let script: ScriptedServer.Script = { words in
                if words[0] == "SENTINEL" { commands.withLock { $0.append(words[1]) } }
                return naming(words)
            }
            func count(_ name: String) -> Int { commands.withLock { $0.count { $0 == name } } }
            try await withServers([script]) { servers, url in
                try await withLocatedClient(url, { $0.watchInterval = .milliseconds(10) }) { client, locator in
                    _ = try await client.call("PING")
                    try await eventually { count("MASTER") >= 5 }
                    #expect(count("MYID") == 1)
                    #expect(locator.status.sentinels?.answering == 1)
                    servers[0].dropConnections()
                    try await eventually { count("MYID") == 2 }
                    let before = count("MASTER")
                    try await eventually { count("MASTER") >= before + 5 }
                    #expect(count("MYID") == 2)
                    #expect(locator.status.sentinels?.answering == 1)
                }
            }
        }
    }

    @Test func `two primaries under one epoch are a plight that names who says what`() async throws {
        try await withRedis { one in
            try await withRedis { two in
                let scripts = [Self.naming(one.port, 7, others: 1), Self.naming(two.port, 7, others: 1)]
                try await withServers(scripts) { servers, url in
                    let error = await redisError {
                        try await withLocatedClient(url, { $0.commandTimeout = .seconds(1) }) { client, _ in
                            _ = try await client.call("PING")
                        }
                    }
                    let text = error?.message ?? ""
                    #expect(text.contains("127.0.0.1:\(one.port) by \(servers[0].address)"), "\(text)")
                    #expect(text.contains("127.0.0.1:\(two.port) by \(servers[1].address)"), "\(text)")
                }
            }
        }
    }
}
