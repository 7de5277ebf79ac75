// SPDX-License-Identifier: Apache-2.0

import RingfenceCore
import Testing

@Suite struct PickTableTests {
    typealias World = BalanceWorld

    @Test(arguments: [1, 2, 3, 7, 64, 1000], [UInt64(1), 2, 3])
    func `round robin gives each the same share, whatever the weights`(count: Int, seed: UInt64) {
        var world = World(.roundRobin, seed: seed)
        world.see((0..<count).map { World.member("m\($0)", weight: $0 % 5 + 1) })
        var counts: [String: Int] = [:]
        for _ in 0..<(count * 10) { counts[world.pick()!, default: 0] += 1 }
        #expect(counts.count == count && counts.values.allSatisfy { $0 == 10 })
    }

    @Test(arguments: [PickRule.weighted, .random, .leastLoaded, .peakEWMA], [UInt64(1), 2, 3])
    func `shares of an idle pool are those of the weights`(rule: PickRule, seed: UInt64) {
        for weights in [[1, 1, 1], [5, 1, 1], [1000, 1], [3, 4, 5, 6, 7, 8, 9, 10]] {
            var world = World(rule, seed: seed)
            world.see(weights.enumerated().map { World.member("m\($0)", weight: $1) })
            let shares = world.shares(50_000)
            let total = Double(weights.reduce(0, +))
            for (number, weight) in weights.enumerated() {
                let share = shares["m\(number)"] ?? 0
                #expect(abs(share - Double(weight) / total) < 0.01, "\(rule) \(weights)")
            }
        }
    }

    @Test func `a weighted round is smooth: each stretch of it has all shares but for a few calls`() {
        var world = World(.weighted)
        let weights = [50, 30, 15, 5]
        world.see(weights.enumerated().map { World.member("m\($0)", weight: $1) })
        var counts = [Int](repeating: 0, count: weights.count)
        var worst = 0.0
        for number in 1...100_000 {
            counts[Int(String(world.pick()!.last!))!] += 1
            for (place, weight) in weights.enumerated() {
                let fair = Double(number * weight) / 100
                worst = max(worst, abs(Double(counts[place]) - fair))
            }
        }
        #expect(worst < 4)
    }

    @Test func `a part of the wheel is found for every position, at its ends too`() {
        var dice = Dice(seed: 7)
        for round in 0..<200 {
            let shares = (0..<(1 + dice.roll(40))).map { _ in
                round.isMultiple(of: 3) ? Double(1 + dice.roll(1000)) : Double(1 + dice.roll(3)) / 1e9
            }
            let wheel = Wheel(shares)
            let total = shares.reduce(0, +)
            #expect(wheel.part(at: 0) == 0 && wheel.part(at: .max) == shares.count - 1)
            var sum = 0.0
            for (place, share) in shares.enumerated() {
                let middle = (sum + share / 2) / total
                #expect(wheel.part(at: UInt64(middle * 0x1p64)) == place)
                sum += share
            }
        }
    }

    @Test func `of two members the one with fewer calls for its weight is taken`() {
        var world = World(.leastLoaded)
        world.see([World.member("a"), World.member("b")])
        for _ in 0..<3 { world.seat("a").load.begin() }
        world.seat("b").load.begin()
        for _ in 0..<100 { #expect(world.pick() == "b") }
        world.seat("b").load.end()
        #expect(world.picked(1000) == ["b"])
        // Four times the weight: three calls are less to it than one is to the other.
        world.see([World.member("a", weight: 4), World.member("b")])
        world.seat("b").load.begin()
        #expect(world.picked(1000) == ["a"])
    }

    @Test(arguments: [PickRule.leastLoaded, .nearestZone("")])
    func `outstanding calls stay close to each other, by weight`(rule: PickRule) {
        var world = World(rule)
        world.see((0..<10).map { World.member("m\($0)", weight: $0 < 5 ? 1 : 3) })
        var open: [String] = []
        for _ in 0..<20_000 {
            let id = world.pick()!
            world.seat(id).load.begin()
            open.append(id)
            if open.count > 200 {
                let place = world.dice.roll(open.count)
                world.seat(open.remove(at: place)).load.end()
            }
        }
        for seat in world.machine.plan.seats {
            let fair = 200.0 * Double(seat.record.weight) / 20
            #expect(abs(Double(seat.load.outstanding) - fair) < 8, "\(seat.record.id)")
        }
    }

    @Test func `a slow member gets few calls by cost, and is tried again when its cost has decayed`() {
        var world = World(.peakEWMA)
        world.see("a", "b", "c")
        for id in ["a", "b", "c"] { world.call(id, .success, took: 10 * .millisecond) }
        world.call("b", .success, took: .second)
        #expect(world.shares(1000)["b"] == nil)
        // It decays only while nobody calls; the others are called all the time.
        for _ in 0..<600 {
            world.pass(100 * .millisecond)
            for id in ["a", "c"] { world.call(id, .success, took: 10 * .millisecond) }
        }
        #expect(world.shares(1000)["b"]! > 0.2)
    }

    @Test func `a cost rises at once, falls slowly, and does not fall by a failure`() {
        let load = MemberLoad()
        let second = Nanos.second
        load.learn(10 * .millisecond, mayFall: true, now: 0, decay: 10 * second)
        #expect(load.cost(now: 0, decay: 10 * second) == 0.01)
        load.learn(second, mayFall: true, now: 0, decay: 10 * second)
        #expect(load.cost(now: 0, decay: 10 * second) == 1)
        #expect(abs(load.cost(now: 10 * second, decay: 10 * second) - 0.3679) < 0.001)
        load.learn(1, mayFall: false, now: 0, decay: 10 * second)
        #expect(load.cost(now: 0, decay: 10 * second) == 1)
        load.learn(10 * .millisecond, mayFall: true, now: 10 * second, decay: 10 * second)
        #expect(abs(load.cost(now: 10 * second, decay: 10 * second) - (0.3679 + 0.01 * 0.632)) < 0.001)
        load.learn(2 * second, mayFall: false, now: 10 * second, decay: 10 * second)
        #expect(load.cost(now: 10 * second, decay: 10 * second) == 2)
    }

    // MARK: By key

    private func ring(_ members: [MemberRecord]) throws -> Ring {
        try Ring(members.map { RingMember(id: $0.id, weight: $0.weight, zone: $0.zone) }, seed: 0, pointsPerWeight: 64)
    }

    @Test func `a key goes to its owner, and to the next in its list as long as that cannot be picked`() throws {
        var members = (0..<30).map { World.member("m\(10 + $0)", zone: "z\($0 % 3)") }
        let ring = try ring(members)
        var world = World(.ringHash)
        world.see(members, ring: ring)
        let positions = (0..<500).map { RingHash.position(of: UInt64($0), seed: 0) }
        for position in positions { #expect(world.pick(position: position) == ring.owner(at: position)) }
        // More are ill than a short list has, but not so many that it is panic.
        for place in 0..<15 { members[2 * place].health = "ill" }
        world.see(members, ring: ring)
        for position in positions {
            let list = ring.preference(at: position, count: 30)
            let expected = (0..<30).map { ring.id($0, of: list) }.first { id in
                members.first { $0.id == id }!.health.isEmpty
            }
            #expect(world.pick(position: position) == expected)
        }
    }

    @Test(arguments: [1.05, 1.25, 2])
    func `no member has more than its bound of all outstanding calls`(bound: Double) throws {
        let members = (0..<10).map { World.member("m\($0)", weight: $0 < 5 ? 1 : 2) }
        let ring = try ring(members)
        var world = World(.boundedLoad) { $0.maximumLoadFactor = bound }
        world.see(members, ring: ring)
        var open: [String] = []
        var atOwner = 0
        for _ in 0..<5000 {
            // A few keys are asked for much more than others.
            let key = UInt64(world.dice.roll(1 + world.dice.roll(100)))
            let position = RingHash.position(of: key, seed: 0)
            let id = world.pick(position: position)!
            if id == ring.owner(at: position) { atOwner += 1 }
            world.seat(id).load.begin()
            open.append(id)
            let fair = Double(open.count) * Double(world.seat(id).record.weight) / 15
            #expect(world.seat(id).load.outstanding <= Int((bound * fair).rounded(.up)))
            if open.count > 100 { world.seat(open.remove(at: world.dice.roll(open.count))).load.end() }
        }
        #expect(atOwner > 1500, "most keys stay where they belong")
    }

    @Test func `a ring of other members gives nobody that cannot be picked`() throws {
        let ring = try ring([World.member("a"), World.member("gone"), World.member("z")])
        var world = World(.ringHash)
        world.see([World.member("a"), World.member("new"), World.member("z", weight: 0)], ring: ring)
        for key in 0..<200 { #expect(world.pick(position: RingHash.position(of: UInt64(key), seed: 0)) == "a") }
    }

    // MARK: By zone and by role

    @Test(arguments: [
        (4, 1.0), (3, 1.0), (2, 0.5 / 0.7), (1, 0.25 / 0.7), (0, 0),
    ])
    func `a zone keeps what it can carry, and the rest goes to all others`(healthy: Int, stays: Double) {
        var world = World(.nearestZone("here")) { $0.panicThreshold = 0 }
        let here = (0..<4).map { World.member("a\($0)", zone: "here", health: $0 < healthy ? "" : "ill") }
        let others = (0..<4).map { World.member("b\($0)", zone: $0 < 2 ? "there" : "") }
        world.see(here + others)
        let shares = world.shares(30_000)
        let near = shares.filter { $0.key.hasPrefix("a") }.values.reduce(0, +)
        #expect(abs(near - stays) < 0.01)
        for place in healthy..<4 { #expect(shares["a\(place)"] == nil) }
    }

    @Test func `a zone without members is served by everybody, and one with nobody else keeps all`() {
        var world = World(.nearestZone("here"))
        world.see([World.member("a", zone: "x"), World.member("b", zone: "y")])
        #expect(world.shares(1000).count == 2)
        world.see([World.member("a", zone: "here"), World.member("b", zone: "here", health: "ill")])
        #expect(world.picked(1000) == ["a"])
    }

    @Test(arguments: [GroupRole.Phase.ready, .vacant, .elected, .handingOver, .recovering])
    func `the primary is picked when it is ready, whatever its weight`(phase: GroupRole.Phase) {
        let picked = phase == .ready ? "b" : nil
        var world = World(.primaryOnly)
        let members = [World.member("a"), World.member("b", weight: 0, health: "ill")]
        world.see(members, role: GroupRole(epoch: 3, primary: "b", session: "s", phase: phase))
        #expect(world.pick() == picked)
        world.see(members, role: GroupRole(epoch: 3, primary: "b", session: "another life", phase: phase))
        #expect(world.pick() == nil)
        #expect(world.machine.nobody.contains(phase == .ready ? "not among" : phase.rawValue))
    }

    @Test func `the same seed picks the same`() {
        for rule in [PickRule.roundRobin, .weighted, .random, .leastLoaded, .peakEWMA] {
            var (one, two) = (World(rule, seed: 9), World(rule, seed: 9))
            for number in 0..<20 {
                for world in 0..<2 {
                    let ids = (0...number).map { World.member("m\($0)", weight: $0 + 1) }
                    if world == 0 { one.see(ids) } else { two.see(ids) }
                }
                for _ in 0..<100 { #expect(one.pick() == two.pick()) }
            }
        }
    }
}
