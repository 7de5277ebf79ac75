// SPDX-License-Identifier: Apache-2.0
//
// The choice of one member among those that can be picked: a table made for one state of the group, which never
// changes, and a few steps for each pick. Randomness comes in as dice; the members' loads are only read.
//
// Two choices. If callers always took the least loaded member, all would go to it at once, as all look at the same
// numbers; of two members taken by chance, the less loaded is nearly as good a choice, and the crowd is spread. The
// first is drawn by weight, the second is any other, and the loads are compared by weight. Two simpler ways would go
// wrong here:
//  - Were both drawn evenly and compared by (calls + 1) / weight, an idle pool would give everything to the largest
//    weight. So a first choice that has nothing to do keeps the call, unless the other one costs less.
//  - A member that is slow-starting has a fraction of its weight, so it is both drawn less and compared as if it had
//    more to do.
//
// Each thread makes a table of its own of the same plan (see Shard.swift): the arrays here are fresh ones, and a pick
// counts no reference.

/// The members that can be picked now. Made by `BalanceMachine`; the same for all threads.
package struct PickPlan: Sendable {
    /// A member of the group, whether it can be picked or not.
    package struct Seat: Sendable {
        package var number: Int
        package var record: MemberRecord
        package var load: MemberLoad
        /// Its weight, less while it is slow-starting; 0: it cannot be picked.
        package var share: Double
        /// The part of its share it is given by now.
        package var ramp: Double
        /// In the zone that is preferred.
        package var isNear: Bool
    }

    package var rule: PickRule
    /// In the order of the bytes of their ids.
    package var seats: [Seat] = []
    /// Grows whenever the members or what they say of themselves change.
    package var membership = 0
    /// The part of the calls that stays near.
    package var stay = 1.0
    package var ring: Ring?
    package var maximumLoadFactor = 1.25
    package var costDecay: Nanos = 10 * .second
    /// The breaker is to be asked.
    package var isGated = false

    package init(rule: PickRule) { self.rule = rule }
}

/// A place in the plan's seats, found by a thread's own turns and dice.
package struct PickTable {
    /// What of a thread's picks goes on from one to the next.
    package struct Cursor: Sendable {
        var dice: Dice
        /// Where this thread is on its round. It begins anywhere, so that threads do not walk in step.
        var turn: UInt64

        package init(seed: UInt64) {
            dice = Dice(seed: seed)
            turn = dice.roll() >> 16
        }

        /// The next of `count` places. A division takes as long as the rest of a pick, so it is done only where a round
        /// ends, or has become shorter.
        @inline(__always)
        mutating func advance(in count: Int) -> Int {
            turn &+= 1
            if turn >= UInt64(truncatingIfNeeded: count) { turn %= UInt64(truncatingIfNeeded: count) }
            return Int(truncatingIfNeeded: turn)
        }
    }

    /// Members of which one is picked.
    private struct Pool {
        var places: [Int] = []
        var loads: [MemberLoad] = []
        var shares: [Double] = []
        var ramps: [Double] = []
        var wheel: Wheel?
        var isRamping = false

        init(_ seats: [PickPlan.Seat], _ isIn: (PickPlan.Seat) -> Bool) {
            for (place, seat) in seats.enumerated() where seat.share > 0 && isIn(seat) {
                places.append(place)
                loads.append(seat.load)
                shares.append(seat.share)
                ramps.append(seat.ramp)
                if seat.ramp < 1 { isRamping = true }
            }
            if !shares.isEmpty { wheel = Wheel(shares) }
        }
    }

    private let rule: PickRule
    private let near: Pool
    private let far: Pool
    private let stay: Double
    private let costDecay: Nanos
    private let ring: RingPart?

    /// Nobody is found in it.
    package init() { self.init(PickPlan(rule: .leastLoaded)) }

    package init(_ plan: PickPlan) {
        rule = plan.rule
        near = Pool(plan.seats) { $0.isNear }
        far = Pool(plan.seats) { !$0.isNear }
        stay = near.places.isEmpty ? 0 : far.places.isEmpty ? 1 : plan.stay
        costDecay = plan.costDecay
        ring = plan.rule.needsKey ? plan.ring.map { RingPart($0, plan) } : nil
    }

    /// The seed that a key's position is to be taken under.
    package var seed: UInt64 { ring?.ring.seed ?? 0 }

    /// A place in the plan's seats; -1: there is nobody.
    ///
    /// - Parameters:
    ///   - position: the key's position on the ring, for the rules that need one.
    ///   - total: all outstanding calls, for the rule that bounds them.
    ///   - now: for the rules that ask what calls cost.
    package func pick(_ cursor: inout Cursor, position: UInt64 = 0, total: Int = 0, now: Nanos = 0) -> Int {
        switch rule {
        case .leastLoaded: return twoChoices(near, &cursor)
        case .roundRobin: return next(near, &cursor)
        case .weighted:
            cursor.turn &+= 1
            return turned(near, to: Wheel.position(ofTurn: cursor.turn))
        case .random: return turned(near, to: cursor.dice.roll())
        case .peakEWMA: return twoChoicesByCost(near, &cursor, now)
        case .primaryOnly: return near.places.first ?? -1
        case .nearestZone:
            if stay >= 1 { return twoChoices(near, &cursor) }
            return twoChoices(cursor.dice.fraction() < stay ? near : far, &cursor)
        case .ringHash: return ring?.owner(of: position) ?? -1
        case .boundedLoad: return ring?.owner(of: position, total: total) ?? -1
        }
    }

    @inline(__always)
    private func turned(_ pool: borrowing Pool, to position: UInt64) -> Int {
        guard let part = pool.wheel?.part(at: position) else { return -1 }
        return pool.places[part]
    }

    /// One after the other. A member that is slow-starting is passed over as often as its share is less than a full
    /// one.
    @inline(__always)
    private func next(_ pool: borrowing Pool, _ cursor: inout Cursor) -> Int {
        let count = pool.places.count
        guard count > 0 else { return -1 }
        var place = cursor.advance(in: count)
        if pool.isRamping {
            var left = 16 * count
            while left > 0, pool.ramps[place] < 1, cursor.dice.fraction() >= pool.ramps[place] {
                place = cursor.advance(in: count)
                left -= 1
            }
        }
        return pool.places[place]
    }

    /// Of one member drawn by weight and any other one, the one with less to do.
    @inline(__always)
    private func twoChoices(_ pool: borrowing Pool, _ cursor: inout Cursor) -> Int {
        guard let first = pool.wheel?.part(at: cursor.dice.roll()) else { return -1 }
        let calls = pool.loads[first].outstanding
        guard calls > 0, pool.places.count > 1 else { return pool.places[first] }
        let second = other(than: first, pool, &cursor)
        let one = Double(calls &+ 1) * pool.shares[second]
        let two = Double(pool.loads[second].outstanding &+ 1) * pool.shares[first]
        return pool.places[two < one ? second : first]
    }

    /// The same, and a call weighs as much as it is expected to cost.
    private func twoChoicesByCost(_ pool: borrowing Pool, _ cursor: inout Cursor, _ now: Nanos) -> Int {
        guard let first = pool.wheel?.part(at: cursor.dice.roll()) else { return -1 }
        guard pool.places.count > 1 else { return pool.places[first] }
        let second = other(than: first, pool, &cursor)
        let calls = pool.loads[first].outstanding
        var one = pool.loads[first].cost(now: now, decay: costDecay)
        var two = pool.loads[second].cost(now: now, decay: costDecay)
        // Nobody has measured anything.
        if one == 0, two == 0 { (one, two) = (1, 1) }
        one *= Double(calls &+ 1)
        two *= Double(pool.loads[second].outstanding &+ 1)
        if calls > 0 {
            one *= pool.shares[second]
            two *= pool.shares[first]
        } else {
            // It was drawn by its share already, which must not be held against it once more.
            one *= pool.ramps[second]
        }
        return pool.places[two < one ? second : first]
    }

    @inline(__always)
    private func other(than first: Int, _ pool: borrowing Pool, _ cursor: inout Cursor) -> Int {
        let second = cursor.dice.roll(pool.places.count &- 1)
        return second >= first ? second &+ 1 : second
    }
}

// MARK: - By key

/// A ring, and which of its members can be picked.
private struct RingPart {
    let ring: Ring
    /// By the ring's own numbers of members: the seat, or -1 for one that cannot be picked.
    private let seatOf: [Int]
    private let loads: [MemberLoad]
    private let shares: [Double]
    private let total: Double
    private let maximumLoadFactor: Double

    init(_ ring: Ring, _ plan: PickPlan) {
        self.ring = ring
        maximumLoadFactor = plan.maximumLoadFactor
        loads = plan.seats.map(\.load)
        shares = plan.seats.map(\.share)
        total = shares.reduce(0, +)
        // Both are in the order of ids. The ring may be the one before, if none can be made of these members.
        var seatOf: [Int] = []
        seatOf.reserveCapacity(ring.members.count)
        var seat = 0
        for member in ring.members {
            while seat < plan.seats.count, plan.seats[seat].record.id.isBefore(member.id) { seat += 1 }
            let isThere = seat < plan.seats.count && plan.seats[seat].record.id.hasSameBytes(as: member.id)
            seatOf.append(isThere && plan.seats[seat].share > 0 ? seat : -1)
        }
        self.seatOf = seatOf
    }

    /// The owner, or else the first in the key's preference list that can be picked.
    func owner(of position: UInt64) -> Int {
        let owner = ring.ownerIndex(at: position)
        guard owner >= 0 else { return -1 }
        let seat = seatOf[owner]
        return seat >= 0 ? seat : first(at: position) { _ in true }
    }

    /// The same, and members that would exceed their bound are passed over.
    func owner(of position: UInt64, total calls: Int) -> Int {
        let owner = ring.ownerIndex(at: position)
        guard owner >= 0 else { return -1 }
        let seat = seatOf[owner]
        if seat >= 0, hasRoom(seat, calls) { return seat }
        let found = first(at: position) { hasRoom($0, calls) }
        // Everybody is full only while calls end or begin on other threads.
        return found >= 0 ? found : self.owner(of: position)
    }

    private func hasRoom(_ seat: Int, _ calls: Int) -> Bool {
        let fair = Double(calls &+ 1) * shares[seat] / total
        return Double(loads[seat].outstanding &+ 1) <= (maximumLoadFactor * fair).rounded(.up)
    }

    private func first(at position: UInt64, where isGood: (Int) -> Bool) -> Int {
        // A short list takes no memory, and is long enough as a rule.
        let few = min(8, ring.liveCount)
        let short = ring.preference(at: position, count: few)
        for place in 0..<short.count {
            let seat = seatOf[ring.index(place, of: short)]
            if seat >= 0, isGood(seat) { return seat }
        }
        guard ring.liveCount > few else { return -1 }
        let long = ring.preference(at: position, count: ring.liveCount)
        for place in few..<long.count {
            let seat = seatOf[ring.index(place, of: long)]
            if seat >= 0, isGood(seat) { return seat }
        }
        return -1
    }
}
