// SPDX-License-Identifier: Apache-2.0
//
// The library's clock: `ContinuousClock`, which goes on while the machine sleeps and never steps, as nanoseconds since
// the process first asked. Integers, because the machines compare times on the hot path; and on Linux read from the
// kernel as `ContinuousClock` itself does (CLOCK_BOOTTIME), without its 128-bit durations, which cost more than the
// reading.

package import RingfenceCore
import RingfencePlatform

package enum Moment {
    /// The same moment on both clocks; the instant is taken first, so that an instant made of nanoseconds is never
    /// late.
    private static let origin = (instant: ContinuousClock.now, reading: reading())

    package static var now: Nanos { reading() - origin.reading }

    static func instant(_ moment: Nanos) -> ContinuousClock.Instant {
        origin.instant.advanced(by: .nanoseconds(moment))
    }

    /// The wall clock, which may step: only for what others compare, never for how long something took.
    package static var wallMilliseconds: Int64 {
        #if canImport(Glibc) || canImport(Musl)
            var time = timespec()
            clock_gettime(CLOCK_REALTIME, &time)
            return Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
        #else
            var time = timeval()
            gettimeofday(&time, nil)
            return Int64(time.tv_sec) * 1000 + Int64(time.tv_usec) / 1000
        #endif
    }

    private static func reading() -> Nanos {
        #if canImport(Glibc) || canImport(Musl)
            var time = timespec()
            clock_gettime(CLOCK_BOOTTIME, &time)
            return Nanos(time.tv_sec) * .second + Nanos(time.tv_nsec)
        #else
            return Nanos(saturating: start.duration(to: .now))
        #endif
    }

    #if !(canImport(Glibc) || canImport(Musl))
        private static let start = ContinuousClock.now
    #endif
}
