// SPDX-License-Identifier: Apache-2.0
//
// What a load balancer asks: is the primary here, is a standby here? The answer is the status code, 200 or 503; the
// body is for people. The words are those that users of Patroni's endpoints know, `OPTIONS` and `HEAD` included.
//
// Plain SwiftNIO: a hundred balancers that ask each second need no router. A connection is kept until it is idle for a
// minute, and nothing a client sends makes anything grow: a body is thrown away, a head is bounded by the decoder.
import NIOCore
import NIOHTTP1
import NIOPosix
import RingfenceOperations

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// An answer of an endpoint.
struct EndpointAnswer: Sendable {
    var status: HTTPResponseStatus
    var body: String
}

/// The listener for health endpoints.
final class AgentEndpoints: Sendable {
    typealias Responder =
        @Sendable (_ method: HTTPMethod, _ path: String, _ query: String) async -> EndpointAnswer

    private let channel: any Channel
    /// The one it listens on.
    var port: Int { channel.localAddress?.port ?? 0 }

    private init(_ channel: any Channel) { self.channel = channel }

    /// - Throws: ``Settings/Failure`` when it cannot listen there.
    static func listen(
        on endpoint: AgentConfiguration.Endpoint, _ respond: @escaping Responder
    ) async throws -> AgentEndpoints {
        do {
            let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .serverChannelOption(.backlog, value: 256)
                .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
                .childChannelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        let pipeline = channel.pipeline.syncOperations
                        try pipeline.addHandler(IdleStateHandler(readTimeout: .seconds(60)))
                        try pipeline.configureHTTPServerPipeline(withErrorHandling: true)
                        try pipeline.addHandler(EndpointHandler(respond))
                    }
                }
                .bind(host: endpoint.host, port: endpoint.port).get()
            return AgentEndpoints(channel)
        } catch {
            throw Settings.Failure(
                description: "listen: cannot listen on \(endpoint.host):\(endpoint.port): \(connectFailure(error))")
        }
    }

    func close() async { try? await channel.close() }
}

private final class EndpointHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let respond: AgentEndpoints.Responder
    private var head: HTTPRequestHead?

    init(_ respond: @escaping AgentEndpoints.Responder) { self.respond = respond }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head): self.head = head
        case .body: break
        case .end:
            guard let head else { return }
            self.head = nil
            answer(head, context)
        }
    }

    private func answer(_ head: HTTPRequestHead, _ context: ChannelHandlerContext) {
        let path = head.uri.prefix { $0 != "?" }
        guard [.GET, .HEAD, .OPTIONS].contains(head.method) || (head.method == .POST && path == AgentHold.path) else {
            return write(
                EndpointAnswer(
                    status: .methodNotAllowed, body: #"{"error":"GET, HEAD or OPTIONS; POST for /promise"}"#), head,
                context)
        }
        // A promise is asked for by agents, never by a page: browsers send an Origin with every POST.
        guard head.method != .POST || (head.headers["Origin"] + head.headers["Sec-Fetch-Site"]).isEmpty else {
            return write(
                EndpointAnswer(status: .forbidden, body: #"{"error":"no page may ask for this"}"#), head, context)
        }
        let query = head.uri[path.endIndex...].dropFirst()
        let (respond, loop) = (respond, context.eventLoop)
        let promise = loop.makePromise(of: EndpointAnswer.self)
        promise.completeWithTask { await respond(head.method, String(path), String(query)) }
        let bound = NIOLoopBound((self, context), eventLoop: loop)
        promise.futureResult.whenSuccess { answer in
            let (handler, context) = bound.value
            handler.write(answer, head, context)
        }
    }

    private func write(_ answer: EndpointAnswer, _ head: HTTPRequestHead, _ context: ChannelHandlerContext) {
        guard context.channel.isActive else { return }
        var response = HTTPResponseHead(version: head.version, status: answer.status)
        response.headers = [
            "Content-Type": "application/json", "Content-Length": String(answer.body.utf8.count),
            "Cache-Control": "no-store",
        ]
        if answer.status == .methodNotAllowed { response.headers.add(name: "Allow", value: "GET, HEAD, OPTIONS") }
        if !head.isKeepAlive { response.headers.add(name: "Connection", value: "close") }
        context.write(wrapOutboundOut(.head(response)), promise: nil)
        if head.method != .HEAD {
            context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: answer.body)))), promise: nil)
        }
        let done: EventLoopPromise<Void>? = head.isKeepAlive ? nil : context.eventLoop.makePromise()
        let channel = context.channel
        done?.futureResult.whenComplete { _ in channel.close(promise: nil) }
        context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: done)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is IdleStateHandler.IdleStateEvent { context.close(promise: nil) }
        context.fireUserInboundEventTriggered(event)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
