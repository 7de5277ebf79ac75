// SPDX-License-Identifier: Apache-2.0
import RingfenceCore
import RingfencePlatform
import Synchronization
import TestSupport
import Testing

@Suite struct LockSimulationTests {
    /// Plays seeds until the first that breaks a rule; that one is told again with its trace.
    private static func play(
        _ seeds: ClosedRange<UInt64>, faults: [World.Fault]? = nil, flaws: World.Flaws = .init()
    ) -> (violation: Violation?, steps: Int, delivered: Int) {
        var steps = 0
        var delivered = 0
        for seed in seeds {
            let world = World(seed: seed, faults: faults, flaws: flaws)
            do {
                try world.run()
            } catch {
                return (error as? Violation, steps, delivered)
            }
            steps += world.steps
            delivered += world.checker.delivered
        }
        return (nil, steps, delivered)
    }

    private static func tell(_ seed: UInt64) -> String {
        let world = World(seed: seed, isTracing: true)
        try? world.run()
        return world.trace.joined(separator: "\n")
    }

    private static func number(_ variable: String) -> UInt64? {
        getenv(variable).flatMap { UInt64(String(cString: $0)) }
    }

    /// Seeds in a run of all tests; more with RINGFENCE_SIMULATION_SEEDS.
    private static let seeds: UInt64 = 96

    @Test(arguments: 0..<8 as Range<UInt64>)
    func `no seed breaks a rule`(part: UInt64) async throws {
        if let seed = Self.number("RINGFENCE_SIMULATION_SEED") {
            guard part == 0 else { return }
            let (violation, _, _) = try await onOwnThread { Self.play(seed...seed) }
            if let violation { Issue.record("\(Self.tell(seed))\n\(violation)") }
            return
        }
        let perPart = max(1, (Self.number("RINGFENCE_SIMULATION_SEEDS") ?? Self.seeds) / 8)
        let (violation, steps, delivered) = try await onOwnThread {
            Self.play(part * perPart + 1...(part + 1) * perPart)
        }
        if let violation {
            Issue.record("\(violation)\nAgain, with its trace: RINGFENCE_SIMULATION_SEED=<seed>")
        } else {
            #expect(steps > 100_000 / 8 && delivered > 1000, "too little happened: \(steps) steps, \(delivered) grants")
        }
    }

    @Test func `a seed tells the same story twice`() async throws {
        let (first, second) = try await onOwnThread { (Self.tell(7), Self.tell(7)) }
        #expect(!first.isEmpty && first == second)
    }
}

/// What each rule of the checker is worth: with one thing made wrong, it must find it.
@Suite struct LockSimulationControls {
    private static func expectFound(
        _ complaints: [String], _ faults: [World.Fault], _ spoil: (inout World.Flaws) -> Void
    ) async throws {
        var flaws = World.Flaws()
        spoil(&flaws)
        let found = try await onOwnThread { [flaws] () -> String? in
            for seed in 1...1500 as ClosedRange<UInt64> {
                do { try World(seed: seed, faults: faults, flaws: flaws).run() } catch { return "\(error)" }
            }
            return nil
        }
        let text = try #require(found, "1500 seeds did not find it")
        #expect(complaints.contains { text.contains($0) }, "another rule was broken: \(text)")
    }

    @Test func `a counter as fence is found when Redis loses its data`() async throws {
        try await Self.expectFound(["does not exceed"], [.restartRedis]) { $0.fenceRule = .counter }
    }

    @Test func `a grant without an end to its claim is found when a waiter dies`() async throws {
        try await Self.expectFound(["still busy", "does not get every name"], [.kill]) { $0.claimNeverEnds = true }
    }

    @Test func `what is not cleaned up is found as a ghost`() async throws {
        try await Self.expectFound(["a ghost"], []) { $0.cleansNothingUp = true }
    }

    @Test func `late bytes of a former connection are found as a ghost`() async throws {
        try await Self.expectFound(["a ghost"], [.cutWire]) { $0.reconnectsWithoutKillingThePredecessor = true }
    }

    @Test func `a deadline counted from the answer is found as two holders`() async throws {
        try await Self.expectFound(["both believe"], [.slowWires, .pause]) { $0.countsDeadlineFromReceipt = true }
    }

    @Test func `tickets used again for a name are found as a grant that never was`() async throws {
        try await Self.expectFound(["never granted", "both believe"], [.slowWires, .cutInbox]) {
            $0.reusesTickets = true
        }
    }
}
