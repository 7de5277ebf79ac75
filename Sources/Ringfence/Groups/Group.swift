// SPDX-License-Identifier: Apache-2.0
//
// A group as this process sees it: the machine that keeps the view, the calls it asks for, and the view for readers.
//
// Everything goes on on the connection's event loop: one alarm for the group's next look and the next beat of each
// membership of it. An answer to any call, whichever, is news of the group. What is shown is published as one object,
// snapshot and ring together, which readers load without waiting for anybody (Published.swift).

import CoreMetrics
import Hiredis
import Logging
import NIOCore
import RingfenceCore
import Synchronization

/// A named set of members that stay in it by renewing a lease.
///
/// ```swift
/// let group = try await ringfence.group("ledger")
/// let membership = try await group.join("node-1", address: "10.0.0.1:7000", zone: "a")
/// let owner = group.ring.owner(of: "account/4711")
/// ```
///
/// The object keeps its view of the group current as long as it is held: from the group's events as they are published,
/// from the answers to its own calls, at least one a second, and by a look at the moment the next member would die, so
/// a death is found one round trip after its lease ended. Reading ``snapshot`` and ``ring`` costs no round trip and
/// waits for nobody.
public final class Group: Sendable {
    /// What readers see.
    struct Shown: Sendable {
        /// A class, so that the ring of a snapshot is made once, by whoever asks first.
        final class LazyRing: Sendable {
            let made = AtomicLazyReference<Made>()
            final class Made: Sendable {
                let ring: HashRing
                init(_ ring: HashRing) { self.ring = ring }
            }
        }

        var view: GroupMachine.View
        var members: [Member]
        var seq: Int64
        /// Of all members together.
        var weight = 0
        var hasCandidates = false
        let ring = LazyRing()
    }

    private struct State {
        var machine = GroupMachine()
        var isLooking = false
        var looksAgain = false
        var dice: Nanos = 0
        var memberships: [ObjectIdentifier: Membership] = [:]
        /// When each of them has something to do.
        var wakes = WakeQueue<ObjectIdentifier>()
        var wanted = GroupOptions()
        var isStopped = false
        /// Beats that are written together, by their members' leases in ms: how long an answer may take is a part of
        /// the lease.
        var beats: [Int64: [(membership: Membership, call: MemberMachine.Call, sentAt: Nanos)]] = [:]
    }

    /// The group's name.
    public let name: String
    let hub: GroupHub
    private let state = Mutex(State())
    private let shown = Published(Shown(view: GroupMachine().shown, members: [], seq: 0))
    private let confirmedAt = Atomic<Int64>(Int64.min)
    private let staleAt = Atomic<Int64>(Int64.min)
    private let wantsRing = Atomic<Bool>(false)
    private let balancers = Mutex<[BalancerKey: BalancerCore]>([:])
    private let alarm: Alarm
    /// As long as somebody looks at the group its events are heard, so that a change is seen at once and not at the
    /// next look.
    private let follower: EventFeed.Follower?

    init(name: String, hub: GroupHub) {
        self.name = name
        self.hub = hub
        follower = hub.feed.follow()
        let target = Target()
        alarm = Alarm(eventLoop: hub.eventLoop) { now in target.group.withLock { $0.group }?.tick(now: now) }
        target.group.withLock { $0.group = self }
    }

    /// Whom the alarm wakes, as long as it is there.
    private final class Target: Sendable {
        struct Reference { weak var group: Group? }
        let group = Mutex(Reference())
    }

    deinit {
        alarm.stop()
        let (hub, name) = (hub, name)
        // Not from in here: the table may be the one that is looking at us.
        hub.eventLoop.execute { hub.forget(name) }
    }

    func stop() {
        alarm.stop()
        follower?.end()
        state.withLock { state in
            state.isStopped = true
            state.memberships = [:]
            state.wakes = WakeQueue()
        }
        for balancer in balancers.withLock({ Array($0.values) }) { balancer.stop() }
    }

    // MARK: What readers see

    /// The group as it was last seen. Local: no round trip, and no wait for whoever is just changing it.
    public var snapshot: GroupSnapshot {
        let shown = shown.load()
        let confirmed = confirmedAt.load(ordering: .acquiring)
        let isStale = shown.view.isRecovering || Moment.now > staleAt.load(ordering: .acquiring)
        return GroupSnapshot(
            group: name, gen: shown.view.gen, version: shown.view.version, members: shown.members,
            role: shown.view.role, sequence: shown.seq,
            confirmedAt: Moment.instant(confirmed == .min ? 0 : confirmed), isStale: isStale,
            breaker: shown.view.breaker, hasCandidates: shown.hasCandidates)
    }

    /// How many members there would be with this one, and what all of them would weigh, as far as is shown.
    func sizeAndWeight(with record: MemberRecord) -> (members: Int, weight: Int) {
        let shown = shown.load()
        let stored = shown.view.member(record.id)
        return (
            shown.members.count + (stored == nil ? 1 : 0), shown.weight - (stored?.weight ?? 0) + record.weight
        )
    }

    /// The members of the newest snapshot on a hash ring. Local: one atomic load, and no wait for whoever is just
    /// changing it. (The first caller of all makes the ring; from then on it is made before a snapshot is shown.)
    public var ring: HashRing {
        let shown = shown.load()
        if let made = shown.ring.made.load() { return made.ring }
        wantsRing.store(true, ordering: .relaxed)
        return Self.ring(of: shown, after: nil, logger: hub.logger)
    }

    /// Makes the ring of what is shown, of the ring before it if that is given.
    @discardableResult
    private static func ring(of shown: Shown, after previous: HashRing?, logger: Logger) -> HashRing {
        let policy = shown.view.policy ?? GroupScripts.defaultPolicy
        let members = shown.view.members.map { HashRing.Member(id: $0.id, zone: $0.zone, weight: $0.weight) }
        do {
            let ring: HashRing
            if let previous, previous.seed == policy.seed, previous.unit == policy.unit {
                ring = try previous.changed(to: members)
            } else {
                ring = try HashRing(members, seed: policy.seed, unit: policy.unit)
            }
            return shown.ring.made.storeIfNil(.init(ring)).ring
        } catch {
            // Each member is within its limits; together they may have more points than a ring takes.
            logger.error(
                "no ring can be made of the group's members; the one before stays",
                metadata: [LoggingKeys.error: "\(error)"])
            return shown.ring.made.storeIfNil(.init(previous ?? none)).ring
        }
    }

    private static let none: HashRing = {
        do { return try HashRing() } catch { preconditionFailure("a ring without members: \(error)") }
    }()

    private func publish(_ machine: GroupMachine) {
        let before = shown.load()
        var next = Shown(view: machine.shown, members: machine.shown.members.map { Member($0) }, seq: machine.seq)
        for member in machine.shown.members {
            next.weight += member.weight
            if member.isCandidate { next.hasCandidates = true }
        }
        if wantsRing.load(ordering: .relaxed) {
            Self.ring(of: next, after: before.ring.made.load()?.ring, logger: hub.logger)
        }
        shown.store(next)
        for balancer in balancers.withLock({ Array($0.values) }) { tell(balancer, next) }
    }

    // MARK: Balancers

    private struct BalancerKey: Hashable {
        var policy: BalancePolicy
        var options: BalancerOptions
    }

    /// The one balancer of this policy and these options.
    func balancerCore(_ policy: BalancePolicy, _ options: BalancerOptions) throws -> BalancerCore {
        let settings = try options.checked()
        let key = BalancerKey(policy: policy, options: options)
        return balancers.withLock { balancers in
            if let core = balancers[key] { return core }
            let outside = BalancerCore.Outside(eventLoop: hub.eventLoop, logger: hub.logger) {
                [weak hub, name] type, member, reason, detail in
                hub?.note(type, group: name, member: member, reason: reason, detail: detail)
            }
            let core = BalancerCore(policy.rule, settings, group: name, outside)
            // Who publishes meanwhile stores first and tells all balancers then, this one too.
            tell(core, shown.load())
            balancers[key] = core
            return core
        }
    }

    private func tell(_ balancer: BalancerCore, _ shown: Shown) {
        guard balancer.needsKey else { return balancer.saw(shown.view, ring: nil) }
        wantsRing.store(true, ordering: .relaxed)
        let ring = shown.ring.made.load()?.ring ?? Self.ring(of: shown, after: nil, logger: hub.logger)
        balancer.saw(shown.view, ring: ring.core)
    }

    // MARK: Time

    private func tick(now: Nanos) {
        let (memberships, action) = state.withLock { state -> ([Membership], GroupMachine.Action) in
            let action = state.machine.tick(now: now)
            if action == .show { publish(state.machine) }
            let isDue = !state.isLooking && state.machine.wakeAt(dice: state.dice) <= now
            return (state.wakes.takeDue(now: now).compactMap { state.memberships[$0] }, isDue ? .look : .none)
        }
        // Beats first: they are looks too.
        for membership in memberships {
            membership.tick(now: now)
            plan(membership)
        }
        if action == .look, state.withLock({ $0.machine.wakeAt(dice: $0.dice) <= now }) { look() }
        setAlarm()
    }

    func setAlarm() {
        let now = Moment.now
        let at = state.withLock { state -> Nanos in
            guard !state.isStopped else { return .never }
            return min(state.isLooking ? .never : state.machine.wakeAt(dice: state.dice), state.wakes.first)
        }
        alarm.set(at, now: now)
    }

    /// There may be thousands of them here, so each says itself when it has something to do.
    private func plan(_ membership: Membership) {
        let at = membership.wakeAt
        state.withLock { state in
            guard state.memberships[ObjectIdentifier(membership)] != nil else { return }
            state.wakes.add(ObjectIdentifier(membership), at: at)
        }
    }

    /// A membership may have something to do at another time than before.
    func wakeUp(_ membership: Membership) {
        plan(membership)
        setAlarm()
    }

    // MARK: Looking

    /// Asks Redis, unless it is being asked.
    func look() {
        let call = state.withLock { state -> (ScriptCall, Nanos)? in
            guard !state.isStopped else { return nil }
            guard !state.isLooking else {
                state.looksAgain = true
                return nil
            }
            state.isLooking = true
            let now = Moment.now
            state.machine.asks(now: now)
            return (hub.scripts.watch(name, state.machine.knowledge), now)
        }
        guard let (call, sentAt) = call else { return }
        hub.courier.run(call, confirmation: nil) { [self] result in
            let again = state.withLock { state in
                state.isLooking = false
                defer { state.looksAgain = false }
                return state.looksAgain
            }
            _ = took(result, sentAt: sentAt)
            if again { look() }
            setAlarm()
        }
    }

    /// What is known of the group, for a call that is being written now.
    func knowledge(now: Nanos) -> GroupKnowledge {
        state.withLock { state in
            state.machine.asks(now: now)
            return state.machine.knowledge
        }
    }

    /// The same for a beat, which need not ask what is new if it is one of many here: with each change Redis would tell
    /// it to this process as many times. The others ask often enough.
    func knowledge(ofBeatAt now: Nanos) -> GroupKnowledge {
        state.withLock { state in
            if state.memberships.count > Self.askingBeats,
                now - state.machine.askedAt < state.machine.pace / Nanos(Self.askingBeats)
            {
                return .notAsking
            }
            state.machine.asks(now: now)
            return state.machine.knowledge
        }
    }

    /// So many beats in a pace ask.
    private static let askingBeats = 8

    // MARK: Beats of many members

    /// So many are written together, at most.
    private static let mostBeats = 64
    /// And for this part of a pace a beat waits for others. It counts from before it waited.
    private static let beatsWait: Nanos = 20

    /// Writes a beat together with others that are due: where a process has thousands of members in a group each would
    /// cost Redis a call a second.
    func writeTogether(_ membership: Membership, _ call: MemberMachine.Call, sentAt: Nanos) {
        let lease = call.record.leaseMilliseconds
        let (count, pace) = state.withLock { state in
            state.beats[lease, default: []].append((membership, call, sentAt))
            return (state.beats[lease]!.count, state.machine.pace)
        }
        if count == 1 {
            hub.eventLoop.scheduleTask(in: .nanoseconds(pace / Self.beatsWait)) { [self] in writeBeats(lease) }
        }
        if count == Self.mostBeats { writeBeats(lease) }
    }

    private func writeBeats(_ lease: Int64) {
        let beats = state.withLock { $0.beats.removeValue(forKey: lease) } ?? []
        guard let sentAt = beats.first?.sentAt else { return }
        let script = hub.scripts.beats(
            name,
            beats.map { beat in
                let record = beat.call.record
                return GroupAnswer.Beat(
                    id: record.id, session: record.session, leaseMilliseconds: record.leaseMilliseconds,
                    joined: beat.call.joined)
            })
        let patience = min(hub.commandTimeout, MembershipMachine.patience(lease * .millisecond))
        hub.courier.run(script, confirmation: nil, deadline: .nanoseconds(patience)) { [self] result in
            let answer = took(result, sentAt: sentAt, asked: false).flatMap { answer in
                answer.statuses.count == beats.count
                    ? .success(answer)
                    : .failure(RedisError(.protocolViolation, effect: .unknown, "an answer to other beats"))
            }
            for (index, beat) in beats.enumerated() {
                beat.membership.answered(
                    .beat,
                    answer.map {
                        var its = $0
                        its.status = $0.statuses[index]
                        return its
                    })
                plan(beat.membership)
            }
            setAlarm()
        }
    }

    /// Whether Redis has ever been heard of.
    var isKnown: Bool { state.withLock { $0.machine.confirmedAt != nil } }

    /// Of what the group is made with here, should a join make it. Once it is made nobody who came this far wants
    /// another.
    func want(_ options: GroupOptions) {
        state.withLock { state in
            guard state.machine.known.policy == nil else { return state.wanted = GroupOptions() }
            state.wanted.seed = options.seed ?? state.wanted.seed
            state.wanted.unit = options.unit ?? state.wanted.unit
        }
    }

    /// What the group is made with, if a join makes it.
    var wantedPolicy: RingPolicy {
        let wanted = state.withLock { $0.wanted }
        return RingPolicy(
            seed: wanted.seed ?? GroupScripts.defaultPolicy.seed, unit: wanted.unit ?? GroupScripts.defaultPolicy.unit)
    }

    /// The error of who asks for another ring than the group was made with; nil also while it is not made yet.
    func mismatch(with options: GroupOptions) -> RingfenceError? {
        guard let policy,
            options.seed ?? policy.seed != policy.seed || options.unit ?? policy.unit != policy.unit
        else { return nil }
        return RingfenceError(
            .policyMismatch, effect: .none,
            "the group '\(name)' was made with seed \(policy.seed) and unit \(policy.unit): ask for those, or for none")
    }

    /// What was asked for when the group was not made yet: somebody else may have made it since.
    var policyMismatch: RingfenceError? { mismatch(with: state.withLock { $0.wanted }) }

    /// As Redis last said it is, shown already or not.
    var known: GroupMachine.View { state.withLock { $0.machine.known } }
    /// The same, and when Redis was asked last that said so.
    var sight: MemberMachine.Sight { state.withLock { $0.machine.sight } }
    /// As Redis last said it is, but only when Redis has not been heard of for longer than it should.
    func viewWhileAway(now: Nanos) -> GroupMachine.View? { state.withLock { $0.machine.viewWhileAway(now: now) } }
    var policy: RingPolicy? { state.withLock { $0.machine.known.policy } }
    var pace: Nanos { state.withLock { $0.machine.pace } }

    /// The answer to any call of this group, or that none came.
    ///
    /// - Parameter asked: what is new. Who did not was not told, and that the group has another version says nothing to
    ///   it.
    func took(
        _ result: Result<RedisReply, RedisError>, sentAt: Nanos, asked: Bool = true
    ) -> Result<GroupAnswer, RedisError> {
        let now = Moment.now
        let decoded = result.flatMap { reply -> Result<GroupAnswer, RedisError> in
            GroupScripts.answer(reply).map { .success($0) } ?? .failure(.shape(reply))
        }
        switch decoded {
        case .failure(let error):
            state.withLock { $0.machine.failed(now: now) }
            if error.code == .protocolViolation {
                hub.logger.error(
                    "a group's answer cannot be read",
                    metadata: [LoggingKeys.group: "\(name)", LoggingKeys.error: "\(error)"])
            }
            if let confirmed = state.withLock({ $0.machine.confirmedAt }) {
                hub.metrics.snapshotAge.recordNanoseconds(max(0, now - confirmed))
            }
        case .success(let answer) where asked: took(answer, sentAt: sentAt, now: now)
        case .success(let answer): hub.feed.heard(gen: answer.gen, seq: answer.seq)
        }
        return decoded
    }

    private func took(_ answer: GroupAnswer, sentAt: Nanos, now: Nanos) {
        // Who follows the log learns here that it has gone on, should the message be lost.
        hub.feed.heard(gen: answer.gen, seq: answer.seq)
        let (action, isNewGap, isNewRole, hearing) = state.withLock { state in
            let wasHeld = state.machine.isHeld
            let roleBefore = state.machine.known.role
            let action = state.machine.answered(answer, sentAt: sentAt, now: now)
            state.dice = Nanos.random(in: 0...3 * .millisecond)
            if action == .show { publish(state.machine) }
            if let confirmed = state.machine.confirmedAt {
                confirmedAt.store(confirmed, ordering: .releasing)
                staleAt.store(confirmed + GroupMachine.patience(state.machine.pace), ordering: .releasing)
            }
            let isNewRole = state.machine.known.role != roleBefore
            return (
                action, !wasHeld && state.machine.isHeld, isNewRole,
                isNewRole ? Array(state.memberships.values) : []
            )
        }
        if isNewRole { hub.metrics.saw(known.role, of: name) }
        if !hearing.isEmpty {
            let sight = sight
            for membership in hearing {
                membership.saw(sight, now: now)
                plan(membership)
            }
            setAlarm()
        }
        if let content = answer.content, !content.unreadable.isEmpty {
            hub.logger.error(
                "records of members cannot be read: left out of what this process sees of the group",
                metadata: [
                    LoggingKeys.group: "\(name)", LoggingKeys.member: "\(content.unreadable.joined(separator: " "))",
                ])
        }
        hub.metrics.snapshotAge.recordNanoseconds(max(0, now - sentAt))
        if isNewGap { hub.metrics.groupGaps.increment() }
        if action == .look { look() }
    }

    /// An event of the log about this group.
    func happened(_ event: GroupEvent) {
        let action = state.withLock { state in
            let action = state.machine.happened(event, now: Moment.now)
            if action == .show { publish(state.machine) }
            return action
        }
        if action == .look { look() }
        setAlarm()
    }

    /// Events of the log were missed.
    func missedEvents() {
        _ = state.withLock { $0.machine.look(now: Moment.now) }
        look()
        setAlarm()
    }

    /// Returns once Redis has been heard of since it was called, and all of the group is known.
    package func refresh() async throws {
        repeat { try await refreshOnce() } while state.withLock { $0.machine.isGathering }
    }

    private func refreshOnce() async throws {
        let sentAt = Moment.now
        let call = hub.scripts.watch(name, knowledge(now: sentAt))
        let result = await hub.courier.result(of: call)
        if case .failure(let error) = took(result, sentAt: sentAt) {
            var failure = RingfenceError(error, "reading the group '\(name)'")
            failure.effect = .none
            throw failure
        }
        setAlarm()
    }

    // MARK: Memberships

    func add(_ membership: Membership) {
        state.withLock { $0.memberships[ObjectIdentifier(membership)] = membership }
        wakeUp(membership)
    }

    func remove(_ membership: Membership) {
        state.withLock { state in
            state.memberships[ObjectIdentifier(membership)] = nil
            state.wakes.forget(ObjectIdentifier(membership))
        }
        hub.remove(membership)
    }
}

extension HashRing {
    /// The ring of exactly these members, made of this one by what differs.
    fileprivate func changed(to members: [Member]) throws -> HashRing {
        let before = self.members
        var joining: [Member] = []
        var leaving: [String] = []
        var old = before[...]
        for member in members {
            while let first = old.first, first.id.isBefore(member.id) {
                leaving.append(first.id)
                old.removeFirst()
            }
            if let first = old.first, first.id.hasSameBytes(as: member.id) {
                old.removeFirst()
                if first != member { joining.append(member) }
            } else {
                joining.append(member)
            }
        }
        leaving += old.map(\.id)
        return try applying(joining: joining, leaving: leaving)
    }
}
