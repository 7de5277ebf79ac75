// SPDX-License-Identifier: Apache-2.0
import RingfenceAgentCore
import RingfenceCore
import Testing

struct CheckMachineTests {
    private let good = Observation()
    private let bad = Observation(failure: "connection refused")

    private func passing() -> CheckMachine {
        var machine = CheckMachine(CheckPolicy())
        for _ in 0..<2 { _ = machine.saw(good) }
        return machine
    }

    @Test func `nothing is believed before rise successes or fall failures in a row`() {
        var machine = CheckMachine(CheckPolicy())
        var changes = false
        changes = machine.saw(good) || changes
        changes = machine.saw(bad) || changes
        changes = machine.saw(bad) || changes
        changes = machine.saw(good) || changes
        #expect(!changes)
        #expect(machine.verdict == .unknown)
        let changed = machine.saw(good)
        #expect(changed)
        #expect(machine.verdict == .passing)
    }

    @Test func `fall failures in a row and no fewer make it failing, with the newest reason`() {
        var machine = passing()
        var changes = false
        changes = machine.saw(bad) || changes
        changes = machine.saw(bad) || changes
        changes = machine.saw(good) || changes
        changes = machine.saw(bad) || changes
        changes = machine.saw(bad) || changes
        #expect(!changes)
        #expect(machine.verdict == .passing)
        let changed = machine.saw(Observation(failure: "timed out"))
        #expect(changed)
        #expect(machine.verdict == .failing)
        #expect(machine.why == "timed out")
    }

    @Test func `rise successes in a row make it passing again and clear the reason`() {
        var machine = passing()
        for _ in 0..<3 { _ = machine.saw(bad) }
        let early = machine.saw(good)
        #expect(!early)
        #expect(machine.verdict == .failing)
        #expect(machine.why == "connection refused")
        let changed = machine.saw(good)
        #expect(changed)
        #expect(machine.why == "")
    }

    @Test func `looks come fast while the mind may change and slowly otherwise`() {
        var machine = CheckMachine(CheckPolicy())
        #expect(machine.pause(dice: 0.5) == 200 * .millisecond)
        machine = passing()
        #expect(machine.pause(dice: 0.5) == .second)
        _ = machine.saw(bad)
        #expect(machine.pause(dice: 0.5) == 200 * .millisecond)
        _ = machine.saw(good)
        #expect(machine.pause(dice: 0.5) == .second)
    }

    @Test func `looks are spread by a tenth to either side`() {
        let machine = passing()
        #expect(machine.pause(dice: 0) == 900 * .millisecond)
        #expect(machine.pause(dice: 0.999_999) <= 1_100 * .millisecond)
        #expect(machine.pause(dice: 0.999_999) > 1_099 * .millisecond)
    }

    @Test func `the defaults believe in a death within two seconds`() {
        let policy = CheckPolicy()
        // Died right after a look; every further look runs into its timeout at worst within its own pause.
        let worst = 11 * policy.interval / 10 + Nanos(policy.fall - 1) * max(policy.timeout, 220 * .millisecond)
        #expect(worst + policy.timeout <= 2_600 * .millisecond)
        // A refusal is answered at once.
        #expect(11 * policy.interval / 10 + Nanos(policy.fall - 1) * 220 * .millisecond < 2 * .second)
    }
}
