// SPDX-License-Identifier: Apache-2.0
//
// The schedule of a check's looks at a resource, and when to believe them.
//
// One answer proves little: a probe is lost, a server is busy for a moment. So it takes `fall` failures in a row to
// call a resource failing and `rise` successes to call it passing. While results and verdict differ the check looks
// every `fastInterval`, so the verdict follows within fall x (fastInterval + timeout) of the first failure. Intervals
// vary by +-10 %, so that a hundred agents started by one command do not query one database at the same instant for
// ever.
package import RingfenceCore

/// How often a check looks, and how many results it takes to change its verdict.
package struct CheckPolicy: Sendable, Hashable {
    package var interval: Nanos
    /// A look that takes longer has failed.
    package var timeout: Nanos
    /// The interval while results differ from the verdict, and until there is a verdict.
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
    /// The position of its data, in the resource's own unit; nil: not told.
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

/// One check. Pure: observations and dice are arguments.
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
    /// The number of looks in a row that saw the opposite of the verdict, or, while that is unknown, the same as the
    /// newest.
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
            // Before the first verdict a different result starts the count anew.
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

    /// Whether the last result differs from the verdict, or there is no verdict yet.
    package var isChanging: Bool { verdict == .unknown || count > 0 }

    /// From the begin of one look to the begin of the next.
    /// - Parameter dice: in 0..<1.
    package func pause(dice: Double) -> Nanos {
        let base = isChanging ? min(policy.fastInterval, policy.interval) : policy.interval
        return max(1, Nanos(Double(base) * (0.9 + 0.2 * dice)))
    }
}
