// SPDX-License-Identifier: Apache-2.0
//
// A wheel of 2^64 positions of which each member has a part as large as its share. Turned by dice it is a random choice
// by weight. Turned each time by 2^64 divided by the golden ratio it is a *smooth* one: the positions of any number of
// turns lie as evenly on the wheel as positions can (three gap lengths at most), so each member gets its share of any
// stretch of turns to within a few calls (less than four in the first hundred thousand), and no run of calls goes to
// one of many.
//
// The usual way, adding every weight to every member's credit and taking the highest, looks at all members for each
// pick. Here a table says for the upper bits of a position where to begin to look, and usually one more step is enough,
// however uneven the shares are.

package struct Wheel: Sendable {
    /// The last position of each part.
    private let ends: [UInt64]
    /// By the upper bits of a position: the part that its first position is in.
    private let guide: [UInt32]
    private let shift: UInt64

    /// Parts in proportion to `shares`, which are all more than 0; at least one.
    package init(_ shares: [Double]) {
        let count = shares.count
        let total = shares.reduce(0, +)
        var ends: [UInt64] = []
        ends.reserveCapacity(count)
        var sum = 0.0
        for share in shares {
            sum += share
            let end = (sum / total * 0x1p64).rounded()
            ends.append(end >= 0x1p64 ? .max : end < 1 ? 0 : UInt64(end) - 1)
        }
        // Rounding must not leave positions to nobody.
        ends[count - 1] = .max
        var bits: UInt64 = 1
        while 1 << bits < 2 * count { bits += 1 }
        shift = 64 - bits
        var guide: [UInt32] = []
        guide.reserveCapacity(1 << Int(bits))
        var part = 0
        for cell in 0..<(UInt64(1) << bits) {
            while ends[part] < cell << shift { part += 1 }
            guide.append(UInt32(part))
        }
        self.ends = ends
        self.guide = guide
    }

    /// The member whose part `position` is in.
    @inline(__always)
    package func part(at position: UInt64) -> Int {
        var part = Int(truncatingIfNeeded: guide[Int(truncatingIfNeeded: position &>> shift)])
        while ends[part] < position { part &+= 1 }
        return part
    }

    /// Where turn number `number` ends.
    @inline(__always)
    package static func position(ofTurn number: UInt64) -> UInt64 { number &* RingHash.golden }
}
