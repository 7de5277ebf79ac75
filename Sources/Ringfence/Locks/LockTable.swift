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

import CoreMetrics
import Hiredis
import Logging
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
    /// Who shares a place in Redis' queue: the same names, on the same connection.
    struct Key: Sendable {
        var names: [String]
        var confirmation: ScriptRunner.Confirmation?
        /// Not 0: a waiter that shares its place with nobody, because what it gets is held outside this process.
        var solo: UInt64
        /// Of the names; taken once, as a key is looked up several times for each command.
        let hash: Int

        /// Which shard it belongs to: the same for the same names.
        var shard: Int { Int(UInt(bitPattern: hash) % UInt(LockTable.shardCount)) }

        init(names: [String], confirmation: ScriptRunner.Confirmation? = nil, solo: UInt64 = 0) {
            self.names = names
            self.confirmation = confirmation
            self.solo = solo
            var hasher = Hasher()
            for name in names { hasher.combineBytes(of: name) }
            hash = hasher.finalize()
        }
    }

    /// What becomes of a grant.
    enum Use: Sendable {
        /// Held here, as a lease that is kept.
        case lease(maximumHold: Nanos, renews: Bool)
        /// Held outside this process: forgotten here as soon as it is told.
        case elsewhere
    }

    /// How a wait ended, if it did not fail.
    enum Outcome: Sendable {
        case lease(LeaseState)
        case elsewhere(LockMachine.Grant)
        case busy(milliseconds: Int64, owner: String)
    }

    /// Touched under its shard's lock only.
    private final class Entry {
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

        init(_ key: Key, ticketsAfter ticket: LockMachine.Ticket) {
            line = LockLine(ticketsAfter: ticket, isElsewhere: key.solo != 0)
        }
    }

    private struct Waiting {
        var id: LockMachine.WaiterID
        var use: Use
        var since: Nanos
        var continuation: WaitContinuation
    }

    private struct State {
        var entries: [Key: Entry] = [:]
        var wakeAt = Nanos.never
        /// The newest ticket of any machine that was dropped: answers to its commands may still come.
        var lastTicket: LockMachine.Ticket = 0
        var isShutDown = false
    }

    private final class Shard: Sendable {
        let state = Mutex(State())
    }

    private static let shardCount = 31

    /// Something to do once the lock is let go.
    private enum Afterwards {
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
    private struct AfterwardsList {
        private var first: Afterwards?
        private var others: [Afterwards] = []

        mutating func append(_ one: Afterwards) {
            if first == nil { first = one } else { others.append(one) }
        }

        func perform() {
            first?.perform()
            for one in others { one.perform() }
        }
    }

    private let runner: ScriptRunner
    private let scripts: LockScripts
    private let cleanUp: CleanUp
    private let keeper: LeaseKeeper
    private let ticker: Ticker
    private let nonces: NonceSource
    private let metrics: RingfenceMetrics
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
        let key = Key(names: names, confirmation: confirmation, solo: isShared ? 0 : id)
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
        case .elsewhere(let grant):
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
        let shared = Key(names: names)
        let key = shards[shared.shard].state.withLock { state -> Key? in
            if state.entries[shared]?.line.machine.nonce == nonce { return shared }
            return state.entries.first { $0.value.line.machine.nonce == nonce }?.key
        }
        if let key { _ = handle(key, .pushed(nonce: nonce, fence: fence)) }
    }

    /// Whether there is anybody the clock matters to.
    var isEmpty: Bool { shards.allSatisfy { $0.state.withLock { $0.entries.isEmpty } } }

    func tick(now: Nanos) {
        for shard in shards {
            let due = shard.state.withLock { state -> [Key] in
                guard now >= state.wakeAt else { return [] }
                state.wakeAt = .never
                var due: [Key] = []
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
                state.entries.values.contains { if case .lettingGo = $0.line.machine.state { true } else { false } }
            }
        }
    }

    /// How many wait here now.
    var waiterCount: Int {
        shards.reduce(0) { $0 + $1.state.withLock { $0.entries.values.reduce(0) { $0 + $1.waiting.count } } }
    }

    // MARK: The machine's turn

    private func leave(_ key: Key, _ id: LockMachine.WaiterID, _ error: RingfenceError) {
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
    private func handle(
        _ key: Key, _ event: LockMachine.Event, making: Bool = false,
        ended: (ticket: LockMachine.Ticket, ending: LockLine.Ending)? = nil,
        error: RedisError? = nil, limit: RingfenceError? = nil, busy: (milliseconds: Int64, owner: String)? = nil,
        now: Nanos = Moment.now,
        prepare: (Entry) -> Bool = { _ in true }
    ) -> Bool {
        let afterwards: AfterwardsList? = shards[key.shard].state.withLock { state in
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
            var afterwards = AfterwardsList()
            for action in turn.actions { perform(action, key, entry, turn, now, &afterwards) }
            if turn.isIdle {
                state.lastTicket = max(state.lastTicket, entry.line.machine.lastTicket)
                state.entries[key] = nil
            } else {
                state.wakeAt = min(state.wakeAt, turn.wakeAt)
            }
            return afterwards
        }
        guard let afterwards else { return true }
        afterwards.perform()
        return false
    }

    private func perform(
        _ action: LockMachine.Action, _ key: Key, _ entry: Entry, _ turn: LockLine.Turn, _ now: Nanos,
        _ afterwards: inout AfterwardsList
    ) {
        switch action {
        case .ask(let ticket, let nonce, let terms, let queue):
            entry.asking = (ticket, send(.acquire(nonce: nonce, terms, queue: queue), key, ticket))
        case .claim(let ticket, let value, let terms):
            sendClaim(key, ticket, value, terms)
        case .letGo(let ticket, let value, let successor):
            _ = send(.release(value, successor: successor), key, ticket)
        case .deliver(let id, let grant):
            guard let waiting = entry.takeWaiting(id) else { return }
            metrics.grants.increment()
            if turn.passes > 0 { metrics.passes.increment() }
            metrics.wait.recordNanoseconds(now - waiting.since)
            switch waiting.use {
            case .lease(let maximumHold, let renews):
                let lease = LeaseState(key: key, grant: grant, maximumHold: maximumHold, renews: renews)
                keeper.add(lease)
                afterwards.append(.resume(waiting.continuation, .success(.lease(lease))))
            case .elsewhere:
                afterwards.append(.resume(waiting.continuation, .success(.elsewhere(grant))))
            }
        case .refuse(let id, let refusal):
            guard let waiting = entry.takeWaiting(id) else { return }
            afterwards.append(.resume(waiting.continuation, result(of: refusal, turn.failure, key, entry)))
        case .releaseDone(let value, let isAnswered):
            if let index = entry.releasing.firstIndex(where: {
                $0.value.fence == value.fence && $0.value.nonce == value.nonce
            }) {
                afterwards.append(
                    .released(entry.releasing.remove(at: index).continuation, isAnswered: isAnswered))
            }
        case .cleanUp(let nonce, let terms):
            cleanUp.perform(
                scripts.cancel(key.names, nonce: nonce, terms), confirmation: key.confirmation,
                holdMilliseconds: terms.holdMilliseconds)
        case .cleanUpValue(let value):
            // By its nonce: of several names a part may be gone. It stands in no queue, so the hold does not matter.
            let terms = LockTerms(owner: value.owner, ttl: 0)
            cleanUp.perform(
                scripts.cancel(key.names, nonce: value.nonce, terms), confirmation: key.confirmation,
                holdMilliseconds: Limits.ttl.upperBound / .millisecond)
        }
    }

    private func result(
        of refusal: LockMachine.Refusal, _ failure: LockLine.Failure?, _ key: Key, _ entry: Entry
    ) -> Result<Outcome, any Error> {
        switch refusal {
        case .busy:
            metrics.busy.increment()
            return .success(.busy(milliseconds: entry.lastBusy.milliseconds, owner: entry.lastBusy.owner))
        case .failed:
            metrics.failures.increment()
            return .failure(error(of: failure ?? .ended(isUnknown: true), key, entry))
        case .unconfirmed:
            metrics.failures.increment()
            return .failure(RingfenceError.notConfirmed(key.names, key.confirmation))
        }
    }

    /// Why a wait failed: always the last reason that is known. `unknown` only if bytes of it left.
    private func error(of failure: LockLine.Failure, _ key: Key, _ entry: Entry) -> RingfenceError {
        if let limit = entry.limit { return limit }
        let doing = "acquiring \(describe(key.names))"
        switch failure {
        case .notSent(let isUnknown):
            let absence =
                entry.asking?.submission.absence
                ?? RedisError(.notConnected, effect: .none, "the command was not sent in time")
            var error = RingfenceError(absence, doing)
            (error.code, error.isRetriable) = (.unavailable, true)
            error.message = "\(doing): no connection in the time to wait; last: \(absence.message)"
            error.effect = isUnknown ? .unknown : .none
            if isUnknown { error.message += "; an earlier try had no answer and is being withdrawn" }
            return error
        case .ended(let isUnknown):
            guard let last = entry.lastError else { return .noAnswer(key.names) }
            var error = RingfenceError(last, doing)
            if isUnknown, error.effect == .none {
                error.effect = .unknown
                error.message += "; another try had no answer and is being withdrawn"
            }
            return error
        }
    }

    // MARK: Commands and their answers

    /// A command of a machine, under way.
    private final class Errand: ScriptErrand {
        let table: LockTable
        let key: Key
        let ticket: LockMachine.Ticket
        let verb: LockScripts.Verb

        init(_ table: LockTable, _ key: Key, _ ticket: LockMachine.Ticket, _ verb: LockScripts.Verb) {
            self.table = table
            self.key = key
            self.ticket = ticket
            self.verb = verb
        }

        var script: RedisScript { LockScripts.lock }
        var keys: Int { LockScripts.keys(of: key.names) }
        var arguments: Int { verb.arguments }
        var deadline: Duration? { nil }
        func encode(_ writer: inout CommandWriter) { table.scripts.encode(key.names, verb, &writer) }

        func finish(_ result: Result<RedisReply, RedisError>) {
            switch result {
            case .success(let reply): table.answered(self, reply, acknowledged: .max)
            case .failure(let error): table.failed(self, error)
            }
        }

        /// What may have been got and is not wanted any more, if this asked for anything.
        var asked: (nonce: String, terms: LockTerms)? {
            if case .acquire(let nonce, let terms, _) = verb { (nonce, terms) } else { nil }
        }

        /// Whether somebody gets the lock by it, which replicas may have to confirm.
        var grants: Bool { if case .release(_, nil) = verb { false } else { true } }
    }

    private func send(_ verb: LockScripts.Verb, _ key: Key, _ ticket: LockMachine.Ticket) -> ScriptRunner.Submission {
        let errand = Errand(self, key, ticket, verb)
        guard errand.grants, let confirmation = key.confirmation else {
            return runner.run(errand, confirmation: key.confirmation)
        }
        return runner.runConfirmed(scripts.call(key.names, verb), confirmation) { [self] result in
            switch result {
            case .success(let confirmed):
                answered(errand, confirmed.reply, acknowledged: confirmed.acknowledged)
            case .failure(let error): failed(errand, error)
            }
        }
    }

    private func sendClaim(_ key: Key, _ ticket: LockMachine.Ticket, _ value: LockValue, _ terms: LockTerms) {
        let call = scripts.renew(
            [(key.names, value.text, terms.holdMilliseconds)], claimedBy: nonces.process)
        let finish: @Sendable (Result<RedisClient.Confirmed, RedisError>) -> Void = { [self] result in
            switch result {
            case .failure(let error): claimFailed(key, ticket, error)
            case .success(let confirmed):
                guard let renewed = LockScripts.renewed(confirmed.reply, count: 1) else {
                    claimFailed(key, ticket, .shape(confirmed.reply))
                    return
                }
                if !renewed[0] {
                    _ = handle(key, .claimRefused(ticket))
                } else if confirmed.acknowledged < key.confirmation?.replicas ?? 0 {
                    _ = handle(key, .unconfirmed(ticket, fence: value.fence))
                } else {
                    _ = handle(key, .claimed(ticket))
                }
            }
        }
        if let confirmation = key.confirmation {
            runner.runConfirmed(call, confirmation, completion: finish)
        } else {
            runner.run(call, confirmation: nil) { result in finish(result.map { .init(reply: $0, acknowledged: .max) })
            }
        }
    }

    private func answered(_ errand: Errand, _ reply: RedisReply, acknowledged: Int) {
        let (key, ticket) = (errand.key, errand.ticket)
        switch LockScripts.answer(reply) {
        case .granted(let fence):
            let isConfirmed = acknowledged >= key.confirmation?.replicas ?? 0
            ended(errand, isConfirmed ? .granted(ticket, fence: fence) : .unconfirmed(ticket, fence: fence))
        case .queued(let position, let milliseconds, let arrival):
            ended(errand, .queued(ticket, position: position, milliseconds: milliseconds, arrival: arrival))
        case .busy(let milliseconds, let owner, _):
            ended(errand, .busy(ticket, milliseconds: milliseconds), busy: (milliseconds, owner))
        case .done: ended(errand, .released(ticket))
        case .full(let index):
            let name = key.names.indices.contains(index) ? key.names[index] : ""
            ended(
                errand, .failed(ticket, retriable: false),
                error: RedisError(.server, effect: .none, "there is no place left in the line"),
                limit: .lineIsFull(name, scripts.waiters))
        case nil: failed(errand, .shape(reply))
        }
    }

    private func failed(_ errand: Errand, _ error: RedisError) {
        ended(errand, .failed(errand.ticket, retriable: error.isTransient), error: error)
    }

    private func ended(
        _ errand: Errand, _ event: LockMachine.Event, error: RedisError? = nil, limit: RingfenceError? = nil,
        busy: (milliseconds: Int64, owner: String)? = nil
    ) {
        let (key, ticket) = (errand.key, errand.ticket)
        let ending = LockLine.Ending(event, isUndone: error?.effect == RedisError.Effect.none)
        let isAwaited = !handle(key, event, ended: (ticket, ending), error: error, limit: limit, busy: busy)
        guard !isAwaited, LockLine.withdrawsAgain(ending), let asked = errand.asked else { return }
        cleanUp.perform(
            scripts.cancel(key.names, nonce: asked.nonce, asked.terms), confirmation: key.confirmation,
            holdMilliseconds: asked.terms.holdMilliseconds)
    }

    private func claimFailed(_ key: Key, _ ticket: LockMachine.Ticket, _ error: RedisError) {
        let event = LockMachine.Event.failed(ticket, retriable: error.isTransient)
        _ = handle(key, event, ended: (ticket, .init(event, isUndone: error.effect == .none)), error: error)
    }
}

// Names are compared by their bytes, as Redis does. Swift's own comparison takes two spellings of one accented letter
// for the same; these would be two locks to everybody else.
extension LockTable.Key: Hashable {
    static func == (one: Self, other: Self) -> Bool {
        one.hash == other.hash && one.solo == other.solo && one.confirmation == other.confirmation
            && one.names.count == other.names.count
            && zip(one.names, other.names).allSatisfy { $0.hasSameBytes(as: $1) }
    }

    func hash(into hasher: inout Hasher) {
        hasher.combine(solo)
        hasher.combine(hash)
    }
}
