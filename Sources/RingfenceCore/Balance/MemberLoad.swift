// SPDX-License-Identifier: Apache-2.0
//
// The load of one member from one process: how many calls have not ended, and what a call costs.
//
// The cost is a peak-sensitive moving average: a slower call raises it at once, faster ones lower it as the old peak
// decays. It decays while nobody calls, too, so a member that was slow once is tried again. A call that failed says
// little by being quick: a member that refuses everything at once would draw all calls to itself. So a failure may
// raise the cost, never lower it.
//
// Picks of all threads read this and calls write it, so it lies on cache lines of its own: what a call writes must not
// slow down a pick that looks at another member.

import RingfencePlatform
import Synchronization

package final class MemberLoad: Sendable {
    private typealias Line = (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64)
    private let before: Line = (0, 0, 0, 0, 0, 0, 0, 0)
    private let calls = Atomic<Int>(0)
    private let costBits = Atomic<UInt64>(0)
    private let costAt = Atomic<Nanos>(0)
    private let after: Line = (0, 0, 0, 0, 0, 0, 0, 0)

    package init() {}

    /// Calls that have begun and not ended.
    @inline(__always)
    package var outstanding: Int { calls.load(ordering: .relaxed) }

    @inline(__always)
    package func begin() { calls.wrappingAdd(1, ordering: .relaxed) }

    @inline(__always)
    package func end() { calls.wrappingSubtract(1, ordering: .relaxed) }

    /// In seconds; 0: nobody knows. The two halves are read one after the other: between them another call may have
    /// ended, and then a cost is a little too old or too new.
    package func cost(now: Nanos, decay: Nanos) -> Double {
        let cost = Double(bitPattern: costBits.load(ordering: .relaxed))
        return cost == 0 ? 0 : cost * Self.rest(now - costAt.load(ordering: .relaxed), decay)
    }

    /// Records how long a call took. One caller at a time.
    package func learn(_ latency: Nanos, mayFall: Bool, now: Nanos, decay: Nanos) {
        let sample = max(1e-9, Double(latency) / 1e9)
        let cost = Double(bitPattern: costBits.load(ordering: .relaxed))
        let rest = Self.rest(now - costAt.load(ordering: .relaxed), decay)
        if sample >= cost * rest {
            set(sample, now: now)
        } else if mayFall {
            set(cost * rest + sample * (1 - rest), now: now)
        }
    }

    /// Until there is a measurement, or a new one. One caller at a time.
    package func assume(_ cost: Double, now: Nanos) { set(cost, now: now) }

    private func set(_ cost: Double, now: Nanos) {
        costBits.store(cost.bitPattern, ordering: .relaxed)
        costAt.store(now, ordering: .relaxed)
    }

    /// What is left of 1 after `elapsed`.
    private static func rest(_ elapsed: Nanos, _ decay: Nanos) -> Double {
        elapsed <= 0 ? 1 : exp(-Double(elapsed) / Double(decay))
    }
}
