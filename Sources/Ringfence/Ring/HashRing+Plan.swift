// SPDX-License-Identifier: Apache-2.0

import RingfenceCore

extension HashRing {
    /// Positions of a ring: those behind ``after``, clockwise, through ``through``.
    public struct KeyRange: Hashable, Sendable, CustomStringConvertible {
        /// The position in front of the first; not in the range.
        public let after: UInt64
        /// The last position. Less than ``after`` if the range passes 2^64 - 1, and equal to it if it is the whole
        /// circle.
        public let through: UInt64

        /// The range behind `after`, clockwise, through `through`; the whole circle if they are equal.
        public init(after: UInt64, through: UInt64) {
            self.after = after
            self.through = through
        }

        /// Whether a position (``HashRing/position(of:)``) is in the range.
        public func contains(_ position: UInt64) -> Bool {
            after == through || position &- after &- 1 < through &- after
        }

        /// The number of positions in it, 1 to 2^64.
        public var count: UInt128 { after == through ? 1 << 64 : UInt128(through &- after) }
        /// The part of all keys that is in it, 0 to 1.
        public var share: Double { Double(count) / 0x1p64 }

        /// Both ends as 16 hexadecimal digits.
        public var description: String { "(\(hexadecimal(after)), \(hexadecimal(through))]" }
    }

    /// The moves between two rings: which member hands which positions to which other.
    public struct Plan: Sendable, CustomStringConvertible {
        /// A range that changes hands.
        public struct Move: Hashable, Sendable {
            /// The positions that move.
            public let range: KeyRange
            /// The id of the member that owned them; nil: nobody did, since no member had points.
            public let giver: String?
            /// The id of the member that will own them; nil: nobody will.
            public let taker: String?

            /// A move.
            public init(range: KeyRange, giver: String?, taker: String?) {
                self.range = range
                self.giver = giver
                self.taker = taker
            }
        }

        /// All that one member hands to another.
        public struct Flow: Hashable, Sendable {
            /// The id of the member that gives; nil: nobody owned it.
            public let giver: String?
            /// The id of the member that takes; nil: nobody will own it.
            public let taker: String?
            /// The number of ranges.
            public let ranges: Int
            /// The number of positions, 1 to 2^64.
            public let positions: UInt128
            /// The part of all keys, 0 to 1.
            public var share: Double { Double(positions) / 0x1p64 }
        }

        /// The ranges, each as long as it can be, in the order of their ends.
        public let moves: [Move]
        private let seed: UInt64

        init(seed: UInt64, moves: [RingMove]) {
            self.seed = seed
            self.moves = moves.map {
                Move(range: KeyRange(after: $0.after, through: $0.through), giver: $0.giver, taker: $0.taker)
            }
        }

        /// Whether nothing moves.
        public var isEmpty: Bool { moves.isEmpty }
        /// The number of positions that move, 0 to 2^64.
        public var positions: UInt128 { moves.reduce(0) { $0 + $1.range.count } }
        /// The part of all keys that moves, 0 to 1.
        public var share: Double { Double(positions) / 0x1p64 }

        /// The move that a key is part of; nil if it stays where it is.
        @inlinable
        public func move(of key: some Key) -> Move? { key.withRingBytes { move(ofBytes: $0) } }

        @usableFromInline
        func move(ofBytes bytes: UnsafeRawBufferPointer) -> Move? { move(at: RingHash.position(of: bytes, seed: seed)) }

        /// The move that a position is part of; nil if it stays where it is.
        public func move(at position: UInt64) -> Move? {
            // The first that ends at or behind it; a range past 2^64 - 1 is the first of all.
            var low = 0
            var high = moves.count
            while low < high {
                let middle = (low + high) / 2
                if moves[middle].range.through < position { low = middle + 1 } else { high = middle }
            }
            if low < moves.count, moves[low].range.contains(position) { return moves[low] }
            return moves.first.flatMap { $0.range.contains(position) ? $0 : nil }
        }

        /// The moves added up for each pair of members, the largest first.
        public var flows: [Flow] {
            struct Pair: Hashable {
                let giver: Text?
                let taker: Text?
            }
            struct Text: Hashable {
                let text: String
                static func == (one: Text, other: Text) -> Bool { one.text.hasSameBytes(as: other.text) }
                func hash(into hasher: inout Hasher) { hasher.combineBytes(of: text) }
            }
            var sums: [Pair: (ranges: Int, positions: UInt128)] = [:]
            for move in moves {
                let pair = Pair(giver: move.giver.map(Text.init), taker: move.taker.map(Text.init))
                let sum = sums[pair] ?? (0, 0)
                sums[pair] = (sum.ranges + 1, sum.positions + move.range.count)
            }
            return sums.map { pair, sum in
                Flow(
                    giver: pair.giver?.text, taker: pair.taker?.text, ranges: sum.ranges, positions: sum.positions)
            }.sorted { one, other in
                if one.positions != other.positions { return one.positions > other.positions }
                let (giver, others) = (one.giver ?? "", other.giver ?? "")
                if !giver.hasSameBytes(as: others) { return giver.isBefore(others) }
                return (one.taker ?? "").isBefore(other.taker ?? "")
            }
        }

        /// A line for logs.
        public var description: String { "Plan(\(moves.count) ranges, \(share) of all keys)" }
    }
}
