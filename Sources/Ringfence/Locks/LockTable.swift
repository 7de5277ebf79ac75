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

final class LockTable: Sendable {
    /// How a wait ended, if it did not fail.
    enum Outcome<Granted: Sendable>: Sendable {
        case granted(Granted)
        case busy(BusyReason)
    }

    typealias Continuation<Granted: Sendable> = TrustedContinuation<Outcome<Granted>, any Error>

    /// Who waits, and so what becomes of a grant.
    enum Caller {
        /// Held here, as a lease that is kept.
        case lease(Continuation<LeaseState>, maximumHold: Nanos, renews: Bool)
        /// Held outside this process: forgotten here as soon as it is told.
        case remote(Continuation<LockMachine.Grant>)

        func busy(_ reason: BusyReason) {
            switch self {
            case .lease(let continuation, _, _): continuation.resume(returning: .busy(reason))
            case .remote(let continuation): continuation.resume(returning: .busy(reason))
            }
        }

        func fail(_ error: any Error) {
            switch self {
            case .lease(let continuation, _, _): continuation.resume(throwing: error)
            case .remote(let continuation): continuation.resume(throwing: error)
            }
        }
    }

    /// Touched under its shard's lock only.
    final class Entry {
        var line: LockLine
        var lastError: RedisError?
        /// What was asked for last is refused: by a limit, or for want of replicas.
        var refusal: RingfenceError?
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

        /// What the answer to the last command said of who is in the way.
        var busy = BusyReason.unknown
        /// The callers behind the machine's waiters, in their order; mostly one.
        var waiting = CircularBuffer<Waiting>()
        /// Releases under way whose callers wait; mostly one.
        var releasing: [(value: LockValue, continuation: TrustedContinuation<LockMachine.ReleaseOutcome, Never>)] = []

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
        var caller: Caller
        var since: Nanos
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
        case lease(Continuation<LeaseState>, LeaseState)
        case remote(Continuation<LockMachine.Grant>, LockMachine.Grant)
        case busy(Caller, BusyReason)
        // Not a RingfenceError, which would make each of these as large as itself.
        case failed(Caller, any Error)
        case released(TrustedContinuation<LockMachine.ReleaseOutcome, Never>, LockMachine.ReleaseOutcome)

        func perform() {
            switch self {
            case .lease(let continuation, let lease): continuation.resume(returning: .granted(lease))
            case .remote(let continuation, let grant): continuation.resume(returning: .granted(grant))
            case .busy(let caller, let reason): caller.busy(reason)
            case .failed(let caller, let error): caller.fail(error)
            case .released(let continuation, let outcome): continuation.resume(returning: outcome)
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

    /// Waits for a lease until `giveUpAt`; does not wait at all if it is nil. Cancelling the task withdraws the wait.
    nonisolated(nonsending) func acquire(
        _ names: [String], _ terms: LockTerms, giveUpAt: Nanos?, confirmation: ScriptRunner.Confirmation?,
        maximumHold: Nanos, renews: Bool
    ) async throws -> Outcome<LeaseState> {
        let key = LockKey(names: names, confirmation: confirmation)
        let outcome = try await wait(key, nextID(), terms, giveUpAt: giveUpAt) {
            .lease($0, maximumHold: maximumHold, renews: renews)
        }
        guard let refusal = gateRefusal else { return outcome }
        if case .granted(let lease) = outcome {
            keeper.lose(lease, .revoked)
            if lease.claimLostRelease() { releaseInBackground(lease) }
        }
        throw refusal
    }

    /// The same for a holder outside this process, who renews and releases by the grant's value.
    nonisolated(nonsending) func acquireRemotely(
        _ names: [String], _ terms: LockTerms, giveUpAt: Nanos?, confirmation: ScriptRunner.Confirmation?
    ) async throws -> Outcome<LockMachine.Grant> {
        let id = nextID()
        let key = LockKey(names: names, confirmation: confirmation, solo: id)
        let outcome = try await wait(key, id, terms, giveUpAt: giveUpAt) { .remote($0) }
        guard let refusal = gateRefusal else { return outcome }
        if case .granted(let grant) = outcome {
            giveBack(names, grant.value, holdMilliseconds: grant.terms.holdMilliseconds)
        }
        throw refusal
    }

    private func nextID() -> LockMachine.WaiterID { ids.add(1, ordering: .relaxed).newValue }

    /// Asked before a wait and after it: what this Redis is like is known before the command is written, but perhaps
    /// not before it is asked for.
    private var gateRefusal: RingfenceError? { gate.isShut ? watch.gateRefusal : nil }

    private nonisolated(nonsending) func wait<Granted>(
        _ key: LockKey, _ id: LockMachine.WaiterID, _ terms: LockTerms, giveUpAt: Nanos?,
        _ caller: (Continuation<Granted>) -> Caller
    ) async throws -> Outcome<Granted> {
        if let refusal = gateRefusal { throw refusal }
        let waiter = LockMachine.Waiter(
            id: id, terms: terms, giveUpAt: giveUpAt ?? .never, waits: giveUpAt != nil)
        return try await withTaskCancellationHandler {
            try await withTrustedThrowingContinuation { continuation in
                let now = Moment.now
                let waiting = Waiting(id: id, caller: caller(continuation), since: now)
                let isTaken = handle(key, .wait(waiter), making: true, now: now) {
                    $0.waiting.append(waiting)
                    return true
                }
                guard isTaken else { return continuation.resume(throwing: RingfenceError.shutDown) }
                ticker.start()  // after the waiter stands in the table: a ticker about to stop looks once more
                // A cancellation before the waiter stood in the table found nobody to withdraw.
                if Task.isCancelled { leave(key, id, .cancelledWait) }
            }
        } onCancel: {
            leave(key, id, .cancelledWait)
        }
    }

    /// Releases and returns when Redis has answered, or did not in time.
    nonisolated(nonsending) func release(_ lease: LeaseState, now: Nanos) async -> LockMachine.ReleaseOutcome {
        await withTrustedContinuation { continuation in
            handle(lease.key, .release(lease.value), making: true, now: now) {
                $0.releasing.append((lease.value, continuation))
                return true
            }
        }
    }

    func releaseInBackground(_ lease: LeaseState) {
        handle(lease.key, .release(lease.value), making: true)
    }

    /// The lease was lost: those who wait here must ask Redis again.
    func forget(_ lease: LeaseState) {
        handle(lease.key, .forget(lease.value))
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
            for key in shard.state.withLock({ Array($0.entries.keys) }) { handle(key, .inboxReady) }
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
        if let key { handle(key, .pushed(nonce: nonce, fence: fence)) }
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
            for key in due { handle(key, .tick) }
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
        var caller: Caller?
        handle(key, .leave(id)) {
            caller = $0.takeWaiting(id)?.caller
            return caller != nil
        }
        caller?.fail(error)
    }

    /// Feeds one event to the machine of `key` and performs what it decides. `prepare` runs first, under the same lock,
    /// and may refuse; so does a machine that does not await the end of that command any more, and every wait after the
    /// shutdown.
    ///
    /// - Returns: whether the event was taken: not refused, and there is such a machine.
    @discardableResult
    func handle(
        _ key: LockKey, _ event: LockMachine.Event, making: Bool = false,
        ended: (ticket: LockMachine.Ticket, ending: LockLine.Ending)? = nil,
        error: RedisError? = nil, refusal: RingfenceError? = nil, busy: BusyReason = .unknown,
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
            if ended != nil { (entry.lastError, entry.refusal, entry.busy) = (error, refusal, busy) }
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
        guard let deferred else { return false }
        deferred.perform()
        return true
    }
}
