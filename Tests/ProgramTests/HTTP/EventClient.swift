// SPDX-License-Identifier: Apache-2.0
import NIOCore
import NIOPosix
import RingfencePlatform
import Synchronization
import TestSupport

/// A client of the event stream: what an EventSource would see, block by block.
final class EventClient: Sendable {
    struct Block: Sendable {
        var id: String?
        var event = "message"
        var data = ""
        var comment: String?
    }

    struct Seen: Sendable {
        var status: String?
        var blocks: [Block] = []
        var isClosed = false
        /// Only counted and not kept when there are a thousand clients.
        var count = 0
        var lastSeq: Int64 = 0
        /// Each event's number was one more than that before it.
        var isDense = true
        var heartbeats = 0
    }

    private let channel: any Channel
    private let handler: Handler

    private init(_ channel: any Channel, _ handler: Handler) {
        self.channel = channel
        self.handler = handler
    }

    /// A thread of their own: a thousand of them would hold up every other test on the shared event loops.
    private static let eventLoops = MultiThreadedEventLoopGroup(numberOfThreads: 1)

    static func open(
        port: Int, _ target: String = "/v1/events", headers: [String] = [], keepsBlocks: Bool = true, reads: Bool = true
    ) async throws -> EventClient {
        let handler = Handler(keepsBlocks: keepsBlocks)
        let channel = try await ClientBootstrap(group: eventLoops)
            .channelOption(.autoRead, value: reads)
            .channelOption(.socketOption(.so_rcvbuf), value: reads ? 262_144 : 4096)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(handler) }
            }
            .connect(host: "127.0.0.1", port: port).get()
        let lines = ["GET \(target) HTTP/1.1", "Host: localhost", "Accept: text/event-stream"] + headers
        try await channel.writeAndFlush(ByteBuffer(string: lines.joined(separator: "\r\n") + "\r\n\r\n"))
        return EventClient(channel, handler)
    }

    var seen: Seen { handler.state.withLock { $0 } }
    /// All events, but state, reset and bye.
    var events: [Block] { seen.blocks.filter { $0.event.contains(".") } }
    func startReading() async throws { try await channel.setOption(.autoRead, value: true).get() }
    func close() { channel.close(promise: nil) }

    // SAFETY: `buffer`, `body` and `hasHead` are touched on the channel's event loop only.
    private final class Handler: ChannelInboundHandler, Sendable {
        typealias InboundIn = ByteBuffer
        private struct Parser {
            var buffer = ByteBuffer()
            var body: [UInt8] = []
            var hasHead = false
        }

        let state = Mutex(Seen())
        private let parser = Mutex(Parser())
        private let keepsBlocks: Bool

        init(keepsBlocks: Bool) { self.keepsBlocks = keepsBlocks }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            var bytes = unwrapInboundIn(data)
            parser.withLock { parser in
                parser.buffer.writeBuffer(&bytes)
                take(&parser)
            }
        }

        func channelInactive(context: ChannelHandlerContext) { state.withLock { $0.isClosed = true } }
        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

        private func take(_ parser: inout Parser) {
            if !parser.hasHead {
                guard let end = parser.buffer.readableBytesView.firstRange(of: Array("\r\n\r\n".utf8)) else { return }
                let length = end.upperBound - parser.buffer.readableBytesView.startIndex
                let head = parser.buffer.readString(length: length) ?? ""
                parser.hasHead = true
                state.withLock { $0.status = String(head.prefix { $0 != "\r\n" }) }
            }
            // Chunks: a hexadecimal length, the bytes, each with a line break behind.
            while let end = parser.buffer.readableBytesView.firstRange(of: Array("\r\n".utf8)) {
                let view = parser.buffer.readableBytesView
                let digits = end.lowerBound - view.startIndex
                guard let length = Int(String(decoding: view.prefix(digits), as: UTF8.self), radix: 16),
                    parser.buffer.readableBytes >= digits + 2 + length + 2
                else { break }
                parser.buffer.moveReaderIndex(forwardBy: digits + 2)
                parser.body += parser.buffer.readBytes(length: length) ?? []
                parser.buffer.moveReaderIndex(forwardBy: 2)
            }
            parser.buffer.discardReadBytes()
            var start = 0
            while let end = Self.blankLine(parser.body, from: start) {
                took(String(decoding: parser.body[start..<end], as: UTF8.self))
                start = end + 2
            }
            parser.body.removeFirst(start)
        }

        /// Where the next empty line begins. With memchr, for debug builds.
        private static func blankLine(_ bytes: [UInt8], from start: Int) -> Int? {
            bytes.withUnsafeBytes { bytes in
                var at = start
                while at < bytes.count, let base = bytes.baseAddress,
                    let found = memchr(base + at, 0x0A, bytes.count - at)
                {
                    let place = UnsafeRawPointer(found) - base
                    if place + 1 < bytes.count, bytes[place + 1] == 0x0A { return place }
                    at = place + 1
                }
                return nil
            }
        }

        private func took(_ text: String) {
            var block = Block()
            for line in text.split(separator: "\n") {
                let name = line.prefix { $0 != ":" }
                let value = String(line.dropFirst(name.count + 1).drop { $0 == " " })
                switch name {
                case "": block.comment = value
                case "id": block.id = value
                case "event": block.event = value
                case "data": block.data += value
                default: break
                }
            }
            state.withLock { seen in
                if block.comment == "heartbeat" { seen.heartbeats += 1 }
                if block.event.contains("."), let sequence = block.id?.split(separator: ":").last.flatMap({ Int64($0) })
                {
                    if seen.count > 0, sequence != seen.lastSeq + 1 { seen.isDense = false }
                    seen.count += 1
                    seen.lastSeq = sequence
                }
                if keepsBlocks { seen.blocks.append(block) }
            }
        }
    }
}
