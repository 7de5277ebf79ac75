// SPDX-License-Identifier: Apache-2.0
import RingfenceCacheCore
import RingfenceCore
import TestSupport
import Testing

/// A coordinator that lost its last second lets two changes begin under one epoch. What becomes of them where nodes
/// were told of both.
@Suite struct StewardMachineTests {
    private static let settled = CacheLayoutTests.layout()
    private static let one = settled.moving(to: settled.members + [CacheMember(id: "n8")], change: 81)
    private static let other = settled.moving(to: settled.members + [CacheMember(id: "n9")], change: 82)

    /// The nodes of before, and a steward that knows `other`.
    private struct Stage {
        var nodes: [String: CacheNodeModel] = [:]
        var machine: StewardMachine
        var published: [CacheLayout] = []

        init(told: [String: CacheLayout]) throws {
            let map = try CacheMap(StewardMachineTests.other)
            machine = StewardMachine(
                map,
                settings: .init(
                    callLimit: .second, pace: 1000, lookEvery: .second, replaceAfter: 60 * .second, freshness: 60_000),
                nonce: "steward", change: 90, isNew: false, now: 0)
            for id in map.ids {
                var node = CacheNodeModel(clock: 1_790_000_000_000, freshness: 60_000, hintLimit: 9)
                if let layout = told[id] {
                    _ = node.call(
                        .raise(layout: layout.json, began: layout.began), stamp: layout.stamp, run: id)
                }
                nodes[id] = node
            }
        }

        /// Goes on until it publishes something, knows another layout, or has looked often.
        mutating func play() {
            var actions = machine.tick(now: 0)
            let before = machine.map.stamp
            for _ in 0..<100 {
                if machine.map.stamp != before || !published.isEmpty { return }
                if actions.isEmpty { actions = machine.tick(now: machine.wakeAt) }
                guard !actions.isEmpty else { return }
                switch actions.removeFirst() {
                case .call(let id, let name, let stamp, let call):
                    let answer = nodes[name]!.call(call, stamp: stamp, run: name)
                    actions += machine.answered(id, .success(answer), now: 0)
                case .publish(let layout): published.append(layout)
                case .tell: break
                }
            }
        }
    }

    @Test func `a node that was told of one change does not hear of another under the same epoch`() {
        var node = CacheNodeModel(clock: 1_790_000_000_000, freshness: 60_000, hintLimit: 9)
        func ask(_ layout: CacheLayout) -> CacheAnswer.Result {
            node.call(.raise(layout: layout.json, began: layout.began), stamp: layout.stamp, run: "r").result
        }
        #expect(ask(Self.one) == .done(0))
        #expect(ask(Self.other) == .outdated(layout: Self.one.json))
        #expect(node.call(.get(["k"]), stamp: Self.other.stamp, run: "r").result == .outdated(layout: Self.one.json))
        #expect(node.call(.get(["k"]), stamp: Self.one.stamp, run: "r").result == .entries([nil]))
        #expect(ask(Self.one.advanced()) == .done(0))
    }

    @Test func `where nearly all nodes were told of another change, that one goes on`() throws {
        var stage = try Stage(told: ["n0": Self.one, "n1": Self.one, "n2": Self.one])
        stage.play()
        #expect(stage.machine.map.layout == Self.one && stage.published.isEmpty)
    }

    @Test func `where neither can be told to nearly all nodes, what was before is in force again`() throws {
        var stage = try Stage(told: ["n0": Self.one, "n1": Self.one, "n2": Self.other, "n3": Self.other])
        stage.play()
        let withdrawn = try #require(stage.published.first)
        #expect((withdrawn.epoch, withdrawn.change, withdrawn.step) == (3, 90, .settled))
        #expect(withdrawn.members == Self.settled.members && withdrawn.membersSince == 1)
    }

    @Test func `where few nodes were told of another change, its own goes on`() throws {
        var stage = try Stage(told: ["n0": Self.one])
        stage.play()
        #expect(stage.machine.map.layout == Self.other)
        #expect(stage.nodes["n1"]!.standing.stamp == Self.other.stamp)
        #expect(stage.nodes["n0"]!.standing.stamp == Self.one.stamp)
    }
}
