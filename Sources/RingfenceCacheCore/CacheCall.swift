// SPDX-License-Identifier: Apache-2.0
//
// The calls to one node of a cache, and its answers: cache.lua as values. The machines use these; the shell turns them
// into a script's arguments, the simulation hands them to a model of a node.

/// One key's value as a node keeps it, or as it is handed to a node.
package struct CacheEntry: Sendable, Hashable {
    package var version: CacheVersion
    /// The bytes; nil: removed, or its time is over.
    package var payload: [UInt8]?
    /// Until it is gone, from now; nil: never.
    package var ttlMilliseconds: Int64?
    /// Until the node forgets that there was something, from now; nil: never.
    package var lifeMilliseconds: Int64?

    package init(
        version: CacheVersion, payload: [UInt8]?, ttlMilliseconds: Int64? = nil, lifeMilliseconds: Int64? = nil
    ) {
        self.version = version
        self.payload = payload
        self.ttlMilliseconds = ttlMilliseconds
        self.lifeMilliseconds = lifeMilliseconds
    }
}

/// A key and its entry.
package struct CacheItem: Sendable, Hashable {
    package var key: String
    package var entry: CacheEntry

    package init(_ key: String, _ entry: CacheEntry) {
        self.key = key
        self.entry = entry
    }
}

package enum CacheCall: Sendable, Equatable {
    /// Tells how things stand. The only call that no layout is too old for. With how many hints it keeps for each of
    /// these.
    case hello(hintedTargets: [String])
    /// Stores what is newer than what is there. `notAfter`: a moment of the node's own clock from which on it must not;
    /// the guard against a copy that was read long ago by a process that was paused since.
    case put([CacheItem], notAfter: Int64?)
    case get([String])
    /// The versions only.
    case heads([String])
    /// Some keys; `cursor` "0" begins, and ends.
    case scan(cursor: String)
    /// The node's data is to be completed: what is written from here on is kept, or the nonce is lost with it.
    case begin(nonce: String)
    /// Takes out some keys; as `scan`. Only between a `begin` that told to, of this nonce, and the end of the wipe: one
    /// that comes late, from a process that was paused, would take what others have completed since. The cursor is
    /// empty then.
    case wipe(nonce: String, cursor: String)
    /// It is complete, if the nonce is still there. Not `isFull`: it was complete, and is now so for this layout too.
    case end(nonce: String, isFull: Bool)
    /// From here on nobody is heard who knows an older layout only, or another of the same epoch. `began`: the epoch
    /// that its change began with.
    case raise(layout: [UInt8], began: Int64)
    /// Remembers that `target` lacks these keys.
    case hint(target: String, keys: [String])
    /// The oldest of those.
    case hinted(target: String)
    /// Forgets those that have not been hinted again since.
    case unhint(target: String, [CacheHint])
    /// Reads should prefer others, until the node has got what it missed.
    case behind(Bool)
    /// Takes out keys that have these versions still.
    case drop([CacheHead])
}

package struct CacheHint: Sendable, Hashable {
    package var key: String
    /// When, by the clock of the node that keeps it.
    package var at: Int64

    package init(key: String, at: Int64) {
        self.key = key
        self.at = at
    }
}

package struct CacheHead: Sendable, Hashable {
    package var key: String
    package var version: CacheVersion

    package init(key: String, version: CacheVersion) {
        self.key = key
        self.version = version
    }
}

/// A node's answer: how it stands, and what was asked for.
package struct CacheAnswer: Sendable, Equatable {
    package enum Result: Sendable, Equatable {
        /// The caller's layout is too old, or not the one of its epoch that the node was told of; here is that one, if
        /// the node has it. Nothing was done.
        case outdated(layout: [UInt8]?)
        /// It is past `notAfter`. Nothing was done.
        case late
        /// `wholeLeft`: ms until its data is no longer taken for complete; 0 when it is not.
        case hello(layout: [UInt8]?, hints: [Int64], wholeLeft: Int64)
        /// For each item nil, or what is newer than it.
        case put([CacheVersion?])
        case entries([CacheEntry?])
        case heads([CacheVersion?])
        case keys(cursor: String, [String])
        /// `mustWipe`: its data may be older than what others remember of removals. `isBlank`: it has none.
        case begun(mustWipe: Bool, isBlank: Bool)
        case ended(Bool)
        case hints([CacheHint])
        /// How many were not taken, for want of room.
        case done(Int64)
    }

    /// ms of the node's clock.
    package var now: Int64
    /// Its data is complete for layouts up to this epoch; -1: it lost something, or may have, or is new.
    package var wholeEpoch: Int64
    package var isBehind: Bool
    package var result: Result

    package init(now: Int64, wholeEpoch: Int64, isBehind: Bool, result: Result) {
        self.now = now
        self.wholeEpoch = wholeEpoch
        self.isBehind = isBehind
        self.result = result
    }
}

/// Why no answer came.
package enum CacheFailure: Error, Sendable, Equatable {
    /// Certainly not done.
    case notSent
    /// It may have been done, or may be done yet.
    case unknown
    /// The node refused it: certainly not done.
    case refused
}
