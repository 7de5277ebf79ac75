// SPDX-License-Identifier: Apache-2.0
//
// The guard of a connection on a loop whose time is told.
import NIOCore
import NIOEmbedded
import Testing

@testable import RingfenceHTTP

@Suite struct ConnectionGuardTests {
    private func connected() throws -> EmbeddedChannel {
        let channel = EmbeddedChannel(handler: ConnectionGuard())
        try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
        return channel
    }

    private func set(isWritable: Bool, _ channel: EmbeddedChannel) {
        channel.isWritable = isWritable
        channel.pipeline.fireChannelWritabilityChanged()
    }

    @Test func `a connection whose answers lie unread for 30 s is closed, and not a moment before`() throws {
        let channel = try connected()
        set(isWritable: false, channel)
        channel.embeddedEventLoop.advanceTime(by: ConnectionGuard.unreadTimeout - .milliseconds(1))
        #expect(channel.isActive)
        channel.embeddedEventLoop.advanceTime(by: .milliseconds(1))
        #expect(!channel.isActive)
        #expect(ConnectionGuard.unreadTimeout == .seconds(30), "as the documents say")
    }

    @Test func `a connection that reads again in time stays, and has its time anew`() throws {
        let channel = try connected()
        for _ in 0..<3 {
            set(isWritable: false, channel)
            channel.embeddedEventLoop.advanceTime(by: .seconds(29))
            set(isWritable: true, channel)
            channel.embeddedEventLoop.advanceTime(by: .seconds(60))
            #expect(channel.isActive)
        }
        _ = try channel.finish()
    }
}
