// SPDX-License-Identifier: Apache-2.0
//
// What a place costs while nothing happens: pairs, the client's processor time, questions. No server here has a
// replica, for its processor time would be taken from the pace that is measured.

import Hiredis
import Ringfence
import RingfenceConsole
import TestServers

extension Topologies {
    func paces() async throws {
        progress.show("starting a server, three Sentinels and a Cluster")
        try await withRedis { single in
            var options = RedisSentinels.Options()
            options.replicas = 0
            try await withSentinels(options) { sentinels in
                try await withRedisCluster(replicas: false) { cluster in
                    try await pairs(single.url, sentinels: sentinels.url(), cluster: cluster.url())
                    try await namespaces(cluster)
                    try await questions(sentinels, cluster)
                }
            }
        }
    }

    // MARK: Pairs

    private func pairs(_ single: String, sentinels: String, cluster: String) async throws {
        let urls = [single, sentinels, cluster]
        var paces = urls.map { _ in [Double]() }
        var costs = paces
        var latencies = paces
        let count = rounds * 3
        for round in 0..<count {
            progress.show("pairs, round \(round + 1) of \(count)")
            for turn in urls.indices {
                let index = (round + turn) % urls.count
                let outcome = try await withClients([Self.configuration(urls[index])]) { clients in
                    try await LockPairs.pairs(clients[0], tasks: tasks, seconds: seconds / 2)
                }
                paces[index].append(outcome.perSecond)
                costs[index].append(outcome.cpuSeconds * 1e6 / Double(outcome.count * 2))
                latencies[index] += outcome.sampled
            }
        }
        for (index, name) in [(1, "sentinel"), (2, "cluster")] {
            tell(
                Figure(
                    name: "topology.\(name).pairs.\(tasks)", unit: "pairs/s",
                    rounds: Rounds(references: paces[0], values: paces[index]), latencies: latencies[index],
                    bar: .ratioAtLeast(0.88)))
            tell(
                Figure(
                    name: "topology.\(name).cpu.\(tasks)", unit: "us/command",
                    rounds: Rounds(references: costs[0], values: costs[index]), bar: .ratioAtMost(1.02)))
        }
    }

    // MARK: Several namespaces

    /// Pairs with one, two and three namespaces, each at another primary.
    private func namespaces(_ cluster: RedisCluster) async throws {
        let names = try await namespaceOfEach(cluster)
        var paces = names.map { _ in [Double]() }
        var capacities = paces
        for round in 0..<rounds {
            progress.show("namespaces, round \(round + 1) of \(rounds)")
            for turn in names.indices {
                let index = (round + turn) % names.count
                let configurations = names[...index].map { Self.configuration(cluster.url(), namespace: $0) }
                let before = try await processorSeconds(cluster)
                let outcomes = try await withClients(configurations) { try await pairs($0) }
                let after = try await processorSeconds(cluster)
                let count = outcomes.reduce(0) { $0 + $1.count }
                paces[index].append(outcomes.reduce(0) { $0 + $1.perSecond })
                capacities[index].append(Double(count) / (zip(after, before).map { $0 - $1 }.max() ?? 1))
            }
        }
        for index in 1..<names.count {
            let name = "topology.namespaces.\(index + 1)"
            tell(
                Figure(
                    name: name, unit: "pairs/s", rounds: Rounds(references: paces[0], values: paces[index]), bar: nil))
            // What it would be with a machine for each server and enough clients.
            tell(
                Figure(
                    name: "\(name).capacity", unit: "pairs/cpu-s",
                    rounds: Rounds(references: capacities[0], values: capacities[index]), bar: nil))
        }
    }

    private func pairs(_ clients: [RingfenceClient]) async throws -> [Load.Outcome] {
        try await withThrowingTaskGroup(of: Load.Outcome.self) { group in
            for client in clients {
                group.addTask { try await LockPairs.pairs(client, tasks: tasks, seconds: seconds) }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
    }

    private func namespaceOfEach(_ cluster: RedisCluster) async throws -> [String] {
        var found: [Int: String] = [:]
        for number in 0..<1000 where found.count < cluster.nodes.count {
            let name = "bench-\(number)"
            let owner = try await cluster.owner(ofNamespace: name)
            if found[owner.port] == nil { found[owner.port] = name }
        }
        guard found.count == cluster.nodes.count else { throw CommandFailure("a node has no slot") }
        return Array(found.values)
    }

    /// Of each node so far.
    private func processorSeconds(_ cluster: RedisCluster) async throws -> [Double] {
        var seconds: [Double] = []
        for node in cluster.nodes {
            let text = try await node.cli("INFO", "cpu")
            seconds.append(["used_cpu_user", "used_cpu_sys"].reduce(0) { $0 + (InfoText.number($1, in: text) ?? 0) })
        }
        return seconds
    }

    // MARK: Questions

    /// What clients ask that have a place: of each Sentinel, and of each node.
    private func questions(_ sentinels: RedisSentinels, _ cluster: RedisCluster) async throws {
        let span = Duration.seconds(20)
        progress.show("the questions of a settled client, for \(Int(span.seconds * 2)) seconds")
        // What Sentinels say among themselves, and what this look costs.
        let others = try await commands(of: sentinels, within: span)
        let configurations = [sentinels.url(), cluster.url()].map { Self.configuration($0) }
        let (asked, looks) = try await withClients(configurations) { _ in
            // The first questions are more: who the other Sentinels are, and where the slot is.
            try await Task.sleep(for: .seconds(2))
            let before = try await questions(at: cluster)
            let asked = try await commands(of: sentinels, within: span)
            return (asked, zip(try await questions(at: cluster), before).map { Double($0 - $1) / span.seconds })
        }
        tell(
            Figure(
                name: "topology.asks.sentinel", unit: "commands/s",
                value: zip(asked, others).reduce(0) { $0 + $1.0 - $1.1 } / Double(asked.count),
                trials: asked.count, bar: .valueAtMost(3)))
        tell(
            Figure(
                name: "topology.asks.cluster", unit: "commands/s", value: looks.max() ?? 0, trials: looks.count,
                bar: .valueAtMost(0.1)))
    }

    /// What each Sentinel gets a second.
    private func commands(of sentinels: RedisSentinels, within span: Duration) async throws -> [Double] {
        func counts() async throws -> [(count: Double, at: ContinuousClock.Instant)] {
            var counts: [(Double, ContinuousClock.Instant)] = []
            for sentinel in sentinels.sentinels {
                let text = try await sentinel.cli("INFO", "stats")
                counts.append((InfoText.number("total_commands_processed", in: text) ?? 0, .now))
            }
            return counts
        }
        let before = try await counts()
        try await Task.sleep(for: span)
        return zip(try await counts(), before).map { ($0.count - $1.count) / ($0.at - $1.at).seconds }
    }

    /// How often each node was asked where slots are.
    private func questions(at cluster: RedisCluster) async throws -> [Int] {
        var counts: [Int] = []
        for node in cluster.nodes {
            counts.append(CommandCounter.count(try await node.cli("INFO", "commandstats"), ["cluster|slots"]))
        }
        return counts
    }
}
