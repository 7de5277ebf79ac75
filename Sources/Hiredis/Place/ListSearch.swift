// SPDX-License-Identifier: Apache-2.0

/// A fixed list of servers of which one is the primary.
struct ListSearch: PlaceSearch {
    private typealias Primary = (route: Route, info: ConnectionInfo)

    private let addresses: [RedisConfiguration.Address]
    let watchInterval: Duration?
    private var time = LookTime()
    private var current: Route?
    /// The place in use says that it is a replica.
    private var isDemoted = false
    private var pending: Set<Route> = []
    private var primaries: [Primary] = []
    private var failures: [RedisError] = []

    init(_ addresses: [RedisConfiguration.Address], watchInterval: Duration) {
        self.addresses = addresses
        self.watchInterval = watchInterval
    }

    func limit(_ configuration: RedisConfiguration) -> Duration { time.limit(configuration) }

    mutating func begin(current: Route?) -> SearchStep {
        let routes = addresses.map { Route($0) }
        (self.current, isDemoted) = (current, false)
        (pending, primaries, failures) = (Set(routes), [], [])
        return .ask(routes.map { .greet($0) })
    }

    mutating func answered(_ question: Question, _ result: Result<Answer, RedisError>) -> SearchStep {
        guard case .greet(let route) = question, pending.remove(route) != nil else { return .wait }
        switch result {
        case .success(.greeting(let info)): primaries.append((route, info))
        case .success: break
        case .failure(let error):
            failures.append(error)
            if route == current, error.fault == .replica { isDemoted = true }
        }
        return pending.isEmpty ? timedOut() : .wait
    }

    mutating func timedOut() -> SearchStep {
        let step = verdict
        switch step {
        case .found: time.found()
        // With all answers in, more time would not have helped.
        case .nothing:
            if current == nil, !pending.isEmpty { time.ranOut(isDeaf: primaries.isEmpty && failures.isEmpty) }
        default: break
        }
        return step
    }

    private var verdict: SearchStep {
        var candidates = servers
        // One that was cut off, or came back after its failover, has no replicas; the promoted one has them.
        let withReplicas = candidates.filter { Self.hasReplicas($0.info) }
        if candidates.count > 1, withReplicas.count == 1 { candidates = withReplicas }
        switch candidates.count {
        case 1:
            let (route, info) = candidates[0]
            // Commands may work at a place that is slow to greet for a moment, and the other one may be an old primary.
            if isCurrentUnheard, !Self.hasReplicas(info) { return .unchanged }
            return .found(Sighting(route: route, process: info.runID, why: "it is the primary of the list"))
        case 0:
            let known = failures.map(\.message).joined(separator: "; ")
            let silent = pending.map { "no answer from \($0.address)" }.sorted().joined(separator: "; ")
            let details = [known, silent].filter { !$0.isEmpty }.joined(separator: "; ")
            return .nothing(plight("none of the \(addresses.count) servers is a primary: \(details)"))
        default:
            let names = candidates.map { "\($0.route.address)" }.sorted().joined(separator: " and ")
            return .nothing(
                plight(
                    "\(names) are both primaries: make one a replica of the other (REPLICAOF) before locks are given"))
        }
    }

    /// The list may have one server under two names. The place in use keeps the one by which it is used.
    private var servers: [Primary] {
        let ordered = primaries.filter { $0.route == current } + primaries.filter { $0.route != current }
        var seen: Set<String> = []
        return ordered.filter { server in server.info.runID.map { seen.insert($0).inserted } ?? true }
    }

    /// There is a place in use, and it has not said whether it still is a primary.
    private var isCurrentUnheard: Bool {
        guard let current else { return false }
        return !isDemoted && !primaries.contains { $0.route == current }
    }

    private static func hasReplicas(_ info: ConnectionInfo) -> Bool { (info.server?.connectedReplicas ?? 0) > 0 }

    private func plight(_ message: String) -> RedisError {
        RedisError(.connectFailed, effect: .none, message, fault: .noPrimary)
    }
}
