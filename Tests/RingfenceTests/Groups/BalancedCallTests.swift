// SPDX-License-Identifier: Apache-2.0
//
// Calls that begin here and end somewhere else, and what an operator's order does to them, over a real Redis.

import Ringfence
import TestSupport
import Testing

@Suite struct BalancedCallTests {
    private func withPool(
        _ count: Int, _ body: @Sendable (RedisServer, RingfenceClient, Group) async throws -> Void
    ) async throws {
        try await withRingfence { server, client in
            let group = try await client.group("pool")
            for number in 0..<count {
                _ = try await group.join("m\(number)", address: "10.0.0.\(number):80", lease: .seconds(60))
            }
            try await eventually(group, "all are there") { $0.members.count == count }
            try await body(server, client, group)
        }
    }

    private func outstanding(_ balancer: Balancer) -> [Int] { balancer.state.members.map(\.outstanding) }

    @Test func `a call counts until it is ended, once, or let go of`() async throws {
        try await withPool(2) { _, _, group in
            let balancer = try group.balancer()
            var first: BalancedCall? = try balancer.begin()
            let busy = try #require(first?.member.id)
            for _ in 0..<20 { #expect(try balancer.pick().id != busy, "the other one has fewer calls") }
            let second = try balancer.begin()
            #expect(second.member.id != busy && outstanding(balancer) == [1, 1])
            #expect(second.end(.success) && !second.end(.failure))
            #expect(outstanding(balancer).reduce(0, +) == 1)
            first = nil
            #expect(outstanding(balancer) == [0, 0], "nobody holds it any more")
        }
    }

    @Test func `failures that are reported eject a member, and what was given up teaches nothing`() async throws {
        try await withPool(4) { _, _, group in
            let balancer = try group.balancer(.ringHash)
            let owner = try balancer.pick(key: "account/4711").id
            for _ in 0..<20 { _ = try balancer.begin(key: "account/4711") }
            for _ in 0..<20 { try balancer.begin(key: "account/4711").end(.cancelled) }
            #expect(try balancer.pick(key: "account/4711").id == owner)
            for _ in 0..<5 { try balancer.begin(key: "account/4711").end(.failure) }
            #expect(try balancer.pick(key: "account/4711").id != owner)
            #expect(balancer.state.member(owner)?.ejectedUntil != nil)
            let keyless = await failure { try balancer.begin() }
            #expect(keyless?.code == .argumentInvalid)
        }
    }

    @Test func `what an operator orders of the breaker every process obeys, until it is let go`() async throws {
        try await withPool(2) { server, client, group in
            try await withClients(server.unixURL, 2) { others in
                var balancers = [try group.balancer(.roundRobin)]
                var held: [Group] = []
                for other in others {
                    let theirs = try await other.group("pool")
                    held.append(theirs)
                    balancers.append(try theirs.balancer(.peakEWMA))
                }
                for balancer in balancers { _ = try balancer.pick() }
                try await client.operations(on: "pool").overrideBreaker(.open, actor: "ann", reason: "wrong balances")
                for balancer in balancers {
                    try await eventually("it is forced open", within: .seconds(60)) {
                        balancer.state.breaker == .forcedOpen
                    }
                    let refused = await failure { try await balancer.withMember { _ in Issue.record("it was called") } }
                    #expect(refused?.code == .breakerOpen && refused?.effect == RingfenceError.Effect.none)
                    let begun = await failure { try balancer.begin() }
                    let picked = await failure { try balancer.pick() }
                    #expect(begun?.code == .breakerOpen && picked?.code == .breakerOpen)
                }
                // One that is asked for only now.
                let late = try held[0].balancer(.random)
                #expect(await failure { try late.pick() }?.code == .breakerOpen)
                try await client.operations(on: "pool").overrideBreaker(.closed, reason: "drill")
                for balancer in balancers {
                    try await eventually("it is forced closed", within: .seconds(60)) {
                        balancer.state.breaker == .forcedClosed
                    }
                    _ = try await balancer.withMember { $0.id }
                }
                try await client.operations(on: "pool").overrideBreaker(.automatic, reason: "over")
                for balancer in balancers {
                    try await eventually("each decides again", within: .seconds(60)) {
                        balancer.state.breaker == .closed
                    }
                    _ = try await balancer.withMember { $0.id }
                }
            }
        }
    }

    @Test func `who finds all probes under way is told to ask again soon, for they decide`() async throws {
        try await withRingfence { _, client in
            let group = try await client.group("g")
            _ = try await group.join("a", lease: .seconds(60))
            let balancer = try group.balancer(
                options: .plain {
                    $0.breakerMinimumCalls = 1
                    $0.breakerOpenDuration = .seconds(1)
                    $0.breakerHalfOpenCalls = 1
                })
            try balancer.begin().end(.failure)
            let opened = await failure { try balancer.begin() }
            #expect(opened?.message.contains("lets some through again in") == true, "\(opened?.message ?? "")")
            #expect(try #require(opened?.retryAfter) <= .seconds(1))
            var refused: RingfenceError?
            var probes: [BalancedCall] = []
            try await eventually("a probe is under way") {
                do { probes.append(try balancer.begin()) } catch let error as RingfenceError { refused = error }
                return refused?.message.contains("under way") == true
            }
            #expect(!probes.isEmpty && refused?.code == .breakerOpen)
            #expect(try #require(refused?.retryAfter) <= .seconds(1))
            probes.last?.end(.success)
            try await eventually("it is closed") { balancer.state.breaker == .closed }
        }
    }
}
