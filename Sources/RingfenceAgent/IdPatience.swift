// SPDX-License-Identifier: Apache-2.0
package import Ringfence

/// How long an agent waits for an id that another has. A machine that comes back at another address finds its own old
/// lease, which ends; a member that still has the id after that lives, and the agent must not fight for it.
package struct IdPatience {
    private static let longestPause: Duration = .seconds(8)
    private var pause: Duration = .milliseconds(250)
    private var end: ContinuousClock.Instant?

    package init() {}

    /// The pause before the next attempt, each twice as long as the one before; nil: the other lives.
    package mutating func pause(_ error: RingfenceError, now: ContinuousClock.Instant = .now) -> Duration? {
        let left = Duration.milliseconds(error.retryAfterMilliseconds ?? 0)
        if end == nil { end = now + left + .seconds(1) }
        guard let end, now < end else { return nil }
        defer { pause = min(pause * 2, Self.longestPause) }
        return max(.milliseconds(10), min(pause, now.duration(to: end)))
    }
}
