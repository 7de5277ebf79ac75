// SPDX-License-Identifier: Apache-2.0
//
// Where a reader stands in the event log, and whether that place is still in the log.
//
// A number alone would not do. When Redis restarts without its last second, or a replica takes over that had not
// received everything, the log steps back and the same numbers are given again to other events: a reader that stands at
// 105 of the lost part would take the new 106 for the next, and nobody would notice. So each part of the log that was
// written by one life of one server has a random name, its generation, and the log remembers where each generation
// ended:
//
//      g1: 1 … 100 ─┬─ 101 … 105                the reader stands at g1:105; these five were never replicated
//                   └─ g2: 101 … 130 …          the log as it is now: "g2, and of g1 the first 100"
//
// `g1:100` is in this log and goes on with g2:101; `g1:105` is not, whatever the numbers say. A restart that loses
// nothing makes a new generation too, and costs nobody anything.

/// A place in the event log: behind the event `sequence` of the generation `generation`.
package struct LogPosition: Hashable, Sendable {
    /// Beyond this Redis' scripts cannot count (2^53 - 1).
    package static let seqMaximum: Int64 = 9_007_199_254_740_991

    package let generation: String
    package let sequence: Int64

    package init(generation: String, sequence: Int64) {
        self.generation = generation
        self.sequence = sequence
    }

    /// Before the first event of whatever log there is or will be.
    package static let start = LogPosition(generation: "0", sequence: 0)

    package var isStart: Bool { sequence == 0 && generation == Self.start.generation }

    package var text: String { "\(generation):\(sequence)" }

    /// Reads `generation:sequence` as `text` writes it, and nothing else.
    package init?(parsing text: some StringProtocol) {
        let utf8 = text.utf8
        guard let colon = utf8.firstIndex(of: UInt8(ascii: ":")) else { return nil }
        let generation = utf8[..<colon]
        guard Self.isGeneration(generation), let sequence = Self.sequence(utf8[utf8.index(after: colon)...]) else {
            return nil
        }
        self.init(generation: String(decoding: generation, as: UTF8.self), sequence: sequence)
        if self.generation == Self.start.generation, sequence != 0 { return nil }
    }

    /// 1 to 64 of `A-Z a-z 0-9 . _ -`.
    package static func isGeneration(_ bytes: some Collection<UInt8>) -> Bool {
        guard (1...64).contains(bytes.count) else { return false }
        return bytes.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
                true
            default: false
            }
        }
    }

    /// A number of the log in its one spelling: no sign, no leading zero.
    package static func sequence(_ bytes: some Collection<UInt8>) -> Int64? {
        guard let first = bytes.first, bytes.count <= 16, bytes.count == 1 || first != UInt8(ascii: "0") else {
            return nil
        }
        var value: Int64 = 0
        for byte in bytes {
            guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") else { return nil }
            value = value * 10 + Int64(byte - UInt8(ascii: "0"))
        }
        return value <= seqMaximum ? value : nil
    }
}

extension LogPosition: CustomStringConvertible {
    package var description: String { text }
}

/// What the log says of itself at one moment.
package struct LogHead: Hashable, Sendable {
    /// A generation that ended, and its last event that is in the log.
    package struct Fork: Hashable, Sendable {
        package var generation: String
        package var last: Int64

        package init(generation: String, last: Int64) {
            self.generation = generation
            self.last = last
        }
    }

    /// Where a reader stands in the log.
    package enum Judgement: Hashable, Sendable {
        /// What follows the position is what follows it in the log.
        case good
        /// It was in the log, but the event behind it is not kept any more.
        case trimmed
        /// What led to it is not in this log: it was lost, or this is another log.
        case gone
    }

    /// Of the last event; that of `LogPosition.start` if there never was one.
    package var generation: String
    /// The last event; 0 if there is none.
    package var sequence: Int64
    /// The oldest event that is kept; `sequence + 1` if none is.
    package var first: Int64
    /// Newest first.
    package var forks: [Fork]

    package init(generation: String, sequence: Int64, first: Int64, forks: [Fork]) {
        self.generation = generation
        self.sequence = sequence
        self.first = first
        self.forks = forks
    }

    /// Reads the form in which Redis keeps `forks`: `<generation>@<last> <older generation>@<last> …`.
    package init?(generation: String, sequence: Int64, first: Int64, forks text: String) {
        var forks: [Fork] = []
        for word in text.utf8.split(separator: UInt8(ascii: " ")) {
            guard let mark = word.firstIndex(of: UInt8(ascii: "@")), LogPosition.isGeneration(word[..<mark]),
                let last = LogPosition.sequence(word[word.index(after: mark)...])
            else { return nil }
            forks.append(Fork(generation: String(decoding: word[..<mark], as: UTF8.self), last: last))
        }
        self.init(generation: generation, sequence: sequence, first: first, forks: forks)
    }

    /// Behind the last event.
    package var position: LogPosition { LogPosition(generation: generation, sequence: sequence) }

    /// Before the oldest event that is kept.
    package var oldest: LogPosition {
        if first <= 1 { return .start }
        var generation = self.generation
        for fork in forks where fork.last >= first - 1 { generation = fork.generation }
        return LogPosition(generation: generation, sequence: first - 1)
    }

    /// Whether what `position` has seen is in this log, whether or not it is still kept.
    package func contains(_ position: LogPosition) -> Bool {
        if position.isStart { return true }
        if position.generation == generation { return position.sequence <= sequence }
        // A generation stands here once; should it ever stand twice, the stricter end counts.
        return forks.filter { $0.generation == position.generation }.map(\.last).min().map { position.sequence <= $0 }
            ?? false
    }

    package func judge(_ position: LogPosition) -> Judgement {
        guard contains(position) else { return .gone }
        return position.sequence + 1 < first ? .trimmed : .good
    }
}

/// Something with a place in the log: an event.
package protocol LogEntry: Sendable {
    /// Behind this event.
    var position: LogPosition { get }
    /// About how much memory it takes.
    var byteCount: Int { get }
}

/// A piece of the log, as one atomic look at Redis gave it.
package struct LogPage<Entry: LogEntry>: Sendable {
    package var head: LogHead
    /// The events behind the position that was asked for, without a gap, as many as were asked for.
    package var entries: [Entry]
    /// The event behind `entries` is missing or cannot be read, and it is not the end of the log.
    package var isBroken: Bool

    /// - Parameter read: the events that were found, in order; nil stands for one that cannot be read.
    package init(head: LogHead, after sequence: Int64, read: [Entry?]) {
        self.head = head
        entries = []
        entries.reserveCapacity(read.count)
        isBroken = false
        var next = sequence + 1
        for entry in read {
            guard let entry, entry.position.sequence == next else {
                isBroken = true
                return
            }
            entries.append(entry)
            next += 1
        }
        // Nothing found although there should be something: deleted by hand.
        isBroken = entries.isEmpty && sequence < head.sequence
    }
}
