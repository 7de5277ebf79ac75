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
/// ``RingfenceClient/withLock(_:ttl:wait:options:_:)-(String,_,_,_,_)`` is cancelled when the lease is lost; who holds
/// a lease by hand asks ``check()`` before each step that matters, and in every case hands ``fence`` to the resource,
/// which is the last line of defence: a process can be paused between any check and the next act.
public struct Lease: Sendable {
    let handle: LeaseHandle

    /// What is locked, in a fixed order.
    public var names: [String] { handle.state.names }
    /// A number that only grows from grant to grant of a lock. The resource refuses any older than the newest it saw.
    public var fence: Int64 { handle.state.value.fence }
    /// Who holds, for people.
    public var owner: String { handle.state.value.owner }
    /// A unique, public id of this hold: the guards' holder argument. It is no secret and gives no rights.
    public var id: String { handle.state.value.id }
    /// The right to renew and release, for another process. A secret: never log it.
    public var token: String { handle.state.value.text }
    /// When the holder must stop unless the lease is renewed: counted on this machine's clock from before the lock was
    /// asked for, less 1 % for clocks that run apart.
    public var deadline: ContinuousClock.Instant { Moment.instant(handle.state.deadline) }
    /// Time left until ``deadline``; zero when the lease is over.
    public var remaining: Duration { handle.state.remaining(at: Moment.now) }
    /// Whether the lease is held now. Local, no round trip.
    public var isHeld: Bool { handle.state.isHeld(at: Moment.now) }

    /// Throws `lease.lost` if the lease is over. Local, no round trip.
    ///
    /// - Throws: ``RingfenceError`` with code `lease.lost`, effect `none`: nothing was done by this call.
    public func check() throws {
        if let error = handle.state.lossError(at: Moment.now, effect: .none) { throw error }
    }

    /// Renews now, for the lease's ttl from now, and returns when Redis has answered.
    ///
    /// - Throws: ``RingfenceError``: `lease.lost` if it is over, `coordinator.unavailable` if Redis did not answer (the
    ///   lease then stands until its deadline). Cancellation of the calling task has no effect on it.
    public func renew() async throws {
        try await handle.keeper.renewNow(handle.state)
    }

    /// After a release that Redis did not answer: for how long the lock may stay held at most; nil: it was answered.
    package var unreleasedFor: Duration? {
        handle.state.isUnreleased ? .milliseconds(handle.state.terms.holdMilliseconds) : nil
    }

    /// Gives the lock back, and hands it to who waits first. Returns when Redis has answered; if it does not answer,
    /// the release goes on in the background until it does, for up to a day, and the log says how long the lock may
    /// stay held. Releasing again does nothing. Cancellation of the calling task does not stop a release.
    ///
    /// - Throws: ``RingfenceError`` with code `lease.lost` if it had been lost before: what was done under it may have
    ///   overlapped with another holder's work (effect `unknown`).
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
        }
    }

    nonisolated(nonsending) func release() async throws {
        let now = Moment.now
        let loss = state.lossError(at: now, effect: .unknown)
        let wasLive = state.end()
        if wasLive {
            keeper.remove(state)
            if await !table.release(state, now: now) {
                state.isUnreleased = true
                keeper.wasNotReleased(state)
            }
        } else if loss != nil, state.claimLostRelease() {
            // Lost, and the work is over now: let go of what may still stand, such as the rest of several names.
            table.releaseInBackground(state)
        }
        if let loss { throw loss }
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
