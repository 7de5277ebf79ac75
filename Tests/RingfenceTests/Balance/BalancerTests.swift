// SPDX-License-Identifier: Apache-2.0

import CoreMetrics
import Hiredis
import MetricsTestKit
import RingfenceCore
import TestSupport
import Testing

@testable import Ringfence

private struct CallFailed: Error {}
struct Declined: Error {}

extension BalancerOptions {
    /// Nobody starts slowly, so that shares are known at once.
    static func plain(_ change: (inout BalancerOptions) -> Void = { _ in }) -> BalancerOptions {
        var options = BalancerOptions()
        options.slowStart = .zero
        change(&options)
        return options
    }
}

extension Balancer {
    /// Who is picked, of many picks.
    fileprivate func picked(_ count: Int = 300) throws -> Set<String> {
        Set(try (0..<count).map { _ in try pick().id })
    }

    /// Calls until the member was called so often, and fails all calls to it.
    fileprivate func fail(_ id: String, _ count: Int = 5) async throws {
        var left = count
        for _ in 0..<100_000 where left > 0 {
            do {
                try await withMember { member in
                    guard member.id != id else { throw CallFailed() }
                }
            } catch is CallFailed { left -= 1 }
        }
        #expect(left == 0)
    }
}

@Suite struct BalancerTests {
    @Test func `calls go to members that are there, have a weight and pass their check`() async throws {
        try await withRingfence { server, client in
            try await withClient(server.unixURL) { other in
                let group = try await client.group("g")
                let balancer = try group.balancer(.roundRobin, options: .plain())
                let empty = await failure { try await balancer.withMember { _ in } }
                #expect(empty?.code == .balancerNoMember && empty?.effect == RingfenceError.Effect.none)
                #expect(empty?.isRetriable == true && empty?.message.contains("it has no members") == true)

                let made = try await other.group("g")
                var members: [Membership] = []
                for id in ["a", "b", "c", "d"] {
                    members.append(
                        try await made.join(
                            id, address: "\(id):80", zone: "z", weight: 3, capabilities: ["x"], metadata: ["k": "v"],
                            lease: .seconds(60)))
                }
                try await eventually { (try? balancer.picked()) == ["a", "b", "c", "d"] }
                let member = try await balancer.withMember { $0 }
                #expect(member.address == "\(member.id):80" && member.zone == "z" && member.weight == 3)
                #expect(member.capabilities == ["x"] && member.metadata == ["k": "v"] && !member.session.isEmpty)

                try await members[0].update(weight: 0)
                try await members[1].update(health: "its disk is full")
                try await members[2].leave()
                try await eventually { (try? balancer.picked()) == ["d"] }
                try await members[3].update(weight: 0)
                try await eventually { await failure { try balancer.pick() }?.code == .balancerNoMember }
                let none = await failure { try balancer.pick() }
                #expect(none?.message.contains("of its 3 members none can be picked") == true, "\(none?.message ?? "")")
                try await members[1].update(health: "")
                try await eventually { (try? balancer.picked()) == ["b"] }
            }
        }
    }

    @Test func `what was joined here is picked at once`() async throws {
        try await withRingfence { _, client in
            let group = try await client.group("g")
            let balancer = try group.balancer()
            for number in 0..<20 {
                let membership = try await group.join("m\(number)", lease: .seconds(60))
                #expect(balancer.state.members.count == number + 1)
                if number > 0 { try await membership.update(weight: 2) }
                #expect(balancer.state.member("m\(number)")?.member.weight == (number > 0 ? 2 : 1))
            }
        }
    }

    @Test func `a member whose calls fail is ejected and comes back, and both are events`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL, owner: "payer") { client in
                let group = try await client.group("g")
                for id in ["a", "b", "c"] { _ = try await group.join(id, lease: .seconds(60)) }
                let balancer = try group.balancer(options: .plain { $0.baseEjectionTime = .milliseconds(700) })
                let before = balancer.state
                #expect(before.members.allSatisfy { $0.ejectedUntil == nil && $0.canBePicked })
                try await balancer.fail("b")
                let state = balancer.state.member("b")
                if state?.ejectedUntil != nil { #expect(state?.canBePicked == false) }
                try await eventually("it is back") { balancer.state.member("b")?.ejectedUntil == nil }
                #expect(try balancer.picked() == ["a", "b", "c"])
                let types = ["member.ejected", "member.returned"]
                try await eventually("both are written") {
                    try await observer.events().filter { types.contains($0.type) }.count == 2
                }
                let events = try await observer.events().filter { types.contains($0.type) }
                #expect(events.map(\.type) == types)
                #expect(events.map(\.member) == ["b", "b"])
                #expect(events.first?.reason == "5 failures one after the other")
                let text = try await server.cli("XREVRANGE", "ringfence:{default}:events", "+", "-", "COUNT", "2")
                #expect(text.contains(#""actor":"payer""#) && text.contains(#""policy":"leastLoaded""#))
                try await observer.checkLog()
            }
        }
    }

    @Test func `panic is an event when it begins and when it is over`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let group = try await client.group("g")
                var members: [Membership] = []
                for id in ["a", "b", "c", "d"] { members.append(try await group.join(id, lease: .seconds(60))) }
                let balancer = try group.balancer(options: .plain())
                for member in members.prefix(3) { try await member.update(health: "ill") }
                try await eventually { balancer.state.isPanicking }
                #expect(try balancer.picked() == ["a", "b", "c", "d"])
                try await members[0].update(health: "")
                try await eventually { !balancer.state.isPanicking }
                #expect(try balancer.picked() == ["a", "d"])
                try await eventually("both are written") {
                    try await observer.events().filter { $0.type.hasPrefix("balancer.") }.map(\.type)
                        == ["balancer.panic", "balancer.recovered"]
                }
                try await observer.checkLog()
            }
        }
    }

    @Test func `the breaker opens, lets probes through, and closes`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let group = try await client.group("g")
                _ = try await group.join("a", lease: .seconds(60))
                let balancer = try group.balancer(
                    options: .plain {
                        $0.breakerMinimumCalls = 20
                        $0.breakerOpenDuration = .milliseconds(300)
                        $0.breakerHalfOpenCalls = 3
                        $0.breakerWindow = .seconds(3600)
                    })
                for _ in 0..<20 {
                    await #expect(throws: CallFailed.self) { try await balancer.withMember { _ in throw CallFailed() } }
                }
                guard case .open(let until) = balancer.state.breaker else {
                    Issue.record("the breaker is not open: \(balancer.state.breaker)")
                    return
                }
                let called = Shared(false)
                let refused = await failure { try await balancer.withMember { _ in called.change { $0 = true } } }
                // The machine may be so slow that its time is over already.
                if ContinuousClock.now < until {
                    #expect(refused?.code == .breakerOpen && refused?.effect == RingfenceError.Effect.none)
                    #expect(refused?.isRetriable == true && !called.value)
                }
                try await eventually { (try? balancer.pick()) != nil }
                // Probes that hang are replaced, so this ends however many it takes.
                try await eventually("it is closed") {
                    try? await balancer.withMember { _ in }
                    return balancer.state.breaker == .closed
                }
                try await eventually("both are written") {
                    try await observer.events().filter { $0.type.hasPrefix("breaker.") }.map(\.type)
                        == ["breaker.opened", "breaker.closed"]
                }
                #expect(try await observer.events("breaker.opened").first?.reason == "20 of 20 calls failed")
            }
        }
    }

    @Test func `an operator's word holds it open or closed`() async throws {
        try await withRingfence { _, client in
            let group = try await client.group("g")
            _ = try await group.join("a", lease: .seconds(60))
            let balancer = try group.balancer(options: .plain { $0.breakerMinimumCalls = 10 })
            func order(_ state: BreakerOverride, _ shown: BalancerState.Breaker) async throws {
                try await client.operations(on: "g").overrideBreaker(state, reason: "drill")
                try await eventually(group, "the breaker is \(shown)") { _ in balancer.state.breaker == shown }
            }
            try await order(.open, .forcedOpen)
            for error in [
                await failure { try await balancer.withMember { _ in } }, await failure { try balancer.pick() },
            ] {
                #expect(error?.code == .breakerOpen && error?.message.contains("operator") == true)
            }
            try await order(.closed, .forcedClosed)
            for _ in 0..<50 { try? await balancer.withMember { _ in throw CallFailed() } }
            #expect(balancer.state.breaker == .forcedClosed)
            #expect(try balancer.pick().id == "a")
            try await order(.automatic, .closed)
        }
    }

    @Test func `policies by key need one and go by the group's ring`() async throws {
        try await withRingfence { _, client in
            let group = try await client.group("g", options: .init(seed: 7, pointsPerWeight: 32))
            let ringHash = try group.balancer(.ringHash, options: .plain())
            var members: [Membership] = []
            for id in ["a", "b", "c"] { members.append(try await group.join(id, lease: .seconds(60))) }
            let bounded = try group.balancer(.boundedLoad, options: .plain())
            for balancer in [ringHash, bounded] {
                for error in [
                    await failure { try balancer.pick() }, await failure { try await balancer.withMember { _ in } },
                ] {
                    #expect(error?.code == .argumentInvalid && error?.message.contains("key") == true)
                }
                for number in 0..<200 {
                    let key = "account/\(number)"
                    #expect(try balancer.pick(key: key).id == group.ring.owner(of: key))
                    #expect(try await balancer.withMember(key: key) { $0.id } == group.ring.owner(of: key))
                }
            }
            try await members[1].update(health: "ill")
            for number in 0..<200 {
                let list = Array(group.ring.preferenceList(for: UInt64(number), count: 3))
                #expect(try ringHash.pick(key: UInt64(number)).id == list.first { $0 != "b" })
            }
            // One key, over and over: the others take what is above the bound.
            let owner = try bounded.pick(key: "hot").id
            let begun = try (0..<8).map { _ in
                try "hot".withRingBytes { bytes in Result { try bounded.core.begin(bytes) } }.get()
            }
            let outstanding = bounded.state.member(owner)?.outstanding ?? 0
            #expect(outstanding < 8 && outstanding >= 4)
            for call in begun { bounded.core.end(call, .success) }
            #expect(bounded.state.members.allSatisfy { $0.outstanding == 0 })
            // A policy that needs no key passes it over.
            _ = try group.balancer().pick(key: "any")
        }
    }

    @Test func `the primary only is picked, when it is ready`() async throws {
        try await withRingfence { _, client in
            let group = try await client.group("g")
            _ = try await group.join("bystander", lease: .seconds(5))
            let balancer = try group.balancer(.primaryOnly)
            let none = await failure { try balancer.pick() }
            #expect(none?.code == .balancerNoMember && none?.message.contains("no primary") == true)
            let id = try await group.withPrimary(as: "leader", lease: .seconds(5)) { _ in
                try await eventually { (try? balancer.pick()) != nil }
                return try await balancer.withMember { $0.id }
            }
            #expect(id == "leader")
            try await eventually { (try? balancer.pick()) == nil }
        }
    }

    @Test func `while Redis is away it goes on from what was seen last`() async throws {
        try await withRedis { server in
            try await withClient(server.unixURL) { configuration in
                configuration.commandTimeout = .seconds(3)
            } _: { client in
                let group = try await client.group("g")
                for id in ["a", "b", "c"] { _ = try await group.join(id, lease: .seconds(60)) }
                let balancer = try group.balancer(options: .plain { $0.baseEjectionTime = .seconds(200) })
                await server.stop()
                #expect(try balancer.picked() == ["a", "b", "c"])
                try await balancer.fail("a")
                #expect(try balancer.picked() == ["b", "c"])
            }
        }
    }

    @Test func `a new member starts slowly, and its share grows by itself`() async throws {
        try await withRingfence { _, client in
            let group = try await client.group("g")
            _ = try await group.join("a", lease: .seconds(60))
            var options = BalancerOptions()
            options.slowStart = .seconds(4)
            let balancer = try group.balancer(.weighted, options: options)
            _ = try await group.join("b", lease: .seconds(60))
            let first = balancer.state.member("b")?.ramp ?? 0
            #expect(balancer.state.member("a")?.ramp == 1 && first < 1)
            try await eventually("it has all of its share") {
                var count = 0
                for _ in 0..<200 where try balancer.pick().id == "b" { count += 1 }
                return count >= 98 && balancer.state.member("b")?.ramp == 1
            }
        }
    }

    @Test func `many tasks call while the group changes, and every call is counted once`() async throws {
        try await withRingfence { server, client in
            let metrics = TestMetrics()
            let group = try await client.group("g")
            for id in ["a", "b", "c", "d"] { _ = try await group.join(id, lease: .seconds(60)) }
            for policy in [BalancePolicy.roundRobin, .leastLoaded, .peakEWMA, .boundedLoad, .nearestZone("")] {
                let balancer = try withMetricsFactory(metrics) {
                    try group.balancer(policy, options: .plain { $0.breakerMinimumCalls = 0 })
                }
                let calls = Shared<[String: Int]>([:])
                try await withThrowingTaskGroup(of: Void.self) { tasks in
                    for number in 0..<8 {
                        tasks.addTask {
                            for call in 0..<300 {
                                try? await balancer.withMember(key: UInt64(call)) { member in
                                    if call % 10 == number { await Task.yield() }
                                    calls.change { $0[member.id, default: 0] += 1 }
                                    if call % 7 == 0 { throw CallFailed() }
                                }
                            }
                        }
                    }
                    tasks.addTask {
                        for _ in 0..<10 {
                            let membership = try await group.join("e", lease: .seconds(60))
                            try await membership.leave()
                        }
                    }
                    for try await _ in tasks {}
                }
                #expect(calls.value.values.reduce(0, +) == 2400)
                #expect(balancer.state.members.allSatisfy { $0.outstanding == 0 })
                func total(_ outcome: String) -> Int64 {
                    metrics.counterTotal(
                        label: "ringfence_balancer_calls_total",
                        dimensions: [("policy", policy.description), ("outcome", outcome)])
                }
                #expect(total("failed") == 8 * 43 && total("succeeded") == 2400 - 8 * 43)
            }
        }
    }

    /// Calls from an actor, whose state the body may touch, with a result that is no `Sendable`.
    private actor Caller {
        final class Receipt { var member = "" }
        private var calls = 0

        func call(_ balancer: Balancer) async throws -> (String, Int) {
            let receipt = try await balancer.withMember { member in
                calls += 1
                let receipt = Receipt()
                receipt.member = member.id
                return receipt
            }
            return (receipt.member, calls)
        }

        /// As callers write it who may call again.
        func callUntilOneIsThere(_ balancer: Balancer) async throws -> String {
            while true {
                do { return try await balancer.withMember(key: "k") { $0.id } } catch let error as RingfenceError
                    where error.isRetriable
                { await Task.yield() }
            }
        }
    }

    @Test func `the body runs where its caller does`() async throws {
        try await withRingfence { _, client in
            let group = try await client.group("g")
            let balancer = try group.balancer(options: .plain())
            let waiting = Task { try await Caller().callUntilOneIsThere(balancer) }
            _ = try await group.join("a", lease: .seconds(60))
            #expect(try await waiting.value == "a")
            let caller = Caller()
            _ = try await caller.call(balancer)
            let (member, calls) = try await caller.call(balancer)
            #expect(member == "a" && calls == 2)
        }
    }

    @Test func `an option outside its limits is refused by name`() async throws {
        try await withRingfence { _, client in
            let group = try await client.group("g")
            let error = await failure { try group.balancer(options: .plain { $0.maximumEjectionFraction = 2 }) }
            #expect(error?.code == .argumentInvalid && error?.message.hasPrefix("maximumEjectionFraction") == true)
        }
    }
}
