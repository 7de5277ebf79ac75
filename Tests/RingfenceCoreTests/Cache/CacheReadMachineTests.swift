// SPDX-License-Identifier: Apache-2.0
import RingfenceCacheCore
import RingfenceCore
import Testing

@Suite final class CacheReadMachineTests {
    private static let map = try! CacheMap(CacheLayoutTests.layout())

    private static func entry(_ stamp: UInt64, _ payload: [UInt8]? = [1]) -> CacheEntry {
        CacheEntry(version: CacheVersion(stamp: stamp, writer: 0), payload: payload)
    }

    private static func found(
        _ entry: CacheEntry?, whole: Int64 = 1, isBehind: Bool = false, now: Int64 = 0
    ) -> CacheAnswer {
        CacheAnswer(now: now, wholeEpoch: whole, isBehind: isBehind, result: .entries([entry]))
    }

    private var machine = CacheReadMachine(map, key: "k", reads: 2)
    private var nodes: [Int] { machine.nodes }

    @Test func `the newest of enough nodes is the answer, whoever comes first`() {
        #expect(nodes.count == 3)
        #expect(machine.answered(nodes[1], Self.found(Self.entry(5))) == .none)
        #expect(machine.answered(nodes[0], Self.found(Self.entry(7))) == .done(Self.entry(7)))
        #expect(machine.answered(nodes[2], Self.found(Self.entry(9))) == .none)
    }

    @Test func `what nobody has ever heard of is nothing`() {
        #expect(machine.answered(nodes[0], Self.found(nil)) == .none)
        #expect(machine.answered(nodes[2], Self.found(nil)) == .done(nil))
    }

    @Test func `a node that lost data is neither counted nor heard`() {
        #expect(machine.answered(nodes[0], Self.found(Self.entry(9), whole: -1)) == .none)
        #expect(machine.answered(nodes[1], Self.found(nil)) == .none)
        #expect(machine.answered(nodes[2], Self.found(Self.entry(3))) == .done(Self.entry(3)))
    }

    @Test func `a node that is behind counts only if there are not enough others`() {
        #expect(machine.answered(nodes[0], Self.found(nil, isBehind: true)) == .none)
        #expect(machine.answered(nodes[1], Self.found(Self.entry(3))) == .none)
        #expect(machine.answered(nodes[2], Self.found(Self.entry(4))) == .done(Self.entry(4)))
        machine = CacheReadMachine(Self.map, key: "k", reads: 2)
        #expect(machine.answered(nodes[0], Self.found(nil, isBehind: true)) == .none)
        #expect(machine.answered(nodes[1], Self.found(Self.entry(3))) == .none)
        #expect(machine.failed(nodes[2]) == .done(Self.entry(3)))
    }

    @Test func `of one version with and without its time over, it is over`() {
        #expect(machine.answered(nodes[0], Self.found(Self.entry(5))) == .none)
        #expect(machine.answered(nodes[1], Self.found(Self.entry(5, nil))) == .done(Self.entry(5, nil)))
    }

    @Test func `it fails as soon as enough cannot be had`() {
        #expect(machine.failed(nodes[0]) == .none)
        #expect(machine.answered(nodes[1], Self.found(nil, whole: -1)) == .failed)
        #expect(machine.failed(nodes[2]) == .none)
    }

    @Test func `an old layout is told, once`() {
        func outdated(_ layout: [UInt8]?) -> CacheAnswer {
            CacheAnswer(now: 0, wholeEpoch: 1, isBehind: false, result: .outdated(layout: layout))
        }
        #expect(machine.answered(nodes[0], outdated([2])) == .outdated([2]))
        #expect(machine.answered(nodes[1], outdated(nil)) == .none)
        #expect(machine.answered(nodes[2], Self.found(nil)) == .none)
        // Who was told of another change is not heard, and is followed only if there are not enough others.
        let other = CacheLayoutTests.otherChange.json
        machine = CacheReadMachine(Self.map, key: "k", reads: 2)
        #expect(machine.answered(nodes[0], outdated(other)) == .none)
        #expect(machine.answered(nodes[1], Self.found(nil)) == .none)
        #expect(machine.answered(nodes[2], Self.found(Self.entry(3))) == .done(Self.entry(3)))
        machine = CacheReadMachine(Self.map, key: "k", reads: 2)
        #expect(machine.answered(nodes[0], outdated(other)) == .none)
        #expect(machine.failed(nodes[1]) == .outdated(other))
    }

    @Test func `who answered and lacks the newest is repaired, within a moment of its own clock`() {
        _ = machine.answered(nodes[0], Self.found(nil, now: 100))
        _ = machine.answered(nodes[1], Self.found(Self.entry(7), now: 50_000))
        _ = machine.answered(nodes[2], Self.found(Self.entry(6), now: 900))
        let life = CacheReadMachine.copyLife
        #expect(machine.isSettled)
        let repairs = machine.repairs
        #expect(repairs.map(\.node) == [nodes[0], nodes[2]])
        #expect(repairs.map(\.entry) == [Self.entry(7), Self.entry(7)])
        #expect(repairs.map(\.notAfter) == [100 + life, 900 + life])
    }

    @Test func `nothing is repaired with what a node has that lost data, nor where nothing was heard`() {
        _ = machine.answered(nodes[0], Self.found(nil))
        _ = machine.answered(nodes[1], Self.found(Self.entry(7), whole: -1))
        _ = machine.failed(nodes[2])
        #expect(machine.repairs.isEmpty)
    }
}
