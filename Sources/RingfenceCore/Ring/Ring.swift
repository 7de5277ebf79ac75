// SPDX-License-Identifier: Apache-2.0
//
// The consistent-hash ring, version 1: a pure function of its seed, its pointsPerWeight and its members, in integers
// only, so that everybody who knows the members knows every owner, in any language. RingSpecification.md says what it
// is; this file is one way to compute it.
//
// Three decisions set it apart from the rings people know:
//  - A member's points depend on nothing but its id and weight: not on how many others there are (ketama), nor on the
//    order they came in. So a join, a leave or a new weight moves exactly the keys it must, and none between two
//    others.
//  - Preference lists spread over zones by one rule that keeps this property for the copies too: sort the members in
//    the order in which they are met clockwise by "how many of my zone were met before me", and take the first. A
//    greedy fill that looks at loads or remembers choices would move copies between members that have nothing to do
//    with the change.
//  - A ring never changes. A join makes a new one from the old (`applying`), and readers that hold the old one go on
//    reading it; so readers take no lock and see one membership, never half of two.
//
// Members are numbered by *slots*, which a member keeps as long as it stays, so that the points of the others need not
// be touched. For people and other languages the order of members is that of their ids' bytes.

/// An immutable hash ring.
package final class Ring: Sendable {
    package let seed: UInt64
    /// Points for each pointsPerWeight of weight.
    package let pointsPerWeight: Int
    /// In the order of the bytes of their ids, drained ones included.
    package let members: [RingMember]
    package let digest: RingDigest

    let points: RingPoints
    /// By place in `members`.
    let slots: [UInt16]
    /// By slot; empty for a free one.
    let ids: [String]
    /// By slot: the place in `members`; `RingPoints.undecided` for a free one.
    let ranks: [UInt16]
    let zones: RingZones

    /// How many points there are.
    package var pointCount: Int { points.count }
    /// How many members have points.
    package var liveCount: Int { zones.liveCount }

    init(
        seed: UInt64, pointsPerWeight: Int, members: [RingMember], digest: RingDigest, points: RingPoints,
        slots: [UInt16],
        ids: [String], ranks: [UInt16], zones: RingZones
    ) {
        self.seed = seed
        self.pointsPerWeight = pointsPerWeight
        self.members = members
        self.digest = digest
        self.points = points
        self.slots = slots
        self.ids = ids
        self.ranks = ranks
        self.zones = zones
    }

    // MARK: Owners

    /// The id of the member that `position` belongs to; nil when no member has points.
    @inline(__always)
    package func owner(at position: UInt64) -> String? {
        var slot = points.ownerInBlock(at: position)
        if slot == RingPoints.undecided {
            slot = ownerByBisection(at: position)
            if slot == RingPoints.undecided { return nil }
        }
        return ids.withUnsafeBufferPointer { $0[Int(slot)] }
    }

    /// The same for a key's bytes.
    package func owner(of bytes: UnsafeRawBufferPointer) -> String? {
        owner(at: RingHash.position(of: bytes, seed: seed))
    }

    /// The place in `members` of the member that `position` belongs to; -1 when no member has points.
    @inline(__always)
    package func ownerIndex(at position: UInt64) -> Int {
        var slot = points.ownerInBlock(at: position)
        if slot == RingPoints.undecided {
            slot = ownerByBisection(at: position)
            if slot == RingPoints.undecided { return -1 }
        }
        return ranks.withUnsafeBufferPointer { Int($0[Int(slot)]) }
    }

    package func ownerIndex(of bytes: UnsafeRawBufferPointer) -> Int {
        ownerIndex(at: RingHash.position(of: bytes, seed: seed))
    }

    /// Kept out of the way of those above: the few positions that a block cannot tell.
    @inline(never)
    private func ownerByBisection(at position: UInt64) -> UInt16 {
        points.count == 0 ? RingPoints.undecided : points.owners[points.index(at: position)]
    }

    // MARK: Members

    /// The place in `members` of a member; nil if there is none of this id.
    package func index(of id: String) -> Int? {
        let place = Self.place(of: id, in: members)
        return place < members.count && members[place].id.hasSameBytes(as: id) ? place : nil
    }

    /// Where `id` is among members in order, or would be.
    static func place(of id: String, in members: [RingMember]) -> Int {
        var low = 0
        var high = members.count
        while low < high {
            let middle = (low + high) / 2
            if members[middle].id.isBefore(id) { low = middle + 1 } else { high = middle }
        }
        return low
    }

    // MARK: Shares

    /// How many of the 2^64 positions belong to each member, in the order of `members`.
    package var shares: [UInt128] {
        var bySlot = [UInt128](repeating: 0, count: ids.count)
        let (values, owners) = (points.points, points.owners)
        if let first = values.first, let last = values.last {
            if first == last {
                // One point, or several in one place: the first has the whole circle.
                bySlot[Int(owners[0])] = 1 << 64
            } else {
                var before = last
                for (index, value) in values.enumerated() {
                    bySlot[Int(owners[index])] += UInt128(value &- before)
                    before = value
                }
            }
        }
        return slots.map { bySlot[Int($0)] }
    }
}

// MARK: - Zones

/// Which slot is in which zone, and how many live members each zone has.
struct RingZones: Sendable {
    struct Name: Hashable, Sendable {
        let text: String
        static func == (one: Name, other: Name) -> Bool { one.text.hasSameBytes(as: other.text) }
        func hash(into hasher: inout Hasher) { hasher.combineBytes(of: text) }
    }

    /// By slot.
    private(set) var bySlot: [UInt16] = []
    /// By zone: members in all, and those of them that have points.
    private var membersIn: [UInt16] = []
    private var liveIn: [UInt16] = []
    private var numbers: [Name: UInt16] = [:]
    private var names: [Name] = []
    /// How many zones have more live members than the index.
    private(set) var deeperThan: [UInt16] = []
    private(set) var liveCount = 0

    /// Zones there are numbers for.
    var count: Int { names.count }
    /// Zones with a live member.
    var liveZones: Int { deeperThan.count == 0 ? 0 : Int(deeperThan[0]) }

    mutating func add(_ member: RingMember, slot: UInt16) {
        let name = Name(text: member.zone)
        let zone: UInt16
        if let known = numbers[name] {
            zone = known
        } else if names.count > 256, let unused = membersIn.firstIndex(of: 0) {
            // Members that come and go, each with a zone of its own, must not use the numbers up.
            numbers[names[unused]] = nil
            names[unused] = name
            zone = UInt16(unused)
            numbers[name] = zone
        } else {
            zone = UInt16(names.count)
            names.append(name)
            numbers[name] = zone
            membersIn.append(0)
            liveIn.append(0)
        }
        if Int(slot) == bySlot.count { bySlot.append(zone) } else { bySlot[Int(slot)] = zone }
        membersIn[Int(zone)] += 1
        guard member.weight > 0 else { return }
        let depth = Int(liveIn[Int(zone)])
        liveIn[Int(zone)] += 1
        if depth == deeperThan.count { deeperThan.append(1) } else { deeperThan[depth] += 1 }
        liveCount += 1
    }

    mutating func remove(_ member: RingMember, slot: UInt16) {
        let zone = Int(bySlot[Int(slot)])
        membersIn[zone] -= 1
        guard member.weight > 0 else { return }
        liveIn[zone] -= 1
        let depth = Int(liveIn[zone])
        deeperThan[depth] -= 1
        if deeperThan[depth] == 0 { deeperThan.removeLast() }
        liveCount -= 1
    }
}
