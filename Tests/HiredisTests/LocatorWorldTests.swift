// SPDX-License-Identifier: Apache-2.0
//
// The locator's machine in a world of servers that fail over, names that lag, and connections that see it late.
//
// Held against the machine: connections are never ready at two places at once; nobody is asked without a pause; and
// when the faults end, all connections are at the primary before long.
import RingfencePlatform
import Testing

@testable import Hiredis

@Suite struct LocatorWorldTests {
    private static let seeds = getenv("RINGFENCE_SIMULATION_SEEDS").flatMap { UInt64(String(cString: $0)) } ?? 500

    @Test(arguments: ["redis://redis.example", "redis+replicated://10.0.0.1,10.0.0.2,10.0.0.3"])
    func `all connections follow the primary together, in every seed`(url: String) throws {
        for seed in 0..<Self.seeds {
            var world = try LocatorWorld(url, seed: seed)
            world.run()
            #expect(world.faults == [], "seed \(seed) of \(url)")
            if !world.faults.isEmpty { return }
        }
    }

    @Test func `a machine that did not check would stay where the name led before`() throws {
        var stuck = 0
        for seed in 0..<UInt64(200) {
            var world = try LocatorWorld("redis://redis.example", seed: seed, watches: false)
            world.run()
            if !world.faults.isEmpty { stuck += 1 }
        }
        #expect(stuck > 0, "the world can tell the difference")
    }
}

/// Servers, a name, and the four connections of one client.
private struct LocatorWorld {
    typealias Address = RedisConfiguration.Address

    private struct Server {
        var process = 0
        var isUp = true
        var isPrimary = false
    }

    private enum Link: Equatable {
        case unplaced
        case dialling(generation: Int, server: Int)
        case ready(generation: Int, server: Int, process: Int)
        /// Of its own accord after a loss.
        case resting(generation: Int)
    }

    private enum Happening {
        case tell(LocatorMachine.Event)
        case arrives(connection: Int, attempt: Int)
        case notices(connection: Int, attempt: Int)
        case writes(connection: Int, attempt: Int)
        case rested(connection: Int, attempt: Int)
        case fault
        case nameMoves(to: Int)
        case promotes(Int)
        case returns(Int)
    }

    private static let millisecond: Int64 = 1_000_000
    private static let trouble = 20_000 * millisecond
    private static let end = 50_000 * millisecond
    private static let count = 3

    private var machine: LocatorMachine
    private var random: SeededRandom
    private let watches: Bool
    private var now: Int64 = 0
    private var queue: [(at: Int64, order: Int, what: Happening)] = []
    private var order = 0
    private var servers = [Server](repeating: Server(), count: count)
    private var processes = count
    private var named = 0
    /// The name leads elsewhere while the old primary goes on as one.
    private let splits: Bool
    private var links = [Link](repeating: .unplaced, count: 4)
    private var attempts = [Int](repeating: 0, count: 4)
    private var offered = [Int](repeating: 0, count: 4)
    private var scout: Int?
    private var asked: [Int64] = []
    private(set) var faults: [String] = []

    init(_ url: String, seed: UInt64, watches: Bool = true) throws {
        let configuration = try RedisConfiguration(url: url)
        machine = LocatorMachine(configuration, search: Locator.search(configuration))
        random = SeededRandom(seed: seed)
        self.watches = watches
        if case .server = configuration.place { splits = true } else { splits = false }
        for index in servers.indices { servers[index].process = index }
        servers[0].isPrimary = true
    }

    private static func address(_ server: Int) -> Address { .tcp(host: "10.0.0.\(server + 1)", port: 6379) }

    private func server(at address: Address) -> Int {
        (0..<Self.count).first { Self.address($0) == address } ?? 0
    }

    mutating func run() {
        later(0, .tell(.wanted))
        later(within(3_000), .fault)
        while let next = pop(), next.at <= Self.end {
            now = next.at
            happen(next.what)
            if !faults.isEmpty { return }
        }
        check()
    }

    private mutating func check() {
        let primary = splits ? named : servers.firstIndex { $0.isPrimary && $0.isUp }
        for (number, link) in links.enumerated() {
            guard case .ready(_, let server, _) = link, server == primary else {
                faults.append("connection \(number) ends as \(link), the primary is \(primary ?? -1)")
                continue
            }
        }
        // Four connections, three servers, a look every 5 ms at the very most, and mostly far fewer.
        for (index, at) in asked.enumerated() where index >= 60 && at - asked[index - 60] < 200 * Self.millisecond {
            faults.append("60 questions within 200 ms")
            return
        }
    }

    // MARK: time

    private mutating func within(_ milliseconds: Int64) -> Int64 {
        Int64.random(in: 0...milliseconds * Self.millisecond, using: &random)
    }

    private mutating func later(_ delay: Int64, _ what: Happening) {
        order += 1
        queue.append((now + delay, order, what))
    }

    /// The next thing: in the queue, or due by the machine's own clock.
    private mutating func pop() -> (at: Int64, order: Int, what: Happening)? {
        let index = queue.indices.min { (queue[$0].at, queue[$0].order) < (queue[$1].at, queue[$1].order) }
        let due = watches || machine.place == nil ? machine.wakeAt : .max
        guard let index, queue[index].at <= due else {
            return due == .max ? nil : (max(now, due), 0, .tell(.tick))
        }
        return queue.remove(at: index)
    }

    // MARK: what happens

    private mutating func happen(_ what: Happening) {
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
        case .returns(let server):
            processes += 1
            servers[server] = Server(process: processes, isUp: true, isPrimary: false)
        }
    }

    private mutating func fail() {
        if splits {
            for index in servers.indices where index != named { servers[index].isPrimary = false }
        }
        let old = servers.firstIndex { $0.isPrimary && $0.isUp } ?? 0
        let new = (old + 1 + Int.random(in: 0..<Self.count - 1, using: &random)) % Self.count
        guard servers[old].isPrimary, servers[new].isUp else { return later(500 * Self.millisecond, .fault) }
        let delay = within(2_000)
        switch Int.random(in: 0..<(splits ? 3 : 2), using: &random) {
        case 0:
            servers[old].isUp = false
            servers[old].isPrimary = false
            later(delay + within(3_000), .returns(old))
        case 1: servers[old].isPrimary = false
        default: break
        }
        for (number, link) in links.enumerated() {
            guard case .ready(_, old, _) = link else { continue }
            let attempt = attempts[number]
            let latest = within(100)
            let lives = servers[old].isUp
            later(
                latest,
                lives ? .writes(connection: number, attempt: attempt) : .notices(connection: number, attempt: attempt))
        }
        later(delay, .promotes(new))
        later(delay + within(1_000), .nameMoves(to: new))
        let next = delay + 1_000 * Self.millisecond + within(8_000)
        if now + next < Self.trouble { later(next, .fault) }
    }

    private mutating func arrive(_ connection: Int, _ attempt: Int) {
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

    private mutating func write(_ connection: Int, _ attempt: Int) {
        guard attempts[connection] == attempt, case .ready(let generation, let index, let process) = links[connection]
        else { return }
        if !servers[index].isUp || servers[index].process != process {
            lose(connection, wasReady: true, fault: nil)
        } else if !servers[index].isPrimary {
            rest(connection, generation)
            tell(.refused(generation: generation, RedisServerError(message: "READONLY")))
        } else {
            later(within(1_000), .writes(connection: connection, attempt: attempt))
        }
    }

    private mutating func lose(_ connection: Int, wasReady: Bool, fault: ConnectionFault?) {
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

    private mutating func rest(_ connection: Int, _ generation: Int) {
        attempts[connection] += 1
        links[connection] = .resting(generation: generation)
        later(within(100), .rested(connection: connection, attempt: attempts[connection]))
    }

    private mutating func expectOnePlace() {
        let places = links.compactMap {
            if case .ready(let generation, _, let process) = $0 { "\(generation) \(process)" } else { nil }
        }
        if Set(places).count > 1 { faults.append("connections are ready at \(Set(places)) at once") }
    }

    // MARK: the machine

    private mutating func tell(_ event: LocatorMachine.Event) {
        for action in machine.handle(event, now: now, dice: Double.random(in: 0..<1, using: &random)) {
            perform(action)
        }
        if machine.place == nil, links.contains(where: { if case .ready = $0 { false } else { true } }) {
            for action in machine.handle(.wanted, now: now, dice: Double.random(in: 0..<1, using: &random)) {
                perform(action)
            }
        }
    }

    private mutating func want(_ connection: Int) {
        if let place = machine.place { present(place, to: connection) } else { tell(.wanted) }
    }

    private mutating func perform(_ action: LocatorMachine.Action) {
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
        case .offer(let place), .settle(let place): present(place)
        case .admit, .reject, .plight: break
        }
    }

    private mutating func present(_ place: LocatorMachine.Place) {
        for connection in links.indices where offered[connection] < place.generation {
            if case .ready = links[connection] { continue }
            present(place, to: connection)
        }
    }

    private mutating func present(_ place: LocatorMachine.Place, to connection: Int) {
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
        later(1 + within(30), .arrives(connection: connection, attempt: attempts[connection]))
    }

    private mutating func ask(_ look: Int, _ question: Question) {
        asked.append(now)
        guard case .greet(let route) = question else { return }
        let server = servers[server(at: route.address)]
        let answer: Result<Answer, RedisError> =
            server.isUp && server.isPrimary
            ? .success(.greeting(Self.greeting(server.process)))
            : .failure(RedisError(.connectFailed, effect: .none, "no", fault: server.isUp ? .replica : .refused))
        later(1 + within(30), .tell(.answered(look: look, question, answer)))
    }

    private static func greeting(_ process: Int) -> ConnectionInfo {
        var server = ServerState()
        server.role = "master"
        var info = ConnectionInfo()
        (info.runID, info.server) = ("process \(process)", server)
        return info
    }
}
