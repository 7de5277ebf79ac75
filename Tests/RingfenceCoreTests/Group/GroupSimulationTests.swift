// SPDX-License-Identifier: Apache-2.0
import RingfenceCore
import RingfencePlatform
import TestSupport
import Testing

@Suite struct GroupSimulationTests {
    private static func number(_ variable: String) -> UInt64? {
        getenv(variable).flatMap { UInt64(String(cString: $0)) }
    }

    private static func tell(_ seed: UInt64) -> String {
        let world = GroupWorld(seed: seed, isTracing: true)
        try? world.run()
        return world.trace.joined(separator: "\n")
    }

    /// Seeds in a run of all tests; more with RINGFENCE_SIMULATION_SEEDS.
    private static let seeds: UInt64 = 240

    @Test(arguments: 0..<4 as Range<UInt64>)
    func `no seed breaks a rule of groups`(part: UInt64) async throws {
        if let seed = Self.number("RINGFENCE_SIMULATION_SEED") {
            guard part == 0 else { return }
            let story = try await onOwnThread { Self.tell(seed) }
            if story.contains("VIOLATION") { Issue.record("\(story)") }
            return
        }
        let perPart = max(1, (Self.number("RINGFENCE_SIMULATION_SEEDS") ?? Self.seeds) / 4)
        let (violation, counts) = try await onOwnThread { () -> (String?, [Int]) in
            var counts = [0, 0, 0, 0]
            for seed in part * perPart + 1...(part + 1) * perPart {
                let world = GroupWorld(seed: seed)
                do { try world.run() } catch { return ("\(error)", counts) }
                counts[0] += world.steps
                counts[1] += world.checker.changes
                counts[2] += world.checker.rollbacks
                counts[3] += world.checker.deaths
            }
            return (nil, counts)
        }
        if let violation {
            Issue.record("\(violation)\nAgain, with its trace: RINGFENCE_SIMULATION_SEED=<seed>")
        } else {
            #expect(
                counts[0] > 20_000 && counts[1] > 300 && counts[2] > 10 && counts[3] > 20,
                "too little happened: \(counts)")
        }
    }

    @Test func `a seed tells the same story of a group twice`() async throws {
        let (first, second) = try await onOwnThread { (Self.tell(7), Self.tell(7)) }
        #expect(!first.isEmpty && first == second)
    }
}

/// What each rule is worth: with one thing made wrong, it must find it.
@Suite struct GroupSimulationControls {
    private static func expectFound(
        _ complaints: [String], _ faults: [GroupWorld.Fault], _ spoil: (inout GroupServerModel.Flaws) -> Void
    ) async throws {
        var flaws = GroupServerModel.Flaws()
        spoil(&flaws)
        let own = GroupWorld.Flaws(repeatsJoins: flaws.forgetsTheReplaced)
        let found = try await onOwnThread { [flaws, own] () -> String? in
            for seed in 1...200 as ClosedRange<UInt64> {
                do { try GroupWorld(seed: seed, faults: faults, serverFlaws: flaws, flaws: own).run() } catch {
                    return "\(error)"
                }
            }
            return nil
        }
        let text = try #require(found, "200 seeds did not find it")
        #expect(complaints.contains { text.contains($0) }, "another rule was broken: \(text)")
    }

    @Test func `an outage that counts as time is found as a death of nobody's fault`() async throws {
        try await Self.expectFound(["though nothing was wrong"], [.pauseRedis]) { $0.ignoresGaps = true }
    }

    @Test func `a version given twice is found`() async throws {
        try await Self.expectFound(["at the end", "which was", "stale"], [.stepBack, .kill]) { $0.neverHeals = true }
    }

    @Test func `a dead member found twice is found`() async throws {
        try await Self.expectFound(["ends twice", "the events tell of"], [.kill]) { $0.leavesTheDead = true }
    }

    @Test func `a late first join that wins its id back is found`() async throws {
        try await Self.expectFound(["was replaced, and takes its id back"], [.lostAnswers, .twin]) {
            $0.forgetsTheReplaced = true
        }
    }
}
