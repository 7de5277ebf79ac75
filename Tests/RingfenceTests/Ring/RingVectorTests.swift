// SPDX-License-Identifier: Apache-2.0
//
// The ring in two languages. ring.py was written from the specification alone; what it says must be what the library
// says, to the last bit: on the published vectors, and on ten thousand keys of a ring made for the occasion.
import Foundation
import Ringfence
import TestSupport
import Testing

@Suite struct RingVectorTests {
    static let directory = URL(filePath: #filePath).deletingLastPathComponent().path
    static let python = directory + "/ring.py"
    static let vectorFile = directory + "/vectors.json"

    struct Vectors: Decodable {
        var version: Int
        var hashes: [Hash]
        var rings: [Ring]

        struct Hash: Decodable {
            var bytes: String
            var seed: String
            var hash: String
        }
        struct Member: Decodable {
            var id: String
            var weight: Int
            var zone: String
            var member: HashRing.Member { .init(id: id, zone: zone, weight: weight) }
        }
        struct Share: Decodable {
            var id: String
            var positions: String
        }
        struct Key: Decodable {
            var text: String?
            var number: String?
            var position: String
            var owner: String?
            var preference: [String]
        }
        struct Move: Decodable {
            var after: String
            var through: String
            var giver: String?
            var taker: String?
        }
        struct Change: Decodable {
            var joining: [Member]
            var leaving: [String]
            var digest: String
            var moves: [Move]
        }
        struct Ring: Decodable {
            var name: String
            var seed: String
            var pointsPerWeight: Int
            var members: [Member]
            var digest: String
            var shares: [Share]
            var keys: [Key]
            var change: Change
        }
    }

    /// Ids by their bytes: Swift takes two strings for equal that are two members.
    static func bytes(_ text: String?) -> [UInt8]? { text.map { Array($0.utf8) } }

    static func hex(_ text: String) throws -> UInt64 { try #require(UInt64(text, radix: 16)) }

    @Test func `the published vectors are what the library says`() throws {
        let vectors = try JSONDecoder().decode(Vectors.self, from: try Data(contentsOf: URL(filePath: Self.vectorFile)))
        #expect(vectors.version == 1)
        for hash in vectors.hashes {
            let digits = Array(hash.bytes)
            let bytes = stride(from: 0, to: digits.count, by: 2).map {
                UInt8(String(digits[$0...($0 + 1)]), radix: 16) ?? 0
            }
            let ring = try HashRing(seed: Self.hex(hash.seed))
            #expect(ring.position(of: bytes) == (try Self.hex(hash.hash)), "\(bytes.count) bytes, seed \(hash.seed)")
        }
        for vector in vectors.rings {
            let ring = try HashRing(
                vector.members.map(\.member), seed: Self.hex(vector.seed), pointsPerWeight: vector.pointsPerWeight)
            #expect(ring.digest.description == vector.digest, "\(vector.name)")
            #expect(ring.members.map { Self.bytes($0.id) } == vector.shares.map { Self.bytes($0.id) })
            for share in vector.shares {
                #expect(String(ring.positions(of: share.id)) == share.positions, "\(vector.name), \(share.id)")
            }
            for key in vector.keys {
                try check(key, ring, vector.name)
            }
            try check(vector.change, ring, vector.name)
        }
        #expect(vectors.rings.count == 8)
    }

    private func check(_ key: Vectors.Key, _ ring: HashRing, _ name: String) throws {
        func check(_ value: some HashRing.Key) throws {
            let position = ring.position(of: value)
            #expect(position == (try Self.hex(key.position)), "\(name)")
            #expect(Self.bytes(ring.owner(of: value)) == Self.bytes(key.owner), "\(name)")
            #expect(Self.bytes(ring.owner(at: position)) == Self.bytes(key.owner), "\(name)")
            let list = ring.preferenceList(for: value, count: 5)
            #expect(list.map { Self.bytes($0) } == key.preference.map { Self.bytes($0) }, "\(name)")
        }
        if let text = key.text {
            try check(text)
            try check(Array(text.utf8))
            try check(("<" + text + ">").dropFirst().dropLast())
        } else {
            try check(try #require(key.number.flatMap { UInt64($0) }))
        }
    }

    private func check(_ change: Vectors.Change, _ ring: HashRing, _ name: String) throws {
        let joining = change.joining.map(\.member)
        let next = try ring.applying(joining: joining, leaving: change.leaving)
        #expect(next.digest.description == change.digest, "\(name)")
        for plan in [try ring.plan(joining: joining, leaving: change.leaving), try ring.diff(to: next)] {
            #expect(plan.moves.count == change.moves.count, "\(name)")
            for (move, expected) in zip(plan.moves, change.moves) {
                #expect(move.range.after == (try Self.hex(expected.after)), "\(name)")
                #expect(move.range.through == (try Self.hex(expected.through)), "\(name)")
                #expect(Self.bytes(move.giver) == Self.bytes(expected.giver), "\(name)")
                #expect(Self.bytes(move.taker) == Self.bytes(expected.taker), "\(name)")
            }
        }
    }

    @Test func `the published vectors are what the Python ring says today`() async throws {
        let fresh = try await output(of: "python3", ["-B", Self.python, "vectors"])
        #expect(fresh == (try String(contentsOfFile: Self.vectorFile, encoding: .utf8)))
    }

    @Test func `a Python ring written from the specification agrees on 10,000 keys, lists, shares, a plan and digests`()
        async throws
    {
        var dice = SplitMix64(seed: 20_261_123)
        let members = (0..<24).map { number in
            HashRing.Member(
                id: "10.0.\(number).7:7000", zone: "zone-\(number % 4)", weight: number % 7 == 0 ? 0 : 1 + number % 3)
        }
        let joining = [
            HashRing.Member(id: "10.0.99.7:7000", zone: "zone-9"),
            .init(id: "10.0.3.7:7000", zone: "zone-3", weight: 5),
        ]
        let leaving = ["10.0.5.7:7000", "10.0.7.7:7000"]
        let (seed, pointsPerWeight, count) = (dice.next(), 64, 3)
        let keys = (0..<10_000).map { _ in
            (0..<dice.pick(0...40)).map { _ in UInt8(truncatingIfNeeded: dice.next()) }
        }
        let numbers = (0..<100).map { _ in dice.next() }

        var job = "ring \(seed) \(pointsPerWeight) \(count)\n"
        for (kind, list) in [("member", members), ("join", joining)] {
            for member in list { job += "\(kind) \(Self.word(member.id)) \(member.weight) \(Self.word(member.zone))\n" }
        }
        for id in leaving { job += "leave \(Self.word(id))\n" }
        for key in keys { job += "key \(Self.word(key))\n" }
        for number in numbers { job += "number \(number)\n" }
        let directory = try TemporaryDirectory()
        try job.write(toFile: directory.path + "/job", atomically: true, encoding: .utf8)

        let answers = try await output(of: "python3", ["-B", Self.python, "answer", directory.path + "/job"])
        let ring = try HashRing(members, seed: seed, pointsPerWeight: pointsPerWeight)
        let next = try ring.applying(joining: joining, leaving: leaving)
        var expected: [String] = []
        for (name, ring) in [("before", ring), ("after", next)] {
            expected.append("\(name) \(ring.digest) \(ring.pointCount)")
            for member in ring.members {
                expected.append("share \(Self.word(member.id)) \(ring.positions(of: member.id))")
            }
            for key in keys { expected.append(Self.line(key, ring, count)) }
            for number in numbers { expected.append(Self.line(number, ring, count)) }
        }
        for move in try ring.plan(joining: joining, leaving: leaving).moves {
            expected.append(
                "move \(Self.digits(move.range.after)) \(Self.digits(move.range.through)) "
                    + "\(move.giver.map(Self.word) ?? "nobody") \(move.taker.map(Self.word) ?? "nobody")")
        }
        let said = answers.split(separator: "\n").map(String.init)
        #expect(said.count == expected.count)
        // One message for the first difference, not twenty thousand.
        #expect(zip(said, expected).first { $0 != $1 } == nil)
    }

    static func word(_ text: String) -> String { word(Array(text.utf8)) }

    static func word(_ bytes: [UInt8]) -> String {
        "x" + bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    static func digits(_ number: UInt64) -> String {
        let digits = String(number, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }

    static func line(_ key: some HashRing.Key, _ ring: HashRing, _ count: Int) -> String {
        let list = ring.preferenceList(for: key, count: count).map { word($0) }.joined(separator: " ")
        return "key \(digits(ring.position(of: key))) \(ring.owner(of: key).map { word($0) } ?? "nobody") \(list)"
    }
}
