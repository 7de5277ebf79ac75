// SPDX-License-Identifier: Apache-2.0

import RingfenceCore

/// A lock held for somebody outside this process.
public struct LockGrant: Sendable {
    /// What is locked, in a fixed order.
    public var names: [String]
    /// A number that only grows from grant to grant of a lock.
    public var fence: Int64
    /// Who holds, for people.
    public var owner: String
    /// A unique, public id of this hold; no secret.
    public var id: String
    /// The right to renew and release. A secret: never log it.
    public var token: String
    /// When the holder must stop, on this machine's clock.
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
