// SPDX-License-Identifier: Apache-2.0
//
// One read of one key: from all its nodes at once, answered by the newest of enough of them.
//
// Only a node whose data is complete counts, and only such a node is listened to: another may have lost what it
// acknowledged, or kept a value whose removal all others have forgotten. A node that is still being sent what it missed
// counts if there are not enough others. The rest are heard after the answer, so that nodes that are behind are
// repaired.

package struct CacheReadMachine: Sendable {
    package enum Action: Sendable, Equatable {
        case none
        /// The newest entry; nil: nobody ever heard of the key.
        case done(CacheEntry?)
        case outdated([UInt8]?)
        /// Not enough nodes answer, or they are not complete.
        case failed
    }

    /// Hand the newest entry to a node that lacks it.
    package struct Repair: Sendable, Equatable {
        package var node: Int
        package var entry: CacheEntry
        /// By the node's clock: what was read now may be history then.
        package var notAfter: Int64
    }

    /// How long what was read of one node may be written to another, in ms.
    package static let copyLife: Int64 = 5_000

    private struct Heard: Sendable {
        var entry: CacheEntry?
        var now: Int64
        var isCounted: Bool
        var isBehind: Bool
    }

    private let copies: CacheMap.Copies
    private let epoch: Int64
    private let reads: Int
    private var otherChange: [UInt8]?
    private var heard: [Int: Heard?] = [:]
    private var isOver = false

    /// The nodes it is sent to.
    package var nodes: [Int] { copies.nodes }

    package init(_ map: CacheMap, key: String, reads: Int) {
        copies = map.readers(of: key)
        epoch = map.stamp.epoch
        self.reads = reads
    }

    /// Whether all have been heard of.
    package var isSettled: Bool { heard.count == copies.nodes.count }

    package mutating func answered(_ node: Int, _ answer: CacheAnswer) -> Action {
        switch answer.result {
        case .entries(let entries):
            heard[node] = Heard(
                entry: entries.first ?? nil, now: answer.now,
                isCounted: copies.since.map { answer.wholeEpoch >= $0 } ?? true, isBehind: answer.isBehind)
            return judge()
        case .outdated(let json):
            if let json, CacheLayout(json: json)?.epoch == epoch {
                // Told of another change under this epoch (CacheWriteMachine).
                otherChange = json
                return failed(node)
            }
            heard[node] = .some(nil)
            return outdated(json)
        default:
            return failed(node)
        }
    }

    package mutating func failed(_ node: Int) -> Action {
        heard[node] = .some(nil)
        return judge()
    }

    private mutating func outdated(_ json: [UInt8]?) -> Action {
        guard !isOver else { return .none }
        isOver = true
        return .outdated(json)
    }

    private var counted: [Heard] { heard.values.compactMap { $0 }.filter(\.isCounted) }

    private var newest: CacheEntry? {
        counted.compactMap(\.entry).max { one, other in
            // The same version with and without its time over: it is over.
            one.version == other.version ? (one.payload != nil && other.payload == nil) : one.version < other.version
        }
    }

    private mutating func judge() -> Action {
        guard !isOver else { return .none }
        let counted = counted
        let isEnough =
            counted.count { !$0.isBehind } >= reads || (isSettled && counted.count >= reads)
        if isEnough {
            isOver = true
            return .done(newest)
        }
        let possible = counted.count + copies.nodes.count - heard.count
        guard possible < reads else { return .none }
        if let otherChange { return outdated(otherChange) }
        isOver = true
        return .failed
    }

    /// The nodes that answered and lack the newest entry, once all are settled.
    package var repairs: [Repair] {
        guard let newest else { return [] }
        return copies.nodes.compactMap { node in
            guard let heard = heard[node] ?? nil, heard.entry.map({ $0.version < newest.version }) ?? true
            else { return nil }
            return Repair(node: node, entry: newest, notAfter: heard.now + Self.copyLife)
        }
    }
}
