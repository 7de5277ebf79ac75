// SPDX-License-Identifier: Apache-2.0
//
// What a caller sees of a group: its members, and one look at all of them. Both are plain values; a snapshot never
// changes, so a decision made on one is made on one version of the group.

package import RingfenceCore

/// A member of a group, as it stands in Redis.
public struct Member: Sendable, Hashable, Identifiable {
    package var record: MemberRecord

    package init(_ record: MemberRecord) { self.record = record }

    /// Its name in the group: 1 to 512 bytes of UTF-8.
    public var id: String { record.id }
    /// One life of the member. A process that comes back has another one. Public, no secret.
    public var session: String { record.session }
    /// Where it can be reached; empty if it did not say.
    public var address: String { record.address }
    /// What fails together with it (a rack, a data centre); empty if it did not say.
    public var zone: String { record.zone }
    /// It can be primary.
    public var isCandidate: Bool { record.isCandidate }
    /// Why its check fails; empty: it passes.
    public var health: String { record.health }
    /// Its share, 0 to 1000; 0: it is draining.
    public var weight: Int { record.weight }
    /// Who is preferred where one is to be chosen, -1000 to 1000.
    public var priority: Int { record.priority }
    /// What it can do.
    public var capabilities: [String] { record.capabilities }
    /// Whatever else it says of itself.
    public var metadata: [String: String] { record.metadata }
    /// How long it stays in the group after it was last heard of.
    public var lease: Duration { .milliseconds(record.leaseMilliseconds) }
    /// It is a member, but takes nothing new: its weight is 0.
    public var isDraining: Bool { record.weight == 0 }
}

/// All members of a group at one version. A value: it does not change.
public struct GroupSnapshot: Sendable {
    /// The group.
    public var group: String
    /// The generation of the event log that ``version`` was made in; empty for a group that never had a member.
    public var generation: String
    /// Grows by one with every change set: joins, leaves and deaths. 0 for a group that never had a member.
    public var version: Int64
    /// In the order of their ids' bytes.
    public var members: [Member]
    /// Who is primary; nil for a group that never elected anybody and in which nobody stands.
    public var primary: PrimaryStatus?
    /// What an operator ordered about calls to the group's members; ``BreakerOverride/automatic`` unless somebody did.
    public var breaker: BreakerOverride
    /// The event log had come so far when this snapshot was current. Every later event has a higher number.
    package var sequence: Int64
    /// When Redis last confirmed it, on this machine's clock.
    public var confirmedAt: ContinuousClock.Instant
    /// Redis could not be asked of late, or is just being told anew what it lost: the group may have changed.
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

    /// How long ago Redis last confirmed it.
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
