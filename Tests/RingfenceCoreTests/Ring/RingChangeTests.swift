// SPDX-License-Identifier: Apache-2.0
//
// What a ring promises of change: a ring made from another is the ring its members make, a plan says what moves and no
// more, and nothing moves that need not.
import RingfenceCore
import TestSupport
import Testing

@Suite struct RingChangeTests {
    /// A random change of some of `members`: joins, leaves, new weights and zones, at once.
    static func change(
        of members: [RingMember], _ dice: inout SplitMix64, upTo most: Int64
    ) -> (joining: [RingMember], leaving: [String]) {
        var joining: [RingMember] = []
        var leaving: [String] = []
        for _ in 0..<dice.pick(1...most) {
            let known = members.isEmpty ? nil : dice.pick(members)
            switch dice.pick(0...3) {
            case 0:
                joining.append(RingMember(id: "new-\(dice.pick(0...200))", weight: Int(dice.pick(0...3)), zone: "x"))
            case 1: if let known { leaving.append(known.id) }
            case 2:
                if let known {
                    joining.append(RingMember(id: known.id, weight: Int(dice.pick(0...4)), zone: known.zone))
                }
            default: if let known { joining.append(RingMember(id: known.id, weight: known.weight, zone: "y")) }
            }
        }
        var ids: Set<String> = []
        joining = joining.filter { ids.insert($0.id).inserted }
        return (joining, Array(Set(leaving)))
    }

    static func applied(_ members: [RingMember], _ joining: [RingMember], _ leaving: [String]) -> [RingMember] {
        let replaced = Set(joining.map(\.id) + leaving)
        return members.filter { !replaced.contains($0.id) } + joining
    }

    @Test(arguments: [1, 4, 32], [0, 1, 3, 12, 120])
    func `a ring changed step by step is the ring that its members make`(pointsPerWeight: Int, count: Int) throws {
        var dice = SplitMix64(seed: UInt64(pointsPerWeight * 1000 + count))
        var members = RingTests.members(&dice, count)
        var ring = try Ring(members, seed: 11, pointsPerWeight: pointsPerWeight)
        for step in 0..<60 {
            let (joining, leaving) = Self.change(of: members, &dice, upTo: [3, 3, 40, 3, 130][step % 5])
            members = Self.applied(members, joining, leaving)
            let before = ring
            ring = try ring.applying(joining: joining, leaving: leaving)
            let fresh = try Ring(members, seed: 11, pointsPerWeight: pointsPerWeight)
            #expect(ring.members == fresh.members)
            #expect(ring.digest == fresh.digest)
            #expect(ring.pointCount == fresh.pointCount)
            #expect(ring.shares == fresh.shares)
            #expect(ring.moves(to: fresh).isEmpty)
            #expect(ring.liveCount == fresh.liveCount)
            for position in (0..<20).map({ _ in dice.next() }) {
                #expect(ring.owner(at: position) == fresh.owner(at: position))
                for length in [3, 20] {
                    let (one, other) = (
                        ring.preference(at: position, count: length), fresh.preference(at: position, count: length)
                    )
                    #expect(
                        (0..<one.count).map { ring.id($0, of: one) }
                            == (0..<other.count).map { fresh.id($0, of: other) })
                }
            }
            // The plan, which never sees the new ring, says what a comparison of both says.
            let moves = before.moves(to: fresh)
            #expect(try before.plan(joining: joining, leaving: leaving) == moves)
            #expect(moves.reduce(0) { $0 + $1.count } <= 1 << 64)
        }
    }

    @Test func `a plan says for each of 200,000 keys whether it moves, from whom, and to whom`() throws {
        var dice = SplitMix64(seed: 8)
        let ring = try Ring((0..<40).map { RingMember(id: "n\($0)") }, seed: 2, pointsPerWeight: 64)
        let joining = [RingMember(id: "new"), RingMember(id: "n7", weight: 3), RingMember(id: "n8", weight: 0)]
        let after = try ring.applying(joining: joining, leaving: ["n3"])
        let moves = try ring.plan(joining: joining, leaving: ["n3"])
        var moved = 0
        var wrong = 0
        for _ in 0..<200_000 {
            let position = dice.next()
            let (giver, taker) = (ring.ownerIndex(at: position), after.ownerIndex(at: position))
            let names = (ring.members[giver].id, after.members[taker].id)
            // The first that ends at or behind the position, or the one that passes the end of the circle.
            var low = 0
            var high = moves.count
            while low < high {
                let middle = (low + high) / 2
                if moves[middle].through < position { low = middle + 1 } else { high = middle }
            }
            let candidates = [low < moves.count ? moves[low] : moves[0], moves[0]]
            let move = candidates.first { position &- $0.after &- 1 < $0.through &- $0.after }
            if names.0 != names.1 { moved += 1 }
            if move?.giver != (names.0 == names.1 ? nil : names.0) { wrong += 1 }
            if move?.taker != (names.0 == names.1 ? nil : names.1) { wrong += 1 }
        }
        #expect(wrong == 0)
        #expect(moved > 10_000)
    }

    // MARK: Nothing moves that need not

    /// What happens to the copies of many keys between two rings.
    struct Disturbance: Equatable {
        /// Keys with another owner, where neither the old nor the new one has changed.
        var needlessOwners = 0
        /// Copies that went to or from somebody who has not changed, beyond the one that makes room or fills the gap.
        var needlessCopies = 0
        /// Keys whose copies changed.
        var changed = 0
        var owners = 0

        init(
            _ before: Ring, _ after: Ring, who: String, copies: Int, samples: Int = 20_000,
            list: (Ring, UInt64, Int) -> [String] = { ring, position, count in
                let list = ring.preference(at: position, count: count)
                return (0..<list.count).map { ring.id($0, of: list) }
            }
        ) {
            var dice = SplitMix64(seed: 99)
            for _ in 0..<samples {
                let position = dice.next()
                let (old, new) = (list(before, position, copies), list(after, position, copies))
                if old == new { continue }
                if old[0] != new[0] {
                    owners += 1
                    if old[0] != who, new[0] != who { needlessOwners += 1 }
                }
                let gone = old.filter { !new.contains($0) && $0 != who }
                let come = new.filter { !old.contains($0) && $0 != who }
                if gone.isEmpty, come.isEmpty, old.contains(who) == new.contains(who) { continue }
                changed += 1
                // Whoever has not changed may lose a copy to `who` or get one of `who`'s, and nothing else.
                let room = !old.contains(who) && new.contains(who) ? 1 : 0
                let gap = old.contains(who) && !new.contains(who) ? 1 : 0
                needlessCopies += max(0, gone.count - room) + max(0, come.count - gap)
            }
        }
    }

    static let many = (0..<60).map { RingMember(id: "node-\($0)", weight: 1 + $0 % 3, zone: "z\($0 % 4)") }

    @Test(arguments: [
        ("a join", RingMember(id: "new", zone: "z1"), false),
        ("a join in a new zone", RingMember(id: "new", zone: "z9"), false),
        ("a leave", RingMember(id: "node-11"), true),
        ("more weight", RingMember(id: "node-11", weight: 6, zone: "z3"), false),
        ("less weight", RingMember(id: "node-11", weight: 1, zone: "z3"), false),
        ("draining", RingMember(id: "node-11", weight: 0, zone: "z3"), false),
    ])
    func `no copy moves between members that did not change`(what: String, who: RingMember, leaves: Bool) throws {
        let ring = try Ring(Self.many, seed: 4, pointsPerWeight: 32)
        let after = try ring.applying(joining: leaves ? [] : [who], leaving: leaves ? [who.id] : [])
        for copies in [1, 3, 6, 10] {
            let disturbance = Disturbance(
                ring, after, who: who.id, copies: copies, samples: copies > 6 ? 2_000 : 10_000)
            #expect(disturbance.needlessOwners == 0, "\(what)")
            #expect(disturbance.needlessCopies == 0, "\(what), \(copies) copies")
            #expect(disturbance.changed > 0, "\(what): nothing moved at all")
        }
    }

    @Test func `a new zone moves no owner, and at most one copy of a key that its member holds before or after`() throws
    {
        let ring = try Ring(Self.many, seed: 4, pointsPerWeight: 32)
        let after = try ring.applying(joining: [RingMember(id: "node-11", weight: 3, zone: "z0")], leaving: [])
        #expect(ring.moves(to: after).isEmpty)
        var dice = SplitMix64(seed: 98)
        var moved = 0
        for copies in [2, 3, 5, 6] {
            for _ in 0..<5_000 {
                let position = dice.next()
                let lists = [ring, after].map { ring in
                    let list = ring.preference(at: position, count: copies)
                    return Set((0..<list.count).map { ring.id($0, of: list) })
                }
                if lists[0] == lists[1] { continue }
                moved += 1
                #expect(lists[0].subtracting(lists[1]).count == 1)
                #expect(lists[0].contains("node-11") || lists[1].contains("node-11"))
            }
        }
        #expect(moved > 0)
    }

    @Test func `a control that places keys by the remainder disturbs nearly all, and the count shows it`() throws {
        let ring = try Ring(Self.many, seed: 4, pointsPerWeight: 32)
        let after = try ring.applying(joining: [RingMember(id: "new", zone: "z1")], leaving: [])
        let disturbance = Disturbance(ring, after, who: "new", copies: 3, samples: 2_000) { ring, position, count in
            let first = Int(position % UInt64(ring.members.count))
            return (0..<count).map { ring.members[(first + $0) % ring.members.count].id }
        }
        #expect(disturbance.needlessOwners > 1_500)
        #expect(disturbance.needlessCopies > 3_000)
    }

    @Test func `in whatever order members join, the ring and its digest are the same`() throws {
        var dice = SplitMix64(seed: 21)
        let members = (0..<30).map { RingMember(id: "n\($0)", weight: $0 % 4, zone: "z\($0 % 3)") }
        let ring = try Ring(members, seed: 6, pointsPerWeight: 16)
        for _ in 0..<12 {
            var grown = try Ring([], seed: 6, pointsPerWeight: 16)
            var passed: [RingMember] = []
            for member in members.shuffled(using: &dice) {
                grown = try grown.applying(joining: [member], leaving: [])
                // Somebody who comes and goes leaves no trace.
                if dice.chance(30) {
                    grown = try grown.applying(
                        joining: [RingMember(id: "guest", zone: "g\(passed.count)")], leaving: [])
                    grown = try grown.applying(joining: [], leaving: ["guest"])
                }
                passed.append(member)
            }
            #expect(grown.digest == ring.digest)
            #expect(grown.members == ring.members)
            #expect(grown.moves(to: ring).isEmpty)
            for _ in 0..<50 {
                let position = dice.next()
                #expect(grown.owner(at: position) == ring.owner(at: position))
            }
        }
    }

    @Test func `the digest tells every difference`() throws {
        let members = [RingMember(id: "a"), RingMember(id: "b", weight: 2, zone: "z")]
        var digests: Set<RingDigest> = []
        let different: [([RingMember], UInt64, Int)] = [
            (members, 0, 8), (members, 1, 8), (members, 0, 9), ([members[0]], 0, 8), ([], 0, 8),
            ([members[0], RingMember(id: "b", weight: 1, zone: "z")], 0, 8),
            ([members[0], RingMember(id: "b", weight: 2, zone: "y")], 0, 8),
            // Where one field ends and the next begins counts.
            ([members[0], RingMember(id: "bz", weight: 2, zone: "")], 0, 8),
            ([RingMember(id: "a\u{300}")], 0, 8), ([RingMember(id: "\u{E0}")], 0, 8),
        ]
        for (members, seed, pointsPerWeight) in different {
            #expect(digests.insert(try Ring(members, seed: seed, pointsPerWeight: pointsPerWeight).digest).inserted)
        }
    }

    @Test func `the busiest of 100 members has at most 1.20 times its fair share`() throws {
        let members = (0..<100).map { RingMember(id: "node-\($0)") }
        let shares = try Ring(members, seed: 0, pointsPerWeight: 256).shares
        let largest = try #require(shares.max())
        #expect(Double(largest) / 0x1p64 * 100 <= 1.20)
        // And it is not the luck of one seed.
        let worst = try (1...15).map { seed in
            let largest = try Ring(members, seed: UInt64(seed), pointsPerWeight: 256).shares.max()
            return Double(try #require(largest)) / 0x1p64 * 100
        }
        #expect(worst.sorted()[worst.count / 2] <= 1.20)
    }

    @Test func `weights divide the circle in proportion`() throws {
        let members = [RingMember(id: "a"), RingMember(id: "b", weight: 2), RingMember(id: "c", weight: 5)]
        let shares = try Ring(members, seed: 3, pointsPerWeight: 1024).shares.map { Double($0) / 0x1p64 * 8 }
        for (share, weight) in zip(shares, [1.0, 2, 5]) { #expect(abs(share / weight - 1) < 0.1) }
    }

    // MARK: Ties

    /// Two members of which five of the first eight points are the same under seed 0 (ring.py says how they were
    /// found).
    static let tied = [RingMember(id: "nj-0Nz/H"), RingMember(id: "tie-149")]

    @Test func `of two members on one point the one with the smaller id owns it, in whatever order they came`() throws {
        let naive = NaiveRing(Self.tied, seed: 0, pointsPerWeight: 8)
        let tie = zip(naive.points, naive.points.dropFirst()).filter { $0.value == $1.value }.map(\.0.value)
        #expect(tie.count == 5)
        let empty = try Ring([], seed: 0, pointsPerWeight: 8)
        for order in [Self.tied, Self.tied.reversed()] {
            let first = try empty.applying(joining: [order[0]], leaving: [])
            let both = try first.applying(joining: [order[1]], leaving: [])
            for position in tie {
                #expect(both.owner(at: position) == "nj-0Nz/H")
                #expect(both.owner(at: position - 1) == "nj-0Nz/H")
            }
            #expect(both.shares.reduce(0, +) == 1 << 64)
            #expect(try first.plan(joining: [order[1]], leaving: []) == first.moves(to: both))
            for leaver in Self.tied {
                let left = try both.applying(joining: [], leaving: [leaver.id])
                #expect(try both.plan(joining: [], leaving: [leaver.id]) == both.moves(to: left))
                #expect(tie.allSatisfy { left.owner(at: $0) != leaver.id })
            }
            // One goes as the other comes.
            let swapped = try first.plan(joining: [order[1]], leaving: [order[0].id])
            #expect(swapped == first.moves(to: try Ring([order[1]], seed: 0, pointsPerWeight: 8)))
        }
    }

    // MARK: Limits

    @Test func `what is outside its limits is refused by name`() throws {
        func refusal(_ body: () throws -> Void) -> String? {
            do { try body() } catch let error as InvalidArgument { return error.field } catch { return "\(error)" }
            return nil
        }
        let ring = try Ring([RingMember(id: "a")], seed: 0, pointsPerWeight: 1)
        for (field, member) in [
            ("id", RingMember(id: "")), ("id", RingMember(id: "a\nb")), ("weight", RingMember(id: "b", weight: -1)),
            ("weight", RingMember(id: "b", weight: 1001)),
            ("zone", RingMember(id: "b", zone: String(repeating: "z", count: 65))),
            ("zone", RingMember(id: "b", zone: "\u{7}")),
        ] {
            #expect(refusal { _ = try Ring([member], seed: 0, pointsPerWeight: 1) } == field)
            #expect(refusal { _ = try ring.applying(joining: [member], leaving: []) } == field)
            #expect(refusal { _ = try ring.plan(joining: [member], leaving: []) } == field)
        }
        let twice = [RingMember(id: "b"), RingMember(id: "b", weight: 2)]
        #expect(refusal { _ = try Ring(twice, seed: 0, pointsPerWeight: 1) } == "members")
        #expect(refusal { _ = try ring.applying(joining: twice, leaving: []) } == "joining")
        #expect(refusal { _ = try ring.applying(joining: [], leaving: ["nobody"]) } == "leaving")
        #expect(refusal { _ = try ring.applying(joining: [], leaving: ["a", "a"]) } == "leaving")
        #expect(refusal { _ = try Ring([], seed: 0, pointsPerWeight: 0) } == "pointsPerWeight")
        #expect(refusal { _ = try Ring([], seed: 0, pointsPerWeight: 4097) } == "pointsPerWeight")
        let heavy = (0..<17).map { RingMember(id: "h\($0)", weight: 1000) }
        #expect(refusal { _ = try Ring(heavy, seed: 0, pointsPerWeight: 1024) } == "weight")
        #expect(
            refusal { _ = try Ring([], seed: 0, pointsPerWeight: 1024).applying(joining: heavy, leaving: []) }
                == "weight")
    }

    @Test func `65,535 members fit, and one more is refused`() throws {
        let members = (0..<65_535).map { RingMember(id: "m\($0)") }
        var ring = try Ring(members, seed: 0, pointsPerWeight: 1)
        #expect(throws: InvalidArgument.self) { try ring.applying(joining: [RingMember(id: "more")], leaving: []) }
        // No number is free for the one that comes as another goes.
        ring = try ring.applying(joining: [RingMember(id: "more")], leaving: ["m17"])
        #expect(ring.members.count == 65_535)
        #expect(ring.index(of: "m17") == nil)
        #expect(ring.shares.reduce(0, +) == 1 << 64)
    }
}
