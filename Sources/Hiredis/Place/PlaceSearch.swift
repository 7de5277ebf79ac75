// SPDX-License-Identifier: Apache-2.0
//
// How the place of a client is searched under one kind of URL. Pure: a search says what to ask and judges the answers;
// `LocatorMachine` decides when to look, and what follows from what was found.

/// What is asked of one server.
enum Question: Sendable, Hashable {
    /// Who are you? The handshake of a connection.
    case greet(Route)
    /// Where is the primary? `withList`: and who are the other Sentinels?
    case sentinel(RedisConfiguration.Address, withList: Bool)
    /// Who has which slots?
    case slots(RedisConfiguration.Address)
}

enum Answer: Sendable, Equatable {
    case greeting(ConnectionInfo)
    /// The replies to what a Sentinel or a node of a Cluster was asked.
    case replies([RedisReply])
}

/// A server that may be the place.
struct Sighting: Sendable, Equatable {
    var route: Route
    /// The server process, where it was greeted.
    var process: String?
    /// The config epoch under which it was named.
    var epoch: Int64?
    /// Who says so.
    var why: String
}

/// What a search wants next.
enum SearchStep: Sendable, Equatable {
    /// More answers.
    case wait
    case resolve(host: String, port: Int)
    case ask([Question])
    case found(Sighting)
    /// The place that is used is still the right one.
    case unchanged
    case nothing(RedisError)
}

protocol PlaceSearch: Sendable {
    /// How often a settled place is looked at again; nil: it cannot change.
    var watchInterval: Duration? { get }
    /// How long a look may take.
    func limit(_ configuration: RedisConfiguration) -> Duration
    /// A look begins; what an older one asked is not answered any more. `current`: the place in use, if there is one.
    mutating func begin(current: Route?) -> SearchStep
    mutating func resolved(_ result: Result<[RedisConfiguration.Address], RedisError>) -> SearchStep
    mutating func answered(_ question: Question, _ result: Result<Answer, RedisError>) -> SearchStep
    /// The look has taken too long: `found`, `unchanged` or `nothing`.
    mutating func timedOut() -> SearchStep
    /// An answer to a look that has ended; true if it is news, and a reason to look again.
    mutating func late(_ question: Question, _ result: Result<Answer, RedisError>) -> Bool
    /// What time it is, monotonic and in ns: told before everything else.
    mutating func clock(_ now: Int64)
    /// The Sentinels that are asked and listened to; no others are kept.
    var sources: Set<RedisConfiguration.Address> { get }
    /// How many of them answer; nil where there are none.
    var standing: SentinelStanding? { get }
    /// Somebody announced a change.
    mutating func announced(by source: RedisConfiguration.Address)
    /// Where a refusal sends us; nil: nowhere.
    mutating func redirected(by error: RedisServerError, from route: Route) -> Sighting?
    /// The longest pause between two looks that find nothing; nil: that of the backoff.
    func longestPause(afterFailures failures: Int) -> Duration?
}

extension PlaceSearch {
    func limit(_ configuration: RedisConfiguration) -> Duration { configuration.connectTimeout }
    mutating func resolved(_ result: Result<[RedisConfiguration.Address], RedisError>) -> SearchStep { .wait }
    mutating func announced(by source: RedisConfiguration.Address) {}
    mutating func late(_ question: Question, _ result: Result<Answer, RedisError>) -> Bool { false }
    mutating func clock(_ now: Int64) {}
    var sources: Set<RedisConfiguration.Address> { [] }
    var standing: SentinelStanding? { nil }
    mutating func redirected(by error: RedisServerError, from route: Route) -> Sighting? { nil }
    func longestPause(afterFailures failures: Int) -> Duration? { nil }
}

/// How long a look at several servers may take.
///
/// A host that does not answer must not keep the others waiting for long. But where all are slow, as with TLS over a
/// long way, no look would ever hear one: so each that heard nobody gives the next one twice as much. Where some are
/// heard, the one that is not gets a second at most.
struct LookTime: Sendable {
    /// Looks in a row that found nothing and ran out of time. A place that is found ends the row.
    private var late = 0

    func limit(_ configuration: RedisConfiguration) -> Duration {
        let factor = 1 << min(late, 10)
        return min(configuration.connectTimeout, .milliseconds(500 * factor))
    }

    mutating func ranOut(isDeaf: Bool) { late = isDeaf ? late + 1 : min(late + 1, 1) }
    mutating func found() { late = 0 }
}

/// One server: a socket, an address, or a name that may lead to another server tomorrow.
struct ServerSearch: PlaceSearch {
    private let address: RedisConfiguration.Address
    let watchInterval: Duration?
    private var current: Route?
    private var pending: Set<Route> = []
    private var failure: RedisError?

    /// So many looks in a row come often, some 6 s: nobody is told when a name leads elsewhere.
    private static let hurried = 50

    init(_ address: RedisConfiguration.Address, watchInterval: Duration) {
        self.address = address
        self.watchInterval = address.isName ? watchInterval : nil
    }

    func longestPause(afterFailures failures: Int) -> Duration? {
        address.isName && failures < Self.hurried ? .milliseconds(250) : nil
    }

    mutating func begin(current: Route?) -> SearchStep {
        self.current = current
        (pending, failure) = ([], nil)
        guard case .tcp(let host, let port) = address, address.isName else {
            return .found(Sighting(route: Route(address), why: "it is the address given"))
        }
        return .resolve(host: host, port: port)
    }

    mutating func resolved(_ result: Result<[RedisConfiguration.Address], RedisError>) -> SearchStep {
        guard case .tcp(let host, _) = address else { return .wait }
        let routes: [Route]
        switch result {
        case .failure(let error): return current == nil ? .nothing(error) : .unchanged
        case .success(let addresses): routes = addresses.map { Route($0, name: host) }
        }
        if let current, routes.contains(current) { return .unchanged }
        // The connection that goes there finds out what it is.
        if current == nil, routes.count == 1 { return .found(sighting(routes[0], process: nil)) }
        pending = Set(routes)
        return .ask(routes.map { .greet($0) })
    }

    mutating func answered(_ question: Question, _ result: Result<Answer, RedisError>) -> SearchStep {
        guard case .greet(let route) = question, pending.remove(route) != nil else { return .wait }
        switch result {
        case .success(.greeting(let info)): return .found(sighting(route, process: info.runID))
        case .success: break
        // A replica tells more than a port where nobody listens.
        case .failure(let error): if failure == nil || error.fault == .replica { failure = error }
        }
        return pending.isEmpty ? timedOut() : .wait
    }

    mutating func timedOut() -> SearchStep {
        if current != nil { return .unchanged }
        let silent = RedisError(.connectFailed, effect: .none, "no answer from \(address)", fault: .silent)
        return .nothing(failure ?? silent)
    }

    private func sighting(_ route: Route, process: String?) -> Sighting {
        Sighting(route: route, process: process, why: "the name \(route.name ?? "") leads there")
    }
}
