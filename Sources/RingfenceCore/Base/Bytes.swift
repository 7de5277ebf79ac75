// SPDX-License-Identifier: Apache-2.0
//
// Strings as Redis sees them: bytes. Swift's `==`, `<` and hash follow Unicode's canonical equivalence, under which two
// different keys of Redis can be equal.
import RingfencePlatform

extension String {
    package func hasSameBytes(as other: String) -> Bool {
        guard utf8.count == other.utf8.count else { return false }
        let same = utf8.withContiguousStorageIfAvailable { mine in
            other.utf8.withContiguousStorageIfAvailable { others in
                mine.isEmpty || memcmp(mine.baseAddress!, others.baseAddress!, mine.count) == 0
            }
        }
        return (same ?? nil) ?? utf8.elementsEqual(other.utf8)
    }

    package func isBefore(_ other: String) -> Bool { utf8.lexicographicallyPrecedes(other.utf8) }
}

extension Hasher {
    /// Feeds the bytes of `text` and their number.
    package mutating func combineBytes(of text: String) {
        let utf8 = text.utf8
        combine(utf8.count)
        let fed: Void? = utf8.withContiguousStorageIfAvailable { combine(bytes: UnsafeRawBufferPointer($0)) }
        if fed == nil { for byte in utf8 { combine(byte) } }
    }
}

extension [String] {
    /// In the order of their bytes.
    package var sortedByBytes: [String] { sorted { $0.isBefore($1) } }
}

/// The value of one hexadecimal digit.
package func hexDigit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
    default: nil
    }
}
