// SPDX-License-Identifier: Apache-2.0
//
// A group as one process plays its part in it: what the process knows of the group, each of its own members, and which
// calls are on their way.
//
// GroupMachine and MemberMachine each know their own subject. Here are the rules that join them: what an answer changes
// and in which order, which members are told of a new primary, what a call says is known, which beats ask what is new,
// and when all of this has something to do next. It is one value: its owner keeps it behind one lock, hands it what
// happens, and performs what it asks for. The library, the simulation and the exploration run this one type.
//
// The order for "never two primaries": the group has an answer before the members see it, all members see a new role
// before the one whose answer it is hears its own news, and what a call says is known is read before its status is
// written, so that the promises are counted by a view that is no older (MemberMachine.swift).
//
// Beats of many. With each change Redis would tell each of thousands of members of one process the same, and each beat
// would cost it a call. So only some beats of a pace ask; the others, if they have nothing else to say, wait a little
// for each other and are written in one call.

package struct LocalGroup: Sendable {
    /// One of the process' own members.
    package typealias Key = Int

    /// A call to Redis that is to be written now. Its answer comes back with `Event.answered`.
    package struct Request: Sendable {
        package enum Kind: Sendable {
            case look
            case member(Key, MemberMachine.Call, CandidateStatus?)
            /// Beats of members that need not ask, all with the same lease.
            case beats([(key: Key, call: MemberMachine.Call)])
        }

        package var kind: Kind
        package var knowledge: GroupKnowledge
        /// Deadlines count from here: for beats that waited for each other, from before the first waited.
        package var sentAt: Nanos
    }

    package enum Event: Sendable {
        /// `wakeAt` has come.
        case tick
        /// Events of the log were missed, or somebody wants to know how the group is.
        case missed
        case happened(GroupEvent)
        /// The answer to beats has the status of each of them.
        case answered(Request, MemberMachine.Reply)
        /// The answer to a call about the group that was not asked for here: a join, an order. nil: none came.
        case heard(GroupAnswer?, sentAt: Nanos)
    }

    package enum Action: Sendable {
        case send(Request)
        case tell(Key, MemberMachine.Tell)
        /// The member took a step: what somebody waits for may be written, or it may be over.
        case stepped(Key)
        /// What readers see has changed. It comes before those are told who hear of the same.
        case show
        /// The role of primary has changed.
        case role
        /// Nobody is taken out for a while: Redis was out of reach.
        case grace
    }

    /// What is not decided by what happened.
    package struct Chance: Sendable {
        package var newSession: @Sendable () -> String
        /// 0 to 3 ms, so that not all watchers ask for one death at once.
        package var dice: @Sendable () -> Nanos

        package init(newSession: @escaping @Sendable () -> String, dice: @escaping @Sendable () -> Nanos) {
            self.newSession = newSession
            self.dice = dice
        }
    }

    /// How many beats in a pace ask what is new.
    private static let askingBeats = 8
    /// How many members take their steps in one event: nothing else reaches the group meanwhile. The others are due at
    /// once.
    private static let mostSteps = 256
    /// How many beats are written together at most.
    private static let mostBeats = 64
    /// The part of a pace that a beat waits for others: 1/20.
    private static let beatsWait: Nanos = 20

    package private(set) var group = GroupMachine()
    private var members: [Key: MemberMachine] = [:]
    /// Those that are not over.
    private var active: Set<Key> = []
    private var wakes = WakeQueue<Key>()
    private var isLooking = false
    private var looksAgain = false
    private var isStopped = false
    private var dice: Nanos = 0
    /// Beats that wait for each other, by their members' leases in ms: how long an answer may take is a part of the
    /// lease.
    private var beats: [Int64: (list: [(key: Key, call: MemberMachine.Call)], sentAt: Nanos, due: Nanos)] = [:]

    package init() {}

    // MARK: What is known

    package func member(_ key: Key) -> MemberMachine? { members[key] }

    /// When it has something to do; `.never` once it was stopped.
    package var wakeAt: Nanos {
        guard !isStopped else { return .never }
        let beatsDue = beats.values.lazy.map(\.due).min() ?? .never
        return min(isLooking ? .never : group.wakeAt(dice: dice), wakes.first, beatsDue)
    }

    /// What is known, for a call that is written now and asks what is new.
    package mutating func knowledge(now: Nanos) -> GroupKnowledge {
        group.asks(now: now)
        return group.knowledge
    }

    // MARK: Its own members

    /// It is known, and does nothing before it begins.
    package mutating func add(_ member: MemberMachine, _ key: Key) { members[key] = member }

    package mutating func begin(_ key: Key) {
        guard members[key] != nil else { return }
        active.insert(key)
        plan(key)
    }

    /// Nobody asks for it any more.
    package mutating func remove(_ key: Key) {
        members[key] = nil
        retire(key)
    }

    /// The client ends: nothing is done any more.
    package mutating func stop() {
        isStopped = true
        wakes = WakeQueue()
        beats = [:]
    }

    /// What its process wants of a member, which must be there.
    package mutating func with<Result>(
        _ key: Key, _ body: (inout MemberMachine) throws -> (Result, tells: [MemberMachine.Tell])
    ) rethrows -> (result: Result, actions: [Action]) {
        let (result, tells) = try body(&members[key]!)
        plan(key)
        return (result, tells.map { .tell(key, $0) })
    }

    private mutating func retire(_ key: Key) {
        active.remove(key)
        wakes.forget(key)
    }

    /// There may be thousands, so each says itself when it has something to do.
    private mutating func plan(_ key: Key) {
        guard !isStopped, active.contains(key), let at = members[key]?.wakeAt else { return }
        wakes.add(key, at: at)
    }

    // MARK: What happens

    package mutating func handle(_ event: Event, now: Nanos, _ chance: Chance) -> [Action] {
        var actions: [Action] = []
        switch event {
        case .tick: tick(now, chance, &actions)
        case .missed:
            _ = group.look(now: now)
            look(now, &actions)
        case .happened(let event): perform(group.happened(event, now: now), now, &actions)
        case .answered(let request, let reply): answered(request, reply, now, chance, &actions)
        case .heard(let answer, let sentAt): heard(answer, sentAt, now, chance, &actions)
        }
        return actions
    }

    private mutating func perform(_ action: GroupMachine.Action, _ now: Nanos, _ actions: inout [Action]) {
        switch action {
        case .none: break
        case .show: actions.append(.show)
        case .look: look(now, &actions)
        }
    }

    private mutating func tick(_ now: Nanos, _ chance: Chance, _ actions: inout [Action]) {
        guard !isStopped else { return }
        perform(group.tick(now: now), now, &actions)
        // Beats first: they are looks too.
        for key in wakes.takeDue(now: now, most: Self.mostSteps) where active.contains(key) {
            step(key, now, &actions) { $0.tick(now: now, newSession: chance.newSession) }
        }
        for (lease, waiting) in beats where waiting.due <= now { sendBeats(lease, &actions) }
        if group.wakeAt(dice: dice) <= now, !isLooking { look(now, &actions) }
    }

    private mutating func step(
        _ key: Key, _ now: Nanos, _ actions: inout [Action], _ change: (inout MemberMachine) -> MemberMachine.Output
    ) {
        guard members[key] != nil else { return }
        let output = change(&members[key]!)
        for tell in output.tells { actions.append(.tell(key, tell)) }
        if let call = output.call { write(key, call, now, &actions) }
        if members[key]!.membership.isOver { retire(key) } else { plan(key) }
        actions.append(.stepped(key))
    }

    // MARK: Calls

    /// Asks Redis, unless it is being asked.
    private mutating func look(_ now: Nanos, _ actions: inout [Action]) {
        guard !isStopped else { return }
        guard !isLooking else { return looksAgain = true }
        isLooking = true
        actions.append(.send(Request(kind: .look, knowledge: knowledge(now: now), sentAt: now)))
    }

    private mutating func write(_ key: Key, _ call: MemberMachine.Call, _ now: Nanos, _ actions: inout [Action]) {
        let isPlainBeat = call.kind == .beat && members[key]!.role == nil
        if isPlainBeat, active.count > Self.askingBeats,
            now - group.askedAt < group.pace / Nanos(Self.askingBeats)
        {
            return gather(key, call, now, &actions)
        }
        let knowledge = knowledge(now: now)
        // By a view that is no older than what the call says is known.
        let (status, tells) = members[key]!.write(group.known, now: now)
        for tell in tells { actions.append(.tell(key, tell)) }
        actions.append(.send(Request(kind: .member(key, call, status), knowledge: knowledge, sentAt: now)))
    }

    private mutating func gather(_ key: Key, _ call: MemberMachine.Call, _ now: Nanos, _ actions: inout [Action]) {
        let lease = call.record.leaseMilliseconds
        beats[lease, default: ([], now, now + group.pace / Self.beatsWait)].list.append((key, call))
        if beats[lease]!.list.count == Self.mostBeats { sendBeats(lease, &actions) }
    }

    private mutating func sendBeats(_ lease: Int64, _ actions: inout [Action]) {
        guard let waiting = beats.removeValue(forKey: lease) else { return }
        actions.append(
            .send(Request(kind: .beats(waiting.list), knowledge: .notAsking, sentAt: waiting.sentAt)))
    }

    // MARK: Answers

    private mutating func answered(
        _ request: Request, _ reply: MemberMachine.Reply, _ now: Nanos, _ chance: Chance, _ actions: inout [Action]
    ) {
        let answer: GroupAnswer? = if case .answer(let answer) = reply { answer } else { nil }
        switch request.kind {
        case .look:
            isLooking = false
            heard(answer, request.sentAt, now, chance, &actions)
            if looksAgain {
                looksAgain = false
                look(now, &actions)
            }
        case .member(let key, let call, _):
            heard(answer, request.sentAt, now, chance, &actions)
            answered(key, call, reply, now, chance, &actions)
        case .beats(let list):
            // It did not ask, so it was not told; that the group has another version says nothing.
            let isAnswer = answer?.statuses.count == list.count
            if !isAnswer { group.failed(now: now) }
            for (index, beat) in list.enumerated() {
                var its = isAnswer || answer == nil ? reply : .none
                if isAnswer, var answer {
                    answer.status = answer.statuses[index]
                    its = .answer(answer)
                }
                answered(beat.key, beat.call, its, now, chance, &actions)
            }
        }
    }

    private mutating func answered(
        _ key: Key, _ call: MemberMachine.Call, _ reply: MemberMachine.Reply, _ now: Nanos, _ chance: Chance,
        _ actions: inout [Action]
    ) {
        let sight = group.sight
        step(key, now, &actions) {
            $0.answered(call.kind, reply, sight, now: now, newSession: chance.newSession)
        }
    }

    private mutating func heard(
        _ answer: GroupAnswer?, _ sentAt: Nanos, _ now: Nanos, _ chance: Chance, _ actions: inout [Action]
    ) {
        guard let answer else { return group.failed(now: now) }
        let (wasInGrace, role) = (group.isInGrace, group.known.role)
        let action = group.answered(answer, sentAt: sentAt, now: now)
        dice = chance.dice()
        // A listener finds what it is told in what readers see.
        if action == .show { actions.append(.show) }
        if !wasInGrace, group.isInGrace { actions.append(.grace) }
        if group.known.role != role {
            actions.append(.role)
            let sight = group.sight
            for key in active where members[key]!.role != nil {
                for tell in members[key]!.saw(sight, now: now) { actions.append(.tell(key, tell)) }
                plan(key)
            }
        }
        if action == .look { look(now, &actions) }
    }
}
