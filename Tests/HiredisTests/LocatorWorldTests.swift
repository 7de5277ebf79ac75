// SPDX-License-Identifier: Apache-2.0
import RingfencePlatform
import Testing

@testable import Hiredis

@Suite struct LocatorWorldTests {
    private static let seeds = getenv("RINGFENCE_SIMULATION_SEEDS").flatMap { UInt64(String(cString: $0)) } ?? 250

    @Test(arguments: [
        "redis://redis.example", "redis+replicated://10.0.0.1,10.0.0.2,10.0.0.3",
        "redis+sentinel://10.1.0.1,10.1.0.2/main", "redis+cluster://10.0.0.5,10.0.0.1",
    ])
    func `all connections follow the primary together, in every seed`(url: String) throws {
        var moves = 0
        for seed in 0..<Self.seeds {
            var world = try LocatorWorld(url, seed: seed)
            world.run()
            #expect(world.faults == [], "seed \(seed) of \(url)")
            if !world.faults.isEmpty { return }
            moves += world.moves
        }
        #expect(moves > Self.seeds, "too little happened: \(moves) moves")
    }

    @Test(arguments: [
        "redis+sentinel://10.1.0.1,10.1.0.2,10.1.0.3/main", "redis+sentinel://10.1.0.1/main",
    ])
    func `where a majority of the Sentinels is required, all follow it too, and nothing less`(url: String) throws {
        for seed in 0..<Self.seeds {
            var world = try LocatorWorld(url, seed: seed) { $0.sentinelMajority = .required }
            world.run()
            #expect(world.faults == [], "seed \(seed)")
            if !world.faults.isEmpty { return }
        }
    }

    // MARK: Controls: the world can tell the difference

    private func faults(_ flaw: LocatorWorld.Flaw, _ url: String) throws -> [String] {
        try (0..<UInt64(200)).flatMap { seed in
            var world = try LocatorWorld(url, seed: seed, flaw: flaw)
            world.run()
            return world.faults
        }
    }

    @Test(arguments: ["redis://redis.example", "redis+sentinel://10.1.0.1/main"])
    func `a machine that did not check would stay where it was led before`(url: String) throws {
        #expect(try !faults(.rests, url).isEmpty)
    }

    @Test func `a Sentinel whose address is not read on both sides of its row would lead to the old primary`() throws {
        let faults = try faults(.readsRow, "redis+sentinel://10.1.0.1,10.1.0.2/main")
        #expect(faults.contains { $0.contains("is of another server") })
    }

    @Test func `a machine that asked one Sentinel would not follow what the others agree on`() throws {
        let faults = try faults(.asksOne, "redis+sentinel://10.1.0.1,10.1.0.2/main")
        #expect(faults.contains { $0.contains("has not followed") })
    }

    @Test func `a machine that took no node's word would stay at one that has lost the slot`() throws {
        let faults = try faults(.heedsNobody, "redis+cluster://10.0.0.5,10.0.0.1")
        #expect(faults.contains { $0.contains("ends as") })
    }
}
