// SPDX-License-Identifier: Apache-2.0
//
// A membership of this process: the machine that judges it, the calls the machine asks for, and those who want to be
// told. Its beats run on the event loop, woken by the group's alarm.

import CoreMetrics
import Hiredis
import Logging
import NIOCore
package import RingfenceCore
import Synchronization

/// This process' place in a group, from
/// ``Group/join(_:address:zone:weight:priority:capabilities:metadata:health:lease:rejoins:)`` until it leaves, expires
/// or is replaced.
///
/// It beats by itself, on an event loop that blocked threads do not stop. Ask ``check()`` before each step that only a
/// member may take: it is local, and it says no from the moment on at which others may have taken over, before Redis or
/// anybody has said so. The client keeps a membership alive; letting go of this object does not end it,
/// ``leave(reason:)`` does.
public final class Membership: Sendable {
    /// What has become of a membership.
    ///
    /// `member` → `suspended` → `member` again or `expired`; `member` → `expired`, `replaced` or `left`. `expired`,
    /// `replaced` and `left` are the end, but for a membership that rejoins: for it `expired` → `member`, under a new
    /// session (or `expired` again, when the answer to that join came too late).
    public enum State: String, Sendable, Hashable {
        /// In the group.
        case member
        /// Its lease may have run out: its own deadline passed, because Redis was not reached in time or the process
        /// was paused. It may not act. What Redis says next makes it a member again or tells that it has expired.
        case suspended
        /// Redis took it out of the group: its lease had run out, or somebody removed it. Others know.
        case expired
        /// Another process joined under the same member id.
        case replaced
        /// It left.
        case left
    }

    private struct Update {
        var revision: Int
        var number: Int
        var continuation: CheckedContinuation<RingfenceError?, Never>
        /// Ends the wait when Redis does not answer.
        var timer: Scheduled<Void>?
    }

    private struct Guarded {
        var machine: MemberMachine
        var roleListeners: [Int: AsyncStream<Role>.Continuation] = [:]
        /// What runs as long as it is primary, to be ended before it leaves.
        var term: Term?
        var listeners: [Int: AsyncStream<State>.Continuation] = [:]
        var updates: [Update] = []
        var leavers: [(number: Int, continuation: CheckedContinuation<Bool, Never>)] = []
        var lastNumber = 0
    }

    let group: Group
    private let guarded: Mutex<Guarded>
    private var hub: GroupHub { group.hub }

    init(group: Group, record: MemberRecord, joined: String, sentAt: Nanos, pace: Nanos, rejoins: Bool) {
        self.group = group
        guarded = Mutex(
            Guarded(
                machine: MemberMachine(record: record, joined: joined, pace: pace, sentAt: sentAt, rejoins: rejoins)))
    }

    // MARK: What the member sees

    /// The member as it is, with what ``update(address:zone:weight:priority:capabilities:metadata:health:lease:)``
    /// changed last.
    public var member: Member { Member(guarded.withLock { $0.machine.record }) }
    /// The name of its group.
    public var groupName: String { group.name }
    /// Its id in the group.
    public var id: String { member.id }
    /// The session it is a member under. It changes only when it rejoins.
    public var session: String { member.session }
    /// What has become of it, by now. Local.
    public var state: State {
        let now = Moment.now
        return State(guarded.withLock { $0.machine.membership.state(at: now) })
    }
    /// Whether it may act as a member now. Local, no round trip.
    public var isMember: Bool {
        let now = Moment.now
        return guarded.withLock { $0.machine.membership.isMember(at: now) }
    }
    /// When it must stop to act unless a beat gets through: counted on this machine's clock from before the last beat
    /// was written, less 1 % for clocks that run apart.
    public var deadline: ContinuousClock.Instant { Moment.instant(guarded.withLock { $0.machine.membership.deadline }) }

    /// Throws unless it may act as a member now. Local, no round trip.
    ///
    /// A process can be paused between any check and its next act: what must not be done twice needs a fence as well.
    ///
    /// - Throws: ``RingfenceError`` with effect `none`: `membership.expired`, retriable as long as it is only
    ///   suspended; `membership.replaced`; `membership.left`.
    public func check() throws {
        let now = Moment.now
        let error = guarded.withLock { guarded in
            Self.error(guarded.machine.membership.state(at: now), guarded.machine.record.id, group.name)
        }
        if let error { throw error }
    }

    private static func error(_ state: MembershipMachine.State, _ id: String, _ group: String) -> RingfenceError? {
        switch state {
        case .member: nil
        case .suspended:
            RingfenceError(
                .membershipExpired, effect: .none, isRetriable: true,
                "'\(id)' may not act for the group '\(group)': its lease ran out on its own clock (Redis unreachable, or this "
                    + "process paused), and Redis has not said yet what became of it")
        case .expired:
            RingfenceError(
                .membershipExpired, effect: .none,
                "'\(id)' was taken out of the group '\(group)': its lease had run out, or somebody removed it; join anew"
            )
        case .replaced:
            RingfenceError(
                .membershipReplaced, effect: .none,
                "another process joined the group '\(group)' as '\(id)'; give each process an id of its own")
        case .left: RingfenceError(.membershipLeft, effect: .none, "'\(id)' left the group '\(group)'")
        }
    }

    /// Its states from now on: the present one, then each change. It ends with the membership.
    public var states: AsyncStream<State> {
        stream(\.listeners) { State($0.machine.membership.state) }
    }

    /// What `now` tells of the present, then whatever these listeners are told; nothing if that is nil.
    private func stream<Element: Sendable>(
        _ listeners: any WritableKeyPath<Guarded, [Int: AsyncStream<Element>.Continuation]> & Sendable,
        _ now: (Guarded) -> Element?
    ) -> AsyncStream<Element> {
        let (stream, continuation) = AsyncStream<Element>.makeStream()
        let number = guarded.withLock { guarded -> Int? in
            guard let present = now(guarded) else { return nil }
            continuation.yield(present)
            guard !guarded.machine.membership.isOver, guarded.machine.membership.state != .left else { return nil }
            guarded.lastNumber += 1
            guarded[keyPath: listeners][guarded.lastNumber] = continuation
            return guarded.lastNumber
        }
        guard let number else {
            continuation.finish()
            return stream
        }
        continuation.onTermination = { [weak self] _ in
            _ = self?.guarded.withLock { $0[keyPath: listeners].removeValue(forKey: number) }
        }
        return stream
    }

    // MARK: What the member does

    /// Changes what the group knows of this member; what is nil stays. Returns once Redis has it.
    ///
    /// A weight of 0 drains it: it stays a member, and gets nothing new.
    ///
    /// - Throws: ``RingfenceError``: `argument.invalid`, naming the field; `membership.expired`, `.replaced` or `.left`
    ///   if it is no member any more; `coordinator.unavailable` with effect `unknown` when Redis did not answer in
    ///   time: the change is then made with the next beat that gets through.
    public func update(
        address: String? = nil, zone: String? = nil, weight: Int? = nil, priority: Int? = nil,
        capabilities: [String]? = nil, metadata: [String: String]? = nil, health: String? = nil, lease: Duration? = nil
    ) async throws {
        let milliseconds: Int64?
        do {
            if let lease { milliseconds = try Group.milliseconds(of: lease) } else { milliseconds = nil }
        } catch { throw RingfenceError(error) }
        try await change { record in
            if let address { record.address = address }
            if let zone { record.zone = zone }
            if let weight { record.weight = weight }
            if let priority { record.priority = priority }
            if let capabilities { record.capabilities = capabilities }
            if let metadata { record.metadata = metadata }
            if let health { record.health = health }
            if let milliseconds { record.leaseMilliseconds = milliseconds }
        }
    }

    private func change(_ edit: (inout MemberRecord) -> Void) async throws {
        let now = Moment.now
        let number: Int
        let revision: Int
        do {
            // The group's lock is taken before a membership's, so this is not done under the latter.
            let before = guarded.withLock { $0.machine.record }
            var wish = before
            edit(&wish)
            try Limits.check(wish)
            if wish.weight > before.weight { try group.checkRing(with: wish) }
            (number, revision) = try guarded.withLock { guarded throws -> (Int, Int) in
                var record = guarded.machine.record
                edit(&record)
                try Limits.check(record)
                let state = guarded.machine.membership.state
                if state == .expired || state == .replaced || state == .left {
                    throw Self.error(state, record.id, group.name)!
                }
                // It would be elected to a role that is over before it begins, again and again.
                if let role = guarded.machine.role, role.stands, role.margin > record.lease / 2 {
                    throw InvalidArgument("lease", "must be at least twice the margin that it stands with")
                }
                guarded.lastNumber += 1
                return (guarded.lastNumber, guarded.machine.update(record, now: now))
            }
        } catch let error as InvalidArgument {
            throw RingfenceError(error)
        }
        let failure: RingfenceError? = await withCheckedContinuation { continuation in
            let isDone = guarded.withLock { guarded in
                if guarded.machine.membership.written >= revision { return true }
                guarded.updates.append(Update(revision: revision, number: number, continuation: continuation))
                return false
            }
            if isDone { return continuation.resume(returning: nil) }
            hub.eventLoop.execute { [self] in
                tick(now: Moment.now)
                group.wakeUp(self)
                endUpdateLater(number)
            }
        }
        if let failure { throw failure }
    }

    /// On the event loop, behind what it limits, and undone with it: thousands of updates may be made in one timeout.
    private func endUpdateLater(_ number: Int) {
        let timer = hub.eventLoop.scheduleTask(in: .nanoseconds(hub.commandTimeout)) { [self] in
            let late = guarded.withLock { guarded in
                let index = guarded.updates.firstIndex { $0.number == number }
                return index.map { guarded.updates.remove(at: $0) }
            }
            late?.continuation.resume(returning: Self.noAnswer("changing '\(id)' in the group '\(group.name)'"))
        }
        let isWaiting = guarded.withLock { guarded in
            guard let index = guarded.updates.firstIndex(where: { $0.number == number }) else { return false }
            guarded.updates[index].timer = timer
            return true
        }
        if !isWaiting { timer.cancel() }
    }

    /// Leaves the group. Others hear of it at once. Leaving again, or after it has expired, does nothing.
    ///
    /// - Parameter reason: for the event, up to 512 bytes.
    /// - Throws: ``RingfenceError`` with `coordinator.unavailable`, effect `unknown`, when Redis did not answer in
    ///   time: it is told in the background as soon as it can be, and else the membership ends with its lease.
    public func leave(reason: String = "") async throws {
        do { try Limits.check(reason: reason) } catch { throw RingfenceError(error) }
        // Who hears that it left may take its role at once: what it does as primary is over before.
        if let term = guarded.withLock({ $0.term }) {
            await term.end(before: guarded.withLock { $0.machine.membership.deadline }, on: hub.eventLoop)
        }
        let now = Moment.now
        let (ending, isLeaving) = guarded.withLock { guarded -> ([AsyncStream<State>.Continuation], Bool) in
            let (isBegun, tells) = guarded.machine.leave(reason: reason, now: now)
            tell(tells, guarded)
            guard isBegun else { return ([], !guarded.leavers.isEmpty) }
            for listener in guarded.listeners.values { listener.yield(.left) }
            defer { guarded.listeners = [:] }
            return (Array(guarded.listeners.values), true)
        }
        for listener in ending { listener.finish() }
        guard isLeaving else { return }
        let isDone: Bool = await withCheckedContinuation { continuation in
            let number = guarded.withLock { guarded -> Int? in
                if guarded.machine.membership.isOver { return nil }
                guarded.lastNumber += 1
                guarded.leavers.append((guarded.lastNumber, continuation))
                return guarded.lastNumber
            }
            guard let number else { return continuation.resume(returning: true) }
            hub.eventLoop.scheduleTask(in: .nanoseconds(hub.commandTimeout)) { [self] in
                let late = guarded.withLock { guarded in
                    let index = guarded.leavers.firstIndex { $0.number == number }
                    return index.map { guarded.leavers.remove(at: $0).continuation }
                }
                late?.resume(returning: false)
            }
            stepSoon()
        }
        if !isDone {
            // Nobody may be there any more to tell it: when the client is shut down, nothing is tried after this.
            finishRoles()
            throw Self.noAnswer("leaving the group '\(group.name)'")
        }
    }

    private static func noAnswer(_ doing: String) -> RingfenceError {
        RingfenceError(
            .unavailable, effect: .unknown, isRetriable: true,
            "\(doing): Redis did not answer in time; retrying in the background")
    }

    // MARK: The role

    /// Stands for election, or not any more. The role of one that does not stand any more was given up before.
    func setCandidate(_ isCandidate: Bool) async throws { try await change { $0.isCandidate = isCandidate } }

    /// Begins to play a candidate. False if it plays one already.
    func beginCandidacy(margin: Nanos) -> Bool { guarded.withLock { $0.machine.campaign(margin: margin) } }

    func endCandidacy() {
        guarded.withLock { tell($0.machine.withdraw(now: Moment.now), $0) }
        finishRoles()
    }

    /// Not under the lock: it tells those who listen.
    private func finishRoles() {
        let listeners = guarded.withLock { guarded in
            defer { guarded.roleListeners = [:] }
            return Array(guarded.roleListeners.values)
        }
        for listener in listeners { listener.finish() }
    }

    var role: Role {
        let now = Moment.now
        return guarded.withLock { guarded in
            tell(guarded.machine.judge(now: now), guarded)
            return guarded.machine.role.map { role(of: $0.state) } ?? .standby
        }
    }

    var roles: AsyncStream<Role> {
        stream(\.roleListeners) { [self] guarded in
            guard let machine = guarded.machine.role, machine.stands else { return nil }
            return role(of: machine.state)
        }
    }

    /// When the role of this epoch ends unless a beat gets through; nil if it is over.
    func roleDeadline(_ epoch: Int64) -> Nanos? {
        let now = Moment.now
        return guarded.withLock { $0.machine.roleDeadline(epoch, now: now) }
    }

    /// Something its holder says of its role; false if that epoch is over.
    func say(_ change: (inout RoleMachine) -> RoleMachine.Output?) -> Bool {
        let now = Moment.now
        let isHeard = guarded.withLock { guarded in
            let (isHeard, tells) = guarded.machine.say(now: now, change)
            tell(tells, guarded)
            return isHeard
        }
        if isHeard { stepSoon() }
        return isHeard
    }

    /// What it says of itself with each beat from now on.
    func report(position: Int64?, unfit: String) {
        let now = Moment.now
        let role = group.known.role
        let isNews = guarded.withLock { $0.machine.report(position: position, unfit: unfit, role, now: now) }
        if isNews { stepSoon() }
    }

    /// False if one runs already.
    func begin(_ term: Term) -> Bool {
        guarded.withLock { guarded in
            guard guarded.term == nil else { return false }
            guarded.term = term
            return true
        }
    }

    func endTerm() { guarded.withLock { $0.term = nil } }

    /// The group was seen.
    func saw(_ sight: MemberMachine.Sight, now: Nanos) {
        guarded.withLock { tell($0.machine.saw(sight, now: now), $0) }
    }

    private func role(of state: RoleMachine.State) -> Role {
        switch state {
        case .standby: .standby
        case .elected(let epoch): .elected(Epoch(epoch, self))
        case .primary(let epoch): .primary(Epoch(epoch, self))
        case .handingOver(let epoch), .readyToHandOver(let epoch): .handingOver(Epoch(epoch, self))
        }
    }

    // MARK: While Redis is away

    /// What to ask whom, if it is primary, cannot reach Redis and the group's settings let it go on by the word of the
    /// others.
    package func promisesNeeded() -> (question: FailsafeMachine.Question, peers: [MemberRecord], askedAt: Nanos)? {
        let now = Moment.now
        guard let view = group.viewWhileAway(now: now) else { return nil }
        let asking = guarded.withLock { guarded in
            let (asking, tells) = guarded.machine.promisesNeeded(view, now: now)
            tell(tells, guarded)
            return asking
        }
        return asking.map { ($0.question, $0.peers, now) }
    }

    /// These have promised what they were asked at `askedAt`. With all promises together the role goes on.
    package func promised(_ question: FailsafeMachine.Question, by sessions: [String], askedAt: Nanos) {
        let now = Moment.now
        let view = group.known
        guarded.withLock { guarded in
            tell(guarded.machine.promised(question, by: sessions, askedAt: askedAt, view, now: now), guarded)
        }
        stepSoon()
    }

    /// Whether the role goes on though the membership's deadline has passed.
    package var isInFailsafe: Bool {
        let now = Moment.now
        return guarded.withLock { $0.machine.isInFailsafe(now: now) }
    }

    /// Promises the primary that asks to begin no role for the time of its lease. Nil; or why it cannot be promised.
    ///
    /// - Parameter session: whom the question is for.
    package func promise(_ question: FailsafeMachine.Question, session: String) -> String? {
        let now = Moment.now
        guard let view = group.viewWhileAway(now: now) else { return "Redis is reached from here" }
        return guarded.withLock { guarded in
            let (refusal, tells) = guarded.machine.promise(question, session: session, view, now: now)
            tell(tells, guarded)
            return refusal
        }
    }

    // MARK: The machine

    var wakeAt: Nanos { guarded.withLock { $0.machine.wakeAt } }

    /// All steps are made on the event loop, one after another, so that states are told in the order in which they
    /// were.
    private func stepSoon() {
        hub.eventLoop.execute { [self] in
            tick(now: Moment.now)
            group.wakeUp(self)
        }
    }

    func tick(now: Nanos) { step { $0.tick(now: now, newSession: hub.nonces.session) } }

    private func step(_ change: (inout MemberMachine) -> MemberMachine.Output) {
        let call = guarded.withLock { guarded in
            let output = change(&guarded.machine)
            tell(output.tells, guarded)
            return output.call
        }
        if let call { send(call) }
        settle()
    }

    /// Under the lock, so that states and roles are told in the order in which they were.
    private func tell(_ tells: [MemberMachine.Tell], _ guarded: borrowing Guarded) {
        for tell in tells {
            switch tell {
            case .state(let state, let session):
                let told = State(state)
                for listener in guarded.listeners.values { listener.yield(told) }
                // Not under the lock, for it runs what is the user's.
                let id = guarded.machine.record.id
                hub.eventLoop.execute { [self] in log(state, id, session) }
            case .role(let tell):
                let told: Role =
                    switch tell {
                    case .state(let state): role(of: state)
                    case .ended(let epoch, let end): .ended(Epoch(epoch, self), reason: RoleEnd(end))
                    }
                for listener in guarded.roleListeners.values { listener.yield(told) }
                // Not under the lock, for both run what is the user's, nor on the pool, which may be blocked.
                if case .ended(_, let end) = tell { hub.eventLoop.execute { [hub] in hub.metrics.ended(end) } }
                if let term = guarded.term, told.epoch?.value != term.epoch || guarded.machine.role?.mustStop == true {
                    hub.eventLoop.execute { term.cancel() }
                }
            }
        }
    }

    private func log(_ state: MembershipMachine.State, _ id: String, _ session: String) {
        let metadata: Logger.Metadata = [
            LoggingKeys.group: "\(group.name)", LoggingKeys.member: "\(id)", LoggingKeys.session: "\(session)",
        ]
        switch state {
        case .suspended:
            hub.metrics.membershipsSuspended.increment()
            hub.logger.warning("membership suspended: no beat got through in time", metadata: metadata)
        case .expired:
            hub.metrics.membershipsExpired.increment()
            hub.logger.warning("membership expired", metadata: metadata)
        case .replaced: hub.logger.warning("membership replaced by another session", metadata: metadata)
        case .member: hub.logger.info("a member again", metadata: metadata)
        case .left: break
        }
    }

    /// Those who waited for what has come by now are told, and all if it is over.
    private func settle() {
        let (isOver, updates, leavers, listeners) = guarded.withLock { guarded in
            let membership = guarded.machine.membership
            let (isOver, state) = (membership.isOver, membership.state)
            let isEnded = isOver || state == .left || state == .expired
            let done = guarded.updates.filter { isEnded || $0.revision <= membership.written }
            guarded.updates.removeAll { isEnded || $0.revision <= membership.written }
            let error = Self.error(state, guarded.machine.record.id, group.name)
            let updates = done.map { ($0, $0.revision <= membership.written ? nil : error) }
            guard isOver else {
                return (false, updates, [CheckedContinuation<Bool, Never>](), [AsyncStream<State>.Continuation]())
            }
            defer {
                guarded.leavers = []
                guarded.listeners = [:]
            }
            return (true, updates, guarded.leavers.map(\.continuation), Array(guarded.listeners.values))
        }
        for (update, error) in updates {
            update.timer?.cancel()
            update.continuation.resume(returning: error)
        }
        for leaver in leavers { leaver.resume(returning: true) }
        for listener in listeners { listener.finish() }
        if isOver {
            finishRoles()
            group.remove(self)
        }
    }

    private func send(_ call: MemberMachine.Call) {
        let sentAt = Moment.now
        let isPlainBeat = call.kind == .beat && guarded.withLock { $0.machine.role == nil }
        let known = isPlainBeat ? group.knowledge(ofBeatAt: sentAt) : group.knowledge(now: sentAt)
        guard !isPlainBeat || known.asks else { return group.writeTogether(self, call, sentAt: sentAt) }
        // Read behind what the call says is known: it is no older.
        let view = group.known
        let status = guarded.withLock { guarded in
            let (status, tells) = guarded.machine.write(view, now: sentAt)
            tell(tells, guarded)
            return status
        }
        let record = call.record
        let script =
            switch call.kind {
            case .beat:
                hub.scripts.beat(
                    group.name, known, id: record.id, session: record.session,
                    leaseMilliseconds: record.leaseMilliseconds, joined: call.joined, status: status)
            case .write:
                hub.scripts.join(
                    group.name, known, record, call.mode, group.policy ?? group.requestedPolicy, status: status)
            case .leave:
                hub.scripts.leave(
                    group.name, known, id: record.id, session: record.session, reason: call.reason, actor: "")
            }
        // Not so long that there is no time to try again.
        let deadline = Duration.nanoseconds(min(hub.commandTimeout, MembershipMachine.patience(record.lease)))
        hub.runner.run(script, confirmation: nil, deadline: deadline) { [self] result in
            answered(call.kind, group.took(result, sentAt: sentAt, asked: known.asks))
            group.wakeUp(self)
        }
    }

    func answered(_ kind: MembershipMachine.Call, _ result: Result<GroupAnswer, RedisError>) {
        let now = Moment.now
        let reply: MemberMachine.Reply =
            switch result {
            case .success(let answer): .answer(answer)
            case .failure(let error): error.code == .closed ? .closed : .none
            }
        if kind != .leave {
            hub.metrics.beats.increment()
            if case .failure = result {
                hub.metrics.beatFailures.increment()
            } else {
                let deadline = guarded.withLock { $0.machine.membership.deadline }
                hub.metrics.memberMargin.recordNanoseconds(max(0, deadline - now))
            }
        }
        let sight = group.sight
        step { $0.answered(kind, reply, sight, now: now, newSession: hub.nonces.session) }
    }

    /// The client was dropped: nothing beats for it any more, and it ends with its lease.
    func abandon() {
        let listeners = guarded.withLock { guarded in
            tell(guarded.machine.endRole(.suspended, now: Moment.now), guarded)
            defer { guarded.listeners = [:] }
            return Array(guarded.listeners.values)
        }
        finishRoles()
        for listener in listeners {
            listener.yield(.suspended)
            listener.finish()
        }
    }
}

extension Membership.State {
    fileprivate init(_ state: MembershipMachine.State) {
        self =
            switch state {
            case .member: .member
            case .suspended: .suspended
            case .expired: .expired
            case .replaced: .replaced
            case .left: .left
            }
    }
}
