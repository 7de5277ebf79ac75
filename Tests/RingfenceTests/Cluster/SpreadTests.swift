// SPDX-License-Identifier: Apache-2.0

import Logging
import TestSupport
import Testing

@testable import Ringfence

@Suite struct SpreadTests {
    @Test func `a key has its namespace for ever, and all namespaces have their part`() throws {
        // What another language computes too: XXH3-64 of the bytes, modulo 12.
        let known = ["account/4711": 10, "account/4712": 7, "": 10, "payout/nightly": 3]
        for (key, index) in known { #expect(RingfenceSpread.index(of: key, count: 12) == index, "\(key)") }
        var counts = [Int](repeating: 0, count: 12)
        for number in 0..<12_000 { counts[RingfenceSpread.index(of: "account/\(number)", count: 12)] += 1 }
        #expect(counts.allSatisfy { (850...1150).contains($0) }, "\(counts)")
    }

    @Test(arguments: [0, 65])
    func `a number of namespaces beyond the limits is refused`(count: Int) async {
        let error = await failure { try RingfenceSpread(.init(), over: count, logger: testLogger) }
        #expect(error?.code == .argumentInvalid && error?.message.contains("count") == true, "\(count)")
    }

    @Test func `a namespace that becomes too long by its number is refused`() async {
        let long = String(repeating: "n", count: 63)
        let error = await failure { try RingfenceSpread(.init(namespace: long), over: 2, logger: testLogger) }
        #expect(error?.code == .argumentInvalid && error?.message.contains("namespace") == true)
    }

    @Test func `each namespace is served by the owner of its slot, and all owners have some`() async throws {
        try await withRedisCluster(replicas: false) { cluster in
            let configuration = RingfenceConfiguration(
                url: cluster.url(), namespace: "payments", commandTimeout: .seconds(20), connectTimeout: .seconds(20))
            let spread = try RingfenceSpread(configuration, over: 12, logger: testLogger)
            try await withThrowingTaskGroup { group in
                for number in 0..<200 {
                    group.addTask {
                        let name = "account/\(number)"
                        try await spread.client(for: name).withLock(name, wait: .seconds(60)) { _ in }
                    }
                }
                for try await _ in group {}
            }
            var total = 0
            for node in cluster.nodes {
                let fences = try await node.cli("KEYS", "ringfence:{payments-*}:fence:account/*").split(separator: "\n")
                #expect(fences.count > 20, "the node on port \(node.port) has \(fences.count) of the names")
                total += fences.count
            }
            #expect(total == 200)
            await spread.shutdown()
            let error = await failure { try await spread.clients[3].ping() }
            #expect(error?.code == .clientShutDown)
        }
    }

    @Test func `it runs and ends as a service does`() async throws {
        try await withRedis { server in
            let spread = try RingfenceSpread(.init(url: server.unixURL), over: 3, logger: testLogger)
            let service = Task { try await spread.run() }
            try await spread.client(for: "a").withLock("a") { _ in }
            service.cancel()
            try await service.value
            let error = await failure { try await spread.client(for: "a").ping() }
            #expect(error?.code == .clientShutDown)
        }
    }
}
