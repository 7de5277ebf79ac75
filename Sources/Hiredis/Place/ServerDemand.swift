// SPDX-License-Identifier: Apache-2.0
//
// Whether a server may be used for locks.
//
// A Sentinel, a replica and a node of a Cluster answer PING and much else as a primary does, so a wrong address works
// until the first write, and some calls then tell what is not so: a replica says of a new lock that nobody holds it.
// The handshake knows what a server is, so it is judged there, before any command of a caller, and the error says which
// URL to give. What a replica names as its primary is told and never followed: it is that server's own belief, and may
// be as old as the failover that made it one.

enum ServerDemand {
    /// Why this server is not used under `place`; nil if it may be, or does not say what it is.
    static func refusal(
        of server: ServerState?, at address: RedisConfiguration.Address, _ configuration: RedisConfiguration
    ) -> RedisError? {
        guard let server, configuration.requiresPrimary else { return nil }
        let scheme = configuration.tls == nil ? "redis" : "rediss"
        if server.isSentinel {
            let name = server.sentinelNames.first ?? "NAME"
            let hint = server.sentinelNames.isEmpty ? ", where NAME is what the Sentinels call the primary" : ""
            return wrong(
                .sentinel,
                "\(address) is a Sentinel and holds no data: use \(scheme)+sentinel://\(address)/\(name)\(hint)")
        }
        if server.isCluster, !configuration.place.isCluster {
            return wrong(.clusterNode, "\(address) is a node of a Cluster: use \(scheme)+cluster://\(address)")
        }
        if server.mode != nil, !server.isCluster, configuration.place.isCluster {
            return wrong(.notCluster, "\(address) is not a node of a Cluster: use \(scheme)://\(address)")
        }
        guard server.isReplica else { return nil }
        let of = server.primaryAddress.map { " of \($0)" } ?? ""
        let advice: String =
            if case .server = configuration.place {
                ": nothing can be locked here; give the address of its primary, or one that always leads to it"
            } else { ", not promoted yet" }
        return RedisError(.connectFailed, effect: .none, "\(address) is a replica\(of)\(advice)", fault: .replica)
    }

    private static func wrong(_ fault: ConnectionFault, _ message: String) -> RedisError {
        RedisError(.wrongServer, effect: .none, message, fault: fault)
    }
}
