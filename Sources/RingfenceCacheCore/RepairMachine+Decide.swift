// SPDX-License-Identifier: Apache-2.0
//
// What is to be done, in the order in which RepairMachine lists it.

import RingfenceCore

extension RepairMachine {
    private func places(_ members: [CacheMember]) -> [Int] {
        members.map { member in map.ids.firstIndex { $0.hasSameBytes(as: member.id) }! }
    }

    mutating func decide(now: Nanos) -> [Action] {
        let untold = looks.filter { $0.value.layout.map { $0.epoch < layout.epoch } ?? true }.keys.sorted()
            .filter { !untellable.contains($0) }
        if !untold.isEmpty {
            work = .telling(Set(untold))
            return call(untold.map { ($0, .raise(layout: layout.json, began: layout.began)) })
        }
        if let actions = judgeOthers(now: now) { return actions }
        // A node that was told of another change is not heard and does not hear; the next step takes it along.
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
            if let actions = replayHints() { return actions }
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
        // A write was counted on W nodes that were whole. A node that is away still has it, one that lost data does
        // not; of the rest one must have it. (No more is asked for a node that is new, or is only due: else one that is
        // away for long, or for ever, would take the word of all others with it.)
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

    mutating func went(on sweep: SweepMachine, _ calls: [SweepMachine.Call], now: Nanos) -> [Action] {
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

    /// For a node that is complete and has hints, or is marked and has none any more.
    private mutating func replayHints() -> [Action]? {
        for target in map.ids.indices {
            guard let look = looks[target] else { continue }
            let keepers = looks.filter { $0.key != target && $0.value.hints[target] > 0 }.keys.sorted()
            guard !keepers.isEmpty || look.isBehind else { continue }
            var replay = HintReplayMachine(
                map, target: target, hintKeepers: keepers, sources: looks.keys.filter { $0 != target }.sorted(),
                pace: settings.pace)
            let first = replay.start()
            work = .replaying(replay)
            return call(first)
        }
        return nil
    }

    mutating func went(on replay: HintReplayMachine, _ calls: [HintReplayMachine.Call], now: Nanos) -> [Action] {
        work = .replaying(replay)
        guard let isDone = replay.outcome else { return call(calls) }
        self.calls = [:]
        guard isDone else { return rest(now: now) }
        work = .resting(until: now)
        return replay.copied > 0 ? [.tell(.drained(map.ids[replay.target], copied: replay.copied))] : []
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
        // A member that is drained and gone has no keys any more; without one that takes keys there is nowhere to move
        // them.
        guard wanted.contains(where: { $0.weight > 0 }) else { return nil }
        wanted.sort { $0.id.isBefore($1.id) }
        return wanted == layout.members ? nil : wanted
    }
}
