// SPDX-License-Identifier: Apache-2.0
//
// What a Redis that runs cache.lua does, said in Swift: the reference model of one node of a replicated cache. The
// simulation runs the machines against it, and the script fuzz compares it with the real script on a real Redis. It is
// written from the contract in the script's header:
//
//  - an entry is replaced by a newer one only, and what is over stands until it may be forgotten;
//  - a node is whole while the word of its last completion holds: this run, not long ago, not in the future;
//  - nobody is heard who knows an older layout, or another of the same epoch, except to say hello.
//
// Time is the caller's: `clock` is the server's, in ms, and may step either way. What Redis forgets by itself (PX) is
// forgotten at the beginning of the next call. The flaws are wrong on purpose, for the controls that must be found.
package import RingfenceCacheCore
import RingfenceCore

package struct CacheNodeModel: Sendable {
    package struct Flaws: Sendable {
        /// A node that lost its data says that it has all of it.
        package var isAlwaysWhole = false
        /// Who knows an old layout is heard all the same.
        package var ignoresEpochs = false
        /// Whoever tells it to is obeyed, however late.
        package var wipesForAnybody = false
        /// A copy may come as late as it likes.
        package var ignoresNotAfter = false
        package init() {}
    }

    /// Two strings may be equal and two keys.
    package struct Key: Sendable, Hashable {
        package let text: String
        package init(_ text: String) { self.text = text }
        package static func == (one: Key, other: Key) -> Bool { one.text.hasSameBytes(as: other.text) }
        package func hash(into hasher: inout Hasher) { hasher.combineBytes(of: text) }
    }

    package struct Stored: Sendable, Equatable {
        package var version: CacheVersion
        package var isRemoval: Bool
        /// ms of the node's clock; 0: never.
        package var ends: Int64
        package var forgets: Int64
        package var payload: [UInt8]
    }

    /// The hash that says how the node stands; nil: no such field.
    package struct Standing: Sendable, Equatable {
        package var stamp: CacheStamp?
        package var layout: [UInt8]?
        package var run: String?
        package var wholeEpoch: Int64?
        package var swept: Int64?
        package var wholeUntil: Int64?
        package var isBehind = false
        package var building: String?
        package var buildingRun: String?
        package var buildingEpoch: Int64?
        package var began: Int64?
        package var isWiping = false
    }

    package let freshness: Int64
    package let hintLimit: Int
    /// Keys in a page.
    package let page: Int
    package let flaws: Flaws

    package var clock: Int64
    package private(set) var entries: [Key: Stored] = [:]
    package private(set) var standing = Standing()
    /// By target: the keys, and when.
    package private(set) var hints: [Key: [Key: Int64]] = [:]

    package init(
        clock: Int64, freshness: Int64, hintLimit: Int, page: Int = 256, flaws: Flaws = Flaws()
    ) {
        self.clock = clock
        self.freshness = freshness
        self.hintLimit = hintLimit
        self.page = page
        self.flaws = flaws
    }

    /// All is gone: a flush, or a restart without data.
    package mutating func forgetEverything() {
        entries = [:]
        standing = Standing()
        hints = [:]
    }

    /// The data is what it was then: a restart that lost what was newest.
    package mutating func stepBack(to other: CacheNodeModel) {
        (entries, standing, hints) = (other.entries, other.standing, other.hints)
    }

    /// The keys whose time is over are gone, as Redis does it by itself. Tells which.
    @discardableResult
    package mutating func forgetWhatMayBe() -> [Key] {
        let gone = entries.filter { $0.value.forgets > 0 && clock > $0.value.forgets }.map(\.key)
        for key in gone { entries[key] = nil }
        return gone
    }

    /// Of which epoch its data is complete, for somebody who knows the server as `run`.
    package func wholeEpoch(run: String) -> Int64 {
        if flaws.isAlwaysWhole { return .max }
        guard standing.run == run, let swept = standing.swept, let until = standing.wholeUntil, clock >= swept,
            clock < until
        else { return -1 }
        return standing.wholeEpoch ?? -1
    }

    // MARK: Calls

    package mutating func call(_ call: CacheCall, stamp: CacheStamp, run: String) -> CacheAnswer {
        forgetWhatMayBe()
        let whole = wholeEpoch(run: run)
        if case .hello(let targets) = call {
            let counts = targets.map { Int64(hints[Key($0)]?.count ?? 0) }
            let left = whole < 0 ? 0 : (standing.wholeUntil ?? clock + freshness) - clock
            return answer(run, .hello(layout: standing.layout, hints: counts, wholeLeft: left))
        }
        let known = standing.stamp ?? .none
        let isHeard = stamp == known || stamp.epoch > known.epoch
        if !isHeard, !(flaws.ignoresEpochs && stamp.epoch < known.epoch) {
            return answer(run, .outdated(layout: standing.layout))
        }
        // As it stood before the call.
        var answer = answer(run, .late)
        if case .put(_, let notAfter?) = call, clock > notAfter, notAfter > 0, !flaws.ignoresNotAfter { return answer }
        answer.result = result(of: call, stamp: stamp, run: run, isWhole: whole >= 0)
        switch call {
        case .end, .behind:
            answer.isBehind = standing.isBehind
            if answer.result == .ended(true) { answer.wholeEpoch = standing.wholeEpoch ?? -1 }
        case .raise: answer.wholeEpoch = wholeEpoch(run: run)
        default: break
        }
        return answer
    }

    private func answer(_ run: String, _ result: CacheAnswer.Result) -> CacheAnswer {
        CacheAnswer(
            now: clock, wholeEpoch: wholeEpoch(run: run), isBehind: standing.isBehind,
            result: result)
    }

    private mutating func result(
        of call: CacheCall, stamp: CacheStamp, run: String, isWhole: Bool
    ) -> CacheAnswer.Result {
        switch call {
        case .hello: preconditionFailure("answered before")
        case .put(let items, _): return .put(items.map { put($0) })
        case .get(let keys): return .entries(keys.map { get($0) })
        case .heads(let keys): return .heads(keys.map { entries[Key($0)]?.version })
        case .scan(let cursor):
            let (next, keys) = keys(after: cursor)
            return .keys(cursor: next, keys)
        case .wipe(let nonce, let cursor):
            let isAllowed = standing.building == nonce && standing.buildingRun == run && standing.isWiping
            guard isAllowed || flaws.wipesForAnybody else { return .keys(cursor: "", []) }
            let (next, keys) = keys(after: cursor)
            if next == "0" { standing.isWiping = false }
            for key in keys { entries[Key(key)] = nil }
            return .keys(cursor: next, [])
        case .begin(let nonce):
            (standing.building, standing.buildingRun) = (nonce, run)
            (standing.buildingEpoch, standing.began) = (stamp.epoch, clock)
            standing.isWiping = standing.swept.map { clock < $0 || clock - $0 >= freshness } ?? true
            let isBlank = standing.swept == nil
            if standing.isWiping { standing.swept = nil }
            return .begun(mustWipe: standing.isWiping, isBlank: isBlank)
        case .end(let nonce, let isFull): return .ended(end(nonce, run, isFull: isFull, isWhole: isWhole))
        case .raise(let layout, let began):
            let known = standing.stamp ?? .none
            if let whole = standing.wholeEpoch, known.change != stamp.change, whole >= began {
                standing.wholeEpoch = began - 1
            }
            standing.stamp = stamp
            standing.layout = layout.isEmpty ? nil : layout
            return .done(0)
        case .hint(let target, let keys): return .done(hint(target, keys))
        case .hinted(let name):
            let target = Key(name)
            hints[target] = hints[target]?.filter { $0.value > clock - freshness }
            let list = (hints[target] ?? [:]).map { CacheHint(key: $0.key.text, at: $0.value) }
            let inOrder = list.sorted { $0.at != $1.at ? $0.at < $1.at : $0.key.isBefore($1.key) }
            return .hints(Array(inOrder.prefix(page)))
        case .unhint(let name, let list):
            let target = Key(name)
            for hint in list where hints[target]?[Key(hint.key)] == hint.at {
                hints[target]?[Key(hint.key)] = nil
            }
            return .done(0)
        case .behind(let isBehind):
            standing.isBehind = isBehind
            return .done(0)
        case .drop(let heads):
            for head in heads where entries[Key(head.key)]?.version == head.version { entries[Key(head.key)] = nil }
            return .done(0)
        }
    }

    private mutating func put(_ item: CacheItem) -> CacheVersion? {
        let entry = item.entry
        let key = Key(item.key)
        if let old = entries[key] {
            if old.version > entry.version { return old.version }
            if old.version == entry.version { return nil }
        }
        let life = entry.lifeMilliseconds ?? -1
        guard life != 0 else { return nil }
        entries[key] = Stored(
            version: entry.version, isRemoval: entry.payload == nil,
            ends: entry.ttlMilliseconds.map { clock + $0 } ?? 0, forgets: life > 0 ? clock + life : 0,
            payload: entry.payload ?? [])
        return nil
    }

    private func get(_ key: String) -> CacheEntry? {
        guard let stored = entries[Key(key)] else { return nil }
        let isOver = stored.isRemoval || (stored.ends > 0 && clock >= stored.ends)
        return CacheEntry(
            version: stored.version, payload: isOver ? nil : stored.payload,
            ttlMilliseconds: !isOver && stored.ends > 0 ? stored.ends - clock : nil,
            lifeMilliseconds: stored.forgets > 0 ? max(0, stored.forgets - clock) : nil)
    }

    /// The cursor is the last key of the page before. Redis' says something else, but promises the same: what was there
    /// all the time is met.
    private func keys(after cursor: String) -> (next: String, keys: [String]) {
        let all = entries.keys.map(\.text).sorted { $0.isBefore($1) }
        let rest = cursor == "0" ? all[...] : all.drop { !cursor.isBefore("k" + $0) }
        let keys = Array(rest.prefix(page))
        return (rest.count > keys.count ? "k" + keys.last! : "0", keys)
    }

    private mutating func end(_ nonce: String, _ run: String, isFull: Bool, isWhole: Bool) -> Bool {
        guard standing.building == nonce, standing.buildingRun == run, let began = standing.began else { return false }
        let epoch = standing.buildingEpoch
        (standing.building, standing.buildingRun, standing.buildingEpoch, standing.began) = (nil, nil, nil, nil)
        standing.isWiping = false
        if !isFull {
            if isWhole { standing.wholeEpoch = epoch }
            return isWhole
        }
        guard clock >= began, clock < began + freshness else { return false }
        // What was removed since it was completed last may be forgotten by now.
        if let swept = standing.swept, (clock - swept) * 3 >= freshness * 4 { return false }
        (standing.run, standing.wholeEpoch, standing.swept) = (run, epoch, began)
        standing.wholeUntil = began + freshness
        return true
    }

    private mutating func hint(_ name: String, _ keys: [String]) -> Int64 {
        let target = Key(name)
        var room = hintLimit - (hints[target]?.count ?? 0)
        var refused: Int64 = 0
        for key in keys.map(Key.init) {
            if hints[target]?[key] == nil {
                guard room > 0 else {
                    refused += 1
                    continue
                }
                room -= 1
            }
            hints[target, default: [:]][key] = clock
        }
        return refused
    }
}
