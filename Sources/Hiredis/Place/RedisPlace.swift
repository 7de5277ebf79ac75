// SPDX-License-Identifier: Apache-2.0

/// What was configured: one server, or those who know which server it is.
///
/// The URL decides it, and only the URL. What a server says of itself may refuse a place, and never changes its kind:
/// so all clients with the same URL look in the same way.
package enum RedisPlace: Sendable, Hashable {
    /// One server, or a name behind which there is one: DNS, a virtual address, a proxy.
    case server(RedisConfiguration.Address)
    /// Sentinels, of which one is enough to begin; `name` is what they call the primary.
    case sentinels([RedisConfiguration.Address], name: String)
    /// Nodes of a Cluster to begin with, or its configuration endpoint.
    case cluster([RedisConfiguration.Address])
    /// A fixed list of servers without Sentinels: whichever is the primary.
    case replicated([RedisConfiguration.Address])

    /// What the URL names, in its order; never empty.
    package var hosts: [RedisConfiguration.Address] {
        switch self {
        case .server(let address): [address]
        case .sentinels(let hosts, _), .cluster(let hosts), .replicated(let hosts): hosts
        }
    }

    package var isCluster: Bool { if case .cluster = self { true } else { false } }

    /// How often a place that was found is looked at again, where no setting says it.
    package var watchInterval: Duration {
        switch self {
        case .server: .seconds(5)
        // Three commands each time, and with what keeps the connections alive fewer than three a second. A failover is
        // announced; this is for what was not heard.
        case .sentinels: .milliseconds(1_200)
        case .replicated: .seconds(1)
        case .cluster: .seconds(15)
        }
    }
}
