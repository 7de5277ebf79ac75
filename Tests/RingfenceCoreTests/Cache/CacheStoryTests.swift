// SPDX-License-Identifier: Apache-2.0
//
// Interleavings that dice seldom meet, told one by one: three nodes, and the machines around them.
import RingfenceCacheCore
import RingfenceCore
import TestSupport
import Testing

@Suite struct CacheStoryTests {
    /// A write reaches node 2, which then is flushed; it reaches node 0 at `reachesAt`, and never node 1. Meanwhile a
    /// steward that waits for `wait` completes node 2. Whether a read of nodes 1 and 2 finds the write then.
    private static func isFound(reachesAt: Nanos, wait: Nanos) throws -> Bool {
        let map = try CacheMap(CacheLayoutTests.layout(3))
        var nodes = (0..<3).map { _ in CacheNodeModel(clock: 1_790_000_000_000, freshness: 60_000, hintLimit: 9) }
        func ask(_ node: Int, _ call: CacheCall) -> CacheAnswer {
            nodes[node].call(call, stamp: map.stamp, run: "run \(node)")
        }
        for node in nodes.indices {
            #expect(ask(node, .begin(nonce: "first")).result == .begun(mustWipe: true, isBlank: true))
            #expect(ask(node, .end(nonce: "first", isFull: true)).result == .ended(true))
        }
        let version = CacheVersion(stamp: 1_790_000_000_000 << 16, writer: 1)
        let put = CacheCall.put([CacheItem("k", CacheEntry(version: version, payload: [1]))], notAfter: nil)
        var write = CacheWriteMachine(map, key: "k", writes: 2, sloppy: false)
        _ = write.rest()
        #expect(write.answered(2, ask(2, put)) == .none)
        nodes[2].forgetEverything()

        var sweep = SweepMachine(
            map, jobs: [.init(node: 2, isPartial: false)], sources: [0, 1], nonce: "second", wait: wait, pace: 1000)
        var calls = sweep.start()
        var isWritten = false
        var now: Nanos = 0
        while !isWritten || sweep.outcome == nil {
            for node in nodes.indices { nodes[node].clock += 50 }
            now += 50 * .millisecond
            if now >= reachesAt, !isWritten {
                isWritten = true
                #expect(write.answered(0, ask(0, put)) == .done)
            }
            if calls.isEmpty { calls = sweep.tick(now: now) }
            while !calls.isEmpty {
                let (node, call) = calls.removeFirst()
                calls += sweep.answered(node, ask(node, call), now: now)
            }
        }
        #expect(sweep.outcome == .completed([2]))
        var read = CacheReadMachine(map, key: "k", reads: 2)
        #expect(read.answered(1, ask(1, .get(["k"]))) == .none)
        guard case .done(let entry) = read.answered(2, ask(2, .get(["k"]))) else {
            Issue.record("two whole nodes are not enough")
            return false
        }
        return entry?.version == version
    }

    @Test func `what a node acknowledged and then lost is found, because the steward waits for the call`() throws {
        #expect(try Self.isFound(reachesAt: 500 * .millisecond, wait: .second))
        #expect(try Self.isFound(reachesAt: 950 * .millisecond, wait: .second))
    }

    @Test func `a steward that does not wait for calls loses it`() throws {
        #expect(try !Self.isFound(reachesAt: 500 * .millisecond, wait: 0))
    }

    @Test func `an acknowledgement that is counted after the call's limit is worth nothing`() throws {
        #expect(try !Self.isFound(reachesAt: 1500 * .millisecond, wait: .second))
    }
}
