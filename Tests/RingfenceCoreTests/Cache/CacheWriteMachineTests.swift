// SPDX-License-Identifier: Apache-2.0
import RingfenceCacheCore
import RingfenceCore
import Testing

@Suite struct CacheWriteMachineTests {
    private static let map = try! CacheMap(CacheLayoutTests.layout())

    private static func machine(_ map: CacheMap = map, key: String = "k", sloppy: Bool = false) -> CacheWriteMachine {
        CacheWriteMachine(map, key: key, writes: 2, sloppy: sloppy)
    }

    private static func has(whole: Int64 = 1) -> CacheAnswer {
        CacheAnswer(now: 0, wholeEpoch: whole, isBehind: false, result: .put([nil]))
    }

    private static func answer(_ result: CacheAnswer.Result) -> CacheAnswer {
        CacheAnswer(now: 0, wholeEpoch: 1, isBehind: false, result: result)
    }

    @Test func `a write is sent to enough nodes of its key, done when they have it, and then sent to the rest`() {
        var machine = Self.machine()
        let nodes = machine.nodes
        #expect(nodes.count == 3 && machine.first == Array(nodes[..<2]))
        #expect(machine.answered(nodes[1], Self.has()) == .none)
        #expect(machine.awaited == [nodes[0]])
        #expect(machine.answered(nodes[0], Self.has()) == .done)
        #expect(!machine.isSettled && machine.missing == [nodes[2]])
        #expect(machine.rest() == [nodes[2]] && machine.rest().isEmpty && !machine.isSettled)
        #expect(machine.answered(nodes[2], Self.has()) == .none)
        #expect(machine.isSettled && machine.missing.isEmpty && machine.holders == nodes.sorted())
    }

    @Test func `a node that lost data does not count`() {
        var machine = Self.machine()
        let nodes = machine.nodes
        #expect(machine.answered(nodes[0], Self.has()) == .none)
        #expect(machine.answered(nodes[1], Self.has(whole: -1)) == .send([nodes[2]]))
        #expect(machine.answered(nodes[2], Self.has()) == .done)
    }

    @Test func `it is sent to the rest as soon as one of the first fails or does not count`() {
        var machine = Self.machine()
        let nodes = machine.nodes
        #expect(machine.failed(nodes[0], .unknown) == .send([nodes[2]]))
        #expect(machine.answered(nodes[2], Self.has()) == .none)
        #expect(machine.answered(nodes[1], Self.has()) == .done)
        machine = Self.machine()
        #expect(machine.answered(nodes[1], Self.has(whole: -1)) == .send([nodes[2]]))
        #expect(machine.rest().isEmpty)
    }

    @Test func `those that are slow are last`() {
        let nodes = Self.machine().nodes
        let machine = CacheWriteMachine(Self.map, key: "k", writes: 2, sloppy: false) { $0 == nodes[0] }
        #expect(machine.first == Array(nodes[1...]))
        #expect(CacheWriteMachine(Self.map, key: "k", writes: 3, sloppy: false).first == nodes)
    }

    @Test func `a write that must be repeated is not sent to the rest`() {
        var machine = Self.machine()
        let newer = CacheVersion(stamp: 9, writer: 9)
        #expect(machine.answered(machine.nodes[0], Self.answer(.put([newer]))) == .again(above: newer))
        #expect(machine.rest().isEmpty)
        machine = Self.machine()
        #expect(machine.answered(machine.nodes[0], Self.answer(.outdated(layout: nil))) == .outdated(nil))
        #expect(machine.rest().isEmpty)
    }

    @Test func `one answer that comes twice counts once`() {
        var machine = Self.machine()
        #expect(machine.answered(machine.nodes[0], Self.has()) == .none)
        #expect(machine.answered(machine.nodes[0], Self.has()) == .none)
    }

    @Test func `something newer anywhere is written over, not taken for done`() {
        var machine = Self.machine()
        let newer = CacheVersion(stamp: 9, writer: 9)
        #expect(machine.answered(machine.nodes[0], Self.answer(.put([newer]))) == .again(above: newer))
        #expect(machine.answered(machine.nodes[1], Self.has()) == .none)
        #expect(machine.answered(machine.nodes[2], Self.has()) == .none)
    }

    @Test func `an old layout is told, once`() {
        var machine = Self.machine()
        #expect(machine.answered(machine.nodes[0], Self.answer(.outdated(layout: [1]))) == .outdated([1]))
        #expect(machine.answered(machine.nodes[1], Self.answer(.outdated(layout: nil))) == .none)
    }

    @Test func `a node told of another change does not count, and is followed only if there are not enough others`() {
        let other = CacheLayoutTests.otherChange.json
        var machine = Self.machine()
        let nodes = machine.nodes
        #expect(machine.answered(nodes[0], Self.answer(.outdated(layout: other))) == .send([nodes[2]]))
        #expect(machine.answered(nodes[1], Self.has()) == .none)
        #expect(machine.answered(nodes[2], Self.has()) == .done)
        machine = Self.machine()
        #expect(machine.answered(nodes[0], Self.answer(.outdated(layout: other))) == .send([nodes[2]]))
        #expect(machine.answered(nodes[1], Self.answer(.outdated(layout: other))) == .none)
        #expect(machine.answered(nodes[2], Self.has()) == .outdated(other))
    }

    @Test func `it fails as soon as enough cannot be had, and says whether it may be there all the same`() {
        var machine = Self.machine()
        let nodes = machine.nodes
        #expect(machine.failed(nodes[0], .notSent) == .send([nodes[2]]))
        #expect(machine.failed(nodes[1], .refused) == .none)
        #expect(machine.failed(nodes[2], .notSent) == .failed(mayBeApplied: false))
        // The last one is not heard of yet, and may have it: "none" would be a lie.
        machine = Self.machine()
        #expect(machine.failed(nodes[0], .notSent) == .send([nodes[2]]))
        #expect(machine.failed(nodes[1], .notSent) == .none)
        #expect(machine.answered(nodes[2], Self.has()) == .failed(mayBeApplied: true))
        machine = Self.machine()
        #expect(machine.failed(nodes[0], .unknown) == .send([nodes[2]]))
        #expect(machine.failed(nodes[1], .notSent) == .failed(mayBeApplied: true))
        machine = Self.machine()
        #expect(machine.answered(nodes[1], Self.has(whole: -1)) == .send([nodes[2]]))
        #expect(machine.failed(nodes[0], .notSent) == .failed(mayBeApplied: true))
    }

    @Test func `a write that comes after its moment is not there`() {
        var machine = Self.machine()
        #expect(machine.answered(machine.nodes[0], Self.answer(.late)) == .send([machine.nodes[2]]))
        #expect(machine.missing.contains(machine.nodes[0]))
    }

    @Test func `while a layout changes both quorums are needed, and of after any node counts`() throws {
        let map = try CacheMap(CacheLayoutTests.moving)
        let key = try #require(CacheLayoutTests.keys.first { map.writers(of: $0).count == 2 })
        let (before, after) = (map.writers(of: key)[0].nodes, map.writers(of: key)[1].nodes)
        let added = try #require(after.first { !before.contains($0) })
        let removed = try #require(before.first { !after.contains($0) })
        let shared = before.filter(after.contains)
        #expect(shared.count == 2)
        var machine = Self.machine(map, key: key)
        #expect(Set(machine.nodes) == Set(before + after))
        #expect(machine.answered(removed, Self.has()) == .none)
        // Two of before, and one of after.
        #expect(machine.answered(shared[0], Self.has()) == .none)
        #expect(machine.answered(added, Self.has(whole: -1)) == .done)
    }

    @Test func `a sloppy write is handed over to others, and these count for both`() {
        var machine = Self.machine(sloppy: true)
        let nodes = machine.nodes
        let spare = Self.map.hintKeepers(of: "k")[0]
        #expect(machine.answered(nodes[0], Self.has()) == .none)
        #expect(machine.failed(nodes[1], .notSent) == .send([nodes[2]]))
        #expect(machine.failed(nodes[2], .notSent) == .send([spare]))
        #expect(machine.answered(spare, Self.has()) == .done)
        #expect(machine.missing.sorted() == [nodes[1], nodes[2]].sorted())
    }
}
