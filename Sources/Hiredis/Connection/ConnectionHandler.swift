// SPDX-License-Identifier: Apache-2.0
import NIOCore
import NIOSSL

/// One channel's end of the pipeline.
final class ConnectionHandler<Owner: ConnectionOwner>: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    let attempt: Int
    /// As it was when this attempt began.
    let password: String?
    private(set) var firstByte: UInt8?
    /// Of the server, whether it was accepted or not.
    private(set) var certificate: NIOSSLCertificate?
    private let driver: ConnectionDriver<Owner>
    private let reader = ReplyReader()
    private var context: ChannelHandlerContext?
    private var failure: (any Error)?

    init(driver: ConnectionDriver<Owner>, attempt: Int, password: String?) {
        self.password = password
        self.driver = driver
        self.attempt = attempt
    }

    func write(_ bytes: ByteBuffer) {
        context?.writeAndFlush(wrapOutboundOut(bytes), promise: nil)
    }

    func close() -> EventLoopFuture<Void>? {
        guard let channel = context?.channel else { return nil }
        channel.close(promise: nil)
        return channel.closeFuture
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

    func channelActive(context: ChannelHandlerContext) { driver.opened(self) }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        // Once broken the reader takes nothing more; the driver hears of it at the end of this read.
        unwrapInboundIn(data).withUnsafeReadableBytes { bytes in
            if firstByte == nil { firstByte = bytes.first }
            _ = reader.feed(bytes)
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) { driver.received(self, reader) }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if failure == nil {
            failure = error
            certificate = try? context.pipeline.syncOperations.handler(type: NIOSSLClientHandler.self).peerCertificate
        }
        context.close(promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) {
        driver.received(self, reader)
        driver.closed(self, failure)
    }
}
