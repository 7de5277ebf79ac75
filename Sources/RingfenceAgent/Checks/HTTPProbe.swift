// SPDX-License-Identifier: Apache-2.0
//
// One request over a new connection each time: that the service accepts connections is part of what is asked. The
// answer is read to its head, or to the text that is looked for, and the connection is closed.
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL
import RingfenceAgentCore
import RingfenceCore
import RingfenceOperations

/// Passes when the answer has the status, the header and the text that were asked for.
package struct HTTPProbe: CheckProbe {
    static let bodyBytesMaximum = 65_536

    let plan: AgentConfiguration.HTTPRequestPlan
    private let context: NIOSSLContext?

    init(_ plan: AgentConfiguration.HTTPRequestPlan) throws {
        self.plan = plan
        guard plan.isSecure else {
            context = nil
            return
        }
        var settings = TLSConfiguration.makeClientConfiguration()
        settings.minimumTLSVersion = .tlsv12
        if let file = plan.authorityFile { settings.trustRoots = .file(file) }
        do { context = try NIOSSLContext(configuration: settings) } catch {
            throw Settings.Failure(description: "ca: \(plan.authorityFile ?? "") cannot be used: \(error)")
        }
    }

    /// Asks a service for `path` once, without TLS.
    /// - Returns: why it failed; nil: the answer's status is 200.
    package static func failure(
        ofGetting path: String, host: String, port: Int, timeout: Duration
    ) async -> String? {
        let plan = AgentConfiguration.HTTPRequestPlan(
            isSecure: false, endpoint: .init(host: host, port: port), target: path,
            authority: host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)", method: "GET", status: 200...200)
        return await HTTPProbe(plan, context: nil).look(timeout: timeout).failure
    }

    private init(_ plan: AgentConfiguration.HTTPRequestPlan, context: NIOSSLContext?) {
        self.plan = plan
        self.context = context
    }

    func look(timeout: Duration) async -> Observation {
        let loop = MultiThreadedEventLoopGroup.singleton.any()
        let answer = AnswerPromise(loop)
        let limit = loop.scheduleTask(in: .init(timeout)) { answer.fail("timed out") }
        defer { limit.cancel() }
        let (plan, context) = (plan, context)
        let bootstrap = ClientBootstrap(group: loop).connectTimeout(.init(timeout)).channelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                let pipeline = channel.pipeline.syncOperations
                if let context {
                    let host = plan.endpoint.host
                    let isAddress = (try? SocketAddress(ipAddress: host, port: 0)) != nil
                    try pipeline.addHandler(
                        NIOSSLClientHandler(context: context, serverHostname: isAddress ? nil : host))
                }
                try pipeline.addHTTPClientHandlers()
                try pipeline.addHandler(Exchange(plan, answer))
            }
        }
        let connecting = bootstrap.connect(host: plan.endpoint.host, port: plan.endpoint.port)
        connecting.whenFailure { answer.fail(connectFailure($0)) }
        let failure = await answer.wait()
        connecting.whenSuccess { $0.close(promise: nil) }
        return Observation(failure: failure)
    }

    /// What was made of the answer: nil for a good one. The first word counts.
    private final class AnswerPromise: Sendable {
        private let promise: EventLoopPromise<String?>
        private let isDone: NIOLoopBoundBox<Bool>
        private let loop: any EventLoop

        init(_ loop: any EventLoop) {
            self.loop = loop
            promise = loop.makePromise()
            isDone = .makeBoxSendingValue(false, eventLoop: loop)
        }

        func fail(_ why: String) { finish(why) }
        func pass() { finish(nil) }

        private func finish(_ failure: String?) {
            loop.execute { [self] in
                guard !isDone.value else { return }
                isDone.value = true
                promise.succeed(failure)
            }
        }

        func wait() async -> String? {
            do { return try await promise.futureResult.get() } catch { return "\(error)" }
        }
    }

    /// Sends the request and looks at the answer.
    private final class Exchange: ChannelInboundHandler {
        typealias InboundIn = HTTPClientResponsePart
        typealias OutboundOut = HTTPClientRequestPart

        private let plan: AgentConfiguration.HTTPRequestPlan
        private let answer: AnswerPromise
        private var body: [UInt8] = []

        init(_ plan: AgentConfiguration.HTTPRequestPlan, _ answer: AnswerPromise) {
            self.plan = plan
            self.answer = answer
        }

        func channelActive(context: ChannelHandlerContext) {
            var head = HTTPRequestHead(version: .http1_1, method: .init(rawValue: plan.method), uri: plan.target)
            head.headers = [
                "Host": plan.authority, "User-Agent": "ringfence-agent", "Accept": "*/*", "Connection": "close",
            ]
            context.write(wrapOutboundOut(.head(head)), promise: nil)
            context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
        }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            switch unwrapInboundIn(data) {
            case .head(let head): took(head)
            case .body(let part):
                guard let text = plan.body else { return }
                body += part.readableBytesView
                if Self.contains(body, Array(text.utf8)) { return answer.pass() }
                if body.count > HTTPProbe.bodyBytesMaximum { lacksText() }
            case .end: lacksText()
            }
        }

        private func took(_ head: HTTPResponseHead) {
            let status = Int(head.status.code)
            guard plan.status.contains(status) else { return answer.fail("status \(status)") }
            if let header = plan.header {
                let values = head.headers[header.name]
                guard values.contains(where: { $0.contains(header.value) }) else {
                    return answer.fail(
                        values.isEmpty ? "no header \(header.name)" : "header \(header.name) is another")
                }
            }
            if plan.body == nil || plan.method == "HEAD" { answer.pass() }
        }

        private func lacksText() { answer.fail("the body lacks the text") }

        private static func contains(_ bytes: [UInt8], _ text: [UInt8]) -> Bool {
            guard bytes.count >= text.count else { return false }
            return (0...bytes.count - text.count).contains { start in
                bytes[start..<start + text.count].elementsEqual(text)
            }
        }

        func channelInactive(context: ChannelHandlerContext) { answer.fail("closed without an answer") }
        func errorCaught(context: ChannelHandlerContext, error: any Error) {
            answer.fail("\(error)")
            context.close(promise: nil)
        }
    }
}
