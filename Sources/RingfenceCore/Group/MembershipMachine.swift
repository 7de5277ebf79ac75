// SPDX-License-Identifier: Apache-2.0
//
// One membership from its join to its end, as the member sees it.
//
// The member's own clock is the first judge: its deadline is counted from before the beat was written, less 1 %, so it
// ends before Redis can take the member out, however long an answer was on its way and however long the process slept.
// Past the deadline the member is *suspended*: it may not act, for others may have taken over. That is not yet the end.
// If Redis was away, nobody could take over, and the next beat finds the member still in the group; it is a member
// again. If Redis says that it was taken out, it is *expired*, for good under this session. Either way its own clock
// had suspended it before.
//
// One call is under way at a time: a beat; a write, which is a join of the same session with the record as it is now,
// after an update or when Redis lost the member; or the leave. So no late answer of one can be taken for another's, and
// a leave is never overtaken by an earlier beat or join.

package struct MembershipMachine: Sendable {
    package enum State: String, Sendable {
        case member
        /// The deadline passed, and Redis has not said yet what became of the member.
        case suspended
        case expired, replaced, left
    }

    package enum Call: Equatable, Sendable {
        case beat
        /// Joins again with the record as it is now: its session is the same, unless `expired` was told before.
        case write
        case leave
    }

    package struct Output: Equatable, Sendable {
        /// The state to tell of, if it changed.
        package var tell: State?
        /// The call to write now.
        package var call: Call?
        package init(tell: State? = nil, call: Call? = nil) {
            self.tell = tell
            self.call = call
        }
    }

    package private(set) var state: State = .member
    package private(set) var deadline: Nanos
    private let rejoins: Bool
    private var lease: Nanos
    private var pace: Nanos
    /// When the last call was written.
    private var calledAt: Nanos
    /// Sooner than at the next pace.
    private var soonAt = Nanos.never
    /// The call under way, and when it was written.
    private var underWay: (call: Call, sentAt: Nanos, lease: Nanos)?
    /// Updates asked for, and those that Redis has.
    package private(set) var revision = 0
    package private(set) var written = 0
    private var revisionUnderWay = 0
    private var mustWrite = false
    private var leaveUntil: Nanos?

    /// A member that joined with a call written at `sentAt`.
    package init(lease: Nanos, pace: Nanos, sentAt: Nanos, rejoins: Bool) {
        self.lease = lease
        self.pace = min(pace, lease / 5)
        self.rejoins = rejoins
        deadline = Self.deadline(sentAt, lease)
        calledAt = sentAt
    }

    private var callAt: Nanos { min(soonAt, calledAt + pace) }

    /// The lease less 1 %, for clocks that run apart, and 1 ms, for Redis counts in whole ones.
    package static func deadline(_ sentAt: Nanos, _ lease: Nanos) -> Nanos {
        sentAt + ClockDrift.shortened(lease) - .millisecond
    }

    /// How long a call may wait for its answer: a third of the lease, so that it can be tried again before the lease is
    /// over.
    package static func patience(_ lease: Nanos) -> Nanos { max(lease / 3, 100 * .millisecond) }

    /// Whether the member may act at `now`.
    package func isMember(at now: Nanos) -> Bool { state == .member && now < deadline }

    /// What the state is at `now`, noticed by a tick already or not.
    package func state(at now: Nanos) -> State { state == .member && now >= deadline ? .suspended : state }

    /// Nothing more will happen.
    package var isOver: Bool {
        switch state {
        case .member, .suspended: false
        case .expired: !rejoins
        case .replaced: true
        case .left: leaveUntil == nil
        }
    }

    package var wakeAt: Nanos {
        if isOver { return .never }
        let next = underWay == nil ? callAt : .never
        return state == .member ? min(next, deadline) : next
    }

    // MARK: Time

    package mutating func tick(now: Nanos) -> Output {
        var output = Output()
        if state == .member, now >= deadline {
            state = .suspended
            output.tell = .suspended
        }
        guard !isOver, underWay == nil, now >= callAt else { return output }
        output.call = begin(now: now)
        return output
    }

    private mutating func begin(now: Nanos) -> Call {
        let call: Call =
            if leaveUntil != nil { .leave } else if mustWrite || written < revision { .write } else { .beat }
        underWay = (call, now, lease)
        calledAt = now
        soonAt = .never
        revisionUnderWay = revision
        // A lease made shorter is shorter from the moment Redis may know of it.
        if state == .member, call != .leave { deadline = min(deadline, Self.deadline(now, lease)) }
        return call
    }

    /// The pace of all calls, by the group's view.
    package mutating func set(pace: Nanos) {
        self.pace = max(min(pace, lease / 5), .millisecond)
    }

    // MARK: What the member wants

    /// The record was changed; it is written at the next tick.
    package mutating func update(lease: Nanos, now: Nanos) {
        revision += 1
        self.lease = lease
        pace = min(pace, lease / 5)
        soonAt = now
    }

    /// Something is to be said with the next call, which is made at the next tick.
    package mutating func speak(now: Nanos) { soonAt = now }

    /// What Redis has of this member is not what was written last, as of a view that is no older than the answer to
    /// that: Redis lost it, and it is written again. False if that cannot be said yet, for something else is being
    /// written.
    package mutating func differs(now: Nanos) -> Bool {
        guard underWay == nil, written == revision, state == .member || state == .suspended else { return false }
        mustWrite = true
        soonAt = now
        return true
    }

    /// Leaves, and tries to say so until `until`. False if there is nothing to leave.
    package mutating func leave(now: Nanos, until: Nanos) -> Bool {
        guard state == .member || state == .suspended || (state == .expired && rejoins) else { return false }
        state = .left
        leaveUntil = until
        soonAt = now
        return true
    }

    // MARK: What came of the call under way

    package mutating func answered(_ status: GroupAnswer.Status, now: Nanos) -> Output {
        guard let (call, sentAt, lease) = underWay else { return Output() }
        underWay = nil
        if call == .leave {
            leaveUntil = nil
            return Output()
        }
        // Leaving began meanwhile; what this call has done is undone by the leave.
        if state == .left { return tickSoon(now) }
        switch status {
        case .member:
            mustWrite = false
            if call == .write { written = max(written, revisionUnderWay) }
            let end = Self.deadline(sentAt, lease)
            deadline = state == .expired ? end : max(deadline, end)
            if written < revision { soonAt = now }
            guard state != .member, now < deadline else { return tick(now: now) }
            state = .member
            var output = tick(now: now)
            output.tell = .member
            return output
        case .unknown:
            mustWrite = true
            return tickSoon(now)
        case .expired:
            state = .expired
            mustWrite = rejoins
            var output = tickSoon(now)
            output.tell = .expired
            return output
        case .replaced:
            state = .replaced
            return Output(tell: .replaced)
        case .watching, .taken, .left, .gone, .ordered, .refused, .noted, .full, .tooManyGroups, .beats:
            // Not what group.lua answers to it.
            underWay = (call, sentAt, lease)
            return failed(now: now)
        }
    }

    private mutating func tickSoon(_ now: Nanos) -> Output {
        soonAt = now
        return tick(now: now)
    }

    /// No answer came to the call under way: it is tried again soon.
    package mutating func failed(now: Nanos) -> Output {
        guard let (call, _, _) = underWay else { return Output() }
        underWay = nil
        if call == .leave, let until = leaveUntil, now >= until { leaveUntil = nil }
        soonAt = state == .left && call != .leave ? now : now + min(lease / 20, 100 * .millisecond)
        return tick(now: now)
    }
}
