// SPDX-License-Identifier: Apache-2.0
//
// Servers and callers in a time of their own: what picking well is worth, and what a broken member does to the rest.
// Each story has a control without the part that is tested, which must go wrong.

import RingfenceCore
import Testing

/// Callers that call one after the other, and servers that each take their time.
private struct CallSimulation {
    struct Server {
        var id: String
        var takes: Nanos
        var fails = false
    }

    struct Result {
        var latencies: [Nanos] = []
        var failures = 0
        var calls: [String: Int] = [:]

        var p99: Nanos { latencies.sorted()[latencies.count * 99 / 100] }
        var failed: Double { Double(failures) / Double(latencies.count) }
    }

    private struct Pending {
        var end: Nanos
        var id: String
        var beganAt: Nanos
    }

    var world: BalanceWorld
    var servers: [Server]

    init(_ rule: PickRule, _ servers: [Server], seed: UInt64, _ change: (inout BalanceSettings) -> Void = { _ in }) {
        self.servers = servers
        world = BalanceWorld(rule, seed: seed) {
            $0.breakerMinimumCalls = 0
            change(&$0)
        }
        world.see(servers.map { BalanceWorld.member($0.id) })
    }

    mutating func run(callers: Int, calls: Int, arriving: (at: Int, server: Server)? = nil) -> Result {
        var result = Result()
        var pending: [Pending] = []
        func begin(_ world: inout BalanceWorld, _ servers: [Server]) {
            let id = world.pick()!
            world.seat(id).load.begin()
            result.calls[id, default: 0] += 1
            let takes = servers.first { $0.id == id }!.takes
            // A tenth more or less.
            let end = world.now + takes * 9 / 10 + Nanos(world.dice.roll(Int(takes / 5) + 1))
            pending.append(Pending(end: end, id: id, beganAt: world.now))
        }
        for _ in 0..<callers { begin(&world, servers) }
        while result.latencies.count < calls {
            if let arriving, result.latencies.count == arriving.at, servers.last?.id != arriving.server.id {
                servers.append(arriving.server)
                world.see(servers.map { BalanceWorld.member($0.id) })
            }
            let next = pending.indices.min { pending[$0].end < pending[$1].end }!
            let call = pending.remove(at: next)
            world.pass(call.end - world.now)
            world.seat(call.id).load.end()
            let fails = servers.first { $0.id == call.id }!.fails
            world.call(call.id, fails ? .failure : .success, took: 0, beganAt: call.beganAt)
            result.latencies.append(call.end - call.beganAt)
            if fails { result.failures += 1 }
            begin(&world, servers)
        }
        return result
    }
}

@Suite struct BalanceSimulationTests {
    private func servers(_ count: Int, takes: Nanos = 10 * .millisecond) -> [CallSimulation.Server] {
        (0..<count).map { .init(id: "m\($0)", takes: takes) }
    }

    @Test(arguments: [PickRule.leastLoaded, .peakEWMA], 1...3 as ClosedRange<UInt64>)
    func `one slow member of ten is not felt`(rule: PickRule, seed: UInt64) {
        var servers = servers(10)
        servers[3].takes *= 20
        var ours = CallSimulation(rule, servers, seed: seed)
        var control = CallSimulation(.roundRobin, servers, seed: seed)
        let (our, round) = (ours.run(callers: 64, calls: 6000), control.run(callers: 64, calls: 6000))
        #expect(Double(our.p99) <= 0.15 * Double(round.p99))
        #expect(our.calls["m3"]! > 0)
    }

    @Test(arguments: [PickRule.leastLoaded, .peakEWMA], 1...3 as ClosedRange<UInt64>)
    func `a member that refuses everything at once does not draw all calls`(rule: PickRule, seed: UInt64) {
        var servers = servers(10)
        servers[3].fails = true
        servers[3].takes = .millisecond / 10
        var ours = CallSimulation(rule, servers, seed: seed)
        var control = CallSimulation(rule, servers, seed: seed) {
            $0.consecutiveFailures = 0
            $0.successRateMembers = 0
        }
        #expect(ours.run(callers: 40, calls: 6000).failed < 0.01)
        #expect(control.run(callers: 40, calls: 6000).failed > 0.15, "the control is caught by it")
    }

    @Test(arguments: [PickRule.leastLoaded, .peakEWMA], 1...3 as ClosedRange<UInt64>)
    func `a member that comes while all are at work is not flooded`(rule: PickRule, seed: UInt64) {
        func firstCalls(_ slowStart: Nanos) -> Int {
            var simulation = CallSimulation(rule, servers(5), seed: seed) { $0.slowStart = slowStart }
            return simulation.run(
                callers: 50, calls: 2500, arriving: (2000, .init(id: "new", takes: 10 * .millisecond))
            ).calls["new"] ?? 0
        }
        let (slowly, atOnce) = (firstCalls(10 * .second), firstCalls(0))
        #expect(slowly < 40 && atOnce > 60, "\(slowly) and \(atOnce) of 500")
    }
}
