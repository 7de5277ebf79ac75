// SPDX-License-Identifier: Apache-2.0
//
// The library's clock: `ContinuousClock`, which goes on while the machine sleeps and never steps, as nanoseconds since
// the process first asked. Integers, because the machines compare times on the hot path.

import RingfenceCore

enum Moment {
    private static let origin = ContinuousClock.now

    static var now: Nanos { Nanos(saturating: origin.duration(to: .now)) }

    static func instant(_ moment: Nanos) -> ContinuousClock.Instant { origin.advanced(by: .nanoseconds(moment)) }
}
