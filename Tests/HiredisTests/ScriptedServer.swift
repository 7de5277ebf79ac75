// SPDX-License-Identifier: Apache-2.0
//
// A server that does what no real one would do on demand: lies, is late, answers half.
import NIOCore
import NIOPosix
import Synchronization

@testable import Hiredis

/// A server that answers commands as a test says, in RESP.
final class ScriptedServer: Sendable {
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

enum RESP {
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
