// SPDX-License-Identifier: Apache-2.0
//
// A pick and its policy, in the words of the HTTP body and of the command line, which are the same.
package import Ringfence
package import RingfenceCore

extension BalancePolicy {
    /// All that can be asked for.
    package static let names = [
        "leastLoaded", "peakEWMA", "roundRobin", "weighted", "random", "ringHash", "boundedLoad", "primaryOnly",
        "nearestZone",
    ]

    /// The zone that it prefers.
    package var zone: String? { if case .nearestZone(let zone) = rule { zone } else { nil } }

    /// Reads the words of a request; what is left out is nil.
    /// - Throws: `InvalidArgument`, naming the field.
    package init(name: String?, zone: String?, hasKey: Bool) throws(InvalidArgument) {
        let name = name ?? Self.leastLoaded.description
        if name != "nearestZone", zone != nil {
            throw InvalidArgument("zone", "belongs to the policy nearestZone, not to \(name)")
        }
        switch name {
        case "leastLoaded": self = .leastLoaded
        case "peakEWMA": self = .peakEWMA
        case "roundRobin": self = .roundRobin
        case "weighted": self = .weighted
        case "random": self = .random
        case "ringHash": self = .ringHash
        case "boundedLoad": self = .boundedLoad
        case "primaryOnly": self = .primaryOnly
        case "nearestZone":
            guard let zone, !zone.isEmpty else {
                throw InvalidArgument("zone", "is missing: the policy nearestZone prefers the members of a zone")
            }
            try Limits.check(zone: zone)
            self = .nearestZone(zone)
        default: throw InvalidArgument("policy", "must be one of \(Self.names.joined(separator: ", "))")
        }
        guard hasKey || !needsKey else {
            throw InvalidArgument("key", "is missing: the policy \(name) finds the member by it")
        }
    }
}

/// A member that was picked, and of which version of the group.
package struct PickView: Sendable {
    package var group: String
    package var version: Int64
    package var isStale: Bool
    package var age: Duration
    package var policy: BalancePolicy
    package var member: BalancedMember
    /// Under which id the call is kept; nil if it was not to be, or could not.
    package var call: String?

    package init(_ snapshot: GroupSnapshot, _ policy: BalancePolicy, _ member: BalancedMember, call: String? = nil) {
        group = snapshot.group
        version = snapshot.version
        isStale = snapshot.isStale
        age = snapshot.age
        self.policy = policy
        self.member = member
        self.call = call
    }
}

extension JSONWriter {
    /// The members picked.
    package static func describing(_ view: PickView) -> JSONWriter {
        var json = JSONWriter(capacity: 320)
        json.object { json in
            json.field("group", view.group)
            json.field("version", view.version)
            json.field("stale", view.isStale)
            json.field("ageMs", view.age.wholeMilliseconds)
            json.field("policy", view.policy.description)
            json.field("member", view.member.id)
            json.field("address", view.member.address)
            json.field("zone", view.member.zone)
            json.field("weight", view.member.weight)
            if let call = view.call { json.field("call", call) }
        }
        return json
    }
}
