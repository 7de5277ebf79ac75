// SPDX-License-Identifier: Apache-2.0
//
// The ring as its specification reads, with no thought of speed: one sorted list of points, everything found by walking
// it. What the real ring is held against.
package import RingfenceCore

/// A hash ring by the letter.
package struct NaiveRing: Sendable {
    package struct Point: Sendable {
        package var value: UInt64
        package var member: Int
    }

    package let seed: UInt64
    package let members: [RingMember]
    package let points: [Point]

    package init(_ members: [RingMember], seed: UInt64, pointsPerWeight: Int) {
        self.seed = seed
        let sorted = members.sorted { Array($0.id.utf8).lexicographicallyPrecedes(Array($1.id.utf8)) }
        self.members = sorted
        points = sorted.enumerated().flatMap { place, member in
            // A member's points are what SplitMix64 gives from the hash of its id on.
            var generator = SplitMix64(seed: RingHash.position(of: member.id, seed: seed))
            return (0..<(member.weight * pointsPerWeight)).map { _ in Point(value: generator.next(), member: place) }
        }.sorted { ($0.value, $0.member) < ($1.value, $1.member) }
    }

    /// The place in `members` of the owner; nil without points.
    package func owner(at position: UInt64) -> Int? {
        (points.first { $0.value >= position } ?? points.first)?.member
    }

    /// All live members, the best for `position` first.
    package func preference(at position: UInt64) -> [Int] {
        let start = points.firstIndex { $0.value >= position } ?? 0
        var met: [Int] = []
        var isMet = [Bool](repeating: false, count: members.count)
        for point in points[start...] + points[..<start] where !isMet[point.member] {
            isMet[point.member] = true
            met.append(point.member)
        }
        var inZone: [[UInt8]: Int] = [:]
        let ranked = met.enumerated().map { order, member in
            let zone = Array(members[member].zone.utf8)
            defer { inZone[zone, default: 0] += 1 }
            return (rank: inZone[zone, default: 0], order: order, member: member)
        }
        return ranked.sorted { ($0.rank, $0.order) < ($1.rank, $1.order) }.map(\.member)
    }
}
