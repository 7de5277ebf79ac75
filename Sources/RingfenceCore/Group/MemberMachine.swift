// SPDX-License-Identifier: Apache-2.0
//
// A member of a group, as its own process runs it: its membership, its part as a candidate, and what other candidates
// promised it.
//
// MembershipMachine, RoleMachine and FailsafeMachine each know their own subject. Here are the rules that join them:
// when the role is judged, by which view the promises are counted, what a call says, what an answer changes and in
// which order, what does not outlive a session. The library, the simulation and the exploration run this one type; the
// code around it only carries calls and reports what happened.
//
// Two orders matter for "never two primaries":
//  - An answer may say that somebody takes the role away. So the role is judged by the view that the answer made before
//    the answer extends the membership, and once more after it: a member that is one again may now begin what it was
//    elected to.
//  - A call tells Redis which candidates this process knows, and Redis may then elect those that it did not know
//    before. So the promises are counted anew, by a view that is no older than what the call says is known, before the
//    call is written (`write`).

package struct MemberMachine: Sendable {
    /// The group as this process knows it.
    package struct Sight: Sendable {
        package var view: GroupMachine.View
        /// When Redis was asked that last said so.
        package var asOf: Nanos

        package init(_ view: GroupMachine.View, asOf: Nanos) {
            self.view = view
            self.asOf = asOf
        }
    }

    package enum Tell: Sendable, Hashable {
        /// What became of the membership under this session.
        case state(MembershipMachine.State, session: String)
        case role(RoleMachine.Tell)
    }

    /// A call that is due, as of the step that decided it: a change of the record in between would promise Redis
    /// another lease than the one that is counted on here.
    package struct Call: Sendable {
        package var kind: MembershipMachine.Call
        package var record: MemberRecord
        /// The mark of its join.
        package var joined: String
        /// Redis does not have it.
        package var isOut: Bool
        /// Why it leaves.
        package var reason: String

        /// As what a write joins.
        package var mode: JoinMode { isOut ? .again : .stay(since: joined) }
    }

    package struct Output: Sendable {
        /// In order.
        package var tells: [Tell] = []
        package var call: Call?
        package init() {}
    }

    package enum Reply: Sendable {
        case answer(GroupAnswer)
        /// None came.
        case none
        /// The client is closed, and nothing is tried any more.
        case closed
    }

    package private(set) var record: MemberRecord
    package private(set) var membership: MembershipMachine
    /// Its part as a candidate, once it has stood.
    package internal(set) var role: RoleMachine?
    package private(set) var failsafe: FailsafeMachine?
    /// Whether it joins again by itself, under a new session, after it has expired.
    package let rejoins: Bool
    /// The mark of its join: whether Redis lost it is told by whether the log still has this.
    package private(set) var joined: String
    /// Redis does not have it: the next write joins anew.
    package private(set) var isOut = false
    private var reason = ""
    /// The view of this version was compared with the record.
    private(set) var comparedVersion: Int64 = 0
    /// By the view of this version the promises were counted last: threads may come with older ones.
    private(set) var failsafeVersion: Int64 = 0
    /// A flaw, for controls: the role does not end by its own clock.
    var neverFences = false

    /// One that joined with a call written at `sentAt`.
    package init(record: MemberRecord, joined: String, pace: Nanos, sentAt: Nanos, rejoins: Bool) {
        self.record = record
        self.joined = joined
        self.rejoins = rejoins
        membership = MembershipMachine(lease: record.lease, pace: pace, sentAt: sentAt, rejoins: rejoins)
    }

    // MARK: Time

    package var wakeAt: Nanos { min(membership.wakeAt, role?.wakeAt(deadline: deadline) ?? .never) }

    /// - Parameter newSession: asked for once, if the membership expired and goes on.
    package mutating func tick(now: Nanos, newSession: () -> String) -> Output {
        var output = Output()
        judge(now: now, &output)
        perform(membership.tick(now: now), newSession, &output)
        return output
    }

    /// Its own clock may have ended the role.
    package mutating func judge(now: Nanos) -> [Tell] {
        var output = Output()
        judge(now: now, &output)
        return output.tells
    }

    private mutating func judge(now: Nanos, _ output: inout Output) {
        guard role != nil else { return }
        letGoIfOver()
        let told = role!.tick(now: now, deadline: deadline, isMember: isMember(at: now))
        perform(told, now: now, &output)
    }

    private var deadline: Nanos { neverFences ? .never : membership.deadline }
    private func isMember(at now: Nanos) -> Bool { neverFences || membership.isMember(at: now) }

    /// What others promised is good for a membership of which Redis has not said that it is over.
    private mutating func letGoIfOver() {
        if membership.state != .member, membership.state != .suspended { role?.endFailsafe() }
    }

    private mutating func perform(_ told: RoleMachine.Output, now: Nanos, _ output: inout Output) {
        for tell in told.tell { output.tells.append(.role(tell)) }
        if told.speaks { membership.speak(now: now) }
    }

    private mutating func perform(
        _ step: MembershipMachine.Output, _ newSession: () -> String, _ output: inout Output
    ) {
        if let state = step.tell {
            output.tells.append(.state(state, session: record.session))
            // It was told that it has expired. What comes now is another life.
            if state == .expired, rejoins {
                record.session = newSession()
                role?.changedSession()
            }
        }
        guard let kind = step.call else { return }
        output.call = Call(kind: kind, record: record, joined: joined, isOut: isOut, reason: reason)
    }

    // MARK: Calls and their answers

    /// What a call that is being written says of the candidate; nil: it never was one.
    ///
    /// - Parameter view: no older than what the call says is known.
    package mutating func write(_ view: GroupMachine.View, now: Nanos) -> (status: CandidateStatus?, tells: [Tell]) {
        guard role != nil else { return (nil, []) }
        var output = Output()
        if failsafe != nil {
            countPromises(view)
            judge(now: now, &output)
        }
        return (role?.status, output.tells)
    }

    /// What came of a call. The group's own machine has had the answer.
    package mutating func answered(
        _ kind: MembershipMachine.Call, _ reply: Reply, _ sight: Sight, now: Nanos, newSession: () -> String
    ) -> Output {
        var output = Output()
        // (Redis hears of candidates that have come meanwhile with the next call: until then the promises are good.)
        sawRole(sight, now: now, &output)
        let step = took(reply, kind, now: now)
        saw(sight, now: now, &output)
        compare(sight.view, now: now)
        perform(step, newSession, &output)
        return output
    }

    private mutating func took(
        _ reply: Reply, _ kind: MembershipMachine.Call, now: Nanos
    ) -> MembershipMachine.Output {
        switch reply {
        case .answer(let answer):
            membership.set(pace: answer.paceMilliseconds * .millisecond)
            switch answer.status {
            case .unknown, .expired: isOut = true
            // It may become a member when another has left.
            case .full, .tooManyGroups: return membership.failed(now: now)
            case .member where kind == .write && isOut:
                isOut = false
                joined = answer.mark
            default: break
            }
            return membership.answered(answer.status, now: now)
        case .none: return membership.failed(now: now)
        case .closed: return .init()
        }
    }

    /// What Redis has of it must be what it wrote last.
    private mutating func compare(_ view: GroupMachine.View, now: Nanos) {
        guard view.version != comparedVersion else { return }
        let stored = view.member(record.id)
        let isOther = stored?.session == record.session && stored != record
        if !isOther || membership.differs(now: now) { comparedVersion = view.version }
    }

    /// The group was seen.
    package mutating func saw(_ sight: Sight, now: Nanos) -> [Tell] {
        var output = Output()
        saw(sight, now: now, &output)
        return output.tells
    }

    private mutating func saw(_ sight: Sight, now: Nanos, _ output: inout Output) {
        countPromises(sight.view)
        sawRole(sight, now: now, &output)
    }

    private mutating func sawRole(_ sight: Sight, now: Nanos, _ output: inout Output) {
        guard role != nil else { return }
        letGoIfOver()
        let view = sight.view
        let told = role!.saw(
            view.role, generation: view.generation, version: view.version, asOf: sight.asOf, id: record.id,
            session: record.session,
            now: now, deadline: deadline, isMember: isMember(at: now))
        perform(told, now: now, &output)
    }

    // MARK: What its process wants

    /// Why a member cannot become another record.
    package enum UpdateRefusal: Error, Hashable {
        case isOver(MembershipMachine.State)
        /// It would be elected to a role that is over before it begins, again and again.
        case leaseBelowTwiceMargin
    }

    /// It is another record from now on, which is written at the next tick.
    ///
    /// - Parameter withdraws: it stops standing, too. A member that rejoins by itself must not stand again by that.
    /// - Returns: the revision, which Redis has when `membership.written` has come so far.
    package mutating func update(
        _ record: MemberRecord, withdraws: Bool = false, now: Nanos
    ) throws(UpdateRefusal) -> Int {
        switch membership.state {
        case .replaced, .left: throw .isOver(membership.state)
        case .expired where !(withdraws && rejoins): throw .isOver(.expired)
        default: break
        }
        if let role, role.stands, role.margin > record.lease / 2 { throw .leaseBelowTwiceMargin }
        self.record = record
        membership.update(lease: record.lease, now: now)
        return membership.revision
    }

    /// Leaves, and tries to say so for a minute after its lease; a role that it has is given up. `isBegun` is false if
    /// there was nothing to leave.
    package mutating func leave(reason: String, now: Nanos) -> (isBegun: Bool, tells: [Tell]) {
        self.reason = reason
        let until = max(membership.deadline, now).adding(60 * .second)
        let tells = endRole(.gaveUp("left"), now: now)
        return (membership.leave(now: now, until: until), tells)
    }

    // MARK: Its part as a candidate

    /// False if it plays one already.
    package mutating func campaign(margin: Nanos) -> Bool {
        guard role?.stands != true else { return false }
        if role == nil { role = RoleMachine(margin: margin) }
        role?.campaign(margin: margin)
        return true
    }

    /// Stands no more. A role that it has is given up.
    package mutating func withdraw(now: Nanos) -> [Tell] {
        let tells = endRole(.gaveUp("stepDown"), now: now)
        role?.withdraw()
        return tells
    }

    package mutating func endRole(_ end: RoleMachine.End, now: Nanos) -> [Tell] {
        guard let epoch = role?.state.epoch, let told = role?.giveUp(epoch, reason: end.text) else { return [] }
        var output = Output()
        perform(told, now: now, &output)
        return output.tells
    }

    /// Something its holder says of its role. `isHeard` is false if that epoch is over.
    package mutating func say(
        now: Nanos, _ change: (inout RoleMachine) -> RoleMachine.Output?
    ) -> (isHeard: Bool, tells: [Tell]) {
        var output = Output()
        judge(now: now, &output)
        guard role != nil, let told = change(&role!) else { return (false, output.tells) }
        perform(told, now: now, &output)
        return (true, output.tells)
    }

    /// What it says of itself with each beat. True if a beat is due at once.
    package mutating func report(position: Int64?, unfit: String, _ known: GroupRole, now: Nanos) -> Bool {
        // A switchover to this one waits for its position.
        let isAwaited = known.phase == .handingOver && known.target.hasSameBytes(as: record.id)
        guard role?.report(position: position, unfit: unfit, isAwaited: isAwaited) == true else { return false }
        membership.speak(now: now)
        return true
    }

    /// Whether it may act as primary of this epoch.
    package func holds(_ epoch: Int64, now: Nanos) -> Bool {
        role?.holds(epoch, deadline: deadline, isMember: isMember(at: now), now: now) == true
    }

    /// When the role of this epoch ends unless a beat gets through; nil: it is over.
    package func roleDeadline(_ epoch: Int64, now: Nanos) -> Nanos? {
        holds(epoch, now: now) ? role?.end(deadline: deadline) : nil
    }

    // MARK: While Redis is away

    /// The promises to ask for, and the members to ask, if it is primary and the settings let it go on by the promises
    /// of the others.
    package struct Asking: Sendable {
        package var question: FailsafeMachine.Question
        package var peers: [MemberRecord]
    }

    /// - Parameter view: as it was known when Redis was reached last.
    package mutating func promisesNeeded(_ view: GroupMachine.View, now: Nanos) -> (asking: Asking?, tells: [Tell]) {
        guard view.failsafeLimit != nil else { return (nil, []) }
        let tells = judge(now: now)
        guard case .primary(let epoch)? = role?.state else { return (nil, tells) }
        let question = FailsafeMachine.Question(
            epoch: epoch, session: record.session, leaseMilliseconds: record.leaseMilliseconds)
        return (Asking(question: question, peers: FailsafeMachine.peers(view, but: record.id)), tells)
    }

    /// These have promised what they were asked at `askedAt`. With all promises together the role goes on.
    package mutating func promised(
        _ question: FailsafeMachine.Question, by sessions: [String], askedAt: Nanos, _ view: GroupMachine.View,
        now: Nanos
    ) -> [Tell] {
        let tells = judge(now: now)
        guard role?.state == .primary(question.epoch), record.session == question.session else { return tells }
        var failsafe = failsafe?.epoch == question.epoch ? failsafe! : FailsafeMachine(epoch: question.epoch)
        for session in sessions { failsafe.promised(session, until: FailsafeMachine.end(question, askedAt: askedAt)) }
        self.failsafe = failsafe
        countPromises(view)
        return tells
    }

    /// Extends the role by the promises of all candidates that the view knows.
    private mutating func countPromises(_ view: GroupMachine.View) {
        guard let failsafe, view.version >= failsafeVersion else { return }
        failsafeVersion = view.version
        let until = failsafe.until(view, but: record.id, deadline: deadline)
        role?.extend(failsafe.epoch, until: until)
    }

    /// Whether the role goes on though the membership's deadline has passed.
    package func isInFailsafe(now: Nanos) -> Bool {
        guard case .primary(let epoch)? = role?.state, now >= membership.deadline else { return false }
        return holds(epoch, now: now)
    }

    /// Promises the primary that asks to begin no role for the time of its lease. Or why that cannot be promised.
    ///
    /// - Parameters:
    ///   - session: whom the question is for.
    ///   - view: as it was known when Redis was reached last.
    package mutating func promise(
        _ question: FailsafeMachine.Question, session: String, _ view: GroupMachine.View, now: Nanos
    ) -> (refusal: String?, tells: [Tell]) {
        if let objection = FailsafeMachine.objection(to: question, view) { return (objection, []) }
        let tells = judge(now: now)
        let until = FailsafeMachine.binding(question, now: now)
        let isPromised = record.session == session && role?.promise(question.epoch, until: until) == true
        return (isPromised ? nil : "it is another session, or has or waits for a role of its own", tells)
    }
}
