// SPDX-License-Identifier: Apache-2.0
//
// From one ring to the next: the members that join, leave or change, and which points that adds and removes.
// `Ring.applying` makes the new ring of it; `Ring.plan` says which ranges change hands without making the ring.
//
// A change of a few members touches their points only. When much changes at once everything is made afresh, which is
// faster then. The result is the same by definition: a ring is a function of its members.

extension Ring {
    /// A ring of these members.
    package convenience init(_ members: [RingMember], seed: UInt64, pointsPerWeight: Int) throws(InvalidArgument) {
        try RingLimits.check(pointsPerWeight: pointsPerWeight)
        let sorted = try RingChange.sorted(members, field: "members")
        try RingChange.check(sorted, pointsPerWeight: pointsPerWeight)
        self.init(sorted: sorted, seed: seed, pointsPerWeight: pointsPerWeight)
    }

    fileprivate convenience init(sorted members: [RingMember], seed: UInt64, pointsPerWeight: Int) {
        var digest = RingDigest(seed: seed, pointsPerWeight: pointsPerWeight)
        var zones = RingZones()
        var sources: [RingPoints.Source] = []
        sources.reserveCapacity(members.count)
        let slots = (0..<members.count).map { UInt16($0) }
        for (slot, member) in zip(slots, members) {
            digest.add(member)
            zones.add(member, slot: slot)
            let base = RingHash.position(of: member.id, seed: seed)
            sources.append(.init(base: base, indices: 0..<(member.weight * pointsPerWeight), slot: slot))
        }
        self.init(
            seed: seed, pointsPerWeight: pointsPerWeight, members: members, digest: digest,
            points: RingPoints(sources, rank: slots),
            slots: slots, ids: members.map(\.id), ranks: slots, zones: zones)
    }

    /// The ring after some members left, and others joined or, if their id is there already, changed. A member in both
    /// lists has changed.
    package func applying(joining: [RingMember], leaving: [String]) throws(InvalidArgument) -> Ring {
        switch try RingChange.of(self, joining: joining, leaving: leaving) {
        case .nothing: self
        case .all(let members): Ring(sorted: members, seed: seed, pointsPerWeight: pointsPerWeight)
        case .some(let change): change.ring(after: self)
        }
    }

    /// What moves when some members leave and others join or change: maximal ranges, in the order of their ends.
    package func plan(joining: [RingMember], leaving: [String]) throws(InvalidArgument) -> [RingMove] {
        switch try RingChange.of(self, joining: joining, leaving: leaving) {
        case .nothing: []
        case .all(let members): moves(to: Ring(sorted: members, seed: seed, pointsPerWeight: pointsPerWeight))
        case .some(let change): change.moves(from: self)
        }
    }
}

/// A change of a few of a ring's members.
struct RingChange {
    enum Outcome {
        case nothing
        /// The change is so large that a new ring should be made of these members, which are in order.
        case all([RingMember])
        case some(RingChange)
    }

    /// After the change, in order, and the slot of each.
    private(set) var members: [RingMember]
    private(set) var slots: [UInt16]
    private(set) var digest: RingDigest
    private(set) var zones: RingZones
    /// By slot. Those who leave are still named here, and nobody gets their slot yet.
    private(set) var ids: [String]
    /// By slot.
    private(set) var ranks: [UInt16]
    /// Indices of the points that go, in order.
    private(set) var removed: [Int] = []
    /// The points that come, in order, and in front of which old point each does.
    private(set) var added: [RingPoints.Point] = []
    private(set) var places: [Int] = []
    private var gone: [UInt16] = []

    /// One member's change.
    private struct Step {
        var id: String
        var slot: UInt16
        var oldWeight: Int
        var newWeight: Int
    }

    static func of(
        _ ring: Ring, joining: [RingMember], leaving: [String]
    ) throws(InvalidArgument) -> Outcome {
        let joining = try sorted(joining, field: "joining")
        let leavers = try sorted(leaving.map { RingMember(id: $0, weight: 0) }, field: "leaving")
        for leaver in leavers where ring.index(of: leaver.id) == nil {
            throw InvalidArgument("leaving", "must name members of the ring; \"\(leaver.id)\" is none")
        }
        // A leave and a join of the same id are a change.
        let left = leavers.filter { leaver in
            let place = Ring.place(of: leaver.id, in: joining)
            return place == joining.count || !joining[place].id.hasSameBytes(as: leaver.id)
        }
        let changed = joining.filter { member in ring.index(of: member.id).map { ring.members[$0] != member } ?? true }
        if left.isEmpty, changed.isEmpty { return .nothing }

        if changed.count + left.count > 64 + ring.members.count / 64
            || ring.ids.count + changed.count > RingLimits.members
        {
            let members = merged(ring.members, changed, without: left)
            try check(members, pointsPerWeight: ring.pointsPerWeight)
            return .all(members)
        }
        var change = RingChange(ring)
        let steps = left.map { change.leave($0.id, ring) } + change.join(changed, ring)
        try check(change.members, pointsPerWeight: ring.pointsPerWeight)
        let units = steps.reduce(0) { $0 + abs($1.oldWeight - $1.newWeight) }
        if units * ring.pointsPerWeight > 1024 + ring.pointCount / 4 { return .all(change.members) }
        change.finish(steps, ring)
        return .some(change)
    }

    private init(_ ring: Ring) {
        members = ring.members
        slots = ring.slots
        digest = ring.digest
        zones = ring.zones
        ids = ring.ids
        ranks = ring.ranks
    }

    private mutating func leave(_ id: String, _ ring: Ring) -> Step {
        let place = Ring.place(of: id, in: members)
        let member = members.remove(at: place)
        let slot = slots.remove(at: place)
        digest.remove(member)
        zones.remove(member, slot: slot)
        gone.append(slot)
        return Step(id: id, slot: slot, oldWeight: member.weight, newWeight: 0)
    }

    private mutating func join(_ changed: [RingMember], _ ring: Ring) -> [Step] {
        var free = ids.count - ring.members.count
        var steps: [Step] = []
        var search = 0
        for member in changed {
            let place = Ring.place(of: member.id, in: members)
            digest.add(member)
            if place < members.count, members[place].id.hasSameBytes(as: member.id) {
                let (old, slot) = (members[place], slots[place])
                digest.remove(old)
                zones.remove(old, slot: slot)
                zones.add(member, slot: slot)
                members[place] = member
                steps.append(Step(id: member.id, slot: slot, oldWeight: old.weight, newWeight: member.weight))
                continue
            }
            let slot: Int
            if free > 0 {
                // Free in the old ring: the slots of those who leave now are not.
                while ring.ranks[search] != RingPoints.undecided { search += 1 }
                slot = search
                ids[slot] = member.id
                search += 1
                free -= 1
            } else {
                slot = ids.count
                ids.append(member.id)
                ranks.append(RingPoints.undecided)
            }
            members.insert(member, at: place)
            slots.insert(UInt16(slot), at: place)
            zones.add(member, slot: UInt16(slot))
            steps.append(Step(id: member.id, slot: UInt16(slot), oldWeight: 0, newWeight: member.weight))
        }
        return steps
    }

    /// Numbers the members, and finds the points that come and go.
    private mutating func finish(_ steps: [Step], _ ring: Ring) {
        for slot in gone { ranks[Int(slot)] = RingPoints.undecided }
        ranks.withUnsafeMutableBufferPointer { ranks in
            for (place, slot) in slots.enumerated() { ranks[Int(slot)] = UInt16(truncatingIfNeeded: place) }
        }
        for step in steps where step.oldWeight != step.newWeight {
            let base = RingHash.position(of: step.id, seed: ring.seed)
            // Point j is the same whatever the weight: more weight adds points behind those that are there.
            if step.newWeight > step.oldWeight {
                for index in (step.oldWeight * ring.pointsPerWeight)..<(step.newWeight * ring.pointsPerWeight) {
                    added.append(.init(value: RingHash.point(index, base: base), slot: step.slot))
                }
            } else {
                for index in (step.newWeight * ring.pointsPerWeight)..<(step.oldWeight * ring.pointsPerWeight) {
                    var place = ring.points.lowerBound(RingHash.point(index, base: base))
                    while ring.points.owners[place] != step.slot { place += 1 }
                    removed.append(place)
                }
            }
        }
        removed.sort()
        let ranks = ranks
        added.sort { one, other in
            one.value < other.value
                || (one.value == other.value && ranks[Int(one.slot)] < ranks[Int(other.slot)])
        }
        let (values, owners) = (ring.points.points, ring.points.owners)
        places = added.map { point in
            var place = ring.points.lowerBound(point.value)
            while place < values.count, values[place] == point.value,
                ranks[Int(owners[place])] < ranks[Int(point.slot)]
            { place += 1 }
            return place
        }
    }

    func ring(after old: Ring) -> Ring {
        var ids = ids
        for slot in gone { ids[Int(slot)] = "" }
        return Ring(
            seed: old.seed, pointsPerWeight: old.pointsPerWeight, members: members, digest: digest,
            points: removed.isEmpty && added.isEmpty
                ? old.points : RingPoints(old.points, removing: removed, adding: added, at: places),
            slots: slots, ids: ids, ranks: ranks, zones: zones)
    }

    // MARK: Lists of members

    /// In order, each checked and none there twice.
    static func sorted(_ members: [RingMember], field: String) throws(InvalidArgument) -> [RingMember] {
        for member in members { try RingLimits.check(member) }
        let sorted = members.sorted { $0.id.isBefore($1.id) }
        for (member, next) in zip(sorted, sorted.dropFirst()) where member.id.hasSameBytes(as: next.id) {
            throw InvalidArgument(field, "must name each member once; \"\(member.id)\" is there twice")
        }
        return sorted
    }

    static func check(_ members: [RingMember], pointsPerWeight: Int) throws(InvalidArgument) {
        try RingLimits.check(members: members.count, points: members.reduce(0) { $0 + $1.weight } * pointsPerWeight)
    }

    /// `members` with those of `changed` in or in place, and without `left`; all in order.
    private static func merged(
        _ members: [RingMember], _ changed: [RingMember], without left: [RingMember]
    ) -> [RingMember] {
        var merged: [RingMember] = []
        merged.reserveCapacity(members.count + changed.count)
        var (c, l) = (0, 0)
        for member in members {
            while c < changed.count, changed[c].id.isBefore(member.id) {
                merged.append(changed[c])
                c += 1
            }
            if c < changed.count, changed[c].id.hasSameBytes(as: member.id) {
                merged.append(changed[c])
                c += 1
            } else if l < left.count, left[l].id.hasSameBytes(as: member.id) {
                l += 1
            } else {
                merged.append(member)
            }
        }
        return merged + changed[c...]
    }
}
