// SPDX-License-Identifier: Apache-2.0
//
// The machine's next step: what should be, what runs, and what follows from the end of a hook.
import RingfenceCore

extension AgentMachine {
    /// The role that is held and was not given up.
    var held: Int64? { role.held.flatMap { $0 == gaveUp ? nil : $0 } }

    /// The resource was made primary under the role that is held.
    var isPromoted: Bool {
        guard let held, promoted == held else { return false }
        return resource == .writable(held)
    }

    /// The group's settings keep its primary from writing until there are more standbys.
    var suspendsWrites: Bool {
        guard let primary, primary.suspendsWrites else { return false }
        return primary.member == policy.member && primary.epoch == held
    }

    mutating func ended(_ reason: String) {
        releasing = nil
        verifying = nil
        (prePassed, promoted) = (0, 0)
        if case .writable = resource, mustSuspend == nil { suspend(reason) }
    }

    mutating func suspend(_ reason: String) {
        mustSuspend = reason
        if case .writable(let epoch) = resource { suspendedEpoch = epoch }
        failures[.onSuspend] = nil
        retryAt[.onSuspend] = nil
    }

    /// Gives the role up: at once if nothing was done to the resource under it, else after onSuspend.
    mutating func release(_ epoch: Int64, _ reason: String, _ outputs: inout [AgentOutput], _ now: Nanos) {
        verifying = nil
        if case .writable = resource {
            releasing = reason
            suspend(reason)
        } else {
            giveUp(epoch, reason, &outputs, now)
        }
    }

    mutating func giveUp(_ epoch: Int64, _ reason: String, _ outputs: inout [AgentOutput], _ now: Nanos) {
        releasing = nil
        gaveUp = epoch
        (prePassed, promoted, handover) = (0, 0, nil)
        // First the current health: the beat that gives the role up may cause an election.
        report(&outputs, now)
        outputs.append(.giveUp(epoch, reason: reason))
    }

    /// Steps until nothing is left to do now.
    mutating func settle(_ now: Nanos) -> [AgentOutput] {
        var outputs: [AgentOutput] = []
        for (kind, time) in retryAt where time <= now { retryAt[kind] = nil }
        if unfitUntil <= now { unfitUntil = .min }
        // Bounded, because a hook that is not configured ends at once: five steps at most.
        for _ in 0..<16 where step(now, &outputs) {}
        report(&outputs, now)
        return outputs
    }

    /// - Returns: whether there may be more to do.
    mutating func step(_ now: Nanos, _ outputs: inout [AgentOutput]) -> Bool {
        guard !isFinished else { return false }
        if judge(now, &outputs) { return true }
        let wanted = wanted(now)
        if let running {
            if !isKilling, isObsolete(running, wanted) {
                isKilling = true
                outputs.append(.kill(running.id))
            }
            return false
        }
        guard let wanted else {
            guard isStopping, mustSuspend == nil || failures[.onSuspend] != nil else { return false }
            isFinished = true
            outputs.append(.finished)
            return false
        }
        return begin(wanted, now, &outputs)
    }

    /// Decides what follows from the checks, without a hook.
    mutating func judge(_ now: Nanos, _ outputs: inout [AgentOutput]) -> Bool {
        guard let epoch = held, releasing == nil else { return false }
        if isStopping {
            release(epoch, "left", &outputs, now)
            return true
        }
        switch role {
        case .elected where cannotBePromoted:
            reject("it cannot be promoted now", hasFailed: false, now)
            release(epoch, "refused", &outputs, now)
            return true
        case .elected, .primary:
            guard isPromoted else { return false }
            if let verifying {
                if agrees(since: verifying.since) {
                    self.verifying = nil
                    isDownByUs = false
                    // Otherwise it would be unhealthy at once, by looks while it was suspended.
                    for check in checks.indices where checks[check].believe() {
                        outputs.append(.verdict(check: check, isPassing: true, why: ""))
                    }
                } else if verifying.until <= now {
                    reject("promoted, but \(disagreement)", now)
                    release(epoch, "promotionFailed", &outputs, now)
                    return true
                } else {
                    return false
                }
            }
            if case .elected = role, saidReady != epoch {
                saidReady = epoch
                rejections = 0
                outputs.append(.ready(epoch))
            }
            guard policy.releasesWhenUnhealthy, case .primary = role, let why = unhealthy else { return false }
            unfitWhy = why
            release(epoch, "unhealthy", &outputs, now)
            return true
        case .handingOver: return settleHandover(epoch, &outputs)
        case .standby, .ended: return false
        }
    }

    /// Whether an earlier role's onSuspend fails, or a rebuild is under way: another member should be elected.
    var cannotBePromoted: Bool {
        if mustSuspend != nil, failures[.onSuspend, default: 0] > 1 { return true }
        return running?.kind == .onDemote && !isKilling && isNewestFailed
    }

    mutating func settleHandover(_ epoch: Int64, _ outputs: inout [AgentOutput]) -> Bool {
        guard let handover, handover.epoch == epoch, saidReadyToHandOver != epoch else { return false }
        var position = handover.position
        if position == nil, toldPosition != nil {
            position =
                seen.lazy.compactMap { $0 }
                .first { $0.begun >= handover.at && $0.observation.failure == nil && $0.observation.position != nil }?
                .observation.position
            // The final position decides when the other may take over, so there is no going on without it.
            guard position != nil else { return false }
        }
        saidReadyToHandOver = epoch
        outputs.append(.readyToHandOver(epoch, position: position))
        return false
    }

    /// The hook that should run now.
    func wanted(_ now: Nanos) -> HookCall? {
        if let reason = mustSuspend {
            // An onSuspend that fails is tried again and again, but a demotion may do its work too.
            let mayDemoteInstead = failures[.onSuspend] != nil && held == nil && policy.hooks[.onDemote] != nil
            if mayDemoteInstead, retryAt[.onSuspend] != nil, let call = following(now) { return call }
            guard retryAt[.onSuspend] == nil else { return nil }
            return call(.onSuspend, suspendedEpoch, reason)
        }
        guard !isStopping else { return nil }
        guard let epoch = held else { return following(now) }
        switch role {
        case .elected:
            guard !isPromoted else { return nil }
            let reason = primary.flatMap { $0.epoch == epoch ? $0.reason : nil } ?? ""
            return call(prePassed == epoch ? .onPromote : .prePromote, epoch, reason)
        case .primary:
            if suspendsWrites {
                guard case .writable = resource, retryAt[.onSuspend] == nil else { return nil }
                return call(.onSuspend, epoch, "standbys")
            }
            return isPromoted ? nil : call(.onPromote, epoch, "resumed")
        case .handingOver:
            let isDone = handover?.epoch == epoch || saidReadyToHandOver == epoch
            return isDone || retryAt[.onHandover] != nil ? nil : call(.onHandover, epoch, "switchover")
        case .standby, .ended: return nil
        }
    }

    /// The demotion that should run now.
    func following(_ now: Nanos) -> HookCall? {
        guard let primary else {
            // Nothing else would start it, and an instance that is down cannot be elected.
            guard let vacantSince, vacantSince + policy.vacancy <= now, failsSince, !isDownByUs, mustSuspend == nil,
                retryAt[.onDemote] == nil
            else { return nil }
            return call(.onDemote, 0, "vacant")
        }
        guard primary.member != policy.member else { return nil }
        if primary.isReady {
            let isFollowing = resource == .following(primary.epoch, primary.member) && mustSuspend == nil
            guard retryAt[.onDemote] == nil, !isFollowing || saysPrimary || failsSince else { return nil }
            return call(.onDemote, primary.epoch, primary.reason)
        }
        // Another is elected, and this one still believes it is primary: no writes until there is a primary to follow.
        switch resource {
        case .untouched, .following:
            return saysPrimary && mustSuspend == nil ? call(.onSuspend, primary.epoch, "notPrimary") : nil
        case .writable, .readyToHandOver, .suspended: return nil
        }
    }

    func call(_ kind: HookKind, _ epoch: Int64, _ reason: String) -> HookCall {
        var call = HookCall(
            id: hookCount + 1, kind: kind, epoch: epoch, reason: reason, primary: primary?.member ?? "",
            primaryAddress: primary?.address ?? "", previous: lastReign.member,
            previousEpoch: lastReign.epoch, limit: policy.hooks[kind] ?? 0)
        if kind == .prePromote || kind == .onPromote {
            (call.primary, call.primaryAddress) = (policy.member, "")
        } else if primary?.member == policy.member {
            (call.primary, call.primaryAddress) = ("", "")
        }
        return call
    }

    func isObsolete(_ running: HookCall, _ wanted: HookCall?) -> Bool {
        if wanted?.kind == running.kind, wanted?.epoch == running.epoch { return false }
        switch running.kind {
        case .onSuspend: return false
        // An onSuspend that failed and is due again does not end a hook that may do its work.
        case .onDemote: return wanted?.kind == .prePromote || wanted?.kind == .onPromote
        case .prePromote, .onPromote, .onHandover: return true
        }
    }

    mutating func begin(_ wanted: HookCall, _ now: Nanos, _ outputs: inout [AgentOutput]) -> Bool {
        var call = wanted
        switch call.kind {
        case .onPromote:
            resource = .writable(call.epoch)
            resourceSince = now
            (promoted, verifying) = (0, nil)
        case .onHandover:
            isDownByUs = isWell
            promoted = 0
            if case .handingOver(_, let until) = role { call.limit = min(call.limit, max(1, until - now)) }
        case .onSuspend:
            // Or the resource was down and stays so: its promotion failed.
            if !isReadyToHandOver { isDownByUs = isWell || isDownByUs }
            // Within the time between the role's end and the lease's.
            if releasing == nil, failures[.onSuspend] == nil { call.limit = min(call.limit, policy.suspendBudget) }
        case .onDemote: isDownByUs = false
        case .prePromote: break
        }
        // Without onHandover the suspension is the handover.
        let isThere = policy.hooks[call.kind] != nil
        if call.kind == .onHandover, !isThere, let limit = policy.hooks[.onSuspend] {
            call.kind = .onSuspend
            call.limit = min(limit, wanted.limit == 0 ? limit : wanted.limit)
        } else if !isThere {
            outputs += ended(call.kind, call.epoch, call.reason, .passed(position: nil), now: now)
            return true
        }
        hookCount += 1
        running = call
        outputs.append(.run(call))
        return false
    }

    /// A hook ended, or would have if there were one.
    mutating func ended(
        _ kind: HookKind, _ epoch: Int64, _ reason: String, _ outcome: HookOutcome, now: Nanos
    ) -> [AgentOutput] {
        var outputs: [AgentOutput] = []
        switch outcome {
        case .passed(let position):
            failures[kind] = nil
            retryAt[kind] = nil
            passed(kind, epoch, position, &outputs, now)
        case .failed(let why):
            let count = failures[kind, default: 0] + 1
            failures[kind] = count
            failed(kind, epoch, count, why, &outputs, now)
        }
        if kind == .onSuspend, releasing != nil, let held { giveUp(held, releasing ?? reason, &outputs, now) }
        return outputs
    }

    mutating func passed(
        _ kind: HookKind, _ epoch: Int64, _ position: Int64?, _ outputs: inout [AgentOutput], _ now: Nanos
    ) {
        switch kind {
        case .prePromote: prePassed = epoch
        case .onPromote:
            guard held == epoch, resource == .writable(epoch) else { return }
            promoted = epoch
            for check in mismatches.indices { mismatches[check] = 0 }
            if !checks.isEmpty {
                verifying = (now, now + policy.agreement)
                outputs.append(.look)
            }
        case .onHandover: readyToHandOver(epoch, position, &outputs, now)
        case .onSuspend:
            if case .handingOver(epoch, _) = role, mustSuspend == nil {
                readyToHandOver(epoch, position, &outputs, now)
            } else {
                let isSuspension = mustSuspend != nil
                mustSuspend = nil
                if !isReadyToHandOver { (resource, resourceSince) = (.suspended, now) }
                // Without onSuspend nothing has stopped, if a promotion was begun.
                let isSo = policy.hooks[.onSuspend] != nil || policy.hooks[.onPromote] == nil
                if isSuspension, isSo, role.held != suspendedEpoch { outputs.append(.stopped(suspendedEpoch)) }
            }
        case .onDemote:
            let member: String
            switch primary {
            case nil where epoch == 0: member = ""
            case .some(let primary) where primary.isReady && primary.epoch == epoch: member = primary.member
            default: return
            }
            // If it still says that it is primary, or stays down, it is not tried in a tight loop.
            if resource == .following(epoch, member) || failing != nil {
                strikes += 1
                retry(.onDemote, strikes, now)
            }
            if policy.hooks[.onDemote] != nil, mustSuspend != nil {
                mustSuspend = nil
                outputs.append(.stopped(suspendedEpoch))
            }
            (resource, resourceSince) = (.following(epoch, member), now)
            outputs.append(.look)
        }
    }

    mutating func readyToHandOver(
        _ epoch: Int64, _ position: Int64?, _ outputs: inout [AgentOutput], _ now: Nanos
    ) {
        guard case .handingOver(epoch, _) = role else { return }
        (resource, resourceSince) = (.readyToHandOver(epoch), now)
        handover = Handover(epoch: epoch, at: now, position: position)
        if position == nil, toldPosition != nil { outputs.append(.look) }
    }

    mutating func failed(
        _ kind: HookKind, _ epoch: Int64, _ count: Int, _ why: String, _ outputs: inout [AgentOutput], _ now: Nanos
    ) {
        switch kind {
        case .prePromote:
            guard held == epoch else { return }
            reject("prePromote refused: \(why)", hasFailed: false, now)
            release(epoch, "refused", &outputs, now)
        case .onPromote:
            guard held == epoch else { return }
            reject("onPromote failed: \(why)", now)
            release(epoch, "promotionFailed", &outputs, now)
        case .onHandover: retry(kind, 1, now)
        case .onSuspend:
            if case .handingOver(epoch, _) = role, mustSuspend == nil {
                retry(.onHandover, 1, now)
            } else if count > 1 {
                retry(kind, count - 1, now)
            }
        case .onDemote: retry(kind, count, now)
        }
    }

    /// One second, doubling to eight.
    mutating func retry(_ kind: HookKind, _ count: Int, _ now: Nanos) {
        retryAt[kind] = now + (1 << min(max(0, count - 1), 3)) * .second
    }

    /// Not elected again for ten seconds; after failed promotions doubling to five minutes.
    mutating func reject(_ why: String, hasFailed: Bool = true, _ now: Nanos) {
        unfitUntil = now + (hasFailed ? min(300, 10 << min(rejections, 5)) : 10) * .second
        unfitWhy = why
        if hasFailed { rejections += 1 }
    }
}
