// SPDX-License-Identifier: Apache-2.0
import RingfenceCacheCore
import RingfenceCore
import Testing

@Suite struct CacheLayoutTests {
    static func layout(
        _ count: Int = 4, copies: Int = 3, writes: Int = 2, reads: Int = 2
    ) -> CacheLayout {
        CacheLayout(
            copies: copies, writes: writes, reads: reads, seed: 1, unit: 16,
            members: (0..<count).map { CacheMember(id: "n\($0)") }, change: 77)
    }

    /// A layout that moves to one more member.
    static var moving: CacheLayout {
        let settled = layout()
        return settled.moving(to: settled.members + [CacheMember(id: "n9")], change: 78)
    }

    /// Another first layout than `layout()`, by somebody who could not know of that.
    static var otherChange: CacheLayout {
        var other = layout()
        other.change = 99
        return other
    }

    static let keys = (0..<200).map { "key \($0)" }

    @Test func `a change has three steps, each an epoch of its own`() {
        let settled = Self.layout()
        let copying = Self.moving
        let switching = copying.advanced()
        let moved = switching.advanced()
        #expect([settled, copying, switching, moved].map(\.epoch) == [1, 2, 3, 4])
        #expect([settled, copying, switching, moved].map(\.step) == [.settled, .copying, .switching, .settled])
        #expect(moved.members == copying.target && moved.target.isEmpty)
        #expect(moved.membersSince == 2 && moved.targetSince == 0)
        #expect(copying.everybody.map(\.id) == ["n0", "n1", "n2", "n3", "n9"])
        #expect([settled, copying, switching, moved].map(\.change) == [77, 78, 78, 78])
        #expect([settled, copying, switching, moved].map(\.began) == [1, 2, 2, 2])
        #expect(moved.stamp.text == "4-78")
    }

    @Test func `a change that comes to nothing is withdrawn under an epoch of its own`() {
        let withdrawn = Self.moving.withdrawn(change: 79)
        #expect((withdrawn.epoch, withdrawn.began, withdrawn.change) == (3, 3, 79))
        #expect(withdrawn.step == .settled && withdrawn.target.isEmpty && withdrawn.targetSince == 0)
        #expect(withdrawn.members == Self.layout().members && withdrawn.membersSince == 1)
        // Two of those, too.
        #expect(withdrawn.withdrawn(change: 80).membersSince == 1)
        // Nobody was complete for one of two first layouts.
        let first = Self.layout().withdrawn(change: 80)
        #expect((first.epoch, first.membersSince) == (2, 2) && first.members == Self.layout().members)
    }

    @Test func `a layout reads back from its JSON at every step`() {
        var odd = Self.moving
        odd.members[3] = CacheMember(id: "\u{E4} \"1\"\\", zone: "z/\u{1F600}", weight: 0, address: "redis://h:1")
        for layout in [Self.layout(), Self.moving, Self.moving.advanced(), Self.moving.advanced().advanced(), odd] {
            #expect(CacheLayout(json: layout.json) == layout)
        }
    }

    @Test func `anything else is no layout`() {
        let json = Self.layout().json
        #expect(CacheLayout(json: []) == nil)
        #expect(CacheLayout(json: Array(json.dropLast())) == nil)
        #expect(CacheLayout(json: Array("{}".utf8)) == nil)
        let text = String(decoding: json, as: UTF8.self)
        for (good, bad) in [
            (#""epoch":1"#, #""epoch":0"#), (#""change":"77""#, #""change":77"#), (#""began":1"#, #""began":2"#),
            (#""step":"settled""#, #""step":"sleeping""#),
            (#""copies":3"#, #""copies":0"#),
            (#""writes":2"#, #""writes":"2""#), (#""seed":"1""#, #""seed":"-1""#), (#""weight":1"#, #""weight":"1""#),
        ] {
            let changed = text.replacing(good, with: bad)
            #expect(changed != text && CacheLayout(json: Array(changed.utf8)) == nil, "\(bad)")
        }
    }

    @Test func `as many nodes may not have been told as make no quorum`() {
        #expect(Self.layout().tolerance == 1)
        #expect(Self.layout(copies: 3, writes: 3, reads: 1).tolerance == 0)
        #expect(Self.layout(5, copies: 5, writes: 3, reads: 3).tolerance == 2)
        // And not more than the smaller part.
        #expect(Self.layout(3, copies: 3, writes: 3, reads: 3).tolerance == 1)
        #expect(Self.layout(2, copies: 2, writes: 2, reads: 2).tolerance == 0)
    }

    @Test func `as many nodes may be without their data as a write has copies but one`() {
        #expect(Self.layout(copies: 1, writes: 1, reads: 1).uncovered == 0)
        #expect(Self.layout().uncovered == 1)
        #expect(Self.layout(5, copies: 5, writes: 3, reads: 3).uncovered == 2)
    }

    // MARK: Where keys are

    @Test func `at rest a key is read and written in one place`() throws {
        let map = try CacheMap(Self.layout())
        for key in Self.keys {
            let readers = map.readers(of: key)
            #expect(readers.nodes.count == 3 && Set(readers.nodes).count == 3 && readers.since == 1)
            #expect(map.writers(of: key) == [readers])
            #expect(map.keepers(of: key) == readers.nodes)
        }
    }

    @Test func `while data is copied reads are of before, and writes are of both, each with its quorum`() throws {
        let old = try CacheMap(Self.layout())
        let copying = try CacheMap(Self.moving)
        let new = try CacheMap(Self.moving.advanced().advanced())
        var changed = 0
        for key in Self.keys {
            let (before, after) = (
                old.readers(of: key).nodes.map { old.ids[$0] }, new.readers(of: key).nodes.map { new.ids[$0] }
            )
            #expect(copying.readers(of: key).nodes.map { copying.ids[$0] } == before)
            #expect(copying.readers(of: key).since == 1)
            let writers = copying.writers(of: key)
            #expect(writers[0].nodes.map { copying.ids[$0] } == before && writers[0].since == 1)
            if before != after {
                changed += 1
                #expect(writers[1].nodes.map { copying.ids[$0] } == after && writers[1].since == nil)
            } else {
                #expect(writers.count == 1)
            }
            #expect(Set(copying.keepers(of: key).map { copying.ids[$0] }) == Set(before + after))
        }
        #expect(changed > 20)
    }

    @Test func `while readers switch they read what is complete for after, and writes go to both`() throws {
        let switching = try CacheMap(Self.moving.advanced())
        let new = try CacheMap(Self.moving.advanced().advanced())
        for key in Self.keys {
            let readers = switching.readers(of: key)
            #expect(readers.nodes.map { switching.ids[$0] } == new.readers(of: key).nodes.map { new.ids[$0] })
            #expect(readers.since == 2)
            #expect(switching.writers(of: key).last == readers)
            #expect(new.readers(of: key).since == 2)
        }
    }

    @Test func `hints are kept by somebody who has nothing to do with the key, then by those who have`() throws {
        let map = try CacheMap(Self.layout())
        for key in Self.keys {
            let (keepers, hints) = (map.keepers(of: key), map.hintKeepers(of: key))
            #expect(hints.count == 4 && !keepers.contains(hints[0]) && Array(hints.dropFirst()) == keepers)
        }
        let small = try CacheMap(Self.layout(3))
        #expect(small.hintKeepers(of: "k") == small.keepers(of: "k"))
    }
}
