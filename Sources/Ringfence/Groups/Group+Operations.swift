// SPDX-License-Identifier: Apache-2.0
//
// What operators ask and order of a group. The work is done in GroupOperations.swift; here stands what each operation
// promises.

extension Group {
    private var operations: GroupOperations { GroupOperations(name: name, hub: hub) }

    // MARK: Questions

    /// Returns the group as Redis has it now, with the time left of each lease.
    ///
    /// - Throws: ``RingfenceError``. Asking changes nothing, except that members whose lease is over are expired.
    public func status() async throws -> GroupStatus { try await operations.status() }

    /// Returns which candidate would be primary if the current one died now, how soon, and why each of the others would
    /// not, as Redis has it now.
    ///
    /// - Throws: ``RingfenceError``. Asking changes nothing, except that members whose lease is over are expired.
    public func plan() async throws -> GroupPlan { try await operations.plan() }

    // MARK: The primary

    /// Hands the role of primary over to another member without losing writes, and returns when that member is ready.
    ///
    /// The primary is told to stop and reports its last position; the target is elected when it has reached that
    /// position. There are never two primaries at once. If that takes longer than `timeout` the order is taken back and
    /// the primary goes on.
    ///
    /// - Parameters:
    ///   - member: the target; nil: the member that would be elected.
    ///   - timeout: the time limit for the election of the target; its promotion comes after that. 10 ms to 1 h;
    ///     default 30 s.
    ///   - actor: the operator's name, for the event. 1 to 128 bytes; nil: the client's owner.
    ///   - reason: the reason, for the event. Up to 512 bytes.
    /// - Returns: the new primary.
    /// - Throws: ``RingfenceError``: `order.refused` with all ``RingfenceError/reasons``; `switchover.aborted`;
    ///   `argument.invalid`; `coordinator.unavailable`. Cancelling the task takes the order back.
    @discardableResult
    public func switchover(
        to member: String? = nil, timeout: Duration = .seconds(30), actor: String? = nil, reason: String = ""
    ) async throws -> PrimaryStatus {
        try await operations.switchover(to: member, timeout: timeout, actor: actor, reason: reason)
    }

    /// Takes the current switchover back: the primary goes on. Does nothing if there is none.
    ///
    /// - Parameters:
    ///   - actor: the operator's name, for the event. 1 to 128 bytes; nil: the client's owner.
    ///   - reason: the reason, for the event. Up to 512 bytes.
    /// - Throws: ``RingfenceError``: `order.refused` for a failover by hand, which cannot be taken back.
    public func abortSwitchover(actor: String? = nil, reason: String = "") async throws {
        try await operations.abortSwitchover(actor: actor, reason: reason)
    }

    /// Gives the role of primary to a member and accepts lost writes. Only a member that is dead or in maintenance is
    /// refused.
    ///
    /// The current primary is told to stop at once. The member is elected when the primary has confirmed that it
    /// stopped, or when its lease, as it was at the time of the order, is over. Writes that the member has not received
    /// are lost.
    ///
    /// - Parameters:
    ///   - member: the new primary.
    ///   - acceptsDataLoss: must be true; it is recorded in the event.
    ///   - actor: the operator's name, for the event. 1 to 128 bytes; nil: the client's owner.
    ///   - reason: the reason, for the event. Up to 512 bytes.
    /// - Returns: the new primary, when it is ready.
    /// - Throws: ``RingfenceError``: `argument.invalid`; `order.refused`; `failover.aborted` when the member was lost
    ///   before it could be elected; `coordinator.unavailable`; `cancelled`: the order stands.
    @discardableResult
    public func failover(
        to member: String, acceptsDataLoss: Bool, actor: String? = nil, reason: String = ""
    ) async throws -> PrimaryStatus {
        try await operations.failover(to: member, acceptsDataLoss: acceptsDataLoss, actor: actor, reason: reason)
    }

    // MARK: Election

    /// Pauses automatic election. Orders are still taken, leases still end, and a primary whose lease is over still
    /// stops. Pausing again sets a new end.
    ///
    /// - Parameters:
    ///   - duration: the length of the pause, which then ends by itself. 1 s to 30 days.
    ///   - actor: the operator's name, for the event. 1 to 128 bytes; nil: the client's owner.
    ///   - reason: the reason, for the event. Up to 512 bytes.
    public func pause(for duration: Duration, actor: String? = nil, reason: String = "") async throws {
        try await operations.pause(for: duration, actor: actor, reason: reason)
    }

    /// Ends a pause. Does nothing if there is none.
    ///
    /// - Parameters:
    ///   - actor: the operator's name, for the event. 1 to 128 bytes; nil: the client's owner.
    ///   - reason: the reason, for the event. Up to 512 bytes.
    public func resume(actor: String? = nil, reason: String = "") async throws {
        try await operations.resume(actor: actor, reason: reason)
    }

    /// Takes a member out of the election, or puts it back. It stays a member, and stays in maintenance when it
    /// restarts. At most 128 of a group are in maintenance at once; those that left do not count when room is needed.
    ///
    /// - Parameters:
    ///   - isOn: whether the member is in maintenance.
    ///   - member: the member's id.
    ///   - actor: the operator's name, for the event. 1 to 128 bytes; nil: the client's owner.
    ///   - reason: the reason, for the event. Up to 512 bytes.
    /// - Throws: ``RingfenceError``: `order.refused` with `primary` for the primary: switch over first; with
    ///   `maintenanceFull`.
    public func setMaintenance(
        _ isOn: Bool, for member: String, actor: String? = nil, reason: String = ""
    ) async throws {
        try await operations.setMaintenance(isOn, for: member, actor: actor, reason: reason)
    }

    /// Acknowledges repeated failovers: the brake is released, and automatic election resumes.
    ///
    /// - Parameters:
    ///   - actor: the operator's name, for the event. 1 to 128 bytes; nil: the client's owner.
    ///   - reason: the reason, for the event. Up to 512 bytes.
    public func acknowledge(actor: String? = nil, reason: String = "") async throws {
        try await operations.acknowledge(actor: actor, reason: reason)
    }

    /// Updates the election settings. Those that are nil stay as they are.
    ///
    /// - Parameters:
    ///   - settings: the settings to change.
    ///   - actor: the operator's name, for the event. 1 to 128 bytes; nil: the client's owner.
    ///   - reason: the reason, for the event. Up to 512 bytes.
    /// - Throws: ``RingfenceError``: `argument.invalid`, naming the setting; `order.refused` for a group that never had
    ///   a member.
    public func update(_ settings: ElectionSettings, actor: String? = nil, reason: String = "") async throws {
        try await operations.update(settings, actor: actor, reason: reason)
    }

    // MARK: Calls

    /// Forces the group's circuit breaker open or closed for all clients, or returns it to automatic. All processes
    /// obey within one round trip; one that cannot reach Redis keeps the last state it heard of.
    ///
    /// The override stays until the next one, across restarts of all processes. It is in ``GroupSnapshot/breaker``; the
    /// actor and the reason are in the event `breaker.forced`. Repeating it changes nothing and makes no event. A Redis
    /// that loses its data loses the override too.
    ///
    /// - Parameters:
    ///   - state: the override.
    ///   - actor: the operator's name, for the event. 1 to 128 bytes; nil: the client's owner.
    ///   - reason: the reason, for the event. 1 to 512 bytes.
    /// - Throws: ``RingfenceError``: `argument.invalid`; `order.refused` for a group that never had a member;
    ///   `coordinator.unavailable`.
    public func overrideBreaker(_ state: BreakerOverride, actor: String? = nil, reason: String) async throws {
        try await operations.overrideBreaker(state, actor: actor, reason: reason)
    }

    // MARK: Removal

    /// Removes the group, which must be empty: its name, the seed and points per weight of its ring, and its settings.
    ///
    /// Its version and epoch are remembered for 30 days and go on if a member joins again, so a resource that knows the
    /// last epoch stays guarded. After that every new group begins above them.
    ///
    /// - Parameters:
    ///   - actor: the operator's name, for the event. 1 to 128 bytes; nil: the client's owner.
    ///   - reason: the reason, for the event. Up to 512 bytes.
    /// - Throws: ``RingfenceError``: `order.refused` while the group has a member, or a former primary may still act
    ///   without Redis.
    public func remove(actor: String? = nil, reason: String = "") async throws {
        try await operations.remove(actor: actor, reason: reason)
    }

    /// Removes a member from the group. A member that is alive learns of it at its next beat (`membership.expired`).
    ///
    /// - Parameters:
    ///   - member: the member's id.
    ///   - session: the session to remove; a member of another session stays. nil: any session.
    ///   - actor: the operator's name, for the event. 1 to 128 bytes; nil: the client's owner.
    ///   - reason: the reason, for the event. Up to 512 bytes.
    /// - Returns: whether it was a member.
    /// - Throws: ``RingfenceError``. It is safe to repeat; it then returns false.
    @discardableResult
    public func removeMember(
        _ member: String, session: String? = nil, actor: String? = nil, reason: String = ""
    ) async throws -> Bool {
        try await operations.removeMember(member, session: session, actor: actor, reason: reason)
    }
}
