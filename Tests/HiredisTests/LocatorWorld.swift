// SPDX-License-Identifier: Apache-2.0
//
// The locator's machine in a world of servers that fail over, of those who know it late or wrong, and of connections
// that see it late.
//
// Held against the machine: connections are never ready at two places at once; nobody is asked or dialled without a
// pause; a config epoch leads to the server that won it, and never below the highest that was heard of, unless all
// Sentinels have known less for ten seconds; three seconds after two Sentinels know of a failover all connections are
// at the new primary, whether the old one lives or not; where a majority is required, fewer lead to no other place, and
// their silence is told; and when the faults end, all connections are at the primary before long.
@testable import Hiredis

/// Servers, a name, and the four connections of one client.
struct LocatorWorld {
    typealias Address = RedisConfiguration.Address

    struct Server {
        var process = 0
        var isUp = true
        var isPrimary = false
    }

    enum Link: Equatable {
        case unplaced
        case dialling(generation: Int, server: Int)
        case ready(generation: Int, server: Int, process: Int)
        /// Of its own accord after a loss.
        case resting(generation: Int)
    }

    enum Happening {
        case tell(LocatorMachine.Event)
        case arrives(connection: Int, attempt: Int)
        case notices(connection: Int, attempt: Int)
        case writes(connection: Int, attempt: Int)
        case rested(connection: Int, attempt: Int)
        case fault
        case nameMoves(to: Int)
        case promotes(Int)
        /// It was a primary beside the new one.
        case demoted(Int)
        /// Where it is a replica, unless `asPrimary`: until somebody tells it.
        case returns(Int, asPrimary: Bool)
        /// A failover that the Sentinels or the nodes have agreed on.
        case failsOver(from: Int, to: Int, lives: Bool)
        case disturbs
        /// The primary and all Sentinels are made anew.
        case remade
        case looks
    }

    /// What a worse machine would do, for the controls.
    enum Flaw {
        /// It does not look again while it has a place, and hears no message.
        case rests
        /// It believes what the row of a Sentinel shows.
        case readsRow
        /// It asks one Sentinel only.
        case asksOne
        /// It takes no server's word that the primary is elsewhere, and does not look again.
        case heedsNobody
    }

    /// Who is asked where the primary is.
    enum Authority {
        case name
        case list
        case sentinels(SentinelAuthority)
        case cluster(ClusterAuthority)
    }

    static let millisecond: Int64 = 1_000_000
    static let trouble = 20_000 * millisecond
    /// So long after two Sentinels know, all connections have followed: two watches, and what looks and answers take.
    static let bound = 3_000 * millisecond
    static let end = 50_000 * millisecond

    var machine: LocatorMachine
    var random: SeededRandom
    let flaw: Flaw?
    let isMajorityRequired: Bool
    var now: Int64 = 0
    var queue: [(at: Int64, order: Int, what: Happening)] = []
    var order = 0
    var servers: [Server]
    var processes = 0
    var authority: Authority
    /// Where the name leads, or whom the Sentinels or the nodes have agreed on.
    var named = 0
    var highestHeard: Int64 = 0
    /// When each Sentinel was heard last.
    var heardAt: [Address: Int64] = [:]
    var lastOffered: Address?
    /// Since when the client has asked them.
    var knownSince: [Address: Int64] = [:]
    var links = [Link](repeating: .unplaced, count: 4)
    var attempts = [Int](repeating: 0, count: 4)
    var offered = [Int](repeating: 0, count: 4)
    var scout: Int?
    var asked: [Int64] = []
    var dialled: [Int64] = []
    var faults: [String] = []
    /// How often the connections were led to another place.
    var moves = -1

    init(_ url: String, seed: UInt64, flaw: Flaw? = nil, _ configure: (inout RedisConfiguration) -> Void = { _ in })
        throws
    {
        var configuration = try RedisConfiguration(url: url)
        configure(&configuration)
        machine = LocatorMachine(configuration, search: Locator.search(configuration))
        random = SeededRandom(seed: seed)
        self.flaw = flaw
        isMajorityRequired = configuration.sentinelMajority == .required
        authority =
            switch configuration.place {
            case .server: .name
            case .replicated: .list
            case .sentinels: .sentinels(SentinelAuthority(readsRowOnly: flaw == .readsRow))
            case .cluster: .cluster(ClusterAuthority())
            }
        servers = (0..<(configuration.place.isCluster ? ClusterAuthority.count : 3)).map { Server(process: $0) }
        processes = servers.count
        for index in servers.indices where index == 0 || index > 2 { servers[index].isPrimary = true }
    }

    static func address(_ server: Int) -> Address { .tcp(host: "10.0.0.\(server + 1)", port: 6379) }

    func server(at address: Address) -> Int {
        servers.indices.first { Self.address($0) == address } ?? 0
    }

    mutating func run() {
        later(0, .tell(.wanted))
        later(within(3_000), .fault)
        if case .sentinels = authority {
            later(within(3_000), .disturbs)
            later(0, .looks)
            if Int.random(in: 0..<4, using: &random) == 0 { later(Self.trouble + within(5_000), .remade) }
        }
        while let next = pop(), next.at <= Self.end {
            now = next.at
            happen(next.what)
            if !faults.isEmpty { return }
        }
        check()
    }

    var watches: Bool { flaw != .rests && flaw != .heedsNobody }

    // MARK: time

    mutating func within(_ milliseconds: Int64) -> Int64 {
        Int64.random(in: 0...milliseconds * Self.millisecond, using: &random)
    }

    mutating func later(_ delay: Int64, _ what: Happening) {
        order += 1
        queue.append((now + delay, order, what))
    }

    /// The next thing: in the queue, or due by the machine's own clock.
    mutating func pop() -> (at: Int64, order: Int, what: Happening)? {
        let index = queue.indices.min { (queue[$0].at, queue[$0].order) < (queue[$1].at, queue[$1].order) }
        let due = watches || machine.place == nil ? machine.wakeAt : .max
        guard let index, queue[index].at <= due else {
            return due == .max ? nil : (max(now, due), 0, .tell(.tick))
        }
        return queue.remove(at: index)
    }

    // MARK: what happens

    mutating func happen(_ what: Happening) {
        switch what {
        case .tell(let event): tell(event)
        case .arrives(let connection, let attempt): arrive(connection, attempt)
        case .notices(let connection, let attempt):
            guard attempts[connection] == attempt, case .ready = links[connection] else { break }
            lose(connection, wasReady: true, fault: nil)
        case .writes(let connection, let attempt): write(connection, attempt)
        case .rested(let connection, let attempt):
            guard attempts[connection] == attempt, case .resting = links[connection] else { break }
            links[connection] = .unplaced
            want(connection)
        case .fault: fail()
        case .nameMoves(let server): named = server
        case .promotes(let server): servers[server].isPrimary = true
        case .demoted(let server): demote(server)
        case .returns(let server, let asPrimary):
            processes += 1
            servers[server] = Server(process: processes, isUp: true, isPrimary: asPrimary)
            if asPrimary { later(within(3_000), .demoted(server)) }
        case .failsOver(let old, let new, let lives): failOver(old, new, lives)
        case .remade: remake()
        case .looks:
            expectFollowed()
            if now < Self.end { later(500 * Self.millisecond, .looks) }
        case .disturbs:
            guard case .sentinels(var sentinels) = authority else { break }
            sentinels.disturb(at: now, &random)
            authority = .sentinels(sentinels)
            let next = 1_000 * Self.millisecond + within(4_000)
            if now + next < Self.trouble { later(next, .disturbs) }
        }
    }

    mutating func arrive(_ connection: Int, _ attempt: Int) {
        guard attempts[connection] == attempt, case .dialling(let generation, let index) = links[connection] else {
            return
        }
        let server = servers[index]
        guard server.isUp, server.isPrimary else {
            return lose(connection, wasReady: false, fault: server.isUp ? .replica : .refused)
        }
        for action in machine.handle(
            .greeted(generation: generation, Self.greeting(server.process)), now: now, dice: 0.5)
        {
            if action == .admit(generation: generation) {
                links[connection] = .ready(generation: generation, server: index, process: server.process)
                expectOnePlace()
            } else if action == .reject(generation: generation) {
                rest(connection, generation)
            } else {
                perform(action)
            }
        }
        // Some are idle, some write.
        later(within(500), .writes(connection: connection, attempt: attempt))
    }

    mutating func write(_ connection: Int, _ attempt: Int) {
        guard attempts[connection] == attempt, case .ready(let generation, let index, let process) = links[connection]
        else { return }
        if !servers[index].isUp || servers[index].process != process {
            lose(connection, wasReady: true, fault: nil)
        } else if flaw == .heedsNobody {
            later(within(1_000), .writes(connection: connection, attempt: attempt))
        } else if case .cluster(let cluster) = authority, let refusal = cluster.refusal(by: index, at: now) {
            if refusal.prefix == .clusterDown {
                later(50 * Self.millisecond + within(200), .writes(connection: connection, attempt: attempt))
            } else {
                rest(connection, generation)
            }
            tell(.refused(generation: generation, refusal))
        } else if !servers[index].isPrimary {
            rest(connection, generation)
            tell(.refused(generation: generation, RedisServerError(message: "READONLY")))
        } else {
            later(within(1_000), .writes(connection: connection, attempt: attempt))
        }
    }

    mutating func lose(_ connection: Int, wasReady: Bool, fault: ConnectionFault?) {
        let generation: Int
        switch links[connection] {
        case .dialling(let number, _), .ready(let number, _, _): generation = number
        case .unplaced, .resting: return
        }
        rest(connection, generation)
        if scout == connection { scout = nil }
        let error = RedisError(.connectFailed, effect: .none, "lost", fault: fault)
        tell(.lost(generation: generation, error, wasReady: wasReady))
    }

    mutating func rest(_ connection: Int, _ generation: Int) {
        attempts[connection] += 1
        links[connection] = .resting(generation: generation)
        later(within(100), .rested(connection: connection, attempt: attempts[connection]))
    }

    // MARK: the machine

    mutating func tell(_ event: LocatorMachine.Event) {
        if case .answered(_, .sentinel(let source, _), .success(.replies(let replies))) = event,
            let read = try? SentinelAnswer(replies, about: "main", from: source)
        {
            highestHeard = max(highestHeard, read.epoch)
            heardAt[source] = now
        }
        for action in machine.handle(event, now: now, dice: Double.random(in: 0..<1, using: &random)) {
            perform(action)
        }
        if machine.place == nil, links.contains(where: { if case .ready = $0 { false } else { true } }) {
            for action in machine.handle(.wanted, now: now, dice: Double.random(in: 0..<1, using: &random)) {
                perform(action)
            }
        }
    }

    mutating func want(_ connection: Int) {
        if let place = machine.place { present(place, to: connection) } else { tell(.wanted) }
    }

    mutating func perform(_ action: LocatorMachine.Action) {
        switch action {
        case .resolve(let look, _, _):
            later(1 + within(20), .tell(.resolved(look: look, .success([Self.address(named)]))))
        case .ask(let look, let questions):
            for question in questions { ask(look, question) }
        case .leave:
            scout = nil
            for connection in links.indices {
                switch links[connection] {
                case .dialling(let generation, _), .ready(let generation, _, _): rest(connection, generation)
                case .unplaced, .resting: break
                }
            }
        case .offer(let place):
            judge(place)
            present(place)
        case .settle(let place): present(place)
        case .admit, .reject, .plight: break
        }
    }

    mutating func present(_ place: LocatorMachine.Place) {
        for connection in links.indices where offered[connection] < place.generation {
            if case .ready = links[connection] { continue }
            present(place, to: connection)
        }
    }

    mutating func present(_ place: LocatorMachine.Place, to connection: Int) {
        if !place.isGreeted, let scout, scout != connection { return }
        switch links[connection] {
        case .ready, .dialling: return
        case .resting(let generation) where generation == place.generation: return
        case .resting, .unplaced: break
        }
        if place.isGreeted { scout = nil } else { scout = connection }
        offered[connection] = place.generation
        attempts[connection] += 1
        links[connection] = .dialling(generation: place.generation, server: server(at: place.route.address))
        dialled.append(now)
        later(1 + within(30), .arrives(connection: connection, attempt: attempts[connection]))
    }

    mutating func ask(_ look: Int, _ question: Question) {
        asked.append(now)
        let answer: Result<Answer, RedisError>
        switch (question, authority) {
        case (.greet(let route), _):
            let server = servers[server(at: route.address)]
            answer =
                server.isUp && server.isPrimary
                ? .success(.greeting(Self.greeting(server.process)))
                : .failure(RedisError(.connectFailed, effect: .none, "no", fault: server.isUp ? .replica : .refused))
        case (.sentinel(let source, let withList), .sentinels(let sentinels)):
            if flaw == .asksOne, source != SentinelAuthority.address(0) { return }
            guard let replies = sentinels.answer(source, withList: withList, at: now) else { return }
            answer = .success(.replies(replies))
        case (.slots(let source), .cluster(let cluster)):
            let node = server(at: source)
            answer =
                servers[node].isUp
                ? .success(.replies([cluster.slots(node, at: now)]))
                : .failure(RedisError(.connectFailed, effect: .none, "no", fault: .refused))
        default: return
        }
        later(1 + within(30), .tell(.answered(look: look, question, answer)))
    }

    static func greeting(_ process: Int) -> ConnectionInfo {
        var server = ServerState()
        server.role = "master"
        var info = ConnectionInfo()
        (info.runID, info.server) = ("process \(process)", server)
        return info
    }
}
