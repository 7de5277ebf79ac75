// SPDX-License-Identifier: Apache-2.0
//
// The limit of connections, and which clients get them when there are too few. A client that reaches the port can open
// as many as it likes and say nothing, so under a plain limit the first such client shuts out everybody else.
//
// So when all places are taken, a newcomer gets the place of one that is silent, or else of one that is idle and
// never showed a good token. Where there is none, it gets one of the places kept back, on which only health checks and
// clients with a token are answered. What is in use is never cut.
//
// The connection to close is found as page caches find a page: a hand goes round the places and looks at a bounded
// number each time. An order by age would have to be kept with every request, and a search through all would make each
// connection of an attack expensive.
import CoreMetrics
import HTTPTypes
import Logging
import NIOCore
import Synchronization

/// One connection's place. Its state is written on the connection's loop and read by newcomers that need a place.
final class Seat: Sendable {
    let channel: any Channel
    /// One of the places kept back.
    let isKeptBack: Bool
    fileprivate let index: Int
    fileprivate let since = NIODeadline.now()
    private let connections: Connections
    private let busy = Atomic(false)
    private let proven = Atomic(false)
    private let spoken = Atomic(false)

    fileprivate init(_ channel: any Channel, _ index: Int, isKeptBack: Bool, _ connections: Connections) {
        self.channel = channel
        self.index = index
        self.isKeptBack = isKeptBack
        self.connections = connections
    }

    /// A request is in progress.
    var isBusy: Bool {
        get { busy.load(ordering: .relaxed) }
        set { busy.store(newValue, ordering: .relaxed) }
    }
    /// It showed a good token.
    var isProven: Bool {
        get { proven.load(ordering: .relaxed) }
        set { proven.store(newValue, ordering: .relaxed) }
    }
    /// A request's head has come.
    var hasSpoken: Bool {
        get { spoken.load(ordering: .relaxed) }
        set { spoken.store(newValue, ordering: .relaxed) }
    }

    func endsInSilence() { connections.silent.increment() }
}

/// The rules for the places kept back.
struct Admission: Sendable {
    let tokens: TokenFile?

    /// Notes what a request shows of its client.
    /// - Returns: whether it is answered on this place.
    func admit(_ head: HTTPRequest, _ seat: Seat) -> Bool {
        if !seat.hasSpoken { seat.hasSpoken = true }
        if let tokens, !seat.isProven, let authorization = head.headerFields[.authorization] {
            seat.isProven = tokens.accept(authorization)
        }
        guard seat.isKeptBack, !seat.isProven else { return true }
        let path = (head.path ?? "").prefix { $0 != "?" }
        return path == "/livez" || path == "/readyz"
    }
}

/// All places.
final class Connections: Sendable {
    /// Places that a newcomer looks at.
    private static let looks = 64
    /// How long a new connection may be silent: its first request is on its way.
    private static let grace: TimeAmount = .milliseconds(100)
    /// Places kept back come free again by it, when those who took the others have fallen silent.
    private static let leavesAtOnce = 8
    private static let logPace: Duration = .seconds(60)

    private struct State {
        var seats: [Seat?]
        var free: [Int]
        var hand = 0
        var count = 0
        var nextLog: ContinuousClock.Instant?
    }

    let maximum: Int
    /// A twentieth more, for health checks and clients with a token.
    let keptBack: Int
    private let state: Mutex<State>
    private let logger: Logger
    private let open: Gauge
    fileprivate let silent: Counter
    private let displaced: Counter
    private let refused: Counter

    init(maximum: Int, metrics: any MetricsFactory, logger: Logger) {
        self.maximum = maximum
        keptBack = Self.keptBack(of: maximum)
        state = Mutex(State(seats: [], free: []))
        self.logger = logger
        open = Gauge(label: "ringfence_http_connections", factory: metrics)
        func ended(_ reason: String) -> Counter {
            Counter(
                label: "ringfence_http_connections_ended_total", dimensions: [("reason", reason)], factory: metrics)
        }
        (silent, displaced, refused) = (ended("silent"), ended("displaced"), ended("refused"))
        Gauge(label: "ringfence_http_connections_maximum", factory: metrics).record(maximum)
    }

    static func keptBack(of maximum: Int) -> Int { max(8, maximum / 20) }

    /// Gives `channel` a place until it closes; nil when there is none: then it is for the caller to close it.
    func admit(_ channel: any Channel) -> Seat? {
        let (seat, leaving, isFull) = state.withLock { state -> (Seat?, [Seat], Bool) in
            let isFull = state.count >= maximum
            var leaving: [Seat] = []
            while state.count >= maximum, leaving.count < Self.leavesAtOnce,
                let seat = displace(&state, olderThan: Self.grace)
            {
                leaving.append(seat)
            }
            if state.count >= maximum + keptBack, let seat = displace(&state, olderThan: .zero) { leaving.append(seat) }
            // A connection that leaves has left when its channel has closed; until then one more may be open.
            let isKeptBack = state.count >= maximum
            let index: Int
            if let free = state.free.popLast() {
                index = free
            } else if state.seats.count < maximum + keptBack {
                index = state.seats.count
                state.seats.append(nil)
            } else {
                return (nil, leaving, isFull)
            }
            let seat = Seat(channel, index, isKeptBack: isKeptBack, self)
            state.seats[index] = seat
            state.count += 1
            open.record(state.count)
            return (seat, leaving, isFull)
        }
        if isFull { sayThatItIsFull() }
        for seat in leaving {
            displaced.increment()
            seat.channel.close(promise: nil)
        }
        guard let seat else {
            refused.increment()
            return nil
        }
        channel.closeFuture.whenComplete { [weak self] _ in self?.leave(seat) }
        return seat
    }

    /// Takes the place of one that is silent, or else of one that is idle and unproven, among the next ones.
    private func displace(_ state: inout State, olderThan age: TimeAmount) -> Seat? {
        let now = NIODeadline.now()
        var idle: Seat?
        var found: Seat?
        for _ in 0..<min(Self.looks, state.seats.count) {
            state.hand = (state.hand + 1) % state.seats.count
            guard let seat = state.seats[state.hand], !seat.isBusy, !seat.isProven, seat.since + age <= now else {
                continue
            }
            if !seat.hasSpoken {
                found = seat
                break
            }
            if idle == nil { idle = seat }
        }
        guard let leaving = found ?? idle else { return nil }
        free(leaving, &state)
        return leaving
    }

    private func leave(_ seat: Seat) { state.withLock { free(seat, &$0) } }

    private func free(_ seat: Seat, _ state: inout State) {
        guard state.seats[seat.index] === seat else { return }
        state.seats[seat.index] = nil
        state.free.append(seat.index)
        state.count -= 1
        open.record(state.count)
    }

    private func sayThatItIsFull() {
        let now = ContinuousClock.now
        let isDue = state.withLock { state in
            guard state.nextLog.map({ $0 <= now }) ?? true else { return false }
            state.nextLog = now + Self.logPace
            return true
        }
        guard isDue else { return }
        logger.warning(
            """
            all connections are taken: silent and idle ones are closed for new ones; raise connections if they are \
            yours
            """,
            metadata: ["connections": "\(maximum)", "keptBack": "\(keptBack)"])
    }
}

/// Stops accepting for a second after it failed. Where no descriptor is left, what waits keeps the socket readable, and
/// the loop would try again at once, for ever.
final class AcceptPause: ChannelInboundHandler, RemovableChannelHandler, Sendable {
    typealias InboundIn = Channel
    private let failures: Counter
    private let logger: Logger
    private let lastLog = Mutex<ContinuousClock.Instant?>(nil)

    init(metrics: any MetricsFactory, logger: Logger) {
        failures = Counter(label: "ringfence_http_accept_failures_total", factory: metrics)
        self.logger = logger
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        guard error is IOError else { return context.fireErrorCaught(error) }
        failures.increment()
        let now = ContinuousClock.now
        let isDue = lastLog.withLock { last in
            guard last.map({ now - $0 >= .seconds(60) }) ?? true else { return false }
            last = now
            return true
        }
        if isDue { logger.error("connections cannot be accepted", metadata: ["error": "\(error)"]) }
        let channel = context.channel
        _ = channel.setOption(.autoRead, value: false)
        channel.eventLoop.scheduleTask(in: .seconds(1)) { _ = channel.setOption(.autoRead, value: true) }
    }
}
