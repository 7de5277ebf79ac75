// SPDX-License-Identifier: Apache-2.0
//
// Two servers with Redis' own replication, and a group whose primary one of them is.
import Hiredis
import Ringfence
import RingfenceCache
import RingfencePlatform
import TestSupport
import Testing

/// Two servers, `node-1` and `node-2`, the second a replica in step; both members of the group `cache`, the first its
/// ready primary.
struct PrimaryCachePair: Sendable {
    let servers: [RedisServer]
    let observers: [Observer]
    let memberships: [Membership]
    /// What the cache is opened with: another process than those that have the memberships.
    let client: RingfenceClient
    let group: Group

    static func with(
        _ arguments: [String] = [], _ body: @Sendable (PrimaryCachePair, _ first: Candidacy) async throws -> Void
    ) async throws {
        try await withRedis { coordinator in
            try await withClients(coordinator.unixURL, 2) { clients in
                try await withObservedRedis(arguments) { one, first in
                    try await withObservedRedis(arguments + ["--replicaof", "127.0.0.1", "\(one.port)"]) {
                        two, second in
                        try await eventually("in step") { try await first.send("WAIT", "1", "10") == .integer(1) }
                        let group = try await clients[1].group("cache")
                        var memberships: [Membership] = []
                        for (number, server) in [one, two].enumerated() {
                            // Long enough for a busy machine, short enough to wait for: a new group elects nobody for
                            // so long.
                            memberships.append(
                                try await group.join(
                                    "node-\(number + 1)", address: server.unixURL, lease: .seconds(4)))
                        }
                        let pair = PrimaryCachePair(
                            servers: [one, two], observers: [first, second], memberships: memberships,
                            client: clients[0], group: try await clients[0].group("cache"))
                        let first = try await pair.lead(0)
                        try await body(pair, first)
                    }
                }
            }
        }
    }

    /// Makes it the ready primary of the group: it is the only one that stands.
    @discardableResult
    func lead(_ index: Int) async throws -> Candidacy {
        let candidacy = try await memberships[index].campaign()
        try await eventually("it is elected", within: .seconds(60)) { candidacy.role.epoch != nil }
        #expect(candidacy.ready(try #require(candidacy.role.epoch)))
        try await see(index)
        return candidacy
    }

    /// Waits until who opened the cache has heard of it.
    func see(_ index: Int, _ phase: PrimaryStatus.Phase = .ready) async throws {
        let id = "node-\(index + 1)"
        try await eventually(group, "\(id) is \(phase)") { $0.primary?.phase == phase && $0.primary?.member == id }
    }

    /// What the primary's end and its replica's promotion are.
    func failOver() async throws {
        try await observers[1].send("REPLICAOF", "NO", "ONE")
        try await memberships[0].leave()
        try await lead(1)
    }

    /// What a server has under a key of the cache, nil for nothing.
    func value(_ key: String, at index: Int) async throws -> [UInt8]? {
        try await observers[index].send("GET", Self.key(key)).bytes
    }

    /// Patient, for a machine full of tests; where servers die a test shortens it.
    func open(_ durability: Durability = .primary, timeout: Duration = .seconds(20)) async throws -> PrimaryCache {
        try await client.primaryCache("cache", options: .init(durability: durability, timeout: timeout))
    }

    static func key(_ key: String) -> String { "ringfence:{default}:cachevalue:5:cache:\(key)" }
}
