// SPDX-License-Identifier: Apache-2.0

package import RingfenceCore

/// A place in the event log of a namespace: behind one event.
///
/// Its text, `generation:sequence`, is what to store to go on there later. Store it in the same transaction as the
/// effect of the event, and the effect happens exactly once. Cursors of different generations cannot be compared; only
/// the log knows how they follow each other.
public struct EventCursor: Sendable, Hashable, LosslessStringConvertible {
    package let position: LogPosition

    package init(_ position: LogPosition) { self.position = position }

    /// The place before the first event of the log; its text is `0:0`. Once the log has been trimmed, reading from here
    /// is a reset: for all that is kept, read from ``EventPage/oldest``.
    public static let start = EventCursor(.start)

    /// Reads `generation:sequence` as ``description`` writes it; nil for anything else.
    public init?(_ description: String) {
        guard let position = LogPosition(parsing: description) else { return nil }
        self.position = position
    }

    /// The generation: one life of the log, a random name; `0` for ``start``.
    public var generation: String { position.generation }
    /// The number of the event before this place; numbers have no gaps. 0 for ``start``.
    public var sequence: Int64 { position.sequence }
    /// The text of the cursor, `generation:sequence`.
    public var description: String { position.text }
}

extension EventCursor: Codable {
    /// Reads the text of a cursor.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        guard let cursor = EventCursor(try container.decode(String.self)) else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "not a cursor: generation:sequence")
        }
        self = cursor
    }

    /// Writes the text of the cursor.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }
}

/// Something that happened to a group, as it stands in the event log.
public struct Event: Sendable {
    /// What happened. Compare with the static members; new ones appear, and a subscriber must let unknown ones pass.
    public struct Kind: Hashable, Sendable, CustomStringConvertible {
        /// The stable text, e.g. `member.joined`.
        public let description: String

        /// The kind with this text.
        public init(_ description: String) { self.description = description }

        /// A member joined (``Event/reason`` is `new`), or a new session took over its id (`replaced`; the session
        /// before is in ``Event/previous``).
        public static let memberJoined = Kind("member.joined")
        /// A member changed what it says of itself.
        public static let memberUpdated = Kind("member.updated")
        /// A member left, or an operator removed it (``Event/actor``).
        public static let memberLeft = Kind("member.left")
        /// A member's lease ran out.
        public static let memberExpired = Kind("member.expired")
        /// Nobody could reach Redis for a while (``Event/reason`` is `silence`), or another server answers than before
        /// (`server`). No member is expired for that.
        public static let coordinatorGap = Kind("coordinator.gap")
        /// Redis had lost what callers knew already; the version goes on above what they knew.
        public static let stateRolledBack = Kind("state.rolledBack")
        /// A member was elected primary, under a new epoch.
        public static let primaryElected = Kind("primary.elected")
        /// The primary said that its promotion is done.
        public static let primaryReady = Kind("primary.ready")
        /// The role of primary ended, and nobody was elected in the same step: it is vacant.
        public static let primaryLost = Kind("primary.lost")
        /// Redis had lost data, and the primary holds its epoch still.
        public static let primaryConfirmed = Kind("primary.confirmed")
        /// The primary is asked to hand over, by an operator or by an automatic failback.
        public static let switchoverStarted = Kind("switchover.started")
        /// The switchover came to nothing: the primary goes on.
        public static let switchoverAborted = Kind("switchover.aborted")
        /// An operator gives the role to another, whatever is lost.
        public static let failoverStarted = Kind("failover.started")
        /// The member that an operator named for a failover was gone before it could be elected.
        public static let failoverAborted = Kind("failover.aborted")
        /// An operator paused the group: nobody is elected automatically for a while.
        public static let groupPaused = Kind("group.paused")
        /// The pause is over: an operator ended it, or its time is up (``Event/reason`` is `expired`).
        public static let groupResumed = Kind("group.resumed")
        /// Too many failovers in a short time put on the brake: nobody is elected automatically for a while, unless
        /// only one candidate is eligible.
        public static let groupBraked = Kind("group.braked")
        /// The brake is off: an operator released it, or its time is up (``Event/reason`` is `expired`).
        public static let groupUnbraked = Kind("group.unbraked")
        /// The group was empty, and was removed.
        public static let groupRemoved = Kind("group.removed")
        /// The settings of the group's election were changed.
        public static let groupSettings = Kind("group.settings")
        /// An operator opened or closed the group's breaker for all who call its members, or let each decide again.
        public static let breakerForced = Kind("breaker.forced")
        /// A member was taken out of the election, or back into it.
        public static let memberMaintenance = Kind("member.maintenance")
        /// Fewer members could take over than the settings ask for.
        public static let standbyShortfall = Kind("standby.shortfall")
        /// Enough members could take over again, or the settings ask for none any more.
        public static let standbyRestored = Kind("standby.restored")
        /// A node of a replicated cache lost data, is new, or is due: it is being completed from the others.
        public static let cacheCompleting = Kind("cache.completing")
        /// A node of a replicated cache is complete, and counts.
        public static let cacheCompleted = Kind("cache.completed")
        /// A node of a replicated cache was brought what it missed while it was away.
        public static let cacheDrained = Kind("cache.drained")
        /// The layout of a replicated cache begins to change: a node came, went for good or was drained.
        public static let cacheMoving = Kind("cache.moving")
        /// The layout of a replicated cache has changed.
        public static let cacheMoved = Kind("cache.moved")
        /// Nothing can be done for a replicated cache before these nodes are back.
        public static let cacheWaiting = Kind("cache.waiting")
        /// More nodes of a replicated cache lost data than copies make good: values may be missing, or older than they
        /// were.
        public static let cacheLost = Kind("cache.lost")
        /// A balancer of one process does not pick a member for a while, because its calls fail.
        public static let memberEjected = Kind("member.ejected")
        /// An ejected member may be picked there again.
        public static let memberReturned = Kind("member.returned")
        /// So few members can be picked by a balancer of one process that it picks among all.
        public static let balancerPanic = Kind("balancer.panic")
        /// Enough members can be picked there again.
        public static let balancerRecovered = Kind("balancer.recovered")
        /// So many calls of one process to the group failed that it makes none for a while.
        public static let breakerOpened = Kind("breaker.opened")
        /// The process calls the group again.
        public static let breakerClosed = Kind("breaker.closed")
        /// An agent ran a hook; the result is in ``Event/detail``.
        public static let agentHook = Kind("agent.hook")
        /// The check of an agent found something else than before; the result is in ``Event/detail``.
        public static let agentCheck = Kind("agent.check")
    }

    package let record: EventRecord

    package init(_ record: EventRecord) { self.record = record }

    /// The place behind this event: store it with the event's effect.
    public var cursor: EventCursor { EventCursor(record.position) }
    /// The generation of the log.
    public var generation: String { record.position.generation }
    /// The event's number; numbers have no gaps.
    public var sequence: Int64 { record.position.sequence }
    /// When it happened: milliseconds since 1970, by Redis' clock. It may step back where that clock does.
    public var at: Int64 { record.at }
    /// What happened.
    public var type: Kind { Kind(record.type) }
    /// The group it happened to.
    public var group: String? { record.group }
    /// The member it happened to; nil if it is about none, or several.
    public var member: String? { record.member }
    /// The group's version after the change; nil if it changed nothing of the group. All events of one change have the
    /// same.
    public var version: Int64? { record.version }
    /// The number of events that belong to this change; they follow one another. 1 unless members expired together.
    public var changes: Int { record.changes }
    /// The epoch of the group's primary, where the event is about that; else nil.
    public var epoch: Int64? { record.epoch }
    /// What was before: the session that was replaced, or the former primary; nil if there was none.
    public var previous: String? { record.previous }
    /// The reason, a word or free text, depending on the type; nil if none was given.
    public var reason: String? { record.reason }
    /// The name of who ordered it or noted it; nil if nobody is named.
    public var actor: String? { record.actor }
    /// Further details as JSON text, depending on the type; nil if there are none.
    public var detail: String? { record.detail.map { String(decoding: $0, as: UTF8.self) } }
    /// The event as it stands in the log: one line of JSON.
    public var json: [UInt8] { record.json }

    /// The member as it was after the event, for `member.joined` and `member.updated`; else nil.
    public var joined: Member? {
        guard type == .memberJoined || type == .memberUpdated, let member = record.member, let detail = record.detail,
            let record = try? MemberRecord(id: member, json: detail)
        else { return nil }
        return Member(record)
    }
}

extension Event: Hashable, CustomStringConvertible {
    /// Whether both are the same event of the same log: their JSON is equal.
    public static func == (left: Event, right: Event) -> Bool { left.record.json == right.record.json }
    /// Feeds the event's place.
    public func hash(into hasher: inout Hasher) { hasher.combine(record.position) }
    /// Cursor, type, group and member.
    public var description: String {
        let about = [group, member].compactMap { $0 }.joined(separator: "/")
        return "Event(\(cursor) \(type)\(about.isEmpty ? "" : " ")\(about))"
    }
}

/// All groups, or the one that is followed, at one moment of the log.
public struct EventState: Sendable {
    /// The moment: every later event comes after it.
    public var cursor: EventCursor
    /// The place before the oldest event that the log still keeps. To see the events that a reset stands for, for an
    /// audit say, read from here as far as ``cursor``.
    public var oldest: EventCursor
    /// The groups in the order of the bytes of their names. One group that is followed is here even if it does not
    /// exist, with version 0.
    public var groups: [GroupSnapshot]
}

/// A piece of the event log.
public struct EventPage: Sendable {
    /// The events, in order and without a gap; empty at the end of the log.
    public var events: [Event]
    /// The cursor after which the next page goes on.
    public var next: EventCursor
    /// The end of the log when the page was read.
    public var end: EventCursor
    /// The place before the oldest event that was kept then.
    public var oldest: EventCursor
    /// Whether the events that follow the cursor are not in the log any more, or the cursor never was in this log. Then
    /// ``events`` is empty, and ``next`` is the end of the log.
    public var isReset: Bool
    /// After a reset: how many events lie between the cursor that was asked for and ``next``; nil if nobody can know,
    /// and without a reset.
    public var lost: Int?
}
