// SPDX-License-Identifier: Apache-2.0
//
// A membership's part as a candidate: what its process is told of the role, says of it, and promises while Redis is
// away.

import NIOCore
package import RingfenceCore

extension Membership {
    /// Stands for election, or not any more: then a role that it has is given up with the same call.
    func setCandidate(_ isCandidate: Bool) async throws {
        try await change(withdraws: !isCandidate) { $0.isCandidate = isCandidate }
    }

    /// Begins to play a candidate. False if it plays one already.
    func beginCandidacy(margin: Nanos) -> Bool {
        group.with(key) { machine, _, _ in (machine.campaign(margin: margin), []) }
    }

    func endCandidacy() {
        group.with(key) { machine, observers, after in (withdraw(&machine, &observers, &after), []) }
    }

    /// Those who follow its roles are told, and then there are no more: a candidacy that comes after has its own.
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

    /// When the role of this epoch ends unless a beat gets through; nil if it is over.
    func roleDeadline(_ epoch: Int64) -> Nanos? {
        group.read(key) { $0.roleDeadline(epoch, now: $1) }
    }

    /// Something its holder says of its role; false if that epoch is over.
    func say(_ change: (inout RoleMachine) -> RoleMachine.Output?) -> Bool {
        group.with(key) { machine, _, _ in machine.say(now: Moment.now, change) }
    }

    /// What it says of itself with each beat from now on.
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

    /// What to ask whom, if it is primary, cannot reach Redis and the group's settings let it go on by the word of the
    /// others.
    package func promisesNeeded() -> (question: FailsafeMachine.Question, peers: [MemberRecord], askedAt: Nanos)? {
        let now = Moment.now
        guard let view = group.viewWhileAway(now: now) else { return nil }
        let asking = group.with(key) { machine, _, _ in
            let (asking, tells) = machine.promisesNeeded(view, now: now)
            return (asking, tells)
        }
        return asking.map { ($0.question, $0.peers, now) }
    }

    /// These have promised what they were asked at `askedAt`. With all promises together the role goes on.
    package func promised(_ question: FailsafeMachine.Question, by sessions: [String], askedAt: Nanos) {
        let now = Moment.now
        let view = group.known
        group.with(key) { machine, _, _ in
            ((), machine.promised(question, by: sessions, askedAt: askedAt, view, now: now))
        }
    }

    /// Whether the role goes on though the membership's deadline has passed.
    package var isInFailsafe: Bool { group.read(key) { $0.isInFailsafe(now: $1) } }

    /// Promises the primary that asks to begin no role for the time of its lease. Nil; or why it cannot be promised.
    ///
    /// - Parameter session: whom the question is for.
    package func promise(_ question: FailsafeMachine.Question, session: String) -> String? {
        let now = Moment.now
        guard let view = group.viewWhileAway(now: now) else { return "Redis is reached from here" }
        return group.with(key) { machine, _, _ in
            let (refusal, tells) = machine.promise(question, session: session, view, now: now)
            return (refusal, tells)
        }
    }
}
