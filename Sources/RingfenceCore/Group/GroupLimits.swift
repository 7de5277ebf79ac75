// SPDX-License-Identifier: Apache-2.0

extension Limits {
    package static let zoneBytes = RingLimits.zoneBytes
    package static let addressBytes = 0...512
    package static let sessionBytes = 1...64
    package static let weight = RingLimits.weights
    package static let priority = -1000...1000
    package static let capabilities = 0...16
    package static let capabilityBytes = 1...64
    package static let metadataPairs = 0...32
    package static let metadataKeyBytes = 1...64
    package static let metadataValueBytes = 0...1024
    package static let recordBytes = 8192
    package static let memberLease: ClosedRange<Nanos> = 200 * .millisecond...3600 * .second
    package static let pointsPerWeight = RingLimits.units
    package static let healthBytes = 0...512
    package static let unfitBytes = 0...256
    /// What a script can count with: 2^53 - 1.
    package static let position: ClosedRange<Int64> = 0...9_007_199_254_740_991
    package static let handover: ClosedRange<Nanos> = 10 * .millisecond...3600 * .second
    package static let pause: ClosedRange<Nanos> = .second...30 * 86_400 * .second

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
}
