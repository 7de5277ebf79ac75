// SPDX-License-Identifier: Apache-2.0
//
// A member that has just come has cold caches and no calls, so to every rule that looks at loads it seems the best of
// all: it would get everything at once and fall over. So its share grows from a tenth to all of it over a while. A
// member that comes back after an ejection, a failed check or a drain is treated as new.

package struct SlowStart: Sendable {
    /// How often the shares of those that grow are looked at again.
    package static let step = 200 * Nanos.millisecond
    /// With less than this a member would never be measured.
    package static let least = 0.1

    package let length: Nanos

    package init(length: Nanos) { self.length = length }

    /// The part of its share that a member has that came at `since`; nil: it was here before.
    package func ramp(since: Nanos?, now: Nanos) -> Double {
        guard let since, length > 0 else { return 1 }
        return min(1, max(Self.least, Double(now - since) / Double(length)))
    }

    package func isOver(since: Nanos, now: Nanos) -> Bool { now - since >= length }

    /// When to look at it again.
    package func wakeAt(since: Nanos, now: Nanos) -> Nanos { min(now + Self.step, since.adding(length)) }
}
