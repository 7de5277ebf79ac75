// SPDX-License-Identifier: Apache-2.0

extension GroupMachine {
    /// A group at one version.
    package struct View: Sendable, Equatable {
        package var generation: String
        package var version: Int64
        package var members: [MemberRecord]
        package var policy: RingPolicy?
        package var isRecovering: Bool
        package var role = GroupRole()
        /// How long a primary that cannot reach Redis may go on by the promises of the others; nil: not at all.
        package var failsafeLimit: Nanos?
        /// What an operator ordered about calls to members.
        package var breaker = GroupBreaker.automatic
        /// There are records that cannot be read: who they are of, nobody here knows.
        package var hasUnreadable = false

        package init(
            generation: String, version: Int64, members: [MemberRecord], policy: RingPolicy?, isRecovering: Bool,
            role: GroupRole = GroupRole(), failsafeLimit: Nanos? = nil
        ) {
            self.generation = generation
            self.version = version
            self.members = members
            self.policy = policy
            self.isRecovering = isRecovering
            self.role = role
            self.failsafeLimit = failsafeLimit
        }

        package func member(_ id: String) -> MemberRecord? {
            let index = GroupMachine.place(of: id, in: members[...])
            guard index < members.count, members[index].id.hasSameBytes(as: id) else { return nil }
            return members[index]
        }
    }
}
