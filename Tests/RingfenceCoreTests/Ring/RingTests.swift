// SPDX-License-Identifier: Apache-2.0
//
// The ring against its specification taken by the letter (NaiveRing), on rings small and odd enough to meet every case
// of the layout: blocks without a point, with too many, points at their edges, one member, none.
import CXXHash
import RingfenceCore
import TestSupport
import Testing

@Suite struct RingTests {
    /// Rings of all kinds, by a seed.
    static func members(_ dice: inout SplitMix64, _ count: Int) -> [RingMember] {
        (0..<count).map { number in
            RingMember(
                id: "node-\(number)", weight: dice.chance(70) ? 1 : Int(dice.pick(0...5)),
                zone: dice.pick(["", "a", "b", "c"]))
        }
    }

    /// Positions that are likely to go wrong: at points, beside them, at the ends of blocks, anywhere.
    static func positions(_ naive: NaiveRing, _ dice: inout SplitMix64, _ count: Int) -> [UInt64] {
        var positions: [UInt64] = [0, 1, .max, .max - 1]
        for _ in 0..<count {
            positions.append(dice.next())
            positions.append((dice.next() & 0xFFFF) << 48)
            guard !naive.points.isEmpty else { continue }
            let point = naive.points[Int(dice.pick(0...Int64(naive.points.count - 1)))].value
            positions += [point, point &+ 1, point &- 1, point & ~0xFFFF_FFFF, point | 0xFFFF_FFFF]
        }
        return positions
    }

    @Test(arguments: [0, 1, 2, 3, 7, 40], [1, 3, 16, 64])
    func `the owner of every position is that of the first point at or after it`(count: Int, pointsPerWeight: Int)
        throws
    {
        var dice = SplitMix64(seed: UInt64(count * 1000 + pointsPerWeight))
        let members = Self.members(&dice, count)
        let ring = try Ring(members, seed: 7, pointsPerWeight: pointsPerWeight)
        let naive = NaiveRing(members, seed: 7, pointsPerWeight: pointsPerWeight)
        #expect(ring.members == naive.members)
        #expect(ring.pointCount == naive.points.count)
        for position in Self.positions(naive, &dice, 40) {
            let owner = naive.owner(at: position)
            #expect(ring.owner(at: position) == owner.map { naive.members[$0].id })
            #expect(ring.ownerIndex(at: position) == owner ?? -1)
        }
    }

    @Test(arguments: [0, 1, 2, 5, 30], [1, 8])
    func `preference lists are those of the specification, whatever their length`(count: Int, pointsPerWeight: Int)
        throws
    {
        var dice = SplitMix64(seed: UInt64(count * 1000 + pointsPerWeight + 1))
        let members = Self.members(&dice, count)
        let ring = try Ring(members, seed: 1, pointsPerWeight: pointsPerWeight)
        let naive = NaiveRing(members, seed: 1, pointsPerWeight: pointsPerWeight)
        for position in Self.positions(naive, &dice, 6) {
            let all = naive.preference(at: position)
            for length in [0, 1, 2, 3, 4, 7, 8, 9, 12, count, count + 3] {
                let list = ring.preference(at: position, count: length)
                #expect((0..<list.count).map { ring.index($0, of: list) } == Array(all.prefix(length)))
            }
        }
    }

    @Test func `the comparison of a block agrees with plain C`() {
        var dice = SplitMix64(seed: 3)
        for _ in 0..<20_000 {
            // Few different numbers, so that equal ones and long runs happen.
            let spread: UInt64 = dice.chance(50) ? 0xFFFF : 0x1F
            var lanes = (0..<15).map { _ in UInt16(truncatingIfNeeded: dice.next() & spread) }.sorted()
            let used = Int(dice.pick(0...15))
            for lane in used..<15 { lanes[lane] = 0xFFFF }
            lanes.append(0xFFFF)
            let suffix = UInt16(truncatingIfNeeded: dice.next() & spread)
            let expected = lanes.contains(suffix) ? -1 : lanes.firstIndex { $0 >= suffix } ?? 15
            let flipped = lanes.map { $0 ^ 0x8000 }
            let (fast, plain) = flipped.withUnsafeBytes {
                (rf_block_lane($0.baseAddress, suffix), rf_block_lane_portable($0.baseAddress, suffix))
            }
            #expect(Int(plain) == expected)
            #expect(fast == plain)
        }
    }

    @Test func `shares add up to the whole circle and are what the points say`() throws {
        for count in [1, 2, 9] {
            var dice = SplitMix64(seed: UInt64(count))
            let members = Self.members(&dice, count) + [RingMember(id: "alive")]
            let ring = try Ring(members, seed: 5, pointsPerWeight: 4)
            #expect(ring.shares.reduce(0, +) == 1 << 64)
            let naive = NaiveRing(members, seed: 5, pointsPerWeight: 4)
            var expected = [UInt128](repeating: 0, count: members.count)
            for (index, point) in naive.points.enumerated() {
                let before = naive.points[(index + naive.points.count - 1) % naive.points.count].value
                expected[point.member] += naive.points.count == 1 ? 1 << 64 : UInt128(point.value &- before)
            }
            #expect(ring.shares == expected)
        }
        #expect(try Ring([], seed: 0, pointsPerWeight: 1).shares.isEmpty)
    }
}
