// SPDX-License-Identifier: Apache-2.0
//
// What a lock machine is told and what it says: events in, actions out, and the states between.

extension LockMachine {
    package struct Waiter: Sendable, Equatable {
        package var id: WaiterID
        package var terms: LockTerms
        /// When it stops waiting; it does not queue at all if that is the moment it came.
        package var giveUpAt: Nanos
        package var waits: Bool

        package init(id: WaiterID, terms: LockTerms, giveUpAt: Nanos, waits: Bool) {
            self.id = id
            self.terms = terms
            self.giveUpAt = giveUpAt
            self.waits = waits
        }
    }

    /// A grant to a local waiter. The deadline is counted from `sentAt`.
    package struct Grant: Sendable, Equatable {
        package var value: LockValue
        package var terms: LockTerms
        package var sentAt: Nanos
    }

    /// Whether an acquire takes a place in Redis' queue, and where.
    package enum Queueing: Sendable, Equatable {
        case none
        /// Behind everybody; where it stands, if it has a place already.
        case last
        /// Where it stood before, by the arrival it was told: places of a process that seems gone are dropped, and
        /// places are lost with Redis' data, but a waiter that comes back keeps its arrival.
        case since(Int64)
    }

    /// The waiter that takes over from the value being released.
    package struct Successor: Sendable, Equatable {
        package var nonce: String
        package var terms: LockTerms
        /// Queue behind others' waiters instead of passing on at once.
        package var yields: Bool

        package init(nonce: String, terms: LockTerms, yields: Bool) {
            self.nonce = nonce
            self.terms = terms
            self.yields = yields
        }
    }

    package enum Event: Sendable {
        case wait(Waiter)
        /// A waiter stopped waiting, or the process did.
        case leave(WaiterID)
        /// The holder lets go. With another value than the one held here: of a lease that was lost or is used
        /// elsewhere.
        case release(LockValue)
        /// The lease held here is lost, or from now on somebody else's to renew and release.
        case forget(LockValue)
        case granted(Ticket, fence: Int64)
        case queued(Ticket, position: Int64, milliseconds: Int64, arrival: Int64)
        /// Not granted and not queued; for a release: it was not ours any more.
        case busy(Ticket, milliseconds: Int64)
        /// The claim: renewed or not. The release: done.
        case claimed(Ticket)
        case claimRefused(Ticket)
        case released(Ticket)
        /// The grant came but too few replicas have it.
        case unconfirmed(Ticket, fence: Int64)
        case failed(Ticket, retriable: Bool)
        /// Redis refuses it for now, and has done nothing: it is moving, loading, failing over. `pause`: how long to
        /// wait before it is asked again. `patience`: how long a release, and a waiter that does not wait, keep trying.
        case deferred(Ticket, pause: Nanos, patience: Nanos)
        case pushed(nonce: String, fence: Int64)
        /// The inbox is heard (again): a push may have been missed, and queueing makes sense.
        case inboxReady
        case tick
    }

    package enum Action: Sendable, Equatable {
        case ask(Ticket, nonce: String, LockTerms, queue: Queueing)
        case claim(Ticket, LockValue, LockTerms)
        case release(Ticket, LockValue, Successor?)
        case deliver(WaiterID, Grant)
        case refuse(WaiterID, Refusal)
        case releaseDone(LockValue, ReleaseOutcome)
        /// Withdraw a nonce whatever became of it: queued, granted or never arrived.
        case cleanUp(nonce: String, LockTerms)
        /// Let go of a value that may still stand.
        case cleanUpValue(LockValue)
    }

    /// How the release of a holder ended.
    package enum ReleaseOutcome: Sendable, Equatable {
        case released
        /// Redis did not hold it for us any more: it was lost before, and nobody here had noticed.
        case notHeld
        /// It is not known to be done. The value is cleaned up.
        case unanswered
    }

    package enum Refusal: Sendable, Equatable {
        /// Held by somebody else for as long as the waiter was ready to wait.
        case busy
        /// The last command failed, and time is up or repeating it is of no use.
        case failed
        case unconfirmed
    }
}
