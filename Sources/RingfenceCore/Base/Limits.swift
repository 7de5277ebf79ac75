// SPDX-License-Identifier: Apache-2.0
//
// Limits of all features, and the checks that hold callers to them, so that a bad argument is refused with the field
// and the limit named before anything is sent. The limits of one feature stand beside it (LockLimits, GroupLimits …).

package enum Limits {
    package static let nameBytes = 1...512
    package static let ownerBytes = 1...128
    package static let namespaceBytes = 1...64
    package static let reasonBytes = 0...512
    package static let page = 1...1000

    /// A lock's name: UTF-8, 1 to 512 bytes, no control or format characters.
    package static func check(name: String, field: String = "name") throws(InvalidArgument) {
        try check(text: name, field: field, bytes: nameBytes)
    }

    package static func check(owner: String, field: String = "owner") throws(InvalidArgument) {
        try check(text: owner, field: field, bytes: ownerBytes)
    }

    package static func check(reason: String, field: String = "reason") throws(InvalidArgument) {
        try check(text: reason, field: field, bytes: reasonBytes)
    }

    package static func check(_ value: Int, _ field: String, _ range: ClosedRange<Int>) throws(InvalidArgument) {
        guard range.contains(value) else {
            throw InvalidArgument(field, "must be \(range.lowerBound) to \(range.upperBound), not \(value)")
        }
    }

    /// A namespace: 1 to 64 of `A-Z a-z 0-9 . _ -`, so that it can stand between the braces of a hash tag.
    package static func check(namespace: String) throws(InvalidArgument) {
        guard isPlain(namespace), namespaceBytes.contains(namespace.utf8.count) else {
            throw InvalidArgument("namespace", "must be 1 to 64 of A-Z a-z 0-9 . _ -")
        }
    }

    static func isPlain(_ text: String) -> Bool {
        text.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
                true
            default: false
            }
        }
    }

    package static func check(_ value: Nanos, _ field: String, _ range: ClosedRange<Nanos>) throws(InvalidArgument) {
        guard range.contains(value) else {
            throw InvalidArgument(
                field,
                "must be \(range.lowerBound / .millisecond) to \(range.upperBound / .millisecond) ms, "
                    + "not \(value / .millisecond) ms")
        }
    }

    /// A text of people.
    ///
    /// - Parameter isStored: format characters pass: it is in Redis already.
    package static func check(
        text: String, field: String, bytes: ClosedRange<Int>, isStored: Bool = false
    ) throws(InvalidArgument) {
        let count = text.utf8.count
        guard bytes.contains(count) else {
            throw InvalidArgument(
                field, "must be \(bytes.lowerBound) to \(bytes.upperBound) bytes of UTF-8, not \(count)")
        }
        var previous: UInt8 = 0
        var isASCII = true
        for byte in text.utf8 {
            // C0, DEL, and C1 (U+0080 to U+009F is C2 80 to C2 9F in UTF-8).
            if byte < 0x20 || byte == 0x7F || (previous == 0xC2 && byte < 0xA0) {
                throw InvalidArgument(field, "must not hold control characters")
            }
            if byte >= 0x80 { isASCII = false }
            previous = byte
        }
        guard !isASCII, !isStored, let unseen = text.unicodeScalars.first(where: \.isUnseen) else { return }
        let code = String(unseen.value, radix: 16, uppercase: true)
        throw InvalidArgument(
            field, "must not hold format characters such as U+\(code): what is seen would not be what is there")
    }
}
