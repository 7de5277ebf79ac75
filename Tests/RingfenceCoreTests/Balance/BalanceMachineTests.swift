// SPDX-License-Identifier: Apache-2.0

import RingfenceCore
import Testing

@Suite struct BalanceMachineTests {
    typealias World = BalanceWorld

    // MARK: Slow start

    @Test func `the first members have all of their share, and who comes later grows into it`() {
        var world = World(.weighted)
        world.see("a", "b")
        #expect(abs(world.shares(10_000)["a"]! - 0.5) < 0.01)
        world.see("a", "b", "c")
        var before = 0.0
        for seconds in 0..<10 {
            let share = world.shares(20_000)["c"]!
            let ramp = max(0.1, Double(seconds) / 10)
            #expect(abs(share - ramp / (2 + ramp)) < 0.02, "after \(seconds) s")
            #expect(share >= before - 0.01)
            before = share
            world.pass(.second)
        }
        world.pass(.second)
        #expect(abs(world.shares(30_000)["c"]! - 1.0 / 3) < 0.01)
        #expect(world.machine.wakeAt(now: world.now) == .never, "nobody is waited for any more")
    }

    @Test(arguments: [PickRule.roundRobin, .random, .leastLoaded, .peakEWMA, .nearestZone("")])
    func `a new member is not flooded`(rule: PickRule) {
        var world = World(rule)
        world.see("a", "b", "c", "d")
        for id in ["a", "b", "c", "d"] { world.call(id, .success, took: 20 * .millisecond) }
        // The others are at work.
        for id in ["a", "b", "c", "d"] { for _ in 0..<3 { world.seat(id).load.begin() } }
        world.see("a", "b", "c", "d", "new")
        var calls = 0
        for _ in 0..<1000 where world.pick() == "new" { calls += 1 }
        #expect(calls > 0 && calls < 100, "\(rule): \(calls) of 1000")
    }

    @Test func `a new member is taken to cost what the slower ones do`() {
        var world = World(.peakEWMA)
        world.see("a", "b", "c", "d")
        for (id, milliseconds) in [("a", 1), ("b", 2), ("c", 3), ("d", 40)] {
            world.call(id, .success, took: Nanos(milliseconds) * .millisecond)
        }
        world.see("a", "b", "c", "d", "e")
        let cost = world.machine.members(now: world.now).last!.cost
        #expect(cost > 0.038 && cost <= 0.04)
        world.call("e", .success, took: .millisecond)
        #expect(world.machine.members(now: world.now).last!.cost < 0.04)
    }

    @Test func `who comes back from an illness, a drain or an ejection grows into its share again`() {
        var world = World(.weighted)
        world.see("a", "b")
        world.see([World.member("a"), World.member("b", health: "ill")])
        world.see("a", "b")
        #expect(world.shares(10_000)["b"]! < 0.15)
        world.pass(11 * .second)
        #expect(world.shares(10_000)["b"]! > 0.48)
        world.see([World.member("a"), World.member("b", weight: 0)])
        #expect(world.shares(1000)["b"] == nil)
        world.see("a", "b")
        #expect(world.shares(10_000)["b"]! < 0.15)
        world.pass(11 * .second)
        world.fail("b")
        world.pass(.second)
        #expect(world.ejected == ["b"])
        world.pass(32 * .second)
        #expect(world.ejected.isEmpty && world.shares(10_000)["b"]! < 0.3)
        // A change of something else is no return.
        world.pass(11 * .second)
        world.see([World.member("a"), World.member("b", zone: "z")])
        #expect(world.shares(10_000)["b"]! > 0.48)
    }

    // MARK: Panic

    @Test func `in a group of four or more, where less than half can be picked, all with a weight are`() {
        var world = World { $0.slowStart = 0 }
        func group(_ ill: Int, of count: Int, drained: Int = 0) -> [MemberRecord] {
            (0..<count).map { World.member("m\($0)", health: $0 < ill ? "ill" : "") }
                + (0..<drained).map { World.member("x\($0)", weight: 0) }
        }
        world.see(group(2, of: 4, drained: 5))
        #expect(!world.machine.isPanicking && world.shares(1000).count == 2)
        world.see(group(3, of: 4, drained: 5))
        #expect(world.machine.isPanicking && world.shares(1000).count == 4 && world.types == ["balancer.panic"])
        world.see(group(2, of: 4, drained: 5))
        #expect(!world.machine.isPanicking && world.types == ["balancer.panic", "balancer.recovered"])
        world.see(group(4, of: 4))
        #expect(world.machine.isPanicking && world.shares(1000).count == 4)
        world.see(group(2, of: 3))
        #expect(!world.machine.isPanicking && world.shares(1000).count == 1)
        world.see(group(3, of: 3))
        #expect(world.pick() == nil)
        #expect(world.machine.nobody == "of its 3 members none can be picked: the check of 3 fails")
    }

    @Test func `in panic an ejected member is still not picked`() {
        var world = World()
        world.see("a", "b", "c", "d")
        world.fail("a")
        #expect(world.ejected == ["a"])
        world.see([
            World.member("a"), World.member("b", health: "ill"), World.member("c", health: "ill"), World.member("d"),
        ])
        #expect(world.machine.isPanicking && world.shares(1000)["a"] == nil && world.shares(1000).count == 3)
    }

    @Test func `without panic only who can be picked is picked`() {
        var world = World { $0.panicThreshold = 0 }
        world.see((0..<10).map { World.member("m\($0)", health: $0 > 0 ? "ill" : "") })
        #expect(world.picked(1000) == ["m0"] && !world.machine.isPanicking)
    }

    @Test func `why there is nobody is said`() {
        var world = World()
        world.see([])
        #expect(world.pick() == nil && world.machine.nobody == "it has no members")
        world.see([World.member("a", weight: 0)])
        #expect(world.machine.nobody == "of its 1 member none can be picked: 1 draining")
        world.see([World.member("a", weight: 0), World.member("b", health: "ill")])
        #expect(world.machine.nobody == "of its 2 members none can be picked: 1 draining, the check of 1 fails")
    }

    @Test func `each number outside its limits is refused by name`() {
        let wrong: [(String, (inout BalanceSettings) -> Void)] = [
            ("slowStart", { $0.slowStart = -1 }), ("costDecay", { $0.costDecay = 0 }),
            ("maximumLoadFactor", { $0.maximumLoadFactor = 1 }),
            ("maximumLoadFactor", { $0.maximumLoadFactor = .nan }),
            ("zoneSpilloverThreshold", { $0.zoneSpilloverThreshold = 0 }),
            ("panicThreshold", { $0.panicThreshold = 1.1 }),
            ("consecutiveFailures", { $0.consecutiveFailures = -1 }),
            ("successRateMembers", { $0.successRateMembers = 2 }), ("successRateCalls", { $0.successRateCalls = 0 }),
            ("successRateDeviations", { $0.successRateDeviations = 0 }),
            ("outlierInterval", { $0.outlierInterval = 1 }), ("baseEjectionTime", { $0.baseEjectionTime = 0 }),
            ("maximumEjectionTime", { $0.maximumEjectionTime = $0.baseEjectionTime - 1 }),
            ("maximumEjectionFraction", { $0.maximumEjectionFraction = 2 }),
            ("breakerMinimumCalls", { $0.breakerMinimumCalls = -1 }),
            ("breakerFailureRate", { $0.breakerFailureRate = 0 }),
            ("breakerWindow", { $0.breakerWindow = 0 }), ("breakerOpenDuration", { $0.breakerOpenDuration = 0 }),
            ("maximumBreakerOpenDuration", { $0.maximumBreakerOpenDuration = 0 }),
            ("breakerHalfOpenCalls", { $0.breakerHalfOpenCalls = 0 }),
        ]
        for (field, change) in wrong {
            var settings = BalanceSettings()
            change(&settings)
            #expect { try settings.check() } throws: { ($0 as? InvalidArgument)?.field == field }
        }
        #expect(throws: Never.self) { try BalanceSettings().check() }
    }
}
