// SPDX-License-Identifier: Apache-2.0
//
// Members that live outside this process: programs that join over HTTP. Nothing beats for them here. They have their
// session, as the holder of a lock outside has its token, and each of their calls is one script; which process of the
// service takes it does not matter.
//
// A member outside comes in only by a join. A renewal of a session that is no longer a member is refused, whatever the
// reason: between its last call and this one others may have taken over its work, so it must first learn that, and
// stop. (A member in this process that Redis lost comes back by itself: its own clock told it in time. Whether a member
// outside has such a clock, nobody knows.)

import Hiredis
package import RingfenceCore

/// A member outside this process, as its last call left it.
package struct MemberGrant: Sendable {
    /// What it said of itself, with its session.
    package var record: MemberRecord
    /// The group's version after the call.
    package var version: Int64
    /// The generation of the event log that the version was made in.
    package var generation: String
    /// When it must stop unless it has renewed, on this machine's clock.
    package var deadline: ContinuousClock.Instant
    /// How often the group's members call.
    package var pace: Duration
    /// The primary, as of this call or later.
    package var primary: PrimaryStatus

    /// Time left until `deadline`; never negative.
    package var remaining: Duration { max(.zero, ContinuousClock.now.duration(to: deadline)) }
}

extension Group {
    /// Joins the group for a member outside this process, under a new session. Takes the id from its holder, unless
    /// that lives at another address.
    ///
    /// - Parameter member: what it says of itself. Its session does not matter.
    /// - Throws: ``RingfenceError``: `argument.invalid`; `membership.taken`; `membership.replaced` when another joined
    ///   under this id meanwhile; `coordinator.unavailable`. After any error it is not a member: what may have been
    ///   done is undone in the background.
    package func admit(_ member: MemberRecord, status: CandidateStatus? = nil) async throws -> MemberGrant {
        var record = member
        record.session = hub.nonces.session()
        do {
            try Limits.check(record)
            try status?.check()
            try checkRing(with: record)
        } catch { throw RingfenceError(error) }
        guard !hub.isShutDown else { throw RingfenceError.shutDown }
        let (answer, sentAt) = try await join(record, status: record.isCandidate ? status ?? .init() : nil)
        guard !Task.isCancelled else {
            takeBack(record)
            throw RingfenceError(
                .cancelled, effect: .none, "the task was cancelled; the membership is being withdrawn")
        }
        return MemberGrant(answer, record, sentAt: sentAt, PrimaryStatus(role(by: answer)))
    }

    /// As of this answer or later. (Of a large group what is known may lag behind.)
    private func role(by answer: GroupAnswer) -> GroupRole {
        let known = known
        if let content = answer.content, answer.version > known.version { return content.role }
        return known.role
    }

    /// Renews the lease of a member outside this process, and makes its record what it says now.
    ///
    /// - Parameters:
    ///   - member: all that it says of itself, with the session that ``admit(_:status:)`` gave.
    ///   - status: of a candidate: how far its data is, and what it does as primary. It must have stopped to act as
    ///     primary of an epoch by the deadline of the last grant, and must then say that it is gone.
    /// - Throws: ``RingfenceError``: `membership.expired` when it is not in the group (its lease ran out, it left, was
    ///   taken out, or Redis lost it), `membership.replaced` when another has its id, both with nothing done;
    ///   `coordinator.unavailable`: the call may be repeated.
    package func renew(_ member: MemberRecord, status: CandidateStatus? = nil) async throws -> MemberGrant {
        do {
            try Limits.check(member)
            try status?.check()
            // Only if it wants more than it has: should the ring be too large already, its members live all the same.
            if let before = snapshot.member(member.id), member.weight > before.weight { try checkRing(with: member) }
        } catch { throw RingfenceError(error) }
        guard !hub.isShutDown else { throw RingfenceError.shutDown }
        let (answer, sentAt) = try await ask("renewing '\(member.id)' in the group '\(name)'") { known in
            hub.scripts.join(
                name, known, member, .stay(since: ""), policy ?? requestedPolicy,
                status: member.isCandidate ? status ?? .init() : nil)
        }
        switch answer.status {
        case .member: return MemberGrant(answer, member, sentAt: sentAt, PrimaryStatus(role(by: answer)))
        case .replaced:
            throw RingfenceError(
                .membershipReplaced, effect: .none,
                "another session has '\(member.id)' in the group '\(name)' now: stop, for somebody else does its work")
        default:
            throw RingfenceError(
                .membershipExpired, effect: .none,
                "'\(member.id)' is not in the group '\(name)' under this session any more: stop, and join again "
                    + "without it"
            )
        }
    }

    /// Takes back, in the background, what ``admit(_:status:)`` did for a member that has not heard of it.
    package func withdraw(_ grant: MemberGrant) { takeBack(grant.record) }

    /// The group as Redis has it now, each lease with what is left of it. (What this process knows of the group goes
    /// with it: if Redis lost it, the group heals by this.)
    ///
    /// - Throws: ``RingfenceError``; asking changes nothing, except that members that are dead by now are taken out.
    package func inspect() async throws -> GroupStatus {
        do {
            let status = try await GroupStatus.gathered(name) { cursor in
                try await ask("inspecting the group '\(name)'") { known in
                    hub.scripts.watch(name, known, leases: true, cursor: cursor)
                }.answer
            }
            if let status { return status }
        } catch var error as RingfenceError {
            error.effect = .none
            throw error
        }
        throw RingfenceError(
            .coordinatorRefused, effect: .none, "inspecting the group '\(name)': leases were asked for, and none came")
    }

    private func ask(
        _ doing: String, _ call: (GroupKnowledge) -> ScriptCall
    ) async throws -> (answer: GroupAnswer, sentAt: Nanos) {
        let call = call(knowledge(now: Moment.now))
        let (result, sentAt) = await hub.runner.timed(call)
        switch heard(result, sentAt: sentAt) {
        case .success(let answer):
            return (answer, sentAt)
        case .failure(let error): throw RingfenceError(error, doing)
        }
    }
}

extension MemberGrant {
    fileprivate init(_ answer: GroupAnswer, _ record: MemberRecord, sentAt: Nanos, _ primary: PrimaryStatus) {
        self.record = record
        version = answer.version
        generation = GroupMachine.generation(of: answer.mark)
        deadline = Moment.instant(MembershipMachine.deadline(sentAt, record.lease))
        pace = .milliseconds(answer.paceMilliseconds)
        self.primary = primary
    }
}
