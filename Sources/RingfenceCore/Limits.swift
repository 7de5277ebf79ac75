// SPDX-License-Identifier: Apache-2.0
//
// Every limit of Ringfence and the checks that hold callers to them, in one place, so that a bad argument is refused
// with the field and the limit named before anything is sent. Times are nanoseconds in `Int64` (292 years): the
// machines of this target are called on the hot path, where `Duration`'s 128-bit arithmetic is felt.

/// Nanoseconds: a duration, or a moment of the caller's monotonic clock.
package typealias Nanos = Int64

extension Nanos {
    package static let millisecond: Nanos = 1_000_000
    package static let second: Nanos = 1_000_000_000
    package static let never = Nanos.max

    /// The duration in nanoseconds, at the ends of the range if it does not fit.
    package init(saturating duration: Duration) {
        let (seconds, attoseconds) = duration.components
        let (whole, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        let (sum, overflow2) = whole.addingReportingOverflow(attoseconds / 1_000_000_000)
        self = overflow || overflow2 ? (seconds < 0 ? .min : .max) : sum
    }

    /// `self + other`, at the end of the range if it does not fit.
    package func adding(_ other: Nanos) -> Nanos {
        let (sum, overflow) = addingReportingOverflow(other)
        return overflow ? .max : sum
    }

    /// `self * factor`, at the ends of the range if it does not fit.
    package func multipliedClamping(by factor: Nanos) -> Nanos {
        let (product, overflow) = multipliedReportingOverflow(by: factor)
        return overflow ? ((self < 0) == (factor < 0) ? .max : .min) : product
    }
}

/// An argument outside its limits: which field, and what is allowed.
package struct InvalidArgument: Error, Equatable, Sendable, CustomStringConvertible {
    package var field: String
    package var message: String

    package init(_ field: String, _ message: String) {
        self.field = field
        self.message = message
    }

    package var description: String { "\(field) \(message)" }
}

package enum Limits {
    package static let nameBytes = 1...512
    package static let ownerBytes = 1...128
    package static let namespaceBytes = 1...64
    package static let reasonBytes = 0...512
    package static let names = 1...64
    /// Of all names of one lock together.
    package static let namesBytes = 16_384
    package static let ttl: ClosedRange<Nanos> = 100 * .millisecond...86_400 * .second
    package static let wait: ClosedRange<Nanos> = 0...86_400 * .second
    package static let maximumHold: ClosedRange<Nanos> = 100 * .millisecond...30 * 86_400 * .second
    package static let page = 1...1000
    package static let zoneBytes = 0...64
    package static let addressBytes = 0...512
    package static let sessionBytes = 1...64
    package static let weight = 0...1000
    package static let priority = -1000...1000
    package static let capabilities = 0...16
    package static let capabilityBytes = 1...64
    package static let metadataPairs = 0...32
    package static let metadataKeyBytes = 1...64
    package static let metadataValueBytes = 0...1024
    package static let recordBytes = 8192
    package static let memberLease: ClosedRange<Nanos> = 200 * .millisecond...3600 * .second
    /// Points of a ring for each pointsPerWeight of weight.
    package static let pointsPerWeight = 1...4096
    package static let healthBytes = 0...512
    package static let unfitBytes = 0...256
    /// What a script can count with: 2^53 - 1.
    package static let position: ClosedRange<Int64> = 0...9_007_199_254_740_991
    package static let handover: ClosedRange<Nanos> = 10 * .millisecond...3600 * .second
    package static let pause: ClosedRange<Nanos> = .second...30 * 86_400 * .second
    package static let eventTypeBytes = 1...64
    package static let noteBytes = 2...16_384
    package static let eventLength = 100...10_000_000

    /// A lock's name: UTF-8, 1 to 512 bytes, no control or format characters.
    package static func check(name: String, field: String = "name") throws(InvalidArgument) {
        try check(text: name, field: field, bytes: nameBytes)
    }

    /// The names of one lock: 1 to 64, all different, at most 16,384 bytes together.
    package static func check(names list: [String]) throws(InvalidArgument) {
        guard names.contains(list.count) else {
            throw InvalidArgument(
                "names", "must be \(names.lowerBound) to \(names.upperBound) names, not \(list.count)")
        }
        for name in list { try check(name: name, field: list.count == 1 ? "name" : "names") }
        guard list.count > 1 else { return }
        let bytes = list.reduce(0) { $0 + $1.utf8.count }
        guard bytes <= namesBytes else {
            throw InvalidArgument("names", "must be at most \(namesBytes) bytes together, not \(bytes)")
        }
        let sorted = list.sortedByBytes
        for (name, next) in zip(sorted, sorted.dropFirst()) where name.hasSameBytes(as: next) {
            throw InvalidArgument("names", "must all be different")
        }
    }

    /// A key of a cache: as a name, but nobody looks at it, so format characters are the caller's affair.
    package static func check(key: String) throws(InvalidArgument) {
        try check(text: key, field: "key", bytes: nameBytes, isStored: true)
    }

    package static func check(owner: String, field: String = "owner") throws(InvalidArgument) {
        try check(text: owner, field: field, bytes: ownerBytes)
    }

    package static func check(reason: String, field: String = "reason") throws(InvalidArgument) {
        try check(text: reason, field: field, bytes: reasonBytes)
    }

    /// A group's name: as a lock's.
    package static func check(group: String, field: String = "group") throws(InvalidArgument) {
        try check(text: group, field: field, bytes: nameBytes)
    }

    /// A member's id: as a lock's name.
    package static func check(member: String, field: String = "member") throws(InvalidArgument) {
        try check(text: member, field: field, bytes: nameBytes)
    }

    /// What fails together.
    package static func check(zone: String, field: String = "zone") throws(InvalidArgument) {
        try check(text: zone, field: field, bytes: zoneBytes)
    }

    /// A session: 1 to 64 of `A-Z a-z 0-9 . _ -`, so that it needs no escape in a record.
    package static func check(session: String, field: String = "session") throws(InvalidArgument) {
        guard isPlain(session), sessionBytes.contains(session.utf8.count) else {
            throw InvalidArgument(field, "must be 1 to 64 of A-Z a-z 0-9 . _ -")
        }
    }

    /// All of a member: each field, and the record as a whole.
    ///
    /// - Parameter isStored: it was let in before, perhaps by an older version: then only what cannot be read is
    ///   refused.
    package static func check(_ record: MemberRecord, isStored: Bool = false) throws(InvalidArgument) {
        func limit(_ text: String, _ field: String, _ bytes: ClosedRange<Int>) throws(InvalidArgument) {
            try self.check(text: text, field: field, bytes: bytes, isStored: isStored)
        }
        try limit(record.id, "member", nameBytes)
        try check(session: record.session)
        try check(record.leaseMilliseconds.multipliedClamping(by: .millisecond), "lease", memberLease)
        try limit(record.address, "address", addressBytes)
        if !isStored { try MemberAddress.check(record.address) }
        try limit(record.zone, "zone", zoneBytes)
        try limit(record.health, "health", healthBytes)
        try check(record.weight, "weight", weight)
        try check(record.priority, "priority", priority)
        guard capabilities.contains(record.capabilities.count) else {
            throw InvalidArgument(
                "capabilities", "must be at most \(capabilities.upperBound) words, not \(record.capabilities.count)")
        }
        for word in record.capabilities { try limit(word, "capabilities", capabilityBytes) }
        guard metadataPairs.contains(record.metadata.count) else {
            throw InvalidArgument(
                "metadata", "must be at most \(metadataPairs.upperBound) pairs, not \(record.metadata.count)")
        }
        for (key, value) in record.metadata {
            try limit(key, "metadata", metadataKeyBytes)
            try limit(value, "metadata", metadataValueBytes)
        }
        let bytes = record.json.count
        guard bytes <= recordBytes else {
            throw InvalidArgument(
                "metadata", "makes the member's record \(bytes) bytes long; \(recordBytes) are allowed")
        }
    }

    /// How far a member's data has come.
    package static func check(position: Int64?, field: String = "position") throws(InvalidArgument) {
        guard let position else { return }
        guard self.position.contains(position) else {
            throw InvalidArgument(field, "must be 0 to \(self.position.upperBound), not \(position)")
        }
    }

    /// Why a candidate may not lead now.
    package static func check(unfit: String, field: String = "unfit") throws(InvalidArgument) {
        try check(text: unfit, field: field, bytes: unfitBytes)
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

    private static func isPlain(_ text: String) -> Bool {
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
    static func check(
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
