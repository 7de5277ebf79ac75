// SPDX-License-Identifier: Apache-2.0
import NIOCore
import NIOPosix
import RingfencePlatform
import TestSupport
import Testing

/// The scaffolding itself: a test that leans on a server or a fault must know that they are real.
@Suite struct TestSupportTests {
    @Test func `a server answers, dies by kill -9, and comes back empty on the same port`() async throws {
        try await withRedis { server async throws in
            #expect(try await server.cli("SET", "k", "v") == "OK")
            #expect(try await redisCLI(["-p", "\(server.port)", "GET", "k"]) == "v")
            let first = server.pid
            await server.kill(SIGKILL)
            #expect(server.pid == 0)
            await #expect(throws: TestSupportError.self) { try await server.cli("PING") }
            try await server.restart()
            #expect(server.pid != first)
            #expect(try await server.cli("EXISTS", "k") == "0")
        }
    }

    @Test func `a program that a test starts gets none of the test's connections`() async throws {
        try await withRedis { server async throws in
            let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .connect(host: "127.0.0.1", port: server.port).get()
            let descriptors = try await output(of: "ls", ["/proc/self/fd"]).split(separator: "\n")
            // The last is the directory itself.
            #expect(descriptors == ["0", "1", "2", "3"])
            try await channel.close()
        }
    }

    @Test func `a stalled proxy holds bytes back and delivers them after its client has gone`() async throws {
        try await withRedis { server async throws in
            let proxy = try await TCPProxy.start(to: server)
            #expect(try await redisCLI(["-p", "\(proxy.port)", "SET", "k", "1"]) == "OK")
            try await eventually { proxy.open == 0 }
            proxy.update { $0.clientToServer.isStalled = true }
            let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .connect(host: "127.0.0.1", port: proxy.port).get()
            try await channel.writeAndFlush(ByteBuffer(string: "SET k 2\r\n"))
            try await eventually { proxy.open == 1 }
            try await channel.close()
            #expect(try await server.cli("GET", "k") == "1")
            proxy.update { $0.clientToServer.isStalled = false }
            try await eventually { try await server.cli("GET", "k") == "2" }
            try await eventually { proxy.open == 0 }
            await proxy.close()
            await #expect(throws: TestSupportError.self) { try await redisCLI(["-p", "\(proxy.port)", "PING"]) }
        }
    }

    @Test func `a proxy ends one direction of a connection, and the other goes on`() async throws {
        try await withRedis { server async throws in
            let proxy = try await TCPProxy.start(to: server)
            let loop = MultiThreadedEventLoopGroup.singleton.any()
            let ended = loop.makePromise(of: Void.self)
            let half = try await ClientBootstrap(group: loop)
                .channelOption(.allowRemoteHalfClosure, value: true)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(InputEnd(ended))
                    }
                }
                .connect(host: "127.0.0.1", port: proxy.port).get()
            try await eventually { proxy.open == 1 }
            proxy.halfClose(toClient: true)
            try await ended.futureResult.get()
            try await half.writeAndFlush(ByteBuffer(string: "SET k 1\r\n"))
            try await eventually { try await server.cli("GET", "k") == "1" }
            // Redis closes what has ended for it.
            proxy.halfClose(toClient: false)
            try await eventually {
                try await server.cli("CLIENT", "LIST", "TYPE", "normal").split(separator: "\n").count == 1
            }
            try await half.close()
            try await eventually { proxy.open == 0 }
            await proxy.close()
        }
    }

    @Test func `a proxy cuts after exactly so many bytes`() async throws {
        try await withRedis { server async throws in
            let proxy = try await TCPProxy.start(to: server)
            let commands = "SET a 1\r\nSET b 1\r\n"
            for length in [0, 8, 9, 17, 18] {
                try await server.cli("FLUSHALL")
                let before = proxy.bytesToServer
                proxy.update { $0.clientToServer.cutAfter = length }
                let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                    .connect(host: "127.0.0.1", port: proxy.port).get()
                channel.writeAndFlush(ByteBuffer(string: commands), promise: nil)
                try await channel.closeFuture.get()
                #expect(proxy.bytesToServer - before == length)
                let expected = length < 9 ? "0" : length < 18 ? "1" : "2"
                try await eventually { try await server.cli("DBSIZE") == expected }
            }
            await proxy.close()
        }
    }
}

/// Tells when the other end has said that nothing more comes.
private final class InputEnd: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer
    private let promise: EventLoopPromise<Void>

    init(_ promise: EventLoopPromise<Void>) { self.promise = promise }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { promise.succeed() }
        context.fireUserInboundEventTriggered(event)
    }
}
