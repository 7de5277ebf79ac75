// SPDX-License-Identifier: Apache-2.0

package import RingfenceCore

/// A place in the event log of a namespace: behind one event.
///
/// Its text, `generation:sequence`, is what to store to go on there later: in the same transaction as the effect of the
/// event, and the effect happens exactly once. Cursors of different generations cannot be compared; only the log knows
/// how they follow each other.
public struct EventCursor: Sendable, Hashable, LosslessStringConvertible {
    package let position: LogPosition

    package init(_ position: LogPosition) { self.position = position }

    /// Before the first event of the log; its text is `0:0`.
    public static let start = EventCursor(.start)

    /// Reads `generation:sequence` as ``description`` writes it; nil for anything else.
    public init?(_ description: String) {
        guard let position = LogPosition(parsing: description) else { return nil }
        self.position = position
    }

    /// The generation: one life of the log, a random name.
    public var generation: String { position.generation }
    /// The number of the event before this place; numbers have no gaps.
    public var sequence: Int64 { position.sequence }
    /// `generation:sequence`.
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

        /// A member joined, or came back under a new session (``Event/reason`` is `replaced`).
        public static let memberJoined = Kind("member.joined")
        /// A member changed what it says of itself.
        public static let memberUpdated = Kind("member.updated")
        /// A member left by itself.
        public static let memberLeft = Kind("member.left")
        /// A member's lease ran out.
        public static let memberExpired = Kind("member.expired")
        /// Nobody could reach Redis for a while; nobody is expired for that.
        public static let coordinatorGap = Kind("coordinator.gap")
        /// Redis had lost what members knew already; the version goes on above what they knew.
        public static let stateRolledBack = Kind("state.rolledBack")
        /// A member was elected primary, under a new epoch.
        public static let primaryElected = Kind("primary.elected")
        /// The primary said that its promotion is done.
        public static let primaryReady = Kind("primary.ready")
        /// The role is vacant.
        public static let primaryLost = Kind("primary.lost")
        /// Redis had lost data, and the primary holds its epoch still.
        public static let primaryConfirmed = Kind("primary.confirmed")
        /// The primary is asked to hand over.
        public static let switchoverStarted = Kind("switchover.started")
        /// The primary goes on.
        public static let switchoverAborted = Kind("switchover.aborted")
        /// An operator gives the role to another, whatever is lost.
        public static let failoverStarted = Kind("failover.started")
        /// Whom the operator named was gone before it could be elected.
        public static let failoverAborted = Kind("failover.aborted")
        /// Nothing is elected by itself for a while.
        public static let groupPaused = Kind("group.paused")
        /// The pause is over.
        public static let groupResumed = Kind("group.resumed")
        /// Too many failovers in a short time: nobody is elected for a while.
        public static let groupBraked = Kind("group.braked")
        /// The hold is over.
        public static let groupUnbraked = Kind("group.unbraked")
        /// Nobody was in it, and it was removed.
        public static let groupRemoved = Kind("group.removed")
        /// How the group elects was changed.
        public static let groupSettings = Kind("group.settings")
        /// An operator opened or closed the group's breaker for all who call its members, or let each decide again.
        public static let breakerForced = Kind("breaker.forced")
        /// A member was taken out of the election, or back into it.
        public static let memberMaintenance = Kind("member.maintenance")
        /// Fewer members could take over than the settings ask for.
        public static let standbyShortfall = Kind("standby.shortfall")
        /// There are enough again.
        public static let standbyRestored = Kind("standby.restored")
        /// A node of a replicated cache lost data, is new, or is due: it is being completed from the others.
        public static let cacheCompleting = Kind("cache.completing")
        /// It is complete, and counts.
        public static let cacheCompleted = Kind("cache.completed")
        /// A node was brought what it missed while it was away.
        public static let cacheDrained = Kind("cache.drained")
        /// The layout of a replicated cache begins to change: a node came, went for good or was drained.
        public static let cacheMoving = Kind("cache.moving")
        /// It has changed.
        public static let cacheMoved = Kind("cache.moved")
        /// Nothing can be done for a replicated cache before these nodes are back.
        public static let cacheWaiting = Kind("cache.waiting")
        /// More nodes lost data than copies make good: values may be missing, or older than they were.
        public static let cacheLost = Kind("cache.lost")
        /// A balancer of one process picks a member no more for a while, because its calls fail.
        public static let memberEjected = Kind("member.ejected")
        /// It may be picked there again.
        public static let memberReturned = Kind("member.returned")
        /// So few members can be picked by a balancer of one process that it picks among all.
        public static let balancerPanic = Kind("balancer.panic")
        /// Enough can be picked there again.
        public static let balancerRecovered = Kind("balancer.recovered")
        /// So many calls of one process to the group failed that it makes none for a while.
        public static let breakerOpened = Kind("breaker.opened")
        /// It calls again.
        public static let breakerClosed = Kind("breaker.closed")
        /// What a hook of an agent did.
        public static let agentHook = Kind("agent.hook")
        /// What a check of an agent found.
        public static let agentCheck = Kind("agent.check")
    }

    package let record: EventRecord

    package init(_ record: EventRecord) { self.record = record }

    /// The place behind this event: store it with the event's effect.
    public var cursor: EventCursor { EventCursor(record.position) }
    /// The generation of the log.
    public var generation: String { record.position.generation }
    /// The event's number; without gaps.
    public var sequence: Int64 { record.position.sequence }
    /// When it happened: milliseconds since 1970 by Redis' clock.
    public var at: Int64 { record.at }
    /// What happened.
    public var type: Kind { Kind(record.type) }
    /// To which group.
    public var group: String? { record.group }
    /// To which member.
    public var member: String? { record.member }
    /// The group's version after the change. All events of one change have the same.
    public var version: Int64? { record.version }
    /// How many events belong to this change; they follow one another.
    public var changes: Int { record.changes }
    /// The epoch of the group's primary, where the event is about that.
    public var epoch: Int64? { record.epoch }
    /// What was before: the session that was replaced, the former primary.
    public var previous: String? { record.previous }
    /// Why.
    public var reason: String? { record.reason }
    /// Who did it, where it was somebody.
    public var actor: String? { record.actor }
    /// What else there is to say, as JSON text; it depends on the type.
    public var detail: String? { record.detail.map { String(decoding: $0, as: UTF8.self) } }
    /// The event as it stands in the log: one line of JSON.
    public var json: [UInt8] { record.json }

    /// The member as it was after the event, for `member.joined` and `member.updated`.
    public var joined: Member? {
        guard type == .memberJoined || type == .memberUpdated, let member = record.member, let detail = record.detail,
            let record = try? MemberRecord(id: member, json: detail)
        else { return nil }
        return Member(record)
    }
}

extension Event: Hashable, CustomStringConvertible {
    /// Whether both are the same event of the same log.
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
    /// Before the oldest event that the log still keeps. Whoever needs the events that a reset stands for, for an audit
    /// say, reads from here as far as ``cursor``.
    public var oldest: EventCursor
    /// By the bytes of their names.
    public var groups: [GroupSnapshot]
}

/// A piece of the event log.
public struct EventPage: Sendable {
    /// In order, without a gap; empty at the end of the log.
    public var events: [Event]
    /// Where the next page goes on.
    public var next: EventCursor
    /// The end of the log when the page was read.
    public var end: EventCursor
    /// Before the oldest event that was kept then.
    public var oldest: EventCursor
    /// What was asked for is not in the log any more, or never was: nothing is given, and ``next`` is the end of the
    /// log.
    public var isReset: Bool
    /// After a reset: how many events lie between the cursor that was asked for and ``next``; nil if nobody can know.
    public var lost: Int?
}
