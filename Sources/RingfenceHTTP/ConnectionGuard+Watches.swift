// SPDX-License-Identifier: Apache-2.0
//
// What the guard of a connection must know and cannot see from its place behind the decoder: the bytes before it, and
// the version and the headers that the decoder's neighbour loses.
import NIOCore
import NIOHTTP1

/// Sees what is lost behind it: how many Host headers there were, and the version. A connection whose client says, in
/// any of the ways there are, that a request is its last is closed after the answer; HTTP/1.0 always is, and never gets
/// chunks.
final class VersionWatch: ChannelDuplexHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias InboundOut = HTTPServerRequestPart
    typealias OutboundIn = HTTPServerResponsePart
    typealias OutboundOut = HTTPServerResponsePart
    private let owner: ConnectionGuard
    /// Requests that came, answers that began, and which request is the last.
    private var (requests, answers) = (0, 0)
    private var last: Int?

    init(owner: ConnectionGuard) { self.owner = owner }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard case .head(var head) = unwrapInboundIn(data) else { return context.fireChannelRead(data) }
        requests += 1
        owner.hasTwoHosts = head.headers["Host"].count > 1
        owner.isOld = head.version.major < 1 || (head.version.major == 1 && head.version.minor < 1)
        guard owner.isOld || !head.isKeepAlive else { return context.fireChannelRead(data) }
        if last == nil { last = requests }
        // It knows of no 100, and waits for none.
        if owner.isOld { head.headers.remove(name: "Expect") }
        // The one form that the request loop knows.
        head.headers.replaceOrAdd(name: "Connection", value: "close")
        context.fireChannelRead(wrapInboundOut(.head(head)))
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        guard case .head(var head) = unwrapOutboundIn(data), !head.status.isInformational else {
            return context.write(data, promise: promise)
        }
        answers += 1
        guard answers == last else { return context.write(data, promise: promise) }
        head.headers.replaceOrAdd(name: "Connection", value: "close")
        // The answer says HTTP/1.1, as ours is, but for a stream: the encoder would put it into chunks.
        if owner.isOld, !head.headers.contains(name: "Content-Length") { head.version = .http1_0 }
        context.write(wrapOutboundOut(.head(head)), promise: promise)
    }
}

/// Sees a request's first byte.
final class ByteWatch: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let owner: ConnectionGuard

    init(owner: ConnectionGuard) { self.owner = owner }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if !owner.isReceiving { owner.began() }
        owner.received(unwrapInboundIn(data).readableBytes)
        context.fireChannelRead(data)
    }
}

extension HTTPResponseStatus {
    fileprivate var isInformational: Bool { (100..<200).contains(code) }
}
