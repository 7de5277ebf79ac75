// SPDX-License-Identifier: Apache-2.0
//
// One error for the whole library. A program that moves money has one question after a failure: may I do it again? So
// every error carries `effect`, what is known of the failed call's work at Redis, beside the open `code` to branch on.
// It is a struct with open codes and not a public enum, so that a new kind of failure does not break anybody's
// `switch`. A body's own errors pass through `withLock` unchanged and are never wrapped in this type.

/// A failed Ringfence call: what went wrong, and whether it is safe to do it again.
public struct RingfenceError: Error, Sendable, CustomStringConvertible {
    /// The kind of a failure, by a stable name. Compare with the static members; new ones may appear. The name in
    /// Swift is the text in camel case: `lock.busy` is `.lockBusy`.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        /// The code's stable text, e.g. `lock.busy`; the same word the HTTP service uses.
        public let description: String

        init(_ description: String) { self.description = description }

        /// An argument is outside its limits, or a file that the configuration names cannot be used. Nothing was sent.
        /// The message names the field and the limit, or the file.
        public static let argumentInvalid = Code("argument.invalid")
        /// The lock was not free within the time the caller was ready to wait.
        public static let lockBusy = Code("lock.busy")
        /// The lease ended before the work did: its deadline passed, it was held for its `maximumHold`, it was taken
        /// away, Redis lost it, or the client was shut down.
        public static let leaseLost = Code("lease.lost")
        /// The token or lease does not hold the lock: it was released or taken away, has expired, or belongs to another
        /// lock.
        public static let lockNotHeld = Code("lock.notHeld")
        /// The same task already holds the lock by `withLock`, so waiting for it would never end.
        public static let lockWouldDeadlock = Code("lock.wouldDeadlock")
        /// Too few replicas acknowledged the grant in time; the lock is given back in the background.
        public static let lockNotConfirmed = Code("lock.notConfirmed")
        /// This process is not, or not for sure, a member of the group any more: its lease ran out on its own clock, or
        /// it was taken out of the group, by Redis or by an operator.
        public static let membershipExpired = Code("membership.expired")
        /// Another process joined under the same member id.
        public static let membershipReplaced = Code("membership.replaced")
        /// The member id is kept for another: one at another address lives under it (the message has both addresses),
        /// or a primary that was replaced too often of late.
        public static let membershipTaken = Code("membership.taken")
        /// The member left the group by itself.
        public static let membershipLeft = Code("membership.left")
        /// The role of primary under this epoch is over: the holder's own clock ended it, it was given up, or another
        /// has it.
        public static let primaryLost = Code("primary.lost")
        /// The primary must not write: fewer could take over than the group's settings ask for. It is primary still.
        public static let primaryWritesSuspended = Code("primary.writesSuspended")
        /// This membership stands for primary already.
        public static let candidacyExists = Code("candidacy.exists")
        /// An order about a group's primary was refused; ``RingfenceError/reasons`` has all reasons. Nothing was
        /// changed.
        public static let orderRefused = Code("order.refused")
        /// A switchover came to nothing: it was taken back, or its target was not ready in time. The primary goes on.
        public static let switchoverAborted = Code("switchover.aborted")
        /// A failover by hand was aborted: the member that was named was gone before it could be elected.
        public static let failoverAborted = Code("failover.aborted")
        /// A setting of ``NamespaceLimits`` refuses what would make the namespace larger; nothing was done.
        public static let limitReached = Code("limit.reached")
        /// The group was made with another seed or points per weight of its ring than was asked for, or a cache with
        /// other numbers of copies, writes or reads.
        public static let groupPolicyMismatch = Code("group.policyMismatch")
        /// Too few of a cache's nodes could be reached, or have their data.
        public static let cacheQuorum = Code("cache.quorum")
        /// A cache cannot be made yet: its group has too few members with an address, or too few of them answer.
        public static let cacheNodes = Code("cache.nodes")
        /// The primary of a cache's group is not there, not reached, or refuses; see the message.
        public static let cachePrimary = Code("cache.primary")
        /// Too few replicas acknowledged a write to a cache in time; it stands at the primary.
        public static let cacheNotConfirmed = Code("cache.notConfirmed")
        /// No member of the group can be picked now; the message says how many there are and why. Nobody was called.
        public static let balancerNoMember = Code("balancer.noMember")
        /// So many calls to the group failed that for a while none is made, or an operator wants none. Nobody was
        /// called.
        public static let breakerOpen = Code("breaker.open")
        /// Redis cannot be reached, did not answer in time or not as expected, or is in a state that passes: it loads
        /// its data, is read-only after a failover, or lacks replicas.
        public static let coordinatorUnavailable = Code("coordinator.unavailable")
        /// Redis answered with a refusal (out of memory, wrong password, no permission, …), or it is one that must not
        /// be used, such as one that evicts; see the message.
        public static let coordinatorRefused = Code("coordinator.refused")
        /// Too many commands, or large answers, are on their way already; nothing was sent.
        public static let coordinatorOverloaded = Code("coordinator.overloaded")
        /// The calling task was cancelled.
        public static let cancelled = Code("cancelled")
        /// The client was shut down.
        public static let clientShutDown = Code("client.shutDown")
    }

    /// What is known of the failed call's work at Redis.
    public enum Effect: String, Sendable, Hashable {
        /// Certainly not done: doing it again is safe.
        case none
        /// Certainly done.
        case applied
        /// It may or may not have been done: it was sent, and no answer came that says so.
        case unknown
    }

    /// The kind of failure.
    public var code: Code
    /// What is known of the failed call's work.
    public var effect: Effect
    /// What happened and what to do about it, for a person. Never holds passwords, tokens or values.
    public var message: String
    /// Whether the same call may succeed later without any change by the caller.
    public var isRetriable: Bool
    /// All reasons of a refused order; empty for any other failure.
    public var reasons: [Refusal] = []
    /// Sooner than so many ms from then it is of no use to ask again; nil: not known.
    package var retryAfterMilliseconds: Int64?
    /// The failure beneath this one, where there was one.
    public var underlying: (any Error)?
    /// How long after the failure it is worth trying again; nil: not known. Set with `breaker.open`, unless an operator
    /// forced the breaker open: the time until calls are let through again. While the first of those are under way it
    /// is at most a second, for their results decide.
    public var retryAfter: Duration?

    package init(
        _ code: Code, effect: Effect, isRetriable: Bool = false, underlying: (any Error)? = nil, _ message: String
    ) {
        self.code = code
        self.effect = effect
        self.message = message
        self.isRetriable = isRetriable
        self.underlying = underlying
    }

    /// The code, the message and the effect in one line.
    public var description: String { "\(code): \(message) (effect: \(effect.rawValue))" }
}
