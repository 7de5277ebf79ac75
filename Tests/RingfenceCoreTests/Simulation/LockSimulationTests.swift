// SPDX-License-Identifier: Apache-2.0
import RingfenceCore
import Synchronization
import TestSupport
import Testing

#if canImport(Glibc)
    import Glibc
#endif

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

    private static func number(_ variable: String) -> UInt64? { getenv(variable).flatMap { UInt64(String(cString: $0)) } }

    @Test(arguments: 0..<8)
    func `no seed breaks a rule`(part: Int) throws {
        if let seed = Self.number("RINGFENCE_SIMULATION_SEED") {
            guard part == 0 else { return }
            let (violation, _, _) = Self.play(seed...seed)
            #expect(violation == nil, "\(violation?.description ?? "")\n\(Self.tell(seed))")
            return
        }
        let perPart = (Self.number("RINGFENCE_SIMULATION_SEEDS") ?? 200) / 8
        let first = UInt64(part) * perPart + 1
        let (violation, steps, delivered) = Self.play(first...first + perPart - 1)
        print("part \(part): \(steps) steps, \(delivered) grants")
        #expect(violation == nil)
    }
}
