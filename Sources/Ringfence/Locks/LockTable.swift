// SPDX-License-Identifier: Apache-2.0
//
// The shell around the lock machines: one line (LockLine) for each set of names in use here. It turns calls, answers,
// pushes and time into events, and performs the actions that come back.
//
// Commands are submitted while the table's lock is held, against the usual rule, and on purpose: the order in which a
// connection gets them is then the order in which the machines decided, which is what makes a clean-up run behind the
// command that it undoes. Submitting only appends to the connection's buffer, and answers come later, on the event
// loop. Callers are resumed after the lock is let go.
//
// The table is split by names into shards, each with a lock of its own: with one lock for all, two threads of callers
// and the event loop spent a fifth of their time waiting for it.

import Hiredis
import NIOCore
import RingfenceCore
import Synchronization

#if DEBUG
    // A continuation resumed twice crashes only sometimes; debug builds, and so the tests, crash always.
    typealias WaitContinuation = CheckedContinuation<LockTable.Outcome, any Error>
    typealias ReleaseContinuation = CheckedContinuation<Bool, Never>
    nonisolated(nonsending) func withWaitContinuation(_ body: (WaitContinuation) -> Void) async throws
        -> LockTable.Outcome
    {
        try await withCheckedThrowingContinuation(body)
    }
    nonisolated(nonsending) func withReleaseContinuation(_ body: (ReleaseContinuation) -> Void) async -> Bool {
        await withCheckedContinuation(body)
    }
#else
    typealias WaitContinuation = UnsafeContinuation<LockTable.Outcome, any Error>
    typealias ReleaseContinuation = UnsafeContinuation<Bool, Never>
    @inline(__always)
    nonisolated(nonsending) func withWaitContinuation(_ body: (WaitContinuation) -> Void) async throws
        -> LockTable.Outcome
    {
        try await withUnsafeThrowingContinuation(body)
    }
    @inline(__always)
    nonisolated(nonsending) func withReleaseContinuation(_ body: (ReleaseContinuation) -> Void) async -> Bool {
        await withUnsafeContinuation(body)
    }
#endif

final class LockTable: Sendable {
    /// What becomes of a grant.
    enum Use: Sendable {
        /// Held here, as a lease that is kept.
        case lease(maximumHold: Nanos, renews: Bool)
        /// Held outside this process: forgotten here as soon as it is told.
        case remote
    }

    /// How a wait ended, if it did not fail.
    enum Outcome: Sendable {
        case lease(LeaseState)
        case remote(LockMachine.Grant)
        case busy(milliseconds: Int64, owner: String)
    }

    /// Touched under its shard's lock only.
    final class Entry {
        var line: LockLine
        var lastError: RedisError?
        /// A limit refuses what was asked for last.
        var limit: RingfenceError?
        /// The newest acquire under way.
        var asking: (ticket: LockMachine.Ticket, submission: ScriptRunner.Submission)?

        func takeBack(_ ticket: LockMachine.Ticket) -> Bool {
            guard let asking, asking.ticket == ticket else { return true }
            return asking.submission.withdraw()
        }

        func isUnsent(_ ticket: LockMachine.Ticket) -> Bool {
            guard let asking, asking.ticket == ticket else { return true }
            return !asking.submission.wasWritten
        }

        var lastBusy: (milliseconds: Int64, owner: String) = (0, "")
        /// The callers behind the machine's waiters, in their order; mostly one.
        var waiting = CircularBuffer<Waiting>()
        /// Releases under way whose callers wait; mostly one.
        var releasing: [(value: LockValue, continuation: ReleaseContinuation)] = []

        func add(_ one: Waiting) -> Bool {
            waiting.append(one)
            return true
        }

        /// Nearly always the first: that one is granted, and many are refused in their order.
        func takeWaiting(_ id: LockMachine.WaiterID) -> Waiting? {
            if waiting.first?.id == id { return waiting.removeFirst() }
            return waiting.firstIndex { $0.id == id }.map { waiting.remove(at: $0) }
        }

        init(_ key: LockKey, ticketsAfter ticket: LockMachine.Ticket) {
            line = LockLine(ticketsAfter: ticket, isRemote: key.solo != 0)
        }
    }

    struct Waiting {
        var id: LockMachine.WaiterID
        var use: Use
        var since: Nanos
        var continuation: WaitContinuation
    }

    private struct State {
        var entries: [LockKey: Entry] = [:]
        var wakeAt = Nanos.never
        /// The newest ticket of any machine that was dropped: answers to its commands may still come.
        var lastTicket: LockMachine.Ticket = 0
        var isShutDown = false
    }

    private final class Shard: Sendable {
        let state = Mutex(State())
    }

    static let shardCount = 31

    /// Something to do once the lock is let go.
    enum DeferredResume {
        case resume(WaitContinuation, Result<Outcome, any Error>)
        case released(ReleaseContinuation, isAnswered: Bool)

        func perform() {
            switch self {
            case .resume(let continuation, let result): continuation.resume(with: result)
            case .released(let continuation, let isAnswered): continuation.resume(returning: isAnswered)
            }
        }
    }

    /// Mostly one, which then needs no array.
    struct DeferredResumes {
        private var first: DeferredResume?
        private var others: [DeferredResume] = []

        mutating func append(_ one: DeferredResume) {
            if first == nil { first = one } else { others.append(one) }
        }

        func perform() {
            first?.perform()
            for one in others { one.perform() }
        }
    }

    let runner: ScriptRunner
    let scripts: LockScripts
    let cleanUp: CleanUp
    let keeper: LeaseKeeper
    private let ticker: Ticker
    let nonces: NonceSource
    let metrics: RingfenceMetrics
    private let watch: RedisWatch
    private let gate: RedisWatch.Gate
    private let inboxIsHeard = Atomic<Bool>(false)
    private let ids = Atomic<UInt64>(0)
    private let shards = (0..<shardCount).map { _ in Shard() }

    init(
        runner: ScriptRunner, scripts: LockScripts, cleanUp: CleanUp, keeper: LeaseKeeper, ticker: Ticker,
        nonces: NonceSource, metrics: RingfenceMetrics, watch: RedisWatch
    ) {
        self.watch = watch
        self.gate = watch.gate
        self.runner = runner
        self.scripts = scripts
        self.cleanUp = cleanUp
        self.keeper = keeper
        self.ticker = ticker
        self.nonces = nonces
        self.metrics = metrics
    }

    // MARK: What callers do

    /// Waits for the lock until `giveUpAt`; does not wait at all if it is nil. Cancelling the task withdraws the wait.
    nonisolated(nonsending) func acquire(
        _ names: [String], _ terms: LockTerms, giveUpAt: Nanos?, confirmation: ScriptRunner.Confirmation?, use: Use
    ) async throws -> Outcome {
        if gate.isShut, let refusal = watch.gateRefusal { throw refusal }
        let id = ids.add(1, ordering: .relaxed).newValue
        let isShared = if case .lease = use { true } else { false }
        let key = LockKey(names: names, confirmation: confirmation, solo: isShared ? 0 : id)
        let waiter = LockMachine.Waiter(
            id: id, terms: terms, giveUpAt: giveUpAt ?? .never, waits: giveUpAt != nil)
        let outcome = try await withTaskCancellationHandler {
            try await withWaitContinuation { continuation in
                let now = Moment.now
                let waiting = Waiting(id: id, use: use, since: now, continuation: continuation)
                if handle(key, .wait(waiter), making: true, now: now, prepare: { $0.add(waiting) }) {
                    return continuation.resume(throwing: RingfenceError.shutDown)
                }
                ticker.start()  // after the waiter stands in the table: a ticker about to stop looks once more
                // A cancellation before the waiter stood in the table found nobody to withdraw.
                if Task.isCancelled { leave(key, id, .cancelledWait) }
            }
        } onCancel: {
            leave(key, id, .cancelledWait)
        }
        // What this Redis is like was known before the command was written, but perhaps not before it was asked for.
        if gate.isShut, let refusal = watch.gateRefusal {
            giveBack(outcome, names)
            throw refusal
        }
        return outcome
    }

    private func giveBack(_ outcome: Outcome, _ names: [String]) {
        switch outcome {
        case .lease(let lease):
            keeper.lose(lease, .revoked)
            if lease.claimLostRelease() { releaseInBackground(lease) }
        case .remote(let grant):
            giveBack(names, grant.value, holdMilliseconds: grant.terms.holdMilliseconds)
        case .busy: break
        }
    }

    /// Releases and returns when Redis has answered, or did not in time.
    /// - Returns: whether it answered.
    nonisolated(nonsending) func release(_ lease: LeaseState, now: Nanos) async -> Bool {
        await withReleaseContinuation { continuation in
            _ = handle(lease.key, .release(lease.value), making: true, now: now) {
                $0.releasing.append((lease.value, continuation))
                return true
            }
        }
    }

    func releaseInBackground(_ lease: LeaseState) {
        _ = handle(lease.key, .release(lease.value), making: true)
    }

    /// The lease was lost: those who wait here must ask Redis again.
    func forget(_ lease: LeaseState) {
        _ = handle(lease.key, .forget(lease.value))
    }

    /// Lets go of a grant that is not kept here, and does not wait for it.
    func giveBack(_ names: [String], _ value: LockValue, holdMilliseconds: Int64) {
        cleanUp.perform(
            scripts.call(names, .release(value, successor: nil)), confirmation: nil, holdMilliseconds: holdMilliseconds)
    }

    /// Ends every wait; new ones are refused.
    func shutDown() {
        for shard in shards {
            let waiting = shard.state.withLock { state in
                state.isShutDown = true
                return state.entries.flatMap { key, entry in entry.waiting.map { (key, $0.id) } }
            }
            for (key, id) in waiting { leave(key, id, .shutDown) }
        }
    }

    // MARK: What the inbox and the clock say

    func inbox(isHeard: Bool) {
        inboxIsHeard.store(isHeard, ordering: .releasing)
        guard isHeard else { return }
        for shard in shards {
            for key in shard.state.withLock({ Array($0.entries.keys) }) { _ = handle(key, .inboxReady) }
        }
    }

    /// A grant was pushed. One that nobody here waits for any more is left to its claim time: a push may be late, and
    /// of a lock that is held by now, here or (by its token) elsewhere; giving it back would take it from its holder.
    func pushed(nonce: String, fence: Int64, names: [String]) {
        let shared = LockKey(names: names)
        let key = shards[shared.shard].state.withLock { state -> LockKey? in
            if state.entries[shared]?.line.machine.nonce == nonce { return shared }
            return state.entries.first { $0.value.line.machine.nonce == nonce }?.key
        }
        if let key { _ = handle(key, .pushed(nonce: nonce, fence: fence)) }
    }

    /// Whether there is anybody the clock matters to.
    var isEmpty: Bool { shards.allSatisfy { $0.state.withLock { $0.entries.isEmpty } } }

    func tick(now: Nanos) {
        for shard in shards {
            let due = shard.state.withLock { state -> [LockKey] in
                guard now >= state.wakeAt else { return [] }
                state.wakeAt = .never
                var due: [LockKey] = []
                for (key, entry) in state.entries {
                    let wakeAt = entry.line.machine.wakeAt
                    if wakeAt <= now { due.append(key) } else { state.wakeAt = min(state.wakeAt, wakeAt) }
                }
                return due
            }
            for key in due { _ = handle(key, .tick) }
        }
    }

    /// Whether a release has not been answered yet.
    var isReleasing: Bool {
        shards.contains { shard in
            shard.state.withLock { state in
                state.entries.values.contains { if case .releasing = $0.line.machine.state { true } else { false } }
            }
        }
    }

    /// How many wait here now.
    var waiterCount: Int {
        shards.reduce(0) { $0 + $1.state.withLock { $0.entries.values.reduce(0) { $0 + $1.waiting.count } } }
    }

    // MARK: The machine's turn

    private func leave(_ key: LockKey, _ id: LockMachine.WaiterID, _ error: RingfenceError) {
        var continuation: WaitContinuation?
        _ = handle(key, .leave(id)) {
            continuation = $0.takeWaiting(id)?.continuation
            return continuation != nil
        }
        continuation?.resume(throwing: error)
    }

    /// Feeds one event to the machine of `key` and performs what it decides. `prepare` runs first, under the same lock,
    /// and may refuse; so does a machine that does not await the answer to `ticket` any more, and every wait after the
    /// shutdown. True if the event was refused or found no machine.
    func handle(
        _ key: LockKey, _ event: LockMachine.Event, making: Bool = false,
        ended: (ticket: LockMachine.Ticket, ending: LockLine.Ending)? = nil,
        error: RedisError? = nil, limit: RingfenceError? = nil, busy: (milliseconds: Int64, owner: String)? = nil,
        now: Nanos = Moment.now,
        prepare: (Entry) -> Bool = { _ in true }
    ) -> Bool {
        let deferred: DeferredResumes? = shards[key.shard].state.withLock { state in
            if state.isShutDown, case .wait = event { return nil }
            var found = state.entries[key]
            if found == nil, making {
                found = Entry(key, ticketsAfter: state.lastTicket)
                state.entries[key] = found
            }
            guard let entry = found, prepare(entry) else { return nil }
            let heard = inboxIsHeard.load(ordering: .acquiring)
            let turn = entry.line.turn(
                event, ended: ended, now: now, inboxHeard: heard, makeNonce: { nonces.next(key.names) },
                takeBack: { entry.takeBack($0) }, isUnsent: { entry.isUnsent($0) })
            guard let turn else { return nil }
            if ended != nil { (entry.lastError, entry.limit) = (error, limit) }
            if let busy { entry.lastBusy = busy }
            var deferred = DeferredResumes()
            for action in turn.actions { perform(action, key, entry, turn, now, &deferred) }
            if turn.isIdle {
                state.lastTicket = max(state.lastTicket, entry.line.machine.lastTicket)
                state.entries[key] = nil
            } else {
                state.wakeAt = min(state.wakeAt, turn.wakeAt)
            }
            return deferred
        }
        guard let deferred else { return true }
        deferred.perform()
        return false
    }
}
