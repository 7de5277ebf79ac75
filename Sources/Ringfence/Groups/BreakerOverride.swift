// SPDX-License-Identifier: Apache-2.0
//
// The one thing about a breaker that processes share. Each process keeps what it saw of members to itself: sharing it
// would cost a round trip with each call, and one process with a bad line would stop all. But an operator must be able
// to say "nobody calls this group now", once, for all of them; and that is an order to the group like any other.

package import RingfenceCore

/// An operator's override of a group's circuit breaker, for all clients at once.
public enum BreakerOverride: String, Sendable, Hashable, CaseIterable {
    /// No override: each client decides for itself, by the failures it sees. The default.
    case automatic
    /// No calls: a request for a member throws `breaker.open`.
    case open
    /// All calls, however many of them fail. A single failing member is still ejected.
    case closed

    package init(_ breaker: GroupBreaker) { self = Self(rawValue: breaker.rawValue) ?? .automatic }

    package var order: GroupBreaker { GroupBreaker(rawValue: rawValue) ?? .automatic }
}
