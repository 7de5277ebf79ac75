// SPDX-License-Identifier: Apache-2.0

package import RingfenceCore

/// How far a write must have got before the caller is told of it.
public struct Durability: Sendable, Hashable {
    package struct Confirmation: Sendable, Hashable {
        package var replicas: Int
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
        Durability(
            confirmation: Confirmation(
                replicas: replicas, milliseconds: max(0, Nanos(saturating: within)) / .millisecond))
    }

    /// `limit`: the longest in words.
    package func check(longest: Int64, _ limit: String) throws(InvalidArgument) {
        guard let confirmation else { return }
        guard (1...1000).contains(confirmation.replicas) else {
            throw InvalidArgument("durability.replicas", "must be 1 to 1000")
        }
        guard (1...longest).contains(confirmation.milliseconds) else {
            throw InvalidArgument("durability.within", "must be 1 ms to \(limit)")
        }
    }
}
