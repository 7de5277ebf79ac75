// SPDX-License-Identifier: Apache-2.0
import NIOCore
import Synchronization

/// What a connection has received and not yet given out as answers.
final class Received: Sendable {
    private struct State {
        var bytes = ByteBuffer()
        var isClosed = false
    }

    private let state = Mutex(State())

    var isClosed: Bool { state.withLock { $0.isClosed } }

    func append(_ bytes: ByteBuffer) {
        state.withLock { state in
            var bytes = bytes
            state.bytes.writeBuffer(&bytes)
        }
    }

    func close() { state.withLock { $0.isClosed = true } }

    /// Takes a whole answer from the front.
    func take(isHead: Bool) -> Answer? {
        state.withLock { state in
            let view = state.bytes.readableBytesView
            guard let end = view.firstRange(of: Array("\r\n\r\n".utf8)) else { return nil }
            let lines = String(decoding: view[..<end.lowerBound], as: UTF8.self).split(separator: "\r\n")
            var headers: [String: String] = [:]
            for line in lines.dropFirst() {
                let name = line.prefix { $0 != ":" }
                headers[name.lowercased()] = String(line.dropFirst(name.count + 1).drop { $0 == " " })
            }
            let length = isHead ? 0 : Int(headers["content-length"] ?? "0") ?? 0
            let head = end.upperBound - view.startIndex
            guard view.count >= head + length else { return nil }
            state.bytes.moveReaderIndex(forwardBy: head)
            let body = state.bytes.readString(length: length) ?? ""
            state.bytes.discardReadBytes()
            return Answer(status: Int(lines[0].split(separator: " ")[1]) ?? 0, headers: headers, body: body)
        }
    }
}

final class Collector: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let received: Received

    init(received: Received) { self.received = received }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) { received.append(unwrapInboundIn(data)) }
    func channelInactive(context: ChannelHandlerContext) { received.close() }
    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? ChannelEvent, event == .inputClosed { received.close() }
    }
    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        received.close()
        context.close(promise: nil)
    }
}
