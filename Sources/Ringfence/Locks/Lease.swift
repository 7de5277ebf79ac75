// SPDX-License-Identifier: Apache-2.0
//
// A lease as its holder sees it, and the state behind it. `Lease` is an ordinary value that may be copied and sent
// about; all copies share one handle, and when the last is gone unreleased, the lock is released: forgetting is not
// fatal.

import RingfenceCore
import Synchronization

/// A lock held by this process, until ``deadline`` or until it is released.
///
/// While it renews itself the deadline moves ahead. A body under
/// ``RingfenceClient/withLock(_:ttl:wait:options:_:)-(String,_,_,_,_)`` is cancelled when the lease is lost. If you
/// hold a lease by hand, call ``check()`` before each step that matters. In every case hand ``fence`` to the resource:
/// a process can be paused between any check and the next act.
///
/// Copies share one lease. When the last copy goes away unreleased, the lock is released in the background, and the
/// log warns of it, once for each place in the code.
public struct Lease: Sendable {
    let handle: LeaseHandle

    /// The names that are locked, in the order of their bytes.
    public var names: [String] { handle.state.names }
    /// The number of this grant: it only grows from grant to grant of a lock, within the limits of <doc:Fencing>. The
    /// resource refuses any older than the newest it saw.
    public var fence: Int64 { handle.state.value.fence }
    /// The name of the holder, for people.
    public var owner: String { handle.state.value.owner }
    /// A unique, public id of this hold: the guards' holder argument. It is no secret and gives no rights.
    public var id: String { handle.state.value.id }
    /// The right to renew and release, for another process. A secret: never log it.
    public var token: String { handle.state.value.text }
    /// When the holder must stop unless the lease is renewed: the ttl from before the lock was asked for or renewed, on
    /// this machine's clock, less 1 % for clocks that run apart. It does not move beyond
    /// ``LockOptions/maximumHold``, nor when the lease is over.
    public var deadline: ContinuousClock.Instant { Moment.instant(handle.state.deadline) }
    /// Time left until ``deadline``; zero when the lease is over.
    public var remaining: Duration { handle.state.remaining(at: Moment.now) }
    /// Whether the lease is held now: neither released nor lost. Local, no round trip.
    public var isHeld: Bool { handle.state.isHeld(at: Moment.now) }

    /// Throws unless the lease is held. Local, no round trip.
    ///
    /// A lease is lost when its deadline has passed, or when this process has heard that it was taken away or is gone.
    /// What happens at Redis is heard at the next renewal at the latest.
    ///
    /// - Throws: ``RingfenceError``: `lease.lost`, or `lock.notHeld` after ``release()``. Effect `none`: nothing was
    ///   done by this call.
    public func check() throws {
        if let error = handle.state.lossError(at: Moment.now, effect: .none) { throw error }
        if handle.state.isReleased { throw handle.state.releasedError }
    }

    /// Renews the lease now, for its ttl from now but not beyond its ``LockOptions/maximumHold``, and returns when
    /// Redis has answered. Cancellation of the calling task has no effect on it.
    ///
    /// - Throws: ``RingfenceError``: `lease.lost` if it was lost (effect `none`, or `applied` if the answer came after
    ///   the deadline); `lock.notHeld` (effect `none`) if it was released; `coordinator.unavailable` and others if
    ///   Redis did not answer or refused. The lease then stands until its deadline.
    public func renew() async throws {
        try await handle.keeper.renewNow(handle.state)
    }

    /// After a release that Redis did not answer: for how long the lock may stay held at most; nil: it was answered.
    package var unreleasedFor: Duration? {
        handle.state.isUnreleased ? .milliseconds(handle.state.terms.holdMilliseconds) : nil
    }

    /// Gives the lock back, and hands it to the first waiter. Returns when Redis has answered.
    ///
    /// If Redis does not answer within the command timeout, this returns too: the release is repeated in the background
    /// for up to a day, or until Redis refuses it or the client is shut down. The log says how long the lock may stay
    /// held. Cancellation of the calling task does not stop a release. Releasing again does nothing; of a lost lease it
    /// throws again.
    ///
    /// - Throws: ``RingfenceError`` with code `lease.lost` if the lease had been lost before, be it that Redis says so
    ///   only to this release: what was done under it may have overlapped with another holder's work (effect
    ///   `unknown`). Nothing else: not if Redis did not answer.
    public nonisolated(nonsending) func release() async throws {
        try await handle.release()
    }
}

extension Lease: CustomStringConvertible {
    /// Names, owner, id and fence; never the token.
    public var description: String { "Lease(\(names.joined(separator: ", ")) owner \(owner) id \(id) fence \(fence))" }
}

/// Shared by all copies of a lease; releases it when the last is gone.
final class LeaseHandle: Sendable {
    let state: LeaseState
    let keeper: LeaseKeeper
    private let table: LockTable
    private let site: CallSite

    init(state: LeaseState, keeper: LeaseKeeper, table: LockTable, site: CallSite) {
        self.site = site
        self.state = state
        self.keeper = keeper
        self.table = table
    }

    deinit {
        if state.end() {
            keeper.remove(state)
            keeper.wasForgotten(state, site)
            table.releaseInBackground(state)
        } else if state.claimLostRelease() {
            // Of several names of which one was lost, the rest may still be held.
            table.releaseInBackground(state)
        }
    }

    nonisolated(nonsending) func release() async throws {
        let loss = state.lossError(at: Moment.now, effect: .unknown)
        let missed = await giveBack(isLost: loss != nil)
        if let loss = loss ?? missed { throw loss }
    }

    /// Lets go of whatever still stands.
    ///
    /// - Parameter isLost: its holder knows already that it was lost.
    /// - Returns: a loss that its holder had not noticed: Redis said, to a renewal or to this release, before the
    ///   deadline, that the lock was not ours any more. Said after it, that says nothing: the lease may have ended
    ///   while the release was on its way.
    nonisolated(nonsending) func giveBack(isLost: Bool) async -> RingfenceError? {
        guard state.end() else {
            // Lost, and the work is over now: let go of what may still stand, such as the rest of several names.
            if state.claimLostRelease() { table.releaseInBackground(state) }
            return state.isNotHeld ? LeaseState.lossError(state.names, .notHeld, effect: .unknown) : nil
        }
        keeper.remove(state)
        if isLost { keeper.wasLostBeforeRelease(state, .expired) }
        switch await table.release(state, now: Moment.now) {
        case .released: return nil
        case .unanswered:
            state.isUnreleased = true
            keeper.wasNotReleased(state)
            return nil
        case .notHeld:
            guard !isLost, Moment.now < state.deadline else { return nil }
            keeper.wasLostBeforeRelease(state, .notHeld)
            return LeaseState.lossError(state.names, .notHeld, effect: .unknown)
        }
    }
}

/// Where in a program a lease was asked for.
struct CallSite: Sendable {
    var file: StaticString
    var line: UInt
}

/// One lease, alive or over. Locks itself; calls nobody while it does.
final class LeaseState: Sendable {
    private struct Guarded {
        var machine: LeaseMachine
        var onLoss: [@Sendable (LeaseMachine.LossReason) -> Void] = []
        /// Somebody was or will be told of a loss, and will then end its work and release.
        var isHeeded = false
        var lostReleased = false
        var isUnreleased = false
    }

    let names: [String]
    let value: LockValue
    let key: LockKey
    let terms: LockTerms
    let grantedAt: Nanos
    private let guarded: Mutex<Guarded>

    init(key: LockKey, grant: LockMachine.Grant, maximumHold: Nanos, renews: Bool) {
        self.key = key
        names = key.names
        value = grant.value
        terms = grant.terms
        grantedAt = grant.sentAt
        guarded = Mutex(
            Guarded(
                machine: LeaseMachine(
                    terms: grant.terms, sentAt: grant.sentAt, maximumHold: maximumHold, renews: renews)))
    }

    var deadline: Nanos { guarded.withLock { $0.machine.deadline } }
    var wakeAt: Nanos { guarded.withLock { $0.machine.wakeAt } }

    func isHeld(at now: Nanos) -> Bool { guarded.withLock { $0.machine.isHeld(at: now) } }

    func remaining(at now: Nanos) -> Duration {
        guarded.withLock { .nanoseconds($0.machine.isHeld(at: now) ? $0.machine.deadline - now : 0) }
    }

    /// Ends a lease that lives; false if it was over.
    func end() -> Bool {
        guarded.withLock { guarded in
            guarded.onLoss = []
            return guarded.machine.end()
        }
    }

    /// Redis did not answer the release.
    var isUnreleased: Bool {
        get { guarded.withLock { $0.isUnreleased } }
        set { guarded.withLock { $0.isUnreleased = newValue } }
    }

    /// True once, for the one that lets go of the remains of a lost lease.
    func claimLostRelease() -> Bool {
        guarded.withLock { guarded in
            guard case .lost = guarded.machine.state, !guarded.lostReleased else { return false }
            guarded.lostReleased = true
            return true
        }
    }

    /// Lost, and the body that was told so is not through yet.
    var isWindingUp: Bool {
        guarded.withLock { guarded in
            guard case .lost = guarded.machine.state else { return false }
            return guarded.isHeeded && !guarded.lostReleased
        }
    }

    /// Runs when the lease is lost, or at once if it has been; on the thread that notices, so it must not block.
    func onLoss(_ action: @escaping @Sendable (LeaseMachine.LossReason) -> Void) {
        let lost: LeaseMachine.LossReason? = guarded.withLock { guarded in
            switch guarded.machine.state {
            case .lost(let reason): return reason
            case .ended: return nil
            case .held, .renewing:
                guarded.onLoss.append(action)
                guarded.isHeeded = true
                return nil
            }
        }
        if let lost { action(lost) }
    }

    /// Feeds the machine. The second result, to be run by the caller, tells of a loss.
    func apply(_ event: (inout LeaseMachine) -> LeaseMachine.Action) -> (LeaseMachine.Action, (@Sendable () -> Void)?) {
        guarded.withLock { guarded in
            let action = event(&guarded.machine)
            guard case .lose(let reason) = action else { return (action, nil) }
            let listeners = guarded.onLoss
            guarded.onLoss = []
            return (action, { for listener in listeners { listener(reason) } })
        }
    }

    /// The error for a holder that asks, if the lease is over by loss at `now`, noticed already or not.
    func lossError(at now: Nanos, effect: RingfenceError.Effect) -> RingfenceError? {
        let reason: LeaseMachine.LossReason? = guarded.withLock { guarded in
            switch guarded.machine.state {
            case .lost(let reason): reason
            case .ended: nil
            case .held, .renewing:
                guarded.machine.isHeld(at: now)
                    ? nil : (guarded.machine.deadline >= guarded.machine.hardEnd ? .heldTooLong : .expired)
            }
        }
        return reason.map { Self.lossError(names, $0, effect: effect) }
    }

    /// Redis said that it does not hold it for us.
    var isNotHeld: Bool { guarded.withLock { $0.machine.state == .lost(.notHeld) } }

    /// Given back by its holder, or let go of by its last copy.
    var isReleased: Bool { guarded.withLock { $0.machine.state == .ended } }

    var releasedError: RingfenceError {
        RingfenceError(.lockNotHeld, effect: .none, "the lease on \(describe(names)) was released")
    }

    static func lossError(
        _ names: [String], _ reason: LeaseMachine.LossReason, effect: RingfenceError.Effect
    ) -> RingfenceError {
        let why =
            switch reason {
            case .expired: "its deadline passed before it could be renewed (Redis unreachable, or this process paused)"
            case .notHeld: "Redis does not hold it for us any more (expired, evicted, or Redis lost its data)"
            case .revoked: "it was taken away by force"
            case .heldTooLong: "it was held for its maximumHold"
            case .shutDown: "the client was shut down"
            }
        return RingfenceError(
            .leaseLost, effect: effect,
            "the lease on \(describe(names)) was lost: \(why); reconcile what was done under it by its fence")
    }
}
