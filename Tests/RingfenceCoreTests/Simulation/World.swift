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

/// A rule was broken.
struct Violation: Error, CustomStringConvertible {
    var description: String
}

final class World {
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

    let seed: UInt64
    let flaws: Flaws
    var random: SplitMix64
    private(set) var now: Nanos = 0
    private var agenda = Agenda()
    private(set) var isCalm = false
    private(set) var faults: [Fault] = []
    /// The slowest a message may be now.
    var latency: Nanos = 2 * .millisecond

    var processes: [SimulatedProcess] = []
    private(set) var server: SimulatedServer!
    private(set) var workload: Workload!
    let checker = Checker()

    private(set) var steps = 0
    private(set) var violation: Violation?
    let isTracing: Bool
    private(set) var trace: [String] = []

    init(seed: UInt64, faults: [Fault]? = nil, flaws: Flaws = Flaws(), isTracing: Bool = false) {
        self.seed = seed
        self.flaws = flaws
        self.isTracing = isTracing
        random = SplitMix64(seed: seed)
        // Each seed draws its own kinds of fault: rare meetings of two faults come up more often than if all always
        // struck.
        let drawn = Fault.allCases.filter { _ in random.chance(35) }
        self.faults = faults ?? drawn
        server = SimulatedServer(self)
        workload = Workload(self)
        checker.world = self
    }

    /// Plays the story to its end; throws the first broken rule.
    func run() throws {
        defer {
            agenda.removeAll()
            processes = []
            server = nil
            workload = nil
        }
        workload.begin()
        inspectAgain()
        after(Self.stormLength) { self.becomeCalm() }
        while violation == nil, let (time, action) = agenda.popFirst() {
            now = time
            steps += 1
            action()
            if now > Self.stormLength + Self.patience {
                fail(
                    "somebody is still busy \(Self.patience / .second) s after the storm: "
                        + processes.map(\.summary).joined())
            }
        }
        if violation == nil { checker.checkTheEnd() }
        if let violation { throw violation }
    }

    func after(_ delay: Nanos, _ action: @escaping () -> Void) { agenda.add(at: now + max(delay, 0), action) }
    func at(_ time: Nanos, _ action: @escaping () -> Void) { agenda.add(at: max(time, now), action) }
    func dice(_ range: ClosedRange<Nanos>) -> Nanos { random.pick(range) }
    func travelTime() -> Nanos { random.pick(Nanos.millisecond / 20...latency) }

    func note(_ text: @autoclosure () -> String) {
        if isTracing { trace.append("\(Double(now) / 1e9) \(text())") }
    }

    func fail(_ text: String) {
        note("VIOLATION " + text)
        if violation == nil { violation = Violation(description: "seed \(seed) at \(Double(now) / 1e9) s: \(text)") }
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
        if !agenda.isEmpty || !isCalm { after(100 * .millisecond) { self.inspectAgain() } }
    }
}
