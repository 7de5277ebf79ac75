// SPDX-License-Identifier: Apache-2.0
//
// The groups that somebody asked for. A group keeps its view current as long as it is held, and serves the last view
// when Redis is away; so the service holds those that were asked for lately, and lets go of the others: each held one
// looks at Redis once a second, and names come from strangers.
import Ringfence
import Synchronization

/// Holds groups for a while after they were asked for.
final class GroupCache: Sendable {
    static let most = 256
    static let kept: Duration = .seconds(600)

    private struct Entry {
        var group: Group
        var asked: ContinuousClock.Instant
    }

    /// The list of groups as it was last answered.
    struct List: Sendable {
        var groups: [GroupSummary]
        var asked: ContinuousClock.Instant
        var isStale = false
    }

    private let client: RingfenceClient
    private let lastList = Mutex<List?>(nil)
    private let entries = Mutex<[[UInt8]: Entry]>([:])

    init(_ client: RingfenceClient) { self.client = client }

    /// The group of this name, as this process last saw it.
    /// - Throws: ``RingfenceError`` when it is not known here yet and Redis cannot be asked.
    func group(_ name: String) async throws -> Group {
        let key = Array(name.utf8)
        if let group = held(key, now: .now) { return group }
        let group = try await client.group(name)
        // One that never had a member is made up for all we know: it is asked for again next time.
        if group.snapshot.version > 0 { hold(group, key, now: .now) }
        return group
    }

    /// Holds a group that has just got a member: somebody must look at it, or the member's death is found by nobody.
    func keep(_ group: Group) {
        let key = Array(group.name.utf8)
        if held(key, now: .now) !== group { hold(group, key, now: .now) }
    }

    /// All groups; when Redis is away, as they were when it was last asked.
    func list() async throws -> List {
        let asked = ContinuousClock.now
        do {
            let list = List(groups: try await client.groupSummaries(), asked: asked)
            // Of two that were asked for at once, the newer.
            lastList.withLock { last in
                if last.map({ $0.asked < asked }) ?? true { last = list }
            }
            return list
        } catch let error as RingfenceError where error.code == .coordinatorUnavailable {
            guard var list = lastList.withLock({ $0 }) else { throw error }
            list.isStale = true
            return list
        }
    }

    private func held(_ key: [UInt8], now: ContinuousClock.Instant) -> Group? {
        entries.withLock { entries in
            entries[key]?.asked = now
            return entries[key]?.group
        }
    }

    private func hold(_ group: Group, _ key: [UInt8], now: ContinuousClock.Instant) {
        // Let go outside of the lock: a group's end does work.
        let dropped = entries.withLock { entries in
            var dropped = entries.filter { $0.value.asked + Self.kept < now }
            if entries.count - dropped.count >= Self.most,
                let oldest = entries.min(by: { $0.value.asked < $1.value.asked })
            {
                dropped[oldest.key] = oldest.value
            }
            for key in dropped.keys { entries[key] = nil }
            entries[key] = Entry(group: group, asked: now)
            return dropped
        }
        _ = dropped
    }
}
