// SPDX-License-Identifier: Apache-2.0
//
// A loopback proxy that misbehaves on demand: the network between a client and its Redis.
//
// Each direction holds a queue of bytes followed, perhaps, by "the sender closed". A direction that is stalled keeps
// both back, so a connection whose client is long gone still has its last commands on the way: exactly the ghost that
// a reconnecting client must fear. Un-stalling delivers what was held, in order, then the close.
import NIOCore
import NIOPosix
import Synchronization

/// Forwards loopback connections to a server, with faults that may be changed at any time.
package final class TCPProxy: Sendable {
    package struct Direction: Sendable {
        /// Nothing passes, silently; it is kept and passes when this becomes false again.
        package var isStalled = false
        /// Both sides are cut after so many more bytes, counted over all connections from when this is set; one shot.
        package var cutAfter: Int?
        /// Every piece is late by this much.
        package var delay: Duration?
    }

    package struct Faults: Sendable {
        package var clientToServer = Direction()
        package var serverToClient = Direction()
        /// Nothing passes, either way, on connections whose first bytes hold one of these, say the name of a Redis
        /// user: one client is cut off and the others are not.
        package var isolated: Set<String> = []
    }

    fileprivate struct State {
        var faults = Faults()
        var links: [ObjectIdentifier: Link] = [:]
        var accepted = 0
        /// Connections with a higher number are not stalled.
        var stallsUpTo = Int.max
        var passed = (clientToServer: 0, serverToClient: 0)
        var listener: (any Channel)?
        var target: SocketAddress
    }

    package let port: Int
    fileprivate let state: Mutex<State>

    package var url: String { "redis://127.0.0.1:\(port)" }
    /// Connections accepted so far.
    package var accepted: Int { state.withLock { $0.accepted } }
    /// Connections whose client side is open.
    package var open: Int { state.withLock { $0.links.count } }
    /// Bytes passed on to the server so far.
    package var bytesToServer: Int { state.withLock { $0.passed.clientToServer } }
    /// Bytes passed on to the clients so far.
    package var bytesToClient: Int { state.withLock { $0.passed.serverToClient } }

    private init(port: Int, target: SocketAddress, listener: (any Channel)?) {
        self.port = port
        self.state = Mutex(State(listener: listener, target: target))
    }

    /// Forwards connections that come from now on to another server.
    package func retarget(to server: RedisServer) throws { try retarget(toPort: server.port) }

    package func retarget(toPort port: Int) throws {
        let address = try SocketAddress(ipAddress: "127.0.0.1", port: port)
        state.withLock { $0.target = address }
    }

    /// Listens on a free port and forwards to `server`.
    package static func start(to server: RedisServer) async throws -> TCPProxy {
        try await start(to: try SocketAddress(ipAddress: "127.0.0.1", port: server.port))
    }

    /// Listens on a free port and forwards to 127.0.0.1:`port`.
    package static func start(toPort port: Int) async throws -> TCPProxy {
        try await start(to: try SocketAddress(ipAddress: "127.0.0.1", port: port))
    }

    private static func start(to target: SocketAddress) async throws -> TCPProxy {
        var failure: any Error = TestSupportError("no free port")
        for _ in 0..<8 {
            do {
                let proxy = TCPProxy(port: try freePort(), target: target, listener: nil)
                try await proxy.bind()
                return proxy
            } catch { failure = error }
        }
        throw failure
    }

    /// Changes the faults; what they no longer hold back passes at once.
    package func update(_ change: (inout Faults) -> Void) {
        let links = state.withLock { state in
            change(&state.faults)
            return Array(state.links.values)
        }
        for link in links { link.pump() }
    }

    /// Cuts every connection on both sides now; what was held back is lost.
    package func cut() {
        for link in state.withLock({ Array($0.links.values) }) { link.cut() }
    }

    /// Cuts the connections whose first bytes hold `text`.
    package func cut(_ text: String) {
        for link in state.withLock({ Array($0.links.values) }) where link.opens(with: [text]) { link.cut() }
    }

    /// Closes the clients' sides only; the servers' sides see it in order behind what is held back.
    package func cutClients() {
        for link in state.withLock({ Array($0.links.values) }) { link.client.close(promise: nil) }
    }

    /// Ends one direction of every connection now: its receiver reads the end, and the other direction goes on.
    package func halfClose(toClient: Bool) {
        for link in state.withLock({ Array($0.links.values) }) { link.halfClose(toClient: toClient) }
    }

    /// From here the stalls of now hold for the connections of now only.
    package func passNewConnections() {
        state.withLock { $0.stallsUpTo = $0.accepted }
    }

    /// Stops listening, so that new connections are refused; existing ones stay.
    package func refuse() async {
        let listener = state.withLock { state in
            defer { state.listener = nil }
            return state.listener
        }
        try? await listener?.close()
    }

    /// Listens again on the same port.
    package func listen() async throws {
        // A process that a parallel test is just spawning may hold a copy of the closed listener until it execs.
        try await eventually("port \(port) is free again") { (try? await bind()) != nil }
    }

    private func bind() async throws {
        let listener = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelOption(.autoRead, value: false)
            .childChannelInitializer { client in
                let target = self.state.withLock { $0.target }
                return ClientBootstrap(group: client.eventLoop)
                    .channelOption(.tcpOption(.tcp_nodelay), value: 1)
                    .channelOption(.autoRead, value: false)
                    .connect(to: target)
                    .flatMapThrowing { server in
                        let link = self.state.withLock { state in
                            state.accepted += 1
                            let link = Link(client: client, server: server, proxy: self, number: state.accepted)
                            state.links[ObjectIdentifier(link)] = link
                            return link
                        }
                        try client.pipeline.syncOperations.addHandler(End(link: link, isClient: true))
                        try server.pipeline.syncOperations.addHandler(End(link: link, isClient: false))
                        server.setOption(.autoRead, value: true).whenComplete { _ in }
                        client.setOption(.autoRead, value: true).whenComplete { _ in }
                    }
            }
            .bind(host: "127.0.0.1", port: port).get()
        state.withLock { $0.listener = listener }
    }

    /// Stops listening and cuts everything.
    package func close() async {
        await refuse()
        cut()
    }
}

/// One client connection, its server connection, and what is on the way between them.
private final class Link: Sendable {
    struct Lane {
        var held = ByteBuffer()
        var senderClosed = false
        var receiverTold = false
        var isCut = false
    }

    let client: any Channel
    let server: any Channel
    private let number: Int
    private let proxy: TCPProxy
    private let lanes = Mutex((clientToServer: Lane(), serverToClient: Lane()))
    /// The first that the client sent.
    private let opening = Mutex("")

    /// `number` counts the connections of the proxy, from 1.
    init(client: any Channel, server: any Channel, proxy: TCPProxy, number: Int) {
        self.number = number
        self.client = client
        self.server = server
        self.proxy = proxy
    }

    /// Whether the client's first bytes hold one of these.
    func opens(with texts: Set<String>) -> Bool {
        !texts.isEmpty && opening.withLock { opening in texts.contains { opening.contains($0) } }
    }

    func received(_ bytes: ByteBuffer, fromClient: Bool) {
        if fromClient { opening.withLock { if $0.isEmpty { $0 = String(buffer: bytes) } } }
        lanes.withLock { lanes in
            var bytes = bytes
            if fromClient {
                lanes.clientToServer.held.writeBuffer(&bytes)
            } else {
                lanes.serverToClient.held.writeBuffer(&bytes)
            }
        }
        pump()
    }

    func closed(client fromClient: Bool) {
        let bothClosed = lanes.withLock { lanes in
            if fromClient { lanes.clientToServer.senderClosed = true } else { lanes.serverToClient.senderClosed = true }
            return lanes.clientToServer.senderClosed && lanes.serverToClient.senderClosed
        }
        if bothClosed { _ = proxy.state.withLock { $0.links.removeValue(forKey: ObjectIdentifier(self)) } }
        pump()
    }

    /// Bytes behind the cut are lost, also those that still come in.
    func cut() {
        lanes.withLock { lanes in
            for lane in [\(clientToServer: Lane, serverToClient: Lane).clientToServer, \.serverToClient] {
                lanes[keyPath: lane].isCut = true
            }
        }
        client.close(promise: nil)
        server.close(promise: nil)
    }

    /// Bytes that still come for that direction are lost.
    func halfClose(toClient: Bool) {
        client.eventLoop.execute { [self] in
            lanes.withLock { lanes in
                if toClient { lanes.serverToClient.isCut = true } else { lanes.clientToServer.isCut = true }
            }
            (toClient ? client : server).close(mode: .output, promise: nil)
        }
    }

    /// Passes on what the faults allow, in both directions. Both ends share one event loop, so order is kept.
    func pump() {
        client.eventLoop.execute {
            self.pump(\.clientToServer, \.clientToServer, \.clientToServer, to: self.server)
            self.pump(\.serverToClient, \.serverToClient, \.serverToClient, to: self.client)
        }
    }

    private func pump(
        _ lane: WritableKeyPath<(clientToServer: Lane, serverToClient: Lane), Lane>,
        _ direction: WritableKeyPath<TCPProxy.Faults, TCPProxy.Direction>,
        _ counter: WritableKeyPath<(clientToServer: Int, serverToClient: Int), Int>, to receiver: any Channel
    ) {
        var bytes: ByteBuffer?
        var isCut = false
        var closes = false
        var delay: Duration?
        lanes.withLock { lanes in
            proxy.state.withLock { state in
                let fault = state.faults[keyPath: direction]
                guard !fault.isStalled || number > state.stallsUpTo, !lanes[keyPath: lane].isCut,
                    !opens(with: state.faults.isolated)
                else { return }
                delay = fault.delay
                let count = min(lanes[keyPath: lane].held.readableBytes, fault.cutAfter ?? .max)
                if count > 0 {
                    bytes = lanes[keyPath: lane].held.readSlice(length: count)
                    lanes[keyPath: lane].held.discardReadBytes()
                    state.passed[keyPath: counter] += count
                }
                if let left = fault.cutAfter {
                    isCut = left == count
                    lanes[keyPath: lane].isCut = isCut
                    state.faults[keyPath: direction].cutAfter = isCut ? nil : left - count
                }
                let sent = lanes[keyPath: lane]
                closes = sent.senderClosed && sent.held.readableBytes == 0 && !sent.receiverTold
                if closes { lanes[keyPath: lane].receiverTold = true }
            }
        }
        guard bytes != nil || isCut || closes else { return }
        let act: @Sendable () -> Void = { [bytes, isCut, closes] in
            if let bytes { receiver.writeAndFlush(bytes, promise: nil) }
            if isCut { self.cut() } else if closes { receiver.close(promise: nil) }
        }
        if let delay {
            client.eventLoop.scheduleTask(in: TimeAmount(delay)) { act() }
        } else {
            act()
        }
    }
}

/// The handler at either end of a link.
private final class End: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let link: Link
    private let isClient: Bool

    init(link: Link, isClient: Bool) {
        self.link = link
        self.isClient = isClient
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        link.received(unwrapInboundIn(data), fromClient: isClient)
    }

    func channelInactive(context: ChannelHandlerContext) {
        link.closed(client: isClient)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}
