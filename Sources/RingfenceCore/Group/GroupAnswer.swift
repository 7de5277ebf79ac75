// SPDX-License-Identifier: Apache-2.0

/// What group.lua answers, whatever the verb. Its header says what each part means.
package struct GroupAnswer: Sendable, Equatable {
    package enum Status: String, Sendable {
        case watching, member, taken, replaced, expired, unknown, left, gone, ordered, refused, noted, full
        case tooManyGroups, beats
    }

    /// A beat of one of many members that are heard of in one call.
    package struct Beat: Sendable, Equatable {
        package var id: String
        package var session: String
        package var leaseMilliseconds: Int64
        /// The mark of its join.
        package var joined: String

        package init(id: String, session: String, leaseMilliseconds: Int64, joined: String) {
            self.id = id
            self.session = session
            self.leaseMilliseconds = leaseMilliseconds
            self.joined = joined
        }
    }

    /// A part of the changes of a large group. group.lua says under Pages what it is good for.
    package struct Page: Sendable, Equatable {
        /// From the beginning.
        package static let start = ""
        /// From the version that the caller said it knew.
        package static let known = "known"

        /// ``start``, ``known``, or the `next` that the caller gave.
        package var from: String
        /// What to go on from; empty: this was the last.
        package var next: String
        /// The members that came or changed.
        package var members: [MemberRecord] = []
        package var gone: [String] = []

        package init(from: String, next: String) {
            self.from = from
            self.next = next
        }

        var count: Int { members.count + gone.count }

        /// The members the group had before, changed by what this says; both in the order of ids' bytes.
        package func applied(to before: [MemberRecord]) -> [MemberRecord] {
            var changes: [(id: String, record: MemberRecord?)] = members.map { ($0.id, $0) }
            changes += gone.map { ($0, nil) }
            changes.sort { $0.id.isBefore($1.id) }
            var after: [MemberRecord] = []
            after.reserveCapacity(before.count + members.count)
            var old = before[...]
            for change in changes {
                let place = GroupMachine.place(of: change.id, in: old)
                after += old[..<place]
                let isThere = place < old.endIndex && old[place].id.hasSameBytes(as: change.id)
                old = old[(isThere ? place + 1 : place)...]
                if let record = change.record { after.append(record) }
            }
            return after + old
        }
    }

    /// What is told only to a caller that does not know it already.
    package struct Content: Sendable, Equatable {
        /// In the order of their ids' bytes; nil: they are what they were in the version that the caller said it knew.
        package var members: [MemberRecord]?
        /// ms left, member by member; empty if not asked for.
        package var leases: [Int64]
        package var policy: RingPolicy?
        /// Ids whose records cannot be read: written by hand, or by a version with other limits. Nobody can use them,
        /// so they are not among `members`; the others must not suffer for them.
        package var unreadable: [String]
        package var role: GroupRole
        /// How long the phase has lasted.
        package var sinceMilliseconds: Int64
        /// Settings of the election that were ever set, by name.
        package var settings: [String: String]
        /// Only for an order, and for a caller that asked for the leases.
        package var report: RoleReport?
        /// Of a large group: some of the members that changed. Then `members` is nil.
        package var page: Page?
        /// More changed in a large group than fits in this answer. Then `members` is nil.
        package var isMore = false

        package init(
            members: [MemberRecord]?, leases: [Int64] = [], policy: RingPolicy?, unreadable: [String] = [],
            role: GroupRole = GroupRole(), sinceMilliseconds: Int64 = 0, settings: [String: String] = [:],
            report: RoleReport? = nil
        ) {
            self.members = members
            self.leases = leases
            self.policy = policy
            self.unreadable = unreadable
            self.role = role
            self.sinceMilliseconds = sinceMilliseconds
            self.settings = settings
            self.report = report
        }
    }

    /// The member that lives under the id that a join wanted, and keeps it.
    package struct Holder: Sendable, Equatable {
        /// How long it keeps the id, unless it is heard of again.
        package var milliseconds: Int64
        package var address: String

        package init(milliseconds: Int64, address: String) {
            self.milliseconds = milliseconds
            self.address = address
        }
    }

    package var status: Status
    /// Of `taken`.
    package var holder: Holder?
    /// Of `beats`: of each.
    package var statuses: [Status] = []
    package var generation: String
    package var sequence: Int64
    package var version: Int64
    package var mark: String
    /// nil: there are no members.
    package var nextMilliseconds: Int64?
    package var paceMilliseconds: Int64
    package var graceMilliseconds: Int64
    package var recoveryMilliseconds: Int64
    package var content: Content?

    package init(
        status: Status, generation: String, sequence: Int64, version: Int64, mark: String, nextMilliseconds: Int64?,
        paceMilliseconds: Int64, graceMilliseconds: Int64, recoveryMilliseconds: Int64, content: Content?,
        holder: Holder? = nil
    ) {
        self.holder = holder
        self.status = status
        self.generation = generation
        self.sequence = sequence
        self.version = version
        self.mark = mark
        self.nextMilliseconds = nextMilliseconds
        self.paceMilliseconds = paceMilliseconds
        self.graceMilliseconds = graceMilliseconds
        self.recoveryMilliseconds = recoveryMilliseconds
        self.content = content
    }
}

/// What is fixed of a group's ring when the group is made.
package struct RingPolicy: Sendable, Hashable {
    package var seed: UInt64
    /// Points for each pointsPerWeight of weight.
    package var pointsPerWeight: Int

    package init(seed: UInt64, pointsPerWeight: Int) {
        self.seed = seed
        self.pointsPerWeight = pointsPerWeight
    }
}

/// From whom a join may take the member's id.
package enum JoinMode: Sendable, Equatable {
    /// From anybody: a process that comes up.
    case first
    /// From nobody: a member that comes back.
    case again
    /// From this session only: a first join, repeated, that means whom it meant before.
    case over(String)
    /// From nobody, nor does it come in: a member that changes its record or renews its lease, if it is there. One that
    /// was taken out meanwhile is told so, as by a beat; `since` is the mark of its join, '' if that is not known.
    case stay(since: String)

    package var text: String {
        switch self {
        case .first: "first"
        case .again: "again"
        case .over(let session): "over:" + session
        case .stay(let mark): "stay:" + mark
        }
    }
}

/// What a caller knows of a group already.
package struct GroupKnowledge: Sendable, Equatable {
    package var version: Int64
    package var mark: String
    package var longestLeaseMilliseconds: Int64
    package var policy: RingPolicy?
    /// The highest it has seen.
    package var epoch: Int64
    /// The place to go on from, given by the page before; empty: there is none.
    package var cursor = ""
    /// Whether anything of the group is to be told. The answer to a caller that does not ask has no content.
    package var asks = true

    package init(
        version: Int64 = 0, mark: String = "", longestLeaseMilliseconds: Int64 = 0, policy: RingPolicy? = nil,
        epoch: Int64 = 0
    ) {
        self.version = version
        self.mark = mark
        self.longestLeaseMilliseconds = longestLeaseMilliseconds
        self.policy = policy
        self.epoch = epoch
    }

    package static let none = GroupKnowledge()
    /// Of a caller that needs one word only.
    package static let notAsking: GroupKnowledge = {
        var known = GroupKnowledge()
        known.asks = false
        return known
    }()
}

/// A change of a group, as the event log tells it.
package struct GroupEvent: Sendable, Equatable {
    package enum Kind: Sendable, Equatable {
        case joined(MemberRecord), updated(MemberRecord)
        case left(String), expired(String)
        /// Anything else that made a version.
        case other
    }

    package var generation: String
    package var sequence: Int64
    package var version: Int64
    /// How many events make this version.
    package var of: Int
    package var kind: Kind

    package init(generation: String, sequence: Int64, version: Int64, of: Int, kind: Kind) {
        self.generation = generation
        self.sequence = sequence
        self.version = version
        self.of = of
        self.kind = kind
    }
}
