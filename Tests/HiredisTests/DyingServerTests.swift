// SPDX-License-Identifier: Apache-2.0
import Hiredis
import NIOCore
import NIOPosix
import TestSupport
import Testing

/// A server that answers the handshake and hangs up, so that the very first write behind it fails.
@Suite struct DyingServerTests {
    private final class Dying: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        typealias OutboundOut = ByteBuffer

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let answers = ":6\r\n$10\r\nrun_id:abc\r\n+PONG\r\n"
            context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: answers)), promise: nil)
            context.close(promise: nil)
        }
    }

    @Test func `answers to the handshake are nobody's answers, also when the connection ends with them`() async throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/dying.sock"
        let server = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(Dying()) }
            }
            .bind(unixDomainSocketPath: path).get()
        // One client each: a second connection would wait to kill the first.
        for _ in 0..<20 {
            try await withClient("unix://\(path)") { client async throws in
                let error = await redisError {
                    let reply = try await client.call("GET", "x")
                    Issue.record("GET was answered with \(reply)")
                }
                #expect(error?.code == .connectionLost && error?.effect == .unknown)
            }
        }
        try await server.close()
    }
}
