// SPDX-License-Identifier: Apache-2.0
//
// What became of each grant in the audit. A hold that runs out leaves no record: its key is gone, and nobody was there
// to write one. To note it with the next grant would cost every grant a look at what was before it. So the reader
// tells: a grant without an end of its own ran out if its name was granted again, or is not held by it now.
package import Ringfence

/// How a grant ended, as far as the audit does not say itself.
package enum GrantOutcome: Sendable, Hashable {
    case held
    /// It was not released, and ran out before this time in ms since 1970, at which the next got the lock; nil: before
    /// now.
    case ranOut(before: Int64?)
}

package enum GrantOutcomes {
    /// Of the grants among `records`, newest first, that have no end among them: by their place.
    /// - Parameter isHeld: whether a name is held under a fence now; asked for the newest grant of a name only.
    package static func find(
        _ records: [AuditRecord], isHeld: (_ name: String, _ fence: Int64) async throws -> Bool
    ) async rethrows -> [Int: GrantOutcome] {
        struct End: Hashable {
            var name: String
            var fence: Int64
        }
        var ended: Set<End> = []
        var next: [String: Int64] = [:]
        var outcomes: [Int: GrantOutcome] = [:]
        for (place, record) in records.enumerated() {
            guard record.action == "grant" else {
                ended.formUnion(record.names.map { End(name: $0, fence: record.fence) })
                continue
            }
            let open = record.names.filter { !ended.contains(End(name: $0, fence: record.fence)) }
            if let name = open.first {
                if let time = open.compactMap({ next[$0] }).min() {
                    outcomes[place] = .ranOut(before: time)
                } else {
                    outcomes[place] = try await isHeld(name, record.fence) ? .held : .ranOut(before: nil)
                }
            }
            for name in record.names { next[name] = record.at }
        }
        return outcomes
    }

    /// The outcomes without the holds that were ended while one looked at them, as a later reading of the audit says.
    package static func withoutEnded(
        _ outcomes: [Int: GrantOutcome], of records: [AuditRecord], after later: [AuditRecord]
    ) -> [Int: GrantOutcome] {
        let ends = later.filter { $0.action != "grant" }
        return outcomes.filter { place, outcome in
            guard outcome == .ranOut(before: nil) else { return true }
            let grant = records[place]
            return !ends.contains { $0.fence == grant.fence && !Set($0.names).isDisjoint(with: grant.names) }
        }
    }
}
