// SPDX-License-Identifier: Apache-2.0

extension Limits {
    package static let names = 1...64
    /// Of all names of one lock together.
    package static let namesBytes = 16_384
    package static let ttl: ClosedRange<Nanos> = 100 * .millisecond...86_400 * .second
    package static let wait: ClosedRange<Nanos> = 0...86_400 * .second
    package static let maximumHold: ClosedRange<Nanos> = 100 * .millisecond...30 * 86_400 * .second

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
}
