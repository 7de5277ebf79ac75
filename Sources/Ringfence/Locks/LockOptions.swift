// SPDX-License-Identifier: Apache-2.0

import RingfenceCore

/// Options of one acquire. The defaults are right for most.
public struct LockOptions: Sendable {
    /// How far a grant must have got before the caller is told of it.
    public struct Durability: Sendable, Hashable {
        struct Confirmation: Sendable, Hashable {
            var replicas: Int
            var milliseconds: Int64
        }
        var confirmation: Confirmation?

        /// The primary has it. A failover that loses the newest writes may lose the lock; the fence still protects.
        public static let primary = Durability(confirmation: nil)

        /// At least `replicas` replicas acknowledged the grant within that time; else the lock is given back and the call
        /// throws `lock.notConfirmed`. The acknowledgement is asked for in the same write as the lock (`WAIT`), on a
        /// connection of its own. `within` is 1 ms to a third of the ttl, and at most 5 s.
        ///
        /// It makes losing the lock in a failover rarer, not impossible: Redis may promote a replica that did not
        /// acknowledge. See <https://redis.io/docs/latest/commands/wait/>.
        public static func confirmed(replicas: Int, within: Duration) -> Durability {
            Durability(
                confirmation: Confirmation(
                    replicas: replicas, milliseconds: max(0, Nanos(saturating: within)) / .millisecond))
        }
    }

    /// Who holds, for people; nil for the configuration's `owner`. 1 to 128 bytes, no control characters.
    public var owner: String?
    /// Whether the lease is renewed at every third of its ttl until it is released.
    public var renews: Bool
    /// The lease is lost after this time however often it was renewed: the limit on a task that hangs. At most 30 days.
    public var maximumHold: Duration
    /// How far a grant must have got before the caller is told of it.
    public var durability: Durability

    /// Options of one acquire.
    public init(
        owner: String? = nil, renews: Bool = true, maximumHold: Duration = .seconds(3600),
        durability: Durability = .primary
    ) {
        self.owner = owner
        self.renews = renews
        self.maximumHold = maximumHold
        self.durability = durability
    }
}
