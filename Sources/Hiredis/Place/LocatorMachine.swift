// SPDX-License-Identifier: Apache-2.0
//
// Where Redis is, for all connections of one client, as a value: events in, actions out, no I/O, no clock, no dice.
//
// A client has several connections (commands, confirmations, the inbox, events). When each decides alone where Redis
// is, a failover that moves one and leaves another splits the client: waiters are pushed at a server that nobody
// listens to, and subscribers hear the silence of a server that nobody writes to. So one machine decides for all. A
// place is one server and has a generation. When the place changes, all connections leave the old one first; only then
// is the new one published.
//
//      idle -- wanted --> looking -- found --> offered -- greeted by a primary --> settled
//                          ^  |                  |                                 |  ^  |
//            nobody found  |  |                  | the attempt failed              |  |  | the watch is due, news of a
//                          |  v                  v                     still there |  |  | Sentinel, one of several
//                          pausing <-------------+                                 |  |  v connections was lost
//                             ^                                                    |  checking: commands go on
//                             |  READONLY, MOVED, the last connection lost,        |     |
//                             +--- another server answers at the address <---------+     +--> elsewhere: all leave,
//                                                                                             and it is offered
//
// An offered place is tried by one connection; the others follow when it was greeted, so that a place where nothing
// answers is not dialled by each of them. What is searched, and how, is the part of a `PlaceSearch`, one for each kind
// of URL.

/// Where a connection is to go.
package struct Route: Sendable, Hashable {
    /// What is dialled.
    package var address: RedisConfiguration.Address
    /// What the server's certificate is for, if that is not the host of the address: a name that was looked up.
    package var name: String?

    package init(_ address: RedisConfiguration.Address, name: String? = nil) {
        self.address = address
        self.name = name
    }

    /// As a person would write it.
    package var shown: RedisConfiguration.Address {
        guard let name, case .tcp(_, let port) = address else { return address }
        return .tcp(host: name, port: port)
    }
}

/// Why a place was left.
package enum Departure: String, Sendable, CaseIterable {
    /// Its last connection was.
    case lost
    /// It refused commands as a server does that is not the one: READONLY, MOVED.
    case redirected
    /// Those who know, or its name, said another one.
    case found
    /// Another server answered at its address.
    case replaced
}

struct LocatorMachine: Sendable {
    /// One server, for as long as it is used.
    struct Place: Sendable, Equatable {
        /// Counts the places of a client, from 1.
        var generation: Int
        var route: Route
        /// The server process that greeted the first connection; nil before, and if it does not say.
        var process: String?
        /// The config epoch under which it was named, where there is one.
        var epoch: Int64?
        /// Why this one.
        var why: String
        var isGreeted = false
    }

    enum Event: Sendable {
        /// A connection has no place.
        case wanted
        case resolved(look: Int, Result<[RedisConfiguration.Address], RedisError>)
        case answered(look: Int, Question, Result<Answer, RedisError>)
        /// Somebody who would know says that the place has changed.
        case announced(by: RedisConfiguration.Address)
        /// A connection was greeted by a primary.
        case greeted(generation: Int, ConnectionInfo)
        /// A connection, or an attempt, ended.
        case lost(generation: Int, RedisError, wasReady: Bool)
        /// A ready connection was ended by its owner, which says nothing of the server.
        case ended(generation: Int)
        /// The server refuses commands in a way that means: not here.
        case refused(generation: Int, RedisServerError)
        case tick
    }

    enum Action: Sendable, Equatable {
        case resolve(look: Int, host: String, port: Int)
        case ask(look: Int, [Question])
        /// All connections leave where they are.
        case leave(RedisError)
        /// To be tried by one connection; after all have left.
        case offer(Place)
        /// All may go there.
        case settle(Place)
        /// The connection that was greeted in this generation may be used.
        case admit(generation: Int)
        /// That connection is at another server than the others, or at an old place.
        case reject(generation: Int)
        /// There is no place, for this reason.
        case plight(RedisError)
    }

    private struct Look: Sendable {
        var number: Int
        /// The place is settled, and commands go on.
        var isCheck: Bool
        var until: Int64
    }

    /// Places in a row that were left at once; beyond it there is a pause before each.
    private static let maximumHops = 5

    private let configuration: RedisConfiguration
    private let watchInterval: Int64?
    private(set) var search: any PlaceSearch
    private(set) var place: Place?
    private var look: Look?
    private var lookNumber = 0
    private var generation = 0
    /// Connections that are ready at the place.
    private var ready = 0
    private var failures = 0
    private var hops = 0
    private var settledAt = Int64.min
    private var checkedAt = Int64.min
    private var watchAt = Int64.max
    private var retryAt = Int64.max
    /// Why there is no place.
    private(set) var plight: RedisError?
    /// Why the last place was left.
    private(set) var departure = Departure.lost

    /// `former`: the machine of the same client that this one replaces; generations go on.
    init(_ configuration: RedisConfiguration, search: any PlaceSearch, after former: LocatorMachine? = nil) {
        self.configuration = configuration
        (generation, lookNumber) = (former?.generation ?? 0, former?.lookNumber ?? 0)
        self.search = search
        watchInterval = search.watchInterval.map(Self.nanoseconds)
    }

    func isRunning(look number: Int) -> Bool { look?.number == number }

    /// When a tick is due.
    var wakeAt: Int64 { min(look?.until ?? .max, watchAt, retryAt) }

    /// `dice`: in 0..<1.
    mutating func handle(_ event: Event, now: Int64, dice: Double) -> [Action] {
        var actions: [Action] = []
        search.clock(now)
        switch event {
        case .wanted: if place == nil, look == nil, retryAt == .max { begin(isCheck: false, now, dice, &actions) }
        case .resolved(let number, let result):
            guard look?.number == number else { break }
            follow(search.resolved(result), now, dice, &actions)
        case .answered(let number, let question, let result):
            guard look?.number == number else {
                let isNews = search.late(question, result)
                if isNews, look == nil, place != nil { begin(isCheck: true, now, dice, &actions) }
                break
            }
            follow(search.answered(question, result), now, dice, &actions)
        case .announced(let source):
            search.announced(by: source)
            // What is under way would be answered by what was known before.
            if retryAt != .max || look != nil || place != nil {
                begin(isCheck: place != nil, now, dice, &actions)
            }
        case .greeted(let number, let info): greeted(number, info, now, dice, &actions)
        case .lost(let number, let error, let wasReady): lost(number, error, wasReady, now, dice, &actions)
        case .ended(let number): if place?.generation == number, ready > 0 { ready -= 1 }
        case .refused(let number, let error): refused(number, error, now, dice, &actions)
        case .tick: tick(now, dice, &actions)
        }
        return actions
    }

    // MARK: Looking

    private mutating func begin(isCheck: Bool, _ now: Int64, _ dice: Double, _ actions: inout [Action]) {
        lookNumber += 1
        retryAt = .max
        checkedAt = now
        // Nobody waits for a check: it may take as long as a connection may.
        let limit = isCheck ? configuration.connectTimeout : search.limit(configuration)
        look = Look(number: lookNumber, isCheck: isCheck, until: now + Self.nanoseconds(limit))
        follow(search.begin(current: isCheck ? place?.route : nil), now, dice, &actions)
    }

    private mutating func follow(_ step: SearchStep, _ now: Int64, _ dice: Double, _ actions: inout [Action]) {
        guard let look else { return }
        switch step {
        case .wait: break
        case .resolve(let host, let port): actions.append(.resolve(look: look.number, host: host, port: port))
        case .ask(let questions): actions.append(.ask(look: look.number, questions))
        case .found(let sighting): found(sighting, now, dice, &actions)
        case .unchanged: endCheck(now, dice)
        case .nothing(let why): nothing(why, now, dice, &actions)
        }
    }

    private mutating func found(_ sighting: Sighting, _ now: Int64, _ dice: Double, _ actions: inout [Action]) {
        if let place, look?.isCheck == true {
            let isSameServer = sighting.process != nil && sighting.process == place.process
            let isSamePlace =
                sighting.route.address == place.route.address
                && (sighting.process == nil || place.process == nil)
            if isSameServer || isSamePlace {
                self.place?.epoch = sighting.epoch ?? place.epoch
                return endCheck(now, dice)
            }
            actions.append(.leave(Self.moved(to: sighting)))
            departure = .found
        }
        offer(sighting, now, &actions)
    }

    private mutating func offer(_ sighting: Sighting, _ now: Int64, _ actions: inout [Action]) {
        look = nil
        (retryAt, watchAt) = (.max, .max)
        ready = 0
        generation += 1
        let place = Place(
            generation: generation, route: sighting.route, epoch: sighting.epoch, why: sighting.why)
        self.place = place
        actions.append(.offer(place))
    }

    private static func moved(to sighting: Sighting) -> RedisError {
        RedisError(
            .connectionLost, effect: .unknown, "Redis has moved to \(sighting.route.address): \(sighting.why)")
    }

    private mutating func nothing(
        _ why: RedisError, _ now: Int64, _ dice: Double, _ actions: inout [Action]
    ) {
        guard look?.isCheck != true else { return endCheck(now, dice) }
        look = nil
        plight = why
        actions.append(.plight(why))
        pause(now, dice)
    }

    private mutating func endCheck(_ now: Int64, _ dice: Double) {
        look = nil
        watch(now, dice)
    }

    private mutating func watch(_ now: Int64, _ dice: Double) {
        guard let watchInterval else { return }
        watchAt = now + watchInterval * Int64(80 + 40 * dice) / 100
    }

    private mutating func pause(_ now: Int64, _ dice: Double) {
        let longest = search.longestPause(afterFailures: failures) ?? configuration.backoff.cap
        let wait = min(configuration.backoff.delay(attempt: failures, dice: dice), longest * dice)
        failures += 1
        retryAt = now + Self.nanoseconds(wait)
    }

    private mutating func tick(_ now: Int64, _ dice: Double, _ actions: inout [Action]) {
        if let look, look.until <= now { follow(search.timedOut(), now, dice, &actions) }
        if retryAt <= now {
            retryAt = .max
            begin(isCheck: false, now, dice, &actions)
        }
        if watchAt <= now {
            watchAt = .max
            if place?.isGreeted == true, look == nil { begin(isCheck: true, now, dice, &actions) }
        }
    }

    // MARK: What the connections tell

    private mutating func greeted(
        _ number: Int, _ info: ConnectionInfo, _ now: Int64, _ dice: Double, _ actions: inout [Action]
    ) {
        guard let place, place.generation == number else { return actions.append(.reject(generation: number)) }
        guard place.isGreeted else {
            self.place?.isGreeted = true
            self.place?.process = info.runID
            ready = 1
            plight = nil
            settledAt = now
            watch(now, dice)
            actions.append(.admit(generation: number))
            if let place = self.place { actions.append(.settle(place)) }
            return
        }
        guard place.process == info.runID else {
            // The address leads elsewhere by now: a name, a proxy, a restart that only this connection has met.
            let why = "another server answers at \(place.route.address)"
            return depart(.replaced, RedisError(.connectionLost, effect: .unknown, why), now, dice, &actions)
        }
        ready += 1
        actions.append(.admit(generation: number))
    }

    private mutating func lost(
        _ number: Int, _ error: RedisError, _ wasReady: Bool, _ now: Int64, _ dice: Double, _ actions: inout [Action]
    ) {
        guard let place, place.generation == number else { return }
        if wasReady { ready -= 1 }
        if ready == 0 {
            plight = error
            // Others may still dial there.
            if place.isGreeted {
                actions.append(.leave(error))
                departure = .lost
            }
            actions.append(.plight(error))
            return end(now, dice)
        }
        // Which server it was is not known, so what the next connection meets could not be compared with it.
        if wasReady, place.process == nil { return depart(.lost, error, now, dice, &actions) }
        check(now, dice, &actions)
    }

    /// Looks whether the place is still the right one, unless that was done just now.
    private mutating func check(_ now: Int64, _ dice: Double, _ actions: inout [Action]) {
        guard watchInterval != nil, look == nil, now - checkedAt > Self.nanoseconds(configuration.backoff.cap) / 4
        else {
            return
        }
        begin(isCheck: true, now, dice, &actions)
    }

    private mutating func refused(
        _ number: Int, _ error: RedisServerError, _ now: Int64, _ dice: Double, _ actions: inout [Action]
    ) {
        guard let place, place.generation == number else { return }
        // The Cluster is down, or only this node, which is cut off: the others know.
        if error.prefix == .clusterDown { return check(now, dice, &actions) }
        let why = RedisError(.connectionLost, effect: .unknown, error.words, server: error)
        depart(.redirected, why, now, dice, &actions)
        guard hops < Self.maximumHops, let sighting = search.redirected(by: error, from: place.route) else { return }
        hops += 1
        offer(sighting, now, &actions)
    }

    /// All connections go from here, and it is looked for anew.
    private mutating func depart(
        _ departure: Departure, _ why: RedisError, _ now: Int64, _ dice: Double, _ actions: inout [Action]
    ) {
        self.departure = departure
        actions.append(.leave(why))
        plight = why
        end(now, dice)
    }

    private mutating func end(_ now: Int64, _ dice: Double) {
        // A server that takes connections and drops them at once must not be asked a hundred times a second.
        if settledAt != .min, now - settledAt >= Self.nanoseconds(configuration.backoff.cap) {
            (failures, hops) = (0, 0)
        }
        (place, look, watchAt, settledAt) = (nil, nil, .max, .min)
        ready = 0
        pause(now, dice)
    }

    private static func nanoseconds(_ duration: Duration) -> Int64 { Int64(duration / .nanoseconds(1)) }
}
