// SPDX-License-Identifier: Apache-2.0
//
// The orders to a group. Each is one script call with an id of its own: if it is sent again because its answer was
// lost, it is not carried out twice. A refused order changes nothing, and the refusal names all reasons at once.
//
// They need the group's name and a connection, not a view of the group that is kept current: the command line and the
// HTTP service give one order and are done. `Group` offers the same to applications (Group+Operations.swift), with what
// each does and takes. Only a switchover and a failover follow the group, until the new primary is ready.

import Hiredis
import NIOCore
import RingfenceCore

/// Operations on one group, by its name. Whether there is such a group is found out by asking.
package struct GroupOperations: Sendable {
    /// The group's name.
    package let name: String
    let hub: GroupHub
    /// Keeps the connection open until the call is over, though the client be dropped meanwhile.
    private let client: RingfenceClient?

    init(name: String, hub: GroupHub, client: RingfenceClient? = nil) {
        self.name = name
        self.hub = hub
        self.client = client
    }
}

extension RingfenceClient {
    /// Operations on the group of this name, for a caller that does not follow it.
    package func operations(on group: String) -> GroupOperations {
        GroupOperations(name: group, hub: hub, client: self)
    }
}

extension GroupOperations {
    /// What ``Group/switchover(to:timeout:actor:reason:)`` does.
    @discardableResult
    package func switchover(
        to member: String? = nil, timeout: Duration = .seconds(30), actor: String? = nil, reason: String = ""
    ) async throws -> PrimaryStatus {
        let limit = Nanos(saturating: timeout)
        do {
            try Limits.check(limit, "timeout", Limits.handover)
            if let member { try Limits.check(member: member) }
        } catch { throw RingfenceError(error) }
        let ordered = try await give(.switchover(to: member, timeoutMilliseconds: limit / .millisecond), actor, reason)
        return try await outcome(of: ordered, within: timeout) {
            try await abortSwitchover(actor: actor, reason: "its caller was cancelled")
        }
    }

    /// What ``Group/abortSwitchover(actor:reason:)`` does.
    package func abortSwitchover(actor: String? = nil, reason: String = "") async throws {
        _ = try await give(.abort, actor, reason)
    }

    /// What ``Group/failover(to:acceptsDataLoss:actor:reason:)`` does.
    @discardableResult
    package func failover(
        to member: String, acceptsDataLoss: Bool, actor: String? = nil, reason: String = ""
    ) async throws -> PrimaryStatus {
        guard acceptsDataLoss else {
            throw RingfenceError(
                InvalidArgument(
                    "acceptsDataLoss",
                    "must be true: a failover by hand loses what '\(member)' has not received; a switchover loses "
                        + "nothing"))
        }
        do { try Limits.check(member: member) } catch { throw RingfenceError(error) }
        let ordered = try await give(.failover(to: member), actor, reason)
        return try await outcome(of: ordered, within: .seconds(3600), cancel: nil)
    }

    /// What ``Group/pause(for:actor:reason:)`` does.
    package func pause(for duration: Duration, actor: String? = nil, reason: String = "") async throws {
        let length = Nanos(saturating: duration)
        do { try Limits.check(length, "duration", Limits.pause) } catch { throw RingfenceError(error) }
        _ = try await give(.pause(milliseconds: length / .millisecond), actor, reason)
    }

    /// What ``Group/resume(actor:reason:)`` does.
    package func resume(actor: String? = nil, reason: String = "") async throws {
        _ = try await give(.resume, actor, reason)
    }

    /// What ``Group/setMaintenance(_:for:actor:reason:)`` does.
    package func setMaintenance(
        _ isOn: Bool, for member: String, actor: String? = nil, reason: String = ""
    ) async throws {
        do { try Limits.check(member: member) } catch { throw RingfenceError(error) }
        _ = try await give(.maintenance(member, isOn: isOn), actor, reason)
    }

    /// What ``Group/acknowledge(actor:reason:)`` does.
    package func acknowledge(actor: String? = nil, reason: String = "") async throws {
        _ = try await give(.acknowledge, actor, reason)
    }

    /// What ``Group/update(_:actor:reason:)`` does.
    package func update(_ settings: ElectionSettings, actor: String? = nil, reason: String = "") async throws {
        do { try settings.check() } catch { throw RingfenceError(error) }
        _ = try await give(.settings(settings.stored), actor, reason)
    }

    /// What ``Group/overrideBreaker(_:actor:reason:)`` does.
    package func overrideBreaker(_ state: BreakerOverride, actor: String? = nil, reason: String) async throws {
        guard !reason.isEmpty else {
            throw RingfenceError(
                InvalidArgument(
                    "reason", "must be 1 to 512 bytes: it tells callers why all their calls, or none, are refused"))
        }
        _ = try await give(.breaker(state.order), actor, reason)
    }

    /// What ``Group/remove(actor:reason:)`` does.
    package func remove(actor: String? = nil, reason: String = "") async throws {
        _ = try await give(.remove(emptyForMilliseconds: 0), actor, reason)
    }

    /// What ``Group/removeMember(_:session:actor:reason:)`` does.
    @discardableResult
    package func removeMember(
        _ member: String, session: String? = nil, actor: String? = nil, reason: String = ""
    ) async throws -> Bool {
        let actor = actor ?? hub.owner
        do {
            try Limits.check(group: name)
            try Limits.check(member: member)
            try Limits.check(owner: actor, field: "actor")
            try Limits.check(reason: reason)
            if let session { try Limits.check(session: session) }
        } catch { throw RingfenceError(error) }
        let call = hub.scripts.leave(
            name, .notAsking, id: member, session: session ?? "", reason: reason, actor: actor)
        let reply = try await hub.runner.run(call, "removing '\(member)' from the group '\(name)'")
        guard let answer = GroupScripts.answer(reply) else { throw RingfenceError.unexpected(reply) }
        return answer.status == .left
    }

    /// Writes an event about the group that changes nothing: what a hook of an agent did, say.
    ///
    /// - Parameters:
    ///   - type: of the event, `agent.…`: up to 64 bytes.
    ///   - detail: one JSON object of up to 16 KiB; empty: none.
    package func note(_ type: String, member: String, reason: String = "", detail: [UInt8] = []) async throws {
        do throws(InvalidArgument) {
            try Limits.check(group: name)
            try Limits.check(member: member)
            try Limits.check(reason: reason)
            guard type.hasPrefix("agent."), Limits.eventTypeBytes.contains(type.utf8.count) else {
                throw InvalidArgument("type", "must begin with agent. and have up to 64 bytes")
            }
            guard detail.isEmpty || Limits.noteBytes.contains(detail.count) else {
                throw InvalidArgument("detail", "must have up to 16384 bytes, not \(detail.count)")
            }
        } catch { throw RingfenceError(error) }
        let call = hub.scripts.note(
            name, .none, type: type, member: member, reason: reason, actor: "", detail: detail)
        guard
            GroupScripts.answer(try await hub.runner.run(call, "noting '\(type)' of the group '\(name)'"))?.status
                == .noted
        else { throw RingfenceError(.coordinatorRefused, effect: .unknown, "Redis did not note the event") }
    }

    // MARK: Giving an order

    /// Asks until Redis answers or a command timeout has passed.
    private func give(_ order: RoleOrder, _ actor: String?, _ reason: String) async throws -> Ordered {
        let actor = actor ?? hub.owner
        do {
            try Limits.check(group: name)
            try Limits.check(owner: actor, field: "actor")
            try Limits.check(reason: reason)
        } catch { throw RingfenceError(error) }
        let doing = "\(order.name) of the group '\(name)'"
        let call = hub.scripts.order(
            name, hub.knowledge(of: name), order, actor: actor, reason: reason, id: hub.nonces.session())
        let end = Moment.now.adding(hub.commandTimeout)
        var mayBeDone = false
        while true {
            do {
                let reply = try await hub.runner.run(call, doing)
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
                if error.code == .coordinatorUnavailable, error.isRetriable, !Task.isCancelled, Moment.now < end {
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
        of ordered: Ordered, within timeout: Duration, cancel: (@Sendable () async throws -> Void)?
    ) async throws -> PrimaryStatus {
        let group = try await hub.followed(name)
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
                    .coordinatorUnavailable, effect: .unknown, isRetriable: true,
                    "the order to the group '\(name)' was taken, and its outcome is not known yet: see its status"
                )
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

    /// The member it wanted; nil: no longer known.
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
