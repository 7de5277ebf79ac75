// SPDX-License-Identifier: Apache-2.0
//
// One lease from its grant to its end, as the holder sees it. The holder's clock alone decides: the deadline is counted
// from before the request was written, so no delay on the way, no pause of the process and no clock of Redis can make a
// holder believe in a lease that Redis has already given to somebody else. A renewal that is refused ends the lease at
// once; one that fails is tried again until the deadline, for Redis may be back in time.

package struct LeaseMachine: Sendable {
    package enum State: Sendable, Equatable {
        case held
        /// A renewal written at this moment is under way.
        case renewing(sentAt: Nanos)
        case lost(LossReason)
        /// Given back, or handed to a holder elsewhere: nothing is renewed any more.
        case ended
    }

    package enum LossReason: String, Sendable, Equatable {
        /// The deadline passed: Redis was not reached in time, or the process slept.
        case expired
        /// Redis does not hold it for us any more.
        case notHeld
        /// It was taken away by force.
        case revoked
        /// `maximumHold` is over.
        case heldTooLong
        /// The client was shut down.
        case shutDown
    }

    package enum Action: Equatable { case none, renew, lose(LossReason) }

    package private(set) var state: State = .held
    package private(set) var deadline: Nanos
    package let terms: LockTerms
    /// `maximumHold`, as a moment.
    package let hardEnd: Nanos
    package let renews: Bool
    private var renewAt: Nanos

    /// A lease granted to a request written at `sentAt`.
    package init(terms: LockTerms, sentAt: Nanos, maximumHold: Nanos, renews: Bool) {
        self.terms = terms
        self.renews = renews
        hardEnd = sentAt.adding(maximumHold)
        deadline = min(terms.deadline(sentAt: sentAt), hardEnd)
        renewAt = renews ? sentAt + terms.ttl / 3 : .never
    }

    package var isLive: Bool {
        switch state {
        case .held, .renewing: true
        case .lost, .ended: false
        }
    }

    /// Whether the holder may act at `now`.
    package func isHeld(at now: Nanos) -> Bool { isLive && now < deadline }

    /// When `tick` has something to do next.
    package var wakeAt: Nanos {
        switch state {
        case .held: min(renewAt, deadline)
        case .renewing: deadline
        case .lost, .ended: .never
        }
    }

    package mutating func tick(now: Nanos) -> Action {
        guard isLive else { return .none }
        if now >= deadline { return lose(deadline >= hardEnd ? .heldTooLong : .expired) }
        if case .held = state, now >= renewAt {
            state = .renewing(sentAt: now)
            return .renew
        }
        return .none
    }

    /// Asks Redis at the next tick whether it is still held.
    package mutating func renewSoon(now: Nanos) {
        if case .held = state, renews { renewAt = min(renewAt, now) }
    }

    /// A renewal asked for by the holder itself; false if the lease is over.
    package mutating func beginRenewal(now: Nanos) -> Bool {
        guard isHeld(at: now) else { return false }
        state = .renewing(sentAt: now)
        return true
    }

    /// Redis renewed it, for `ttl` from when the request was written.
    package mutating func renewed(sentAt: Nanos, now: Nanos) -> Action {
        guard isLive else { return .none }
        // An answer that comes after the deadline comes too late: the holder may have been told already.
        if now >= deadline { return lose(deadline >= hardEnd ? .heldTooLong : .expired) }
        state = .held
        deadline = max(deadline, min(terms.deadline(sentAt: sentAt), hardEnd))
        // What cannot be lengthened any more is not renewed.
        renewAt = renews && deadline < hardEnd ? sentAt + terms.ttl / 3 : .never
        return .none
    }

    /// The renewal did not get through; try again soon, the deadline stands.
    package mutating func renewalFailed(now: Nanos) -> Action {
        guard isLive else { return .none }
        state = .held
        renewAt = renews ? now + min(terms.ttl / 20, 100 * .millisecond) : .never
        return tick(now: now)
    }

    package mutating func lose(_ reason: LossReason) -> Action {
        guard isLive else { return .none }
        state = .lost(reason)
        return .lose(reason)
    }

    /// Given back by its holder. False if it was over already.
    package mutating func end() -> Bool {
        guard isLive else { return false }
        state = .ended
        return true
    }
}
