// SPDX-License-Identifier: Apache-2.0

/// The state of a ``Balancer``, for dashboards and tests. A value: it does not change.
public struct BalancerState: Sendable {
    /// A member of the group as the balancer sees it.
    public struct Member: Sendable {
        /// The member.
        public var member: Ringfence.Member
        /// Whether it can be picked now.
        public var canBePicked: Bool
        /// Calls through this balancer that have begun and not ended.
        public var outstanding: Int
        /// The expected duration of a call to it; nil: not known, for nobody has called.
        public var cost: Duration?
        /// The end of its ejection; nil: it is not ejected.
        public var ejectedUntil: ContinuousClock.Instant?
        /// The part of its share that it gets while it starts slowly. Range: 0.1 to 1.
        public var ramp: Double
    }

    /// Where the circuit breaker stands.
    public enum Breaker: Sendable, Hashable {
        /// Calls are made.
        case closed
        /// No calls are made, until then.
        case open(until: ContinuousClock.Instant)
        /// A few calls are made as probes.
        case halfOpen
        /// An operator forced it open: no calls are made until that order ends.
        case forcedOpen
        /// An operator forced it closed: calls are made, whatever fails.
        case forcedClosed
    }

    /// The members, in the order of their ids' bytes.
    public var members: [Member]
    /// Where the circuit breaker stands.
    public var breaker: Breaker
    /// Whether so few members can be picked that all with a weight are.
    public var isPanicking: Bool

    /// The member with this id; nil if there is none.
    public func member(_ id: String) -> Member? { members.first { $0.member.id.utf8.elementsEqual(id.utf8) } }
}
