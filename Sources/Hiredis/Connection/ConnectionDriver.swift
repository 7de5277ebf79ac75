// SPDX-License-Identifier: Apache-2.0
//
// The NIO shell around `ConnectionMachine`: opens channels, moves bytes, keeps the timers of connecting, backing off
// and probing. Everything here runs on one event loop.
//
// A channel may outlive our interest in it (an attempt that timed out, a connection dropped for READONLY), so each has
// a handler of its own, and only the current handler is listened to: a late event of an old channel has no effect.
//
// With a locator the driver dials only where that says, and waits for a place without a timer: the locator says when
// there is none, and why. It paces its attempts at one place itself; a new place it tries at once.
import Logging
import NIOCore
import NIOPosix
import NIOSSL
import RingfencePlatform

/// The user of a connection, told of everything on the event loop.
protocol ConnectionOwner: AnyObject, Sendable {
    /// Commands may be written from now.
    func connectionIsReady(_ info: ConnectionInfo)
    /// Replies in order; false when one of them answers nothing, which drops the connection.
    func connectionReceived(_ replies: [RedisReply]) -> Bool
    /// Nothing more comes or goes. Returns whether commands were written and not answered.
    func connectionWasLost(_ error: RedisError) -> Bool
    /// The server refuses us; connecting goes on.
    func connectionWasRefused(_ error: RedisError)
    /// Nothing came for a while: write a PING.
    func connectionNeedsProbe()
}

// SAFETY: all mutable state is touched on `eventLoop` only, which every entry asserts.
final class ConnectionDriver<Owner: ConnectionOwner>: @unchecked Sendable {
    private let configuration: RedisConfiguration
    let eventLoop: any EventLoop
    private let locator: Locator?
    private let logger: Logger
    private let log: ConnectionLog
    private var words: ConnectionWords
    /// Broken by `close()`: owner and driver hold each other until then.
    private var owner: Owner?
    private var machine: ConnectionMachine
    /// Where the current attempt, or the last, went.
    private var route: Route
    /// Of the locator's place there; 0 without a locator.
    private var generation = 0
    /// It has nowhere to go.
    private var isUnplaced = false
    private var handler: ConnectionHandler<Owner>?
    /// Counts attempts to connect; an older one that ends is ignored.
    private var attempt = 0
    private var attemptTimer: Scheduled<Void>?
    private var backoffTimer: Scheduled<Void>?
    private var probeTimer: Scheduled<Void>?
    private var heardSinceTick = false
    private var isProbing = false
    /// It was open once, so the files that it needs were right.
    private var hasBeenReady = false

    init(_ configuration: RedisConfiguration, eventLoop: any EventLoop, logger: Logger) {
        self.configuration = configuration
        self.eventLoop = eventLoop
        self.logger = logger
        log = configuration.log ?? ConnectionLog()
        locator = configuration.locator
        route = Route(configuration.address)
        words = ConnectionWords(address: configuration.address)
        machine = ConnectionMachine(configuration)
    }

    // MARK: for the owner

    func start(_ owner: Owner) {
        eventLoop.assertInEventLoop()
        if machine.state == .idle { self.owner = owner }
        perform(machine.start())
    }

    func write(_ bytes: ByteBuffer) {
        eventLoop.assertInEventLoop()
        handler?.write(bytes)
    }

    /// Ends the connection and connects again.
    func reconnect(because error: RedisError) {
        eventLoop.assertInEventLoop()
        if machine.isReady { lose(error, isOwn: true) }
    }

    /// Ends everything, for good; the future is done when the socket is closed.
    func close() -> EventLoopFuture<Void> {
        eventLoop.assertInEventLoop()
        locator?.detach(self, generation: generation)
        machine.close()
        log.closed(self)
        let handler = self.handler
        stopTimers()
        self.handler = nil
        owner = nil
        return handler?.close() ?? eventLoop.makeSucceededVoidFuture()
    }

    // MARK: events of the channel

    func opened(_ handler: ConnectionHandler<Owner>) {
        guard handler.attempt == attempt, self.handler == nil, machine.state == .connecting else {
            return _ = handler.close()
        }
        self.handler = handler
        perform(machine.opened(password: handler.password, at: route.address))
    }

    func received(_ handler: ConnectionHandler<Owner>, _ reader: ReplyReader) {
        guard handler === self.handler else { return }
        heardSinceTick = true
        isProbing = false
        if !reader.replies.isEmpty { deliver(reader) }
        guard handler === self.handler else { return }
        if let failure = reader.failure {
            if !machine.isReady, configuration.tls == nil, handler.firstByte == Self.tlsAlert {
                return lose(words.speaksTLS())
            }
            lose(RedisError(.protocolViolation, effect: .unknown, "not a RESP2 reply within our limits: \(failure)"))
        } else if let redirection = reader.redirection {
            reader.redirection = nil
            redirected(redirection)
        }
    }

    /// Commands are refused here, and taken elsewhere.
    private func redirected(_ error: RedisServerError) {
        if let locator {
            locator.refused(self, generation: generation, error)
            // It may be the whole Cluster that is down, and then there is nowhere else.
            if error.prefix == .clusterDown { return }
        } else if error.prefix != .readOnly {
            return
        }
        let why = error.prefix == .readOnly ? "the server is a replica by now" : "the slot is at another node"
        lose(RedisError(.connectionLost, effect: .unknown, "\(why); connecting again", server: error), isTold: true)
    }

    private func deliver(_ reader: ReplyReader) {
        // Taken off the reader before anything is done with them: the first write behind the handshake may find the
        // connection dead, and then the channel's end comes back here, inside it. Whatever lay in the reader then would
        // be given out as answers to that write (seen: GET answered with the client id).
        var replies: [RedisReply] = []
        swap(&replies, &reader.replies)
        defer {
            // The memory goes back to the reader, which has read nothing meanwhile.
            replies.removeAll(keepingCapacity: replies.count < 4096)
            if reader.replies.isEmpty { swap(&replies, &reader.replies) }
        }
        var consumed = 0
        while !machine.isReady, consumed < replies.count, handler != nil {
            let reply = replies[consumed]
            consumed += 1
            perform(machine.received(reply, now: monotonicNow()))
        }
        guard machine.isReady, handler != nil else { return }
        if consumed > 0 { replies.removeFirst(consumed) }
        guard !replies.isEmpty else { return }
        let isMatched = owner?.connectionReceived(replies) ?? true
        if !isMatched {
            lose(RedisError(.protocolViolation, effect: .unknown, "the server sent a reply nobody asked for"))
        }
    }

    func closed(_ handler: ConnectionHandler<Owner>, _ error: (any Error)?) {
        guard handler === self.handler else { return }
        lose(failure(error, handler))
    }

    /// How the connection's end is told.
    private func failure(_ error: (any Error)?, _ handler: ConnectionHandler<Owner>) -> RedisError {
        if machine.isReady { return words.loss(error) }
        // What it said first is why; that it then closed, or reset because we had written, is only what came of it.
        if let complaint = machine.complaint { return ConnectionMachine.refusal(complaint) }
        if configuration.tls == nil, case .tcp = route.address, handler.firstByte == nil, !(error is RedisError) {
            // So does a TLS server that drops a connection without TLS before saying so.
            return words.endedInSilence()
        }
        return words.failure(error ?? ChannelError.eof, certificate: handler.certificate)
    }

    /// The first byte of a record with which a TLS server answers what is no TLS.
    private static var tlsAlert: UInt8 { 0x15 }

    // MARK: actions

    private func perform(_ action: ConnectionMachine.Action) {
        switch action {
        case .none: break
        case .connect: connect()
        case .write(let commands): write(Self.encode(commands))
        case .admit(let info):
            guard let locator else { return perform(machine.admitted(now: monotonicNow())) }
            locator.greeted(self, generation: generation, attempt: attempt, info)
        case .ready(let info, let warnings): becomeReady(info, warnings)
        case .drop(let error, let isRefusal):
            if isRefusal, !isRotation { owner?.connectionWasRefused(error) }
            lose(error)
        }
    }

    static func encode(_ commands: [[String]]) -> ByteBuffer {
        var writer = CommandWriter(capacity: 512)
        for command in commands { writer.command(command) }
        return ByteBuffer(bytes: writer.bytes)
    }

    private func becomeReady(_ info: ConnectionInfo, _ warnings: [String]) {
        hasBeenReady = true
        attemptTimer?.cancel()
        for warning in warnings { logger.warning("redis \(configuration): \(warning)") }
        log.ready(self, of: configuration, now: monotonicNow(), logger)
        (heardSinceTick, isProbing) = (true, false)
        tickLater()
        owner?.connectionIsReady(info)
    }

    private func connect() {
        guard let locator else { return dial() }
        isUnplaced = true
        locator.wants(self)
    }

    private func dial() {
        attempt += 1
        let number = attempt
        let limit = configuration.connectTimeout
        attemptTimer = eventLoop.scheduleTask(in: TimeAmount(limit)) { [weak self] in
            guard let self, self.attempt == number, !self.machine.isReady else { return }
            self.lose(self.words.silent(limit, isSecure: self.handler != nil && self.configuration.tls != nil))
        }
        ConnectionOpening(configuration: configuration, route: route, eventLoop: eventLoop)
            .open { ConnectionHandler(driver: self, attempt: number, password: $0) }
            .whenFailure { error in
                guard self.attempt == number, self.handler == nil, self.machine.state == .connecting else { return }
                let failure = self.words.failure(error)
                // Files that were right once are being replaced, and are right again soon: commands wait for that.
                if failure.code == .invalidConfiguration, !self.hasBeenReady {
                    self.owner?.connectionWasRefused(failure)
                }
                self.lose(failure)
            }
    }

    /// `isTold`: the locator knows it, or told it itself. `isOwn`: it says nothing of the server.
    private func lose(_ error: RedisError, isTold: Bool = false, isOwn: Bool = false) {
        stopTimers()
        let wasReady = machine.isReady
        if !isTold { locator?.lost(self, generation: generation, error, isOwn: isOwn) }
        // Later events of that attempt do not matter.
        attempt += 1
        let handler = self.handler
        self.handler = nil
        _ = handler?.close()
        let hadUnanswered = owner?.connectionWasLost(error) ?? false
        // Who was told to leave is on the way to another place.
        let isToldByFailing = !isTold && failsFast(error)
        guard
            let wait = machine.lost(
                hadUnanswered: hadUnanswered, now: monotonicNow(), dice: Double.random(in: 0..<1))
        else { return }
        // Who is told by the error that fails fast need not read it in the log too.
        if !isToldByFailing, !isTold {
            log.lost(self, wasReady: wasReady, error, of: configuration, now: monotonicNow(), logger)
        }
        backoffTimer = eventLoop.scheduleTask(in: TimeAmount(wait)) { [weak self] in
            guard let self else { return }
            self.perform(self.machine.backoffElapsed())
        }
    }

    /// Redis may have a new password a moment before the file has it, too.
    private var isRotation: Bool { hasBeenReady && configuration.passwordFile != nil }

    /// What another connection of the client met: waiting would not help here either.
    private func isRefusal(_ error: RedisError) -> Bool {
        switch error.code {
        case .wrongServer: true
        case .server: !isRotation
        case .invalidConfiguration: !hasBeenReady
        default: false
        }
    }

    /// Whether the commands that wait were told: nobody wants another attempt.
    private func failsFast(_ error: RedisError) -> Bool {
        guard configuration.failsFast, !hasBeenReady, configuration.failsWhileNotReady || !error.isNotReady else {
            return false
        }
        var last = error
        last.isFinal = true
        owner?.connectionWasRefused(last)
        return true
    }

    private func stopTimers() {
        attemptTimer?.cancel()
        backoffTimer?.cancel()
        probeTimer?.cancel()
    }

    // MARK: half-open connections

    private func tickLater() {
        probeTimer = eventLoop.scheduleTask(in: TimeAmount(configuration.probeInterval)) { [weak self] in self?.tick() }
    }

    private func tick() {
        guard machine.isReady else { return }
        if isProbing {
            let waited = configuration.probeInterval
            return lose(RedisError(.connectionLost, effect: .unknown, "a probe was not answered within \(waited)"))
        }
        if !heardSinceTick {
            isProbing = true
            owner?.connectionNeedsProbe()
        }
        heardSinceTick = false
        tickLater()
    }
}

// MARK: the locator

extension ConnectionDriver: LocatedConnection {
    func placed(_ place: LocatorMachine.Place) {
        eventLoop.assertInEventLoop()
        if machine.state == .backingOff, place.generation != generation {
            backoffTimer?.cancel()
            guard machine.backoffElapsed() == .connect else { return }
        } else if !isUnplaced || machine.state != .connecting {
            return
        }
        isUnplaced = false
        (route, generation) = (place.route, place.generation)
        words = ConnectionWords(address: route.shown)
        dial()
    }

    func leave(because error: RedisError) {
        eventLoop.assertInEventLoop()
        switch machine.state {
        case .idle, .backingOff, .closed: break
        case .connecting where isUnplaced: break
        case .connecting, .handshaking, .admitting, .ready: lose(error, isTold: true)
        }
    }

    func judged(attempt: Int, isAdmitted: Bool) {
        eventLoop.assertInEventLoop()
        guard attempt == self.attempt, machine.state == .admitting else { return }
        if isAdmitted { return perform(machine.admitted(now: monotonicNow())) }
        lose(RedisError(.connectionLost, effect: .none, "\(words.address) is not the place any more"), isTold: true)
    }

    func unplaced(because error: RedisError) {
        eventLoop.assertInEventLoop()
        guard isUnplaced || machine.state == .backingOff else { return }
        _ = owner?.connectionWasLost(error)
        if isRefusal(error) { owner?.connectionWasRefused(error) }
        guard !failsFast(error) else { return }
        log.lost(self, wasReady: false, error, of: configuration, now: monotonicNow(), logger)
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
func monotonicNow() -> Int64 { Int64(bitPattern: NIODeadline.now().uptimeNanoseconds) }
