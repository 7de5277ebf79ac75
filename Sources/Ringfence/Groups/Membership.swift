// SPDX-License-Identifier: Apache-2.0
//
// The object through which a process sees a membership of its own and says what it wants of it. The membership itself
// is a part of its group's state (LocalGroup); this has only its key.

import CoreMetrics
import Logging
import NIOCore
import RingfenceCore

/// This process' membership in a group, from
/// ``Group/join(_:address:zone:weight:priority:capabilities:metadata:health:lease:rejoins:)`` until it leaves, expires
/// or is replaced.
///
/// It beats by itself, on an event loop that blocked threads do not stop. Call ``check()`` before each step that only a
/// member may take: it is local, and it fails from the moment at which others may have taken over, before Redis has
/// said so. The client keeps a membership alive; dropping this object does not end it, ``leave(reason:)`` does.
public final class Membership: Sendable {
    /// The state of a membership.
    ///
    /// `member` → `suspended` → `member` again or `expired`; `member` → `expired`, `replaced` or `left`. `expired`,
    /// `replaced` and `left` are final, except for a membership that rejoins: for it `expired` → `member`, under a new
    /// session (or `expired` again, when the answer to that join came too late).
    public enum State: String, Sendable, Hashable {
        /// It is in the group.
        case member
        /// Its lease may have run out: its own deadline passed, because Redis was not reached in time or the process
        /// was paused. It must not act. The next answer of Redis makes it a member again or tells that it has expired.
        case suspended
        /// Redis took it out of the group: its lease had run out, or an operator removed it. Others know that.
        case expired
        /// Another process joined under the same member id.
        case replaced
        /// It left.
        case left
    }

    let group: Group
    let key: LocalGroup.Key
    var hub: GroupHub { group.hub }

    init(group: Group, key: LocalGroup.Key) {
        self.group = group
        self.key = key
    }

    deinit { group.forget(key) }

    // MARK: What the member sees

    /// The member, including the last changes by
    /// ``update(address:zone:weight:priority:capabilities:metadata:health:lease:)``.
    public var member: Member { Member(record) }
    private var record: MemberRecord { group.read(key) { machine, _ in machine.record } }
    /// The name of its group.
    public var groupName: String { group.name }
    /// Its id in the group.
    public var id: String { member.id }
    /// The session of the membership. It changes only when the member rejoins.
    public var session: String { member.session }
    /// The current state. Local, no round trip.
    public var state: State { State(group.read(key) { $0.membership.state(at: $1) }) }
    /// Whether it may act as a member now. Local, no round trip.
    public var isMember: Bool { group.read(key) { $0.membership.isMember(at: $1) } }
    /// The moment at which it must stop acting unless a beat gets through: counted on this machine's clock from before
    /// the last beat was written, less 1 % for clocks that run apart.
    public var deadline: ContinuousClock.Instant {
        Moment.instant(group.read(key) { machine, _ in machine.membership.deadline })
    }

    /// Throws unless it may act as a member now. Local, no round trip.
    ///
    /// A process can be paused between a check and its next act: work that must not be done twice needs a fence as
    /// well.
    ///
    /// - Throws: ``RingfenceError`` with effect `none`: `membership.expired`, retriable as long as it is only
    ///   suspended; `membership.replaced`; `membership.left`.
    public func check() throws {
        let error = group.read(key) { Self.error($0.membership.state(at: $1), $0.record.id, group.name) }
        if let error { throw error }
    }

    static func error(_ state: MembershipMachine.State, _ id: String, _ group: String) -> RingfenceError? {
        switch state {
        case .member: nil
        case .suspended:
            RingfenceError(
                .membershipExpired, effect: .none, isRetriable: true,
                "'\(id)' may not act for the group '\(group)': its lease ran out on its own clock (Redis unreachable, "
                    + "or this process paused), and Redis has not said yet what became of it")
        case .expired:
            RingfenceError(
                .membershipExpired, effect: .none,
                "'\(id)' was taken out of the group '\(group)': its lease had run out, or somebody removed it; join "
                    + "anew"
            )
        case .replaced:
            RingfenceError(
                .membershipReplaced, effect: .none,
                "another process joined the group '\(group)' as '\(id)'; give each process an id of its own")
        case .left: RingfenceError(.membershipLeft, effect: .none, "'\(id)' left the group '\(group)'")
        }
    }

    /// The states: the current one, then each change. The stream ends with the membership.
    public var states: AsyncStream<State> {
        stream(\.states) { State($0.membership.state) }
    }

    /// What `now` tells of the present, then whatever these listeners are told; nothing if that is nil.
    func stream<Element: Sendable>(
        _ listeners: any WritableKeyPath<MemberObservers, [Int: AsyncStream<Element>.Continuation]> & Sendable,
        _ now: (MemberMachine) -> Element?
    ) -> AsyncStream<Element> {
        let (stream, continuation) = AsyncStream<Element>.makeStream()
        let number = group.with(key) { machine, observers, _ -> (Int?, tells: [MemberMachine.Tell]) in
            guard let present = now(machine) else { return (nil, []) }
            continuation.yield(present)
            guard !observers.isEnded, machine.membership.state != .left else { return (nil, []) }
            let number = observers.nextNumber()
            observers[keyPath: listeners][number] = continuation
            return (number, [])
        }
        guard let number else {
            continuation.finish()
            return stream
        }
        continuation.onTermination = { [weak self] _ in
            guard let self else { return }
            group.with(key) { _, observers, _ in (observers[keyPath: listeners][number] = nil, []) }
        }
        return stream
    }

    // MARK: What the member does

    /// Changes the member's record; nil leaves a field unchanged. Returns once Redis has stored the change.
    ///
    /// A weight of 0 drains the member: it stays in the group, and gets nothing new.
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

    /// - Parameter withdraws: it also stops standing for election.
    func change(withdraws: Bool = false, _ edit: (inout MemberRecord) -> Void) async throws {
        let now = Moment.now
        let number: Int
        let revision: Int
        do {
            // Not under the group's lock, which this takes itself.
            let before = record
            var wish = before
            edit(&wish)
            try Limits.check(wish)
            if wish.weight > before.weight { try group.checkRing(with: wish) }
            (number, revision) = try group.with(key) { machine, observers, after in
                var record = machine.record
                edit(&record)
                try Limits.check(record)
                let revision = try machine.update(record, withdraws: withdraws, now: now)
                if withdraws { withdraw(&machine, &observers, &after) }
                return ((observers.nextNumber(), revision), [])
            }
        } catch {
            if withdraws { endCandidacy() }
            switch error {
            case MemberMachine.UpdateRefusal.isOver(let state): throw Self.error(state, id, group.name)!
            case MemberMachine.UpdateRefusal.leaseBelowTwiceMargin:
                throw RingfenceError(
                    InvalidArgument("lease", "must be at least twice the margin that it stands with"))
            case let error as InvalidArgument: throw RingfenceError(error)
            default: throw error
            }
        }
        let failure: RingfenceError? = await withCheckedContinuation { continuation in
            let isDone = group.with(key) { machine, observers, _ in
                if machine.membership.written >= revision { return (true, []) }
                observers.updates.append(.init(revision: revision, number: number, continuation: continuation))
                return (false, [])
            }
            if isDone { return continuation.resume(returning: nil) }
            hub.eventLoop.execute { [self] in endLater(number) }
        }
        if let failure { throw failure }
    }

    /// On the event loop, and undone with what it limits: thousands of updates may be made in one timeout.
    private func endLater(_ number: Int) {
        let timer = hub.eventLoop.scheduleTask(in: .nanoseconds(hub.commandTimeout)) { [self] in
            let late = group.with(key) { _, observers, _ in
                let index = observers.updates.firstIndex { $0.number == number }
                return (index.map { observers.updates.remove(at: $0) }, [])
            }
            late?.continuation.resume(returning: Self.noAnswer("changing '\(id)' in the group '\(group.name)'"))
        }
        let isWaiting = group.with(key) { _, observers, _ in
            guard let index = observers.updates.firstIndex(where: { $0.number == number }) else { return (false, []) }
            observers.updates[index].timer = timer
            return (true, [])
        }
        if !isWaiting { timer.cancel() }
    }

    /// Leaves the group. Others learn of it at once. Leaving again, or after the membership has expired, does nothing.
    ///
    /// - Parameter reason: for the event, up to 512 bytes.
    /// - Throws: ``RingfenceError`` with `coordinator.unavailable`, effect `unknown`, when Redis did not answer in
    ///   time: the leave is retried in the background, and otherwise the membership ends with its lease.
    public func leave(reason: String = "") async throws {
        do { try Limits.check(reason: reason) } catch { throw RingfenceError(error) }
        // As soon as others hear that it left, one may take its role: so its work as primary ends before.
        var waited: PrimaryTerm?
        var isLeaving: Bool?
        while isLeaving == nil {
            let now = Moment.now
            let (leaving, term, deadline) = group.with(key) {
                machine, observers, after -> ((Bool?, PrimaryTerm?, Nanos), tells: [MemberMachine.Tell]) in
                if let term = observers.term, term !== waited {
                    return ((nil, term, machine.membership.deadline), [])
                }
                let (isBegun, tells) = machine.leave(reason: reason, now: now)
                guard isBegun else { return ((!observers.leavers.isEmpty, nil, now), tells) }
                for listener in observers.states.values { listener.yield(.left) }
                observers.finishStates(&after)
                return ((true, nil, now), tells)
            }
            if let term { await term.end(before: deadline, on: hub.eventLoop) }
            (isLeaving, waited) = (leaving, term)
        }
        guard isLeaving == true else { return }
        let isDone: Bool = await withCheckedContinuation { continuation in
            let number = group.with(key) { machine, observers, _ -> (Int?, tells: [MemberMachine.Tell]) in
                guard !machine.membership.isOver else { return (nil, []) }
                let number = observers.nextNumber()
                observers.leavers.append((number, continuation))
                return (number, [])
            }
            guard let number else { return continuation.resume(returning: true) }
            hub.eventLoop.scheduleTask(in: .nanoseconds(hub.commandTimeout)) { [self] in
                let late = group.with(key) { _, observers, _ in
                    let index = observers.leavers.firstIndex { $0.number == number }
                    return (index.map { observers.leavers.remove(at: $0).continuation }, [])
                }
                late?.resume(returning: false)
            }
        }
        if !isDone {
            // Nobody may be there any more to tell it: when the client is shut down, nothing is tried after this.
            group.with(key) { _, observers, after in (observers.finishRoles(&after), []) }
            throw Self.noAnswer("leaving the group '\(group.name)'")
        }
    }

    private static func noAnswer(_ doing: String) -> RingfenceError {
        RingfenceError(
            .coordinatorUnavailable, effect: .unknown, isRetriable: true,
            "\(doing): Redis did not answer in time; retrying in the background")
    }

    // MARK: The end

    func log(_ state: MembershipMachine.State, _ id: String, _ session: String) {
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

    /// The client was dropped: nothing beats for it any more, and it ends with its lease.
    func abandon() {
        let now = Moment.now
        group.with(key) { machine, _, _ in ((), machine.endRole(.suspended, now: now)) }
        group.with(key) { _, observers, after in
            for listener in observers.states.values { listener.yield(.suspended) }
            return (observers.end(&after), [])
        }
    }
}

extension Membership.State {
    init(_ state: MembershipMachine.State) {
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
