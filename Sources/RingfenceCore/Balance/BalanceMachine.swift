// SPDX-License-Identifier: Apache-2.0
//
// A balancer's judgement of which members can be picked now: from the group's members, its own experience with them and
// the time.
//
// Three things come together, and each has a word of its own. A member *serves* if it has a weight and its check
// passes; the group says so, and it is the same for everybody. It is *ejected* if this process' calls to it fail. It is
// *open* if it serves and is not ejected; one of those is picked. A member that was not open and is now starts slowly.
//
// When few are open they may drown: then it is more likely that the judgement is wrong than the members, and all that
// have a weight and are not ejected are picked from (panic). Not in a pool of less than four, where one left of three
// is no sign of a wrong judgement, and for no other reason: a pool in which nobody serves has nobody to pick. An
// ejection is never the reason that nobody can be picked.
//
// The primary alone (`primaryOnly`) is picked because it is primary, whatever its weight and its check: there is no
// other, and the election decides whether there should be. While it hands over it is not picked: it could not end what
// is begun then.

package struct BalanceMachine: Sendable {
    /// Something to count, and, unless one like it was told just now, to write into the event log.
    package struct Tell: Sendable, Hashable {
        package enum Kind: Sendable, Hashable {
            case ejected(EjectionMachine.Ejection)
            case returned
            case panic(open: Int, of: Int)
            case calm(open: Int, of: Int)
            case breaker(BreakerMachine.Change)
        }

        package var kind: Kind
        /// Empty: the group.
        package var member: String
        package var isNoted: Bool

        /// The event's type.
        package var type: String {
            switch kind {
            case .ejected: "member.ejected"
            case .returned: "member.returned"
            case .panic: "balancer.panic"
            case .calm: "balancer.recovered"
            case .breaker(.opened): "breaker.opened"
            case .breaker(.closed): "breaker.closed"
            }
        }
    }

    package struct Output: Sendable {
        /// There is another plan.
        package var isNew = false
        /// There is something to be woken for that was not there before.
        package var wakes = false
        package var tell: [Tell] = []
    }

    /// How a call ended.
    package enum Outcome: Sendable, Hashable {
        case success
        case failure
        /// It tells nothing of the member: its caller gave up.
        case cancelled
    }

    package struct Call: Sendable {
        /// Of the seat.
        package var number: Int
        package var beganAt: Nanos
        package var probe: Int?

        package init(number: Int, beganAt: Nanos, probe: Int?) {
            self.number = number
            self.beganAt = beganAt
            self.probe = probe
        }
    }

    /// One life of a member, and what is known of it here.
    private struct Life {
        var record: MemberRecord
        let number: Int
        let load = MemberLoad()
        var isMeasured = false
        /// Since when its share grows; nil: it has all of it.
        var rampingSince: Nanos?
        var isOpen = false

        var hasWeight: Bool { record.weight > 0 }
        var serves: Bool { hasWeight && record.health.isEmpty }
    }

    private struct Note: Hashable {
        var type: String
        var member: String
    }

    package let rule: PickRule
    package let settings: BalanceSettings
    package private(set) var plan: PickPlan
    package private(set) var breaker: BreakerMachine
    package private(set) var isPanicking = false
    private var ejections: EjectionMachine
    private let slowStart: SlowStart
    private var lives: [Life] = []
    private var placeOf: [Int: Int] = [:]
    private var lastNumber = 0
    private var role = GroupRole()
    private var ring: Ring?
    private var hasSeen = false
    private var notedAt: [Note: Nanos] = [:]

    package init(rule: PickRule, settings: BalanceSettings) {
        self.rule = rule
        self.settings = settings
        plan = PickPlan(rule: rule)
        breaker = BreakerMachine(settings)
        ejections = EjectionMachine(settings)
        slowStart = SlowStart(length: settings.slowStart)
    }

    // MARK: The group

    /// The group as it is now. Members of the first view are not new ones.
    package mutating func saw(
        _ members: [MemberRecord], _ role: GroupRole, ring: Ring?, force: GroupBreaker, now: Nanos
    ) -> Output {
        self.role = role
        self.ring = ring
        breaker.set(force)
        var next: [Life] = []
        next.reserveCapacity(members.count)
        var old = lives[...]
        var isOther = members.count != lives.count
        for record in members {
            while let first = old.first, first.record.id.isBefore(record.id) { old.removeFirst() }
            if var life = old.first, life.record.id.hasSameBytes(as: record.id), life.record.session == record.session {
                if life.record != record { isOther = true }
                life.record = record
                next.append(life)
            } else {
                isOther = true
                lastNumber += 1
                next.append(Life(record: record, number: lastNumber))
            }
        }
        lives = next
        placeOf = Dictionary(uniqueKeysWithValues: lives.enumerated().map { ($1.number, $0) })
        if isOther { plan.membership += 1 }
        ejections.set(
            rule == .primaryOnly
                ? [] : lives.filter(\.hasWeight).map { .init(number: $0.number, serves: $0.serves) })
        assumeCosts(now: now)
        let output = judge(now: now, areNew: hasSeen)
        hasSeen = true
        return output
    }

    // MARK: Calls

    /// Whether a call may be made, when the plan says that one has to ask.
    package mutating func admit(now: Nanos) -> BreakerMachine.Admission { breaker.admit(now: now) }

    package mutating func finished(_ call: Call, _ outcome: Outcome, now: Nanos, dice: inout Dice) -> Output {
        var output = Output()
        if let change = breaker.finished(
            isFailure: outcome == .cancelled ? nil : outcome == .failure, probe: call.probe, now: now)
        {
            tell(.breaker(change), now: now, &output)
            output.isNew = true
            plan.isGated = breaker.isGated
        }
        guard let place = placeOf[call.number] else { return output }
        if outcome == .success || lives[place].isMeasured {
            lives[place].load.learn(
                max(0, now - call.beganAt), mayFall: outcome == .success, now: now, decay: settings.costDecay)
        }
        if outcome == .success, !lives[place].isMeasured {
            lives[place].isMeasured = true
            assumeCosts(now: now)
        }
        guard outcome != .cancelled else { return output }
        let wasIdle = ejections.isIdle
        let ejection = ejections.finished(
            call.number, isFailure: outcome == .failure, beganAt: call.beganAt, now: now, dice: &dice)
        output.wakes = wasIdle && !ejections.isIdle
        guard let ejection else { return output }
        tell(.ejected(ejection), lives[place].record.id, now: now, &output)
        output.add(judge(now: now))
        return output
    }

    // MARK: Time

    package mutating func tick(now: Nanos, dice: inout Dice) -> Output {
        var output = Output()
        _ = breaker.tick(now: now)
        let (returned, ejected) = ejections.tick(now: now, dice: &dice)
        for number in returned {
            guard let place = placeOf[number] else { continue }
            // What it cost once has decayed meanwhile, and is not what it will cost.
            if lives[place].isMeasured {
                let cost = lives[place].load.cost(now: now, decay: settings.costDecay)
                lives[place].load.assume(max(cost, usualCost(now: now)), now: now)
            }
            tell(.returned, lives[place].record.id, now: now, &output)
        }
        for ejection in ejected {
            guard let place = placeOf[ejection.number] else { continue }
            tell(.ejected(ejection), lives[place].record.id, now: now, &output)
        }
        let isRamping = lives.contains { $0.rampingSince != nil }
        if isRamping || !returned.isEmpty || !ejected.isEmpty { output.add(judge(now: now)) }
        return output
    }

    /// When to be woken.
    package func wakeAt(now: Nanos) -> Nanos {
        lives.reduce(min(ejections.wakeAt, breaker.wakeAt)) { at, life in
            life.rampingSince.map { min(at, slowStart.wakeAt(since: $0, now: now)) } ?? at
        }
    }

    // MARK: Judgement

    /// Makes the plan anew. `areNew`: who is open and was not is new, but for the first time of all.
    private mutating func judge(now: Nanos, areNew: Bool = true) -> Output {
        var output = Output(isNew: true)
        for place in lives.indices {
            let wasOpen = lives[place].isOpen
            let isOpen = lives[place].serves && ejections.ejectedUntil(lives[place].number) == nil
            lives[place].isOpen = isOpen
            if isOpen, !wasOpen, areNew, slowStart.length > 0 { lives[place].rampingSince = now }
            if let since = lives[place].rampingSince, !isOpen || slowStart.isOver(since: since, now: now) {
                lives[place].rampingSince = nil
            }
        }
        judgePanic(now: now, &output)
        let picked = pickable()
        plan.seats = zip(lives, picked).map { life, isPicked in
            let ramp = slowStart.ramp(since: life.rampingSince, now: now)
            let weight = rule == .roundRobin || rule == .primaryOnly ? 1 : Double(life.record.weight)
            return PickPlan.Seat(
                number: life.number, record: life.record, load: life.load, share: isPicked ? weight * ramp : 0,
                ramp: ramp, isNear: true)
        }
        judgeZone()
        plan.ring = ring
        plan.maximumLoadFactor = settings.maximumLoadFactor
        plan.costDecay = settings.costDecay
        plan.isGated = breaker.isGated
        return output
    }

    private mutating func judgePanic(now: Nanos, _ output: inout Output) {
        let all = lives.count(where: \.hasWeight)
        let open = lives.count(where: \.isOpen)
        let isPanic =
            rule != .primaryOnly && all >= BalanceSettings.panicMembers
            && Double(open) < settings.panicThreshold * Double(all)
        guard isPanic != isPanicking else { return }
        isPanicking = isPanic
        tell(isPanic ? .panic(open: open, of: all) : .calm(open: open, of: all), now: now, &output)
    }

    /// Of each member, whether it can be picked.
    private func pickable() -> [Bool] {
        if rule == .primaryOnly { return lives.map { role.isReady($0.record) } }
        let open = lives.map { life in
            isPanicking ? life.hasWeight && ejections.ejectedUntil(life.number) == nil : life.isOpen
        }
        if open.contains(true) { return open }
        // Those that are ejected are all there are.
        let serving = lives.map(\.serves)
        if serving.contains(true) || !isPanicking { return serving }
        return lives.map(\.hasWeight)
    }

    /// Which members are near, and which part of the calls stays with them.
    private mutating func judgeZone() {
        plan.stay = 1
        guard case .nearestZone(let zone) = rule else { return }
        var (all, open) = (0, 0)
        for (place, life) in lives.enumerated() {
            let isNear = life.record.zone.hasSameBytes(as: zone)
            plan.seats[place].isNear = isNear
            guard isNear, life.hasWeight else { continue }
            all += life.record.weight
            if plan.seats[place].share > 0 { open += life.record.weight }
        }
        // With nobody in the zone the table finds the others by itself.
        if all > 0 { plan.stay = min(1, Double(open) / Double(all) / settings.zoneSpilloverThreshold) }
    }

    /// Why there is nobody to pick.
    package var nobody: String {
        if rule == .primaryOnly { return role.noneReady }
        guard !lives.isEmpty else { return "it has no members" }
        let drained = lives.count { !$0.hasWeight }
        var parts: [String] = []
        if drained > 0 { parts.append("\(drained) draining") }
        if lives.count > drained { parts.append("the check of \(lives.count - drained) fails") }
        let count = lives.count == 1 ? "1 member" : "\(lives.count) members"
        return "of its \(count) none can be picked: " + parts.joined(separator: ", ")
    }

    // MARK: Costs

    /// A member without measurements is taken to cost what the slower members do: one that seems to cost nothing is
    /// flooded.
    private func assumeCosts(now: Nanos) {
        guard lives.contains(where: { !$0.isMeasured }) else { return }
        let cost = usualCost(now: now)
        guard cost > 0 else { return }
        for life in lives where !life.isMeasured { life.load.assume(cost, now: now) }
    }

    /// Three quarters of the members that are measured cost less; 0: none is.
    private func usualCost(now: Nanos) -> Double {
        let costs = lives.filter(\.isMeasured).map { $0.load.cost(now: now, decay: settings.costDecay) }.sorted()
        return costs.isEmpty ? 0 : costs[min(costs.count - 1, costs.count * 3 / 4)]
    }

    // MARK: Telling

    private mutating func tell(_ kind: Tell.Kind, _ member: String = "", now: Nanos, _ output: inout Output) {
        var tell = Tell(kind: kind, member: member, isNoted: true)
        notedAt = notedAt.filter { now - $0.value < BalanceSettings.noteInterval }
        let note = Note(type: tell.type, member: member)
        if notedAt[note] == nil { notedAt[note] = now } else { tell.isNoted = false }
        output.tell.append(tell)
    }

    // MARK: For those who look

    package struct Member: Sendable {
        package var record: MemberRecord
        package var outstanding: Int
        /// In seconds; 0: not measured.
        package var cost: Double
        package var ejectedUntil: Nanos?
        /// 0 to 1.
        package var ramp: Double
        package var canBePicked: Bool
    }

    package func members(now: Nanos) -> [Member] {
        zip(lives, plan.seats).map { life, seat in
            Member(
                record: life.record, outstanding: life.load.outstanding,
                cost: life.load.cost(now: now, decay: settings.costDecay),
                ejectedUntil: ejections.ejectedUntil(life.number),
                ramp: slowStart.ramp(since: life.rampingSince, now: now), canBePicked: seat.share > 0)
        }
    }
}

extension BalanceMachine.Output {
    fileprivate mutating func add(_ other: Self) {
        isNew = isNew || other.isNew
        tell += other.tell
    }
}
