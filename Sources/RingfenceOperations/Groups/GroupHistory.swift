// SPDX-License-Identifier: Apache-2.0
//
// The history of a group's primary, from the event log: each election as one line, with the primary before it, why, by
// whose order, and how long each stage took. An election is two events or three (the start of a handover,
// `primary.elected`, `primary.ready`), which are one thing to an operator who asks what happened last night.
//
// Pure: events go in, in order; entries come out.
package import Ringfence
import RingfenceCore

/// One thing that happened to a group's primary, or that somebody ordered.
package struct HistoryEntry: Sendable, Hashable {
    /// What it was, as the table and JSON name it.
    package enum Kind: String, Sendable, Hashable {
        /// The first primary of the group.
        case first
        /// The primary was lost, and another elected.
        case failover
        /// A failover that somebody ordered.
        case failoverByHand
        case switchover
        /// Back to the member that the settings prefer.
        case failback
        /// The role is vacant: nobody could be elected at once.
        case lost
        /// The primary said that it is, after Redis had lost data.
        case confirmed
        /// A switchover that did not come about: the primary stays. Or a failover by hand whose target was gone.
        case aborted
        case paused, resumed
        /// Too many failovers: no more by itself.
        case braked
        case unbraked
        case maintenance, settings
        /// The breaker was forced, or left to each process again.
        case breaker
        /// Fewer standbys than the settings ask for; and again enough.
        case shortfall, restored
    }

    /// The place behind its first event.
    package var cursor: EventCursor
    /// Milliseconds since 1970, by Redis' clock.
    package var at: Int64
    package var kind: Kind
    package var epoch: Int64?
    /// The primary before.
    package var from: String?
    /// The primary now, or the one that was to be; for maintenance: the member.
    package var to: String?
    /// The event's reason: a code such as `expired`, or what somebody wrote.
    package var reason: String?
    /// What somebody wrote, where the reason is a code.
    package var note: String?
    package var actor: String?
    /// From when the former primary was last heard of.
    package var detection: Duration?
    /// From the end of its role to the election.
    package var decision: Duration?
    /// From the order until the former primary had stopped.
    package var handover: Duration?
    /// From the election until the new primary was ready.
    package var promotion: Duration?

    /// From the beginning to a primary that is ready; nil if it never was, or it is no election.
    package var total: Duration? {
        guard let promotion else { return nil }
        return (detection ?? .zero) + (decision ?? .zero) + (handover ?? .zero) + promotion
    }
}

/// The history of one group's primary.
package struct GroupHistory: Sendable {
    /// In order.
    package private(set) var entries: [HistoryEntry] = []
    /// When the handover under way was ordered.
    private var startedAt: Int64?

    package init() {}

    /// Takes the group's next event; those about other things are passed over.
    package mutating func add(_ event: Event) {
        let detail = Detail(event)
        var entry = HistoryEntry(cursor: event.cursor, at: event.at, kind: .first, epoch: event.epoch)
        entry.reason = event.reason
        entry.actor = event.actor
        entry.to = event.member
        switch event.type.description {
        case "switchover.started", "failover.started":
            startedAt = event.at
            return
        case "primary.ready":
            guard let place = entries.lastIndex(where: { $0.epoch == event.epoch && $0.isElection }) else { return }
            entries[place].promotion = detail.milliseconds("promoteMs")
            return
        case "primary.elected":
            entry.kind =
                switch event.reason {
                case "first": .first
                case "switchover": .switchover
                case "failback": .failback
                case "failover": .failoverByHand
                default: .failover
                }
            entry.from = event.previous
            entry.note = detail.text("why")
            entry.detection = detail.milliseconds("detectMs")
            entry.decision = detail.milliseconds("decideMs")
            if let startedAt, [.switchover, .failback, .failoverByHand].contains(entry.kind) {
                entry.handover = .milliseconds(max(0, event.at - startedAt))
            }
            startedAt = nil
        case "primary.lost":
            entry.kind = .lost
            (entry.from, entry.to) = (event.member, nil)
        case "primary.confirmed": entry.kind = .confirmed
        case "switchover.aborted", "failover.aborted":
            entry.kind = .aborted
            startedAt = nil
        case "group.paused":
            entry.kind = .paused
            entry.note = detail.milliseconds("forMs").map { "for \($0.shortText)" }
        case "group.resumed": entry.kind = .resumed
        case "group.braked": entry.kind = .braked
        case "group.unbraked": entry.kind = .unbraked
        case "group.settings":
            entry.kind = .settings
            entry.note = event.detail
        case "breaker.forced":
            entry.kind = .breaker
            entry.note = detail.text("state")
        case "member.maintenance":
            entry.kind = .maintenance
            entry.note = detail.isOn.map { $0 ? "on" : "off" }
        case "standby.shortfall": entry.kind = .shortfall
        case "standby.restored": entry.kind = .restored
        default: return
        }
        entries.append(entry)
    }

    /// The flat fields of an event's detail.
    private struct Detail {
        private static let names = ["detectMs", "decideMs", "promoteMs", "forMs", "why", "on", "state"]
        private let object: JSONObject?

        init(_ event: Event) {
            object = event.detail.flatMap { try? JSONObject.reading(Self.names, raw: "", of: Array($0.utf8)).object }
        }

        func milliseconds(_ name: String) -> Duration? {
            if case .integer(let number)? = object?[name] { .milliseconds(number) } else { nil }
        }

        func text(_ name: String) -> String? {
            if case .string(let text)? = object?[name] { text } else { nil }
        }

        var isOn: Bool? { if case .bool(let isOn)? = object?["on"] { isOn } else { nil } }
    }
}

extension HistoryEntry {
    /// Somebody was elected.
    package var isElection: Bool {
        switch kind {
        case .first, .failover, .failoverByHand, .switchover, .failback: true
        default: false
        }
    }
}

extension GroupHistory {
    /// The newest entries of a group, in order.
    package struct Newest: Sendable {
        package var entries: [HistoryEntry]
        /// Nothing older is kept: the log was read to its beginning.
        package var isComplete: Bool
    }

    /// Reads the log backwards until there are enough entries, or nothing is left.
    /// - Parameter most: how many events are looked at.
    package static func newest(
        _ limit: Int, of group: String, _ client: RingfenceClient, most: Int = .max
    ) async throws -> Newest {
        var page = try await client.eventPage(limit: 1)
        let end = page.end
        var events: [Event] = []
        var before = end.sequence
        var looked = 0
        while true {
            var history = GroupHistory()
            for event in events { history.add(event) }
            let isComplete = before <= page.oldest.sequence
            // One more than asked for: the first may be one whose beginning was not read.
            if isComplete || history.entries.count > limit || looked >= most {
                return Newest(
                    entries: history.entries.suffix(limit),
                    isComplete: isComplete && history.entries.count <= limit)
            }
            let from = max(page.oldest.sequence, before - 1000)
            guard let cursor = EventCursor("\(end.generation):\(from)") else {
                return Newest(entries: history.entries.suffix(limit), isComplete: false)
            }
            page = try await client.eventPage(after: cursor, limit: 1000)
            // The log was trimmed or lost meanwhile.
            if page.isReset { return Newest(entries: history.entries.suffix(limit), isComplete: false) }
            events = page.events.filter { $0.sequence <= before && $0.group == group } + events
            looked += Int(before - from)
            before = from
        }
    }
}
