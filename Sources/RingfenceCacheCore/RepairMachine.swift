// SPDX-License-Identifier: Apache-2.0
//
// The repair of a cache: it brings nodes what they lost, what they missed, and what they are to have from now on.
//
// One process does it for all, the holder of the lock; but nothing here rests on that. Two of them at once get in each
// other's way and do no harm: layouts are exchanged by comparing epochs, a sweep that another one began over is not
// ended, and what is copied is only ever newer than what is there.
//
// It goes round and round: look at all nodes, then do the first of these that is due, then look again.
//
//     1  a newer layout is known to some node         take it
//     2  a node was not told of the layout            tell it
//     3  too many were not                            wait for them; if they know another of its epoch: take, withdraw
//     4  data is copied: a node lacks some            sweep; none does: next step
//     5  readers switch                               next step
//     6  a node lost data                             sweep
//     7  a node's word is about to run out            sweep
//     8  a node was away and is back                  replay its hints
//     9  a member came, went for good or was drained  begin to change the layout
//    10  a node was completed long ago                sweep
//
// A node that is away is waited for: its copies are on the others, and it comes back sooner than they could be copied.
// Only a node that has been no member for `replaceAfter` is given up.

package import RingfenceCore

package struct RepairMachine: Sendable {
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
        case tell(Notice)
    }

    /// What people are told.
    package enum Notice: Sendable, Equatable {
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

    struct Look: Sendable {
        /// What it was told last.
        var layout: CacheLayout?
        var wholeEpoch: Int64
        var wholeLeft: Int64
        var isBehind: Bool
        /// By place among those asked about.
        var hints: [Int64]
    }

    enum Work: Sendable {
        case resting(until: Nanos)
        case looking(Set<Int>)
        case telling(Set<Int>)
        case publishing
        case sweeping(SweepMachine)
        case replaying(HintReplayMachine)
    }

    let settings: Settings
    let nonce: String
    /// Of the next change that it begins.
    var change: UInt64
    /// It made the cache itself, just now: there is nothing yet that could be lost.
    var isNew: Bool
    package internal(set) var map: CacheMap
    var work: Work
    var looks: [Int: Look] = [:]
    var calls: [Int: Int] = [:]
    private var lastID = 0
    var sweeps = 0

    /// Those that could not be told of the layout just now: full, perhaps. They are away for this round.
    var untellable: Set<Int> = []
    var present: [CacheMember]?
    var absentSince: [[UInt8]: Nanos] = [:]
    var forgotten: Set<[UInt8]> = []
    var lastWaiting: [String] = []

    /// Somebody else completes nodes too, or so it seemed in the last sweep. Two of them that last would only begin
    /// again and again.
    package internal(set) var isContested = false

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

    var layout: CacheLayout { map.layout }

    package var wakeAt: Nanos {
        switch work {
        case .resting(let until): until
        case .sweeping(let sweep): sweep.wakeAt
        case .replaying(let replay): replay.wakeAt
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

    func isForgotten(_ node: Int) -> Bool {
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

    mutating func take(_ other: CacheMap, now: Nanos) {
        map = other
        isNew = false
        untellable = []
        (looks, calls) = ([:], [:])
        work = .resting(until: now)
    }

    // MARK: Time and answers

    package mutating func tick(now: Nanos) -> [Action] {
        guard now >= wakeAt else { return [] }
        switch work {
        case .resting: return look()
        case .sweeping(var sweep):
            let next = sweep.tick(now: now)
            return went(on: sweep, next, now: now)
        case .replaying(var replay):
            let next = replay.tick(now: now)
            return went(on: replay, next, now: now)
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
        case .replaying(var replay):
            let next =
                switch result {
                case .success(let answer): replay.answered(node, answer, now: now)
                case .failure: replay.failed(node, now: now)
                }
            return went(on: replay, next, now: now)
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

    mutating func call(_ calls: [SweepMachine.Call]) -> [Action] {
        calls.map { node, call in
            lastID += 1
            self.calls[lastID] = node
            return .call(id: lastID, node: map.ids[node], stamp: map.stamp, call)
        }
    }

    mutating func rest(now: Nanos) -> [Action] {
        untellable = []
        work = .resting(until: now + settings.lookEvery)
        return []
    }

    mutating func look() -> [Action] {
        looks = [:]
        let all = Array(map.ids.indices)
        work = .looking(Set(all))
        return call(all.map { ($0, .hello(hintedTargets: map.ids)) })
    }
}
