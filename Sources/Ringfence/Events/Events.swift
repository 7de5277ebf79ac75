// SPDX-License-Identifier: Apache-2.0
//
// The event log as an AsyncSequence. An iteration is a position and nothing more: it takes what the feed of the client
// has, and reads from Redis what it has not. Only the shell is here; each step is decided by `EventReaderMachine`.

import CoreMetrics
import Hiredis
import RingfenceCore

/// The events of a namespace or of one group, from a cursor or from now on.
///
/// ```swift
/// for try await item in client.events(after: stored) {
///     switch item {
///     case .state(let state): rebuild(state)               // first, when there was no cursor
///     case .event(let event): try await apply(event)       // store event.cursor together with the effect
///     case .reset(let state, let lost): rebuild(state)     // `lost` events were not given out
///     }
/// }
/// ```
///
/// **What is promised.** Within one iteration every event comes exactly once and in order, or a ``Item/reset(_:lost:)``
/// stands where some are missing: over broken connections, a subscriber too slow for Redis, restarts of Redis and lossy
/// failovers, and a log trimmed meanwhile. Never is anything left out in silence. Across restarts of the subscriber's
/// process that is exactly once if the cursor is stored together with the event's effect, and at least once if it is
/// stored after it.
///
/// While Redis cannot be reached an iteration waits; it goes on where it was. It throws only what waiting does not
/// mend: a refusal of Redis (``RingfenceError/Code/coordinatorRefused``), such as a missing permission. It ends when
/// its task is cancelled and when the client is shut down; one that begins after the shutdown throws
/// `client.shutDown`.
///
/// A state of all groups, without a cursor or with a reset, has at most 50,000 members and 32 MiB; with more it is
/// refused (``RingfenceError/Code/coordinatorRefused``): follow one group at a time.
///
/// An iteration may take its time: nothing is kept for it in memory. What it has not taken is read from Redis, as long
/// as that keeps it (``RingfenceConfiguration/eventLength``).
public struct Events: AsyncSequence, Sendable {
    /// An item of an iteration.
    public enum Item: Sendable {
        /// The current state: the first item when the iteration began without a cursor. Every event after it follows.
        case state(EventState)
        /// The next event.
        case event(Event)
        /// The current state, and how many events before it are missing (nil if unknown), because Redis no longer keeps
        /// them, or lost what the cursor had seen. Every event after it follows.
        case reset(EventState, lost: Int?)

        /// The cursor behind the item: the one to store.
        public var cursor: EventCursor {
            switch self {
            case .state(let state), .reset(let state, _): state.cursor
            case .event(let event): event.cursor
            }
        }
    }

    let feed: EventFeed
    let metrics: RingfenceMetrics
    let group: String?
    let cursor: EventCursor?

    /// Begins an iteration. Several are independent of each other.
    public func makeAsyncIterator() -> Iterator { Iterator(self) }

    /// One iteration over the log.
    public struct Iterator: AsyncIteratorProtocol {
        private let events: Events
        private var machine: EventReaderMachine<EventRecord>
        private var follower: EventFeed.Follower?
        private var batch: [EventRecord] = []
        private var next = 0
        private var isOver = false
        private var pause: Duration = .zero

        init(_ events: Events) {
            self.events = events
            machine = EventReaderMachine(after: events.cursor?.position)
        }

        /// The cursor behind the last item, and behind the events of other groups that were passed over since, so that
        /// a group that was quiet for long causes no reset. Before the first item: the cursor with which the iteration
        /// began, or nil without one.
        public var cursor: EventCursor? {
            if next < batch.count, next > 0 { return EventCursor(batch[next - 1].position) }
            if next < batch.count { return before.map { EventCursor($0) } }
            return machine.position.map { EventCursor($0) }
        }
        private var before: LogPosition?

        /// The next item; nil when the task was cancelled or the client was shut down, and ever after.
        ///
        /// - Throws: ``RingfenceError`` when Redis refuses to be read, or if the client was shut down before the first
        ///   call.
        public mutating func next() async throws -> Item? {
            try await advance(until: .never, isolation: #isolation).item
        }

        /// The next item; nil when the task was cancelled or the client was shut down, and ever after.
        ///
        /// - Throws: ``RingfenceError`` when Redis refuses to be read, or if the client was shut down before the first
        ///   call.
        public mutating func next(isolation: isolated (any Actor)?) async throws -> Item? {
            try await advance(until: .never, isolation: isolation).item
        }

        /// The result of `next(within:)`.
        package enum Found {
            case item(Item)
            /// No item came in time; the iteration goes on.
            case nothing
            /// The iteration is over.
            case end

            fileprivate var item: Item? { if case .item(let item) = self { item } else { nil } }
        }

        /// The next item if it comes within `limit`. With zero: what is here without waiting.
        package mutating func next(
            within limit: Duration, isolation: isolated (any Actor)? = #isolation
        ) async throws -> Found {
            try await advance(until: Moment.now.adding(Nanos(saturating: limit)), isolation: isolation)
        }

        private mutating func advance(until end: Nanos, isolation: isolated (any Actor)?) async throws -> Found {
            do {
                let found = try await proceed(until: end, isolation: isolation)
                if case .end = found { stopFollowing() }
                return found
            } catch {
                stopFollowing()
                throw error
            }
        }

        private mutating func stopFollowing() {
            follower?.end()
            follower = nil
        }

        private mutating func proceed(until end: Nanos, isolation: isolated (any Actor)?) async throws -> Found {
            var hasTaken = false
            while !isOver {
                if let event = nextOfBatch() { return .item(.event(event)) }
                if Task.isCancelled { break }
                // A batch was taken that had nothing for this group: who waits only so long is told, and comes again.
                if hasTaken, Moment.now >= end { return .nothing }
                if follower == nil {
                    guard let made = events.feed.follow() else { throw RingfenceError.shutDown }
                    follower = made
                }
                let position = machine.position
                let (step, era, revision) = events.feed.step(&machine)
                switch step {
                case .deliver(let records):
                    take(records, before: position)
                    hasTaken = true
                case .wait(let revision):
                    if Moment.now >= end { return .nothing }
                    await events.feed.wait(past: revision, until: end)
                    if events.feed.isClosed { isOver = true }
                case .page(let position):
                    let call = EventScripts(keys: events.keys).page(
                        after: position.sequence, count: EventFeed.pageLength)
                    guard let reply = try await ask(call, isolation: isolation) else {
                        if !isOver, Moment.now >= end { return .nothing }
                        continue
                    }
                    guard let page = EventScripts.page(reply, after: position.sequence) else {
                        throw RingfenceError.unexpected(reply)
                    }
                    take(machine.paged(page, era: era, revision: revision), before: position)
                    hasTaken = true
                    events.feed.heard(generation: page.head.generation, sequence: page.head.sequence)
                case .state:
                    guard
                        let reply = try await ask(
                            EventScripts(keys: events.keys).state(of: events.group), isolation: isolation)
                    else {
                        if !isOver, Moment.now >= end { return .nothing }
                        continue
                    }
                    guard let state = EventScripts.state(reply) else { throw RingfenceError.unexpected(reply) }
                    let outcome = machine.stated(state.head, era: era)
                    events.feed.heard(generation: state.head.generation, sequence: state.head.sequence)
                    switch outcome {
                    case .begin: return .item(.state(try EventState(state)))
                    case .reset(let lost):
                        events.metrics.eventResets.increment()
                        return .item(.reset(try EventState(state), lost: lost.map { Int($0) }))
                    case .resume: break
                    }
                }
            }
            self.end()
            return .end
        }

        private mutating func nextOfBatch() -> Event? {
            while next < batch.count {
                let record = batch[next]
                next += 1
                guard let group = events.group else { return Event(record) }
                if record.group?.hasSameBytes(as: group) == true { return Event(record) }
            }
            return nil
        }

        private mutating func take(_ records: [EventRecord], before position: LogPosition?) {
            before = position
            batch = records
            next = 0
        }

        private mutating func end() {
            isOver = true
            stopFollowing()
        }

        /// Asks Redis; nil when it must be asked again, after a pause that has passed by then.
        private mutating func ask(_ call: ScriptCall, isolation: isolated (any Actor)?) async throws -> RedisReply? {
            do {
                let reply = try await events.feed.run(call)
                pause = .zero
                return reply
            } catch {
                switch error.code {
                case .closed, .cancelled:
                    isOver = events.feed.isClosed || Task.isCancelled
                    return nil
                case _ where error.isTransient:
                    pause = Swift.min(Swift.max(pause * 2, .milliseconds(50)), .seconds(1))
                    try? await Task.sleep(for: pause)
                    return nil
                default:
                    end()
                    throw RingfenceError(error, "reading the event log")
                }
            }
        }
    }

    var keys: Keyspace { feed.keys }
}

extension EventState {
    init(_ state: EventScripts.State) throws {
        let now = ContinuousClock.now
        let groups = state.groups.map { group in
            let members = group.members.compactMap { Self.member($0.id, $0.record) }.sorted { $0.id.isBefore($1.id) }
            return GroupSnapshot(
                group: group.name, generation: group.generation, version: group.version, members: members,
                role: group.role, sequence: state.head.sequence, confirmedAt: now, isStale: false,
                breaker: group.breaker, hasCandidates: members.contains { $0.isCandidate })
        }
        self.init(
            cursor: EventCursor(state.head.position), oldest: EventCursor(state.head.oldest),
            groups: groups.sorted { $0.group.isBefore($1.group) })
    }

    private static func member(_ id: String, _ record: [UInt8]) -> Member? {
        (try? MemberRecord(id: id, json: record)).map { Member($0) }
    }
}

/// How events reach this process.
public struct EventStatus: Sendable, Hashable {
    /// Whether there is a follower, messages arrive as they are published, and none is known to be missing. While this
    /// is false events arrive late, by a second or for as long as Redis cannot be reached; none is lost.
    public var isLive: Bool
    /// The number of followers: iterations, each ``Group`` that is referenced, and pages being read.
    public var subscribers: Int
    /// The cursor up to which this process has received events; nil without a follower.
    public var cursor: EventCursor?
    /// The number of events known to exist and not received yet.
    public var backlog: Int
    /// The number of times that messages were missing.
    public var gaps: Int
    /// The number of events read from the log because their message did not arrive.
    public var replayed: Int
    /// The number of times that the log stepped back because Redis lost published events.
    public var rollbacks: Int
}

extension Group {
    /// The state of this group, then every event of it from now on.
    public var events: Events { events(after: nil) }

    /// The events of this group.
    ///
    /// - Parameter cursor: as in ``RingfenceClient/events(after:)``.
    public func events(after cursor: EventCursor?) -> Events {
        Events(feed: hub.feed, metrics: hub.metrics, group: name, cursor: cursor)
    }
}

extension RingfenceClient {
    /// The events of all groups.
    ///
    /// - Parameter cursor: the place after which to go on; nil for the state now and all that follows. For everything
    ///   that is kept: ``EventPage/oldest`` or ``EventState/oldest``; ``EventCursor/start`` gives a reset once the log
    ///   has been trimmed.
    public func events(after cursor: EventCursor? = nil) -> Events {
        Events(feed: feed, metrics: metrics, group: nil, cursor: cursor)
    }

    /// The events of one group, which need not exist yet, for a caller that does not follow it.
    package func events(ofGroup group: String, after cursor: EventCursor? = nil) throws -> Events {
        do { try Limits.check(group: group) } catch { throw RingfenceError(error) }
        return Events(feed: feed, metrics: metrics, group: group, cursor: cursor)
    }

    /// How events reach this process.
    public var eventStatus: EventStatus { feed.status }

    /// One piece of the event log, read from Redis.
    ///
    /// - Parameters:
    ///   - cursor: the place after which to read; nil for the newest `limit`.
    ///   - limit: how many events at most: 1 to 1000; default 100.
    /// - Throws: ``RingfenceError``. Nothing is changed by asking, whatever its effect.
    public func eventPage(after cursor: EventCursor? = nil, limit: Int = 100) async throws -> EventPage {
        guard Limits.page.contains(limit) else {
            throw RingfenceError(InvalidArgument("limit", "must be 1 to 1000, not \(limit)"))
        }
        // On the feed's connection, which outlives this by a while: a page may be megabytes, and no beat may wait
        // behind it.
        guard let follower = feed.follow() else { throw RingfenceError.shutDown }
        defer { follower.end() }
        func read(after sequence: Int64?) async throws -> LogPage<EventRecord> {
            let reply: RedisReply
            do {
                reply = try await feed.run(EventScripts(keys: keys).page(after: sequence, count: limit))
            } catch {
                var failure = RingfenceError(error, "reading the event log")
                failure.effect = .none
                throw failure
            }
            guard let page = EventScripts.page(reply, after: sequence) else { throw RingfenceError.unexpected(reply) }
            return page
        }
        var from: LogPosition
        if let cursor {
            from = cursor.position
        } else {
            let head = try await read(after: nil).head
            // Whatever generation that event was of: its number in the log as it is now.
            from = LogPosition(generation: head.generation, sequence: max(head.first - 1, head.sequence - Int64(limit)))
        }
        var page = try await read(after: from.sequence)
        if cursor == nil {
            // Between the two answers the log may have been trimmed, or have begun anew: its newest were asked for,
            // whichever.
            var sequence = from.sequence
            if page.head.first - 1 > sequence || page.head.sequence < sequence {
                sequence = max(page.head.first - 1, page.head.sequence - Int64(limit))
                page = try await read(after: sequence)
            }
            from = LogPosition(generation: page.head.generation, sequence: sequence)
        }
        var result = EventPage(
            events: page.entries.map { Event($0) },
            next: EventCursor(page.entries.last?.position ?? page.head.position),
            end: EventCursor(page.head.position), oldest: EventCursor(page.head.oldest), isReset: false, lost: nil)
        if page.head.judge(from) != .good || (page.isBroken && page.entries.isEmpty) {
            result.events = []
            result.next = result.end
            result.isReset = true
            result.lost = page.head.contains(from) ? Int(page.head.sequence - from.sequence) : nil
        }
        return result
    }
}
