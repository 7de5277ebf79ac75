// SPDX-License-Identifier: Apache-2.0
//
// Times are nanoseconds in `Int64` (292 years): the machines of this target are called on the hot path, where
// `Duration`'s 128-bit arithmetic is felt.

/// Nanoseconds: a duration, or a moment of the caller's monotonic clock.
package typealias Nanos = Int64

extension Nanos {
    package static let millisecond: Nanos = 1_000_000
    package static let second: Nanos = 1_000_000_000
    package static let never = Nanos.max

    /// The duration in nanoseconds, at the ends of the range if it does not fit.
    package init(saturating duration: Duration) {
        let (seconds, attoseconds) = duration.components
        let (whole, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        let (sum, overflow2) = whole.addingReportingOverflow(attoseconds / 1_000_000_000)
        self = overflow || overflow2 ? (seconds < 0 ? .min : .max) : sum
    }

    /// `self + other`, at the end of the range if it does not fit.
    package func adding(_ other: Nanos) -> Nanos {
        let (sum, overflow) = addingReportingOverflow(other)
        return overflow ? .max : sum
    }

    /// `self * factor`, at the ends of the range if it does not fit.
    package func multipliedClamping(by factor: Nanos) -> Nanos {
        let (product, overflow) = multipliedReportingOverflow(by: factor)
        return overflow ? ((self < 0) == (factor < 0) ? .max : .min) : product
    }
}
