// SPDX-License-Identifier: Apache-2.0
//
// A group's balancers: one for each policy with its options, told whenever what readers see changes.

import Hiredis
import Logging
import NIOCore
import RingfenceCore
import Synchronization

extension Group {
    /// Returns a balancer that picks among this group's members by `policy`.
    ///
    /// Makes no call to Redis. For the same policy and options it returns the same balancer, with what that has
    /// learned, as long as the group is referenced. The members at the moment of its creation are not new to it, and
    /// get all of their share at once. Its metrics are made from the metrics factory in force then.
    ///
    /// - Throws: ``RingfenceError`` with `argument.invalid`, naming the option and its limits.
    public func balancer(
        _ policy: BalancePolicy = .leastLoaded, options: BalancerOptions = BalancerOptions()
    ) throws -> Balancer {
        Balancer(self, try balancerCore(policy, options))
    }
}

extension Group {
    struct BalancerKey: Hashable {
        var policy: BalancePolicy
        var options: BalancerOptions
    }

    /// The one balancer of this policy and these options.
    func balancerCore(_ policy: BalancePolicy, _ options: BalancerOptions) throws -> BalancerCore {
        let settings = try options.checked()
        let key = BalancerKey(policy: policy, options: options)
        return balancers.withLock { balancers in
            if let core = balancers[key] { return core }
            let outside = BalancerCore.Outside(eventLoop: hub.eventLoop, logger: hub.logger) {
                [weak hub, name] type, member, reason, detail in
                hub?.note(type, group: name, member: member, reason: reason, detail: detail)
            }
            let core = BalancerCore(policy.rule, settings, group: name, outside)
            // A publisher meanwhile stores first and then tells all balancers, this one too.
            tell(core, shown.load())
            balancers[key] = core
            return core
        }
    }

    func tell(_ balancer: BalancerCore, _ shown: ShownGroup) {
        guard balancer.needsKey else { return balancer.saw(shown.view, ring: nil) }
        wantsRing.store(true, ordering: .relaxed)
        let ring = shown.ring.made.load()?.ring ?? shown.makeRing(after: nil, logger: hub.logger, on: hub.eventLoop)
        balancer.saw(shown.view, ring: ring.core)
    }
}
