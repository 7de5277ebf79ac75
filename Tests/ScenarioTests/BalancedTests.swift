// SPDX-License-Identifier: Apache-2.0
//
// docker/examples/balanced, run for real: four HTTP services with agents, of which one is slow, one fails, one hangs,
// and one is killed and comes back. Their checks see only the last of it. Three callers have the same load at the same
// moments: plain round robin over the four addresses, which learns nothing, and the balancer by least load and by
// expected cost.
//
// What is asserted holds on any machine, as it counts calls. Each of `callers` tasks has one call of each caller under
// way. A member is ejected by the fifth failure in a row, at once; others that are under way then may fail as well, so
// in one stretch of service a faulty member costs at most 5 + callers - 1 errors. It is in service at first and after
// each ejection, and none lasts less than `ejection`: that bounds the stretches by the time the phase took, however
// long that is.
import Ringfence
import RingfenceOperations
import RingfencePlatform
import Synchronization
import TestSupport
import Testing

extension Scenarios {
    @Suite("Four balanced services") struct BalancedTests {
        private static let group = "shop"
        private static let callers = 12
        private static let ejection = Duration.seconds(3)
        private static let slowness = Duration.milliseconds(300)

        static func name(_ index: Int) -> String { "shop-\(index + 1)" }

        /// What one caller met in one phase.
        struct Tally: Sendable {
            var latencies: [Duration] = []
            var calls = [0, 0, 0, 0]
            var errors = [0, 0, 0, 0]
            /// The balancer had nobody.
            var refused = 0

            var errorCount: Int { errors.reduce(refused, +) }
            /// Errors of members other than the faulty one.
            func errors(besides faulty: Int?) -> Int { errorCount - (faulty.map { errors[$0] } ?? 0) }
            var p99: Duration {
                let sorted = latencies.sorted()
                return sorted.isEmpty ? .zero : sorted[(sorted.count * 99 + 99) / 100 - 1]
            }

            mutating func add(_ outcome: Outcome) {
                latencies.append(outcome.latency)
                guard let member = outcome.member else { return refused += 1 }
                calls[member] += 1
                if outcome.failed { errors[member] += 1 }
            }
        }

        /// One phase, as all three met it.
        struct Phase: Sendable {
            var turns = 0
            var elapsed = Duration.zero
            var roundRobin = Tally()
            var leastLoaded = Tally()
            var peakEWMA = Tally()
            var balanced: [Tally] { [leastLoaded, peakEWMA] }

            /// At most so many errors a faulty member may cost a balancer.
            var bound: Int {
                let stretches = 1 + Int(elapsed / BalancedTests.ejection)
                return stretches * (5 + BalancedTests.callers - 1)
            }
        }

        /// Whom a call went to, nil: to nobody; and what came of it.
        typealias Outcome = (member: Int?, failed: Bool, latency: Duration)

        /// A phase while it is met.
        private final class Record: Sendable {
            let phase = Mutex(Phase())

            /// The number of the next turn; nil: no more.
            func next(
                _ what: String, after turns: Int, until isDone: (Phase) -> Bool, since start: ContinuousClock.Instant
            ) throws -> Int? {
                let seen = phase.withLock { $0 }
                if seen.turns >= turns {
                    if isDone(seen) { return nil }
                    // A net, and generous: nothing is decided by it.
                    guard ContinuousClock.now < start + .seconds(180) else {
                        throw TestSupportError("\(what): not so after \(seen.turns) calls of each")
                    }
                }
                return phase.withLock {
                    $0.turns += 1
                    return $0.turns - 1
                }
            }

            func add(_ outcomes: (plain: Outcome, least: Outcome, peak: Outcome)) {
                phase.withLock {
                    $0.roundRobin.add(outcomes.plain)
                    $0.leastLoaded.add(outcomes.least)
                    $0.peakEWMA.add(outcomes.peak)
                }
            }
        }

        /// The recipe on one machine.
        private final class Shop: Sendable {
            let stage: Stage
            let ports: [Int]
            let client: RingfenceClient
            let group: Group
            let leastLoaded: Balancer
            let peakEWMA: Balancer
            private let services = Mutex<[Int: ChildProcess]>([:])

            init(_ stage: Stage) async throws {
                self.stage = stage
                ports = [try freePort(), try freePort(), try freePort(), try freePort()]
                for (index, file) in ["a.json", "b.json", "c.json", "d.json"].enumerated() {
                    try stage.configure(
                        name(index), from: file,
                        [
                            "redis://127.0.0.1:6379": stage.redis.url,
                            "10.0.0.\(index + 1):8080": "127.0.0.1:\(ports[index])",
                            "10.0.0.\(index + 1):8010": "127.0.0.1:\(try freePort())",
                        ])
                }
                client = try RingfenceClient(.init(url: stage.redis.url, owner: "cashier"))
                group = try await client.group(BalancedTests.group)
                var options = BalancerOptions()
                // Shorter than anybody should, so that a test sees them come back.
                options.baseEjectionTime = BalancedTests.ejection
                options.slowStart = .seconds(1)
                leastLoaded = try group.balancer(.leastLoaded, options: options)
                peakEWMA = try group.balancer(.peakEWMA, options: options)
            }

            func address(_ index: Int) -> String { "127.0.0.1:\(ports[index])" }

            func startService(_ index: Int) async throws {
                let service = try await stage.start(
                    [stage.files + "/service.py", address(index), name(index)], log: "service-\(index)")
                services.withLock { $0[index] = service }
                // Round robin calls it at once, and the balancer too while few others are well.
                try await eventually("\(name(index)) answers", within: .seconds(60)) {
                    (try? await get(address(index))) != nil
                }
            }

            func kill(_ index: Int) async {
                let service = services.withLock { $0[index] }
                service?.signal(SIGKILL)
                _ = await service?.wait()
            }

            /// Tells a service how to be from now on.
            func tell(_ index: Int, _ what: String) async throws {
                try await shell("curl -sf --noproxy '*' -X POST 'http://\(address(index))/\(what)'")
            }

            func state(_ balancer: Balancer, _ index: Int) -> BalancerState.Member? {
                balancer.state.member(name(index))
            }

            /// One call of each at the same moment, and again when all three have ended, in `callers` tasks at once;
            /// until there were so many, and what is waited for is so.
            func load(
                _ what: String, turns: Int, until isDone: @escaping @Sendable (Phase) -> Bool = { _ in true }
            ) async throws -> Phase {
                let start = ContinuousClock.now
                let record = Record()
                try await withThrowingTaskGroup(of: Void.self) { tasks in
                    for _ in 0..<callers {
                        tasks.addTask { [self] in
                            while let turn = try record.next(what, after: turns, until: isDone, since: start) {
                                async let plain = callPlainly(turn % 4)
                                async let least = call(leastLoaded)
                                async let peak = call(peakEWMA)
                                record.add(try await (plain, least, peak))
                            }
                        }
                    }
                    for try await _ in tasks {}
                }
                var phase = record.phase.withLock { $0 }
                phase.elapsed = ContinuousClock.now - start
                return phase
            }

            private func get(_ address: String) async throws {
                try await LoopbackHTTP.get("/pay", from: address, within: .seconds(1))
            }

            private func callPlainly(_ index: Int) async throws -> Outcome {
                let start = ContinuousClock.now
                do {
                    try await get(address(index))
                    return (index, false, ContinuousClock.now - start)
                } catch is LoopbackHTTP.Failure { return (index, true, ContinuousClock.now - start) }
            }

            private func call(_ balancer: Balancer) async throws -> Outcome {
                let start = ContinuousClock.now
                var member: Int?
                do {
                    try await balancer.withMember { picked in
                        member = (0..<4).first { picked.id == name($0) }
                        try await get(picked.address)
                    }
                    return (member, false, ContinuousClock.now - start)
                } catch is LoopbackHTTP.Failure {
                    return (member, true, ContinuousClock.now - start)
                } catch is RingfenceError {
                    return (nil, true, ContinuousClock.now - start)
                }
            }

            /// Whether the log has this about a member, by us.
            func isLogged(_ kind: String, _ index: Int) async throws -> Bool {
                let log = try await stage.redis.cli("--raw", "XRANGE", "ringfence:{default}:events", "-", "+")
                return log.split(separator: "\n").contains {
                    $0.contains(kind) && $0.contains("\"\(name(index))\"") && $0.contains("cashier")
                }
            }

            /// Waits until a member is back, as both see it.
            func back(_ index: Int) async throws {
                try await eventually("\(name(index)) is back", within: .seconds(120)) {
                    [leastLoaded, peakEWMA].allSatisfy {
                        let seen = state($0, index)
                        return seen?.canBePicked == true && seen?.ejectedUntil == nil
                    }
                }
            }
        }

        /// One line: what each met, and how many calls went to the member that is not well.
        private func show(_ name: String, _ phase: Phase, _ member: Int? = nil) {
            func number(_ duration: Duration) -> String { "\(Int((duration / .milliseconds(1)).rounded())) ms" }
            func text(_ tally: Tally) -> String {
                let thousandths = Int(1000 * tally.errorCount / max(1, tally.latencies.count))
                let calls = member.map { "\(tally.calls[$0]) calls to it, " } ?? ""
                return calls
                    + "\(tally.errorCount) errors (\(thousandths / 10).\(thousandths % 10) %), p99 \(number(tally.p99))"
            }
            print(
                "balanced \(name): \(phase.turns) calls each; round robin \(text(phase.roundRobin));",
                "leastLoaded \(text(phase.leastLoaded)); peakEWMA \(text(phase.peakEWMA))")
        }

        /// Round robin met the fault with every fourth call, the balancer hardly.
        private func check(_ phase: Phase, faulty: Int) {
            let plain = phase.roundRobin
            #expect(abs(plain.calls[faulty] * 4 - phase.turns) <= 4)
            #expect(plain.errors[faulty] == plain.calls[faulty], "round robin meets it each time")
            for tally in phase.balanced {
                #expect(tally.errors[faulty] == tally.calls[faulty], "it fails whoever calls it")
                #expect(tally.errors[faulty] <= phase.bound)
                #expect(tally.errors[faulty] < plain.errors[faulty])
            }
            checkOthers(phase, faulty: faulty)
        }

        /// The control: who is well answers everybody.
        private func checkOthers(_ phase: Phase, faulty: Int?) {
            for tally in [phase.roundRobin] + phase.balanced {
                #expect(tally.errors(besides: faulty) * 20 <= phase.turns)
            }
        }

        @Test("one slow, one failing, one hanging, one killed cost the balancer a few calls and round robin a quarter")
        func faults() async throws {
            let stage = try await Stage("balanced")
            do {
                let shop = try await Shop(stage)
                for index in 0..<4 {
                    try await shop.startService(index)
                    _ = try await stage.startAgent(Self.name(index), environment: [])
                }
                for index in 0..<4 { try await shop.back(index) }
                // All have been here for a while when something goes wrong.
                let calm = try await shop.load("all are called", turns: 400) { phase in
                    phase.balanced.allSatisfy { $0.calls.allSatisfy { $0 > 0 } }
                }
                show("calm", calm)
                checkOthers(calm, faulty: nil)

                try await slow(shop)
                try await failing(shop)
                try await hanging(shop)
                try await killed(shop)
            } catch {
                let story = await stage.story(Self.group)
                await stage.end()
                throw TestSupportError("\(error)\n\(story)")
            }
            await stage.end()
        }

        /// It answers, and its check passes: only who learns from latency, or looks at what is outstanding, calls it
        /// less.
        private func slow(_ shop: Shop) async throws {
            try await shop.tell(0, "slow?ms=300")
            let phase = try await shop.load("one is slow", turns: 1200)
            show("slow", phase, 0)
            checkOthers(phase, faulty: nil)
            #expect(phase.roundRobin.p99 >= Self.slowness)
            // Not its 99th percentile, which a machine that stalls would spoil: how often it is called is what makes
            // that.
            #expect(phase.peakEWMA.calls[0] * 10 < phase.roundRobin.calls[0])
            for tally in phase.balanced { #expect(tally.calls[0] < phase.roundRobin.calls[0]) }
            try await shop.tell(0, "slow?ms=0")
        }

        /// It fails at once, and its check passes. The same by hand, for who is not written in Swift.
        private func failing(_ shop: Shop) async throws {
            try await shop.tell(1, "fail?on=1")
            let phase = try await shop.load("one fails", turns: 800) { _ in
                shop.state(shop.leastLoaded, 1)?.ejectedUntil != nil
            }
            show("failing", phase, 1)
            check(phase, faulty: 1)
            try await overHTTP(shop)
            try await shop.tell(1, "fail?on=0")
            try await returned(shop, 1)
        }

        /// It takes calls and does not answer, and its check passes.
        private func hanging(_ shop: Shop) async throws {
            try await shop.tell(2, "hang?on=1")
            let phase = try await shop.load("one hangs", turns: 400) { _ in
                shop.state(shop.leastLoaded, 2)?.ejectedUntil != nil
            }
            show("hanging", phase, 2)
            check(phase, faulty: 2)
            try await shop.tell(2, "hang?on=0")
            try await returned(shop, 2)
        }

        /// Nobody listens any more, and its check sees it.
        private func killed(_ shop: Shop) async throws {
            await shop.kill(3)
            let phase = try await shop.load("one is killed", turns: 800) { _ in
                [shop.leastLoaded, shop.peakEWMA].allSatisfy { shop.state($0, 3)?.canBePicked == false }
            }
            show("killed", phase, 3)
            check(phase, faulty: 3)
            try await shop.startService(3)
            try await shop.back(3)
            let after = try await shop.load("it is called again", turns: 400) { phase in
                phase.balanced.allSatisfy { $0.calls[3] > 0 }
            }
            show("returned", after, 3)
            checkOthers(after, faulty: nil)
        }

        /// The member that is well again is in service again and called, and the log has both.
        private func returned(_ shop: Shop, _ index: Int) async throws {
            try await shop.back(index)
            // By expected cost it is called when its cost has decayed, which is not waited for.
            let phase = try await shop.load("\(Self.name(index)) is called again", turns: 100) {
                $0.leastLoaded.calls[index] > 0
            }
            checkOthers(phase, faulty: nil)
            for kind in ["member.ejected", "member.returned"] {
                try await eventually("\(kind) of \(Self.name(index)) is logged") {
                    try await shop.isLogged(kind, index)
                }
            }
        }

        /// pick.sh with one that fails: five calls meet it before `serve` ejects it, for 30 s as it does by default.
        private func overHTTP(_ shop: Shop) async throws {
            let port = try freePort()
            let base = "http://127.0.0.1:\(port)"
            _ = try await shop.stage.start(
                [try builtExecutable("ringfence"), "serve", "--redis", shop.stage.redis.url, "--port", "\(port)"],
                log: "serve")
            try await eventually("it serves", within: .seconds(60)) {
                (try? await shell("curl -sf --noproxy '*' \(base)/openapi.json")) != nil
            }
            let start = ContinuousClock.now
            var failures = 0
            var answers: Set<String> = []
            // One after the other, so five in a row are five.
            for _ in 0..<60 {
                let answer = try await shell(
                    "'\(shop.stage.files)/pick.sh' \(base) \(Self.group) /pay 2>&1; echo $?")
                let lines = answer.split(separator: "\n").map(String.init)
                if lines.last == "0" { answers.insert(lines[0]) } else { failures += 1 }
                if lines.last != "0" { #expect(lines == ["failed", "1"], "it was called, and it failed: \(lines)") }
            }
            let stretches = 1 + Int((ContinuousClock.now - start) / .seconds(30))
            print("balanced pick.sh: 60 calls, \(failures) errors")
            #expect(failures > 0 && failures <= 5 * stretches)
            #expect(answers == Set([0, 2, 3].map(Self.name)))
        }
    }
}
