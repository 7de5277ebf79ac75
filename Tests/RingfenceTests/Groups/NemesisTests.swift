// SPDX-License-Identifier: Apache-2.0
//
// Failovers of real processes on a real Redis: they are killed, frozen, cut off and delayed, Redis stalls, forgets and
// restarts, and two operators order at once; one such fault after the other in each group. What counts is not what anybody says but what the processes wrote down while they held the role, on
// the machine's one monotonic clock:
//
//   no two       the times in which two terms were held, from the first look to the last, do not overlap
//   order        later terms have higher epochs
//   one holder   an epoch is held by one process, and if its election was heard of, by the elected one
//
// Each group has a server, processes and a nemesis of its own; its dice are seeded, and a failure prints the seed. What
// the article on failover says is not promised is not done: the server's clock is not set forward by less than a gap, and
// somebody who knows the epoch lives when Redis loses everything.

import Hiredis
import Ringfence
import RingfenceCore
import TestSupport
import Testing

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

@Suite(.serialized) struct NemesisTests {
    @Test func `over two hundred failovers of real processes no two are primary at once, and epochs only grow`()
        async throws
    {
        try await withThrowingTaskGroup(of: Int.self) { groups in
            for number in 0..<4 {
                groups.addTask {
                    let nemesis = Nemesis(seed: UInt64.random(in: 0..<1_000_000), faults: Nemesis.Fault.sets[number])
                    try await nemesis.run(terms: 54, within: .seconds(240))
                    let history = try nemesis.history()
                    for violation in history.violations(elected: nemesis.elected) {
                        Issue.record("seed \(nemesis.seed), faults \(nemesis.faults): \(violation)\n\(nemesis.story)")
                    }
                    return history.terms.count
                }
            }
            var terms = 0
            for try await count in groups { terms += count }
            // Who is elected and struck before it has looked once wrote nothing.
            #expect(terms >= 204, "only \(terms) terms")
            print("nemesis: \(terms) terms, \(terms - 4) failovers")
        }
    }

    @Test func `a process that does not look at its own clock is found`() async throws {
        let nemesis = Nemesis(seed: 1, faults: [.freeze, .cut], heedless: true)
        try await nemesis.run(terms: 8, within: .seconds(240))
        let violations = try nemesis.history().violations(elected: nemesis.elected)
        #expect(violations.contains { $0.contains("at once") }, "\(violations)")
    }

    @Test func `an epoch that begins anew, because nobody is left who knew it, is found`() async throws {
        let nemesis = Nemesis(seed: 2, faults: [.forgetEverybody])
        try await nemesis.run(terms: 4, within: .seconds(240))
        let violations = try nemesis.history().violations(elected: [:])
        #expect(violations.contains { $0.contains("epoch") }, "\(violations)")
    }
}

/// What the processes wrote down.
struct RoleHistory {
    struct Term {
        var member: String
        var epoch: Int64
        /// Held from a moment before this at the latest,
        var start: Int64
        /// to a moment after this at the earliest.
        var end: Int64
    }

    var terms: [Term]

    init(_ files: [(member: String, text: String)]) {
        terms = []
        for (member, text) in files {
            var last: Term?
            for line in text.utf8.split(separator: UInt8(ascii: "\n")) {
                let numbers = line.split(separator: UInt8(ascii: " ")).map { field in
                    field.reduce(Int64(0)) { $0 &* 10 &+ Int64($1) - 48 }
                }
                guard numbers.count == 3 else {
                    if let last { terms.append(last) }
                    last = nil
                    continue
                }
                if last?.epoch != numbers[2] {
                    if let last { terms.append(last) }
                    last = Term(member: member, epoch: numbers[2], start: numbers[1], end: numbers[0])
                }
                last!.end = numbers[0]
            }
            if let last { terms.append(last) }
        }
        terms.sort { $0.start < $1.start }
    }

    func violations(elected: [Int64: String]) -> [String] {
        var found: [String] = []
        var newest: Term?
        for term in terms {
            if let newest {
                if term.start < newest.end {
                    found.append("two at once for \((newest.end - term.start) / 1000) us: \(newest) and \(term)")
                }
                if term.epoch <= newest.epoch { found.append("epoch \(term.epoch) follows upon \(newest.epoch)") }
            }
            if let member = elected[term.epoch], member != term.member {
                found.append("epoch \(term.epoch) is held by \(term.member), elected was \(member)")
            }
            if newest.map({ $0.end < term.end }) ?? true { newest = term }
        }
        return found
    }
}

/// One group, and what is done to it.
final class Nemesis: Sendable {
    enum Fault: CaseIterable {
        case kill, freeze, cut, delay, stallRedis, killClients, flushScripts, pauseClients, loseEverything, restart,
            stepClock, operators
        /// Redis loses everything, and so does everybody who knew: not among those that must do no harm.
        case forgetEverybody

        static let sets: [[Fault]] = [
            [.kill, .freeze, .stallRedis, .flushScripts],
            [.cut, .delay, .killClients, .operators],
            [.loseEverything, .restart, .kill, .operators],
            [.stepClock, .freeze, .pauseClients, .operators, .kill],
        ]
    }

    private struct Contender {
        var process: TalkingProcess
        var proxy: TCPProxy
    }

    let seed: UInt64
    let faults: [Fault]
    private let isHeedless: Bool
    private let directory: TemporaryDirectory?
    private let random: Shared<SplitMix64>
    private let log = Shared<[String]>([])
    private let heard = Shared<[Int64: String]>([:])
    private let elections = Shared(0)
    private static let lease = 500

    /// Who was elected for which epoch, as far as it was heard of.
    var elected: [Int64: String] { heard.value }
    var story: String { log.value.suffix(60).joined(separator: "\n") }

    init(seed: UInt64, faults: [Fault], heedless: Bool = false) {
        self.seed = seed
        self.faults = faults
        isHeedless = heedless
        random = Shared(SplitMix64(seed: seed))
        directory = try? TemporaryDirectory()
    }

    private func pick<Value: Sendable>(_ values: [Value]) -> Value { random.change { $0.pick(values) } }
    private func pick(_ range: ClosedRange<Int>) -> Int {
        Int(random.change { $0.pick(Int64(range.lowerBound)...Int64(range.upperBound)) })
    }
    private func say(_ text: String) { log.change { $0.append(text) } }
    private func file(_ number: Int) -> String { (directory?.path ?? "/tmp") + "/n\(number)" }

    func history() throws -> RoleHistory {
        RoleHistory((0..<3).map { ("n\($0)", (try? readFile(file($0))) ?? "") })
    }

    /// Strikes until there were so many terms.
    func run(terms: Int, within limit: Duration) async throws {
        let shim = faults.contains(.stepClock) ? try await ClockShim() : nil
        let arguments = ["--appendonly", "yes", "--enable-debug-command", "yes"]
        try await withObservedRedis(arguments, under: shim?.command ?? []) { server, observer in
            try await withClient(server.url, { $0.commandTimeout = .seconds(2) }) { client in
                // It knows the epoch, whoever of the others dies.
                let group = faults.contains(.forgetEverybody) ? nil : try await client.group("g")
                let following = Task { [heard, elections] in
                    while !Task.isCancelled {
                        for try await item in client.events() {
                            guard case .event(let event) = item, event.type == .primaryElected, let epoch = event.epoch,
                                let member = event.member
                            else { continue }
                            heard.change { $0[epoch] = member }
                            elections.change { $0 += 1 }
                        }
                    }
                }
                defer { following.cancel() }
                let contenders = Shared<[Contender]>([])
                for number in 0..<3 {
                    let proxy = try await TCPProxy.start(to: server)
                    let contender = Contender(process: try start(number, proxy), proxy: proxy)
                    contenders.change { $0.append(contender) }
                }
                let end = ContinuousClock.now + limit
                do {
                    // (What the processes wrote is long, and read once.)
                    while elections.value < terms, ContinuousClock.now < end {
                        try await strike(pick(faults), contenders, server, observer, client, shim)
                        try await Task.sleep(for: .milliseconds(pick(50...700)))
                    }
                } catch {
                    for contender in contenders.value { try? await contender.process.end() }
                    throw error
                }
                for contender in contenders.value { try await contender.process.end() }
                withExtendedLifetime(group) {}
            }
        }
    }

    private func start(_ number: Int, _ proxy: TCPProxy) throws -> TalkingProcess {
        try TalkingProcess.start(
            "TestPrimary",
            [proxy.url, "g", "n\(number)", "\(Self.lease)", file(number)] + (isHeedless ? ["heedless"] : []))
    }

    private func strike(
        _ fault: Fault, _ contenders: Shared<[Contender]>, _ server: RedisServer, _ observer: Observer,
        _ client: RingfenceClient, _ shim: ClockShim?
    ) async throws {
        let number = pick(0...2)
        let contender = contenders.value[number]
        say("\(fault) n\(number)")
        switch fault {
        case .kill:
            try await contender.process.end()
            let process = try start(number, contender.proxy)
            contenders.change { $0[number].process = process }
        case .freeze:
            contender.process.signal(SIGSTOP)
            try await Task.sleep(for: .milliseconds(pick(Self.lease...4 * Self.lease)))
            contender.process.signal(SIGCONT)
        case .cut:
            contender.proxy.update {
                $0.clientToServer.isStalled = true
                $0.serverToClient.isStalled = pick([true, false])
            }
            try await Task.sleep(for: .milliseconds(pick(200...3 * Self.lease)))
            if pick([true, false]) { contender.proxy.cut() }
            contender.proxy.update {
                $0.clientToServer.isStalled = false
                $0.serverToClient.isStalled = false
            }
        case .delay:
            let delay = Duration.milliseconds(pick(20...300))
            contender.proxy.update { $0.serverToClient.delay = delay }
            try await Task.sleep(for: .milliseconds(pick(300...1500)))
            contender.proxy.update { $0.serverToClient.delay = nil }
        case .stallRedis: try await observer.send("DEBUG", "SLEEP", "0.\(pick(1...9))")
        case .killClients:
            try await observer.send("CLIENT", "KILL", "TYPE", pick(["normal", "pubsub"]), "SKIPME", "yes")
        case .flushScripts: try await observer.send("SCRIPT", "FLUSH")
        case .pauseClients: try await observer.send("CLIENT", "PAUSE", "\(pick(100...1200))")
        case .loseEverything: try await observer.send("FLUSHALL")
        case .restart:
            await server.kill(SIGKILL)
            try await Task.sleep(for: .milliseconds(pick(0...1500)))
            try await server.restart()
        case .stepClock:
            // Forward by more than a gap, or back: smaller steps forward cannot be told from time.
            try shim?.set(milliseconds: Int64(pick([0, 5000, 3_600_000])))
        case .operators:
            await withTaskGroup(of: Void.self) { orders in
                for _ in 0..<2 {
                    let kind = pick(0...5)
                    let member = "n\(pick(0...2))"
                    orders.addTask {
                        switch kind {
                        case 0, 1: _ = try? await client.switchover(group: "g", timeout: .milliseconds(800))
                        case 2:
                            _ = try? await self.within(3) {
                                try await client.failover(group: "g", to: member, acceptsDataLoss: true)
                            }
                        case 3:
                            try? await client.pause(group: "g", for: .seconds(1))
                            try? await client.resume(group: "g")
                        case 4:
                            try? await client.setMaintenance(true, of: member, group: "g")
                            try? await client.setMaintenance(false, of: member, group: "g")
                        default: try? await client.changeSettings(.init(brakeCount: 0), group: "g")
                        }
                    }
                }
            }
        case .forgetEverybody:
            for contender in contenders.value { try await contender.process.end() }
            try await observer.send("FLUSHALL")
            for number in 0..<3 {
                let process = try start(number, contenders.value[number].proxy)
                contenders.change { $0[number].process = process }
            }
            try await Task.sleep(for: .seconds(2))
        }
        // So many failovers in a row would hold the group.
        try? await client.acknowledge(group: "g")
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
