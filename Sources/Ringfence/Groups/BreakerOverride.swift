// SPDX-License-Identifier: Apache-2.0
//
// The one thing about a breaker that processes share. What a process saw of members it keeps to itself: shared, it
// would cost a round trip with each call, and one process with a bad line would stop all. But at night an operator must
// be able to say "nobody calls this group now", once, for all of them; and that is an order to the group like any
// other.

package import RingfenceCore

/// What an operator orders about calls to a group's members, for all processes at once.
public enum BreakerOverride: String, Sendable, Hashable, CaseIterable {
    /// Each process decides for itself, by what it sees. The default.
    case automatic
    /// Nobody is called: who asks for a member gets `breaker.open`.
    case open
    /// Calls are made, however many of them fail. (A member that fails alone is left out all the same.)
    case closed

    package init(_ breaker: GroupBreaker) { self = Self(rawValue: breaker.rawValue) ?? .automatic }

    package var order: GroupBreaker { GroupBreaker(rawValue: rawValue) ?? .automatic }
}
