// SPDX-License-Identifier: Apache-2.0
//
// What the machine makes of the checks, and what it tells of itself.
package import RingfenceCore

extension AgentMachine {
    /// Whether it is ready to hand over and was not suspended for anything since.
    var isReadyToHandOver: Bool { if case .readyToHandOver = resource { true } else { false } }
    var isWell: Bool { checks.allSatisfy { $0.verdict == .passing } }
    var isNewestFailed: Bool { seen.contains { $0?.observation.failure != nil } }

    /// Whether a look since the last hook that changed the resource says that it is primary.
    var saysPrimary: Bool {
        seen.contains { seen in
            guard let seen, seen.begun >= resourceSince else { return false }
            return seen.observation.failure == nil && seen.observation.role == .primary
        }
    }

    /// Whether a check fails, and has failed since the last hook that changed the resource.
    var failsSince: Bool {
        zip(checks, seen).contains { check, seen in
            guard check.verdict == .failing, let seen, seen.begun >= resourceSince else { return false }
            return seen.observation.failure != nil
        }
    }

    /// Whether every check has looked since, and none objects to this being the primary.
    func agrees(since: Nanos) -> Bool {
        seen.allSatisfy { seen in
            guard let seen, seen.begun >= since else { return false }
            return seen.observation.failure == nil && seen.observation.role != .standby
        }
    }

    var disagreement: String {
        for (index, entry) in seen.enumerated() {
            guard let observation = entry?.observation else { return "\(policy.checks[index].name) says nothing" }
            if let failure = observation.failure { return "\(policy.checks[index].name): \(failure)" }
            if observation.role == .standby { return "\(policy.checks[index].name) says it is a standby" }
        }
        return "not every check has looked since"
    }

    /// The first check that fails.
    var failing: String? {
        for (index, check) in checks.enumerated() where check.verdict == .failing {
            return "\(policy.checks[index].name): \(check.why)"
        }
        return nil
    }

    var unhealthy: String? {
        if let failing { return failing }
        for (index, count) in mismatches.enumerated() where count >= checks[index].policy.fall {
            return "\(policy.checks[index].name) says it is a standby"
        }
        return nil
    }

    func unfit(_ now: Nanos) -> String {
        if isStopping { return "the agent is stopping" }
        if mustSuspend != nil, failures[.onSuspend] != nil { return "onSuspend failed" }
        if now < unfitUntil { return unfitWhy }
        if running?.kind == .onDemote, isNewestFailed { return "onDemote is running" }
        if isDownByUs { return "" }
        if let failing { return failing }
        return unchecked
    }

    /// Why the health of the resource is not known yet; empty: it is known.
    private var unchecked: String { checks.contains { $0.verdict == .unknown } ? "not checked yet" : "" }

    /// Why the resource should not be used; empty: it is healthy. A resource that the agent itself stopped is not
    /// unhealthy: it may be elected again. One that was not looked at yet is not healthy: it may not even run yet.
    package var health: String { isDownByUs ? "" : failing ?? unchecked }

    mutating func report(_ outputs: inout [AgentOutput], _ now: Nanos) {
        let unfit = unfit(now)
        if reported == nil || reported! != (toldPosition, unfit) {
            reported = (toldPosition, unfit)
            outputs.append(.report(position: toldPosition, unfit: unfit))
        }
        let health = health
        if health != reportedHealth {
            reportedHealth = health
            outputs.append(.health(health))
        }
    }

    /// The current state.
    package func status(now: Nanos) -> AgentStatus {
        var status = AgentStatus()
        status.role = role
        if case .primary = role {
            // From the moment at which it is told to take no more writes, not only from when it has done so.
            status.isServingPrimary =
                isPromoted && verifying == nil && releasing == nil && mustSuspend == nil && running?.kind != .onSuspend
        }
        switch resource {
        case .untouched, .following: status.isStandby = role.held == nil && mustSuspend == nil
        case .writable, .readyToHandOver, .suspended: break
        }
        let verdicts = checks.map(\.verdict)
        status.verdict =
            verdicts.contains(.failing) ? .failing : verdicts.contains(.unknown) ? .unknown : .passing
        status.why = failing ?? ""
        let passed = seen.lazy.compactMap { $0?.observation }.filter { $0.failure == nil }
        status.resourceRole = passed.compactMap(\.role).first
        status.position = toldPosition
        status.unfit = unfit(now)
        status.hook = running?.kind
        for observation in passed { status.detail.merge(observation.detail) { first, _ in first } }
        return status
    }
}
