// SPDX-License-Identifier: Apache-2.0
//
// What is on its way to another: a role that is handed over while answers are late, tasks are cancelled, or Redis is
// away.

import Hiredis
import RingfenceCore
import TestSupport
import Testing

@testable import Ringfence

@Suite struct HandoverTests {
    /// A group's script, called as members would who say what they like.
    private struct Script {
        let client: RedisClient
        let scripts = GroupScripts(keys: Keyspace(namespace: "default"), eventLength: 1000, nonces: NonceSource())

        func run(_ call: ScriptCall) async throws -> GroupAnswer {
            let reply = try await client.run(call.script, keys: call.keys, arguments: call.arguments, call.encode)
            return try #require(GroupScripts.answer(reply))
        }

        func look(_ known: GroupKnowledge = .none) async throws -> GroupAnswer {
            try await run(scripts.watch("g", known, leases: true))
        }

        func role() async throws -> GroupRole { try #require(try await look().content?.role) }

        func known(epoch: Int64 = 0) async throws -> GroupKnowledge {
            let answer = try await look()
            return GroupKnowledge(
                version: answer.version, mark: answer.mark, longestLeaseMilliseconds: 2000, policy: nil, epoch: epoch)
        }

        func join(_ id: String, lease: Int64 = 2000, position: Int64? = nil) async throws {
            let record = MemberRecord(id: id, session: "of-\(id)", leaseMilliseconds: lease, isCandidate: true)
            let status = CandidateStatus(claim: .none, position: position)
            _ = try await run(
                scripts.join("g", .none, record, .first, RingPolicy(seed: 0, pointsPerWeight: 256), status: status))
        }

        func beat(
            _ id: String, lease: Int64 = 2000, _ claim: RoleClaim = .none, position: Int64? = nil
        ) async throws {
            _ = try await run(
                scripts.beat(
                    "g", .none, id: id, session: "of-\(id)", leaseMilliseconds: lease, joined: "x:1",
                    status: CandidateStatus(claim: claim, position: position)))
        }

        func order(_ order: RoleOrder, _ id: String) async throws {
            let answer = try await run(scripts.order("g", .none, order, actor: "ann", reason: "", id: id))
            #expect(answer.status == .ordered, "\(id)")
        }

        /// Beats for those until one of them is primary.
        func elect(_ members: [(id: String, position: Int64?)]) async throws -> GroupRole {
            try await eventually("a primary") {
                for member in members { try await beat(member.id, position: member.position) }
                return try await !role().primary.isEmpty
            }
            return try await role()
        }
    }

    private func withScript(_ body: @Sendable (Script) async throws -> Void) async throws {
        try await withObservedRedis { server, _ in
            let client = RedisClient(try RedisConfiguration(url: server.unixURL), logger: testLogger)
            do { try await body(Script(client: client)) } catch {
                await client.close()
                throw error
            }
            await client.close()
        }
    }

    @Test func `that a primary stopped for a switchover is not believed of the next one`() async throws {
        try await withScript { script in
            try await script.join("a")
            try await script.join("b")
            _ = try await script.elect([("a", nil), ("b", nil)])
            try await script.beat("a", .ready(1))
            try await script.order(.switchover(to: "b", timeoutMilliseconds: 60_000), "1")
            let first = try await script.known().version
            try await script.order(.abort, "2")
            try await script.order(.switchover(to: "b", timeoutMilliseconds: 60_000), "3")
            try await script.beat("a", .readyToHandOver(1, position: nil, asOf: first))
            #expect(try await script.role().isHeld(by: "a", "of-a", 1), "it is late: its switchover was taken back")
            try await script.beat("a", .readyToHandOver(1, position: nil, asOf: script.known().version))
            #expect(try await script.role().isHeld(by: "b", "of-b", 2))
        }
    }

    @Test func `a failover ordered while nobody knew of a primary stops the one that comes back`() async throws {
        try await withScript { script in
            try await script.join("a")
            try await script.join("b")
            _ = try await script.elect([("a", nil), ("b", nil)])
            try await script.beat("a", .ready(1))
            // Another knows of an epoch that Redis has lost.
            _ = try await script.look(
                GroupKnowledge(version: 0, mark: "", longestLeaseMilliseconds: 2000, policy: nil, epoch: 5))
            #expect(try await script.role().phase == .recovering)
            try await script.order(.failover(to: "b"), "1")
            try await script.beat("a", .ready(5))
            let role = try await script.role()
            #expect(role.isHeld(by: "a", "of-a", 5) && role.phase == .handingOver && role.isForced)
            try await eventually("the target is elected") {
                try await script.beat("a", .gone(5, reason: "failover"))
                try await script.beat("b")
                return try await script.role().isHeld(by: "b", "of-b", 6)
            }
            #expect(try await !script.role().isForced)
        }
    }

    @Test(arguments: [
        #""priority":"high""#, #""zone":{},"priority":[]"#, #""priority":NaN"#, #""health":7"#, #""health":"", "oops"#,
    ])
    func `a record that somebody wrote by hand breaks no call`(fields: String) async throws {
        try await withScript { script in
            try await script.join("a", position: 1)
            try await script.join("b", position: 1)
            try await script.join("c", position: 1)
            let json = #"{"session":"of-b","leaseMs":2000,"candidate":true,\#(fields)}"#
            let reply = try await script.client.send { writer in
                writer.begin(4)
                writer.argument("HSET")
                writer.argument(script.scripts.keys.members + "g")
                writer.argument("b")
                writer.argument(json)
            }
            #expect(reply.error == nil)
            let role = try await script.elect([("a", 1), ("b", 1), ("c", 1)])
            #expect(role.primary == "a")
            #expect(try await script.look().content?.report?.candidates.count == 3)
            try await script.order(.failover(to: "c"), "1")
            try await script.join("b", position: 1)
        }
    }

    @Test func `a primary that dies while it hands over is replaced by whoever lacks least`() async throws {
        try await withScript { script in
            try await script.join("a", position: 1000)
            try await script.join("b", position: 500)
            try await script.join("c", position: 1000)
            let role = try await script.elect([("a", 1000), ("b", 500), ("c", 1000)])
            #expect(role.primary == "a")
            try await script.beat("a", lease: 300, .ready(1), position: 1000)
            try await script.order(.switchover(to: "b", timeoutMilliseconds: 60_000), "1")
            try await eventually("another is elected") {
                try await script.beat("b", position: 500)
                try await script.beat("c", position: 1000)
                return try await script.role().epoch == 2
            }
            #expect(try await script.role().primary == "c")
        }
    }

    /// Joins a group with `withPrimary`, and returns once its body runs.
    private func led(
        _ membership: Membership, _ body: @Sendable @escaping (Epoch) async throws -> Void
    ) async throws -> Task<Void, any Error> {
        let isInside = Shared(false)
        let task = Task {
            try await membership.withPrimary { epoch in
                isInside.change { $0 = true }
                try await body(epoch)
            }
        }
        try await eventually("the body runs") { isInside.value }
        return task
    }

    @Test func `who leaves in a cancelled task waits all the same until the body has ended`() async throws {
        try await withRingfence { _, client in
            let group = try await client.group("ledger")
            // The first of a group waits for one lease.
            let membership = try await group.join("one", lease: .milliseconds(600))
            let held = Shared<Bool?>(nil)
            let body = try await led(membership) { epoch in
                try? await Task.sleep(for: .seconds(3600))
                await Task.detached { for _ in 0..<20 { _ = try? await group.inspect() } }.value
                held.change { $0 = epoch.isHeld }
            }
            try await membership.update(lease: .seconds(30))
            let leaving = Task { try await membership.leave() }
            leaving.cancel()
            try await leaving.value
            #expect(held.value == true, "the role was given up while its body was at work")
            _ = await body.result
        }
    }

    @Test func `a body may leave the group it leads`() async throws {
        try await withRingfence { _, client in
            let group = try await client.group("ledger")
            let membership = try await group.join("one", lease: .milliseconds(600))
            let error = await failure { try await membership.withPrimary { _ in try await membership.leave() } }
            #expect(error?.code == .primaryLost || error?.code == .membershipLeft)
            #expect(membership.state == .left)
        }
    }

    @Test func `whoever waits to be elected is told when the client is shut down while Redis is away`() async throws {
        try await withRedis { server in
            let proxy = try await TCPProxy.start(to: server)
            try await withClient(proxy.url, { $0.commandTimeout = .milliseconds(500) }) { client in
                let group = try await client.group("ledger")
                // A group elects nobody for one lease.
                let membership = try await group.join("one", lease: .seconds(3600))
                let waiting = Task { try await membership.withPrimary { _ in } }
                try await eventually(group, "it stands") { $0.member("one")?.isCandidate == true }
                proxy.update { $0.clientToServer.isStalled = true }
                await client.shutdown()
                let error = await failure { try await waiting.value }
                #expect(error?.code == .membershipLeft || error?.code == .clientShutDown)
            }
            await proxy.refuse()
        }
    }

    @Test func `a lease is not made shorter than twice the margin that is stood with`() async throws {
        try await withRingfence { _, client in
            let membership = try await client.group("ledger").join("one", lease: .seconds(2))
            _ = try await membership.campaign(margin: .seconds(1))
            let error = await failure { try await membership.update(lease: .seconds(1)) }
            #expect(error?.code == .argumentInvalid && error?.message.contains("margin") == true)
            try await membership.update(lease: .seconds(3))
        }
    }

    @Test func `a switchover whose caller is cancelled is taken back`() async throws {
        try await withRingfence { _, client in
            let group = try await client.group("ledger")
            let one = try await group.join("one", lease: .milliseconds(600)).campaign()
            try await eventually("elected") { one.role.epoch != nil }
            let epoch = try #require(one.role.epoch)
            one.ready(epoch)
            let two = try await group.join("two", lease: .milliseconds(600)).campaign()
            try await eventually(group, "ready") {
                $0.primary?.phase == .ready && $0.members.count { $0.isCandidate } == 2
            }
            let ordering = Task {
                try await client.operations(on: "ledger").switchover(to: "two", timeout: .seconds(600))
            }
            try await eventually("it is to stop") { one.role == .handingOver(epoch) }
            ordering.cancel()
            let error = await failure { _ = try await ordering.value }
            #expect(error?.code == .cancelled)
            try await eventually("it goes on") { one.role == .primary(epoch) }
            _ = two
        }
    }
}
