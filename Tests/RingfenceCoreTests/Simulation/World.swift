// SPDX-License-Identifier: Apache-2.0
//
// A world in one thread: processes that run the real machines, a Redis that is the reference model, wires between them
// that break, and users who come, hold, leave and die. Everything that happens is on one agenda in true time, every die
// is thrown by one seeded generator, so a seed is a whole story and can be told again with its trace:
//
//     RINGFENCE_SIMULATION_SEED=42 swift test --filter LockSimulationTests
//
// A run has two parts. In the storm, faults of the kinds this seed drew strike at random. Then it is calm: wires heal,
// Redis answers, paused processes wake, nobody new comes; who still waits must be served, and in the end nothing may be
// left. The checker only watches: what Redis executed, and what users were told.
import RingfenceCore
import TestSupport

final class World: SimulatedWorld {
    /// What is wrong on purpose, to show that the checker bites.
    struct Flaws {
        var reconnectsWithoutKillingThePredecessor = false
        var cleansNothingUp = false
        var countsDeadlineFromReceipt = false
        var fenceRule = LockServerModel.FenceRule.serverTime
        var claimNeverEnds = false
        var reusesTickets = false
    }

    enum Fault: CaseIterable {
        case cutWire, cutInbox, pause, kill, restartRedis, pauseRedis, stepClock, force, slowWires, errorReplies,
            timeouts
        case loseConfirmations
    }

    static let claimMilliseconds: Int64 = 300
    static let stormLength: Nanos = 6 * .second
    /// Nothing in this world lasts longer than this after the storm.
    static let patience: Nanos = 120 * .second

    let flaws: Flaws
    private(set) var isCalm = false
    private(set) var faults: [Fault] = []

    var processes: [SimulatedProcess] = []
    private(set) var server: SimulatedServer!
    private(set) var workload: Workload!
    let checker = Checker()

    init(seed: UInt64, faults: [Fault]? = nil, flaws: Flaws = Flaws(), isTracing: Bool = false) {
        self.flaws = flaws
        var random = SplitMix64(seed: seed)
        // Each seed draws its own kinds of fault: rare meetings of two faults come up more often than if all always
        // struck.
        let drawn = Fault.allCases.filter { _ in random.chance(35) }
        self.faults = faults ?? drawn
        super.init(seed: seed, random: random, isTracing: isTracing)
        server = SimulatedServer(self)
        workload = Workload(self)
        checker.world = self
    }

    /// Plays the story to its end; throws the first broken rule.
    func run() throws {
        defer {
            end()
            processes = []
            server = nil
            workload = nil
        }
        workload.begin()
        inspectAgain()
        after(Self.stormLength) { self.becomeCalm() }
        try play(afterEach: {
            if now > Self.stormLength + Self.patience {
                fail(
                    "somebody is still busy \(Self.patience / .second) s after the storm: "
                        + processes.map(\.summary).joined())
            }
        })
        checker.checkTheEnd()
        if let violation { throw violation }
    }

    private func becomeCalm() {
        note("calm")
        isCalm = true
        latency = 2 * .millisecond
        server.heal()
        for process in processes { process.heal() }
    }

    /// Looks for ghosts and stalls as long as anything goes on.
    private func inspectAgain() {
        checker.inspect()
        if hasPlans || !isCalm { after(100 * .millisecond) { self.inspectAgain() } }
    }
}
