// SPDX-License-Identifier: Apache-2.0

import RingfenceCore
import Testing

@Suite struct BreakerTests {
    private func finish(_ breaker: inout BreakerMachine, _ failures: Int, of calls: Int, at now: Nanos) {
        for number in 0..<calls { _ = breaker.finished(isFailure: number >= calls - failures, probe: nil, now: now) }
    }

    /// Admits as many probes as there are, all of which end so.
    private func probe(_ breaker: inout BreakerMachine, failures: Int, at now: Nanos) -> Int {
        var rounds: [Int] = []
        while case .probe(let round) = breaker.admit(now: now) { rounds.append(round) }
        for (number, round) in rounds.enumerated() {
            _ = breaker.finished(isFailure: number < failures, probe: round, now: now)
        }
        return rounds.count
    }

    @Test func `it opens when enough calls ended and half of them failed, and not before`() {
        var breaker = BreakerMachine(BalanceSettings())
        finish(&breaker, 99, of: 99, at: 0)
        #expect(breaker.state == .closed && !breaker.isGated && breaker.admit(now: 0) == .go)
        _ = breaker.finished(isFailure: nil, probe: nil, now: 0)
        #expect(breaker.state == .closed)
        let change = breaker.finished(isFailure: true, probe: nil, now: 0)
        #expect(change == .opened(until: 5 * .second, failed: 100, of: 100))
        #expect(breaker.isGated && breaker.admit(now: .second) == .refused(until: 5 * .second))
        var other = BreakerMachine(BalanceSettings())
        finish(&other, 499, of: 1000, at: 0)
        #expect(other.state == .closed)
    }

    @Test func `failures that are older than the window are forgotten`() {
        var breaker = BreakerMachine(BalanceSettings())
        for second in 0..<40 { finish(&breaker, 9, of: 9, at: Nanos(second) * .second) }
        #expect(breaker.state == .closed, "90 in any ten seconds")
        finish(&breaker, 19, of: 19, at: 40 * .second)
        #expect(breaker.state != .closed)
    }

    @Test func `it is open for twice as long each time its probes fail, up to a cap, and closes when they succeed`() {
        var breaker = BreakerMachine(BalanceSettings())
        var now: Nanos = 0
        finish(&breaker, 100, of: 100, at: now)
        for seconds in [5, 10, 20, 40, 60, 60] {
            let until = now + Nanos(seconds) * .second
            #expect(breaker.state == .open(until: until))
            #expect(breaker.admit(now: until - 1) == .refused(until: until))
            #expect(breaker.openUntil(now: until - 1) == until && breaker.openUntil(now: until) == nil)
            now = until
            #expect(probe(&breaker, failures: 5, at: now) == 10)
        }
        now += 60 * .second
        #expect(probe(&breaker, failures: 4, at: now) == 10)
        #expect(breaker.state == .closed && !breaker.isGated)
        finish(&breaker, 100, of: 100, at: now)
        #expect(breaker.state == .open(until: now + 5 * .second), "it begins anew")
    }

    @Test func `a probe that told nothing is given again, and probes that hang are replaced`() {
        var breaker = BreakerMachine(BalanceSettings())
        finish(&breaker, 100, of: 100, at: 0)
        let now = 5 * Nanos.second
        var round = 0
        for _ in 0..<10 {
            guard case .probe(let number) = breaker.admit(now: now) else {
                Issue.record("no probe")
                return
            }
            round = number
        }
        #expect(breaker.admit(now: now) == .probing(until: now + 5 * .second))
        #expect(breaker.finished(isFailure: nil, probe: round, now: now) == nil)
        #expect(breaker.admit(now: now) == .probe(round: round))
        // A call from before is no probe.
        #expect(breaker.finished(isFailure: true, probe: nil, now: now) == nil && breaker.state == .halfOpen)
        let later = now + 5 * .second
        #expect(breaker.admit(now: later) == .probe(round: round + 1))
        #expect(breaker.finished(isFailure: true, probe: round, now: later) == nil, "of a round that is over")
        for _ in 0..<9 { _ = breaker.admit(now: later) }
        var change: BreakerMachine.Change?
        for _ in 0..<10 { change = breaker.finished(isFailure: false, probe: round + 1, now: later) }
        #expect(change == .closed)
    }

    @Test func `an operator's word is stronger than what it counts, and it counts on while forced closed`() {
        var breaker = BreakerMachine(BalanceSettings())
        breaker.set(.open)
        #expect(breaker.isGated && breaker.admit(now: 0) == .forbidden && breaker.openUntil(now: 0) == .never)
        breaker.set(.automatic)
        #expect(!breaker.isGated && breaker.admit(now: 0) == .go)
        breaker.set(.closed)
        finish(&breaker, 1000, of: 1000, at: 0)
        #expect(breaker.state == .closed && breaker.admit(now: 0) == .go)
        breaker.set(.automatic)
        #expect(breaker.finished(isFailure: true, probe: nil, now: 0) != nil, "it had counted")
        breaker.set(.closed)
        #expect(breaker.admit(now: 0) == .go && breaker.state == .closed)
        breaker.set(.open)
        breaker.set(.closed)
        #expect(breaker.admit(now: 0) == .go)
    }

    @Test func `without a least number of calls there is no breaker`() {
        var settings = BalanceSettings()
        settings.breakerMinimumCalls = 0
        var breaker = BreakerMachine(settings)
        finish(&breaker, 1000, of: 1000, at: 0)
        #expect(breaker.state == .closed)
        breaker.set(.open)
        #expect(breaker.admit(now: 0) == .forbidden)
    }

    @Test func `the machine gates its plan while the breaker is not closed, and tells`() {
        var world = BalanceWorld { $0.consecutiveFailures = 0 }
        world.see("a", "b")
        world.fail("a", 100)
        #expect(world.machine.plan.isGated && world.types == ["breaker.opened"])
        world.pass(6 * .second)
        #expect(world.machine.breaker.state == .halfOpen && world.machine.plan.isGated)
        for _ in 0..<10 {
            guard case .probe(let round) = world.machine.admit(now: world.now) else {
                Issue.record("no probe")
                return
            }
            world.call("b", .success, probe: round)
        }
        #expect(!world.machine.plan.isGated && world.types == ["breaker.opened", "breaker.closed"])
        world.see([BalanceWorld.member("a")], force: .open)
        #expect(world.machine.plan.isGated && world.types.count == 2, "the order has an event of its own")
    }
}
