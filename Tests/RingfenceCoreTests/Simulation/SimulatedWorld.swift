// SPDX-License-Identifier: Apache-2.0
//
// What the worlds of all simulations have: one agenda in true time, one seeded generator that throws every die, the
// first rule that was broken, and the story so far. A seed is a whole story, so nothing in a world may depend on
// anything else: no clock, no hash order, no other thread.
import RingfenceCore
import TestSupport

/// A rule was broken.
struct Violation: Error, CustomStringConvertible {
    var description: String
}

class SimulatedWorld {
    let seed: UInt64
    let isTracing: Bool
    var random: SplitMix64
    private(set) var now: Nanos = 0
    private var agenda = Agenda()
    /// The slowest a message may be now.
    var latency: Nanos = 2 * .millisecond
    private(set) var steps = 0
    private(set) var violation: Violation?
    private(set) var trace: [String] = []

    init(seed: UInt64, random: SplitMix64, isTracing: Bool) {
        self.seed = seed
        self.random = random
        self.isTracing = isTracing
    }

    /// Does what is planned, in order, until nothing is, a rule is broken, or `goesOn` says no. Throws the broken rule.
    func play(while goesOn: () -> Bool = { true }, afterEach inspect: () -> Void = {}) throws {
        while violation == nil, goesOn(), let (time, action) = agenda.popFirst() {
            now = time
            steps += 1
            action()
            inspect()
        }
        if let violation { throw violation }
    }

    /// Drops what is planned: it may hold the world.
    func end() { agenda.removeAll() }

    var hasPlans: Bool { !agenda.isEmpty }

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
}
