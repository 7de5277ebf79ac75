// SPDX-License-Identifier: Apache-2.0
//
// What the ring knows of a member, and the arithmetic that every implementation of the ring must share: the hash of a
// key, the points of a member, the digest. The specification for other languages is the article RingSpecification; a
// change here is a change of the ring's version, and moves everybody's keys.

import CXXHash

/// A member as the ring sees it. Ids and zones are bytes, not characters: two ids that look the same may be two
/// members.
package struct RingMember: Hashable, Sendable {
    package var id: String
    /// How many units of points it has; 0 is drained: still a member, and nothing is placed on it.
    package var weight: Int
    package var zone: String

    package init(id: String, weight: Int = 1, zone: String = "") {
        self.id = id
        self.weight = weight
        self.zone = zone
    }

    package static func == (one: RingMember, other: RingMember) -> Bool {
        one.weight == other.weight && one.id.hasSameBytes(as: other.id) && one.zone.hasSameBytes(as: other.zone)
    }

    package func hash(into hasher: inout Hasher) {
        hasher.combineBytes(of: id)
        hasher.combine(weight)
        hasher.combineBytes(of: zone)
    }
}

/// The limits of a ring and its members.
package enum RingLimits {
    package static let zoneBytes = 0...64
    package static let weights = 0...1000
    /// Points of a ring for each unit of weight.
    package static let units = 1...4096
    /// Members are numbered in 16 bits, and one number means "look closer".
    package static let members = 65_535
    /// 16 777 216 points, which take some 320 MB: weights are for ratios of members to each other, not for large
    /// numbers.
    package static let points = 1 << 24

    package static func check(pointsPerWeight: Int) throws(InvalidArgument) {
        guard units.contains(pointsPerWeight) else {
            throw InvalidArgument(
                "pointsPerWeight", "must be \(units.lowerBound) to \(units.upperBound) points, not \(pointsPerWeight)")
        }
    }

    package static func check(_ member: RingMember) throws(InvalidArgument) {
        // Of records that were let in: a ring must not fail for one that an older version took.
        try Limits.check(text: member.id, field: "id", bytes: Limits.nameBytes, isStored: true)
        guard weights.contains(member.weight) else {
            throw InvalidArgument(
                "weight", "must be \(weights.lowerBound) to \(weights.upperBound), not \(member.weight)")
        }
        guard zoneBytes.contains(member.zone.utf8.count) else {
            throw InvalidArgument(
                "zone", "must be at most \(zoneBytes.upperBound) bytes of UTF-8, not \(member.zone.utf8.count)")
        }
        if !member.zone.isEmpty { try Limits.check(text: member.zone, field: "zone", bytes: zoneBytes, isStored: true) }
    }

    package static func check(members: Int, points: Int) throws(InvalidArgument) {
        guard members <= Self.members else {
            throw InvalidArgument("members", "must be at most \(Self.members), not \(members)")
        }
        guard points <= Self.points else {
            throw InvalidArgument(
                "weight",
                "times the pointsPerWeight would give this ring \(points) points; at most \(Self.points) fit. "
                    + "Use smaller weights: only their ratio matters to who owns how much")
        }
    }
}

/// The hashes of the ring's version 1.
package enum RingHash {
    /// 2^64 divided by the golden ratio, as SplitMix64 steps.
    static let golden: UInt64 = 0x9E37_79B9_7F4A_7C15

    /// Where `bytes` stand on the ring: XXH3-64 under the ring's seed.
    @inline(__always)
    package static func position(of bytes: UnsafeRawBufferPointer, seed: UInt64) -> UInt64 {
        rf_xxh3_64(bytes.baseAddress, bytes.count, seed)
    }

    /// Where a number stands: that of its eight bytes, the lowest first.
    @inline(__always)
    package static func position(of number: UInt64, seed: UInt64) -> UInt64 {
        withUnsafeBytes(of: number.littleEndian) { position(of: $0, seed: seed) }
    }

    /// Where a text stands: that of its UTF-8.
    @inline(__always)
    package static func position(of text: String, seed: UInt64) -> UInt64 {
        if let position = text.utf8.withContiguousStorageIfAvailable({
            position(of: UnsafeRawBufferPointer($0), seed: seed)
        }) {
            return position
        }
        return positionOfForeign(text, seed: seed)
    }

    @inline(never)
    private static func positionOfForeign(_ text: String, seed: UInt64) -> UInt64 {
        Array(text.utf8).withUnsafeBytes { position(of: $0, seed: seed) }
    }

    /// Point `index` of the member whose id stands at `base`: number `index` of the SplitMix64 generator seeded with
    /// it.
    @inline(__always)
    package static func point(_ index: Int, base: UInt64) -> UInt64 {
        var z = base &+ (UInt64(truncatingIfNeeded: index) &+ 1) &* golden
        z = (z ^ (z &>> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z &>> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z &>> 31)
    }
}

/// 128 bits that are the same for two rings that place every key alike, and else differ, as far as hashes can tell. A
/// sum over the members, so that their order does not matter and a join or a leave changes it by one addition.
package struct RingDigest: Hashable, Sendable {
    package var high: UInt64
    package var low: UInt64

    /// That of a ring without members.
    package init(seed: UInt64, pointsPerWeight: Int) {
        var record = Array("ringfence ring v1".utf8)
        Self.append(seed, bytes: 8, to: &record)
        Self.append(UInt64(pointsPerWeight), bytes: 4, to: &record)
        (high, low) = Self.lanes(of: record)
    }

    package mutating func add(_ member: RingMember) {
        let lanes = Self.lanes(of: member)
        high &+= lanes.high
        low &+= lanes.low
    }

    package mutating func remove(_ member: RingMember) {
        let lanes = Self.lanes(of: member)
        high &-= lanes.high
        low &-= lanes.low
    }

    private static func lanes(of member: RingMember) -> (high: UInt64, low: UInt64) {
        var record: [UInt8] = []
        record.reserveCapacity(12 + member.id.utf8.count + member.zone.utf8.count)
        append(UInt64(member.id.utf8.count), bytes: 4, to: &record)
        record.append(contentsOf: member.id.utf8)
        append(UInt64(member.zone.utf8.count), bytes: 4, to: &record)
        record.append(contentsOf: member.zone.utf8)
        append(UInt64(member.weight), bytes: 4, to: &record)
        return lanes(of: record)
    }

    private static func lanes(of record: [UInt8]) -> (high: UInt64, low: UInt64) {
        record.withUnsafeBytes { bytes in
            (RingHash.position(of: bytes, seed: 1), RingHash.position(of: bytes, seed: 2))
        }
    }

    private static func append(_ number: UInt64, bytes count: Int, to record: inout [UInt8]) {
        for byte in 0..<count { record.append(UInt8(truncatingIfNeeded: number >> (8 * UInt64(byte)))) }
    }

    /// 32 lowercase hexadecimal digits.
    package var text: String { hexadecimal(high) + hexadecimal(low) }
}

/// A number as 16 lowercase hexadecimal digits.
package func hexadecimal(_ number: UInt64) -> String {
    let digits = String(number, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
}
