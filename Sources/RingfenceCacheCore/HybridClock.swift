// SPDX-License-Identifier: Apache-2.0
//
// Versions of cached values. Nodes of a cache know nothing of each other, so what is newer must be told by the value
// itself. Wall clocks alone would let a writer whose clock is behind lose its writes for ever, and counters alone say
// nothing across keys and writers; a hybrid logical clock (Kulkarni et al. 2014, "Logical Physical Clocks") follows the
// wall clock and never falls behind a version it has seen. 48 bits of milliseconds last until the year 10889; 16 bits
// count within one.
import RingfenceCore

/// What is newer: by stamp, and between two writers of the same stamp by their number.
package struct CacheVersion: Sendable, Hashable, Comparable {
    /// Milliseconds since 1970 in the high 48 bits, a count in the low 16.
    package var stamp: UInt64
    package var writer: UInt64

    package init(stamp: UInt64, writer: UInt64) {
        self.stamp = stamp
        self.writer = writer
    }

    package static func < (one: CacheVersion, other: CacheVersion) -> Bool {
        (one.stamp, one.writer) < (other.stamp, other.writer)
    }

    /// 32 lowercase hexadecimal digits: as it stands in Redis.
    package var text: String { hexadecimal(stamp) + hexadecimal(writer) }

    /// Reads what `text` wrote.
    package init?(text: some Collection<UInt8>) {
        guard text.count == 32 else { return nil }
        var halves: [UInt64] = [0, 0]
        for (index, byte) in text.enumerated() {
            let digit: UInt8
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = byte - UInt8(ascii: "a") + 10
            default: return nil
            }
            halves[index / 16] = halves[index / 16] << 4 | UInt64(digit)
        }
        self.init(stamp: halves[0], writer: halves[1])
    }
}

/// The clock of one writer.
package struct HybridClock: Sendable {
    package let writer: UInt64
    private var last: UInt64 = 0

    package init(writer: UInt64) { self.writer = writer }

    /// A version above all that this clock gave or saw.
    package mutating func next(wallMilliseconds: Int64) -> CacheVersion {
        let wall = UInt64(min(max(0, wallMilliseconds), 1 << 48 - 1)) << 16
        last = max(wall, last &+ 1)
        return CacheVersion(stamp: last, writer: writer)
    }

    package mutating func saw(_ version: CacheVersion) { last = max(last, version.stamp) }
}
