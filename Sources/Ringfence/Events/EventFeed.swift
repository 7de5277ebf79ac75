// SPDX-License-Identifier: Apache-2.0
//
// The shell around `EventLogMachine`: one feed a client, for any number of subscribers. It has connections of its own,
// one that hears and one that reads, for two reasons: a page of events is large, and no renewal of a lease may wait
// behind it; and Redis cuts the connection of a subscriber that is too slow for its output buffer, which must not cost
// a lock its inbox. Both are made when the first subscriber comes and closed some time after the last has gone.
//
// A subscriber is a task that asks the machine for its next step and, when there is none, waits here until the log has
// changed. Nothing is kept for it: what it does not take stays in the ring, and then in Redis.

import CoreMetrics
import Hiredis
import Logging
import NIOCore
import NIOPosix
import RingfenceCore
import Synchronization

final class EventFeed: Sendable {
    /// The connections of one time of being followed.
    private final class Line: Sendable {
        let client: RedisClient
        let subscriber: RedisSubscriber

        init(client: RedisClient, subscriber: RedisSubscriber) {
            self.client = client
            self.subscriber = subscriber
        }

        func close() async {
            await subscriber.close()
            await client.close()
        }
    }

    private struct State {
        var machine = EventLogMachine<EventRecord>()
        var line: Line?
        /// Counts the lines: what an older one says is not heard any more.
        var lineNumber = 0
        var followers = 0
        /// Counts followers that came: a stop that was put off is only done if nobody came since.
        var follows = 0
        var timer: Scheduled<Void>?
        var timerAt: Nanos = .never
        var waiters: [Int: CheckedContinuation<Void, Never>] = [:]
        var nextWaiter = 0
        var reported = EventLogMachine<EventRecord>.Counts()
        var lastWarning: String?
        var isClosed = false
    }

    /// How many events a page has at most.
    static let pageLength = 512

    private let redis: RedisConfiguration
    private let scripts: EventScripts
    private let eventLoop: any EventLoop
    private let metrics: RingfenceMetrics
    private let logger: Logger
    /// How long the connections outlive the last subscriber: one that asks again and again, a long poll, finds them
    /// there.
    private let linger: TimeAmount
    private let state = Mutex(State())

    /// Who hears the messages as they come, in whatever order and with whatever gaps: the groups, which put their own
    /// versions in order and ask Redis when one is missing.
    struct Listener: Sendable {
        var heard: @Sendable (EventRecord) -> Void
        /// Messages may have been missed.
        var missed: @Sendable () -> Void
    }
    private let listener = Mutex<Listener?>(nil)

    func listen(_ new: Listener) { listener.withLock { $0 = new } }

    init(
        _ redis: RedisConfiguration, scripts: EventScripts, metrics: RingfenceMetrics, logger: Logger,
        linger: TimeAmount = .seconds(10)
    ) {
        self.redis = redis
        self.scripts = scripts
        self.metrics = metrics
        self.logger = logger
        self.linger = linger
        eventLoop = MultiThreadedEventLoopGroup.singleton.any()
    }

    // MARK: Followers

    /// Keeps the feed going until it is ended, or nobody holds it.
    final class Follower: Sendable {
        private let feed: EventFeed
        private let isOver = Atomic<Bool>(false)

        fileprivate init(_ feed: EventFeed) { self.feed = feed }

        deinit { end() }

        /// Follows no more. Who knows that it is over says so: when its memory goes is not ours to know.
        func end() {
            if isOver.compareExchange(expected: false, desired: true, ordering: .acquiringAndReleasing).exchanged {
                feed.unfollow()
            }
        }
    }

    /// Begins to follow; nil once the client was shut down.
    func follow() -> Follower? {
        let action: EventLogMachine<EventRecord>.Action? = state.withLock { state in
            guard !state.isClosed else { return nil }
            state.followers += 1
            state.follows += 1
            metrics.eventSubscribers.record(state.followers)
            guard state.line == nil else { return EventLogMachine<EventRecord>.Action.none }
            state.lineNumber += 1
            state.line = makeLine(state.lineNumber)
            return state.machine.start()
        }
        guard let action else { return nil }
        perform(action)
        return Follower(self)
    }

    private func unfollow() {
        let follows: Int? = state.withLock { state in
            state.followers -= 1
            metrics.eventSubscribers.record(state.followers)
            return state.followers == 0 && !state.isClosed ? state.follows : nil
        }
        guard let follows else { return }
        eventLoop.scheduleTask(in: linger) { [weak self] in self?.stop(ifNobodyCameAfter: follows) }
    }

    private func stop(ifNobodyCameAfter follows: Int) {
        let line = state.withLock { state in
            state.followers == 0 && state.follows == follows ? Self.stop(&state) : nil
        }
        guard let line else { return }
        Task { await line.close() }
    }

    private static func stop(_ state: inout State) -> Line? {
        state.machine.stop()
        state.timer?.cancel()
        (state.timer, state.timerAt) = (nil, .never)
        defer { state.line = nil }
        return state.line
    }

    private func makeLine(_ number: Int) -> Line {
        let subscriber = RedisSubscriber(
            redis, channels: [scripts.keys.events], eventLoop: eventLoop, logger: logger
        ) { [weak self] event in
            self?.heard(event, line: number)
        }
        let line = Line(
            client: RedisClient(redis, eventLoop: eventLoop, logger: logger), subscriber: subscriber)
        subscriber.start()
        return line
    }

    /// Ends every subscriber and closes the connections.
    func close() async {
        let (line, waiters) = state.withLock { state in
            state.isClosed = true
            defer { state.waiters = [:] }
            return (Self.stop(&state), state.waiters)
        }
        for waiter in waiters.values { waiter.resume() }
        await line?.close()
    }

    var keys: Keyspace { scripts.keys }
    var isClosed: Bool { state.withLock { $0.isClosed } }

    // MARK: What comes

    private func heard(_ event: RedisSubscriber.Event, line: Int) {
        let now = Moment.now
        let record: EventRecord? = if case .message(_, let payload) = event { try? EventRecord(payload) } else { nil }
        change { state in
            guard state.lineNumber == line, state.line != nil else { return .none }
            switch event {
            case .subscribed: return state.machine.subscribed()
            case .disconnected, .refused:
                state.machine.disconnected()
                return .none
            case .message: return state.machine.received(record, now: now)
            }
        }
        guard let listener = listener.withLock({ $0 }) else { return }
        switch (event, record) {
        case (.message, let record?): listener.heard(record)
        case (.message, nil), (.subscribed, _): listener.missed()
        // What is missed from here on shows when the channel is heard again.
        case (.disconnected, _), (.refused, _): break
        }
    }

    /// Some answer showed that the log has come so far. What it shows may be on its way to us.
    func heard(generation: String, sequence: Int64) {
        // Before the first event there is nothing to miss.
        guard !generation.isEmpty else { return }
        let now = Moment.now
        change { state in state.machine.heard(LogPosition(generation: generation, sequence: sequence), now: now) }
    }

    private func tick() {
        let now = Moment.now
        change { state in
            (state.timer, state.timerAt) = (nil, .never)
            return state.machine.tick(now: now)
        }
    }

    // MARK: Shell of the machine

    /// Changes the machine, then does what it asks for and wakes who may find something.
    private func change(_ body: (inout State) -> EventLogMachine<EventRecord>.Action) {
        let (action, waiters) = state.withLock {
            state -> (EventLogMachine<EventRecord>.Action, [Int: CheckedContinuation<Void, Never>]) in
            let revision = state.machine.revision
            let action = body(&state)
            setTimer(&state)
            report(&state)
            guard state.machine.revision != revision, !state.waiters.isEmpty else { return (action, [:]) }
            defer { state.waiters = [:] }
            return (action, state.waiters)
        }
        for waiter in waiters.values { waiter.resume() }
        perform(action)
    }

    private func perform(_ action: EventLogMachine<EventRecord>.Action) {
        guard case .fetch(let position) = action else { return }
        let (line, number) = state.withLock { ($0.line, $0.lineNumber) }
        guard let line else { return }
        let call = scripts.page(after: position?.sequence, count: Self.pageLength)
        line.client.run(call) { [weak self] result in
            self?.answered(result, after: position?.sequence, line: number)
        }
    }

    private func answered(_ result: Result<RedisReply, RedisError>, after sequence: Int64?, line: Int) {
        let page = result.flatMap { reply -> Result<LogPage<EventRecord>, RedisError> in
            EventScripts.page(reply, after: sequence).map { .success($0) } ?? .failure(.shape(reply))
        }
        let now = Moment.now
        change { state in
            guard state.lineNumber == line, state.line != nil else { return .none }
            switch page {
            case .success(let page):
                state.lastWarning = nil
                return state.machine.answered(page, now: now)
            case .failure(let error):
                state.machine.failed(now: now)
                // Without a connection the connections say so.
                if !error.isTransient, error.fault == nil, state.lastWarning != error.message {
                    state.lastWarning = error.message
                    logger.warning("the event log cannot be read", metadata: [LoggingKeys.error: "\(error.message)"])
                }
                return .none
            }
        }
    }

    private func setTimer(_ state: inout State) {
        let wakeAt = state.machine.wakeAt
        // A timer that is too early is left alone: it finds nothing to do and is set again.
        guard wakeAt != .never, state.timer == nil || wakeAt < state.timerAt else { return }
        state.timer?.cancel()
        state.timerAt = wakeAt
        state.timer = eventLoop.scheduleTask(in: .nanoseconds(max(0, wakeAt - Moment.now))) { [weak self] in
            self?.tick()
        }
    }

    private func report(_ state: inout State) {
        let (counts, before) = (state.machine.counts, state.reported)
        guard counts != before else { return }
        state.reported = counts
        metrics.eventGaps.increment(by: counts.gaps - before.gaps)
        metrics.eventReplays.increment(by: counts.replayed - before.replayed)
        if counts.rollbacks > before.rollbacks {
            logger.notice("the event log stepped back: Redis lost events, or is another")
        }
    }

    var status: EventStatus {
        state.withLock { state in
            EventStatus(
                isLive: state.machine.isLive, subscribers: state.followers,
                cursor: state.machine.position.map { EventCursor($0) },
                backlog: Int(max(0, state.machine.newest - (state.machine.position?.sequence ?? 0))),
                gaps: state.machine.counts.gaps, replayed: state.machine.counts.replayed,
                rollbacks: state.machine.counts.rollbacks)
        }
    }

    // MARK: For subscribers

    /// The next step of a subscriber, and the era and revision in which a question it asks now is asked.
    func step(
        _ reader: inout EventReaderMachine<EventRecord>
    ) -> (step: EventReaderMachine<EventRecord>.Step, era: Int, revision: Int) {
        state.withLock { state in (reader.step(state.machine), state.machine.era, state.machine.revision) }
    }

    /// Waits until the log has changed since `revision`, the client is shut down, the task is cancelled or `end` is
    /// over.
    func wait(past revision: Int, until end: Nanos = .never) async {
        let number = state.withLock { state in
            state.nextWaiter += 1
            return state.nextWaiter
        }
        let limit = end == .never ? nil : limit(number, end)
        defer { limit?.cancel() }
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let mayGo = state.withLock { state in
                    if state.machine.revision != revision || state.isClosed || Task.isCancelled { return true }
                    // The limit may have struck before there was anybody to wake.
                    if Moment.now >= end { return true }
                    state.waiters[number] = continuation
                    return false
                }
                if mayGo { continuation.resume() }
            }
        } onCancel: {
            state.withLock { $0.waiters.removeValue(forKey: number) }?.resume()
        }
    }

    private func limit(_ waiter: Int, _ end: Nanos) -> Scheduled<Void> {
        eventLoop.scheduleTask(in: .nanoseconds(max(0, end - Moment.now))) { [weak self] in
            self?.state.withLock { $0.waiters.removeValue(forKey: waiter) }?.resume()
        }
    }

    /// Runs a script on the feed's connection.
    func run(_ call: ScriptCall) async throws(RedisError) -> RedisReply {
        guard let line = state.withLock({ $0.line }) else {
            throw RedisError(.closed, effect: .none, "the client is closed")
        }
        return try await line.client.run(call)
    }
}
