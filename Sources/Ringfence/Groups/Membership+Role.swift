// SPDX-License-Identifier: Apache-2.0
//
// A membership's part as a candidate: the role as its process is told of it, its claims, and its promises while Redis
// is away.

import NIOCore
package import RingfenceCore

extension Membership {
    /// Stands for election, or stops standing: then a role that it has is given up with the same call.
    func setCandidate(_ isCandidate: Bool) async throws {
        try await change(withdraws: !isCandidate) { $0.isCandidate = isCandidate }
    }

    /// Begins the candidacy. False if there is one already.
    func beginCandidacy(margin: Nanos) -> Bool {
        group.with(key) { machine, _, _ in (machine.campaign(margin: margin), []) }
    }

    func endCandidacy() {
        group.with(key) { machine, observers, after in (withdraw(&machine, &observers, &after), []) }
    }

    /// Tells the followers of its roles, and ends their streams: a later candidacy has its own.
    func withdraw(
        _ machine: inout MemberMachine, _ observers: inout MemberObservers, _ after: inout MemberObservers.Afterwards
    ) {
        for tell in machine.withdraw(now: Moment.now) { observers.tell(tell, machine, hub) }
        observers.finishRoles(&after)
    }

    var role: Role {
        group.with(key) { machine, _, _ in
            let tells = machine.judge(now: Moment.now)
            return (machine.role.map { role(of: $0.state) } ?? .standby, tells)
        }
    }

    var roles: AsyncStream<Role> {
        stream(\.roles) { [self] machine in
            guard let role = machine.role, role.stands else { return nil }
            return self.role(of: role.state)
        }
    }

    /// The moment at which the role of this epoch ends unless a beat gets through; nil if it is over.
    func roleDeadline(_ epoch: Int64) -> Nanos? {
        group.read(key) { $0.roleDeadline(epoch, now: $1) }
    }

    /// Records a report of the holder about its role; false if that epoch is over.
    func say(_ change: (inout RoleMachine) -> RoleMachine.Output?) -> Bool {
        group.with(key) { machine, _, _ in machine.say(now: Moment.now, change) }
    }

    /// Sets what it says of itself with each beat from now on.
    func report(position: Int64?, unfit: String) {
        let now = Moment.now
        let role = group.known.role
        group.with(key) { machine, _, _ in
            (_ = machine.report(position: position, unfit: unfit, role, now: now), [])
        }
    }

    /// False if one runs already.
    func begin(_ term: PrimaryTerm) -> Bool {
        group.with(key) { machine, observers, _ in
            let state = machine.membership.state
            guard observers.term == nil, state == .member || state == .suspended else { return (false, []) }
            observers.term = term
            return (true, [])
        }
    }

    func endTerm() { group.with(key) { _, observers, _ in (observers.term = nil, []) } }

    func role(_ tell: RoleMachine.Tell) -> Role {
        switch tell {
        case .state(let state): role(of: state)
        case .ended(let epoch, let end): .ended(Epoch(epoch, self), reason: RoleEnd(end))
        }
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

    /// The promises to ask for, and the members to ask, if it is primary, cannot reach Redis and the group's settings
    /// let it go on by the promises of the others.
    package func promisesNeeded() -> (question: FailsafeMachine.Question, peers: [MemberRecord], askedAt: Nanos)? {
        let now = Moment.now
        guard let view = group.viewWhileAway(now: now) else { return nil }
        let asking = group.with(key) { machine, _, _ in
            let (asking, tells) = machine.promisesNeeded(view, now: now)
            return (asking, tells)
        }
        return asking.map { ($0.question, $0.peers, now) }
    }

    /// Records that these sessions promised what they were asked at `askedAt`. With all promises together the role goes
    /// on.
    package func promised(_ question: FailsafeMachine.Question, by sessions: [String], askedAt: Nanos) {
        let now = Moment.now
        let view = group.known
        group.with(key) { machine, _, _ in
            ((), machine.promised(question, by: sessions, askedAt: askedAt, view, now: now))
        }
    }

    /// Whether the role goes on though the membership's deadline has passed.
    package var isInFailsafe: Bool { group.read(key) { $0.isInFailsafe(now: $1) } }

    /// Promises the asking primary to begin no role for the time of its lease. Returns nil, or the reason why it cannot
    /// promise.
    ///
    /// - Parameter session: the session that the question is for.
    package func promise(_ question: FailsafeMachine.Question, session: String) -> String? {
        let now = Moment.now
        guard let view = group.viewWhileAway(now: now) else { return "Redis is reached from here" }
        return group.with(key) { machine, _, _ in
            let (refusal, tells) = machine.promise(question, session: session, view, now: now)
            return (refusal, tells)
        }
    }
}
