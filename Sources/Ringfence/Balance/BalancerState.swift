// SPDX-License-Identifier: Apache-2.0

/// What a ``Balancer`` knows and has decided, for dashboards and tests. A value: it does not change.
public struct BalancerState: Sendable {
    /// A member of the group as the balancer sees it.
    public struct Member: Sendable {
        /// The member.
        public var member: Ringfence.Member
        /// It can be picked now.
        public var canBePicked: Bool
        /// Calls through this balancer that have begun and not ended.
        public var outstanding: Int
        /// What a call to it is expected to take; nil: nobody has called, so nobody knows.
        public var cost: Duration?
        /// It is ejected until then.
        public var ejectedUntil: ContinuousClock.Instant?
        /// The part of its share that it is given while it starts slowly, 0.1 to 1.
        public var ramp: Double
    }

    /// Where the circuit breaker stands.
    public enum Breaker: Sendable, Hashable {
        /// Calls are made.
        case closed
        /// No calls are made, until then.
        case open(until: ContinuousClock.Instant)
        /// A few calls are made, to see what comes of them.
        case halfOpen
        /// An operator forced it open: no calls are made until it is let go.
        case forcedOpen
        /// An operator forced it closed: calls are made, whatever fails.
        case forcedClosed
    }

    /// In the order of their ids' bytes.
    public var members: [Member]
    /// Where the circuit breaker stands.
    public var breaker: Breaker
    /// So few members can be picked that all with a weight are.
    public var isPanicking: Bool

    /// The member with this id; nil if there is none.
    public func member(_ id: String) -> Member? { members.first { $0.member.id.utf8.elementsEqual(id.utf8) } }
}
