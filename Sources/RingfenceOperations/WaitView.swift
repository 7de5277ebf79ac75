// SPDX-License-Identifier: Apache-2.0
package import Ringfence
import RingfenceCore

/// What a wait for locks waits for now.
package struct WaitView: Sendable {
    /// The first of the names that somebody holds; else the first of all.
    private let name: String
    private let holder: LockHolder?
    /// How many come before; nil if our place is not among the first hundred.
    private let before: Int?

    /// Looks at the locks.
    /// - Parameter owner: by which our place in the queue is known.
    package init(_ names: [String], owner: String, _ client: RingfenceClient) async throws {
        var found: LockStatus?
        for name in names {
            let status = try await client.inspect(name)
            found = found ?? status
            guard status.holder != nil else { continue }
            found = status
            break
        }
        name = found?.name ?? ""
        holder = found?.holder
        before = found?.queue.firstIndex { $0.owner == owner && Set($0.names) == Set(names) }
    }

    package func says(theSameAs other: WaitView?) -> Bool {
        guard let other else { return false }
        return (name, holder?.id, before) == (other.name, other.holder?.id, other.before)
    }

    /// `'job': 'batch-1' holds it, 9.8 s left unless it renews; 2 wait before this`
    package var text: String {
        let holds =
            holder.map { "'\($0.owner.shown)' holds it, \($0.remaining.shortText) left unless it renews" }
            ?? "nobody holds it just now"
        let place =
            switch before {
            case nil: ""
            case 0?: "; next in the queue"
            case let count?: "; \(count) before this in the queue"
            }
        return "'\(name)': \(holds)\(place)"
    }
}
