// SPDX-License-Identifier: Apache-2.0
//
// When to look at a resource, and when to believe what was seen.
//
// One answer proves little: a probe is lost, a server is busy for a moment. So it takes `fall` failures in a row to
// call a resource failing and `rise` successes to call it passing. While what is seen and what is believed differ it is
// looked at every `fastInterval`, so belief follows within fall x (fastInterval + timeout) of the first failure. Looks
// are spread by +-10 %, lest a hundred agents that were started by one command ask one database at the same instant for
// ever after.
package import RingfenceCore

/// How often a check looks and what it takes to change its mind.
package struct CheckPolicy: Sendable, Hashable {
    package var interval: Nanos
    /// A look that takes longer has failed.
    package var timeout: Nanos
    /// Between looks while what is seen differs from what is believed, and until anything is believed.
    package var fastInterval: Nanos
    /// Failures in a row that make it failing.
    package var fall: Int
    /// Successes in a row that make it passing.
    package var rise: Int

    package init(
        interval: Nanos = .second, timeout: Nanos = 500 * .millisecond, fastInterval: Nanos = 200 * .millisecond,
        fall: Int = 3, rise: Int = 2
    ) {
        self.interval = interval
        self.timeout = timeout
        self.fastInterval = fastInterval
        self.fall = fall
        self.rise = rise
    }
}

/// What the resource says it is.
package enum ResourceRole: String, Sendable, Hashable {
    case primary, standby
}

/// What one look at a resource saw.
package struct Observation: Sendable, Hashable {
    /// Why it failed; nil: it passed.
    package var failure: String?
    /// nil: it did not say.
    package var role: ResourceRole?
    /// How far its data goes, in whatever the resource counts; nil: it did not say.
    package var position: Int64?
    /// What else it said, for people: the health endpoint shows it.
    package var detail: [String: String]

    package init(
        failure: String? = nil, role: ResourceRole? = nil, position: Int64? = nil, detail: [String: String] = [:]
    ) {
        self.failure = failure
        self.role = role
        self.position = position
        self.detail = detail
    }
}

/// One check's mind. Pure: observations and dice are arguments.
package struct CheckMachine: Sendable {
    /// What is believed.
    package enum Verdict: String, Sendable, Hashable {
        /// Too little was seen yet.
        case unknown
        case passing, failing
    }

    package let policy: CheckPolicy
    package private(set) var verdict = Verdict.unknown
    /// Why the newest failed look failed; empty once the check passes.
    package private(set) var why = ""
    /// Looks in a row that saw the opposite of the verdict, or, while that is unknown, the same as the newest.
    private var count = 0
    private var isNewestPassed = false

    package init(_ policy: CheckPolicy) { self.policy = policy }

    /// Takes what a look saw.
    /// - Returns: whether the verdict changed.
    package mutating func saw(_ observation: Observation) -> Bool {
        let passed = observation.failure == nil
        if let failure = observation.failure { why = failure }
        let agrees = verdict == (passed ? .passing : .failing)
        if agrees {
            count = 0
            if passed { why = "" }
        } else {
            // Before the first verdict a change of mind starts the count anew.
            count = verdict == .unknown && isNewestPassed != passed ? 1 : count + 1
        }
        isNewestPassed = passed
        guard !agrees, count >= (passed ? policy.rise : policy.fall) else { return false }
        verdict = passed ? .passing : .failing
        count = 0
        if passed { why = "" }
        return true
    }

    /// One look was proof: it was asked for, after a promotion.
    /// - Returns: whether the verdict changed.
    package mutating func believe() -> Bool {
        defer { (verdict, why, count) = (.passing, "", 0) }
        return verdict != .passing
    }

    /// Whether what was seen last differs from what is believed, or nothing is believed yet.
    package var isChanging: Bool { verdict == .unknown || count > 0 }

    /// From the begin of one look to the begin of the next.
    /// - Parameter dice: in 0..<1.
    package func pause(dice: Double) -> Nanos {
        let base = isChanging ? min(policy.fastInterval, policy.interval) : policy.interval
        return max(1, Nanos(Double(base) * (0.9 + 0.2 * dice)))
    }
}
