// SPDX-License-Identifier: Apache-2.0
//
// Preference lists: the members that hold the copies of a key, the owner first.
//
// The rule: take the live members in the order in which their points are met clockwise from the key. A member's *rank*
// is how many members of its own zone were met before it. Sort by rank, and by the order of meeting among equal ranks.
// So every zone has one copy before any has two, and so on; without zones it is the order of meeting.
//
// Why this rule and not another fill: when a member joins or leaves, or changes its weight, each key's set of copies
// changes by that member and at most one other, which gives it the place or takes it. No copy moves between two members
// that did not change. (A member's arrival pushes those of its zone behind it one rank down, and each of them lands on
// a place not later than the one its predecessor had: so a zone's choice grows or shrinks at its end only.)
//
// A list of at most eight, as nearly all are, is found by walking the points and comparing with what was taken so far,
// without allocating. Whether a point is taken is a toss-up that no processor can foresee, and a wrong guess costs more
// than several points. So where there are at most 64 zones the walk has no branch for it: every point is written down
// behind the last taken one, the count grows by one or by none, and it is looked at after eight points only. A longer
// list marks the members met in a table.

/// The slots of a preference list.
package struct RingPreference: Sendable {
    /// A list of more than `few`. No empty array in its place: to copy and drop one costs more than a lookup.
    private final class Many: Sendable {
        let slots: [UInt16]
        init(_ slots: [UInt16]) { self.slots = slots }
    }

    package let count: Int
    private let few: SIMD8<UInt16>
    private let many: Many?

    /// A list of this many at most is kept without allocating.
    static let few = 8

    init(count: Int, few: SIMD8<UInt16>) {
        self.count = count
        self.few = few
        many = nil
    }

    init(_ slots: [UInt16]) {
        count = slots.count
        few = .zero
        many = Many(slots)
    }

    @inline(__always)
    func slot(_ place: Int) -> UInt16 { many?.slots[place] ?? few[place] }
}

extension Ring {
    /// The `count` best members for a position, or all live ones if they are fewer.
    package func preference(at position: UInt64, count: Int) -> RingPreference {
        let wanted = min(count, zones.liveCount)
        guard wanted > 0 else { return RingPreference(count: 0, few: .zero) }
        var start = points.indexInBlock(at: position)
        if start < 0 { start = indexByBisection(at: position) }
        if start == points.count { start = 0 }
        guard wanted <= RingPreference.few else { return RingPreference(manyMembers(from: start, wanted)) }
        // Twice as many places as members, for what a walk writes down and does not take.
        return withUnsafeTemporaryAllocation(of: UInt16.self, capacity: 16) { taken in
            taken.initialize(repeating: 0)
            let taken = taken.baseAddress.unsafelyUnwrapped
            if zones.liveZones == 1 {
                walk(from: start, wanted, taken)
            } else if wanted <= zones.liveZones, zones.count <= 64 {
                walkZones(from: start, wanted, taken)
            } else {
                walkRounds(from: start, wanted, taken)
            }
            let few = UnsafeRawPointer(taken).loadUnaligned(as: SIMD8<UInt16>.self)
            return RingPreference(count: wanted, few: few)
        }
    }

    /// The id of a place of a preference list of this ring.
    package func id(_ place: Int, of preference: RingPreference) -> String { ids[Int(preference.slot(place))] }

    /// The place in `members` of a place of a preference list of this ring.
    package func index(_ place: Int, of preference: RingPreference) -> Int {
        Int(ranks[Int(preference.slot(place))])
    }

    @inline(never)
    private func indexByBisection(at position: UInt64) -> Int { points.index(at: position) }

    /// All in one zone: every member that is met.
    private func walk(from start: Int, _ wanted: Int, _ taken: UnsafeMutablePointer<UInt16>) {
        points.owners.withUnsafeBufferPointer { owners in
            var count = 0
            var index = start
            while count < wanted {
                let slot = owners[index]
                taken[count] = slot
                var isNew = 1
                var place = 0
                while place < count {
                    isNew &= taken[place] == slot ? 0 : 1
                    place &+= 1
                }
                count &+= isNew
                index &+= 1
                if index == owners.count { index = 0 }
            }
        }
    }

    /// One from each zone, as there are enough.
    private func walkZones(from start: Int, _ wanted: Int, _ taken: UnsafeMutablePointer<UInt16>) {
        points.owners.withUnsafeBufferPointer { owners in
            zones.bySlot.withUnsafeBufferPointer { zoneOf in
                var count = 0
                var index = start
                var used: UInt64 = 0
                while count < wanted {
                    // At most eight too many are taken; they are behind those that are wanted.
                    for _ in 0..<8 {
                        let slot = owners[index]
                        let zone = UInt64(truncatingIfNeeded: zoneOf[Int(slot)])
                        taken[count] = slot
                        count &+= Int(truncatingIfNeeded: ~(used &>> zone) & 1)
                        used |= 1 &<< zone
                        index &+= 1
                        if index == owners.count { index = 0 }
                    }
                }
            }
        }
    }

    /// One from each zone, then round again for the second of each, and so on.
    private func walkRounds(from start: Int, _ wanted: Int, _ taken: UnsafeMutablePointer<UInt16>) {
        points.owners.withUnsafeBufferPointer { owners in
            zones.bySlot.withUnsafeBufferPointer { zoneOf in
                var count = 0
                var round = 0
                while count < wanted {
                    let end = min(wanted, count &+ Int(zones.deeperThan[round]))
                    var index = start
                    while count < end {
                        let slot = owners[index]
                        let zone = zoneOf[Int(slot)]
                        var before = 0
                        var place = 0
                        while place < count {
                            let other = taken[place]
                            if zoneOf[Int(other)] == zone { before &+= other == slot ? RingPreference.few : 1 }
                            place &+= 1
                        }
                        taken[count] = slot
                        count &+= before == round ? 1 : 0
                        index &+= 1
                        if index == owners.count { index = 0 }
                    }
                    round &+= 1
                }
            }
        }
    }

    /// Any number of members: each has its place in the list as soon as its rank is known.
    private func manyMembers(from start: Int, _ wanted: Int) -> [UInt16] {
        // Of each rank, how many are in the list, and where they begin.
        var free: [Int] = []
        var next: [Int] = []
        var left = wanted
        while left > 0 {
            let count = min(left, Int(zones.deeperThan[free.count]))
            next.append(wanted - left)
            free.append(count)
            left -= count
        }
        var list = [UInt16](repeating: 0, count: wanted)
        var isMet = [Bool](repeating: false, count: ids.count)
        var metInZone = [Int](repeating: 0, count: zones.count)
        let owners = points.owners
        var index = start
        left = wanted
        while left > 0 {
            let slot = Int(owners[index])
            if !isMet[slot] {
                isMet[slot] = true
                let zone = Int(zones.bySlot[slot])
                let rank = metInZone[zone]
                metInZone[zone] += 1
                if rank < free.count, free[rank] > 0 {
                    free[rank] -= 1
                    list[next[rank]] = owners[index]
                    next[rank] += 1
                    left -= 1
                }
            }
            index += 1
            if index == owners.count { index = 0 }
        }
        return list
    }
}
