// SPDX-License-Identifier: Apache-2.0
//
// The positions that change hands between two rings. Both ways below give the same ranges: the longest possible, each
// with one giver and one taker, in the order of their ends.
//
// Cut the circle at every point of either ring. Within one such piece nobody's owner differs, so a piece is described
// by the point at its end: the first point at or after it in the old ring owns it before, and in the new ring after. A
// piece whose end stands in both rings never moves. That is why a plan looks at the changed points only, however large
// the ring is.

/// A range of positions that changes hands: those after `after`, clockwise, through `through`.
package struct RingMove: Hashable, Sendable {
    /// Not in the range; equal to `through` when the range is the whole circle, and more when it goes past 2^64 - 1.
    package var after: UInt64
    /// In the range.
    package var through: UInt64
    /// Its owner before; nil: none, the ring had no points.
    package var giver: String?
    /// Its owner after.
    package var taker: String?

    package init(after: UInt64, through: UInt64, giver: String?, taker: String?) {
        self.after = after
        self.through = through
        self.giver = giver
        self.taker = taker
    }

    /// How many positions it has.
    package var count: UInt128 { after == through ? 1 << 64 : UInt128(through &- after) }

    package static func == (one: RingMove, other: RingMove) -> Bool {
        func same(_ one: String?, _ other: String?) -> Bool {
            switch (one, other) {
            case (nil, nil): true
            case (let one?, let other?): one.hasSameBytes(as: other)
            default: false
            }
        }
        return one.after == other.after && one.through == other.through && same(one.giver, other.giver)
            && same(one.taker, other.taker)
    }

    package func hash(into hasher: inout Hasher) {
        hasher.combine(after)
        hasher.combine(through)
    }
}

/// Puts pieces together.
private struct Moves {
    /// The owner of a piece when a ring has no points.
    static let nobody = UInt32.max

    private struct Piece {
        var after: UInt64
        var through: UInt64
        var giver: UInt32
        var taker: UInt32
    }
    private var pieces: [Piece] = []

    /// Adds a piece; they come in the order of their ends.
    mutating func add(after: UInt64, through: UInt64, giver: UInt32, taker: UInt32) {
        guard giver != taker else { return }
        if let last = pieces.last, last.through == after, last.giver == giver, last.taker == taker {
            pieces[pieces.count - 1].through = through
        } else {
            pieces.append(Piece(after: after, through: through, giver: giver, taker: taker))
        }
    }

    /// All of them, with names for the numbers.
    mutating func finish(_ names: [String]) -> [RingMove] {
        if let first = pieces.first, let last = pieces.last, last.through == first.after, last.giver == first.giver,
            last.taker == first.taker
        {
            if pieces.count > 1 {
                // The first piece begins before 0, with what the last one is.
                pieces[0].after = last.after
                pieces.removeLast()
            }
            // Where it is the whole circle, it is so from 0 on.
            if pieces[0].after == pieces[0].through { (pieces[0].after, pieces[0].through) = (.max, .max) }
        }
        func name(_ number: UInt32) -> String? { number == Self.nobody ? nil : names[Int(number)] }
        return pieces.map {
            RingMove(after: $0.after, through: $0.through, giver: name($0.giver), taker: name($0.taker))
        }
    }
}

extension RingChange {
    /// A point that goes or comes.
    private struct Changed {
        var value: UInt64
        /// Of an added point: in front of which old one it comes. Of a removed one: its own.
        var index: Int
        /// Of an added point: its owner.
        var slot: UInt16?
        /// The first old point behind it.
        var next: Int { slot == nil ? index + 1 : index }
    }

    /// What moves, by looking at the changed points.
    func moves(from ring: Ring) -> [RingMove] {
        let (values, owners) = (ring.points.points, ring.points.owners)
        let changed = changedPoints(values)
        guard let first = changed.first, let last = changed.last else { return [] }

        func oldOwner(_ index: Int) -> UInt32 {
            values.isEmpty ? Moves.nobody : UInt32(owners[index == values.count ? 0 : index])
        }
        /// Whether no other point is between a changed one and the changed one behind it.
        func meet(_ here: Changed, _ next: Changed) -> Bool { next.index == here.next }
        let meetRoundTheEnd = last.next == values.count && first.index == 0

        // The owner afterwards of the piece that ends at a changed point: of an added point its owner, of a removed one
        // the owner of the piece behind. Hence backwards, from the first that can be told without another.
        var takers = [UInt32](repeating: Moves.nobody, count: changed.count)
        var behind: UInt32 =
            meetRoundTheEnd
            ? changed.indices.lazy.compactMap { k -> UInt32? in
                if let slot = changed[k].slot { return UInt32(slot) }
                if k + 1 < changed.count, meet(changed[k], changed[k + 1]) { return nil }
                // The last one meets the first again: then nothing is left.
                return k + 1 == changed.count ? Moves.nobody : oldOwner(changed[k].next)
            }.first ?? Moves.nobody
            : oldOwner(last.next)
        for k in changed.indices.reversed() {
            if k + 1 < changed.count, !meet(changed[k], changed[k + 1]) { behind = oldOwner(changed[k].next) }
            if let slot = changed[k].slot { behind = UInt32(slot) }
            takers[k] = behind
        }

        let smallest = min(first.value, values.first ?? first.value)
        let largest = max(last.value, values.last ?? last.value)
        var moves = Moves()
        for (k, point) in changed.enumerated() {
            let before: UInt64
            if k > 0, meet(changed[k - 1], point) {
                before = changed[k - 1].value
            } else if point.index > 0 {
                before = values[point.index - 1]
            } else {
                before = largest
            }
            // A piece between two points in one place is empty; if all there is are points in one place, the first of
            // them has the whole circle.
            guard before != point.value || (smallest == largest && k == 0 && point.index == 0) else { continue }
            moves.add(after: before, through: point.value, giver: oldOwner(point.index), taker: takers[k])
        }
        return moves.finish(ids)
    }

    /// In the order of both rings taken together.
    private func changedPoints(_ values: [UInt64]) -> [Changed] {
        var changed: [Changed] = []
        changed.reserveCapacity(removed.count + added.count)
        var (r, a) = (0, 0)
        while r < removed.count || a < added.count {
            if a < added.count, r == removed.count || places[a] <= removed[r] {
                changed.append(Changed(value: added[a].value, index: places[a], slot: added[a].slot))
                a += 1
            } else {
                changed.append(Changed(value: values[removed[r]], index: removed[r], slot: nil))
                r += 1
            }
        }
        return changed
    }
}

extension Ring {
    /// What moves from this ring to another of the same seed: both are walked once.
    package func moves(to new: Ring) -> [RingMove] {
        // Both rings' members by one number: the new ring's slot, and further numbers for those it does not have.
        var names = new.ids
        var numbers = [UInt32](repeating: Moves.nobody, count: ids.count)
        for (member, slot) in zip(members, slots) {
            if let place = new.index(of: member.id) {
                numbers[Int(slot)] = UInt32(new.slots[place])
            } else {
                numbers[Int(slot)] = UInt32(names.count)
                names.append(member.id)
            }
        }
        let (old, oldOwners) = (points.points, points.owners)
        let (next, nextOwners) = (new.points.points, new.points.owners)
        guard let smallest = [old.first, next.first].compactMap({ $0 }).min(),
            let largest = [old.last, next.last].compactMap({ $0 }).max()
        else { return [] }
        var moves = Moves()
        var before = largest
        var (o, n) = (0, 0)
        while o < old.count || n < next.count {
            let value = min(o < old.count ? old[o] : .max, n < next.count ? next[n] : .max)
            let giver = old.isEmpty ? Moves.nobody : numbers[Int(oldOwners[o == old.count ? 0 : o])]
            let taker = next.isEmpty ? Moves.nobody : UInt32(nextOwners[n == next.count ? 0 : n])
            if value != before || smallest == largest {
                moves.add(after: before, through: value, giver: giver, taker: taker)
            }
            before = value
            while o < old.count, old[o] == value { o += 1 }
            while n < next.count, next[n] == value { n += 1 }
        }
        return moves.finish(names)
    }
}
