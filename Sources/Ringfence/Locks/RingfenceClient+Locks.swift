// SPDX-License-Identifier: Apache-2.0
//
// Locks for callers: the scoped way (`withLock`), the handle (`tryAcquire`, `acquire`), and grants for holders outside
// this process. All three are one acquire with different endings.

import CoreMetrics
import Hiredis
import RingfenceCore

extension RingfenceClient {
    // MARK: The scoped way

    /// Runs `body` while holding the lock `name`, and releases it when the body ends, however it ends.
    ///
    /// The lease is renewed at every third of `ttl`. If it is lost (Redis could not be reached in time, the process
    /// slept, somebody took the lock by force, ``LockOptions/maximumHold`` is over) the task that runs `body` is
    /// cancelled at once, and when the body has ended this call throws `lease.lost`. A body that does not heed
    /// cancellation runs on, and any process can be paused between a check and its next act: so hand `lease.fence` to
    /// the resource that the body changes, and let it refuse older ones.
    ///
    /// Waiters are served first come, first served. Waiting for a lock that the same task holds already by `withLock`
    /// is refused with `lock.wouldDeadlock`.
    ///
    /// Cancelling the calling task ends the wait with `cancelled`, and what was asked of Redis is withdrawn. Once
    /// `body` runs, it is cancelled instead, and this call ends as the body does. `body` runs in a task of its own,
    /// with the caller's priority and task-local values.
    ///
    /// - Parameters:
    ///   - name: 1 to 512 bytes of UTF-8 without control or format characters.
    ///   - ttl: about how long the lock outlives a holder that dies: 100 ms to one day; default 10 s.
    ///   - wait: how long to wait for the lock: 0 to one day; default 10 s. With 0 it asks once.
    ///   - options: owner, renewal, maximum hold and durability.
    ///   - body: the work to do under the lock.
    /// - Returns: what `body` returned.
    /// - Throws: the body's own error, unchanged; or ``RingfenceError``: `lock.busy`; `lease.lost` (effect `unknown`:
    ///   the body may have done its work, or a part of it; `none`: the lease was over before the body began);
    ///   `coordinator.unavailable`, `argument.invalid`, `cancelled` and others, with which `body` was not run. If the
    ///   lease is lost, a `CancellationError`, `cancelled` or `lease.lost` of the body's becomes this `lease.lost`.
    public func withLock<Result: Sendable>(
        _ name: String, ttl: Duration = .seconds(10), wait: Duration = .seconds(10),
        options: LockOptions = LockOptions(),
        _ body: @Sendable @escaping (Lease) async throws -> Result
    ) async throws -> Result {
        try await withLock([name], ttl: ttl, wait: wait, options: options, body)
    }

    /// Runs `body` while holding all of `names` at once, under one fence.
    ///
    /// They are granted all or nothing: nothing is held while waiting, so there is no deadlock in whatever order they
    /// are named. If one of them is taken away, the whole lease is lost. Everything else, errors included, is as with
    /// one name: ``withLock(_:ttl:wait:options:_:)-(String,_,_,_,_)``.
    ///
    /// - Parameters:
    ///   - names: 1 to 64 different names, at most 16,384 bytes together.
    ///   - ttl: about how long the locks outlive a holder that dies: 100 ms to one day; default 10 s.
    ///   - wait: how long to wait for them: 0 to one day; default 10 s. With 0 it asks once.
    ///   - options: owner, renewal, maximum hold and durability.
    ///   - body: the work to do under the locks.
    /// - Returns: what `body` returned.
    public func withLock<Result: Sendable>(
        _ names: [String], ttl: Duration = .seconds(10), wait: Duration = .seconds(10),
        options: LockOptions = LockOptions(), _ body: @Sendable @escaping (Lease) async throws -> Result
    ) async throws -> Result {
        let lease = try await acquire(names, ttl: ttl, wait: wait, options: options)
        return try await hold(lease, body)
    }

    /// Runs `body` while holding the lock `name`, if it is free now, and releases it when the body ends.
    ///
    /// ```swift
    /// let report = try await ringfence.withLockIfFree("payout/nightly", ttl: .seconds(30)) { lease in
    ///     try await payOut(fence: lease.fence)
    /// }
    /// if report == nil { print("another process is at it") }
    /// ```
    ///
    /// Everything else is as with ``withLock(_:ttl:wait:options:_:)-(String,_,_,_,_)``, but that it throws neither
    /// `lock.busy` nor `lock.wouldDeadlock`.
    ///
    /// - Returns: what `body` returned; nil if `body` was not run, because somebody holds the lock or waits for it, or
    ///   another call in this process asks for it or releases it just now.
    public func withLockIfFree<Result: Sendable>(
        _ name: String, ttl: Duration = .seconds(10), options: LockOptions = LockOptions(),
        _ body: @Sendable @escaping (Lease) async throws -> Result
    ) async throws -> Result? {
        try await withLockIfFree([name], ttl: ttl, options: options, body)
    }

    /// Runs `body` while holding all of `names` at once, under one fence, if all are free now; nil if any is not. As
    /// ``withLockIfFree(_:ttl:options:_:)-(String,_,_,_)``; `names` are 1 to 64 different ones, at most 16,384 bytes
    /// together.
    public func withLockIfFree<Result: Sendable>(
        _ names: [String], ttl: Duration = .seconds(10), options: LockOptions = LockOptions(),
        _ body: @Sendable @escaping (Lease) async throws -> Result
    ) async throws -> Result? {
        guard let lease = try await tryAcquire(names, ttl: ttl, options: options) else { return nil }
        return try await hold(lease, body)
    }

    private func hold<Result: Sendable>(
        _ lease: Lease, _ body: @Sendable @escaping (Lease) async throws -> Result
    ) async throws -> Result {
        let state = lease.handle.state
        // The body runs in a task of its own so that the loss of the lease can cancel it from the event loop, while the
        // cooperative pool may be blocked. Cancellation of the caller, priority and task-locals are passed on.
        let task = Task { () -> (Swift.Result<Result, any Error>, RingfenceError?) in
            // The grant may be old: this process may have slept since, or the pool been full.
            if let loss = state.lossError(at: Moment.now, effect: .none) { return (.failure(loss), loss) }
            let result = await CurrentHolds.$stack.withValue(CurrentHolds.adding(state)) {
                do { return Swift.Result<Result, any Error>.success(try await body(lease)) } catch {
                    return .failure(error)
                }
            }
            // Read here, where the body has just ended: later the deadline may pass, and nothing would be wrong.
            return (result, state.lossError(at: Moment.now, effect: .unknown))
        }
        state.onLoss { _ in task.cancel() }
        let (result, noticed) = await withTaskCancellationHandler {
            await task.value
        } onCancel: {
            task.cancel()
        }
        let missed = await lease.handle.giveBack(isLost: noticed != nil)
        guard let loss = noticed ?? missed else {
            metrics.releases.increment()
            metrics.hold.recordNanoseconds(max(0, Moment.now - state.grantedAt))
            return try result.get()
        }
        // The body's own error, unless it only says what the loss brought about.
        if case .failure(let error) = result, !(error is CancellationError),
            (error as? RingfenceError)?.code != .leaseLost, (error as? RingfenceError)?.code != .cancelled
        {
            throw error
        }
        throw loss
    }

    // MARK: The handle

    /// Takes the lock if it is free now; several names all or nothing. Prefer
    /// ``withLockIfFree(_:ttl:options:_:)-(String,_,_,_)``: this is for holds that fit no scope.
    ///
    /// - Warning: Keep the lease in a variable that lives as long as the work. `if try await tryAcquire("x") != nil { …
    ///   }` compiles, and holds nothing inside the braces: the lease was let go with the comparison.
    /// - Parameters:
    ///   - names: 1 to 64 different names, at most 16,384 bytes together.
    ///   - ttl: about how long the lock outlives a holder that dies: 100 ms to one day; default 10 s.
    ///   - options: owner, renewal, maximum hold and durability.
    ///   - fileID: with `line` the place that the log names if the lease is forgotten.
    ///   - line: see `fileID`.
    /// - Returns: the lease. Release it when done; when the last copy of it goes away unreleased, the lock is released,
    ///   and the log warns of it, once for each place in the code. nil if somebody holds the lock or waits for it, or
    ///   another call in this process asks for it or releases it just now.
    /// - Throws: ``RingfenceError``; whatever its effect, the caller holds nothing. A request in doubt is withdrawn in
    ///   the background; until that reaches Redis it may keep the lock from others, at most for its ttl.
    public nonisolated(nonsending) func tryAcquire(
        _ names: String..., ttl: Duration = .seconds(10), options: LockOptions = LockOptions(),
        fileID: StaticString = #fileID, line: UInt = #line
    ) async throws -> Lease? {
        try await tryAcquire(names, ttl: ttl, options: options, fileID: fileID, line: line)
    }

    /// Takes all of `names` at once, under one fence, if all are free now; nil if any is not. Everything
    /// else is as with the names one by one.
    ///
    /// - Throws: ``RingfenceError``; the caller holds nothing.
    public nonisolated(nonsending) func tryAcquire(
        _ names: [String], ttl: Duration = .seconds(10), options: LockOptions = LockOptions(),
        fileID: StaticString = #fileID, line: UInt = #line
    ) async throws -> Lease? {
        let request = try request(names, ttl: ttl, wait: nil, owner: options.owner)
        guard case .granted(let state) = try await outcome(of: request, options) else { return nil }
        return Lease(
            handle: LeaseHandle(state: state, keeper: keeper, table: table, site: .init(file: fileID, line: line)))
    }

    /// Takes the lock, waiting for it up to `wait`, first come, first served; several names all or nothing.
    ///
    /// Cancelling the task ends the wait at once with `cancelled`, and what was asked of Redis is withdrawn.
    ///
    /// - Parameters:
    ///   - names: 1 to 64 different names, at most 16,384 bytes together.
    ///   - ttl: about how long the lock outlives a holder that dies: 100 ms to one day; default 10 s.
    ///   - wait: how long to wait for the lock: 0 to one day; default 10 s. With 0 it asks once.
    ///   - options: owner, renewal, maximum hold and durability.
    ///   - fileID: with `line` the place that the log names if the lease is forgotten.
    ///   - line: see `fileID`.
    /// - Returns: the lease. Release it when done; when the last copy of it goes away unreleased, the lock is released,
    ///   and the log warns of it, once for each place in the code.
    /// - Throws: ``RingfenceError``: `lock.busy` when it was not free in time; `lock.wouldDeadlock` when the same task
    ///   holds it by `withLock`; `limit.reached` when its line is full; `lock.notConfirmed`; `coordinator.unavailable`
    ///   and others. Whatever the effect, the caller holds nothing. A request in doubt is withdrawn in the background;
    ///   until that reaches Redis it may keep the lock from others, at most for its ttl.
    public nonisolated(nonsending) func acquire(
        _ names: String..., ttl: Duration = .seconds(10), wait: Duration = .seconds(10),
        options: LockOptions = LockOptions(), fileID: StaticString = #fileID, line: UInt = #line
    ) async throws -> Lease {
        try await acquire(names, ttl: ttl, wait: wait, options: options, fileID: fileID, line: line)
    }

    /// Takes all of `names` at once, under one fence, waiting for them up to `wait`. Everything else is as with the
    /// names one by one.
    ///
    /// - Throws: ``RingfenceError``; the caller holds nothing.
    public nonisolated(nonsending) func acquire(
        _ names: [String], ttl: Duration = .seconds(10), wait: Duration = .seconds(10),
        options: LockOptions = LockOptions(), fileID: StaticString = #fileID, line: UInt = #line
    ) async throws -> Lease {
        let request = try request(names, ttl: ttl, wait: wait, owner: options.owner)
        if let held = CurrentHolds.heldByThisTask(names) {
            throw RingfenceError(
                .lockWouldDeadlock, effect: .none,
                "this task holds '\(held)' already, so waiting for it would never end; pass the lease down instead")
        }
        switch try await outcome(of: request, options) {
        case .granted(let state):
            let lease = Lease(
                handle: LeaseHandle(state: state, keeper: keeper, table: table, site: .init(file: fileID, line: line)))
            guard Task.isCancelled else { return lease }
            try? await lease.release()
            throw RingfenceError.cancelledWait
        case .busy(let reason): throw RingfenceError.busy(names, reason, waited: wait)
        }
    }

    // MARK: Grants for holders outside this process

    /// Takes the lock for a holder outside this process: nothing renews or releases it here. The holder has its token.
    ///
    /// Each call has a place of its own in the line. Cancelling the task ends the wait with `cancelled`, and what was
    /// asked of Redis is withdrawn.
    ///
    /// - Parameters:
    ///   - names: 1 to 64 different names, at most 16,384 bytes together.
    ///   - owner: the name of the holder, for people: 1 to 128 bytes; nil for the configuration's.
    ///   - ttl: about how long the lock stays held unless it is renewed: 100 ms to one day.
    ///   - wait: how long to wait for the lock: 0 to one day; default 0: it asks once.
    ///   - durability: how far the grant must have got; default ``Durability/primary``. Renewals and the release are
    ///     not confirmed.
    /// - Throws: ``RingfenceError``: `lock.busy` when it was not free in time, `lock.notConfirmed`, and others.
    ///   Whatever the effect, the caller holds nothing; a request in doubt is withdrawn in the background.
    public func acquireGrant(
        _ names: [String], owner: String? = nil, ttl: Duration, wait: Duration = .zero,
        durability: Durability = .primary
    ) async throws -> LockGrant {
        let request = try request(names, ttl: ttl, wait: wait == .zero ? nil : wait, owner: owner)
        try check(durability, of: request)
        if request.giveUpAt != nil { startInbox() }
        let outcome = try await table.acquireRemotely(
            request.names, request.terms, giveUpAt: request.giveUpAt, confirmation: durability.confirmation)
        switch outcome {
        case .granted(let grant):
            guard !Task.isCancelled else {
                table.giveBack(request.names, grant.value, holdMilliseconds: grant.terms.holdMilliseconds)
                throw RingfenceError.cancelledWait
            }
            return LockGrant(names: request.names, grant.value, deadline: grant.terms.deadline(sentAt: grant.sentAt))
        case .busy(let reason): throw RingfenceError.busy(names, reason, waited: wait)
        }
    }

    /// Renews a grant, or a lease held by another process, for `ttl` from now. Redis never shortens a hold by it.
    ///
    /// - Parameters:
    ///   - names: what is locked, in any order.
    ///   - token: from ``LockGrant/token`` or ``Lease/token``, of exactly these names.
    ///   - ttl: 100 ms to one day.
    /// - Returns: the grant with its new deadline.
    /// - Throws: ``RingfenceError``: `lock.notHeld` (effect `none`) when it expired, was released or taken away, in
    ///   part or as a whole, or is of another lock; `argument.invalid`; `coordinator.unavailable` and others. With
    ///   effect `unknown` it may have been renewed; repeating it is harmless.
    public func renew(_ names: [String], token: String, ttl: Duration) async throws -> LockGrant {
        let request = try request(names, ttl: ttl, wait: nil, owner: nil)
        let value = try value(of: token, request.names)
        let (result, sentAt) = await runner.timed(
            scripts.renew([(request.names, value.text, request.terms.holdMilliseconds)]))
        let reply: RedisReply
        do { reply = try result.get() } catch { throw RingfenceError(error, "renewing \(describe(names))") }
        guard let renewed = LockScripts.renewed(reply, count: 1) else { throw RingfenceError.unexpected(reply) }
        guard renewed[0] else { throw RingfenceError.notHeld(names, owner: try? await holder(of: request.names)) }
        return LockGrant(names: request.names, value, deadline: request.terms.deadline(sentAt: sentAt))
    }

    /// Releases a grant, or a lease held by another process, and hands the lock to the first waiter. It is not repeated
    /// in the background.
    ///
    /// - Parameters:
    ///   - names: what is locked, in any order.
    ///   - token: from ``LockGrant/token`` or ``Lease/token``, of exactly these names.
    /// - Throws: ``RingfenceError``: `lock.notHeld` when it expired, was released or is of another lock. Its effect is
    ///   `none`, or `applied` where some of several names had been taken away: then the others were held, and are given
    ///   back. After `coordinator.unavailable` with effect `unknown` it may be repeated: `lock.notHeld` then means that
    ///   the first call did it, or that the hold had expired.
    public func release(_ names: [String], token: String) async throws {
        let request = try request(names, ttl: .seconds(10), wait: nil, owner: nil)
        let value = try value(of: token, request.names)
        let reply = try await runner.run(
            scripts.call(request.names, .release(value, successor: nil)), "releasing \(describe(names))")
        switch LockScripts.answer(reply) {
        case .done: metrics.releases.increment()
        case .busy(_, let owner, let freed): throw RingfenceError.notHeld(names, owner: owner, freed: freed)
        default: throw RingfenceError.unexpected(reply)
        }
    }

    // MARK: The common part

    private struct Request {
        var names: [String]
        var terms: LockTerms
        var giveUpAt: Nanos?
    }

    /// Checks the arguments. Names are put in one order, so that the same set is the same lock here and in Redis.
    private func request(_ names: [String], ttl: Duration, wait: Duration?, owner: String?) throws -> Request {
        do {
            try Limits.check(names: names)
            let ttl = Nanos(saturating: ttl)
            try Limits.check(ttl, "ttl", Limits.ttl)
            if let owner { try Limits.check(owner: owner) }
            var giveUpAt: Nanos?
            if let wait {
                let wait = Nanos(saturating: wait)
                try Limits.check(wait, "wait", Limits.wait)
                giveUpAt = wait == 0 ? nil : Moment.now + wait
            }
            return Request(
                names: names.count == 1 ? names : names.sortedByBytes,
                terms: LockTerms(owner: owner ?? configuration.owner, ttl: ttl), giveUpAt: giveUpAt)
        } catch {
            throw RingfenceError(error)
        }
    }

    private func check(_ durability: Durability, of request: Request) throws {
        do {
            try durability.check(
                longest: min(5000, request.terms.ttl / 3 / .millisecond), "a third of the ttl, and at most 5 s")
        } catch {
            throw RingfenceError(error)
        }
    }

    private nonisolated(nonsending) func outcome(of request: Request, _ options: LockOptions) async throws
        -> LockTable.Outcome<LeaseState>
    {
        let maximumHold = Nanos(saturating: options.maximumHold)
        do { try Limits.check(maximumHold, "maximumHold", Limits.maximumHold) } catch { throw RingfenceError(error) }
        try check(options.durability, of: request)
        // Not only before a wait: a holder that never waited is told at once too when its lock is taken away.
        startInbox()
        return try await table.acquire(
            request.names, request.terms, giveUpAt: request.giveUpAt, confirmation: options.durability.confirmation,
            maximumHold: maximumHold, renews: options.renews)
    }

    private func value(of token: String, _ names: [String]) throws -> LockValue {
        guard token.utf8.count <= 512, let value = LockValue(parsing: token) else {
            throw RingfenceError(
                .argumentInvalid, effect: .none,
                "token is not one that an acquire returned (fence:nonce:owner, up to 512 bytes)")
        }
        guard value.nameCount == names.count else {
            throw RingfenceError(
                .lockNotHeld, effect: .none,
                "the token is of \(value.nameCount) names taken together, not of \(names.count): name exactly those")
        }
        guard value.isOf(names) else {
            throw RingfenceError(
                .lockNotHeld, effect: .none,
                "the token is of other names taken together than \(describe(names)): name exactly those")
        }
        return value
    }

    private func holder(of names: [String]) async throws -> String {
        for name in names {
            if let holder = try await inspect(name).holder { return holder.owner }
        }
        return ""
    }
}
