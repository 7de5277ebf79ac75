// SPDX-License-Identifier: Apache-2.0
//
// The layout of a cache: which nodes keep which key, and how that changes without a read that misses a write.
//
// A layout is a ring of members under an epoch. It is not the group's ring: a member that is away for a minute is no
// reason to copy a third of all data, so the layout changes only when a member came, was drained (weight 0), or has
// been away for long. While it changes there are two rings, and three steps, each an epoch of its own, as joint
// consensus has it (Ongaro 2014, section 4.3):
//
//     settled    read old         write old
//     copying    read old         write old and new, each with its quorum
//     switching  read new         write old and new
//     settled    read new         write new
//
// A step must not begin while a process may still act by the step before the last. Nodes see to it: each remembers the
// highest epoch it was told, and answers no caller that knows less. So once nearly all nodes were told ("nearly": so
// few are missing that no quorum can be made of them) the step before is history, even for a process that sleeps with
// it in memory.
//
// The coordinator keeps the layout, and a coordinator may lose its last second. Then a process may begin another change
// under an epoch that was used already. So each change has a random name of its own, and a node that was told of one
// does not accept another of the same epoch: only one of them can be told to nearly all nodes, and only that one goes
// on. (They do no harm to each other before: both read the old copies, and write those and some more.) If none can be
// any more, the layout before is put in force again, under the next epoch.

package import RingfenceCore

/// A member of a layout.
package struct CacheMember: Sendable, Hashable {
    package var id: String
    package var zone: String
    package var weight: Int
    /// Where it was when the layout was made; the group knows better.
    package var address: String

    package init(id: String, zone: String = "", weight: Int = 1, address: String = "") {
        self.id = id
        self.zone = zone
        self.weight = weight
        self.address = address
    }
}

/// Which layout: its epoch, and the change that it is a step of.
package struct CacheStamp: Sendable, Hashable {
    package let epoch: Int64
    package let change: UInt64
    /// As nodes compare it.
    package let text: String

    package init(epoch: Int64, change: UInt64) {
        self.epoch = epoch
        self.change = change
        text = "\(epoch)-\(change)"
    }

    /// Older than all.
    package static let none = CacheStamp(epoch: 0, change: 0)
}

package struct CacheLayout: Sendable, Equatable {
    package enum Step: String, Sendable { case settled, copying, switching }

    package var epoch: Int64
    /// A random name of the change that this is a step of, and the epoch that it began with.
    package var change: UInt64
    package var began: Int64
    package var step: Step
    /// How many copies of a key there are: N.
    package var copies: Int
    /// How many of them a write waits for, and a read: W and R, where a call does not say otherwise.
    package var writes: Int
    package var reads: Int
    package var seed: UInt64
    package var pointsPerWeight: Int
    /// In the order of their ids' bytes. While it changes: those of before.
    package var members: [CacheMember]
    /// Those of after; empty when it does not change.
    package var target: [CacheMember]
    /// A node must be complete for this epoch to count in `members`, and for that one in `target`.
    package var membersSince: Int64
    package var targetSince: Int64

    /// The first layout.
    package init(
        copies: Int, writes: Int, reads: Int, seed: UInt64, pointsPerWeight: Int, members: [CacheMember], change: UInt64
    ) {
        (epoch, began, self.change) = (1, 1, change)
        step = .settled
        self.copies = copies
        self.writes = writes
        self.reads = reads
        self.seed = seed
        self.pointsPerWeight = pointsPerWeight
        self.members = members.sorted { $0.id.isBefore($1.id) }
        target = []
        membersSince = 1
        targetSince = 0
    }

    package var stamp: CacheStamp { CacheStamp(epoch: epoch, change: change) }

    private func next(_ change: UInt64) -> CacheLayout {
        var next = self
        next.epoch += 1
        (next.began, next.change) = (next.epoch, change)
        return next
    }

    /// The next step towards `wanted`; from `settled` on.
    package func moving(to wanted: [CacheMember], change: UInt64) -> CacheLayout {
        precondition(step == .settled)
        var next = next(change)
        next.step = .copying
        next.target = wanted.sorted { $0.id.isBefore($1.id) }
        next.targetSince = next.epoch
        return next
    }

    /// What was before the change that begins with this, where it comes to nothing. (The first layout of a cache has
    /// nothing before it, and nobody was complete for it: all are completed for this one.)
    package func withdrawn(change: UInt64) -> CacheLayout {
        precondition(step != .switching)
        var next = next(change)
        if step == .settled, membersSince == epoch { next.membersSince = next.epoch }
        next.step = .settled
        (next.target, next.targetSince) = ([], 0)
        return next
    }

    /// The next step of a change that goes on.
    package func advanced() -> CacheLayout {
        var next = self
        next.epoch += 1
        switch step {
        case .settled: preconditionFailure("a layout at rest does not advance")
        case .copying: next.step = .switching
        case .switching:
            next.step = .settled
            (next.members, next.membersSince) = (target, targetSince)
            (next.target, next.targetSince) = ([], 0)
        }
        return next
    }

    /// How many nodes may miss a step that holds all the same: no quorum can be made of them, and they are the smaller
    /// part, so two different steps were never both told to nearly all.
    package var tolerance: Int { max(0, min(min(writes, reads) - 1, (members.count - 1) / 2)) }
    /// How many nodes may be away or have lost data: of the rest, one has the last write of each key.
    package var uncovered: Int { max(0, writes - 1) }

    /// All that have something to do with it, by id.
    package var everybody: [CacheMember] {
        let more = target.filter { one in !members.contains { $0.id.hasSameBytes(as: one.id) } }
        return (members + more).sorted { $0.id.isBefore($1.id) }
    }

    // MARK: Text

    package var json: [UInt8] {
        var json: [UInt8] = []
        json += #"{"epoch":\#(epoch),"change":"\#(change)","began":\#(began),"step":"\#(step.rawValue)""#.utf8
        json += #","copies":\#(copies),"writes":\#(writes),"reads":\#(reads)"#.utf8
        json += #","seed":"\#(seed)","pointsPerWeight":\#(pointsPerWeight)"#.utf8
        json += #","membersSince":\#(membersSince),"targetSince":\#(targetSince)"#.utf8
        for (name, list) in [("members", members), ("target", target)] {
            json += #","\#(name)":["#.utf8
            for (index, member) in list.enumerated() {
                json += (index == 0 ? #"{"id":"# : #",{"id":"#).utf8
                json.appendJSON(member.id)
                json += #","zone":"#.utf8
                json.appendJSON(member.zone)
                json += #","weight":\#(member.weight),"address":"#.utf8
                json.appendJSON(member.address)
                json += "}".utf8
            }
            json += "]".utf8
        }
        json += "}".utf8
        return json
    }

    /// Reads what `json` wrote; nil for anything else.
    package init?(json: [UInt8]) {
        guard let object = try? JSONObject(json, allowed: nil, depth: 1),
            case .integer(let epoch)? = object["epoch"], epoch > 0,
            case .string(let changeText)? = object["change"], let change = UInt64(changeText),
            case .integer(let began)? = object["began"], began > 0, began <= epoch,
            case .string(let word)? = object["step"], let step = Step(rawValue: word),
            case .integer(let copies)? = object["copies"], copies > 0,
            case .integer(let writes)? = object["writes"], writes > 0,
            case .integer(let reads)? = object["reads"], reads > 0,
            case .string(let seedText)? = object["seed"], let seed = UInt64(seedText),
            case .integer(let pointsPerWeight)? = object["pointsPerWeight"],
            case .integer(let membersSince)? = object["membersSince"],
            case .integer(let targetSince)? = object["targetSince"],
            let members = Self.members(object["members"]), let target = Self.members(object["target"])
        else { return nil }
        self.init(
            copies: Int(copies), writes: Int(writes), reads: Int(reads), seed: seed,
            pointsPerWeight: Int(pointsPerWeight), members: members,
            change: change)
        (self.epoch, self.began, self.step, self.target) = (epoch, began, step, target)
        (self.membersSince, self.targetSince) = (membersSince, targetSince)
    }

    private static func members(_ value: JSONValue?) -> [CacheMember]? {
        switch value {
        case .strings([])?: return []
        case .objects(let objects)?:
            var members: [CacheMember] = []
            for object in objects {
                guard case .string(let id)? = object["id"], case .string(let zone)? = object["zone"],
                    case .integer(let weight)? = object["weight"], case .string(let address)? = object["address"]
                else { return nil }
                members.append(CacheMember(id: id, zone: zone, weight: Int(weight), address: address))
            }
            return members
        default: return nil
        }
    }
}

/// A layout with its rings made: what a call needs to know where a key is.
package struct CacheMap: Sendable {
    package let layout: CacheLayout
    package let stamp: CacheStamp
    /// In the order of `layout.everybody`.
    package let ids: [String]
    private let old: Side
    private let new: Side?

    private struct Side: Sendable {
        let ring: Ring
        /// By the ring's place of a member: its place in `ids`.
        let places: [Int]
        let since: Int64
    }

    /// The copies of a key, one ring's.
    package struct Copies: Sendable, Equatable {
        /// Places in `ids`, the owner first.
        package var nodes: [Int]
        /// A node counts if it is complete for this epoch; nil: it counts in any case.
        package var since: Int64?
    }

    /// - Throws: `InvalidArgument` for members that no ring can be made of.
    package init(_ layout: CacheLayout) throws(InvalidArgument) {
        self.layout = layout
        stamp = layout.stamp
        let ids = layout.everybody.map(\.id)
        self.ids = ids
        func side(_ members: [CacheMember], since: Int64) throws(InvalidArgument) -> Side {
            let ring = try Ring(
                members.map { RingMember(id: $0.id, weight: $0.weight, zone: $0.zone) }, seed: layout.seed,
                pointsPerWeight: layout.pointsPerWeight)
            let places = ring.members.map { member in ids.firstIndex { $0.hasSameBytes(as: member.id) }! }
            return Side(ring: ring, places: places, since: since)
        }
        old = try side(layout.members, since: layout.membersSince)
        new = layout.step == .settled ? nil : try side(layout.target, since: layout.targetSince)
    }

    /// Where a key is read.
    package func readers(of key: String) -> Copies {
        let side = layout.step == .switching ? new! : old
        return Copies(nodes: nodes(of: key, on: side), since: side.since)
    }

    /// Where it is written: each with its own quorum.
    ///
    /// While data is copied any node counts among those of after, for none of them is read before all of it has been;
    /// what one of them loses meanwhile the copying brings again, as those of before have it.
    package func writers(of key: String) -> [Copies] {
        let before = Copies(nodes: nodes(of: key, on: old), since: old.since)
        guard let new else { return [before] }
        let nodes = nodes(of: key, on: new)
        guard layout.step == .switching else {
            return before.nodes == nodes ? [before] : [before, Copies(nodes: nodes, since: nil)]
        }
        let after = Copies(nodes: nodes, since: new.since)
        return before.nodes == nodes ? [after] : [before, after]
    }

    /// All nodes that are to have a key, in no particular order.
    package func keepers(of key: String) -> [Int] {
        var all = nodes(of: key, on: old)
        if let new { for node in nodes(of: key, on: new) where !all.contains(node) { all.append(node) } }
        return all
    }

    /// The part of all keys that gets another owner by the change that goes on, 0 to 1 (`Ring.moves`).
    package var movedShare: Double {
        guard let new else { return 0 }
        return Double(old.ring.moves(to: new.ring).reduce(UInt128(0)) { $0 + $1.count }) / 0x1p64
    }

    /// Whether a node was to have a key before the layout began to change.
    package func hadBefore(_ node: Int, _ key: String) -> Bool { nodes(of: key, on: old).contains(node) }

    /// The nodes that remember that one of a key's nodes lacks it: the next one on the ring that is not among the key's
    /// nodes, or else those that have it.
    package func hintKeepers(of key: String) -> [Int] {
        let keepers = keepers(of: key)
        let side = new ?? old
        let all = preference(of: key, on: side, count: keepers.count + 1)
        return all.filter { !keepers.contains($0) } + keepers
    }

    private func nodes(of key: String, on side: Side) -> [Int] { preference(of: key, on: side, count: layout.copies) }

    private func preference(of key: String, on side: Side, count: Int) -> [Int] {
        var key = key
        let position = key.withUTF8 { RingHash.position(of: UnsafeRawBufferPointer($0), seed: layout.seed) }
        let list = side.ring.preference(at: position, count: count)
        return (0..<list.count).map { side.places[side.ring.index($0, of: list)] }
    }
}
