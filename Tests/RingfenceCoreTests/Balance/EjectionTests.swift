// SPDX-License-Identifier: Apache-2.0

import RingfenceCore
import Testing

@Suite struct EjectionTests {
    typealias World = BalanceWorld

    @Test func `five failures one after the other eject a member, and four with a success among them do not`() {
        var world = World { $0.slowStart = 0 }
        world.see("a", "b", "c")
        world.fail("a", 4)
        world.call("a", .success)
        world.fail("a", 4)
        #expect(world.ejected.isEmpty)
        world.call("a", .cancelled)
        world.fail("a", 1)
        #expect(world.ejected == ["a"] && world.types == ["member.ejected"])
        #expect(world.shares(10_000)["a"] == nil)
        world.pass(29 * .second)
        #expect(world.ejected == ["a"])
        world.pass(5 * .second)
        #expect(world.ejected.isEmpty && world.types == ["member.ejected", "member.returned"])
        #expect(world.shares(10_000)["a"]! > 0.3)
    }

    @Test func `no more are ejected than the cap, one of two may be, and never the last`() {
        for (count, most) in [(1, 0), (2, 1), (3, 1), (5, 1), (6, 1), (7, 2), (10, 3), (100, 33)] {
            var world = World { $0.panicThreshold = 0 }
            let ids = (0..<count).map { "m\($0)" }
            world.see(ids.map { World.member($0) })
            for _ in 0..<3 { for id in ids { world.fail(id) } }
            #expect(world.ejected.count == most, "\(count)")
            #expect(!world.ejected.contains(world.pick()!))
        }
    }

    @Test func `members that do not serve are no others, and are not ejected`() {
        var world = World { $0.maximumEjectionFraction = 1 }
        world.see([World.member("a"), World.member("b", health: "ill"), World.member("c", weight: 0)])
        world.fail("a")
        world.fail("b")
        #expect(world.ejected.isEmpty && world.pick() == "a")
    }

    @Test func `who is ejected is picked when all others are gone, and not before`() {
        var world = World()
        world.see("a", "b")
        world.fail("a")
        for _ in 0..<100 { #expect(world.pick() == "b") }
        world.see([World.member("a"), World.member("b", health: "ill")])
        #expect(world.pick() == "a" && world.ejected == ["a"])
        world.see([World.member("a"), World.member("b")])
        for _ in 0..<100 { #expect(world.pick() == "b") }
    }

    @Test func `each ejection is longer than the one before, up to a cap, and time in service takes them back`() {
        var world = World {
            $0.baseEjectionTime = 10 * .second
            $0.maximumEjectionTime = 40 * .second
            $0.slowStart = 0
        }
        world.see("a", "b", "c")
        var lengths: [Double] = []
        func out() -> Nanos { world.machine.members(now: world.now)[0].ejectedUntil! - world.now }
        for _ in 0..<6 {
            world.fail("a")
            lengths.append(Double(out()) / 1e9)
            world.pass(out())
            #expect(world.ejected.isEmpty)
        }
        for (length, base) in zip(lengths, [10.0, 20, 30, 40, 40, 40]) {
            #expect(length >= base - 0.001 && length <= base * 1.1 + 0.001)
        }
        #expect(Set(lengths).count == 6, "with jitter")
        world.pass(45 * .second)
        world.fail("a")
        // Six ejections, and four of them taken back, and this one.
        #expect(abs(Double(out()) / 1e9 - 31.5) <= 1.6)
    }

    @Test func `a member that fails more often than the others is ejected when the interval is over`() {
        var world = World { $0.slowStart = 0 }
        let ids = (0..<6).map { "m\($0)" }
        world.see(ids.map { World.member($0) })
        for number in 0..<120 {
            for id in ids {
                let fails = id == "m3" ? number % 3 == 0 : number % 40 == 0
                world.call(id, fails ? .failure : .success, took: 1000)
            }
        }
        #expect(world.ejected.isEmpty)
        world.pass(10 * .second)
        #expect(world.ejected == ["m3"])
        guard case .ejected(let ejection)? = world.told.first?.kind, case .successRate(let rate, _) = ejection.reason
        else {
            Issue.record("no ejection was told")
            return
        }
        #expect(abs(rate - 2.0 / 3) < 0.01)
    }

    @Test func `success rates that are low together, near the mean, or of few calls or members eject nobody`() {
        let stories: [(members: Int, calls: Int, fails: (Int, Int) -> Bool)] = [
            (6, 120, { _, number in number % 3 == 0 }),
            (6, 120, { member, number in member == 3 && number % 50 == 0 }),
            (6, 90, { member, number in member == 3 && number % 3 == 0 }),
            (4, 120, { member, number in member == 3 && number % 3 == 0 }),
        ]
        for story in stories {
            var world = World { $0.breakerMinimumCalls = 0 }
            world.see((0..<story.members).map { World.member("m\($0)") })
            for number in 0..<story.calls {
                for member in 0..<story.members {
                    world.call("m\(member)", story.fails(member, number) ? .failure : .success, took: 1000)
                }
            }
            world.pass(11 * .second)
            #expect(world.ejected.isEmpty)
        }
    }

    @Test func `a call that began before its member came back tells nothing`() {
        var world = World()
        world.see("a", "b")
        world.fail("a")
        let began = world.now
        world.pass(40 * .second)
        #expect(world.ejected.isEmpty)
        for _ in 0..<10 {
            let call = BalanceMachine.Call(number: world.seat("a").number, beganAt: began, probe: nil)
            _ = world.machine.finished(call, .failure, now: world.now, dice: &world.dice)
        }
        #expect(world.ejected.isEmpty)
    }

    @Test func `another life of a member has no past`() {
        var world = World()
        world.see("a", "b")
        world.fail("a")
        #expect(world.ejected == ["a"])
        let before = world.seat("b").load
        world.see([World.member("a", session: "t"), World.member("b", weight: 5)])
        #expect(world.ejected.isEmpty)
        #expect(world.seat("b").load === before, "counters stay with a life")
    }

    @Test func `an event of one type about one member is told once in ten seconds`() {
        var world = World {
            $0.baseEjectionTime = .second
            $0.slowStart = 0
        }
        world.see("a", "b", "c")
        for _ in 0..<4 {
            world.fail("a")
            world.pass(4 * .second)
        }
        // At 0, 4, 8 and 12 seconds.
        #expect(world.types.count == 8)
        #expect(world.told.map(\.isNoted) == [true, true, false, false, false, false, true, true])
        world.fail("b")
        #expect(world.told.last?.isNoted == true, "another member is another matter")
    }

    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func `whatever happens an ejected member is never picked while another serves`(seed: UInt64) {
        var world = World(seed: seed) {
            $0.baseEjectionTime = .second
            $0.maximumEjectionFraction = 0.6
        }
        var members = (0..<7).map { World.member("m\($0)") }
        world.see(members)
        for _ in 0..<2000 {
            switch world.dice.roll(10) {
            case 0:
                let place = world.dice.roll(members.count)
                members[place].health = members[place].health.isEmpty ? "ill" : ""
                world.see(members)
            case 1:
                members[world.dice.roll(members.count)].weight = world.dice.roll(3)
                world.see(members)
            case 2:
                members[world.dice.roll(members.count)].session += "x"
                world.see(members)
            case 3: world.pass(Nanos(world.dice.roll(400)) * .millisecond)
            default: world.fail("m\(world.dice.roll(7))", 1 + world.dice.roll(5))
            }
            let out = Set(world.ejected)
            let serving = members.filter { $0.weight > 0 && $0.health.isEmpty }
            let isForced = serving.allSatisfy { out.contains($0.id) }
            if let id = world.pick() {
                #expect(isForced || !out.contains(id))
                #expect(members.first { $0.id == id }!.weight > 0)
                if !world.machine.isPanicking { #expect(members.first { $0.id == id }!.health.isEmpty) }
            } else {
                #expect(serving.isEmpty)
            }
        }
    }
}
