// SPDX-License-Identifier: Apache-2.0
//
// The worker behind a cache: what its nodes lost, missed or are to have from now on, it brings them.
//
// One process does it for all, whoever has the lock; but nothing here rests on that. Two of them at once get in each
// other's way and do no harm: layouts are exchanged by comparing epochs, a sweep that another one began over is not
// ended, and what is copied is only ever newer than what is there.
//
// It goes round and round: look at all nodes, then do the first of these that is to be done, then look again.
//
//     1  a newer layout is known to some node         take it
//     2  a node was not told of the layout            tell it
//     3  too many were not                            wait for them; if they know another of its epoch: take, withdraw
//     4  data is copied: a node lacks some            sweep; none does: next step
//     5  readers switch                               next step
//     6  a node lost data                             sweep
//     7  a node's word is about to run out            sweep
//     8  a node was away and is back                  drain its hints
//     9  a member came, went for good or was drained  begin to change the layout
//    10  a node was completed long ago                sweep
//
// A node that is away is waited for: its copies are on the others, and it comes back sooner than they could be copied.
// Only whoever has been no member for `replaceAfter` is given up.

package import RingfenceCore

package struct StewardMachine: Sendable {
    package struct Settings: Sendable, Equatable {
        /// The longest time a call of any client may take.
        package var callLimit: Nanos
        /// Keys a second, when data is copied.
        package var pace: Int
        /// How often the nodes are looked at.
        package var lookEvery: Nanos
        /// How long one may be no member before its copies are made anew elsewhere.
        package var replaceAfter: Nanos
        /// How long a completed node counts as complete; it is swept again after a third of it. ms.
        package var freshness: Int64

        package init(
            callLimit: Nanos, pace: Int, lookEvery: Nanos, replaceAfter: Nanos, freshness: Int64
        ) {
            self.callLimit = callLimit
            self.pace = pace
            self.lookEvery = lookEvery
            self.replaceAfter = replaceAfter
            self.freshness = freshness
        }
    }

    package enum Action: Sendable, Equatable {
        /// Ask a node; tell `answered` what came of it, always.
        case call(id: Int, node: String, stamp: CacheStamp, CacheCall)
        /// Store it at the coordinator if it is newer than what is there; tell `published` what is there then.
        case publish(CacheLayout)
        case tell(Happening)
    }

    /// What people are told.
    package enum Happening: Sendable, Equatable {
        /// The layout begins to change. `share`: the part of all keys that gets another owner, 0 to 1.
        case moving(joining: [String], leaving: [String], share: Double)
        case moved(members: [String])
        case completing([String])
        case completed([String], copied: Int64)
        /// More nodes lost data than their number of copies makes good: values may be missing, or older than they were.
        case lost([String])
        case drained(String, copied: Int64)
        /// Nothing can be done before these are back.
        case waiting([String])
    }

    private struct Look: Sendable {
        /// What it was told last.
        var layout: CacheLayout?
        var wholeEpoch: Int64
        var wholeLeft: Int64
        var isBehind: Bool
        /// By place among those asked about.
        var hints: [Int64]
    }

    private enum Work: Sendable {
        case resting(until: Nanos)
        case looking(Set<Int>)
        case telling(Set<Int>)
        case publishing
        case sweeping(SweepMachine)
        case draining(DrainMachine)
    }

    private let settings: Settings
    private let nonce: String
    /// Of the next change that it begins.
    private var change: UInt64
    /// It made the cache itself, just now: there is nothing yet that could be lost.
    private var isNew: Bool
    package private(set) var map: CacheMap
    private var work: Work
    private var looks: [Int: Look] = [:]
    private var calls: [Int: Int] = [:]
    private var lastID = 0
    private var sweeps = 0

    /// Those that could not be told of the layout just now: full, perhaps. They are away for this round.
    private var untellable: Set<Int> = []
    private var present: [CacheMember]?
    private var absentSince: [[UInt8]: Nanos] = [:]
    private var forgotten: Set<[UInt8]> = []
    private var lastWaiting: [String] = []

    /// Somebody else completes nodes too, or so it seemed in the last sweep. Two of them that last would only begin
    /// again and again.
    package private(set) var isContested = false

    /// How far a sweep is, while there is one.
    package var progress: SweepMachine.Progress? { if case .sweeping(let sweep) = work { sweep.progress } else { nil } }

    /// - Parameters:
    ///   - nonce: unique to this object.
    ///   - change: a random number; the changes that it begins are named from there on.
    ///   - isNew: this process has just made the layout, the first of its cache.
    package init(
        _ map: CacheMap, settings: Settings, nonce: String, change: UInt64, isNew: Bool, now: Nanos
    ) {
        self.map = map
        self.settings = settings
        self.nonce = nonce
        self.change = change
        self.isNew = isNew
        work = .resting(until: now)
    }

    private var layout: CacheLayout { map.layout }

    package var wakeAt: Nanos {
        switch work {
        case .resting(let until): until
        case .sweeping(let sweep): sweep.wakeAt
        case .draining(let drain): drain.wakeAt
        case .looking, .telling, .publishing: .never
        }
    }

    // MARK: What is to be

    /// The group's members as they are now.
    package mutating func saw(_ members: [CacheMember], now: Nanos) {
        present = members
        for member in layout.everybody {
            let id = Array(member.id.utf8)
            if members.contains(where: { $0.id.hasSameBytes(as: member.id) }) {
                absentSince[id] = nil
                forgotten.remove(id)
            } else if absentSince[id] == nil {
                absentSince[id] = now
            }
        }
    }

    private func isForgotten(_ node: Int) -> Bool {
        looks[node] == nil && forgotten.contains(Array(map.ids[node].utf8))
    }

    /// A member is gone for good, somebody says who knows it: it is not waited for, and counts as one that lost its
    /// data. (Where all nodes are needed for a quorum there is no other way to replace one.)
    package mutating func forget(_ id: String, now: Nanos) {
        if forgotten.insert(Array(id.utf8)).inserted { hurry(now: now) }
    }

    /// Looks at once, if it rests.
    package mutating func hurry(now: Nanos) {
        if case .resting = work { work = .resting(until: now) }
    }

    /// Another layout is in force.
    package mutating func adopt(_ other: CacheMap, now: Nanos) {
        guard other.layout.epoch > layout.epoch else { return }
        take(other, now: now)
    }

    private mutating func take(_ other: CacheMap, now: Nanos) {
        map = other
        isNew = false
        untellable = []
        (looks, calls) = ([:], [:])
        work = .resting(until: now)
    }

    private func wanted(now: Nanos) -> [CacheMember]? {
        guard let present else { return nil }
        var wanted = present.map { member in
            var member = member
            // An address changes without anything that would have to be moved.
            if let known = layout.members.first(where: { $0.id.hasSameBytes(as: member.id) }) {
                member.address = known.address
            }
            return member
        }
        for member in layout.members where !wanted.contains(where: { $0.id.hasSameBytes(as: member.id) }) {
            let id = Array(member.id.utf8)
            let since = absentSince[id] ?? now
            if !forgotten.contains(id), now - since < settings.replaceAfter { wanted.append(member) }
        }
        // Who is drained and gone has nothing any more; without a member that takes keys there is nowhere to move them.
        guard wanted.contains(where: { $0.weight > 0 }) else { return nil }
        wanted.sort { $0.id.isBefore($1.id) }
        return wanted == layout.members ? nil : wanted
    }

    // MARK: Time and answers

    package mutating func tick(now: Nanos) -> [Action] {
        guard now >= wakeAt else { return [] }
        switch work {
        case .resting: return look()
        case .sweeping(var sweep):
            let next = sweep.tick(now: now)
            return went(on: sweep, next, now: now)
        case .draining(var drain):
            let next = drain.tick(now: now)
            return went(on: drain, next, now: now)
        case .looking, .telling, .publishing: return []
        }
    }

    package mutating func answered(_ id: Int, _ result: Result<CacheAnswer, CacheFailure>, now: Nanos) -> [Action] {
        // One of before a layout was adopted.
        guard let node = calls.removeValue(forKey: id) else { return [] }
        switch work {
        case .looking(var pending):
            pending.remove(node)
            if case .success(let answer) = result, case .hello(let json, let hints, let wholeLeft) = answer.result {
                let known = json.flatMap { CacheLayout(json: $0) }
                if let known, known.epoch > layout.epoch, let map = try? CacheMap(known) {
                    adopt(map, now: now)
                    return [.publish(known)]
                }
                looks[node] = Look(
                    layout: known, wholeEpoch: answer.wholeEpoch, wholeLeft: wholeLeft, isBehind: answer.isBehind,
                    hints: hints)
            }
            work = .looking(pending)
            return pending.isEmpty ? decide(now: now) : []
        case .telling(var pending):
            pending.remove(node)
            if case .success(let answer) = result, case .done = answer.result {} else { untellable.insert(node) }
            work = .telling(pending)
            return pending.isEmpty ? look() : []
        case .sweeping(var sweep):
            let next =
                switch result {
                case .success(let answer): sweep.answered(node, answer, now: now)
                case .failure: sweep.failed(node, now: now)
                }
            return went(on: sweep, next, now: now)
        case .draining(var drain):
            let next =
                switch result {
                case .success(let answer): drain.answered(node, answer, now: now)
                case .failure: drain.failed(node, now: now)
                }
            return went(on: drain, next, now: now)
        case .resting, .publishing: return []
        }
    }

    /// What the coordinator has now; nil: it did not answer.
    package mutating func published(_ current: CacheLayout?, now: Nanos) -> [Action] {
        guard case .publishing = work else {
            if let current, let map = try? CacheMap(current) { adopt(map, now: now) }
            return []
        }
        guard let current, current.epoch > layout.epoch, let map = try? CacheMap(current) else {
            return rest(now: now)
        }
        let before = layout
        adopt(map, now: now)
        if current.step == .settled, before.step == .switching, current.epoch == before.epoch + 1 {
            return [.tell(.moved(members: current.members.map(\.id)))]
        }
        return []
    }

    private mutating func call(_ calls: [SweepMachine.Call]) -> [Action] {
        calls.map { node, call in
            lastID += 1
            self.calls[lastID] = node
            return .call(id: lastID, node: map.ids[node], stamp: map.stamp, call)
        }
    }

    private mutating func rest(now: Nanos) -> [Action] {
        untellable = []
        work = .resting(until: now + settings.lookEvery)
        return []
    }

    private mutating func look() -> [Action] {
        looks = [:]
        let all = Array(map.ids.indices)
        work = .looking(Set(all))
        return call(all.map { ($0, .hello(hintedTargets: map.ids)) })
    }

    // MARK: What to do

    private func places(_ members: [CacheMember]) -> [Int] {
        members.map { member in map.ids.firstIndex { $0.hasSameBytes(as: member.id) }! }
    }

    private mutating func decide(now: Nanos) -> [Action] {
        let untold = looks.filter { $0.value.layout.map { $0.epoch < layout.epoch } ?? true }.keys.sorted()
            .filter { !untellable.contains($0) }
        if !untold.isEmpty {
            work = .telling(Set(untold))
            return call(untold.map { ($0, .raise(layout: layout.json, began: layout.began)) })
        }
        if let actions = judgeOthers(now: now) { return actions }
        // Who was told of another change is not heard and does not hear; the next step takes it along.
        looks = looks.filter { $0.value.layout?.stamp == map.stamp }
        let away = map.ids.indices.filter { looks[$0] == nil && !isForgotten($0) }
        guard away.count <= layout.tolerance else { return wait(for: away, now: now) }
        let old = places(layout.members)
        let new = places(layout.target)
        func due(within left: Int64) -> Set<Int> {
            Set(old.filter { node in looks[node].map { $0.wholeLeft < left } ?? false })
        }
        func sweepAll() -> [Action] { sweep(looks.keys.filter(old.contains).sorted(), now: now) }
        /// Of which epoch a node must be complete.
        func due(_ node: Int) -> Int64 { new.contains(node) ? layout.targetSince : layout.membersSince }
        let lacking = looks.filter { $0.value.wholeEpoch < due($0.key) }.keys.sorted()
        switch layout.step {
        case .copying:
            if !lacking.isEmpty { return sweep(lacking, now: now) }
            let missing = new.filter { looks[$0] == nil }
            let spare = min(layout.tolerance, layout.copies - max(layout.writes, layout.reads))
            return missing.count <= max(0, spare) ? publish(layout.advanced()) : wait(for: missing, now: now)
        case .switching:
            return publish(layout.advanced())
        case .settled:
            if !lacking.isEmpty {
                // With them those that are due: one that loses data again and again must not take the word of others.
                return sweep(due(within: settings.freshness / 3 * 2).union(lacking).sorted(), now: now)
            }
            // Else hints that never end, or members that come and go, would put it off until the word runs out.
            if !due(within: settings.freshness / 3).isEmpty { return sweepAll() }
            if let actions = drain() { return actions }
            if let wanted = wanted(now: now) {
                return begin(layout.moving(to: wanted, change: nextChange()), now: now)
            }
            if !due(within: settings.freshness / 3 * 2).isEmpty { return sweepAll() }
            lastWaiting = []
            return rest(now: now)
        }
    }

    /// Whether this layout can be told to nearly all, where some nodes were told of another of the same epoch
    /// (CacheLayout).
    private mutating func judgeOthers(now: Nanos) -> [Action]? {
        let told = places(layout.members).compactMap { looks[$0]?.layout }.filter { $0.epoch == layout.epoch }
        func isLost(_ other: CacheLayout) -> Bool { told.count { $0.stamp != other.stamp } > layout.tolerance }
        guard isLost(layout) else { return nil }
        if let other = told.first(where: { !isLost($0) }), let map = try? CacheMap(other) {
            take(map, now: now)
            return []
        }
        // Nobody went on from any of them, or will. Only those that begin a change can be two: every other step follows
        // from one.
        guard layout.step != .switching else { return nil }
        return publish(layout.withdrawn(change: nextChange()))
    }

    private mutating func nextChange() -> UInt64 {
        defer { change &+= 1 }
        return change
    }

    private static func ids(_ some: [CacheMember], notIn others: [CacheMember]) -> [String] {
        some.map(\.id).filter { id in !others.contains { $0.id.hasSameBytes(as: id) } }
    }

    private mutating func wait(for nodes: [Int], now: Nanos) -> [Action] {
        let names = nodes.map { map.ids[$0] }
        let actions = rest(now: now)
        guard names != lastWaiting else { return actions }
        lastWaiting = names
        return actions + [.tell(.waiting(names))]
    }

    private mutating func publish(_ layout: CacheLayout) -> [Action] {
        work = .publishing
        return [.publish(layout)]
    }

    private mutating func begin(_ next: CacheLayout, now: Nanos) -> [Action] {
        // Members that no ring can be made of have too many points together: it stays as it is until some are gone.
        guard let share = (try? CacheMap(next))?.movedShare else { return rest(now: now) }
        return publish(next) + [
            .tell(
                .moving(
                    joining: Self.ids(next.target, notIn: layout.members),
                    leaving: Self.ids(layout.members, notIn: next.target.filter { $0.weight > 0 }), share: share))
        ]
    }

    private mutating func sweep(_ nodes: [Int], now: Nanos) -> [Action] {
        // One that was a member before, went and comes again, may be complete for an epoch of a time when it was none.
        let old = places(layout.members)
        func isWhole(_ node: Int) -> Bool {
            old.contains(node) && (looks[node].map { $0.wholeEpoch >= layout.membersSince } ?? false)
        }
        let sources = map.ids.indices.filter(isWhole)
        // What was written was counted on W nodes that were whole. Who is away has it still, who lost data has not; of
        // the rest one must have it. (No more is asked for a node that is new, or is only due: else one that is away
        // for long, or for ever, would take the word of all others with it.)
        let holders = places(layout.members.filter { $0.weight > 0 })
        let away = holders.filter { looks[$0] == nil && !isForgotten($0) }
        let broken = holders.filter { !away.contains($0) && !isWhole($0) }
        let isLossy = away.count + broken.count > layout.uncovered
        guard away.isEmpty || !isLossy else { return wait(for: away, now: now) }
        lastWaiting = []
        sweeps += 1
        var sweep = SweepMachine(
            map, jobs: nodes.map { .init(node: $0, isPartial: layout.step == .copying && isWhole($0)) },
            sources: sources, nonce: "\(nonce)-\(sweeps)", wait: isNew ? 0 : settings.callLimit, pace: settings.pace)
        let first = sweep.start()
        var actions: [Action] = [.tell(.completing(nodes.map { map.ids[$0] }))]
        if isLossy, !isNew { actions.append(.tell(.lost(broken.map { map.ids[$0] }))) }
        work = .sweeping(sweep)
        return actions + call(first)
    }

    private mutating func went(on sweep: SweepMachine, _ calls: [SweepMachine.Call], now: Nanos) -> [Action] {
        work = .sweeping(sweep)
        guard let outcome = sweep.outcome else { return call(calls) }
        self.calls = [:]
        isContested = sweep.isContested
        guard case .completed(let nodes) = outcome, !nodes.isEmpty else { return rest(now: now) }
        // From here on there is something to lose, even if a node was away and is completed later.
        isNew = false
        work = .resting(until: now)
        return [.tell(.completed(nodes.map { map.ids[$0] }, copied: sweep.progress.copied))]
    }

    /// For whoever is complete and has hints, or is marked and has none any more.
    private mutating func drain() -> [Action]? {
        for target in map.ids.indices {
            guard let look = looks[target] else { continue }
            let keepers = looks.filter { $0.key != target && $0.value.hints[target] > 0 }.keys.sorted()
            guard !keepers.isEmpty || look.isBehind else { continue }
            var drain = DrainMachine(
                map, target: target, hintKeepers: keepers, sources: looks.keys.filter { $0 != target }.sorted(),
                pace: settings.pace)
            let first = drain.start()
            work = .draining(drain)
            return call(first)
        }
        return nil
    }

    private mutating func went(on drain: DrainMachine, _ calls: [DrainMachine.Call], now: Nanos) -> [Action] {
        work = .draining(drain)
        guard let isDone = drain.outcome else { return call(calls) }
        self.calls = [:]
        guard isDone else { return rest(now: now) }
        work = .resting(until: now)
        return drain.copied > 0 ? [.tell(.drained(map.ids[drain.target], copied: drain.copied))] : []
    }
}
