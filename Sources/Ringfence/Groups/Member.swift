// SPDX-License-Identifier: Apache-2.0
//
// What a caller sees of a group: its members, and one look at all of them. Both are plain values; a snapshot never
// changes, so a decision made on one is made on one version of the group.

package import RingfenceCore

/// A member of a group, as it stands in Redis.
public struct Member: Sendable, Hashable, Identifiable {
    package var record: MemberRecord

    package init(_ record: MemberRecord) { self.record = record }

    /// The member's id in the group: 1 to 512 bytes of UTF-8.
    public var id: String { record.id }
    /// The session: one life of the member. A process that comes back has another one. It is not a secret.
    public var session: String { record.session }
    /// The address at which it can be reached; empty: not given.
    public var address: String { record.address }
    /// The zone: its failure domain (a rack, a data centre); empty: not given.
    public var zone: String { record.zone }
    /// Whether it can be elected primary.
    public var isCandidate: Bool { record.isCandidate }
    /// The reason why its check fails; empty: the check passes.
    public var health: String { record.health }
    /// The weight: its share. Range: 0 to 1000; 0: it is draining.
    public var weight: Int { record.weight }
    /// The priority where one member is chosen. Range: -1000 to 1000; higher is preferred.
    public var priority: Int { record.priority }
    /// The capabilities it announced.
    public var capabilities: [String] { record.capabilities }
    /// Any other data it announced.
    public var metadata: [String: String] { record.metadata }
    /// The lease: how long it stays in the group after it was last heard of.
    public var lease: Duration { .milliseconds(record.leaseMilliseconds) }
    /// Whether its weight is 0: it is a member, but takes nothing new.
    public var isDraining: Bool { record.weight == 0 }
}

/// All members of a group at one version. A value: it does not change.
public struct GroupSnapshot: Sendable {
    /// The group's name.
    public var group: String
    /// The generation of the event log that ``version`` was made in; empty for a group that never had a member.
    public var generation: String
    /// The version, which grows by one with every change set: joins, leaves and deaths. 0 for a group that never had a
    /// member.
    public var version: Int64
    /// The members, in the order of their ids' bytes.
    public var members: [Member]
    /// The primary; nil for a group that never elected one and has no candidates.
    public var primary: PrimaryStatus?
    /// An operator's override of the circuit breaker; default: ``BreakerOverride/automatic``.
    public var breaker: BreakerOverride
    /// The position of the event log when this snapshot was current. Every later event has a higher number.
    package var sequence: Int64
    /// The moment at which Redis last confirmed it, on this machine's clock.
    public var confirmedAt: ContinuousClock.Instant
    /// Whether the group may have changed: Redis could not be reached recently, or members that it lost are still
    /// coming back.
    public var isStale: Bool

    package init(
        group: String, generation: String, version: Int64, members: [Member], role: GroupRole, sequence: Int64,
        confirmedAt: ContinuousClock.Instant, isStale: Bool, breaker: GroupBreaker = .automatic,
        hasCandidates: Bool
    ) {
        self.group = group
        self.generation = generation
        self.version = version
        self.members = members
        primary = role.epoch > 0 || hasCandidates ? PrimaryStatus(role) : nil
        self.sequence = sequence
        self.confirmedAt = confirmedAt
        self.isStale = isStale
        self.breaker = BreakerOverride(breaker)
    }

    /// The time since Redis last confirmed it.
    public var age: Duration { confirmedAt.duration(to: .now) }

    /// The member with this id; nil if there is none.
    public func member(_ id: String) -> Member? {
        var low = 0
        var high = members.count
        while low < high {
            let middle = (low + high) / 2
            if members[middle].id.isBefore(id) { low = middle + 1 } else { high = middle }
        }
        guard low < members.count, members[low].id.hasSameBytes(as: id) else { return nil }
        return members[low]
    }
}
