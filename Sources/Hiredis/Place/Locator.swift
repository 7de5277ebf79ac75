// SPDX-License-Identifier: Apache-2.0
//
// The shell of `LocatorMachine`: asks servers, resolves names, keeps the timer, and tells the connections of one client
// where to go. It runs on one event loop; each connection is spoken to on its own.
//
// Connections attach before they dial and detach when they are closed for good. Without any it does nothing. A new
// place is published only when every connection has left the old one: a loop that is late delays it, and never stays
// behind.
package import Logging
package import NIOCore
import NIOPosix
import Synchronization

/// A connection that goes where a locator says. Everything is called on its own event loop.
protocol LocatedConnection: AnyObject, Sendable {
    var eventLoop: any EventLoop { get }
    /// There is a place: dial it.
    func placed(_ place: LocatorMachine.Place)
    /// The place is given up: nothing more is written there.
    func leave(because error: RedisError)
    /// The connection that was made with this attempt may be used, or not.
    func judged(attempt: Int, isAdmitted: Bool)
    /// There is no place now.
    func unplaced(because error: RedisError)
}

// SAFETY: all mutable state but `published` is touched on `eventLoop` only; `published` is behind a lock.
/// Where all connections of one client go.
package final class Locator: @unchecked Sendable {
    /// What is known of the place, for people and metrics.
    package struct Status: Sendable {
        /// The host and port of the primary; nil while there is none.
        package var address: RedisConfiguration.Address?
        package var server: ServerState?
        package var epoch: Int64?
        /// Counts the places of this client; 0: none yet.
        package var generation = 0
        /// How often another server was settled than the one before, by why that was left.
        package var moves: [Departure: Int] = [:]
        /// How often the server in use refused commands in a way that means: not here.
        package var redirections: [RedisServerError.Prefix: Int] = [:]
        /// How long it took the last time to find a server and to be greeted by it.
        package var lookup: Duration?
        /// When it was settled, or lost, on the monotonic clock in nanoseconds.
        package var since: Int64 = 0
        /// Why there is no place; nil while there is one.
        package var plight: RedisError?
        /// How long it has been so.
        package var age: Duration { .nanoseconds(max(0, monotonicNow() - since)) }
        /// nil where no Sentinels are asked.
        package var sentinels: SentinelStanding?
    }

    private struct Member {
        let connection: any LocatedConnection
        var isReady = false
        /// The place that it was told of last.
        var offered = 0
    }

    package let eventLoop: any EventLoop
    private let configuration: RedisConfiguration
    private let logger: Logger
    private let onChange: (@Sendable (Status) -> Void)?
    private var machine: LocatorMachine
    private var members: [Member] = []
    /// The connection that tries an offered place.
    private var scout: ObjectIdentifier?
    private var leaving: EventLoopFuture<Void>?
    private var timer: Scheduled<Void>?
    private var timerAt = Int64.max
    private var asker: PlaceAsker?
    /// The place that was settled last.
    private var former: LocatorMachine.Place?
    /// Since when another one is looked for, or the first.
    private var lookingSince: Int64?
    /// One lookup at a time: it blocks a thread, and a name server that is away would fill them all.
    private var isLookingUp = false
    /// The look that waits for it.
    private var lookupFor = 0
    /// What came, and when, until a look has used it.
    private var lookedUp: (addresses: [RedisConfiguration.Address], at: Int64)?
    private static let freshness: Int64 = 1_000_000_000
    private let published: Mutex<Status>

    /// `onChange` is told on the event loop when a place is settled or lost, and when more or fewer Sentinels answer.
    package init(
        _ configuration: RedisConfiguration, eventLoop: any EventLoop = MultiThreadedEventLoopGroup.singleton.any(),
        logger: Logger, onChange: (@Sendable (Status) -> Void)? = nil
    ) {
        var configuration = configuration
        configuration.requiresPrimary = true
        self.configuration = configuration
        self.eventLoop = eventLoop
        self.logger = logger
        self.onChange = onChange
        machine = LocatorMachine(configuration, search: Self.search(configuration))
        published = Mutex(Status(sentinels: machine.search.standing))
    }

    static func search(_ configuration: RedisConfiguration) -> any PlaceSearch {
        let interval = configuration.watchInterval ?? configuration.place.watchInterval
        return switch configuration.place {
        case .server(let address): ServerSearch(address, watchInterval: interval)
        case .cluster(let seeds):
            ClusterSearch(
                seeds, view: ClusterView(namespace: configuration.hashTag, map: configuration.addressMap),
                watchInterval: interval)
        case .replicated(let addresses): ListSearch(addresses, watchInterval: interval)
        case .sentinels(let addresses, let name): SentinelSearch(configuration, addresses, name: name)
        }
    }

    package var status: Status { published.withLock { $0 } }

    /// What the URL names, in one word.
    package var kind: String {
        switch configuration.place {
        case .server: "single"
        case .sentinels: "sentinel"
        case .cluster: "cluster"
        case .replicated: "replicated"
        }
    }

    // MARK: for the connections, from any event loop

    /// The connection needs a place, first or again.
    func wants(_ connection: any LocatedConnection) {
        eventLoop.execute {
            if let index = self.index(of: connection) {
                // It may have been told of this place while it was at another attempt, and did not hear.
                self.members[index].offered = 0
            } else {
                self.members.append(Member(connection: connection))
            }
            if let place = self.machine.place, self.leaving == nil {
                self.present(place, to: connection)
            } else {
                if self.machine.place == nil { self.lookingSince = self.lookingSince ?? monotonicNow() }
                self.handle(.wanted)
                if let plight = self.machine.plight { self.tell(connection) { $0.unplaced(because: plight) } }
            }
        }
    }

    /// The connection was made, and its server is a primary. `attempt`: a number of the connection's own, for `judged`.
    func greeted(_ connection: any LocatedConnection, generation: Int, attempt: Int, _ info: ConnectionInfo) {
        eventLoop.execute {
            for action in self.machine.handle(
                .greeted(generation: generation, info), now: monotonicNow(), dice: .random(in: 0..<1))
            {
                switch action {
                case .admit:
                    if let index = self.index(of: connection) { self.members[index].isReady = true }
                    self.tell(connection) { $0.judged(attempt: attempt, isAdmitted: true) }
                case .reject: self.tell(connection) { $0.judged(attempt: attempt, isAdmitted: false) }
                case .settle(let place):
                    self.publish(place, info.server)
                    self.perform(action)
                default: self.perform(action)
                }
            }
            self.setTimer()
        }
    }

    /// The connection, or an attempt to make it, ended. `isOwn`: the owner ended it, for reasons of its own.
    func lost(_ connection: any LocatedConnection, generation: Int, _ error: RedisError, isOwn: Bool = false) {
        eventLoop.execute {
            // As we know it: one that ended before it heard that it may be used counts as ready here.
            let wasReady = self.endReady(connection)
            if self.scout == ObjectIdentifier(connection), generation == self.machine.place?.generation {
                self.scout = nil
            }
            let isEnded = isOwn && wasReady
            self.handle(
                isEnded ? .ended(generation: generation) : .lost(generation: generation, error, wasReady: wasReady))
        }
    }

    /// The server of the connection refuses commands in a way that means: not here.
    func refused(_ connection: any LocatedConnection, generation: Int, _ error: RedisServerError) {
        eventLoop.execute {
            // Of several connections that are refused there the first is the news.
            if generation == self.machine.place?.generation {
                self.change { $0.redirections[error.prefix, default: 0] += 1 }
            }
            self.handle(.refused(generation: generation, error))
        }
    }

    /// The connection is closed for good.
    func detach(_ connection: any LocatedConnection, generation: Int) {
        eventLoop.execute {
            guard let index = self.index(of: connection) else { return }
            let wasReady = self.endReady(connection)
            self.members.remove(at: index)
            if self.scout == ObjectIdentifier(connection) { self.scout = nil }
            if self.members.isEmpty { return self.stop() }
            if wasReady { self.handle(.ended(generation: generation)) }
            if let place = self.machine.place { self.present(place) }
        }
    }

    // MARK: on the event loop

    private func stop() {
        timer?.cancel()
        (timer, timerAt, lookingSince) = (nil, .max, nil)
        asker?.close()
        asker = nil
        // What the search knows (the highest epoch, say) stays true.
        machine = LocatorMachine(configuration, search: machine.search, after: machine)
    }

    private func endReady(_ connection: any LocatedConnection) -> Bool {
        guard let index = index(of: connection), members[index].isReady else { return false }
        members[index].isReady = false
        return true
    }

    private func index(of connection: any LocatedConnection) -> Int? {
        members.firstIndex { $0.connection === connection }
    }

    private func tell(_ connection: any LocatedConnection, _ body: @escaping @Sendable (any LocatedConnection) -> Void)
    {
        connection.eventLoop.execute { body(connection) }
    }

    private func handle(_ event: LocatorMachine.Event) {
        for action in machine.handle(event, now: monotonicNow(), dice: .random(in: 0..<1)) { perform(action) }
        // Whoever lost a place wants one.
        if machine.place == nil, members.contains(where: { !$0.isReady }) {
            for action in machine.handle(.wanted, now: monotonicNow(), dice: .random(in: 0..<1)) { perform(action) }
        }
        publishStanding()
        setTimer()
    }

    private func perform(_ action: LocatorMachine.Action) {
        switch action {
        case .resolve(let look, let host, let port): resolve(look, host, port)
        case .ask(let look, let questions): ask(look, questions)
        case .leave(let error): leave(error)
        case .offer(let place), .settle(let place): present(place)
        case .plight(let error):
            change { ($0.address, $0.plight) = (nil, error) }
            lookingSince = lookingSince ?? monotonicNow()
            for member in members where !member.isReady {
                tell(member.connection) { $0.unplaced(because: error) }
            }
        // Answers to `greeted` only.
        case .admit, .reject: break
        }
    }

    private func leave(_ error: RedisError) {
        change { ($0.address, $0.plight) = (nil, error) }
        lookingSince = lookingSince ?? monotonicNow()
        scout = nil
        let left = members.map { member in
            member.connection.eventLoop.submit { member.connection.leave(because: error) }
        }
        for index in members.indices { members[index].isReady = false }
        let all = EventLoopFuture.andAllComplete(left, on: eventLoop)
        let before = leaving
        leaving = before.map { before in before.flatMap { all } } ?? all
        let waited = leaving
        leaving?.whenComplete { _ in
            guard self.leaving === waited else { return }
            self.leaving = nil
            if let place = self.machine.place { self.present(place) }
        }
    }

    /// Tells all connections without a place of one; before it was greeted, one of them.
    private func present(_ place: LocatorMachine.Place) {
        guard leaving == nil, machine.place?.generation == place.generation else { return }
        for index in members.indices where !members[index].isReady && members[index].offered < place.generation {
            if !place.isGreeted, scout != nil { return }
            present(place, at: index)
        }
    }

    private func present(_ place: LocatorMachine.Place, to connection: any LocatedConnection) {
        guard let index = index(of: connection) else { return }
        if !place.isGreeted, let scout, scout != ObjectIdentifier(connection) { return }
        present(place, at: index)
    }

    private func present(_ place: LocatorMachine.Place, at index: Int) {
        let connection = members[index].connection
        members[index].offered = place.generation
        if !place.isGreeted { scout = ObjectIdentifier(connection) }
        tell(connection) { $0.placed(place) }
    }

    private func publish(_ place: LocatorMachine.Place, _ server: ServerState?) {
        scout = nil
        let lookup = lookingSince.map { Duration.nanoseconds(monotonicNow() - $0) }
        let hasMoved = former.map { $0.route != place.route || $0.process != place.process } ?? false
        if let former, hasMoved {
            let gap = lookup.map { " after \(Duration.milliseconds(Int64($0 / .milliseconds(1))))" } ?? ""
            logger.notice(
                """
                redis \(configuration) is another server now\(gap): \(place.route.shown), and was \
                \(former.route.shown); \(place.why)
                """
            )
        }
        let departure = machine.departure
        (former, lookingSince) = (place, nil)
        change { status in
            status.address = place.route.address
            if hasMoved { status.moves[departure, default: 0] += 1 }
            status.lookup = lookup
            (status.server, status.epoch, status.generation) = (server, place.epoch, place.generation)
            status.plight = nil
        }
    }

    private func change(_ body: (inout Status) -> Void) {
        let status = published.withLock { status in
            let had = status.address != nil
            body(&status)
            if had != (status.address != nil) || status.since == 0 { status.since = monotonicNow() }
            return status
        }
        onChange?(status)
    }

    private func publishStanding() {
        let standing = machine.search.standing
        let status: Status? = published.withLock { status in
            let epoch = machine.place.map { $0.isGreeted ? $0.epoch : status.epoch } ?? status.epoch
            guard status.sentinels != standing || status.epoch != epoch else { return nil }
            (status.sentinels, status.epoch) = (standing, epoch)
            return status
        }
        if let status { onChange?(status) }
    }

    // MARK: questions

    private func resolve(_ look: Int, _ host: String, _ port: Int) {
        let name = RedisConfiguration.Address.tcp(host: host, port: port)
        if let (addresses, at) = lookedUp, monotonicNow() - at < Self.freshness {
            lookedUp = nil
            return handle(.resolved(look: look, .success(addresses)))
        }
        lookupFor = look
        guard !isLookingUp else { return }
        isLookingUp = true
        NameLookup.addresses(of: host, port: port, on: eventLoop).whenComplete { result in
            self.isLookingUp = false
            let result = result.mapError { ConnectionWords(address: name).failure($0) }
            // A name server may take longer than a look. Its answer is good for the look that runs now, or the next.
            if case .success(let addresses) = result, !self.machine.isRunning(look: self.lookupFor) {
                self.lookedUp = (addresses, monotonicNow())
            }
            self.handle(.resolved(look: self.lookupFor, result))
        }
    }

    private func ask(_ look: Int, _ questions: [Question]) {
        let asker =
            asker
            ?? PlaceAsker(configuration, eventLoop: eventLoop) { [weak self] source in
                self?.handle(.announced(by: source))
            }
        self.asker = asker
        asker.keep(machine.search.sources)
        for question in questions {
            asker.ask(question) { result in self.handle(.answered(look: look, question, result)) }
        }
    }

    private func setTimer() {
        let at = members.isEmpty ? .max : machine.wakeAt
        guard at != timerAt else { return }
        timer?.cancel()
        timerAt = at
        guard at != .max else { return timer = nil }
        timer = eventLoop.scheduleTask(in: .nanoseconds(max(0, at - monotonicNow()))) { [weak self] in
            guard let self else { return }
            self.timerAt = .max
            self.handle(.tick)
        }
    }
}
