// SPDX-License-Identifier: Apache-2.0
//
// The primary's work as a scope: it begins when this process is elected and is cancelled when the role ends. The body
// runs in a task of its own, cancelled from the event loop, as with locks: a blocked pool must not keep a former
// primary at work.
//
// A switchover is the same cancellation, a little earlier: the role is still held while the body ends, and only when it
// has ended the next one is elected. So there is no moment with two, and the gap is what the body takes to stop.

import RingfenceCore

extension Group {
    /// Joins the group, waits until this process is elected primary, and runs `body` as long as it is. Then it leaves.
    ///
    /// When the role ends (no beat got through in time, the process slept, a switchover) the task that runs `body` is
    /// cancelled at once. Redis elects another only after that: when the body has ended, or else when the lease is
    /// over. A body that ignores cancellation runs on, and any process can be paused between a check and its next act:
    /// so hand `epoch.value` to what the primary changes, and let it refuse older ones.
    ///
    /// A process that is always to be ready to take over repeats this call.
    ///
    /// - Parameters:
    ///   - id: the member's id in the group, 1 to 512 bytes of UTF-8 without control or format characters.
    ///   - address: the address at which it can be reached, up to 512 bytes.
    ///   - zone: the failure domain (a rack, a data centre), up to 64 bytes.
    ///   - priority: its preference in elections. -1000 to 1000; higher is preferred.
    ///   - lease: the lease, 200 ms to 1 hour: a primary that dies is replaced one round trip after it has passed.
    ///   - body: the work of the primary.
    /// - Returns: what `body` returned.
    /// - Throws: the body's own error, unchanged; or ``RingfenceError``: `primary.lost` (effect `unknown`: the body may
    ///   have done a part of its work), `membership.…`, `coordinator.unavailable`, `argument.invalid`, `cancelled`.
    public func withPrimary<Result: Sendable>(
        as id: String, address: String = "", zone: String = "", priority: Int = 0, lease: Duration = .seconds(3),
        _ body: @Sendable @escaping (Epoch) async throws -> Result
    ) async throws -> Result {
        let membership = try await join(id, address: address, zone: zone, priority: priority, lease: lease)
        do {
            let result = try await membership.withPrimary(body)
            try? await membership.leave()
            return result
        } catch {
            try? await membership.leave()
            throw error
        }
    }
}

extension Membership {
    /// Stands for election, waits until it is elected primary, and runs `body` as long as it is; then it stops
    /// standing, and stays a member. Everything else is as with
    /// ``Group/withPrimary(as:address:zone:priority:lease:_:)``.
    ///
    /// - Throws: the body's own error, unchanged; or ``RingfenceError``: `primary.lost`, `candidacy.exists`,
    ///   `membership.…`, `coordinator.unavailable`, `cancelled`.
    public func withPrimary<Result: Sendable>(
        _ body: @Sendable @escaping (Epoch) async throws -> Result
    ) async throws -> Result {
        let candidacy = try await campaign()
        do {
            let result = try await run(body, candidacy)
            try? await candidacy.withdraw()
            return result
        } catch {
            try? await candidacy.withdraw()
            throw error
        }
    }

    private func run<Result: Sendable>(
        _ body: @Sendable @escaping (Epoch) async throws -> Result, _ candidacy: Candidacy
    ) async throws -> Result {
        for await role in candidacy.roles {
            guard case .elected(let epoch) = role else { continue }
            // Over already, before anything was done: another may be elected, or this one again.
            guard let outcome = await run(body, epoch, candidacy) else { continue }
            return try outcome.get()
        }
        guard !Task.isCancelled else {
            throw RingfenceError(.cancelled, effect: .none, "the task was cancelled before it was elected primary")
        }
        try check()
        throw RingfenceError.shutDown
    }

    private func run<Result: Sendable>(
        _ body: @Sendable @escaping (Epoch) async throws -> Result, _ epoch: Epoch, _ candidacy: Candidacy
    ) async -> Swift.Result<Result, any Error>? {
        let term = PrimaryTerm(epoch: epoch.value)
        guard begin(term) else { return nil }
        defer {
            endTerm()
            term.over()
        }
        guard candidacy.ready(epoch) else { return nil }
        let roles = candidacy.roles
        let task = Task { () -> (Swift.Result<Result, any Error>, isHeld: Bool) in
            guard epoch.isHeld else { return (.failure(CancellationError()), false) }
            let result: Swift.Result<Result, any Error>
            do {
                result = .success(try await PrimaryTerm.$current.withValue(term) { try await body(epoch) })
            } catch { result = .failure(error) }
            // Read here, where the body has just ended: later the deadline may pass, and nothing would be wrong.
            return (result, epoch.isHeld)
        }
        term.onCancel { task.cancel() }
        // The role may have ended before there was anything to cancel.
        if !epoch.isHeld { task.cancel() }
        let (result, isHeld) = await withTaskCancellationHandler {
            await task.value
        } onCancel: {
            task.cancel()
        }
        var end: RoleEnd?
        if candidacy.readyToHandOver(epoch) {
            waiting: for await role in roles {
                switch role {
                case .ended(let ended, let reason) where ended == epoch:
                    end = reason
                    break waiting
                case .primary where candidacy.role.epoch == epoch && !isHandingOver(candidacy.role):
                    // Taken back; but the body has ended.
                    candidacy.giveUp(epoch)
                default: break
                }
            }
        } else if !candidacy.stopped(epoch), isHeld {
            candidacy.giveUp(epoch)
        }
        if case .failure(let error) = result {
            // The body's own error, unless it only says what the end of the role brought about.
            let isOwn = !(error is CancellationError) && (error as? RingfenceError)?.code != .primaryLost
            if isOwn || (isHeld && end == nil && Task.isCancelled) { return result }
            return .failure(RingfenceError.primaryLost(epoch, effect: .unknown, end))
        }
        return isHeld ? result : .failure(RingfenceError.primaryLost(epoch, effect: .unknown, end))
    }

    private func isHandingOver(_ role: Role) -> Bool { if case .handingOver = role { true } else { false } }
}
