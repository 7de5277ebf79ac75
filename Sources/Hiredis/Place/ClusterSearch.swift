// SPDX-License-Identifier: Apache-2.0
//
// Who has the slot of one namespace in a Cluster.
//
// Any node may be asked, and any node may be wrong: one that was cut off names the owner it knew. So three are asked at
// a time, and what they say is held against what is known already:
//
//  - The place was lost. An answer that names another owner is news, and is followed at once. The owner that was lost
//    is named by all nodes until its replica is elected, which takes seconds; so it is asked itself, and only gone back
//    to when it answers. No connection waits at a host that is silent while others would tell who came after it.
//  - The place is in use. The owner knows best whether it still has the slot, except when it is cut off. So it is left
//    when it says so itself, or when two others agree on another.
//
// Nobody is told of a failover, so while there is no owner the nodes are asked often, and less often later.

struct ClusterSearch: PlaceSearch {
    private let view: ClusterView
    private let seeds: [RedisConfiguration.Address]
    let watchInterval: Duration?
    /// Of the last answer: where else to ask. The seeds stay besides.
    private var known: [RedisConfiguration.Address] = []
    /// The owner that was found last.
    private var last: RedisConfiguration.Address?
    private var current: Route?
    /// Moves through the nodes from look to look.
    private var turn = 0
    private var rest: [RedisConfiguration.Address] = []
    private var pending: Set<RedisConfiguration.Address> = []
    /// Who named whom.
    private var named: [RedisConfiguration.Address: RedisConfiguration.Address] = [:]
    private var failure: RedisError?
    private var hasAnswer = false

    /// How many nodes are asked at a time.
    private static let width = 3
    /// So many looks in a row come often: for about 5 s.
    private static let hurried = 100

    init(_ seeds: [RedisConfiguration.Address], view: ClusterView, watchInterval: Duration) {
        self.seeds = seeds
        self.view = view
        self.watchInterval = watchInterval
    }

    func limit(_ configuration: RedisConfiguration) -> Duration {
        min(configuration.connectTimeout, .milliseconds(500))
    }

    func longestPause(afterFailures failures: Int) -> Duration? { failures < Self.hurried ? .milliseconds(100) : nil }

    // MARK: A look

    mutating func begin(current: Route?) -> SearchStep {
        self.current = current
        (pending, named, failure, hasAnswer) = ([], [:], nil, false)
        var nodes: [RedisConfiguration.Address] = []
        for node in known + seeds where !nodes.contains(node) { nodes.append(node) }
        turn %= nodes.count
        rest = Array(nodes[turn...] + nodes[..<turn])
        turn += Self.width
        var first = next()
        if let owner = current?.address ?? last, !first.contains(owner) {
            first.append(owner)
            rest.removeAll { $0 == owner }
        }
        return ask(first)
    }

    private mutating func next() -> [RedisConfiguration.Address] {
        let nodes = Array(rest.prefix(Self.width))
        rest.removeFirst(nodes.count)
        return nodes
    }

    private mutating func ask(_ nodes: [RedisConfiguration.Address]) -> SearchStep {
        pending.formUnion(nodes)
        return .ask(nodes.map { .slots($0) })
    }

    mutating func answered(_ question: Question, _ result: Result<Answer, RedisError>) -> SearchStep {
        guard case .slots(let node) = question, pending.remove(node) != nil else { return .wait }
        switch result {
        case .success(.replies(let replies)): read(replies.first ?? .null, from: node)
        case .success: break
        case .failure(let error): note(error)
        }
        return verdict() ?? (pending.isEmpty ? further() : .wait)
    }

    private mutating func read(_ reply: RedisReply, from node: RedisConfiguration.Address) {
        do {
            let sighting = try view.read(reply, from: node)
            hasAnswer = true
            if !sighting.nodes.isEmpty { known = sighting.nodes }
            named[node] = sighting.owner
        } catch {
            note(error)
        }
    }

    /// What says what to do is told rather than that somebody does not answer.
    private mutating func note(_ error: RedisError) {
        if failure?.server == nil || error.server != nil { failure = error }
    }

    /// What is known for certain before all have answered.
    private mutating func verdict() -> SearchStep? {
        guard let current else {
            // News, or the owner's own word.
            guard let news = named.first(where: { $0.value != last || $0.key == last }) else { return nil }
            return found(news.value)
        }
        if let own = named[current.address], own != current.address { return found(own) }
        let votes = Dictionary(grouping: named.filter { $0.key != current.address }, by: \.value).mapValues(\.count)
        guard let (owner, _) = votes.first(where: { $0.key != current.address && $0.value > 1 }) else { return nil }
        return found(owner)
    }

    /// Those that were asked have answered, or nothing more is waited for.
    private mutating func further() -> SearchStep {
        if current != nil { return .unchanged }
        if hasAnswer || rest.isEmpty { return timedOut() }
        return ask(next())
    }

    mutating func timedOut() -> SearchStep {
        if current != nil { return .unchanged }
        if let owner = named.values.first {
            return plight("\(owner), which has \(slot), does not answer, and no other node has it yet")
        }
        if hasAnswer { return plight("no node of the Cluster has \(slot)") }
        if let failure { return .nothing(failure) }
        let names = seeds.map { "\($0)" }.joined(separator: ", ")
        return .nothing(
            RedisError(.connectFailed, effect: .none, "no node of the Cluster answers: \(names)", fault: .silent))
    }

    private var slot: String { "slot \(view.slot) of namespace \(view.namespace)" }

    private func plight(_ message: String) -> SearchStep {
        .nothing(RedisError(.connectFailed, effect: .none, message, fault: .noPrimary))
    }

    private mutating func found(_ owner: RedisConfiguration.Address) -> SearchStep {
        last = owner
        return .found(Sighting(route: Route(owner), why: "it has \(slot)"))
    }

    // MARK: What others say

    mutating func redirected(by error: RedisServerError, from route: Route) -> Sighting? {
        guard let redirection = view.redirection(by: error, from: route.address), !redirection.isAsk,
            redirection.slot == view.slot
        else { return nil }
        // The same address: a name, or a machine, that is another node by now. It is dialled anew.
        last = redirection.address
        return Sighting(route: Route(redirection.address), why: "\(slot) is there")
    }
}
