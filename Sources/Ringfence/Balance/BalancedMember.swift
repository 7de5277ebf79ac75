// SPDX-License-Identifier: Apache-2.0
//
// What a pick gives: a member as it was when it was picked. It is one reference to an object that only one thread's
// picks hand out, with strings of its own. Were it the group's member itself, all threads that pick would count
// references to the same strings, each taking the cache line from the others: that costs more than everything else
// about a pick together.

import RingfenceCore

/// A member that a ``Balancer`` picked.
public struct BalancedMember: Sendable, Identifiable {
    let handle: MemberHandle

    init(_ handle: MemberHandle) { self.handle = handle }

    /// Its name in the group.
    public var id: String { handle.record.id }
    /// The session: one life of the member. A process that comes back has another one.
    public var session: String { handle.record.session }
    /// The address at which it can be reached; empty: not given.
    public var address: String { handle.record.address }
    /// The zone: its failure domain; empty: not given.
    public var zone: String { handle.record.zone }
    /// Its share, 0 to 1000.
    public var weight: Int { handle.record.weight }
    /// The capabilities it announced.
    public var capabilities: [String] { handle.record.capabilities }
    /// Any other data it announced.
    public var metadata: [String: String] { handle.record.metadata }
}

/// A member for one shard: its reference count and its strings are touched only by picks in that shard, and share no
/// cache line with others.
final class MemberHandle: Sendable {
    private typealias Line = (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64)
    private let before: Line = (0, 0, 0, 0, 0, 0, 0, 0)
    let number: Int
    let load: MemberLoad
    let record: MemberRecord
    private let after: Line = (0, 0, 0, 0, 0, 0, 0, 0)

    init(_ seat: PickPlan.Seat) {
        number = seat.number
        load = seat.load
        let theirs = seat.record
        record = MemberRecord(
            id: Self.copy(theirs.id), session: Self.copy(theirs.session), leaseMilliseconds: theirs.leaseMilliseconds,
            address: Self.copy(theirs.address), zone: Self.copy(theirs.zone), weight: theirs.weight,
            priority: theirs.priority, capabilities: theirs.capabilities.map(Self.copy),
            metadata: Dictionary(
                uniqueKeysWithValues: theirs.metadata.map { (Self.copy($0.key), Self.copy($0.value)) }),
            isCandidate: theirs.isCandidate, health: Self.copy(theirs.health))
    }

    /// In memory of its own.
    private static func copy(_ text: String) -> String { String(decoding: Array(text.utf8), as: UTF8.self) }
}
