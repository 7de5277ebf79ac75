// SPDX-License-Identifier: Apache-2.0
//
// A membership of this process: the machine that judges it, the calls the machine asks for, and those who want to be told.
// Its beats run on the event loop, woken by the group's alarm.

import CoreMetrics
import Hiredis
import Logging
import NIOCore
package import RingfenceCore
import Synchronization

/// This process' place in a group, from ``Group/join(_:address:zone:weight:priority:capability:metadata:health:lease:rejoins:)`` until
/// it leaves, expires or is replaced.
///
/// It beats by itself, on an event loop that blocked threads do not stop. Ask ``check()`` before each step that only a member
/// may take: it is local, and it says no from the moment on at which others may have taken over, before Redis or anybody
/// has said so. The client keeps a membership alive; letting go of this object does not end it, ``leave(reason:)`` does.
public final class Membership: Sendable {
    /// What has become of a membership.
    ///
    /// `member` → `suspended` → `member` again or `expired`; `member` → `expired`, `replaced` or `left`. `expired`, `replaced` and
    /// `left` are the end, but for a membership that rejoins: for it `expired` → `member`, under a new session (or `expired` again, when the answer to that join came too late).
    public enum State: String, Sendable, Hashable {
        /// In the group.
        case member
        /// Its lease may have run out: its own deadline passed, because Redis was not reached in time or the process was
        /// paused. It may not act. What Redis says next makes it a member again or tells that it has expired.
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
        var machine: MembershipMachine
        var record: MemberRecord
        /// The mark of its join: whether Redis lost it is told by whether the log still has this.
        var joined: String
        /// Redis does not have it: the next write joins anew.
        var isOut = false
        var reason = ""
        /// The view of this version was compared with the record.
        var comparedVersion: Int64 = 0
        /// The part of a candidate, while it stands.
        var role: RoleMachine?
        var roleListeners: [Int: AsyncStream<Role>.Continuation] = [:]
        /// What others promised it, while it is primary and cannot reach Redis.
        var hold: HoldMachine?
        /// By which version it was judged last: threads may come with older ones.
        var holdVersion: Int64 = 0
        /// What runs as long as it is primary, to be ended before it leaves.
        var term: Term?
        var listeners: [Int: AsyncStream<State>.Continuation] = [:]
        var updates: [Update] = []
        var leavers: [(number: Int, continuation: CheckedContinuation<Bool, Never>)] = []
        var lastNumber = 0
    }

    let group: Group
    private let rejoins: Bool
    private let guarded: Mutex<Guarded>
    private var hub: GroupHub { group.hub }

    init(group: Group, record: MemberRecord, joined: String, sentAt: Nanos, pace: Nanos, rejoins: Bool) {
        self.group = group
        self.rejoins = rejoins
        guarded = Mutex(
            Guarded(
                machine: MembershipMachine(lease: record.lease, pace: pace, sentAt: sentAt, rejoins: rejoins),
                record: record, joined: joined))
    }

    // MARK: What the member sees

    /// The member as it is, with what ``update(address:zone:weight:priority:capability:metadata:health:lease:)`` changed last.
    public var member: Member { Member(guarded.withLock { $0.record }) }
    /// The name of its group.
    public var groupName: String { group.name }
    /// Its id in the group.
    public var id: String { member.id }
    /// The session it is a member under. It changes only when it rejoins.
    public var session: String { member.session }
    /// What has become of it, by now. Local.
    public var state: State {
        let now = Moment.now
        return State(guarded.withLock { $0.machine.state(at: now) })
    }
    /// Whether it may act as a member now. Local, no round trip.
    public var isMember: Bool {
        let now = Moment.now
        return guarded.withLock { $0.machine.isMember(at: now) }
    }
    /// When it must stop to act unless a beat gets through: counted on this machine's clock from before the last beat was
    /// written, less 1 % for clocks that run apart.
    public var deadline: ContinuousClock.Instant { Moment.instant(guarded.withLock { $0.machine.deadline }) }

    /// Throws unless it may act as a member now. Local, no round trip.
    ///
    /// A process can be paused between any check and its next act: what must not be done twice needs a fence as well.
    ///
    /// - Throws: ``RingfenceError`` with effect `none`: `membership.expired`, retriable as long as it is only suspended;
    ///   `membership.replaced`; `membership.left`.
    public func check() throws {
        let now = Moment.now
        if let error = guarded.withLock({ Self.error($0.machine.state(at: now), $0.record.id, group.name) }) {
            throw error
        }
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
        stream(\.listeners) { State($0.machine.state) }
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
            guard !guarded.machine.isOver, guarded.machine.state != .left else { return nil }
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
    /// - Throws: ``RingfenceError``: `argument.invalid`, naming the field; `membership.expired`, `.replaced` or `.left` if it is
    ///   no member any more; `coordinator.unavailable` with effect `unknown` when Redis did not answer in time: the change is
    ///   then made with the next beat that gets through.
    public func update(
        address: String? = nil, zone: String? = nil, weight: Int? = nil, priority: Int? = nil,
        capability: [String]? = nil, metadata: [String: String]? = nil, health: String? = nil, lease: Duration? = nil
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
            if let capability { record.capability = capability }
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
            let before = guarded.withLock { $0.record }
            var wish = before
            edit(&wish)
            try Limits.check(wish)
            if wish.weight > before.weight { try group.checkRing(with: wish) }
            (number, revision) = try guarded.withLock { guarded throws -> (Int, Int) in
                var record = guarded.record
                edit(&record)
                try Limits.check(record)
                let state = guarded.machine.state
                if state == .expired || state == .replaced || state == .left {
                    throw Self.error(state, record.id, group.name)!
                }
                // It would be elected to a role that is over before it begins, again and again.
                if let role = guarded.role, role.stands, role.margin > record.lease / 2 {
                    throw InvalidArgument("lease", "must be at least twice the margin that it stands with")
                }
                guarded.record = record
                guarded.machine.update(lease: record.lease, now: now)
                guarded.lastNumber += 1
                return (guarded.lastNumber, guarded.machine.revision)
            }
        } catch let error as InvalidArgument {
            throw RingfenceError(error)
        }
        let failure: RingfenceError? = await withCheckedContinuation { continuation in
            let isDone = guarded.withLock { guarded in
                if guarded.machine.written >= revision { return true }
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
    /// - Throws: ``RingfenceError`` with `coordinator.unavailable`, effect `unknown`, when Redis did not answer in time: it is
    ///   told in the background as soon as it can be, and else the membership ends with its lease.
    public func leave(reason: String = "") async throws {
        do { try Limits.check(reason: reason) } catch { throw RingfenceError(error) }
        // Who hears that it left may take its role at once: what it does as primary is over before.
        if let term = guarded.withLock({ $0.term }) {
            await term.end(before: guarded.withLock { $0.machine.deadline }, on: hub.eventLoop)
        }
        let now = Moment.now
        let (tell, isLeaving) = guarded.withLock { guarded -> ([AsyncStream<State>.Continuation], Bool) in
            guarded.reason = reason
            endRole(&guarded, .gaveUp("left"))
            let until = max(guarded.machine.deadline, now).adding(60 * .second)
            guard guarded.machine.leave(now: now, until: until) else { return ([], !guarded.leavers.isEmpty) }
            for listener in guarded.listeners.values { listener.yield(.left) }
            defer { guarded.listeners = [:] }
            return (Array(guarded.listeners.values), true)
        }
        for listener in tell { listener.finish() }
        guard isLeaving else { return }
        let isDone: Bool = await withCheckedContinuation { continuation in
            let number = guarded.withLock { guarded -> Int? in
                if guarded.machine.isOver { return nil }
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
            "\(doing): Redis did not answer in time; it goes on being tried")
    }

    // MARK: The role

    /// Stands for election, or not any more. The role of one that does not stand any more was given up before.
    func stand(_ isCandidate: Bool) async throws { try await change { $0.isCandidate = isCandidate } }

    /// Begins to play a candidate. False if it plays one already.
    func beginCandidacy(margin: Nanos) -> Bool {
        guarded.withLock { guarded in
            guard guarded.role?.stands != true else { return false }
            if guarded.role == nil { guarded.role = RoleMachine(margin: margin) }
            guarded.role?.stand(margin: margin)
            return true
        }
    }

    func endCandidacy() {
        guarded.withLock { guarded in
            endRole(&guarded, .gaveUp("stepDown"))
            guarded.role?.withdraw()
        }
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
            judgeRole(&guarded, now: now)
            return guarded.role.map { role(of: $0.state) } ?? .standby
        }
    }

    var roles: AsyncStream<Role> {
        stream(\.roleListeners) { [self] guarded in
            guard let machine = guarded.role, machine.stands else { return nil }
            return role(of: machine.state)
        }
    }

    /// When the role of this epoch ends unless a beat gets through; nil if it is over.
    func roleDeadline(_ epoch: Int64) -> Nanos? {
        let now = Moment.now
        return guarded.withLock { guarded in
            let deadline = guarded.machine.deadline
            guard let machine = guarded.role,
                machine.holds(
                    epoch, deadline: deadline, isMember: guarded.machine.isMember(at: now), now: now)
            else { return nil }
            return machine.end(deadline: deadline)
        }
    }

    /// Something its holder says of its role; false if that epoch is over.
    func say(_ change: (inout RoleMachine) -> RoleMachine.Output?) -> Bool {
        let now = Moment.now
        let isHeard = guarded.withLock { guarded in
            judgeRole(&guarded, now: now)
            guard var machine = guarded.role, let output = change(&machine) else { return false }
            guarded.role = machine
            performRole(output, &guarded, now: now)
            return true
        }
        if isHeard { stepSoon() }
        return isHeard
    }

    /// What it says of itself with each beat from now on.
    func report(position: Int64?, unfit: String) {
        let now = Moment.now
        let role = group.known.role
        // A switchover to this one waits for its position.
        let isAwaited = role.phase == .draining && role.target.hasSameBytes(as: id)
        let isNews = guarded.withLock { guarded in
            let isNews = guarded.role?.report(position: position, unfit: unfit, isAwaited: isAwaited)
            guard isNews == true else { return false }
            guarded.machine.speak(now: now)
            return true
        }
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
    func saw(_ known: (view: GroupMachine.View, asOf: Nanos), now: Nanos) {
        guarded.withLock { sawRole(known, &$0, now: now) }
    }

    private func sawRole(
        _ known: (view: GroupMachine.View, asOf: Nanos), _ guarded: inout Guarded, now: Nanos, judgesHold: Bool = true
    ) {
        let view = known.view
        if judgesHold { Self.judgeHold(&guarded, view) }
        guard var machine = guarded.role else { return }
        Self.letGoIfOver(&machine, guarded.machine)
        let output = machine.saw(
            view.role, gen: view.gen, version: view.version, asOf: known.asOf, id: guarded.record.id,
            session: guarded.record.session,
            now: now, deadline: guarded.machine.deadline,
            isMember: guarded.machine.isMember(at: now))
        guarded.role = machine
        performRole(output, &guarded, now: now)
    }

    /// What others promised is good for a membership of which Redis has not said that it is over.
    private static func letGoIfOver(_ role: inout RoleMachine, _ machine: MembershipMachine) {
        if machine.state != .member, machine.state != .suspended { role.letGo() }
    }

    /// Its own clock may have ended the role.
    private func judgeRole(_ guarded: inout Guarded, now: Nanos) {
        guard var machine = guarded.role else { return }
        Self.letGoIfOver(&machine, guarded.machine)
        let output = machine.tick(
            now: now, deadline: guarded.machine.deadline, isMember: guarded.machine.isMember(at: now))
        guarded.role = machine
        performRole(output, &guarded, now: now)
    }

    private func endRole(_ guarded: inout Guarded, _ end: RoleMachine.End) {
        guard var machine = guarded.role, let epoch = machine.state.epoch,
            let output = machine.giveUp(epoch, reason: end.text)
        else { return }
        guarded.role = machine
        performRole(output, &guarded, now: Moment.now)
    }

    /// Under the lock, so that roles are told in the order in which they were.
    private func performRole(_ output: RoleMachine.Output, _ guarded: inout Guarded, now: Nanos) {
        for tell in output.tell {
            let told: Role =
                switch tell {
                case .state(let state): role(of: state)
                case .ended(let epoch, let end): .ended(Epoch(epoch, self), reason: RoleEnd(end))
                }
            for listener in guarded.roleListeners.values { listener.yield(told) }
            // Not under the lock, for both run what is the user's, nor on the pool, which may be blocked.
            if case .ended(_, let end) = tell { hub.eventLoop.execute { [hub] in hub.metrics.ended(end) } }
            if let term = guarded.term, told.epoch?.value != term.epoch || guarded.role?.mustStop == true {
                hub.eventLoop.execute { term.cancel() }
            }
        }
        if output.speaks { guarded.machine.speak(now: now) }
    }

    private func role(of state: RoleMachine.State) -> Role {
        switch state {
        case .standby: .standby
        case .elected(let epoch): .elected(Epoch(epoch, self))
        case .primary(let epoch): .primary(Epoch(epoch, self))
        case .draining(let epoch), .drained(let epoch): .draining(Epoch(epoch, self))
        }
    }

    // MARK: While Redis is away

    /// What to ask whom, if it is primary, cannot reach Redis and the group's settings let it go on by the word of the others.
    package func promisesNeeded() -> (question: HoldMachine.Question, peers: [MemberRecord], askedAt: Nanos)? {
        let now = Moment.now
        guard let view = group.viewWhileAway(now: now), view.holdLimit != nil else { return nil }
        return guarded.withLock { guarded in
            judgeRole(&guarded, now: now)
            guard case .primary(let epoch) = guarded.role?.state else { return nil }
            let record = guarded.record
            let question = HoldMachine.Question(
                epoch: epoch, session: record.session, leaseMilliseconds: record.leaseMilliseconds)
            return (question, HoldMachine.peers(view, but: record.id), now)
        }
    }

    /// These have promised what they were asked at `askedAt`. With all promises together the role goes on.
    package func promised(_ question: HoldMachine.Question, by sessions: [String], askedAt: Nanos) {
        let now = Moment.now
        let view = group.known
        guarded.withLock { guarded in
            judgeRole(&guarded, now: now)
            guard guarded.role?.state == .primary(question.epoch), guarded.record.session == question.session else {
                return
            }
            var hold = guarded.hold?.epoch == question.epoch ? guarded.hold! : HoldMachine(epoch: question.epoch)
            for session in sessions {
                hold.promised(session, until: HoldMachine.end(question, askedAt: askedAt))
            }
            guarded.hold = hold
            Self.judgeHold(&guarded, view)
        }
        stepSoon()
    }

    /// How long the role may go on without Redis, by whom it knows.
    private static func judgeHold(_ guarded: inout Guarded, _ view: GroupMachine.View) {
        guard let hold = guarded.hold, view.version >= guarded.holdVersion else { return }
        guarded.holdVersion = view.version
        let until = hold.until(view, but: guarded.record.id, deadline: guarded.machine.deadline)
        guarded.role?.hold(hold.epoch, until: until)
    }

    /// Whether the role goes on though the membership's deadline has passed.
    package var isHeldByPromises: Bool {
        let now = Moment.now
        return guarded.withLock { guarded in
            guard case .primary(let epoch) = guarded.role?.state, now >= guarded.machine.deadline else { return false }
            return guarded.role?.holds(
                epoch, deadline: guarded.machine.deadline, isMember: guarded.machine.isMember(at: now), now: now)
                == true
        }
    }

    /// Promises the primary that asks to begin no role for the time of its lease. Nil; or why it cannot be promised.
    ///
    /// - Parameter session: whom the question is for.
    package func promise(_ question: HoldMachine.Question, session: String) -> String? {
        let now = Moment.now
        guard let view = group.viewWhileAway(now: now) else { return "Redis is reached from here" }
        if let objection = HoldMachine.objection(to: question, view) { return objection }
        let isPromised = guarded.withLock { guarded in
            judgeRole(&guarded, now: now)
            return guarded.record.session == session
                && guarded.role?.promise(question.epoch, until: HoldMachine.binding(question, now: now)) == true
        }
        return isPromised ? nil : "it is another session, or has or waits for a role of its own"
    }

    // MARK: The machine

    var wakeAt: Nanos {
        guarded.withLock { guarded in
            let role = guarded.role?.wakeAt(deadline: guarded.machine.deadline) ?? .never
            return min(guarded.machine.wakeAt, role)
        }
    }

    /// All steps are made on the event loop, one after another, so that states are told in the order in which they were.
    private func stepSoon() {
        hub.eventLoop.execute { [self] in
            tick(now: Moment.now)
            group.wakeUp(self)
        }
    }

    func tick(now: Nanos) {
        perform(
            guarded.withLock { guarded in
                judgeRole(&guarded, now: now)
                let output = guarded.machine.tick(now: now)
                return (output, Letter(guarded))
            })
    }

    /// What a call says, taken in the step that decided it: a change of the record in between would promise Redis another
    /// lease than the one the machine counts on.
    private struct Letter {
        var record: MemberRecord
        var joined: String
        var reason: String
        var isOut: Bool
        var status: CandidateStatus?

        init(_ guarded: borrowing Guarded) {
            (record, joined, reason, isOut) = (guarded.record, guarded.joined, guarded.reason, guarded.isOut)
            status = guarded.role?.status
        }
    }

    private func perform(_ step: (output: MembershipMachine.Output, letter: Letter)) {
        let output = step.output
        var letter = step.letter
        if let state = output.tell {
            tell(state)
            // It may go on under another session.
            if state == .expired { letter.record.session = guarded.withLock { $0.record.session } }
        }
        if let call = output.call { send(call, letter) }
        let (isOver, updates, leavers, listeners) = guarded.withLock { guarded in
            let isOver = guarded.machine.isOver
            let state = guarded.machine.state
            let isEnded = isOver || state == .left || state == .expired
            let done = guarded.updates.filter { isEnded || $0.revision <= guarded.machine.written }
            guarded.updates.removeAll { isEnded || $0.revision <= guarded.machine.written }
            let error = Self.error(state, guarded.record.id, group.name)
            let updates = done.map { ($0, $0.revision <= guarded.machine.written ? nil : error) }
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

    private func tell(_ state: MembershipMachine.State) {
        let (id, session) = guarded.withLock { guarded in
            let told = State(state)
            for listener in guarded.listeners.values { listener.yield(told) }
            let session = guarded.record.session
            // It was told that it has expired. What comes now is another life.
            if state == .expired, rejoins {
                guarded.record.session = hub.nonces.session()
                guarded.role?.changedSession()
            }
            return (guarded.record.id, session)
        }
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

    private func send(_ call: MembershipMachine.Call, _ letter: Letter) {
        let sentAt = Moment.now
        let isPlainBeat = call == .beat && letter.status == nil && guarded.withLock { $0.role == nil }
        let known = isPlainBeat ? group.knowledge(ofBeatAt: sentAt) : group.knowledge(now: sentAt)
        let record = letter.record
        // Before Redis hears whom it knows, its hold is no longer than they promised; and what it says is said as of then.
        let view = group.known
        let status = guarded.withLock { guarded in
            guard guarded.hold != nil else { return letter.status }
            Self.judgeHold(&guarded, view)
            judgeRole(&guarded, now: sentAt)
            return guarded.role?.status
        }
        let script =
            switch call {
            case .beat:
                hub.scripts.beat(
                    group.name, known, id: record.id, session: record.session,
                    leaseMilliseconds: record.leaseMilliseconds, joined: letter.joined,
                    status: known.asks ? status : nil)
            case .write:
                hub.scripts.join(
                    group.name, known, record, letter.isOut ? .again : .stay(since: letter.joined),
                    group.policy ?? group.wantedPolicy, status: status)
            case .leave:
                hub.scripts.leave(
                    group.name, known, id: record.id, session: record.session, reason: letter.reason, actor: "")
            }
        // Not so long that there is no time to try again.
        let deadline = Duration.nanoseconds(min(hub.commandTimeout, MembershipMachine.patience(record.lease)))
        hub.courier.run(script, confirmation: nil, deadline: deadline) { [self] result in
            answered(call, group.took(result, sentAt: sentAt, asked: known.asks), session: record.session)
            group.wakeUp(self)
        }
    }

    private func answered(_ call: MembershipMachine.Call, _ result: Result<GroupAnswer, RedisError>, session: String) {
        let now = Moment.now
        if call != .leave {
            hub.metrics.beats.increment()
            if case .failure = result { hub.metrics.beatFailures.increment() }
        }
        // Before the answer lengthens anything: it may say that somebody takes the role away.
        let known = group.knownAndWhen
        let view = known.view
        let (step, margin) = guarded.withLock { guarded -> ((MembershipMachine.Output, Letter), Nanos) in
            let margin = max(0, guarded.machine.deadline - now)
            // (Who has come meanwhile is heard of by Redis with the next beat: till then what was promised is good.)
            sawRole(known, &guarded, now: now, judgesHold: false)
            let output = took(result, call, &guarded, now: now)
            // A member again: what it is elected to may begin now.
            sawRole(known, &guarded, now: now)
            if view.version != guarded.comparedVersion {
                let stored = view.member(guarded.record.id)
                let isOther = stored?.session == guarded.record.session && stored != guarded.record
                if !isOther || guarded.machine.differs(now: now) { guarded.comparedVersion = view.version }
            }
            return ((output, Letter(guarded)), margin)
        }
        if call != .leave, case .success = result { hub.metrics.memberMargin.recordNanoseconds(margin) }
        perform(step)
    }

    private func took(
        _ result: Result<GroupAnswer, RedisError>, _ call: MembershipMachine.Call, _ guarded: inout Guarded, now: Nanos
    ) -> MembershipMachine.Output {
        switch result {
        case .success(let answer):
            guarded.machine.set(pace: answer.paceMilliseconds * .millisecond)
            switch answer.status {
            case .unknown, .expired: guarded.isOut = true
            // It may become a member when another has left.
            case .full, .tooManyGroups: return guarded.machine.failed(now: now)
            case .member where call == .write && guarded.isOut:
                guarded.isOut = false
                guarded.joined = answer.mark
            default: break
            }
            return guarded.machine.answered(answer.status, now: now)
        case .failure(let error):
            if error.code == .closed { return .init() }
            return guarded.machine.failed(now: now)
        }
    }

    /// The client was dropped: nothing beats for it any more, and it ends with its lease.
    func abandon() {
        let listeners = guarded.withLock { guarded in
            endRole(&guarded, .suspended)
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
