// SPDX-License-Identifier: Apache-2.0
//
// Failovers of real processes on a real Redis: they are killed, frozen, cut off and delayed, their connections end in
// one direction only; Redis stalls, forgets, restarts and begins empty; two operators order at once. All of that goes
// on at the same time: each process, each line, the server and the operators have a tormentor of their own. What counts
// is not what anybody says but what the processes wrote down while they held the role, on the machine's one monotonic
// clock, and what a subscriber of the event log was told:
//
//   no two       the times in which two terms were held, from the first look to the last, do not overlap
//   order        later terms have higher epochs
//   one holder   an epoch is held by one session of one process, and by the elected one
//   events       without a hole in their numbers; an epoch is elected once, and epochs only grow. Where Redis lost its
//                data the subscriber is told so, and an epoch that nobody had heard of may be elected again
//
// Each group has a server, processes and dice of its own. A failure prints the seed, RINGFENCE_NEMESIS_SEED sets it:
// the faults are the same then, their moments only nearly. What the article on failover says is not promised is not
// done: the server's clock is not set forward by less than a gap, and somebody who knows the epoch lives when Redis
// loses everything.

import Hiredis
import RingfenceCore
import RingfencePlatform
import TestSupport
import Testing

@testable import Ringfence

@Suite(.serialized) struct NemesisTests {
    @Test func `over two hundred failovers of real processes no two are primary at once, and epochs only grow`()
        async throws
    {
        let begin = ContinuousClock.now
        let seed = number("RINGFENCE_NEMESIS_SEED") ?? UInt64.random(in: 0..<1_000_000)
        var all = RoleHistory.Count()
        await withTaskGroup(of: RoleHistory.Count.self) { groups in
            for (index, faults) in Nemesis.Fault.sets.enumerated() {
                groups.addTask {
                    let nemesis = Nemesis(seed: seed &+ UInt64(index), faults: faults)
                    func complain(_ what: String) {
                        Issue.record("RINGFENCE_NEMESIS_SEED=\(seed), faults \(faults): \(what)\n\(nemesis.story)")
                    }
                    do {
                        try await nemesis.run(failovers: 51, within: .seconds(240))
                        let history = try nemesis.history()
                        for violation in history.violations() { complain(violation) }
                        return history.count
                    } catch {
                        complain("\(error)")
                        return RoleHistory.Count()
                    }
                }
            }
            for await count in groups { all += count }
        }
        #expect(all.failovers >= 200, "RINGFENCE_NEMESIS_SEED=\(seed): only \(all)")
        print("nemesis: seed \(seed), \(all), \((ContinuousClock.now - begin) / .seconds(1)) s")
    }

    @Test func `a process that does not look at its own clock is found`() async throws {
        let nemesis = Nemesis(seed: 1, faults: [.freeze, .cut], heedless: true)
        try await nemesis.run(failovers: 7, within: .seconds(240))
        let violations = try nemesis.history().violations()
        #expect(violations.contains { $0.contains("at once") }, "\(violations)")
    }

    @Test func `an epoch that is counted in Redis and not healed is found`() async throws {
        var script = GroupScriptText.group
        for name in ["is_behind", "is_epoch_behind"] {
            let lines = script.split(separator: "\n", omittingEmptySubsequences: false)
            let healing = try #require(lines.first { $0.hasPrefix("local \(name) = ") })
            script.replace(healing, with: "local \(name) = false")
        }
        let nemesis = Nemesis(seed: 2, faults: [.loseEverything, .kill], script: script)
        try await nemesis.run(failovers: 4, within: .seconds(240))
        let violations = try nemesis.history().violations()
        #expect(violations.contains { $0.contains("epoch 1 follows upon") }, "\(violations)")
    }
}

@Suite struct RoleHistoryTests {
    private static let file = (member: "n0", text: "- s0\n10 20 1\n30 40 1\n")

    /// With elections, `SEQ EPOCH SESSION`, as a subscriber may be told of them.
    private func history(_ elections: String...) throws -> RoleHistory {
        var told = [Told.state(.start)]
        for election in elections {
            let words = election.split(separator: " ")
            let json =
                #"{"generation":"0123456789abcdef01","sequence":\#(words[0]),"at":1,"type":"primary.elected","#
                + #""group":"g","member":"n0","version":1,"epoch":\#(words[1]),"detail":{"session":"\#(words[2])"}}"#
            told.append(.event(Event(try EventRecord(Array(json.utf8)))))
        }
        return try RoleHistory([Self.file], told: told)
    }

    @Test func `what must not stand in a history is found, and nothing else`() throws {
        let found = try history("1 1 s0", "2 2 s1").violations()
        #expect(found == [])
        #expect(try history("1 1 s1").violations().contains { $0.contains("but elected was") })
        #expect(try history().violations().contains { $0.contains("but elected was") })
        #expect(try history("1 1 s0", "3 2 s1").violations().contains { $0.contains("follows upon") })
        #expect(try history("1 1 s0", "2 1 s1").violations().contains { $0.contains("was elected after") })
        #expect(try history("1 2 s1", "2 1 s0").violations().contains { $0.contains("is of epoch 1 after 2") })
    }

    @Test func `a history that cannot be read is an error, and not an empty one`() {
        for text in ["", "-\n1 2 3\n", "- s\n1 2\n", "- s\n1 x 3\n", "1 2 3\n"] {
            #expect(throws: TestSupportError.self) { try RoleHistory([("n0", text)], told: []) }
        }
    }
}

/// A number in the environment.
func number(_ variable: String) -> UInt64? { getenv(variable).flatMap { UInt64(String(cString: $0)) } }

/// What a subscriber of the event log was told.
enum Told: Sendable {
    /// A state: every event after it comes. A later one says that events are missing.
    case state(EventCursor)
    case event(Event)

    /// The place behind it.
    var cursor: EventCursor {
        switch self {
        case .state(let cursor): cursor
        case .event(let event): event.cursor
        }
    }
}

/// What the processes wrote down, and what was told of them.
struct RoleHistory {
    struct Term {
        var member: String
        var session: String
        var epoch: Int64
        /// Held from a moment before this at the latest,
        var start: Int64
        /// to a moment after this at the earliest.
        var end: Int64
    }

    /// What has happened so often. An election counts once the elected one has said that it is ready: one that was dead
    /// or frozen when it was elected had the role for nobody.
    struct Count: Sendable, CustomStringConvertible {
        var terms = 0
        /// The role went to another, or to the same anew, because its holder lost it, against or by its will.
        var failovers = 0
        var switchovers = 0
        /// The first of a group, or after Redis lost it: nobody is known to have had the role.
        var firsts = 0
        /// How often Redis lost its data.
        var losses = 0
        private var elected: (epoch: Int64, reason: String?) = (0, nil)

        var description: String {
            "\(failovers) failovers, \(switchovers) switchovers, \(firsts) first elections, "
                + "\(losses) losses of all data, \(terms) terms"
        }

        mutating func took(_ event: Event) {
            guard let epoch = event.epoch else { return }
            if event.type == .primaryElected { elected = (epoch, event.reason) }
            guard event.type == .primaryReady, elected.epoch == epoch else { return }
            switch elected.reason {
            case "first", "lost": firsts += 1
            case "switchover", "failback": switchovers += 1
            default: failovers += 1
            }
            elected = (0, nil)
        }

        static func += (left: inout Count, right: Count) {
            left.terms += right.terms
            left.failovers += right.failovers
            left.switchovers += right.switchovers
            left.firsts += right.firsts
            left.losses += right.losses
        }
    }

    let terms: [Term]
    let told: [Told]
    let count: Count

    /// - Throws: what cannot be read is no empty history.
    init(_ files: [(member: String, text: String)], told: [Told]) throws {
        var terms: [Term] = []
        for (member, text) in files { terms += try Self.terms(of: member, text) }
        self.terms = terms.sorted { $0.start < $1.start }
        self.told = told
        var count = Count()
        count.terms = terms.count
        for item in told.dropFirst() {
            switch item {
            case .state: count.losses += 1
            case .event(let event): count.took(event)
            }
        }
        self.count = count
    }

    private static func terms(of member: String, _ text: String) throws -> [Term] {
        var terms: [Term] = []
        var session = ""
        for line in text.utf8.split(separator: UInt8(ascii: "\n")) {
            let fields = line.split(separator: UInt8(ascii: " "))
            if fields.count == 2, line.first == UInt8(ascii: "-") {
                session = String(decoding: fields[1], as: UTF8.self)
                continue
            }
            var numbers: [Int64] = []
            for field in fields where field.allSatisfy({ (48...57).contains($0) }) {
                numbers.append(field.reduce(0) { $0 &* 10 &+ Int64($1) - 48 })
            }
            guard numbers.count == 3, fields.count == 3, !session.isEmpty else {
                throw TestSupportError("\(member) wrote '\(String(decoding: line, as: UTF8.self))'")
            }
            if terms.last?.session != session || terms.last?.epoch != numbers[2] {
                terms.append(
                    Term(member: member, session: session, epoch: numbers[2], start: numbers[1], end: numbers[0]))
            }
            terms[terms.count - 1].end = numbers[0]
        }
        guard !session.isEmpty else { throw TestSupportError("\(member) wrote nothing") }
        return terms
    }

    func violations() -> [String] {
        var (found, elected) = checkEvents()
        var newest: Term?
        for term in terms {
            if let newest {
                if term.start < newest.end {
                    found.append("two at once for \((newest.end - term.start) / 1000) us: \(newest) and \(term)")
                }
                if term.epoch <= newest.epoch {
                    found.append("epoch \(term.epoch) follows upon \(newest.epoch): \(newest) and \(term)")
                }
            }
            // What was lost with Redis' data before the subscriber read it was not heard of.
            let names = elected[term.epoch] ?? []
            if !names.contains("\(term.member) \(term.session)"), !names.isEmpty || count.losses == 0 {
                found.append("\(term), but elected was \(names)")
            }
            if newest.map({ $0.end < term.end }) ?? true { newest = term }
        }
        return found
    }

    /// And who was elected under which epoch, `MEMBER SESSION`.
    private func checkEvents() -> (violations: [String], elected: [Int64: [String]]) {
        var found: [String] = []
        var elected: [Int64: [String]] = [:]
        var last: EventCursor?
        var (epoch, electedEpoch): (Int64, Int64) = (0, 0)
        for item in told {
            defer { last = item.cursor }
            guard case .event(let event) = item else {
                (epoch, electedEpoch) = (0, 0)
                continue
            }
            // The numbers go on from one generation to the next, unless events were lost.
            if event.sequence != (last?.sequence ?? 0) + 1 {
                found.append("event \(event) follows upon \(String(describing: last))")
            }
            guard let its = event.epoch else { continue }
            if its < epoch { found.append("event \(event) is of epoch \(its) after \(epoch)") }
            epoch = its
            guard event.type == .primaryElected else { continue }
            if its <= electedEpoch { found.append("epoch \(its) was elected after \(electedEpoch): \(event)") }
            electedEpoch = its
            elected[its, default: []].append("\(event.member ?? "nobody") \(event.session ?? "")")
        }
        if last == nil { found.append("no events were read") }
        return (found, elected)
    }
}

extension Event {
    /// The session that was elected.
    fileprivate var session: String? {
        guard let detail, let object = try? JSONObject(detail.utf8, allowed: nil, depth: 3),
            case .string(let session)? = object["session"]
        else { return nil }
        return session
    }
}

/// One group, and what is done to it.
final class Nemesis: Sendable {
    enum Fault {
        case kill, freeze
        case cut, delay, halfClose
        case stallRedis, killClients, flushScripts, pauseClients, loseEverything, restart, beginEmpty, stepClock
        case order

        /// Where it strikes: at different places at the same time.
        fileprivate var place: Place {
            switch self {
            case .kill, .freeze: .process
            case .cut, .delay, .halfClose: .line
            case .stallRedis, .killClients, .flushScripts, .pauseClients, .loseEverything, .restart, .beginEmpty,
                .stepClock:
                .server
            case .order: .operators
            }
        }

        static let sets: [[Fault]] = [
            [.kill, .freeze, .stallRedis, .flushScripts, .order],
            [.freeze, .cut, .delay, .halfClose, .killClients, .order],
            [.kill, .halfClose, .loseEverything, .restart, .beginEmpty, .order],
            [.kill, .freeze, .stepClock, .pauseClients, .order],
        ]
    }

    fileprivate enum Place {
        /// Those of each contender.
        case process, line
        /// One for all.
        case server, operators
    }

    /// A process and its line to Redis.
    private struct Contender {
        var number: Int
        var process: Shared<TalkingProcess>
        var proxy: TCPProxy
    }

    /// What all tormentors of a group share.
    private struct Scene {
        var server: RedisServer
        var observer: Observer
        var client: RingfenceClient
        /// It knows the epoch, whoever of the others dies.
        var group: Group
        var shim: ClockShim?
    }

    let faults: [Fault]
    private let seed: UInt64
    private let isHeedless: Bool
    private let script: String?
    private let directory: TemporaryDirectory?
    private let log = Shared<[String]>([])
    private let told = Shared<[Told]>([])
    private let count = Shared(RoleHistory.Count())
    private static let lease = 500
    private static let contenders = 3

    var story: String { log.value.suffix(80).joined(separator: "\n") }

    /// - Parameter script: another text of group.lua, for all.
    init(seed: UInt64, faults: [Fault], heedless: Bool = false, script: String? = nil) {
        self.seed = seed
        self.faults = faults
        isHeedless = heedless
        self.script = script
        directory = try? TemporaryDirectory()
    }

    private func file(_ number: Int) -> String { (directory?.path ?? "/tmp") + "/n\(number)" }

    func history() throws -> RoleHistory {
        let files = try (0..<Self.contenders).map { ("n\($0)", try readFile(file($0))) }
        return try RoleHistory(files, told: told.value)
    }

    /// Strikes until there were so many failovers.
    func run(failovers: Int, within limit: Duration) async throws {
        let shim = faults.contains(.stepClock) ? try await ClockShim() : nil
        let arguments = ["--appendonly", "yes", "--enable-debug-command", "yes"]
        try await withObservedRedis(arguments, under: shim?.command ?? []) { server, observer in
            try await withClient(
                server.url,
                {
                    $0.commandTimeout = .seconds(2)
                    $0.groupScript = script
                }
            ) { client in
                let scene = Scene(
                    server: server, observer: observer, client: client, group: try await client.group("g"), shim: shim)
                let following = Task { await follow(client) }
                defer { following.cancel() }
                try await eventually("the subscriber knows where it begins") { !told.value.isEmpty }
                var contenders: [Contender] = []
                do {
                    for number in 0..<Self.contenders {
                        let proxy = try await TCPProxy.start(to: server)
                        contenders.append(
                            Contender(number: number, process: Shared(try start(number, proxy)), proxy: proxy))
                    }
                    try await torment(contenders, scene, until: ContinuousClock.now + limit, failovers)
                } catch {
                    for contender in contenders { try? await contender.process.value.end() }
                    throw error
                }
                for contender in contenders { try await contender.process.value.end() }
                // What the stream holds is whole too, as far as it was not lost, and the subscriber has read all of it.
                try await observer.checkLog()
                if let last = try await observer.events().last {
                    try await eventually("the subscriber has read event \(last.sequence)") {
                        guard let cursor = told.value.last?.cursor else { return false }
                        return cursor.generation == last.generation && cursor.sequence >= last.sequence
                    }
                }
            }
        }
    }

    private func follow(_ client: RingfenceClient) async {
        var cursor: EventCursor?
        while !Task.isCancelled {
            do {
                for try await item in client.events(after: cursor) {
                    cursor = item.cursor
                    switch item {
                    case .state(let state), .reset(let state, _): told.change { $0.append(.state(state.cursor)) }
                    case .event(let event):
                        told.change { $0.append(.event(event)) }
                        count.change { $0.took(event) }
                    }
                }
            } catch { log.change { $0.append("the subscriber: \(error)") } }
        }
    }

    private func start(_ number: Int, _ proxy: TCPProxy) throws -> TalkingProcess {
        try TalkingProcess.start(
            "TestPrimary",
            [proxy.url, "g", "n\(number)", "\(Self.lease)", file(number)]
                + (isHeedless ? ["heedless"] : script.map { ["script", $0] } ?? []))
    }

    /// All tormentors at work at the same time, each with dice of its own.
    private func torment(
        _ contenders: [Contender], _ scene: Scene, until end: ContinuousClock.Instant, _ failovers: Int
    ) async throws {
        try await withThrowingTaskGroup(of: Void.self) { tormentors in
            let places =
                contenders.map { (Place.process, $0) } + contenders.map { (Place.line, $0) }
                + [(.server, contenders[0]), (.operators, contenders[0])]
            for (index, (place, contender)) in places.enumerated() {
                let own = faults.filter { $0.place == place }
                if own.isEmpty { continue }
                tormentors.addTask { [self] in
                    var dice = SplitMix64(seed: seed &* 64 &+ UInt64(index))
                    // (What the processes wrote is long, and read once.)
                    while count.value.failovers < failovers, ContinuousClock.now < end {
                        try await Task.sleep(for: .milliseconds(dice.pick(300...2500)))
                        let fault = dice.pick(own)
                        let name = place == .process || place == .line ? "\(fault) n\(contender.number)" : "\(fault)"
                        log.change { $0.append("\(name) begins") }
                        switch place {
                        case .process: try await strike(fault, process: contender, &dice)
                        case .line: try await strike(fault, line: contender.proxy, &dice)
                        case .server: try await strike(fault, server: scene, contenders.map(\.proxy), &dice)
                        case .operators: await order(scene.client, &dice)
                        }
                        log.change { $0.append("\(name) is over") }
                        // So many failovers in a row would hold the group.
                        try? await scene.client.operations(on: "g").acknowledge()
                    }
                }
            }
            for try await _ in tormentors {}
        }
    }

    private func strike(_ fault: Fault, process contender: Contender, _ dice: inout SplitMix64) async throws {
        let process = contender.process.value
        if fault == .kill {
            try await process.end()
            try await Task.sleep(for: .milliseconds(dice.pick(0...600)))
            let next = try start(contender.number, contender.proxy)
            contender.process.change { $0 = next }
        } else {
            process.signal(SIGSTOP)
            try await Task.sleep(for: .milliseconds(dice.pick(Int64(Self.lease)...Int64(4 * Self.lease))))
            process.signal(SIGCONT)
        }
    }

    private func strike(_ fault: Fault, line proxy: TCPProxy, _ dice: inout SplitMix64) async throws {
        switch fault {
        case .delay:
            let delay = Duration.milliseconds(dice.pick(20...300))
            proxy.update { $0.serverToClient.delay = delay }
            try await Task.sleep(for: .milliseconds(dice.pick(300...1500)))
            proxy.update { $0.serverToClient.delay = nil }
        case .halfClose:
            let toClient = dice.pick([true, false])
            // What it goes on to say in the other direction may come late.
            if toClient { proxy.update { $0.clientToServer.isStalled = true } }
            proxy.halfClose(toClient: toClient)
            try await Task.sleep(for: .milliseconds(dice.pick(0...1000)))
            proxy.update { $0.clientToServer.isStalled = false }
        default:
            let isSilent = dice.pick([true, false])
            proxy.update {
                $0.clientToServer.isStalled = true
                $0.serverToClient.isStalled = isSilent
            }
            try await Task.sleep(for: .milliseconds(dice.pick(200...Int64(3 * Self.lease))))
            if dice.pick([true, false]) { proxy.cut() }
            proxy.update {
                $0.clientToServer.isStalled = false
                $0.serverToClient.isStalled = false
            }
        }
    }

    private func strike(
        _ fault: Fault, server scene: Scene, _ lines: [TCPProxy], _ dice: inout SplitMix64
    ) async throws {
        let (server, observer) = (scene.server, scene.observer)
        switch fault {
        case .stallRedis: try await observer.send("DEBUG", "SLEEP", "0.\(dice.pick(1...9))")
        case .killClients:
            try await observer.send("CLIENT", "KILL", "TYPE", dice.pick(["normal", "pubsub"]), "SKIPME", "yes")
        case .flushScripts: try await observer.send("SCRIPT", "FLUSH")
        case .pauseClients: try await observer.send("CLIENT", "PAUSE", "\(dice.pick(100...1200))")
        case .loseEverything:
            // Unless it is in Redis alone that the newest epoch is known.
            let script = """
                if tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0) > tonumber(ARGV[1]) then return 0 end
                redis.call('FLUSHALL')
                return 1
                """
            try await eventually("who knows the epoch reaches Redis") { await isReached(scene) }
            let known = scene.group.snapshot.primary?.epoch ?? 0
            try await observer.send("EVAL", script, "1", "ringfence:{default}:state:g", "\(known)")
        case .restart:
            await server.kill(SIGKILL)
            try await Task.sleep(for: .milliseconds(dice.pick(0...1500)))
            try await server.restart()
        case .beginEmpty:
            // Who knows the epoch must be back within a lease of the first candidate that knows nothing, and on a busy
            // machine a lease of this test is over soon. So no candidate reaches the server before.
            let nowhere = try freePort()
            for line in lines { try line.retarget(toPort: nowhere) }
            await server.kill(SIGKILL)
            try await Task.sleep(for: .milliseconds(dice.pick(0...300)))
            let last = try await server.lastInAppendOnlyFile("epoch").flatMap { Int64($0) } ?? 0
            // The same here: whom the last election was never told to may not be all who know it.
            if last <= scene.group.snapshot.primary?.epoch ?? 0 { server.deleteData() }
            try await server.restart()
            try await eventually("who knows the epoch is back") { await isReached(scene) }
            for line in lines { try line.retarget(to: server) }
        case .stepClock:
            // Forward by more than a gap, or back: smaller steps forward cannot be told from time.
            try scene.shim?.set(milliseconds: dice.pick([0, 5000, 3_600_000]))
        case .kill, .freeze, .cut, .delay, .halfClose, .order: break
        }
    }

    private func isReached(_ scene: Scene) async -> Bool { (try? await scene.group.refresh()) != nil }

    /// Two operators at once.
    private func order(_ client: RingfenceClient, _ dice: inout SplitMix64) async {
        await withTaskGroup(of: Void.self) { orders in
            for _ in 0..<2 {
                let kind = dice.pick(0...5)
                let member = "n\(dice.pick(0...Int64(Self.contenders - 1)))"
                orders.addTask {
                    switch kind {
                    case 0, 1: _ = try? await client.operations(on: "g").switchover(timeout: .milliseconds(800))
                    case 2:
                        _ = try? await self.within(3) {
                            try await client.operations(on: "g").failover(to: member, acceptsDataLoss: true)
                        }
                    case 3:
                        try? await client.operations(on: "g").pause(for: .seconds(1))
                        try? await client.operations(on: "g").resume()
                    case 4:
                        try? await client.operations(on: "g").setMaintenance(true, for: member)
                        try? await client.operations(on: "g").setMaintenance(false, for: member)
                    default: try? await client.operations(on: "g").update(.init(brakeCount: 0))
                    }
                }
            }
        }
    }

    private func within<Result: Sendable>(
        _ seconds: Int, _ body: @Sendable @escaping () async throws -> Result
    ) async throws -> Result {
        let task = Task { try await body() }
        let limit = Task {
            try await Task.sleep(for: .seconds(seconds))
            task.cancel()
        }
        defer { limit.cancel() }
        return try await task.value
    }
}
