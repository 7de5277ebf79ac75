// SPDX-License-Identifier: Apache-2.0
//
// `ringfence-bench ring`: the ring as a user calls it, through the public API of another module, with keys that lie in
// memory as bytes. One call after the other, none waiting for the one before: what a process that places many keys
// sees.
//
// The time is taken of every eight thousand lookups, well under a millisecond, and the median of these is what a round
// says: so a round is not spoiled by what else ran on this processor for a while.

import CBenchReference
import Ringfence
import RingfenceConsole

/// Lookups on rings of several sizes, and changes of one.
struct RingLookups {
    static let points = 128
    static let keyLength = 20
    static let keyCount = 65_536
    static let partLength = 8_192

    let seconds: Double
    let rounds: Int

    /// Each place in this text begins a key of twenty bytes. So sixty-five thousand keys fit beside a ring into a
    /// processor's cache, as keys do that a process has just been sent.
    private static let keys: [UInt8] = {
        var number: UInt64 = 0
        return (0..<(keyCount + keyLength)).map { _ in
            number = number &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return UInt8(ascii: "0") + UInt8(number >> 60) % 10
        }
    }()

    static func members(_ count: Int) -> [HashRing.Member] {
        (0..<count).map { HashRing.Member(id: "node-\($0)", zone: "zone-\($0 % 3)") }
    }

    func run(report: (Figure) -> Void) async throws {
        for count in [10, 100, 1_000, 10_000] { report(try await lookups(count)) }
        let ring = try HashRing(Self.members(1_000), unit: Self.points)
        report(try await preferences(ring))
        report(try await joins(ring))
        report(try await plans(ring))
    }

    private func lookups(_ count: Int) async throws -> Figure {
        let ring = try HashRing(Self.members(count), unit: Self.points)
        let reference = try ReferenceRing(count, points: Self.points)
        let rounds = try await Rounds.alternate(rounds) {
            try Self.time(seconds) { keys, range in
                reference.lookups(keys, range)
            }
        } ours: {
            try Self.time(seconds) { keys, range in
                var sum = 0
                for key in range {
                    let bytes = UnsafeRawBufferPointer(rebasing: keys[key..<(key &+ Self.keyLength)])
                    sum &+= ring.owner(of: bytes)?.utf8.count ?? 0
                }
                return sum
            }
        }
        return Figure(
            name: "ring.lookup.\(count)", unit: "ns", rounds: rounds,
            bar: count == 1_000 ? .bothAtMost(value: 10, ratio: 0.1) : nil)
    }

    private func preferences(_ ring: HashRing) async throws -> Figure {
        var values: [Double] = []
        for _ in 0..<rounds {
            values.append(
                try Self.time(seconds) { keys, range in
                    var sum = 0
                    for key in range {
                        let bytes = UnsafeRawBufferPointer(rebasing: keys[key..<(key &+ Self.keyLength)])
                        let list = ring.preferenceList(for: bytes, count: 3)
                        sum &+= list.memberIndex(0) &+ list.memberIndex(1) &+ list.memberIndex(2)
                    }
                    return sum
                })
        }
        return Figure(
            name: "ring.preference3.1000", unit: "ns", value: Statistics.median(values), trials: values.count,
            bar: .valueAtMost(60))
    }

    private func joins(_ ring: HashRing) async throws -> Figure {
        var latencies: [Double] = []
        var serial = 0
        let rounds = try await Rounds.alternate(rounds) {
            let clock = ContinuousClock()
            var trials: [Double] = []
            for _ in 0..<5 {
                let start = clock.now
                _ = try ReferenceRing(1_001, points: Self.points)
                trials.append((clock.now - start).microseconds)
            }
            return Statistics.median(trials)
        } ours: {
            try Self.latencies(seconds, &latencies) {
                serial += 1
                let next = try ring.applying(joining: [.init(id: "new-\(serial)", zone: "zone-1")])
                guard next.pointCount == ring.pointCount + Self.points else {
                    throw CommandFailure("a ring did not grow by a member's points")
                }
            }
        }
        return Figure(name: "ring.join.1000", unit: "us", rounds: rounds, latencies: latencies, bar: .valueAtMost(300))
    }

    private func plans(_ ring: HashRing) async throws -> Figure {
        var latencies: [Double] = []
        var values: [Double] = []
        var serial = 0
        for _ in 0..<rounds {
            values.append(
                try Self.latencies(seconds, &latencies) {
                    serial += 1
                    let plan = try ring.plan(joining: [.init(id: "new-\(serial)", zone: "zone-1")])
                    guard plan.moves.count > Self.points / 2 else { throw CommandFailure("a plan has too few ranges") }
                })
        }
        return Figure(
            name: "ring.plan.1000", unit: "us", value: Statistics.median(values), trials: values.count,
            p50: Statistics.percentile(latencies, 0.5), p99: Statistics.percentile(latencies, 0.99),
            bar: .valueAtMost(50))
    }

    /// The nanoseconds of one lookup. `part` looks up the keys that begin in a range; a sum over what it found must be
    /// the same every time.
    private static func time(
        _ seconds: Double, _ part: (UnsafeRawBufferPointer, Range<Int>) throws -> Int
    ) throws -> Double {
        let ranges = stride(from: 0, to: keyCount, by: partLength).map { $0..<($0 + partLength) }
        return try keys.withUnsafeBytes { keys in
            let clock = ContinuousClock()
            let found = try ranges.map { try part(keys, $0) }
            var times: [Double] = []
            let start = clock.now
            repeat {
                for (range, expected) in zip(ranges, found) {
                    let before = clock.now
                    let sum = try part(keys, range)
                    times.append((clock.now - before).nanoseconds / Double(partLength))
                    guard sum == expected else { throw CommandFailure("the same keys had other owners") }
                }
            } while clock.now - start < .seconds(seconds)
            return Statistics.median(times)
        }
    }

    /// The median time of `body` in microseconds; each one is added to `all`.
    private static func latencies(
        _ seconds: Double, _ all: inout [Double], _ body: () throws -> Void
    ) throws -> Double {
        let clock = ContinuousClock()
        let start = clock.now
        var own: [Double] = []
        repeat {
            let before = clock.now
            try body()
            own.append((clock.now - before).microseconds)
        } while clock.now - start < .seconds(seconds)
        all += own
        return Statistics.median(own)
    }
}

/// Envoy's ring in C; freed with the last reference.
final class ReferenceRing {
    private let ring: OpaquePointer

    init(_ hosts: Int, points: Int) throws {
        guard let ring = reference_ring_create(UInt32(hosts), UInt32(points)) else {
            throw CommandFailure("there is no memory for the reference's ring")
        }
        self.ring = ring
    }

    deinit { reference_ring_free(ring) }

    /// Looks up the keys that begin in a range; the sum of their hosts' numbers.
    func lookups(_ keys: UnsafeRawBufferPointer, _ range: Range<Int>) -> Int {
        let bytes = keys.bindMemory(to: UInt8.self).baseAddress.unsafelyUnwrapped + range.lowerBound
        return Int(truncatingIfNeeded: reference_ring_lookups(ring, bytes, RingLookups.keyLength, range.count))
    }

    /// The number of a key's host.
    func owner(of key: String) -> Int {
        var key = key
        return key.withUTF8 { Int(reference_ring_owner(ring, $0.baseAddress, $0.count)) }
    }
}
