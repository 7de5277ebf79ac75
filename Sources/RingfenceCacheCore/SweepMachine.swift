// SPDX-License-Identifier: Apache-2.0
//
// Completes the data of one or more nodes from the others: of a node that lost some, of one that is new, of all of them
// from time to time.
//
// Begin on each; wipe it, if its data may be older than the removals that the others remember; wait; then go through
// all keys of every other node whose data is complete, and hand over what is newer there; end on each. What is written
// meanwhile reaches the nodes by itself. If one loses data before the end, the nonce of its begin is lost with it, and
// the end does not count.
//
// Why the wait: a write is acknowledged by nodes one after the other. Had it reached a node that then lost it, and had
// this sweep passed the other's keys before the write came there, nobody would bring it back, and its writer could
// count both. A call lasts no longer than `callLimit`; so whatever was counted before the begin has reached all that
// were counted before the scan.
//
// A node that is complete, and only gets keys that were not its own before (the layout changes), is sent those only.

package import RingfenceCore

package struct SweepMachine: Sendable {
    package struct Job: Sendable, Equatable {
        package var node: Int
        /// It is complete but for the keys that the change of the layout brings it.
        package var isPartial: Bool

        package init(node: Int, isPartial: Bool) {
            self.node = node
            self.isPartial = isPartial
        }
    }

    package enum Outcome: Sendable, Equatable {
        /// These nodes are complete.
        case completed([Int])
        /// A node was lost that was needed, or another layout is in force: look again.
        case failed
    }

    /// How far it is.
    package struct Progress: Sendable, Equatable {
        package var sourcesDone = 0
        package var sources = 0
        package var seen: Int64 = 0
        package var copied: Int64 = 0
    }

    package typealias Call = (node: Int, call: CacheCall)

    private enum Phase: Sendable {
        case beginning, waiting(until: Nanos)
        /// Between two pages, because of the pace.
        case pausing(until: Nanos)
        case scanning, comparing, fetching, storing, dropping, ending, over
    }

    private let map: CacheMap
    private let nonce: String
    private let wait: Nanos
    /// Keys a second.
    private let pace: Int
    private var jobs: [Job]
    private var sources: [Int]
    /// Without one of these a key's last write may not be found. (Others are sources too, which are being completed
    /// themselves and have some of their data: they help, and may fail.)
    private let needed: Set<Int>
    /// Such a source counts as long as it is complete for this epoch.
    private let since: Int64
    private var phase = Phase.beginning
    private var pending: Set<Int> = []
    private var completed: [Int] = []

    private var cursor = "0"
    private var isLastPage = false
    private var pageBeganAt: Nanos = 0
    /// Of the page: key by key, the nodes that are to have it.
    private var wanted: [(key: String, nodes: [Int])] = []
    /// By node and the bytes of a key: two strings may be equal and two keys.
    private var heads: [Int: [[UInt8]: CacheVersion]] = [:]
    private var clocks: [Int: Int64] = [:]
    private var drops: [CacheHead] = []

    package private(set) var progress = Progress()
    package private(set) var outcome: Outcome?
    /// Another one has begun on a node since, or the node lost its data.
    package private(set) var isContested = false
    /// Nodes that had nothing at all.
    package private(set) var blank: [Int] = []

    /// - Parameters:
    ///   - sources: complete nodes.
    ///   - wait: a call's longest time; 0 for a cache that is just being made.
    package init(
        _ map: CacheMap, jobs: [Job], sources: [Int], nonce: String, wait: Nanos, pace: Int
    ) {
        self.map = map
        self.jobs = jobs
        self.sources = sources
        needed = Set(sources)
        self.nonce = nonce
        self.wait = wait
        self.pace = pace
        since = map.layout.membersSince
    }

    package mutating func start() -> [Call] {
        pending = Set(jobs.map(\.node))
        return jobs.map { ($0.node, .begin(nonce: nonce)) }
    }

    package var wakeAt: Nanos {
        switch phase {
        case .waiting(let until), .pausing(let until): until
        default: .never
        }
    }

    package mutating func tick(now: Nanos) -> [Call] {
        guard now >= wakeAt else { return [] }
        if case .waiting = phase { return nextSource(now: now) }
        return scan(now: now)
    }

    // MARK: Answers

    package mutating func failed(_ node: Int, now: Nanos) -> [Call] {
        guard pending.remove(node) != nil else { return [] }
        // It gets nothing more of this sweep.
        jobs.removeAll { $0.node == node }
        heads[node] = nil
        let isOver = jobs.isEmpty && completed.isEmpty
        if isOver || (isReading && node == sources.first) { return fail() }
        if !needed.contains(node) { sources.removeAll { $0 == node } }
        return pending.isEmpty ? next(now: now) : []
    }

    /// A page of the first source is on its way.
    private var isReading: Bool {
        switch phase {
        case .scanning, .comparing, .fetching, .storing, .dropping: true
        case .beginning, .waiting, .pausing, .ending, .over: false
        }
    }

    package mutating func answered(_ node: Int, _ answer: CacheAnswer, now: Nanos) -> [Call] {
        guard pending.contains(node) else { return [] }
        clocks[node] = answer.now
        switch (phase, answer.result) {
        case (_, .outdated): return fail()
        case (.beginning, .begun(let mustWipe, let isBlank)):
            if isBlank { blank.append(node) }
            if mustWipe {
                // It has lost what it had when it was looked at.
                guard !needed.contains(node) else { return fail() }
                sources.removeAll { $0 == node }
                return [(node, .wipe(nonce: nonce, cursor: "0"))]
            }
            if !sources.contains(node) { sources.append(node) }
        case (.beginning, .keys(let cursor, _)):
            guard !cursor.isEmpty else {
                isContested = true
                return failed(node, now: now)
            }
            if cursor != "0" { return [(node, .wipe(nonce: nonce, cursor: cursor))] }
        case (.scanning, .keys(let cursor, let keys)):
            guard isSource(node, answer) else { return fail() }
            pending.remove(node)
            return compare(keys, cursor: cursor, now: now)
        case (.comparing, .heads(let versions)):
            if node == sources.first, !isSource(node, answer) { return fail() }
            let keys = asked(node)
            for (key, version) in zip(keys, versions) { heads[node, default: [:]][Array(key.utf8)] = version }
        case (.fetching, .entries(let entries)):
            guard isSource(node, answer) else { return fail() }
            pending.remove(node)
            return store(entries, now: now)
        case (.storing, .late):
            // The process was paused in between: what it read may be history.
            return fail()
        case (.storing, .put): break
        case (.dropping, .done): break
        case (.ending, .ended(let isWhole)):
            if isWhole { completed.append(node) } else { isContested = true }
        default: return failed(node, now: now)
        }
        pending.remove(node)
        return pending.isEmpty ? next(now: now) : []
    }

    private func isSource(_ node: Int, _ answer: CacheAnswer) -> Bool {
        !needed.contains(node) || answer.wholeEpoch >= since
    }

    private mutating func fail() -> [Call] {
        phase = .over
        outcome = .failed
        pending = []
        return []
    }

    private mutating func next(now: Nanos) -> [Call] {
        switch phase {
        case .beginning:
            progress.sources = sources.count
            guard wait > 0 else { return nextSource(now: now) }
            phase = .waiting(until: now + wait)
            return []
        case .comparing: return fetch(now: now)
        case .storing, .dropping: return endPage(now: now)
        case .ending:
            phase = .over
            outcome = .completed(completed)
            return []
        default: return []
        }
    }

    // MARK: Pages

    private mutating func nextSource(now: Nanos) -> [Call] {
        guard !sources.isEmpty else {
            phase = .ending
            pending = Set(jobs.map(\.node))
            guard !jobs.isEmpty else { return fail() }
            return jobs.map { ($0.node, .end(nonce: nonce, isFull: !$0.isPartial)) }
        }
        cursor = "0"
        return scan(now: now)
    }

    private mutating func scan(now: Nanos) -> [Call] {
        phase = .scanning
        pageBeganAt = now
        pending = [sources[0]]
        return [(sources[0], .scan(cursor: cursor))]
    }

    private mutating func compare(_ keys: [String], cursor: String, now: Nanos) -> [Call] {
        (self.cursor, isLastPage) = (cursor, cursor == "0")
        progress.seen += Int64(keys.count)
        let source = sources[0]
        heads = [:]
        wanted = keys.compactMap { key in
            let keepers = map.keepers(of: key)
            // A key that is not this node's: all nodes that are to have it get it, and then it goes.
            let isForeign = map.layout.step == .settled && !keepers.contains(source)
            let nodes = isForeign ? keepers : jobs.filter { takes($0, key, keepers) }.map(\.node)
            let others = nodes.filter { $0 != source }
            return others.isEmpty ? nil : (key, others)
        }
        guard !wanted.isEmpty else { return endPage(now: now) }
        phase = .comparing
        pending = Set(wanted.flatMap(\.nodes))
        pending.insert(source)
        return pending.sorted().map { ($0, .heads(asked($0))) }
    }

    private func takes(_ job: Job, _ key: String, _ keepers: [Int]) -> Bool {
        guard keepers.contains(job.node) else { return false }
        return !job.isPartial || !map.hadBefore(job.node, key)
    }

    private func asked(_ node: Int) -> [String] {
        node == sources[0] ? wanted.map(\.key) : wanted.filter { $0.nodes.contains(node) }.map(\.key)
    }

    private mutating func fetch(now: Nanos) -> [Call] {
        let source = sources[0]
        let own = heads[source] ?? [:]
        var keys: [String] = []
        drops = []
        for (key, nodes) in wanted {
            guard let version = own[Array(key.utf8)] else { continue }
            if nodes.contains(where: { lacks($0, key, version) }) {
                keys.append(key)
            } else if map.layout.step == .settled, !map.keepers(of: key).contains(source),
                nodes.allSatisfy({ heads[$0] != nil })
            {
                drops.append(CacheHead(key: key, version: version))
            }
        }
        guard !keys.isEmpty else { return drop(now: now) }
        fetched = keys
        phase = .fetching
        pending = [source]
        return [(source, .get(keys))]
    }

    private var fetched: [String] = []

    private func lacks(_ node: Int, _ key: String, _ version: CacheVersion) -> Bool {
        guard let known = heads[node] else { return false }
        return known[Array(key.utf8)].map { $0 < version } ?? true
    }

    private mutating func store(_ entries: [CacheEntry?], now: Nanos) -> [Call] {
        var items: [Int: [CacheItem]] = [:]
        for (key, entry) in zip(fetched, entries) {
            guard let entry, let nodes = wanted.first(where: { $0.key.hasSameBytes(as: key) })?.nodes else { continue }
            for node in nodes where lacks(node, key, entry.version) {
                items[node, default: []].append(CacheItem(key, entry))
            }
        }
        guard !items.isEmpty else { return drop(now: now) }
        phase = .storing
        pending = Set(items.keys)
        progress.copied += Int64(items.values.reduce(0) { $0 + $1.count })
        return items.sorted { $0.key < $1.key }.map { node, items in
            (node, .put(items, notAfter: clocks[node]! + CacheReadMachine.copyLife))
        }
    }

    private mutating func drop(now: Nanos) -> [Call] {
        guard !drops.isEmpty else { return endPage(now: now) }
        phase = .dropping
        pending = [sources[0]]
        return [(sources[0], .drop(drops))]
    }

    private mutating func endPage(now: Nanos) -> [Call] {
        if case .storing = phase, !drops.isEmpty { return drop(now: now) }
        drops = []
        if isLastPage {
            sources.removeFirst()
            progress.sourcesDone += 1
            isLastPage = false
            return nextSource(now: now)
        }
        let next = pageBeganAt + Nanos(wanted.count) * (.second / Nanos(pace))
        guard next > now else { return scan(now: now) }
        phase = .pausing(until: next)
        return []
    }
}
