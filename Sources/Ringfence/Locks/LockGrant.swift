// SPDX-License-Identifier: Apache-2.0

import RingfenceCore

/// A lock held for somebody outside this process: nothing renews it here, and nothing releases it when this value goes
/// away.
public struct LockGrant: Sendable {
    /// The names that are locked, in the order of their bytes.
    public var names: [String]
    /// The number of this grant: ``Lease/fence``.
    public var fence: Int64
    /// The name of the holder, for people.
    public var owner: String
    /// A unique, public id of this hold; no secret.
    public var id: String
    /// The right to renew and release. A secret: never log it.
    public var token: String
    /// When the holder must stop unless it renews: the ttl from before the lock was asked for or renewed, on this
    /// machine's clock, less 1 %.
    public var deadline: ContinuousClock.Instant

    init(names: [String], _ value: LockValue, deadline: Nanos) {
        self.names = names
        fence = value.fence
        owner = value.owner
        id = value.id
        token = value.text
        self.deadline = Moment.instant(deadline)
    }

    /// Time left until ``deadline``; never negative.
    public var remaining: Duration { max(.zero, ContinuousClock.now.duration(to: deadline)) }
}

extension LockGrant: CustomStringConvertible, CustomReflectable {
    /// Names, owner, id and fence; never the token.
    public var description: String {
        "LockGrant(\(names.joined(separator: ", ")) owner \(owner) id \(id) fence \(fence))"
    }
    /// Nothing beyond the description.
    public var customMirror: Mirror { Mirror(self, children: [:]) }
}
