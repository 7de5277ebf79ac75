// SPDX-License-Identifier: Apache-2.0
//
// How calls are counted, shared and judged.
import Hiredis
import RingfenceCore
import TestSupport
import Testing

@testable import Ringfence

extension BalancerTests {
    @Test func `a call is counted, and what its errors say of the member is heeded`() async throws {
        try await withRingfence { _, client in
            let group = try await client.group("g")
            for id in ["a", "b"] { _ = try await group.join(id, lease: .seconds(60)) }
            let balancer = try group.balancer(options: .plain())
            try await balancer.withMember { member in
                #expect(balancer.state.member(member.id)?.outstanding == 1)
            }
            #expect(balancer.state.members.allSatisfy { $0.outstanding == 0 })
            #expect(balancer.state.members.contains { $0.cost != nil })
            // Neither a caller that gives up nor an answer that is no ejects anybody.
            for _ in 0..<50 {
                await #expect(throws: CancellationError.self) {
                    try await balancer.withMember { _ in throw CancellationError() }
                }
                await #expect(throws: Declined.self) {
                    try await balancer.withMember(isFailure: { !($0 is Declined) }) { _ in throw Declined() }
                }
            }
            #expect(balancer.state.members.allSatisfy { $0.ejectedUntil == nil && $0.outstanding == 0 })
            // A task that is cancelled: its body is told, and the call ends when the body does.
            let task = Task {
                try await balancer.withMember { _ in try await Task.sleep(for: .seconds(3600)) }
            }
            try await eventually { balancer.state.members.contains { $0.outstanding == 1 } }
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
            #expect(balancer.state.members.allSatisfy { $0.outstanding == 0 && $0.ejectedUntil == nil })
        }
    }

    @Test func `all who ask for the same policy and options share what was learned, and others do not`() async throws {
        try await withRingfence { _, client in
            let group = try await client.group("g")
            for id in ["a", "b"] { _ = try await group.join(id, lease: .seconds(60)) }
            var options = BalancerOptions()
            options.maximumLoadFactor = 2
            let others = [try group.balancer(.random), try group.balancer(options: options)]
            let same = try group.balancer()
            try await group.balancer().withMember { member in
                #expect(same.state.member(member.id)?.outstanding == 1)
                for other in others { #expect(other.state.member(member.id)?.outstanding == 0) }
            }
        }
    }

    @Test func `a balancer alone keeps its group's view current`() async throws {
        try await withRingfence { server, client in
            try await withClient(server.unixURL) { other in
                let balancer = try await client.group("g").balancer(options: .plain())
                let member = try await other.group("g").join("a", lease: .seconds(60))
                try await eventually { (try? balancer.pick().id) == "a" }
                try await member.leave()
                try await eventually { (try? balancer.pick()) == nil }
            }
        }
    }
}
