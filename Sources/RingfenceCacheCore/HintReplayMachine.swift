// SPDX-License-Identifier: Apache-2.0
//
// Brings one node what it missed while it was away: the keys that others noted for it (hints).
//
// A hint is a key and no value: those that have the value keep it anyway, and the newest value by then is handed over.
// So a key that was written a thousand times meanwhile is one hint. A node that lacks something does no harm while
// quorums are kept, so hints may be lost; with them it catches up sooner.

package import RingfenceCore

package struct HintReplayMachine: Sendable {
    package typealias Call = SweepMachine.Call

    private enum Phase: Sendable {
        case marking, listing, fetching, storing, forgetting, pausing(until: Nanos), unmarking, over
    }

    private let map: CacheMap
    package let target: Int
    /// The nodes that keep hints for it.
    private var hintKeepers: [Int]
    /// The nodes whose data is complete.
    private let sources: [Int]
    private let pace: Int
    private var phase = Phase.marking
    private var pending: Set<Int> = []
    private var targetClock: Int64 = 0
    private var page: [CacheHint] = []
    private var asked: [Int: [String]] = [:]
    /// By the bytes of a key: two strings may be equal and two keys.
    private var newest: [[UInt8]: CacheItem] = [:]
    private var pageBeganAt: Nanos = 0

    package private(set) var copied: Int64 = 0
    /// Whether all is brought; nil: not over yet.
    package private(set) var outcome: Bool?

    package init(_ map: CacheMap, target: Int, hintKeepers: [Int], sources: [Int], pace: Int) {
        self.map = map
        self.target = target
        self.hintKeepers = hintKeepers
        self.sources = sources
        self.pace = pace
    }

    package mutating func start() -> [Call] {
        guard !hintKeepers.isEmpty else { return unmark() }
        pending = [target]
        return [(target, .behind(true))]
    }

    package var wakeAt: Nanos { if case .pausing(let until) = phase { until } else { .never } }

    package mutating func tick(now: Nanos) -> [Call] { now >= wakeAt ? list(now: now) : [] }

    package mutating func failed(_ node: Int, now: Nanos) -> [Call] {
        guard pending.remove(node) != nil else { return [] }
        // A source may be missing: another has it, or it stays hinted.
        if case .fetching = phase {
            asked[node] = nil
            return pending.isEmpty ? store(now: now) : []
        }
        return end(false)
    }

    package mutating func answered(_ node: Int, _ answer: CacheAnswer, now: Nanos) -> [Call] {
        guard pending.contains(node) else { return [] }
        if node == target { targetClock = answer.now }
        pending.remove(node)
        switch (phase, answer.result) {
        case (.marking, .done): return list(now: now)
        case (.listing, .hints(let hints)):
            page = hints
            guard !hints.isEmpty else {
                hintKeepers.removeFirst()
                return hintKeepers.isEmpty ? unmark() : list(now: now)
            }
            return fetch(now: now)
        case (.fetching, .entries(let entries)):
            // It has lost its data since it was looked at: what it may have kept is no news.
            guard answer.wholeEpoch >= map.layout.membersSince else {
                asked[node] = nil
                return pending.isEmpty ? store(now: now) : []
            }
            for (key, entry) in zip(asked[node] ?? [], entries) {
                guard let entry else { continue }
                let bytes = Array(key.utf8)
                if let known = newest[bytes], known.entry.version >= entry.version { continue }
                newest[bytes] = CacheItem(key, entry)
            }
            return pending.isEmpty ? store(now: now) : []
        case (.storing, .put): return forget()
        case (.forgetting, .done):
            let next = pageBeganAt + Nanos(page.count) * (.second / Nanos(pace))
            guard next > now else { return list(now: now) }
            phase = .pausing(until: next)
            return []
        case (.unmarking, .done): return end(true)
        default: return end(false)
        }
    }

    private mutating func end(_ isDone: Bool) -> [Call] {
        (phase, outcome, pending) = (.over, isDone, [])
        return []
    }

    private mutating func list(now: Nanos) -> [Call] {
        phase = .listing
        pageBeganAt = now
        pending = [hintKeepers[0]]
        return [(hintKeepers[0], .hinted(target: map.ids[target]))]
    }

    private mutating func fetch(now: Nanos) -> [Call] {
        phase = .fetching
        (asked, newest) = ([:], [:])
        for hint in page {
            // The node that keeps the hint may have the value in the target's place.
            var nodes = map.keepers(of: hint.key)
            if !nodes.contains(hintKeepers[0]) { nodes.append(hintKeepers[0]) }
            for node in nodes where node != target && sources.contains(node) {
                asked[node, default: []].append(hint.key)
            }
        }
        guard !asked.isEmpty else { return end(false) }
        pending = Set(asked.keys)
        return asked.sorted { $0.key < $1.key }.map { ($0.key, .get($0.value)) }
    }

    private mutating func store(now: Nanos) -> [Call] {
        guard !asked.isEmpty else { return end(false) }
        let items = newest.sorted { $0.key.lexicographicallyPrecedes($1.key) }.map(\.value)
        guard !items.isEmpty else { return forget() }
        phase = .storing
        copied += Int64(items.count)
        pending = [target]
        return [(target, .put(items, notAfter: targetClock + CacheReadMachine.copyLife))]
    }

    private mutating func forget() -> [Call] {
        phase = .forgetting
        pending = [hintKeepers[0]]
        return [(hintKeepers[0], .unhint(target: map.ids[target], page))]
    }

    private mutating func unmark() -> [Call] {
        phase = .unmarking
        pending = [target]
        return [(target, .behind(false))]
    }
}
