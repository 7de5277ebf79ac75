// SPDX-License-Identifier: Apache-2.0
//
// A group as this process sees it. All decisions are made by one value, LocalGroup: the view of the group and the
// process' own members. It stands behind one lock, with the waiters for news of the members. Whatever happens goes in
// by `handle`, whatever a membership's process wants by `with`; what the machine then asks for is performed.
//
// Under the lock: what readers see is published and listeners are told, in the order in which it happened, so that a
// listener finds what it is told in the snapshot. After it, when the lock is free: calls to Redis, waiters that are
// resumed, streams that end, metrics. They may come back here.
//
// One alarm wakes the machine for the next look, the next beat, the end of a role. What is shown is one object,
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
/// The object keeps its view of the group current as long as it is referenced: from the group's events as they are
/// published, from the answers to its own calls, at least one a second, and by a call at the moment the next lease
/// would end, so a death is found one round trip after its lease ended. Reading ``snapshot`` and ``ring`` costs no
/// round trip and never waits.
public final class Group: Sendable {
    /// All mutable state, behind one lock.
    private struct State {
        var local = LocalGroup()
        var observers: [LocalGroup.Key: MemberObservers] = [:]
        var lastKey = 0
        var wanted = GroupOptions()
    }

    /// The group's name.
    public let name: String
    let hub: GroupHub
    private let state = Mutex(State())
    let shown = Published(ShownGroup(GroupMachine().shown, sequence: 0))
    let confirmedAt = Atomic<Int64>(Int64.min)
    private let staleAt = Atomic<Int64>(Int64.min)
    let wantsRing = Atomic<Bool>(false)
    let balancers = Mutex<[BalancerKey: BalancerCore]>([:])
    private let alarm: Alarm
    private let chance: LocalGroup.Chance
    /// The subscription to the group's events: while the group is watched, changes are seen at once and not at the next
    /// look.
    private let follower: EventFeed.Follower?

    init(name: String, hub: GroupHub) {
        self.name = name
        self.hub = hub
        follower = hub.feed.follow()
        chance = LocalGroup.Chance(newSession: hub.nonces.session, dice: { Nanos.random(in: 0...3 * .millisecond) })
        alarm = Alarm(eventLoop: hub.eventLoop)
        alarm.onRing { [weak self] now in self?.handle(.tick, now: now) }
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

    /// The group as it was last seen. Local: no round trip, and no wait for a change under way.
    public var snapshot: GroupSnapshot {
        // Before what is shown, which is stored before them: so what is called fresh is.
        let (confirmed, staleAt) = (confirmedAt.load(ordering: .acquiring), staleAt.load(ordering: .acquiring))
        let shown = shown.load()
        let isStale = shown.view.isRecovering || Moment.now > staleAt
        return GroupSnapshot(
            group: name, generation: shown.view.generation, version: shown.view.version, members: shown.members,
            role: shown.view.role, sequence: shown.sequence,
            confirmedAt: Moment.instant(confirmed == .min ? 0 : confirmed), isStale: isStale,
            breaker: shown.view.breaker, hasCandidates: shown.hasCandidates)
    }

    /// The number of members with this one, and the weight of all of them, by the current snapshot.
    func sizeAndWeight(with record: MemberRecord) -> (members: Int, weight: Int) {
        let shown = shown.load()
        let stored = shown.view.member(record.id)
        return (
            shown.members.count + (stored == nil ? 1 : 0), shown.weight - (stored?.weight ?? 0) + record.weight
        )
    }

    /// The members of the newest snapshot on a hash ring. Local: one atomic load, and no wait for a change under way.
    /// (The first caller of all makes the ring; from then on it is made before a snapshot is shown.)
    public var ring: HashRing {
        let shown = shown.load()
        if let made = shown.ring.made.load() { return made.ring }
        wantsRing.store(true, ordering: .relaxed)
        return shown.makeRing(after: nil, logger: hub.logger, on: hub.eventLoop)
    }

    /// Called under the group's lock, so that a listener finds here what it is told.
    private func publish(_ group: GroupMachine) {
        let before = shown.load()
        let next = ShownGroup(group.shown, sequence: group.sequence)
        if wantsRing.load(ordering: .relaxed) {
            next.makeRing(after: before.ring.made.load()?.ring, logger: hub.logger, on: hub.eventLoop)
        }
        shown.store(next)
        for balancer in balancers.withLock({ Array($0.values) }) { tell(balancer, next) }
    }

    // MARK: What happens

    /// The work to do when the lock is free again.
    private struct Afterwards: Sendable {
        var requests: [LocalGroup.Request] = []
        var isRoleNew = false
        var isGraceNew = false
        var observers = MemberObservers.Afterwards()
    }

    /// The one way in: hands the machine what happened, and does what it asks for.
    func handle(_ event: LocalGroup.Event, now: Nanos = Moment.now) {
        change { state, _ in ((), state.local.handle(event, now: now, chance)) }
    }

    /// Gives a membership's process access to its machine and its observers.
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
            let done = try state.local.with(key) { try body(&$0, &its, &after.observers) }
            // It may be over, and nothing come any more that would say so.
            return (done.result, done.actions + [.stepped(key)])
        }
    }

    /// Reads a membership as of now: the time is taken after the lock.
    func read<Result>(_ key: LocalGroup.Key, _ body: (MemberMachine, _ now: Nanos) -> Result) -> Result {
        state.withLock { body($0.local.member(key)!, Moment.now) }
    }

    /// When these memberships end unless a beat gets through, without those whose object is gone.
    func deadlines(of keys: [LocalGroup.Key]) -> [Nanos] {
        state.withLock { state in keys.compactMap { state.local.member($0)?.membership.deadline } }
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
            return (result, after, state.local.wakeAt)
        }
        perform(after)
        alarm.set(wakeAt)
        return result
    }

    /// Called under the lock, so that all are told in the order in which it happened.
    private func perform(_ action: LocalGroup.Action, _ state: inout State, _ after: inout Afterwards) {
        switch action {
        case .send(let request): after.requests.append(request)
        case .tell(let key, let tell):
            guard let machine = state.local.member(key) else { return }
            state.observers[key]?.tell(tell, machine, hub)
        case .stepped(let key):
            guard let machine = state.local.member(key) else { return }
            state.observers[key]?.settle(machine, in: name, &after.observers)
        case .show: publish(state.local.group)
        case .role: after.isRoleNew = true
        case .grace: after.isGraceNew = true
        }
    }

    private func perform(_ after: Afterwards) {
        if after.isRoleNew { hub.metrics.saw(known.role, of: name) }
        if after.isGraceNew { hub.metrics.groupGaps.increment() }
        for request in after.requests { send(request) }
        after.observers.run(hub)
    }

    /// The knowledge of the group to send with a call that is being written now.
    func knowledge(now: Nanos) -> GroupKnowledge { state.withLock { $0.local.knowledge(now: now) } }

    /// Whether Redis has ever answered.
    var isKnown: Bool { confirmedAt.load(ordering: .acquiring) != .min }

    /// Notes the options that a join here would make the group with. Once the group is made, no caller that came this
    /// far wants others.
    func want(_ options: GroupOptions) {
        state.withLock { state in
            guard state.local.group.known.policy == nil else { return state.wanted = GroupOptions() }
            state.wanted.seed = options.seed ?? state.wanted.seed
            state.wanted.pointsPerWeight = options.pointsPerWeight ?? state.wanted.pointsPerWeight
        }
    }

    /// The ring policy that the group is made with, if a join makes it.
    var requestedPolicy: RingPolicy {
        let wanted = state.withLock { $0.wanted }
        return RingPolicy(
            seed: wanted.seed ?? GroupScripts.defaultPolicy.seed,
            pointsPerWeight: wanted.pointsPerWeight ?? GroupScripts.defaultPolicy.pointsPerWeight)
    }

    /// The error for options with another ring than the group was made with; nil also while it is not made yet.
    func mismatch(with options: GroupOptions) -> RingfenceError? {
        guard let policy,
            options.seed ?? policy.seed != policy.seed
                || options.pointsPerWeight ?? policy.pointsPerWeight != policy.pointsPerWeight
        else { return nil }
        return RingfenceError(
            .groupPolicyMismatch, effect: .none,
            "the group '\(name)' was made with seed \(policy.seed) and pointsPerWeight \(policy.pointsPerWeight): ask "
                + "for those, or for none"
        )
    }

    /// The options asked for when the group was not made yet: another process may have made it since.
    var policyMismatch: RingfenceError? { mismatch(with: state.withLock { $0.wanted }) }

    /// The group as Redis last told it, shown already or not.
    var known: GroupMachine.View { state.withLock { $0.local.group.known } }
    /// The group as Redis last told it, but only if Redis has been silent for too long.
    func viewWhileAway(now: Nanos) -> GroupMachine.View? {
        state.withLock { $0.local.group.viewWhileAway(now: now) }
    }
    var policy: RingPolicy? { state.withLock { $0.local.group.known.policy } }

    /// Returns once Redis has answered a new call, and the whole group is known.
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

    /// A membership of this process begins, unless the client is shut down.
    func begin(_ machine: MemberMachine) -> Membership? {
        let membership = state.withLock { state in
            state.lastKey += 1
            let membership = Membership(group: self, key: state.lastKey)
            state.local.add(machine, state.lastKey)
            state.observers[state.lastKey] = MemberObservers(membership)
            return membership
        }
        guard hub.add(membership) else {
            membership.abandon()
            return nil
        }
        // Only now: it is over nowhere before it is known everywhere.
        change { state, _ in (state.local.begin(membership.key), []) }
        return membership
    }

    /// Called when the membership's object is no longer referenced.
    func forget(_ key: LocalGroup.Key) {
        state.withLock { state in
            state.local.remove(key)
            state.observers[key] = nil
        }
    }
}
