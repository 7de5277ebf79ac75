// SPDX-License-Identifier: Apache-2.0

import Hiredis
import NIOCore
import RingfenceCore

extension Group {
    /// Joins the group, and stays in it by beating until the membership leaves, the client is shut down, or the process
    /// dies; a dead process is out of the group when its lease has run out.
    ///
    /// Joining under an id that is in the group already replaces that member, as a restarted process replaces the one
    /// that crashed: the old session is told so at its next beat, and does not come back. But a member that lives at
    /// another address keeps its id: two machines with one id are refused, not served in turn. A process that comes
    /// back with another address waits for its old lease, or until an operator takes the old member out. So give
    /// members an address: without one a restarted process and a process with another's id look the same. A join whose
    /// answer was lost is repeated here, and makes one event.
    ///
    /// - Parameters:
    ///   - id: the member's id in the group, 1 to 512 bytes of UTF-8 without control or format characters.
    ///   - address: the address at which it can be reached, up to 512 bytes: `host:port`, `[IPv6]:port` or a host, the
    ///     absolute path of a Unix socket, or a URL. Quotes, blanks and other characters with a meaning to shells or
    ///     SQL are refused.
    ///   - zone: the failure domain (a rack, a data centre), up to 64 bytes.
    ///   - weight: its share. 0 to 1000; 0: it is a member, but gets nothing.
    ///   - priority: its preference where one member is chosen. -1000 to 1000; higher is preferred.
    ///   - capabilities: its capabilities: up to 16 words of 1 to 64 bytes.
    ///   - metadata: up to 32 pairs; keys of 1 to 64 bytes, values of up to 1024. The whole record has at most 8 KiB.
    ///   - health: the reason why it should not be used yet, up to 512 bytes; empty: it is healthy.
    ///   - lease: 200 ms to 1 hour: how long it stays in the group after it was last heard of. The shortest lease of a
    ///     group sets the pace of all its members and watchers, a fifth of it.
    ///   - rejoins: whether it joins again by itself, under a new session, after it has expired and was told so.
    /// - Returns: the membership; it beats already.
    /// - Throws: ``RingfenceError``: `argument.invalid`, naming the field; `membership.taken`, retriable, when another
    ///   lives under this id at another address, or its primary was replaced too often of late; `membership.replaced`
    ///   when another process joined under this id meanwhile; `group.policyMismatch` when the group was made meanwhile,
    ///   with another ring than ``RingfenceClient/group(_:options:)`` was last asked for here;
    ///   `coordinator.unavailable` when Redis did not answer in time. After any error it is not a member: what may have
    ///   been done is undone in the background.
    public func join(
        _ id: String, address: String = "", zone: String = "", weight: Int = 1, priority: Int = 0,
        capabilities: [String] = [], metadata: [String: String] = [:], health: String = "",
        lease: Duration = .seconds(3), rejoins: Bool = false
    ) async throws -> Membership {
        let record: MemberRecord
        do {
            record = MemberRecord(
                id: id, session: hub.nonces.session(), leaseMilliseconds: try Self.milliseconds(of: lease),
                address: address, zone: zone, weight: weight, priority: priority, capabilities: capabilities,
                metadata: metadata, health: health)
            try Limits.check(record)
            try checkRing(with: record)
        } catch { throw RingfenceError(error) }
        guard !hub.isShutDown else { throw RingfenceError.shutDown }
        // Before anything is sent, for a join takes the id from its current holder.
        if let mismatch = policyMismatch { throw mismatch }
        let (answer, sentAt) = try await join(record)
        if var mismatch = policyMismatch {
            takeBack(record)
            mismatch.effect = .unknown
            throw mismatch
        }
        guard !Task.isCancelled else {
            takeBack(record)
            throw RingfenceError(
                .cancelled, effect: .none, "the task was cancelled; the membership is being withdrawn")
        }
        let machine = MemberMachine(
            record: record, joined: answer.mark, pace: answer.paceMilliseconds * .millisecond, sentAt: sentAt,
            rejoins: rejoins)
        guard let membership = begin(machine) else {
            takeBack(record)
            throw RingfenceError.shutDown
        }
        return membership
    }

    /// Asks until Redis answers or a command timeout has passed. A join that is repeated with its session is one join;
    /// a repeat takes the id only from the session that had it before the first call.
    func join(_ record: MemberRecord, status: CandidateStatus? = nil) async throws -> (
        answer: GroupAnswer, sentAt: Nanos
    ) {
        let end = Moment.now.adding(hub.commandTimeout)
        guard await hub.joinGate.enter(until: end) else {
            throw RingfenceError(
                .coordinatorOverloaded, effect: .none, isRetriable: true,
                "joining the group '\(name)' as '\(record.id)': others joined by this client, and its turn did not "
                    + "come within the command timeout")
        }
        defer { hub.joinGate.leave() }
        let before = snapshot.member(record.id)?.session
        var mode = JoinMode.first
        var mayBeDone = false
        while true {
            let call = hub.scripts.join(
                name, knowledge(now: Moment.now), record, mode, policy ?? requestedPolicy, status: status)
            let (result, sentAt) = await hub.runner.timed(call)
            switch heard(result, sentAt: sentAt) {
            case .success(let answer) where answer.status == .member: return (answer, sentAt)
            case .success(let answer): throw refused(record, answer, mode, mayBeDone: mayBeDone)
            case .failure(let error):
                if error.effect != .none {
                    mayBeDone = true
                    mode = before.map { .over($0) } ?? .again
                }
                if error.isTransient, !Task.isCancelled, Moment.now < end {
                    try? await hub.eventLoop.scheduleTask(in: .milliseconds(20)) {}.futureResult.get()
                    continue
                }
                if mayBeDone { takeBack(record) }
                var failure = RingfenceError(error, "joining the group '\(name)' as '\(record.id)'")
                if mayBeDone { failure.effect = .unknown }
                throw failure
            }
        }
    }

    private func refused(
        _ record: MemberRecord, _ answer: GroupAnswer, _ mode: JoinMode, mayBeDone: Bool
    ) -> RingfenceError {
        let doing = "joining the group '\(name)' as '\(record.id)'"
        switch answer.status {
        case .full:
            return RingfenceError(
                .limitReached, effect: mayBeDone ? .unknown : .none,
                "the group '\(name)' has as many members as the setting limits.members allows here: "
                    + "\(hub.scripts.limits.members)")
        case .tooManyGroups:
            return RingfenceError(
                .limitReached, effect: mayBeDone ? .unknown : .none,
                "the group '\(name)' is new, and there are as many groups as the setting limits.groups allows here: "
                    + "\(hub.scripts.limits.groups); see `ringfence group remove`")
        case .taken: return Self.taken(record, answer.holder, name)
        default: break
        }
        // The holder of the id may be a process that joined since the answer to the first call was lost, or one that
        // died before it and was not known here.
        if mode == .again {
            return RingfenceError(
                .coordinatorUnavailable, effect: .unknown, isRetriable: true,
                "\(doing): the first answer was lost, and another has the id now; repeat it to take the id over")
        }
        return RingfenceError(
            .membershipReplaced, effect: .none,
            "another process joined the group '\(name)' as '\(record.id)' at the same time; give each an id of its own")
    }

    private static func taken(_ record: MemberRecord, _ holder: GroupAnswer.Holder?, _ group: String) -> RingfenceError
    {
        func place(_ address: String) -> String { address.isEmpty ? "without an address" : "at \(address)" }
        let (milliseconds, other) = (holder?.milliseconds ?? 0, holder?.address ?? "")
        let why =
            other.isEmpty || record.address.isEmpty || other.hasSameBytes(as: record.address)
            ? "it was primary and was replaced too often of late"
            : "another member \(place(other)) has this id and lives, and this one is \(place(record.address))"
        var error = RingfenceError(
            .membershipTaken, effect: .none, isRetriable: true,
            "joining the group '\(group)' as '\(record.id)': \(why). Give each machine an id of its own; if the other "
                + "is gone, its lease ends within \(milliseconds) ms, or take it out")
        error.retryAfterMilliseconds = milliseconds
        return error
    }

    /// Refuses a member with which the group would have more points than a ring takes, as far as this process knows the
    /// group. (Two that join at once may both pass; then readers keep the ring they have, and say so in the log.)
    func checkRing(with record: MemberRecord) throws(InvalidArgument) {
        let (members, weight) = sizeAndWeight(with: record)
        try RingLimits.check(members: members, points: weight * (policy ?? requestedPolicy).pointsPerWeight)
    }

    /// Leaves in the background: the join is no longer wanted.
    func takeBack(_ record: MemberRecord) {
        let call = hub.scripts.leave(
            name, .notAsking, id: record.id, session: record.session, reason: "join given up", actor: "")
        hub.cleanUp.perform(call, confirmation: nil, holdMilliseconds: record.leaseMilliseconds)
    }

    /// A lease in whole milliseconds.
    static func milliseconds(of lease: Duration) throws(InvalidArgument) -> Int64 {
        let lease = Nanos(saturating: lease)
        try Limits.check(lease, "lease", Limits.memberLease)
        return lease / .millisecond
    }
}
