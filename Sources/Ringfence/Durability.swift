// SPDX-License-Identifier: Apache-2.0

package import Hiredis
package import RingfenceCore

/// How far a write must have got before the caller is told of it.
public struct Durability: Sendable, Hashable {
    /// In place of a number of replicas.
    public struct Replicas: Sendable, Hashable {
        /// All replicas that are connected to the primary when it has written, at least one. One that is frozen, or
        /// too slow, counts until the primary drops it (`repl-timeout`, 60 s); one that still gets its first copy of
        /// the data does not. A primary without replicas confirms nothing.
        public static let all = Replicas()
        private init() {}
    }

    package struct Confirmation: Sendable, Hashable {
        package var replicas: ReplicaCount
        package var milliseconds: Int64
    }
    package var confirmation: Confirmation?

    /// The primary has it. A failover that loses the newest writes may lose it.
    public static let primary = Durability(confirmation: nil)

    /// At least `replicas` replicas acknowledged it in time; else the call throws. The acknowledgement is asked for in
    /// the same write (`WAIT`), on a connection of its own, and counted.
    ///
    /// A lock that is not confirmed is given back in the background (`lock.notConfirmed`). Only its grant is confirmed,
    /// not its renewals. A value of a `PrimaryCache` that is not confirmed stands at the primary all the same
    /// (`cache.notConfirmed`).
    ///
    /// It makes losing a write in a failover rarer, not impossible: Redis may promote a replica that did not
    /// acknowledge. See <https://redis.io/docs/latest/commands/wait/>. The call that uses it checks both arguments.
    ///
    /// - Parameters:
    ///   - replicas: 1 to 1000.
    ///   - within: 1 ms to 5 s, in whole milliseconds, rounded down; of a lock at most a third of its ttl.
    public static func confirmed(replicas: Int, within: Duration) -> Durability {
        confirmed(.atLeast(replicas), within)
    }

    /// All replicas acknowledged it in time; else the call throws. Everything else is as with a number:
    /// ``confirmed(replicas:within:)-(Int,_)``.
    ///
    /// How many there are the primary says (`INFO replication`) right after the write, on the same connection, and only
    /// then `WAIT` is asked for so many: one round trip more. With a replica lost, a number that was given once may
    /// never be reached again; `.all` goes on with those that are left. And it does not notice that they became fewer:
    /// where that matters, give a number, or let Redis refuse (`min-replicas-to-write`).
    ///
    /// - Parameters:
    ///   - replicas: `.all`.
    ///   - within: 1 ms to 5 s, in whole milliseconds, rounded down; of a lock at most a third of its ttl. It begins
    ///     when the replicas are counted.
    public static func confirmed(replicas: Replicas, within: Duration) -> Durability {
        confirmed(.all, within)
    }

    private static func confirmed(_ replicas: ReplicaCount, _ within: Duration) -> Durability {
        Durability(
            confirmation: Confirmation(
                replicas: replicas, milliseconds: max(0, Nanos(saturating: within)) / .millisecond))
    }

    /// `limit`: the longest in words.
    package func check(longest: Int64, _ limit: String) throws(InvalidArgument) {
        guard let confirmation else { return }
        if case .atLeast(let number) = confirmation.replicas, !(1...1000).contains(number) {
            throw InvalidArgument("durability.replicas", "must be 1 to 1000")
        }
        guard (1...longest).contains(confirmation.milliseconds) else {
            throw InvalidArgument("durability.within", "must be 1 ms to \(limit)")
        }
    }
}
