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
//    when it says so itself, or when two others agree on another and fewer, itself included, are for it. What the
//    other says of itself does not count: it may be the one that is cut off. And the other is greeted first: it may be
//    silent, or the same node under another name.
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
    private var pending: Set<Question> = []
    /// Who named whom.
    private var named: [RedisConfiguration.Address: RedisConfiguration.Address] = [:]
    /// In a check: other owners that were asked who they are, and those that said it.
    private var dialled: Set<RedisConfiguration.Address> = []
    private var greeted: [RedisConfiguration.Address: ConnectionInfo] = [:]
    private var failure: RedisError?
    private var hasAnswer = false
    private var time = LookTime()

    /// How many nodes are asked at a time.
    private static let width = 3
    /// So many looks in a row come often: for about 5 s.
    private static let hurried = 100

    init(_ seeds: [RedisConfiguration.Address], view: ClusterView, watchInterval: Duration) {
        self.seeds = seeds
        self.view = view
        self.watchInterval = watchInterval
    }

    func limit(_ configuration: RedisConfiguration) -> Duration { time.limit(configuration) }

    func longestPause(afterFailures failures: Int) -> Duration? { failures < Self.hurried ? .milliseconds(100) : nil }

    // MARK: A look

    mutating func begin(current: Route?) -> SearchStep {
        self.current = current
        (pending, named, failure, hasAnswer) = ([], [:], nil, false)
        (dialled, greeted) = ([], [:])
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
        return ask(first.map { .slots($0) })
    }

    private mutating func next() -> [RedisConfiguration.Address] {
        let nodes = Array(rest.prefix(Self.width))
        rest.removeFirst(nodes.count)
        return nodes
    }

    private mutating func ask(_ questions: [Question]) -> SearchStep {
        pending.formUnion(questions)
        return .ask(questions)
    }

    mutating func answered(_ question: Question, _ result: Result<Answer, RedisError>) -> SearchStep {
        guard pending.remove(question) != nil else { return .wait }
        switch (question, result) {
        case (.slots(let node), .success(.replies(let replies))): read(replies.first ?? .null, from: node)
        case (.slots, .failure(let error)): note(error)
        case (.greet(let route), .success(.greeting(let info))): greeted[route.address] = info
        default: break
        }
        if let current { return check(current.address, isOver: false) }
        // News, or the owner's own word.
        if let news = named.first(where: { $0.value != last || $0.key == last }) { return found(news.value) }
        return pending.isEmpty ? further() : .wait
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

    /// Those that were asked have answered.
    private mutating func further() -> SearchStep {
        if hasAnswer || rest.isEmpty { return timedOut() }
        return ask(next().map { .slots($0) })
    }

    mutating func timedOut() -> SearchStep {
        if let current { return check(current.address, isOver: true) }
        // With all answers in, more time would not have helped.
        if !pending.isEmpty { time.ranOut(isDeaf: !hasAnswer) }
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

    private mutating func found(_ owner: RedisConfiguration.Address, process: String? = nil) -> SearchStep {
        last = owner
        time.found()
        return .found(Sighting(route: Route(owner), process: process, why: "it has \(slot)"))
    }

    // MARK: While a place is in use

    /// `isOver`: nothing more is waited for.
    private mutating func check(_ place: RedisConfiguration.Address, isOver: Bool) -> SearchStep {
        if let heir = self.heir(of: place, isOver: isOver) {
            if let info = greeted[heir.owner] {
                if heir.isCertain { return found(heir.owner, process: info.runID) }
            } else if !isOver, dialled.insert(heir.owner).inserted {
                // Before it is certain, for there is little time.
                return ask([.greet(Route(heir.owner))])
            }
        }
        return isOver || pending.isEmpty ? .unchanged : .wait
    }

    /// Who has the slot instead, and whether that holds whatever those say that have not answered yet.
    private func heir(
        of place: RedisConfiguration.Address, isOver: Bool
    ) -> (owner: RedisConfiguration.Address, isCertain: Bool)? {
        if let own = named[place], own != place { return (own, true) }
        let counted = named.filter { $0.key != $0.value || $0.key == place }
        let votes = Dictionary(grouping: counted, by: \.value).mapValues(\.count)
        let others = votes.filter { $0.key != place }
        let stay = votes[place] ?? 0
        guard let rival = others.max(by: { $0.value < $1.value }), rival.value > 1, rival.value > stay else {
            return nil
        }
        let missing = pending.filter { if case .slots = $0 { true } else { false } }.count
        return (rival.key, isOver || rival.value > stay + missing)
    }

    // MARK: What others say

    mutating func redirected(by error: RedisServerError, from route: Route) -> Sighting? {
        guard let redirection = view.redirection(by: error, from: route.address), !redirection.isAsk,
            redirection.slot == view.slot
        else { return nil }
        // The same address: a name, or a machine, that is another node by now. It is dialled anew.
        last = redirection.address
        time.found()
        return Sighting(route: Route(redirection.address), why: "\(slot) is there")
    }
}
