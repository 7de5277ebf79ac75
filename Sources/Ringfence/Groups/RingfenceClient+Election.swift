// SPDX-License-Identifier: Apache-2.0
//
// What operators order about a group's primary. Each order is one script call with an id of its own: asked again
// because its answer was lost, it is not carried out twice. What is refused changes nothing, and tells all its reasons
// at once.

import Hiredis
import NIOCore
import RingfenceCore

extension RingfenceClient {
    /// Who would be primary if the present one died now, how soon, and why not each of the others. Asked of Redis now.
    ///
    /// - Throws: ``RingfenceError``; nothing is changed by asking, but that what time has decided by now is done.
    public func plan(group: String) async throws -> GroupPlan { try await inspectGroup(group).plan }

    /// Lets the primary stop, hand over to another, and returns when that one is ready.
    ///
    /// The primary is told, stops, and says how far it came; the target is elected when it has come as far; no two
    /// are primary at once. If that takes longer than `timeout` the order is taken back and the primary goes on.
    ///
    /// - Parameters:
    ///   - group: the group.
    ///   - member: who shall be primary; nil: who would be elected.
    ///   - timeout: 10 ms to 1 h, until the target is elected. (Its own promotion comes after that.)
    ///   - actor: who orders it, for the event: 1 to 128 bytes; nil: this client's owner.
    ///   - reason: why, for the event: up to 512 bytes.
    /// - Returns: the new primary.
    /// - Throws: ``RingfenceError``: `order.refused` with all ``RingfenceError/reasons``; `switchover.aborted`;
    ///   `argument.invalid`; `coordinator.unavailable`. A task that is cancelled takes the order back.
    @discardableResult
    public func switchover(
        group: String, to member: String? = nil, timeout: Duration = .seconds(30), actor: String? = nil,
        reason: String = ""
    ) async throws -> PrimaryStatus {
        let limit = Nanos(saturating: timeout)
        do {
            try Limits.check(limit, "timeout", Limits.handover)
            if let member { try Limits.check(member: member) }
        } catch { throw RingfenceError(error) }
        let ordered = try await order(
            .switchover(to: member, timeoutMilliseconds: limit / .millisecond), group, actor, reason)
        return try await outcome(of: ordered, in: group, within: timeout) { [self] in
            try await abortSwitchover(group: group, actor: actor, reason: "its caller was cancelled")
        }
    }

    /// Takes a switchover back: the primary goes on. Nothing happens if neither that nor a failover is under way.
    ///
    /// - Throws: ``RingfenceError``: `order.refused` for a failover by hand, which cannot be taken back.
    public func abortSwitchover(group: String, actor: String? = nil, reason: String = "") async throws {
        _ = try await order(.abort, group, actor, reason)
    }

    /// Gives the role to a member, whatever speaks against it but that it is dead or in maintenance.
    ///
    /// The present primary is told to stop at once, and nobody is elected before it said so or its lease, as it was
    /// when this was ordered, is over. What the new primary's data lacks is lost.
    ///
    /// - Parameters:
    ///   - group: the group.
    ///   - member: who shall be primary.
    ///   - acceptsDataLoss: must be true: say it, and it stands in the event.
    ///   - actor: who orders it, for the event: 1 to 128 bytes; nil: this client's owner.
    ///   - reason: why, for the event: up to 512 bytes.
    /// - Returns: the new primary, when it is ready.
    /// - Throws: ``RingfenceError``: `argument.invalid`; `order.refused`; `failover.aborted` when the member is gone
    ///   before it could be elected; `coordinator.unavailable`; `cancelled`: the order stands.
    @discardableResult
    public func failover(
        group: String, to member: String, acceptsDataLoss: Bool, actor: String? = nil, reason: String = ""
    ) async throws -> PrimaryStatus {
        guard acceptsDataLoss else {
            throw RingfenceError(
                InvalidArgument(
                    "acceptsDataLoss",
                    "must be true: a failover by hand loses what '\(member)' has not received; a switchover loses nothing"
                ))
        }
        do { try Limits.check(member: member) } catch { throw RingfenceError(error) }
        let ordered = try await order(.failover(to: member), group, actor, reason)
        return try await outcome(of: ordered, in: group, within: .seconds(3600), cancel: nil)
    }

    /// Lets nothing be elected by itself for a while. Orders are still taken, leases still end, and a primary whose
    /// lease is over still stops.
    ///
    /// - Parameters:
    ///   - group: the group.
    ///   - duration: 1 s to 30 days: a pause that nobody ends ends by itself.
    ///   - actor: who orders it, for the event: 1 to 128 bytes; nil: this client's owner.
    ///   - reason: why, for the event: up to 512 bytes.
    public func pause(group: String, for duration: Duration, actor: String? = nil, reason: String = "") async throws {
        let length = Nanos(saturating: duration)
        do { try Limits.check(length, "duration", Limits.pause) } catch { throw RingfenceError(error) }
        _ = try await order(.pause(milliseconds: length / .millisecond), group, actor, reason)
    }

    /// Ends a pause. Nothing happens if there is none.
    public func resume(group: String, actor: String? = nil, reason: String = "") async throws {
        _ = try await order(.resume, group, actor, reason)
    }

    /// Takes a member out of the election, or back into it; it stays so over its restarts. Of a group 128 can be so at
    /// once; whoever is no member any more makes room for others.
    ///
    /// - Throws: ``RingfenceError``: `order.refused` with `primary` for the primary: switch over first; with
    ///   `maintenanceFull`.
    public func setMaintenance(
        _ isOn: Bool, of member: String, group: String, actor: String? = nil, reason: String = ""
    ) async throws {
        do { try Limits.check(member: member) } catch { throw RingfenceError(error) }
        _ = try await order(.maintenance(member, isOn: isOn), group, actor, reason)
    }

    /// Says that the failovers that made the group be held are known, and lets it elect again.
    public func acknowledge(group: String, actor: String? = nil, reason: String = "") async throws {
        _ = try await order(.acknowledge, group, actor, reason)
    }

    /// Removes a group that nobody is in: its name, its ring's seed and points per weight, and its settings.
    ///
    /// Its version and epoch are remembered for 30 days, so that they go on if somebody joins again, and a resource
    /// that knows its last epoch is still guarded; after that every new group begins above them.
    ///
    /// - Throws: ``RingfenceError``: `order.refused` while somebody is in it, or may act as its primary without Redis.
    public func removeGroup(_ group: String, actor: String? = nil, reason: String = "") async throws {
        _ = try await order(.remove(emptyForMilliseconds: 0), group, actor, reason)
    }

    /// Changes how a group elects. What is nil stays.
    ///
    /// - Throws: ``RingfenceError``: `argument.invalid`, naming the setting; `order.refused` if nobody ever joined the
    ///   group.
    public func changeSettings(
        _ settings: ElectionSettings, group: String, actor: String? = nil, reason: String = ""
    ) async throws {
        do { try settings.check() } catch { throw RingfenceError(error) }
        _ = try await order(.settings(settings.stored), group, actor, reason)
    }

    /// Opens or closes the breaker of a whole group for every process that balances calls over its members, or lets
    /// each decide for itself again. All obey within a round trip of it; one that cannot reach Redis goes on by what it
    /// heard last.
    ///
    /// The order stands until another is given, over restarts of every process. It is in ``GroupSnapshot/breaker``, and
    /// whoever ordered it, and why, in the event `breaker.forced`. Ordered once more as it is, it changes nothing and
    /// makes no event. (A Redis that loses its data has lost it too.)
    ///
    /// - Parameters:
    ///   - group: the group.
    ///   - state: ``BreakerOverride/open``: nobody is called; ``BreakerOverride/closed``: calls are made, however many
    ///     fail; ``BreakerOverride/automatic``: each process decides again.
    ///   - actor: who orders it, for the event: 1 to 128 bytes; nil: this client's owner.
    ///   - reason: why, for the event: 1 to 512 bytes. Whoever finds all calls refused wants to know.
    /// - Throws: ``RingfenceError``: `argument.invalid`; `order.refused` if nobody ever joined the group;
    ///   `coordinator.unavailable`.
    public func overrideBreaker(
        of group: String, _ state: BreakerOverride, actor: String? = nil, reason: String
    ) async throws {
        guard !reason.isEmpty else {
            throw RingfenceError(
                InvalidArgument(
                    "reason", "must be 1 to 512 bytes: whoever finds all calls refused, or none, must be told why"))
        }
        _ = try await order(.breaker(state.order), group, actor, reason)
    }

    /// Writes an event about a group that changes nothing: what a hook of an agent did, say.
    ///
    /// - Parameters:
    ///   - type: of the event, `agent.…`: up to 64 bytes.
    ///   - detail: one JSON object of up to 16 KiB; empty: none.
    package func note(
        _ type: String, group: String, member: String, reason: String = "", detail: [UInt8] = []
    ) async throws {
        do throws(InvalidArgument) {
            try Limits.check(group: group)
            try Limits.check(member: member)
            try Limits.check(reason: reason)
            guard type.hasPrefix("agent."), Limits.eventTypeBytes.contains(type.utf8.count) else {
                throw InvalidArgument("type", "must begin with agent. and have up to 64 bytes")
            }
            guard detail.isEmpty || Limits.noteBytes.contains(detail.count) else {
                throw InvalidArgument("detail", "must have up to 16384 bytes, not \(detail.count)")
            }
        } catch { throw RingfenceError(error) }
        let call = groupScripts.note(
            group, .none, type: type, member: member, reason: reason, actor: "", detail: detail)
        guard GroupScripts.answer(try await run(call, "noting '\(type)' of the group '\(group)'"))?.status == .noted
        else { throw RingfenceError(.refused, effect: .unknown, "Redis did not note the event") }
    }

    // MARK: Orders

    /// Asks until Redis answers or a command timeout has passed.
    private func order(
        _ order: RoleOrder, _ group: String, _ actor: String?, _ reason: String
    ) async throws -> Ordered {
        let actor = actor ?? configuration.owner
        do {
            try Limits.check(group: group)
            try Limits.check(owner: actor, field: "actor")
            try Limits.check(reason: reason)
        } catch { throw RingfenceError(error) }
        let doing = "\(order.name) of the group '\(group)'"
        let call = groupScripts.order(
            group, hub.knowledge(of: group), order, actor: actor, reason: reason, id: hub.nonces.session())
        let end = Moment.now.adding(hub.commandTimeout)
        var mayBeDone = false
        while true {
            do {
                let reply = try await run(call, doing)
                guard let answer = GroupScripts.answer(reply), let content = answer.content,
                    let report = content.report
                else { throw RingfenceError.unexpected(reply) }
                if answer.status == .ordered {
                    return Ordered(order, content.role, epoch: report.orderEpoch, version: answer.version)
                }
                let reasons = report.refusals.map { Refusal($0) }
                var error = RingfenceError(
                    .orderRefused, effect: .none,
                    "\(doing) is refused: " + reasons.map(\.description).joined(separator: "; "))
                error.reasons = reasons
                throw error
            } catch var error as RingfenceError {
                if error.effect == .unknown { mayBeDone = true }
                if error.code == .unavailable, !Task.isCancelled, Moment.now < end {
                    try? await hub.eventLoop.scheduleTask(in: .milliseconds(20)) {}.futureResult.get()
                    continue
                }
                if mayBeDone { error.effect = .unknown }
                throw error
            }
        }
    }

    /// Waits until the order has come to something.
    private func outcome(
        of ordered: Ordered, in name: String, within timeout: Duration, cancel: (@Sendable () async throws -> Void)?
    ) async throws -> PrimaryStatus {
        let group = try await group(name)
        // The new primary's promotion comes after the handing over, and takes as long as it takes: this is only what we
        // wait.
        let end = ContinuousClock.now + timeout + .seconds(60)
        while true {
            switch ordered.outcome(group.snapshot.primary, version: group.snapshot.version) {
            case .pending: break
            case .done(let primary): return primary
            case .aborted(let why):
                throw RingfenceError(
                    .switchoverAborted, effect: .none, isRetriable: true,
                    "the switchover of the group '\(name)' was taken back: \(why)")
            case .dropped(let why):
                throw RingfenceError(
                    .failoverAborted, effect: .unknown,
                    "the failover of the group '\(name)' was aborted: \(why)")
            }
            if Task.isCancelled {
                guard let cancel else {
                    throw RingfenceError(
                        .cancelled, effect: .unknown, "the task was cancelled; a failover by hand goes on all the same")
                }
                // In a task of its own: of one that is cancelled no command is sent.
                try? await Task { try await cancel() }.value
                throw RingfenceError(.cancelled, effect: .unknown, "the task was cancelled; the order is taken back")
            }
            guard ContinuousClock.now < end else {
                throw RingfenceError(
                    .unavailable, effect: .unknown, isRetriable: true,
                    "the order to the group '\(name)' was taken, and its outcome is not known yet: look at the group")
            }
            try? await hub.eventLoop.scheduleTask(in: .milliseconds(5)) {}.futureResult.get()
        }
    }
}

/// What is known of an order that was taken, and what became of it.
struct Ordered {
    enum Outcome: Hashable {
        case pending
        case done(PrimaryStatus)
        case aborted(String)
        case dropped(String)
    }

    private let isForced: Bool

    /// Whom it wanted; nil: not known any more.
    private let target: String?
    /// The epoch under which it was taken, which may be long ago: the answer that came is not the first one.
    private let epoch: Int64
    /// The version of the group that told so.
    private let version: Int64

    init(_ order: RoleOrder, _ role: GroupRole, epoch: Int64, version: Int64) {
        isForced = if case .failover = order { true } else { false }
        target = [order.member, role.target].first { !$0.isEmpty }
        self.epoch = epoch
        self.version = version
    }

    /// By what is known of the group, which may be older than the order.
    func outcome(_ status: PrimaryStatus?, version: Int64) -> Outcome {
        guard version >= self.version else { return .pending }
        let role = status?.role ?? GroupRole()
        let isTarget = target?.hasSameBytes(as: role.primary) == true
        if let status, role.phase == .ready, role.epoch > epoch || isTarget { return .done(status) }
        if isForced {
            let isElected = role.epoch > epoch && !role.primary.isEmpty
            // As long as the order stands, the group says so.
            guard !isTarget, isElected || (role.epoch <= epoch && !role.isForced) else { return .pending }
            return .dropped(
                "'\(target ?? "")' was gone before it could be elected, or gave the role up"
                    + (isElected ? "; '\(role.primary)' was elected" : ""))
        }
        guard let status, role.phase == .ready else { return .pending }
        return .aborted(
            "\(target.map { "'\($0)'" } ?? "the target") did not come as far as the primary in time, or was lost, or "
                + "somebody took it back; '\(status.member ?? "")' goes on")
    }
}

extension GroupStatus {
    /// Who would be primary if the present one died now.
    public var plan: GroupPlan {
        let candidates = report.candidates.map { GroupPlan.Candidate(candidate: $0) }
        let winner = candidates.first { $0.isEligible }?.id
        var blocked: [Refusal] = []
        func block(_ code: String, _ milliseconds: Int64) {
            if milliseconds > 0 { blocked.append(Refusal(RoleReason(code, detail: "\(milliseconds) ms"))) }
        }
        block("paused", report.pausedMilliseconds)
        if candidates.count(where: { $0.isEligible }) > 1 { block("braked", report.brakedMilliseconds) }
        block("waiting", report.electMilliseconds)
        if winner == nil { blocked.append(Refusal(RoleReason("noCandidate"))) }
        let isPossible = winner != nil && report.pausedMilliseconds == 0 && !blocked.contains { $0.code == "braked" }
        let lease = members.first { $0.member.id == primary.member }?.remaining ?? .zero
        let waiting = max(lease + expiryGrace, .milliseconds(report.electMilliseconds))
        return GroupPlan(
            group: name, primary: primary, winner: isPossible ? winner : nil,
            electionWithin: isPossible ? waiting : nil,
            blocked: blocked, candidates: candidates)
    }
}
