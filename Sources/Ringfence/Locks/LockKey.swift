// SPDX-License-Identifier: Apache-2.0

import RingfenceCore

/// Who shares a place in Redis' queue: the same names, on the same connection.
struct LockKey: Sendable {
    var names: [String]
    var confirmation: ScriptRunner.Confirmation?
    /// Not 0: a waiter that shares its place with nobody, because what it gets is held outside this process.
    var solo: UInt64
    /// Of the names; taken once, as a key is looked up several times for each command.
    let hash: Int

    /// Which shard it belongs to: the same for the same names.
    var shard: Int { Int(UInt(bitPattern: hash) % UInt(LockTable.shardCount)) }

    init(names: [String], confirmation: ScriptRunner.Confirmation? = nil, solo: UInt64 = 0) {
        self.names = names
        self.confirmation = confirmation
        self.solo = solo
        var hasher = Hasher()
        for name in names { hasher.combineBytes(of: name) }
        hash = hasher.finalize()
    }
}

// Names are compared by their bytes, as Redis does. Swift's own comparison takes two spellings of one accented letter
// for the same; these would be two locks to everybody else.
extension LockKey: Hashable {
    static func == (one: Self, other: Self) -> Bool {
        one.hash == other.hash && one.solo == other.solo && one.confirmation == other.confirmation
            && one.names.count == other.names.count
            && zip(one.names, other.names).allSatisfy { $0.hasSameBytes(as: $1) }
    }

    func hash(into hasher: inout Hasher) {
        hasher.combine(solo)
        hasher.combine(hash)
    }
}
