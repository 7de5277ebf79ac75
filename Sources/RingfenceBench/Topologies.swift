// SPDX-License-Identifier: Apache-2.0
//
// `ringfence-bench topology`: what it costs that Redis is found by Sentinels or in a Cluster, and how soon a client is
// granted locks again when its primary is another one.
//
// All servers are real ones, started here: one by itself, Sentinels with a primary and its replica, Clusters with and
// without replicas. They share the machine with the client, so paces are compared turn about and never by themselves.
//
// The time of a move begins with what a client can know at the earliest: the first word of any Sentinel, the first
// write that the new owner takes, the end of a slot's migration. A plain connection beside the client notes it. It ends
// with a lock granted by the new server, to a caller of the library who wants one all the time.

import ArgumentParser
import Hiredis
import Logging
import Ringfence
import RingfenceConsole
import RingfenceOperations
import TestServers

/// `ringfence-bench topology`.
struct TopologyBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "topology",
        abstract: "What Sentinels and Clusters cost, and how soon locks are granted at another primary.",
        discussion: """
            topology.sentinel.pairs.64 .cpu.64   lock.pairs.64 and the client's CPU time for a command with Sentinels, \
            beside one server
            topology.cluster.pairs.64 .cpu.64    the same at the owner of a Cluster's slot
            topology.namespaces.2 .3             pairs with namespaces at so many primaries, beside one
            topology.namespaces.2.capacity .3.capacity   the same for a second of the busiest primary's CPU time
            topology.asks.sentinel .cluster      what a settled client asks of a Sentinel, of a node
            topology.sentinel.ordered            SENTINEL FAILOVER: from the first word of any Sentinel to a grant
            topology.sentinel.killed             the primary is killed (SIGKILL): the same
            topology.sentinel.without            from the kill to a lock granted, beside to the first word
            topology.sentinel.handoff.8          eight waiters after a failover while they wait, beside one without
            topology.sentinel.disorder.8         hand-offs that were not in order
            topology.cluster.migrated            from SETSLOT NODE at the slot's new owner to a lock granted
            topology.cluster.killed              the owner is killed: from its replica's first accepted write to a \
            lock granted
            topology.cluster.without             from the kill to a lock granted, beside to the first write
            topology.cluster.handoff.8 .disorder.8   eight waiters after a migration
            topology.name.dead                   the server died, and its name leads to another: from then to a lock \
            granted
            topology.name.alive                  the same while the old server lives and is a primary

            Times of moves are 99th percentiles in ms. Starts its own servers by TCP (redis-server, redis-cli; Redis 7 \
            or later); --redis means nothing to it. Names are measured in a mount namespace of their own (unshare). \
            --rounds 5 kills five primaries and five owners, orders 20 failovers, and takes about four minutes.

            EXAMPLE
              ringfence-bench topology --json
            """)
    @OptionGroup var options: BenchOptions

    @Option(help: "Only a part: paces, sentinel, cluster or names.")
    var only: Topologies.Part?

    func run() async throws {
        let topologies = Topologies(
            seconds: options.seconds, rounds: options.rounds, tasks: options.tasks,
            logger: .command("ringfence.bench", level: .critical), progress: Progress(), report: try options.begin())
        let parts = only.map { [$0] } ?? Topologies.Part.allCases
        let isOver: Void? = try await untilInterrupted(endsUnread: true) { try await topologies.run(parts) }
        if isOver == nil { throw CancellationError() }
    }
}

struct Topologies: Sendable {
    enum Part: String, Sendable, CaseIterable, ExpressibleByArgument { case paces, sentinel, cluster, names }

    static let namespace = "bench"

    let seconds: Double
    let rounds: Int
    let tasks: Int
    let logger: Logger
    let progress: Progress
    let report: @Sendable (Figure) -> Void

    func run(_ parts: [Part]) async throws {
        for part in parts {
            switch part {
            case .paces: try await paces()
            case .sentinel: try await sentinelMoves()
            case .cluster: try await clusterMoves()
            case .names: try await nameMoves()
            }
        }
    }

    func tell(_ figure: Figure) {
        progress.end()
        report(figure)
    }

    // MARK: Clients

    static func configuration(_ url: String, namespace: String = Self.namespace) -> RingfenceConfiguration {
        RingfenceConfiguration(url: url, namespace: namespace, owner: "bench")
    }

    /// Runs `body` with clients that are connected and have their scripts loaded, and shuts them down.
    func withClients<Result>(
        _ configurations: [RingfenceConfiguration], _ body: ([RingfenceClient]) async throws -> Result
    ) async throws -> Result {
        let clients = try configurations.map { try RingfenceClient($0, logger: logger) }
        do {
            for client in clients { try await client.acquire("bench-warm-up", wait: .seconds(60)).release() }
            let result = try await body(clients)
            for client in clients { await client.shutdown() }
            return result
        } catch {
            for client in clients { await client.shutdown() }
            throw error
        }
    }

    /// Runs `body` with one client, and with the grants of a caller that wants a lock all the time.
    func withGrants<Result>(_ url: String, _ body: (Grants) async throws -> Result) async throws -> Result {
        try await withClients([Self.configuration(url)]) { clients in
            let grants = Grants(clients[0])
            defer { grants.stop() }
            return try await body(grants)
        }
    }
}

/// The locks that a client's caller was granted: the first of each place.
final class Grants: Sendable {
    private struct Grant {
        var place: Locator.Status
        var at: ContinuousClock.Instant
    }
    private struct State {
        var grants: [Grant] = []
        var failure: (any Error)?
    }

    let client: RingfenceClient
    private let state: Shared<State>
    private let caller: Task<Void, Never>

    /// So many names, so that none is asked for again while a grant of it may stand that was let go at the old server.
    private static let names = 4096

    init(_ client: RingfenceClient) {
        let state = Shared(State())
        (self.client, self.state) = (client, state)
        caller = Task {
            var number = 0
            while !Task.isCancelled {
                do {
                    number += 1
                    let lease = try await client.acquire(
                        "bench-\(number % Self.names)", ttl: .seconds(2), wait: .seconds(120))
                    let grant = Grant(place: client.locator.status, at: .now)
                    state.withLock { state in
                        if state.grants.last?.place.generation != grant.place.generation { state.grants.append(grant) }
                    }
                    // A release that is lost in a move is no concern of this caller.
                    try? await lease.release()
                    try await Task.sleep(for: .milliseconds(1))
                } catch {
                    return state.withLock { $0.failure = error }
                }
            }
        }
    }

    func stop() { caller.cancel() }

    func forget() { state.withLock { $0.grants = [] } }

    /// When the first lock was granted at such a place, after what was forgotten.
    func first(where isMeant: (Locator.Status) -> Bool) async throws -> ContinuousClock.Instant {
        var found: ContinuousClock.Instant?
        try await eventually("a lock is granted at the new server", within: .seconds(120)) {
            let state = state.value
            if let failure = state.failure { throw failure }
            found = state.grants.first { isMeant($0.place) }?.at
            return found != nil
        }
        return found ?? .now
    }

    /// When the first lock was granted by this server.
    func first(at server: RedisServer) async throws -> ContinuousClock.Instant {
        try await first { $0.isAt(server) }
    }
}

extension Locator.Status {
    func isAt(_ server: RedisServer) -> Bool {
        if case .tcp(_, server.port) = address { true } else { false }
    }
}
