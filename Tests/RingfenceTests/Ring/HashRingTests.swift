// SPDX-License-Identifier: Apache-2.0
//
// The ring as users see it; that it is right is what RingVectorTests and RingfenceCoreTests show.
import Ringfence
import Testing

@Suite struct HashRingTests {
    static let members = [
        HashRing.Member(id: "cache-1", zone: "a"), .init(id: "cache-2", zone: "b", weight: 2),
        .init(id: "cache-3", zone: "c"), .init(id: "cache-4", zone: "a", weight: 0),
    ]

    @Test func `a key is the same as text, as a part of a text and as bytes, and a number is its eight bytes`() throws {
        let ring = try HashRing(Self.members, seed: 42)
        let key = "txn:0000001234567890"
        let position = ring.position(of: key)
        let bytes = Array(key.utf8)
        #expect(ring.position(of: "<\(key)>".dropFirst().dropLast()) == position)
        #expect(ring.position(of: bytes) == position)
        #expect(ring.position(of: ([0] + bytes).dropFirst()) == position)
        #expect(bytes.withUnsafeBytes { ring.position(of: $0) } == position)
        #expect(ring.owner(of: key) == ring.owner(at: position))
        let number: UInt64 = 0x0102_0304_0506_0708
        #expect(ring.position(of: number) == ring.position(of: [8, 7, 6, 5, 4, 3, 2, 1] as [UInt8]))
        #expect(ring.position(of: "") == ring.position(of: [UInt8]()))
    }

    struct AccountID: HashRing.Key {
        var number: UInt64
        func withRingBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result { number.withRingBytes(body) }
    }

    @Test func `a type of the user's own can be a key`() throws {
        let ring = try HashRing(Self.members)
        #expect(ring.owner(of: AccountID(number: 4711)) == ring.owner(of: 4711 as UInt64))
    }

    @Test func `an empty ring and one of drained members own nothing`() throws {
        for ring in [try HashRing(), try HashRing([.init(id: "a", weight: 0), .init(id: "b", weight: 0)])] {
            #expect(ring.isEmpty)
            #expect(ring.owner(of: "key") == nil)
            #expect(ring.ownerIndex(of: "key") == nil)
            #expect(ring.preferenceList(for: "key", count: 3).isEmpty)
            #expect(ring.shares.allSatisfy { $0 == 0 })
            #expect(ring.positions(of: "a") == 0)
        }
    }

    @Test func `the owner comes first, zones differ, and drained members are left out`() throws {
        let ring = try HashRing(Self.members)
        for number in 0..<500 as Range<UInt64> {
            let list = ring.preferenceList(for: number, count: 4)
            #expect(list.first == ring.owner(of: number))
            #expect(Set(list) == ["cache-1", "cache-2", "cache-3"])
            #expect(Array(list.prefix(2)) == Array(ring.preferenceList(for: number, count: 2)))
            #expect(list.indices.map { ring.members[list.memberIndex($0)].id } == Array(list))
            #expect(ring.ownerIndex(of: number) == list.memberIndex(0))
        }
        #expect(ring.preferenceList(for: "key", count: 0).isEmpty)
        #expect(ring.preferenceList(for: "key", count: -1).isEmpty)
        #expect("\(ring.preferenceList(for: "key", count: 1))" == "[\"\(ring.owner(of: "key") ?? "")\"]")
    }

    @Test func `shares follow the weights and add up to one`() throws {
        let ring = try HashRing(Self.members)
        #expect(abs(ring.shares.reduce(0, +) - 1) < 1e-12)
        #expect(abs(ring.share(of: "cache-2") - 0.5) < 0.1)
        #expect(ring.share(of: "cache-4") == 0)
        #expect(ring.share(of: "nobody") == 0)
        #expect(try HashRing([.init(id: "only")]).positions(of: "only") == 1 << 64)
        #expect(ring.member("cache-4")?.isDrained == true)
        #expect(ring.member("nobody") == nil)
    }

    @Test func `a plan knows the fate of each key`() throws {
        let ring = try HashRing(Self.members)
        let joining = [HashRing.Member(id: "cache-4", zone: "a"), .init(id: "cache-5", zone: "b")]
        let plan = try ring.plan(joining: joining, leaving: ["cache-1"])
        let next = try ring.applying(joining: joining, leaving: ["cache-1"])
        var moved = 0
        for number in 0..<5_000 as Range<UInt64> {
            let (before, after) = (ring.owner(of: number), next.owner(of: number))
            let move = plan.move(of: number)
            #expect((move == nil) == (before == after))
            guard let move else { continue }
            moved += 1
            #expect(move.giver == before)
            #expect(move.taker == after)
            #expect(move.range.contains(ring.position(of: number)))
        }
        #expect(abs(Double(moved) / 5_000 - plan.share) < 0.03)
        // The ends belong to the range before; what is behind them does not.
        for move in plan.moves {
            #expect(plan.move(at: move.range.through) == move)
            #expect(!move.range.contains(move.range.after))
        }
        let flows = plan.flows
        #expect(flows.reduce(0) { $0 + $1.positions } == plan.positions)
        #expect(flows.reduce(0) { $0 + $1.ranges } == plan.moves.count)
        #expect(flows.map(\.positions) == flows.map(\.positions).sorted(by: >))
        #expect(flows.allSatisfy { $0.giver == "cache-1" || $0.taker == "cache-4" || $0.taker == "cache-5" })
        #expect(try ring.plan().isEmpty)
        #expect(try ring.diff(to: ring).isEmpty)
        #expect(try ring.diff(to: next).moves == plan.moves)
    }

    @Test func `the first member takes the whole circle from nobody, and the last leaves it to nobody`() throws {
        let empty = try HashRing(seed: 9, pointsPerWeight: 3)
        let plan = try empty.plan(joining: [.init(id: "only")])
        #expect(plan.moves == [.init(range: .init(after: .max, through: .max), giver: nil, taker: "only")])
        #expect(plan.share == 1)
        #expect(plan.move(of: "any")?.taker == "only")
        let back = try HashRing([.init(id: "only")], seed: 9, pointsPerWeight: 3).plan(leaving: ["only"])
        #expect(back.moves == [.init(range: .init(after: .max, through: .max), giver: "only", taker: nil)])
    }

    @Test func `rings are equal if they place every key alike`() throws {
        let ring = try HashRing(Self.members)
        #expect(ring == (try HashRing(Self.members.reversed())))
        #expect(ring == (try HashRing().applying(joining: Self.members)))
        #expect(ring != (try HashRing(Self.members, seed: 1)))
        #expect(ring != (try HashRing(Self.members, pointsPerWeight: 255)))
        #expect(Set([ring, try HashRing(Self.members.reversed())]).count == 1)
        // Ids are bytes: these look alike, and are two members.
        let alike = try HashRing([.init(id: "\u{E9}"), .init(id: "e\u{301}")])
        #expect(alike.memberCount == 2)
        #expect(HashRing.Member(id: "\u{E9}") != HashRing.Member(id: "e\u{301}"))
        #expect(ring.digest.description.utf8.count == 32)
        #expect("\(ring)".contains(ring.digest.description))
    }

    @Test func `what is outside its limits is refused with the field's name, and says what to do`() throws {
        func message(_ body: () throws -> Void) -> String {
            do { try body() } catch let error as RingfenceError {
                #expect(error.code == .argumentInvalid)
                #expect(error.effect == .none)
                return error.message
            } catch { return "\(error)" }
            return ""
        }
        let ring = try HashRing(Self.members)
        #expect(message { _ = try HashRing([.init(id: "")]) }.hasPrefix("id must be 1 to 512 bytes"))
        #expect(message { _ = try HashRing(pointsPerWeight: 0) }.hasPrefix("pointsPerWeight must be 1 to 4096"))
        #expect(message { _ = try ring.applying(leaving: ["cach-1"]) }.contains("\"cach-1\" is none"))
        #expect(
            message { _ = try ring.plan(joining: [.init(id: "x", weight: 2000)]) }.hasPrefix("weight must be 0 to 1000")
        )
        #expect(message { _ = try HashRing([.init(id: "a"), .init(id: "a")]) }.contains("\"a\" is there twice"))
        #expect(message { _ = try ring.diff(to: try HashRing(seed: 1)) }.hasPrefix("seed must be the same"))
        let heavy = (0..<70).map { HashRing.Member(id: "\($0)", weight: 1000) }
        #expect(message { _ = try HashRing(heavy) }.contains("Use smaller weights"))
    }
}
