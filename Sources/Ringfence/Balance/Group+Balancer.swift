// SPDX-License-Identifier: Apache-2.0

extension Group {
    /// A balancer that picks among this group's members by `policy`.
    ///
    /// Nothing is asked of Redis. Asked again for the same policy and options it gives the same one, with what that has
    /// learned, as long as the group is held. The members of the moment it is made are not new to it, and get all of
    /// their share at once. Its metrics are made from the metrics factory in force then.
    ///
    /// - Throws: ``RingfenceError`` with `argument.invalid`, naming the option and its limits.
    public func balancer(
        _ policy: BalancePolicy = .leastLoaded, options: BalancerOptions = BalancerOptions()
    ) throws -> Balancer {
        Balancer(self, try balancerCore(policy, options))
    }
}
