// SPDX-License-Identifier: Apache-2.0
//
// Preference lists: the members that hold the copies of a key, the owner first.
//
// The rule: take the live members in the order in which their points are met clockwise from the key. A member's *rank* is how
// many members of its own zone were met before it. Sort by rank, and by the order of meeting among equal ranks. So every zone
// has one copy before any has two, and so on; without zones it is the order of meeting.
//
// Why this rule and not another fill: when a member joins or leaves, or changes its weight, each key's set of copies changes
// by that member and at most one other, which gives it the place or takes it. No copy moves between two members that did
// not change. (A member's arrival pushes those of its zone behind it one rank down, and each of them lands on a place not
// later than the one its predecessor had: so a zone's choice grows or shrinks at its end only.)
//
// A list of at most eight, as nearly all are, is found by walking the points and comparing with what was taken so far,
// without allocating. A longer one marks the members met in a table.

/// The slots of a preference list.
package struct RingPreference: Sendable {
    package private(set) var count = 0
    private var few = SIMD8<UInt16>(repeating: RingPoints.undecided)
    private var many: [UInt16] = []

    /// A list of this many at most is kept without allocating.
    static let few = 8

    init() {}

    init(_ slots: [UInt16]) {
        count = slots.count
        many = slots
    }

    @inline(__always)
    mutating func append(_ slot: UInt16) {
        few[count] = slot
        count &+= 1
    }

    @inline(__always)
    func contains(_ slot: UInt16) -> Bool {
        for place in 0..<count where few[place] == slot { return true }
        return false
    }

    func slot(_ place: Int) -> UInt16 { many.isEmpty ? few[place] : many[place] }
}

extension Ring {
    /// The `count` best members for a position, or all live ones if they are fewer.
    package func preference(at position: UInt64, count: Int) -> RingPreference {
        let wanted = min(count, zones.liveCount)
        guard wanted > 0 else { return RingPreference() }
        let start = points.index(at: position)
        if wanted > RingPreference.few { return RingPreference(manyMembers(from: start, wanted)) }
        return zones.liveZones == 1 ? members(from: start, wanted) : spread(from: start, wanted)
    }

    /// The id of a place of a preference list of this ring.
    package func id(_ place: Int, of preference: RingPreference) -> String { ids[Int(preference.slot(place))] }

    /// The place in `members` of a place of a preference list of this ring.
    package func index(_ place: Int, of preference: RingPreference) -> Int {
        Int(ranks[Int(preference.slot(place))])
    }

    /// All in one zone: whoever is met.
    private func members(from start: Int, _ wanted: Int) -> RingPreference {
        var taken = RingPreference()
        points.owners.withUnsafeBufferPointer { owners in
            var index = start
            while taken.count < wanted {
                let slot = owners[index]
                if !taken.contains(slot) { taken.append(slot) }
                index &+= 1
                if index == owners.count { index = 0 }
            }
        }
        return taken
    }

    /// Zone after zone, then round again for the second of each zone.
    private func spread(from start: Int, _ wanted: Int) -> RingPreference {
        var taken = RingPreference()
        // The zone of each taken member.
        var zonesTaken = RingPreference()
        points.owners.withUnsafeBufferPointer { owners in
            zones.bySlot.withUnsafeBufferPointer { zoneOf in
                var round = 0
                while taken.count < wanted {
                    let end = min(wanted, taken.count &+ Int(zones.deeperThan[round]))
                    var index = start
                    while taken.count < end {
                        let slot = owners[index]
                        let zone = zoneOf[Int(slot)]
                        var before = 0
                        for place in 0..<taken.count where zonesTaken.slot(place) == zone {
                            before &+= taken.slot(place) == slot ? 8 : 1
                        }
                        if before == round {
                            taken.append(slot)
                            zonesTaken.append(zone)
                        }
                        index &+= 1
                        if index == owners.count { index = 0 }
                    }
                    round &+= 1
                }
            }
        }
        return taken
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
