// SPDX-License-Identifier: Apache-2.0
//
// What a connection may do to the service, and for how long. The HTTP decoder bounds the headers and refuses what is
// not HTTP/1.1 (both Content-Length and Transfer-Encoding, folded headers, broken chunks); the request loop bounds the
// body; this pair of handlers adds the two things neither sees:
//
//  - time: a request must have come in whole within 10 s of its first byte (and its headers within 5 s), and the first
//    byte of all within 5 s. Without this, a client that sends one byte a second, or none, holds a connection for ever;
//  - hanging up: a request that waits for a lock reads nothing, so nothing would tell it that its client has gone and
//    that the lock must not be granted to it. A half-closed connection counts as hung up. An end of file is seen only
//    behind everything sent before it, so while a request waits this reads on, past the usual back-pressure, up to a
//    limit: what a client sends beyond it stays in the socket until the requests before it have their answers, in
//    order. (The end of file of such a client is seen as long as all that it sent fits into the socket, some 100 KiB.)
//  - delivery: what an answer gives (a lock, a membership) is nobody's if the answer is not read. A client that has
//    closed before its answer was written is seen, and nothing is given. One that closes later, without reading, resets
//    the connection. But a proxy's reset says nothing of its client: proxies reset connections to servers as a matter
//    of course, right behind an answer that was passed on and read, and taking it back would give the lock of a living
//    holder to the next (seen: 48 of 50 with an HAProxy as it comes). So a reset counts for a moment only
//    (--delivery-time), and never where a request shows that it was passed on. Otherwise a lock whose answer nobody
//    read stays held until its ttl, which is late but safe. While it counts, a connection that the client has ended is
//    not closed here, for the reset would be lost with it.
//
// It answers HTTP/1.0 as that is: without chunks, and closed behind the answer (VersionWatch).
//
// It also turns what the decoder refuses into the same problem+json as every other error.
import HTTPTypes
import NIOCore
import NIOHTTP1
import NIOHTTPTypes
import RingfenceOperations

/// Sits behind the HTTP decoder of one connection; confined to its event loop.
final class ConnectionGuard: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPRequestPart
    typealias InboundOut = HTTPRequestPart
    typealias OutboundIn = HTTPResponsePart
    typealias OutboundOut = HTTPResponsePart

    static let headTimeout: TimeAmount = .seconds(5)
    static let requestTimeout: TimeAmount = .seconds(10)
    /// How long answers may lie there unread.
    static let unreadTimeout: TimeAmount = .seconds(30)
    /// How long a request half received may take once the service shuts down.
    static let shutdownTimeout: TimeAmount = .seconds(2)
    /// What may lie behind a request that waits for a lock.
    static let requestsBehindMaximum = 16
    static let bytesBehindMaximum = 65_536

    private struct Given {
        var undo: @Sendable () async -> Void
        /// A reset behind the answer takes it back.
        var isWatched: Bool
        var answeredAt: NIODeadline?
    }

    /// The client has gone.
    let hangUp = OneShot()
    /// When the request being received must be here; looked at by one timer, because setting and cancelling a timer
    /// for each request is felt in the throughput.
    private var deadline: NIODeadline = .distantFuture
    private var timer: Scheduled<Void>?
    /// Between a request's first byte and its end.
    var isReceiving = false
    /// The head of the request being received has come: it is with its handler, and counted in `inProgress`.
    private var hasHead = false
    /// The request whose answer is due waits for a lock, and this many bytes came in meanwhile.
    private var isWaiting = false
    /// Its answer is a stream: it goes on waiting while it is answered.
    private var isStreaming = false
    private var bytesBehind = 0
    /// When the service shuts down: until then a request half received may still come.
    private var shutdownDeadline: NIODeadline?
    /// The request being received names more than one host.
    var hasTwoHosts = false
    /// It is of HTTP/1.0, which needs no Host.
    var isOld = false

    /// - Parameter deliveryTime: how long behind an answer a reset says that it was not read.
    init(admission: Admission? = nil, deliveryTime: Duration = .zero, log: AccessLog? = nil) {
        self.admission = admission
        self.log = log
        self.deliveryTime = TimeAmount(deliveryTime)
    }

    /// Takes its place, once there is a pipeline.
    func sit(_ seat: Seat) { self.seat = seat }
    /// Requests whose answer is not complete.
    private var inProgress = 0
    /// Between the head and the end of an answer.
    private var isAnswering = false
    /// What answers gave that may not have been read.
    private var given: [Given] = []
    /// This side has ended the connection, so that its end says nothing of the client.
    private var isClosedHere = false
    /// Closes the connection when what was written is not read.
    private var unread: Scheduled<Void>?
    /// Not one byte has come yet.
    var isSilent = true
    private let deliveryTime: TimeAmount
    /// Its place among the connections, and how it shows that it may have one of those kept back.
    private let admission: Admission?
    private let log: AccessLog?
    private(set) var seat: Seat?
    /// What is wrong with this connection; from then on nothing is read.
    private var refusal: Reply?
    /// The refusal is on its way; the connection closes behind it.
    private var isRefused = false

    /// Says that the request whose answer is due waits for a lock, from now until its answer begins.
    /// - Returns: the connection's hang-up, which is noticed whatever the client sent before it.
    ///
    /// - Parameter streams: the answer is a stream; the wait is over when that ends.
    static func wait(on channel: any Channel, streams: Bool = false) async throws -> OneShot {
        try await on(channel) { handler, context in
            handler.isWaiting = true
            handler.isStreaming = streams
            handler.bytesBehind = 0
            handler.readOn(context)
            return handler.hangUp
        }
    }

    /// Says what the answer that is about to be written gives.
    /// - Parameters:
    ///   - undo: takes it back; called at most once, when the answer was not read as far as one can know.
    ///   - isForwarded: the connection is a proxy's, whose end behind the answer says nothing of the client.
    /// - Returns: false when the client has gone: then nothing is written and it is for the caller to take it back.
    static func give(
        _ undo: @Sendable @escaping () async -> Void, isForwarded: Bool, on channel: any Channel
    ) async throws -> Bool {
        do {
            return try await on(channel) { handler, _ in
                guard !handler.hangUp.hasHappened else { return false }
                handler.given.append(
                    Given(undo: undo, isWatched: !isForwarded && handler.deliveryTime > .zero))
                return true
            }
        } catch { return false }
    }

    private static func on<Result: Sendable>(
        _ channel: any Channel,
        _ body: @Sendable @escaping (ConnectionGuard, ChannelHandlerContext) throws -> Result
    ) async throws -> Result {
        @Sendable func now() throws -> Result {
            // It is gone with its connection.
            guard let context = try? channel.pipeline.syncOperations.context(handlerType: ConnectionGuard.self),
                let handler = context.handler as? ConnectionGuard
            else { throw ConnectionEnded() }
            return try body(handler, context)
        }
        // A request is handled on its connection's loop (LockServer.swift).
        if channel.eventLoop.inEventLoop { return try now() }
        return try await channel.eventLoop.submit(now).get()
    }

    /// Answers the request whose answer is due with `reply` and closes; returns when the connection is closed. It
    /// closes a second later at the latest, and at once when the task is cancelled.
    static func refuse(_ reply: Reply, _ channel: any Channel) async {
        channel.eventLoop.execute {
            guard let context = try? channel.pipeline.syncOperations.context(handlerType: ConnectionGuard.self),
                let handler = context.handler as? ConnectionGuard
            else { return channel.close(promise: nil) }
            // Requests are handled one after the other, so the one at fault is the next to be answered, whether its
            // body has come in whole or not.
            handler.refusal = reply
            handler.answer(reply, context)
        }
        await withTaskCancellationHandler {
            try? await channel.closeFuture.get()
        } onCancel: {
            channel.close(promise: nil)
        }
    }

    func handlerAdded(context: ChannelHandlerContext) {
        let pipeline = context.pipeline.syncOperations
        try? pipeline.addHandler(ByteWatch(owner: self), position: .first)
        if let decoder = try? pipeline.handler(type: ByteToMessageHandler<HTTPRequestDecoder>.self) {
            try? pipeline.addHandler(VersionWatch(owner: self), position: .after(decoder))
        }
        deadline = .now() + Self.headTimeout
        watch(context)
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        timer?.cancel()
        hangUp.happen()
        giveBack()
    }

    /// Takes back what was given by answers that the client has not read.
    private func giveBack() {
        let now = NIODeadline.now()
        for gift in given {
            if let at = gift.answeredAt, isClosedHere || now > at + deliveryTime { continue }
            Task { await gift.undo() }
        }
        given = []
    }

    /// The first byte of a request, before the decoder makes anything of it.
    func began() {
        isSilent = false
        isReceiving = true
        hasHead = false
        deadline = limited(.now() + Self.headTimeout)
    }

    func received(_ bytes: Int) { if isWaiting { bytesBehind += bytes } }

    private func limited(_ deadline: NIODeadline) -> NIODeadline { min(deadline, shutdownDeadline ?? deadline) }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard refusal == nil else { return }
        switch unwrapInboundIn(data) {
        case .head(let head):
            isReceiving = true
            deadline = limited(.now() + Self.requestTimeout)
            // A client that asks again has its answer.
            if !given.isEmpty { given.removeAll { $0.answeredAt != nil } }
            // A second Host could make a proxy before us and us see two different targets.
            guard head.authority != nil || isOld, !hasTwoHosts else {
                return refuse(Problem(.badRequest, "exactly one Host header is needed", field: "Host"), context)
            }
            if let seat, let admission, !admission.admit(head, seat) {
                return refuse(
                    Problem(
                        .full,
                        "too many connections are open: only health checks and clients with a token are "
                            + "answered", retryAfterMs: 1_000), context)
            }
            inProgress += 1
            hasHead = true
            seat?.isBusy = true
        case .body: break
        case .end: (isReceiving, hasHead) = (false, false)
        }
        context.fireChannelRead(data)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if isReceiving, timer == nil { watch(context) }
        context.fireChannelReadComplete()
        if isWaiting { readOn(context) }
    }

    /// Reads although nobody takes what is read, for the end of file behind it; up to a limit. What is behind that is
    /// read when the request loop asks for it.
    private func readOn(_ context: ChannelHandlerContext) {
        if !isFull { context.read() }
    }

    /// As much as may lies behind the request that waits.
    private var isFull: Bool { inProgress > Self.requestsBehindMaximum || bytesBehind > Self.bytesBehindMaximum }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        switch unwrapOutboundIn(data) {
        case .head(let head):
            isAnswering = head.status.kind != .informational
            if isAnswering, !isStreaming, isWaiting {
                isWaiting = false
                // A client in the middle of a request may not have been read from meanwhile.
                if isReceiving { deadline = limited(.now() + Self.requestTimeout) }
            }
        case .body: break
        case .end:
            isAnswering = false
            (isWaiting, isStreaming) = (false, false)
            inProgress -= 1
            if inProgress == 0 { seat?.isBusy = false }
            if !given.isEmpty { answered() }
        }
        context.write(data, promise: promise)
        if isDue, let refusal { answer(refusal, context) }
    }

    /// The answer is on its way.
    private func answered() {
        // With other requests behind it, a reset would be as much about their answers.
        if inProgress > 0 { given.removeAll { $0.answeredAt == nil } }
        given.removeAll { $0.answeredAt == nil && !$0.isWatched }
        for index in given.indices where given[index].answeredAt == nil { given[index].answeredAt = .now() }
    }

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        // Where the client has ended its side, closing ours ends the connection, and with it what a reset would tell.
        let until = (given.compactMap(\.answeredAt).max() ?? .uptimeNanoseconds(0)) + deliveryTime
        if mode != .input, hangUp.hasHappened, !given.isEmpty, NIODeadline.now() < until {
            context.eventLoop.assumeIsolated().scheduleTask(deadline: until) {
                self.isClosedHere = true
                context.close(mode: mode, promise: promise)
            }
            return
        }
        if mode != .input { isClosedHere = true }
        context.close(mode: mode, promise: promise)
    }

    /// The requests before the one being received have their answers. (That one is with its handler already if its
    /// head has come; its handler waits for its body and will get no answer out.)
    private var isDue: Bool { !isAnswering && inProgress == (isReceiving && hasHead ? 1 : 0) }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? ChannelEvent, event == .inputClosed { hangUp.happen() }
        if event is ChannelShouldQuiesceEvent, shutdownDeadline == nil {
            shutdownDeadline = .now() + Self.shutdownTimeout
            deadline = limited(deadline)
            timer?.cancel()
            timer = nil
            if isReceiving { watch(context) }
        }
        context.fireUserInboundEventTriggered(event)
    }

    /// Closes a client that does not read its answers. It would keep its place for ever: the kernel goes on probing it.
    func channelWritabilityChanged(context: ChannelHandlerContext) {
        unread?.cancel()
        unread = nil
        if !context.channel.isWritable {
            unread = context.eventLoop.assumeIsolated().scheduleTask(in: Self.unreadTimeout) {
                context.close(promise: nil)
            }
        }
        context.fireChannelWritabilityChanged()
    }

    func channelInactive(context: ChannelHandlerContext) {
        timer?.cancel()
        unread?.cancel()
        hangUp.happen()
        giveBack()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        switch error {
        case HTTPParserError.headerOverflow:
            refuse(Problem(.headersTooLarge, "the headers are larger than 16 KiB or more than 100"), context)
        case let error as HTTPParserError:
            refuse(Problem(.badRequest, "the request cannot be read: \(error)"), context)
        case is IOError:
            isClosedHere = false
            hangUp.happen()
            giveBack()
            context.close(promise: nil)
        default: refuse(Problem(.badRequest, "the request cannot be read"), context)
        }
    }

    private func watch(_ context: ChannelHandlerContext) {
        timer = context.eventLoop.assumeIsolated().scheduleTask(deadline: deadline) {
            self.timer = nil
            guard self.isReceiving || self.isSilent, self.refusal == nil else { return }
            // What is not read from does not fall behind.
            if self.isWaiting, self.isFull, self.shutdownDeadline == nil {
                self.deadline = .now() + Self.requestTimeout
            }
            guard NIODeadline.now() >= self.deadline else { return self.watch(context) }
            if self.isSilent {
                self.seat?.endsInSilence()
                return context.close(promise: nil)
            }
            self.refuse(
                self.shutdownDeadline == nil
                    ? Problem(.timeout, "a request must be here 10 s after its first byte, its head after 5 s")
                    : Problem(.shuttingDown, "the service is shutting down", retryAfterMs: 1_000),
                context)
        }
    }

    /// Answers once the requests before this one have their answers, and closes; what else comes in is thrown away.
    private func refuse(_ problem: Problem, _ context: ChannelHandlerContext) {
        guard refusal == nil else { return }
        let reply = problem.reply
        refusal = reply
        log?.refused(problem, from: context.channel)
        if isDue { answer(reply, context) }
    }

    private func answer(_ reply: Reply, _ context: ChannelHandlerContext) {
        guard !isRefused else { return }
        isRefused = true
        var head = HTTPResponse(status: reply.status)
        head.headerFields = Responder.common
        head.headerFields[.contentType] = reply.type
        for field in reply.headers { head.headerFields.append(field) }
        head.headerFields[.contentLength] = String(reply.body.readableBytes)
        head.headerFields[.connection] = "close"
        context.write(wrapOutboundOut(.head(head)), promise: nil)
        context.write(wrapOutboundOut(.body(reply.body)), promise: nil)
        context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
        // Closing at once with unread bytes would reset the connection and might destroy the answer on its way.
        isClosedHere = true
        context.close(mode: .output, promise: nil)
        let channel = context.channel
        context.eventLoop.scheduleTask(in: .seconds(1)) { channel.close(promise: nil) }
    }
}
