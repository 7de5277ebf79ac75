// SPDX-License-Identifier: Apache-2.0
//
// docker/examples/cluster, as far as it runs without Docker: its script, on a real Cluster.

import Ringfence
import TestSupport
import Testing

@Suite struct ClusterRecipeTests {
    private static let script = repositoryRoot + "docker/examples/cluster/reshard.sh"

    @Test func `the script moves a namespace while its locks change hands`() async throws {
        try await withRedisCluster(replicas: false) { cluster in
            try await withClusterClients(cluster.url(), 3) { clients in
                let load = ClusterLoad(clients)
                try await load.run {
                    try await load.goesOn()
                    var owners: [Int] = [try await cluster.owner(ofNamespace: "default").port]
                    for _ in 0..<3 {
                        let said = try await output(
                            of: "sh", [Self.script, "127.0.0.1:\(cluster.nodes[0].port)", "default"])
                        #expect(said.contains("end: "), "\(said)")
                        owners.append(try await cluster.owner(ofNamespace: "default").port)
                        try await load.goesOn()
                    }
                    #expect(Set(owners).count == 3, "from node to node: \(owners)")
                    #expect(owners.first == owners.last)
                }
                try await load.judge(try await cluster.owner(ofNamespace: "default"))
            }
        }
    }

    @Test func `a move that stopped half way is finished by running the script again`() async throws {
        try await withRedisCluster(replicas: false) { cluster in
            let nodes = cluster.nodes
            try await withClusterClients(cluster.url(), 1) { clients in
                let lease = try await clients[0].acquire("a", ttl: .seconds(600))
                let move = try await cluster.migration(ofNamespace: "default")
                try await move.begin()
                try await move.moveKeys(1)
                _ = try await output(
                    of: "sh",
                    [Self.script, "127.0.0.1:\(nodes[0].port)", "default", cluster.id(of: move.target)])
                #expect(try await cluster.owner(ofNamespace: "default") === move.target)
                try await lease.renew()
                try await lease.release()
            }
        }
    }
}
