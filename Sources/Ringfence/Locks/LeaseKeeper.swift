// SPDX-License-Identifier: Apache-2.0
//
// Keeps this process's leases: renews all that are due in one script call, and notices those that are over. It runs on
// the connection's event loop, never on the cooperative pool, for that pool may be blocked by the very bodies the
// leases protect; cancelling such a body and stopping to renew for it must not wait for it.

import CoreMetrics
import Hiredis
import Logging
import RingfenceCore
import Synchronization

final class LeaseKeeper: Sendable {
    private struct State {
        var leases: [ObjectIdentifier: LeaseState] = [:]
        var wakeAt = Nanos.never
        var reported = 0
    }

    /// A struct, because a bare closure in a generic `Mutex` would be wrapped once more at every access.
    private struct Listener {
        var lost: @Sendable (LeaseState) -> Void = { _ in }
    }

    /// Keys in one renewal call: enough to make renewals cheap, few enough not to hold Redis up.
    private static let keysPerCall = 100

    private let runner: ScriptRunner
    private let scripts: LockScripts
    private let metrics: RingfenceMetrics
    private let logger: Logger
    private let ticker: Ticker
    private let listener = Mutex(Listener())
    private let state = Mutex(State())
    /// Places in the program at which a lease was asked for that nobody released, as far as they were logged.
    private let forgetful = Mutex<Set<String>>([])

    init(runner: ScriptRunner, scripts: LockScripts, ticker: Ticker, metrics: RingfenceMetrics, logger: Logger) {
        self.runner = runner
        self.scripts = scripts
        self.ticker = ticker
        self.metrics = metrics
        self.logger = logger
    }

    /// Called with every lease that is lost, before its holder is told.
    func onLoss(_ handler: @escaping @Sendable (LeaseState) -> Void) { listener.withLock { $0.lost = handler } }

    var count: Int { state.withLock { $0.leases.count } }
    var isEmpty: Bool { count == 0 }

    func add(_ lease: LeaseState) {
        let wakeAt = lease.wakeAt
        state.withLock { state in
            state.leases[ObjectIdentifier(lease)] = lease
            if wakeAt < state.wakeAt { state.wakeAt = wakeAt }
        }
        ticker.start()
    }

    /// A lease that lived was let go by its last copy. Often that is a mistake: the lock guarded nothing from then on.
    func wasForgotten(_ lease: LeaseState, _ site: CallSite) {
        let place = "\(site.file):\(site.line)"
        guard forgetful.withLock({ $0.count < 1000 && $0.insert(place).inserted }) else { return }
        logger.warning(
            """
            a lease went away unreleased, and with it the lock: keep it in a variable until release(), or use \
            withLockIfFree or withLock
            """,
            metadata: [
                LoggingKeys.lock: "\(describe(lease.names))", LoggingKeys.site: "\(place)",
            ])
    }

    /// Its release was not answered: nobody else gets the lock until it is done after all, or its time is over.
    func wasNotReleased(_ lease: LeaseState) {
        metrics.releaseFailures.increment()
        logger.warning(
            """
            a release was not answered: it is tried again, and until then the lock may stay held for \
            \(lease.terms.holdMilliseconds) ms
            """,
            metadata: [
                LoggingKeys.lock: "\(describe(lease.names))", LoggingKeys.fence: "\(lease.value.fence)",
            ])
    }

    /// Redis said to its release that it was not ours any more, before its deadline: it was lost, and nobody had
    /// noticed.
    func wasLostBeforeRelease(_ lease: LeaseState, _ reason: LeaseMachine.LossReason) {
        metrics.lost.increment()
        logLoss(lease, reason)
    }

    private func logLoss(_ lease: LeaseState, _ reason: LeaseMachine.LossReason) {
        logger.warning(
            "lease lost",
            metadata: [
                LoggingKeys.lock: "\(describe(lease.names))", LoggingKeys.fence: "\(lease.value.fence)",
                LoggingKeys.lease: "\(lease.value.id)", LoggingKeys.reason: "\(reason.rawValue)",
            ])
    }

    func remove(_ lease: LeaseState) {
        _ = state.withLock { $0.leases.removeValue(forKey: ObjectIdentifier(lease)) }
    }

    var all: [LeaseState] { state.withLock { Array($0.leases.values) } }

    /// The push said that this hold was taken away.
    func revoke(nonce: String) {
        guard let lease = state.withLock({ $0.leases.values.first { $0.value.nonce == nonce } }) else { return }
        apply(lease) { $0.lose(.revoked) }
    }

    /// Pushes may have been missed, a revocation among them: look at every lease now.
    func lookAtAll(now: Nanos) {
        for lease in all {
            apply(lease) { machine in
                machine.renewSoon(now: now)
                return .none
            }
        }
        wake(at: now)
    }

    func lose(_ lease: LeaseState, _ reason: LeaseMachine.LossReason) {
        apply(lease) { $0.lose(reason) }
    }

    // MARK: Time

    /// Renews what is due and ends what is over; on the event loop.
    func tick(now: Nanos) {
        let changed = state.withLock { state -> Int? in
            guard state.leases.count != state.reported else { return nil }
            state.reported = state.leases.count
            return state.reported
        }
        if let changed { metrics.held.record(changed) }
        let due = state.withLock { state -> [LeaseState] in
            guard now >= state.wakeAt else { return [] }
            state.wakeAt = .never  // what is added or renewed from here on lowers it again
            return Array(state.leases.values)
        }
        guard !due.isEmpty else { return }
        var renewals: [LeaseState] = []
        for lease in due where lease.wakeAt <= now {
            if apply(lease, { $0.tick(now: now) }) == .renew { renewals.append(lease) }
        }
        wake(at: due.reduce(Nanos.never) { min($0, $1.wakeAt) })
        for batch in batches(renewals) { renew(batch, sentAt: now) }
    }

    private func batches(_ leases: [LeaseState]) -> [[LeaseState]] {
        var batches: [[LeaseState]] = []
        var keys = 0
        for lease in leases {
            if !batches.isEmpty, keys + lease.names.count <= Self.keysPerCall {
                batches[batches.count - 1].append(lease)
                keys += lease.names.count
            } else {
                batches.append([lease])
                keys = lease.names.count
            }
        }
        return batches
    }

    // MARK: Renewal

    private func call(_ leases: [LeaseState]) -> ScriptCall {
        scripts.renew(leases.map { ($0.names, $0.value.text, $0.terms.holdMilliseconds) })
    }

    private func renew(_ leases: [LeaseState], sentAt: Nanos) {
        // Of confirmed ones too on the plain connection: the other may wait for replicas, and a renewal only compares
        // and lengthens, so its order does not matter.
        runner.run(call(leases), confirmation: nil) { [self] result in
            let answers = (try? result.get()).flatMap { LockScripts.renewed($0, count: leases.count) }
            if case .failure(let error) = result, error.code == .server, error.isOfOneKey, leases.count > 1 {
                // Refused for the sake of one of them: each asks for itself. Its deadline counts from the new request.
                for lease in leases { renew([lease], sentAt: Moment.now) }
                return
            }
            if answers == nil {
                metrics.renewalFailures.increment()
                logger.debug("renewal failed", metadata: [LoggingKeys.error: "\(result)"])
            }
            for (index, lease) in leases.enumerated() {
                renewed(lease, answers?[index], sentAt: sentAt)
            }
        }
    }

    /// Takes Redis' answer; nil: there was none.
    private func renewed(_ lease: LeaseState, _ answer: Bool?, sentAt: Nanos) {
        let now = Moment.now
        switch answer {
        case true?:
            metrics.margin.recordNanoseconds(max(0, lease.deadline - now))
            apply(lease) { $0.renewed(sentAt: sentAt, now: now) }
        case false?: apply(lease) { $0.lose(.notHeld) }
        case nil: apply(lease) { $0.renewalFailed(now: now) }
        }
        wake(at: lease.wakeAt)
    }

    private func wake(at moment: Nanos) {
        state.withLock { state in
            if moment < state.wakeAt { state.wakeAt = moment }
        }
    }

    /// A renewal its holder asked for.
    func renewNow(_ lease: LeaseState) async throws {
        let sentAt = Moment.now
        var mayRenew = false
        _ = lease.apply { machine in
            mayRenew = machine.beginRenewal(now: sentAt)
            return .none
        }
        guard mayRenew else { throw lease.lossError(at: sentAt, effect: .none) ?? lease.releasedError }
        let call = call([lease])
        var wasRenewed = false
        let result = await runner.main.patiently { left -> Result<RedisReply, RedisError> in
            // Not cancelled with the task: its answer says how long the lease is.
            await withCheckedContinuation { continuation in
                runner.run(call, confirmation: nil, deadline: left) { continuation.resume(returning: $0) }
            }
        }
        switch result {
        case .success(let reply):
            let answer = LockScripts.renewed(reply, count: 1)
            renewed(lease, answer?[0], sentAt: sentAt)
            guard let answer else { throw RingfenceError.unexpected(reply) }
            wasRenewed = answer[0]
        case .failure(let error):
            renewed(lease, nil, sentAt: sentAt)
            throw RingfenceError(error, "renewing the lease on \(describe(lease.names))")
        }
        if let loss = lease.lossError(at: Moment.now, effect: wasRenewed ? .applied : .none) { throw loss }
    }

    // MARK: Loss

    @discardableResult
    private func apply(_ lease: LeaseState, _ event: (inout LeaseMachine) -> LeaseMachine.Action) -> LeaseMachine.Action
    {
        let (action, tell) = lease.apply(event)
        guard case .lose(let reason) = action else { return action }
        remove(lease)
        metrics.lost.increment()
        logLoss(lease, reason)
        listener.withLock { $0 }.lost(lease)
        tell?()
        return action
    }
}
