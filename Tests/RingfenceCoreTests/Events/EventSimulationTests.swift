// SPDX-License-Identifier: Apache-2.0
import RingfenceCore
import RingfencePlatform
import TestSupport
import Testing

@Suite struct EventSimulationTests {
    private static func number(_ variable: String) -> UInt64? {
        getenv(variable).flatMap { UInt64(String(cString: $0)) }
    }

    /// Seeds in a run of all tests; more with RINGFENCE_SIMULATION_SEEDS.
    private static let seeds: UInt64 = 400

    @Test(arguments: 0..<4 as Range<UInt64>)
    func `every view is a chain or announces a reset, whatever happens`(part: UInt64) async throws {
        if let seed = Self.number("RINGFENCE_SIMULATION_SEED") {
            guard part == 0 else { return }
            let (violation, trace) = try await onOwnThread {
                let world = EventWorld(seed: seed, isTracing: true)
                try? world.run()
                return (world.violation?.description, world.trace.joined(separator: "\n"))
            }
            if let violation { Issue.record("\(trace)\n\(violation)") }
            return
        }
        let perPart = max(1, (Self.number("RINGFENCE_SIMULATION_SEEDS") ?? Self.seeds) / 4)
        let (violation, delivered, resets) = try await onOwnThread { () -> (String?, Int, Int) in
            var (delivered, resets) = (0, 0)
            for seed in part * perPart + 1...(part + 1) * perPart {
                let world = EventWorld(seed: seed)
                try? world.run()
                if let violation = world.violation { return (violation.description, 0, 0) }
                delivered += world.delivered
                resets += world.resets
            }
            return (nil, delivered, resets)
        }
        if let violation {
            Issue.record("\(violation)\nAgain, with its trace: RINGFENCE_SIMULATION_SEED=<seed>")
        } else {
            #expect(
                delivered > 1000 * Int(perPart) && resets > Int(perPart) / 4, "\(delivered) events, \(resets) resets")
        }
    }

    @Test func `a network that loses, doubles, reorders and cuts messages never causes a reset`() async throws {
        let (violation, resets, gaps) = try await onOwnThread { () -> (String?, Int, Int) in
            var (resets, gaps) = (0, 0)
            for seed in 1...40 as ClosedRange<UInt64> {
                let world = EventWorld(
                    seed: seed, faults: [.lose, .double, .reorder, .cutMessages, .loseAnswers, .restart],
                    retain: 100_000)
                try? world.run()
                if let violation = world.violation { return (violation.description, 0, 0) }
                resets += world.resets
                gaps += world.counts.gaps
            }
            return (nil, resets, gaps)
        }
        #expect(violation == nil)
        #expect(resets == 0 && gaps > 100, "\(resets) resets, \(gaps) gaps")
    }

    private static func expectFound(
        _ complaints: [String], _ faults: [EventWorld.Fault], _ spoil: (inout EventWorld.Flaws) -> Void
    ) async throws {
        var flaws = EventWorld.Flaws()
        spoil(&flaws)
        let found = try await onOwnThread { [flaws] () -> String? in
            for seed in 1...200 as ClosedRange<UInt64> {
                let world = EventWorld(seed: seed, faults: faults, flaws: flaws)
                try? world.run()
                if let violation = world.violation { return violation.description }
            }
            return nil
        }
        let text = try #require(found, "200 seeds did not find it")
        #expect(complaints.contains { text.contains($0) }, "another rule was broken: \(text)")
    }

    @Test func `a log without generations is found when a replica takes over`() async throws {
        try await Self.expectFound(["which follows"], [.promote, .sleepers]) { $0.hasNoGenerations = true }
    }

    @Test func `a log that forgets where generations ended is found when a replica takes over`() async throws {
        try await Self.expectFound(["which follows"], [.promote, .cutMessages, .kill]) {
            $0.forgetsWhereGenerationsEnded = true
        }
    }

    @Test func `silence that nobody checks is found when the last message is lost`() async throws {
        try await Self.expectFound(["not at the end", "not live"], [.lose, .loseAnswers]) {
            $0.neverChecksSilence = true
        }
    }

    @Test func `a look that is asked for late and not done is found`() async throws {
        try await Self.expectFound(["not at the end", "not live"], [.lose, .loseAnswers, .lateTimers]) {
            $0.forgetsToLook = true
        }
    }

    @Test func `a reset that nobody heeds is found`() async throws {
        try await Self.expectFound(["which follows"], [.promote, .restartEmpty]) { $0.takesResetsForNothing = true }
    }
}
