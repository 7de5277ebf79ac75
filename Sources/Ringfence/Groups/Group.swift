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
        var sequence: Int64
        /// Of all members together.
        var weight = 0
        var hasCandidates = false
        let ring = LazyRing()
    }

    /// All that changes, behind one lock.
    private struct State {
        var local = LocalGroup()
        var observers: [LocalGroup.Key: MemberObservers] = [:]
        var lastKey = 0
        var wanted = GroupOptions()
        /// How often what readers see has changed.
        var showings = 0
    }

    /// The group's name.
    public let name: String
    let hub: GroupHub
    private let state = Mutex(State())
    private let shown = Published(Shown(view: GroupMachine().shown, members: [], sequence: 0))
    /// One at a time makes what is shown. Whoever makes something older, on another thread, comes too late.
    private let showing = Mutex(())
    /// Its number.
    private let lastShown = Atomic<Int>(0)
    private let confirmedAt = Atomic<Int64>(Int64.min)
    private let staleAt = Atomic<Int64>(Int64.min)
    private let wantsRing = Atomic<Bool>(false)
    private let balancers = Mutex<[BalancerKey: BalancerCore]>([:])
    private let alarm: Alarm
    private let chance: LocalGroup.Chance
    /// As long as somebody looks at the group its events are heard, so that a change is seen at once and not at the
    /// next look.
    private let follower: EventFeed.Follower?

    init(name: String, hub: GroupHub) {
        self.name = name
        self.hub = hub
        follower = hub.feed.follow()
        chance = LocalGroup.Chance(newSession: hub.nonces.session, dice: { Nanos.random(in: 0...3 * .millisecond) })
        let target = Target()
        alarm = Alarm(eventLoop: hub.eventLoop) { now in target.group.withLock { $0.group }?.handle(.tick, now: now) }
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
        // Let go of outside: the last reference to one may be here.
        let memberships = state.withLock { state in
            state.local.stop()
            return state.observers.keys.compactMap { state.observers[$0]!.release() }
        }
        withExtendedLifetime(memberships) {}
        for balancer in balancers.withLock({ Array($0.values) }) { balancer.stop() }
    }

    // MARK: What readers see

    /// The group as it was last seen. Local: no round trip, and no wait for whoever is just changing it.
    public var snapshot: GroupSnapshot {
        let shown = shown.load()
        let confirmed = confirmedAt.load(ordering: .acquiring)
        let isStale = shown.view.isRecovering || Moment.now > staleAt.load(ordering: .acquiring)
        return GroupSnapshot(
            group: name, generation: shown.view.generation, version: shown.view.version, members: shown.members,
            role: shown.view.role, sequence: shown.sequence,
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
            if let previous, previous.seed == policy.seed, previous.pointsPerWeight == policy.pointsPerWeight {
                ring = try previous.changed(to: members)
            } else {
                ring = try HashRing(members, seed: policy.seed, pointsPerWeight: policy.pointsPerWeight)
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

    /// Not under the group's lock: a ring may be made here, and whoever asks whether it is a member waits for nothing.
    private func publish(_ showing: Showing) {
        self.showing.withLock { _ in
            guard showing.number > lastShown.load(ordering: .relaxed) else { return }
            let before = shown.load()
            var next = Shown(
                view: showing.view, members: showing.view.members.map { Member($0) }, sequence: showing.sequence)
            for member in showing.view.members {
                next.weight += member.weight
                if member.isCandidate { next.hasCandidates = true }
            }
            if wantsRing.load(ordering: .relaxed) {
                Self.ring(of: next, after: before.ring.made.load()?.ring, logger: hub.logger)
            }
            shown.store(next)
            for balancer in balancers.withLock({ Array($0.values) }) { tell(balancer, next) }
            lastShown.store(showing.number, ordering: .releasing)
        }
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

    // MARK: What happens

    /// What readers shall see.
    private struct Showing: Sendable {
        var number: Int
        var view: GroupMachine.View
        var sequence: Int64
    }

    /// What is to be done when the lock is free again.
    private struct Afterwards: Sendable {
        var requests: [LocalGroup.Request] = []
        var showing: Showing?
        var role: GroupRole?
        var isGraceNew = false
        var observers = MemberObservers.Afterwards()
    }

    /// The one way in: hands the machine what happened, and does what it asks for.
    func handle(_ event: LocalGroup.Event, now: Nanos = Moment.now) {
        change { state, _ in ((), state.local.handle(event, now: now, chance)) }
    }

    /// What a membership's process wants of its machine, and of those who wait for it.
    func with<Result>(
        _ key: LocalGroup.Key,
        _ body: (inout MemberMachine, inout MemberObservers, inout MemberObservers.Afterwards) throws -> (
            Result, tells: [MemberMachine.Tell]
        )
    ) rethrows -> Result {
        try change { state, after in
            guard var its = state.observers.removeValue(forKey: key) else {
                preconditionFailure("a membership is known to its group as long as its object is there")
            }
            defer { state.observers[key] = its }
            return try state.local.with(key) { try body(&$0, &its, &after.observers) }
        }
    }

    /// What is so of a membership by now.
    func read<Result>(_ key: LocalGroup.Key, _ body: (MemberMachine) -> Result) -> Result {
        state.withLock { body($0.local.member(key)!) }
    }

    private func change<Result>(
        _ body: (inout State, inout Afterwards) throws -> (Result, [LocalGroup.Action])
    ) rethrows -> Result {
        let (result, after, wakeAt) = try state.withLock { state in
            var after = Afterwards()
            let (result, actions) = try body(&state, &after)
            for action in actions { perform(action, &state, &after) }
            if let confirmed = state.local.group.confirmedAt {
                confirmedAt.store(confirmed, ordering: .releasing)
                staleAt.store(confirmed + GroupMachine.patience(state.local.group.pace), ordering: .releasing)
            }
            // Also what another thread made and has not shown yet: whoever comes back from here sees it.
            if state.showings > lastShown.load(ordering: .acquiring) {
                after.showing = Showing(
                    number: state.showings, view: state.local.group.shown, sequence: state.local.group.sequence)
            }
            return (result, after, state.local.wakeAt)
        }
        perform(after)
        alarm.set(wakeAt)
        return result
    }

    /// Under the lock, so that everybody is told in the order in which it happened.
    private func perform(_ action: LocalGroup.Action, _ state: inout State, _ after: inout Afterwards) {
        switch action {
        case .send(let request): after.requests.append(request)
        case .tell(let key, let tell):
            guard let machine = state.local.member(key) else { return }
            state.observers[key]?.tell(tell, machine, hub)
        case .stepped(let key):
            guard let machine = state.local.member(key) else { return }
            state.observers[key]?.settle(machine, in: name, &after.observers)
        case .show: state.showings += 1
        case .role(let role): after.role = role
        case .grace: after.isGraceNew = true
        }
    }

    private func perform(_ after: Afterwards) {
        if let showing = after.showing { publish(showing) }
        if let role = after.role { hub.metrics.saw(role, of: name) }
        if after.isGraceNew { hub.metrics.groupGaps.increment() }
        for request in after.requests { send(request) }
        after.observers.run(hub)
    }

    // MARK: Calls

    private func send(_ request: LocalGroup.Request) {
        switch request.kind {
        case .look: run(request, hub.scripts.watch(name, request.knowledge))
        case .member(_, let call, let status):
            run(request, script(call, request.knowledge, status), for: call.record.lease)
        case .beats(let list):
            let beats = list.map { beat in
                let record = beat.call.record
                return GroupAnswer.Beat(
                    id: record.id, session: record.session, leaseMilliseconds: record.leaseMilliseconds,
                    joined: beat.call.joined)
            }
            run(request, hub.scripts.beats(name, beats), for: list[0].call.record.lease, count: beats.count)
        }
    }

    private func script(
        _ call: MemberMachine.Call, _ knowledge: GroupKnowledge, _ status: CandidateStatus?
    ) -> ScriptCall {
        let record = call.record
        switch call.kind {
        case .beat:
            return hub.scripts.beat(
                name, knowledge, id: record.id, session: record.session, leaseMilliseconds: record.leaseMilliseconds,
                joined: call.joined, status: status)
        case .write:
            return hub.scripts.join(
                name, knowledge, record, call.mode, policy ?? requestedPolicy, status: status)
        case .leave:
            return hub.scripts.leave(
                name, knowledge, id: record.id, session: record.session, reason: call.reason, actor: "")
        }
    }

    /// A call that is late is given up while there is time to try again.
    private func run(_ request: LocalGroup.Request, _ script: ScriptCall, for lease: Nanos? = nil, count: Int = 0) {
        let patience = lease.map { Duration.nanoseconds(min(hub.commandTimeout, MembershipMachine.patience($0))) }
        hub.runner.run(script, confirmation: nil, deadline: patience) { [self] result in
            var answer = read(result, sentAt: request.sentAt)
            if count > 0, case .success(let its) = answer, its.statuses.count != count {
                answer = .failure(RedisError(.protocolViolation, effect: .unknown, "an answer to other beats"))
            }
            countBeats(request, answer)
            let reply: MemberMachine.Reply =
                switch answer {
                case .success(let answer): .answer(answer)
                case .failure(let error): error.code == .closed ? .closed : .none
                }
            handle(.answered(request, reply))
        }
    }

    private func countBeats(_ request: LocalGroup.Request, _ answer: Result<GroupAnswer, RedisError>) {
        let keys: [LocalGroup.Key]
        switch request.kind {
        case .look: return
        case .member(let key, let call, _): keys = call.kind == .leave ? [] : [key]
        case .beats(let list): keys = list.map(\.key)
        }
        let now = Moment.now
        for key in keys {
            hub.metrics.beats.increment()
            if case .failure = answer {
                hub.metrics.beatFailures.increment()
            } else if let deadline = state.withLock({ $0.local.member(key)?.membership.deadline }) {
                hub.metrics.memberMargin.recordNanoseconds(max(0, deadline - now))
            }
        }
    }

    private func read(_ result: Result<RedisReply, RedisError>, sentAt: Nanos) -> Result<GroupAnswer, RedisError> {
        let answer = result.flatMap { reply -> Result<GroupAnswer, RedisError> in
            GroupScripts.answer(reply).map { .success($0) } ?? .failure(.shape(reply))
        }
        switch answer {
        case .failure(let error):
            if error.code == .protocolViolation {
                hub.logger.error(
                    "a group's answer cannot be read",
                    metadata: [LoggingKeys.group: "\(name)", LoggingKeys.error: "\(error)"])
            }
            let confirmed = confirmedAt.load(ordering: .acquiring)
            if confirmed != .min { hub.metrics.snapshotAge.recordNanoseconds(max(0, Moment.now - confirmed)) }
        case .success(let answer):
            // Who follows the log learns here that it has gone on, should the message be lost.
            hub.feed.heard(generation: answer.generation, sequence: answer.sequence)
            if let content = answer.content, !content.unreadable.isEmpty {
                hub.logger.error(
                    "records of members cannot be read: left out of what this process sees of the group",
                    metadata: [
                        LoggingKeys.group: "\(name)",
                        LoggingKeys.member: "\(content.unreadable.joined(separator: " "))",
                    ])
            }
            hub.metrics.snapshotAge.recordNanoseconds(max(0, Moment.now - sentAt))
        }
        return answer
    }

    /// The answer to a call about this group that was made elsewhere and asked what is new, or that none came.
    func heard(_ result: Result<RedisReply, RedisError>, sentAt: Nanos) -> Result<GroupAnswer, RedisError> {
        let answer = read(result, sentAt: sentAt)
        handle(.heard(try? answer.get(), sentAt: sentAt))
        return answer
    }

    /// What is known of the group, for a call that is being written now.
    func knowledge(now: Nanos) -> GroupKnowledge { state.withLock { $0.local.knowledge(now: now) } }

    /// Whether Redis has ever been heard of.
    var isKnown: Bool { confirmedAt.load(ordering: .acquiring) != .min }

    /// Of what the group is made with here, should a join make it. Once it is made nobody who came this far wants
    /// another.
    func want(_ options: GroupOptions) {
        state.withLock { state in
            guard state.local.group.known.policy == nil else { return state.wanted = GroupOptions() }
            state.wanted.seed = options.seed ?? state.wanted.seed
            state.wanted.pointsPerWeight = options.pointsPerWeight ?? state.wanted.pointsPerWeight
        }
    }

    /// What the group is made with, if a join makes it.
    var requestedPolicy: RingPolicy {
        let wanted = state.withLock { $0.wanted }
        return RingPolicy(
            seed: wanted.seed ?? GroupScripts.defaultPolicy.seed,
            pointsPerWeight: wanted.pointsPerWeight ?? GroupScripts.defaultPolicy.pointsPerWeight)
    }

    /// The error of who asks for another ring than the group was made with; nil also while it is not made yet.
    func mismatch(with options: GroupOptions) -> RingfenceError? {
        guard let policy,
            options.seed ?? policy.seed != policy.seed
                || options.pointsPerWeight ?? policy.pointsPerWeight != policy.pointsPerWeight
        else { return nil }
        return RingfenceError(
            .policyMismatch, effect: .none,
            "the group '\(name)' was made with seed \(policy.seed) and pointsPerWeight \(policy.pointsPerWeight): ask for those, or for none"
        )
    }

    /// What was asked for when the group was not made yet: somebody else may have made it since.
    var policyMismatch: RingfenceError? { mismatch(with: state.withLock { $0.wanted }) }

    /// As Redis last said it is, shown already or not.
    var known: GroupMachine.View { state.withLock { $0.local.group.known } }
    /// As Redis last said it is, but only when Redis has not been heard of for longer than it should.
    func viewWhileAway(now: Nanos) -> GroupMachine.View? {
        state.withLock { $0.local.group.viewWhileAway(now: now) }
    }
    var policy: RingPolicy? { state.withLock { $0.local.group.known.policy } }

    /// Returns once Redis has been heard of since it was called, and all of the group is known.
    package func refresh() async throws {
        repeat {
            let sentAt = Moment.now
            let result = await hub.runner.result(of: hub.scripts.watch(name, knowledge(now: sentAt)))
            if case .failure(let error) = heard(result, sentAt: sentAt) {
                var failure = RingfenceError(error, "reading the group '\(name)'")
                failure.effect = .none
                throw failure
            }
        } while state.withLock { $0.local.group.isGathering }
    }

    // MARK: Memberships

    /// A membership of this process begins.
    func begin(_ machine: MemberMachine) -> Membership {
        change { state, _ in
            state.lastKey += 1
            let membership = Membership(group: self, key: state.lastKey)
            state.local.add(machine, state.lastKey)
            state.observers[state.lastKey] = MemberObservers(membership)
            return (membership, [])
        }
    }

    /// Nobody has the membership's object any more.
    func forget(_ key: LocalGroup.Key) {
        state.withLock { state in
            state.local.remove(key)
            state.observers[key] = nil
        }
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
