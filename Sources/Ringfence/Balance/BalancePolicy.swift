// SPDX-License-Identifier: Apache-2.0

package import RingfenceCore

/// The rule by which a ``Balancer`` picks a member. <doc:Balancing> says which one is for what.
public struct BalancePolicy: Sendable, Hashable, CustomStringConvertible {
    package let rule: PickRule

    package init(_ rule: PickRule) { self.rule = rule }

    /// One after the other, each as often as any other, whatever their weights. Each thread has a round of its own.
    public static let roundRobin = BalancePolicy(.roundRobin)
    /// Each as often as its weight says, as evenly spread as that can be.
    public static let weighted = BalancePolicy(.weighted)
    /// By chance, each as likely as its weight says.
    public static let random = BalancePolicy(.random)
    /// Of one member drawn by weight and any other one, the one with fewer outstanding calls for its weight. The
    /// default.
    public static let leastLoaded = BalancePolicy(.leastLoaded)
    /// The same, and a call counts as what it is expected to cost: an average of latencies that goes up at once and
    /// comes down slowly.
    public static let peakEWMA = BalancePolicy(.peakEWMA)
    /// The key's owner on the group's ring; if that cannot be picked, the next in its preference list. Needs a key.
    public static let ringHash = BalancePolicy(.ringHash)
    /// The same, but members with much more than their fair part of all outstanding calls are passed over. Needs a key.
    public static let boundedLoad = BalancePolicy(.boundedLoad)
    /// The group's primary, when it is ready; no member while it is only elected, hands over, or there is none.
    public static let primaryOnly = BalancePolicy(.primaryOnly)

    /// As ``leastLoaded``, among the members of a zone. Where less than 70 % of the zone (by weight) can be picked,
    /// what it cannot carry goes to all others; where the zone has no members, everything does.
    public static func nearestZone(_ zone: String) -> BalancePolicy { BalancePolicy(.nearestZone(zone)) }

    /// Whether the policy needs a key.
    public var needsKey: Bool { rule.needsKey }

    /// The policy's name, without the zone.
    public var description: String { rule.name }
}
