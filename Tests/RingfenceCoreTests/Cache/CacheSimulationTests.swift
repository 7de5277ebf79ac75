// SPDX-License-Identifier: Apache-2.0
import RingfenceCacheCore
import RingfenceCore
import RingfencePlatform
import TestSupport
import Testing

@Suite struct CacheSimulationTests {
    private static func number(_ variable: String) -> UInt64? {
        getenv(variable).flatMap { UInt64(String(cString: $0)) }
    }

    private static func tell(_ seed: UInt64) -> String {
        let world = CacheWorld(seed: seed, isTracing: true)
        try? world.run()
        return world.trace.joined(separator: "\n")
    }

    /// Seeds in a run of all tests; more with RINGFENCE_SIMULATION_SEEDS.
    private static let seeds: UInt64 = 24

    @Test(arguments: 0..<2 as Range<UInt64>)
    func `no seed breaks a promise of a cache`(part: UInt64) async throws {
        if let seed = Self.number("RINGFENCE_SIMULATION_SEED") {
            guard part == 0 else { return }
            let story = try await onOwnThread { Self.tell(seed) }
            if story.contains("VIOLATION") { Issue.record("\(story)") }
            return
        }
        let perPart = max(1, (Self.number("RINGFENCE_SIMULATION_SEEDS") ?? Self.seeds) / 2)
        let (violations, counts) = try await onOwnThread { () -> ([String], [Int]) in
            var counts = [Int](repeating: 0, count: 10)
            var violations: [String] = []
            for seed in part * perPart + 1...(part + 1) * perPart {
                let world = CacheWorld(seed: seed)
                do { try world.run() } catch { violations.append("\(error)") }
                let of = world.checker
                let more = [
                    world.steps, of.completed, of.reads, of.found, of.failed, world.losses, world.moves, world.sweeps,
                    world.isBeyondPromise ? 1 : 0, world.splits,
                ]
                for (index, count) in more.enumerated() { counts[index] += count }
                if violations.count > 20 { break }
            }
            return (violations, counts)
        }
        if !violations.isEmpty {
            Issue.record(
                "\(violations.joined(separator: "\n"))\nAgain, with its trace: RINGFENCE_SIMULATION_SEED=<seed>")
        } else if perPart >= Self.seeds / 2 {
            #expect(
                counts[1] > 3000 && counts[2] > 3000 && counts[5] > 20 && counts[7] > 40
                    && counts[8] * 2 <= Int(perPart),
                "too little happened: \(counts)")
        }
    }

    @Test func `a seed tells the same story of a cache twice`() async throws {
        let (first, second) = try await onOwnThread { (Self.tell(7), Self.tell(7)) }
        #expect(!first.isEmpty && first == second)
    }
}

/// What each protection is worth: with it switched off, the checker must find something.
@Suite struct CacheSimulationControls {
    @Test(arguments: CacheControl.all)
    func `a cache without one of its protections is found out`(control: CacheControl) async throws {
        let found = try await onOwnThread { () -> String? in
            for seed in 1...control.seeds {
                let world = CacheWorld(
                    seed: seed, faults: control.faults, nodeFlaws: control.nodeFlaws, flaws: control.flaws)
                do { try world.run() } catch { return "\(error)" }
            }
            return nil
        }
        let text = try #require(found, "\(control.seeds) seeds did not find it")
        let complaints = ["stale", "older", "missing", "lost"]
        #expect(complaints.contains { text.contains(": \($0): ") }, "another rule was broken: \(text)")
    }
}
