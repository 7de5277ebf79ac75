// SPDX-License-Identifier: Apache-2.0
//
// The result of asking Redis for the time for some seconds: how long an answer takes, how long there was none, and how
// fast the two clocks run. Pure: the questions are asked elsewhere (Examination.swift).
//
// One probe is under way at a time and the next follows 2 ms later, so whenever Redis, the network or this machine
// stops for longer than that, a probe is late by it: the longest wait for an answer is the worst stall there was.
//
// The server read its clock at some moment between sending and receiving, so a reading can be wrong by half a round
// trip. Offsets are taken from the fastest probes, and a change counts as a step only if it is larger than the errors
// of both readings.

/// One question for the time. All in nanoseconds.
package struct Probe: Sendable, Hashable {
    /// When it was sent and answered, on this machine's monotonic clock.
    package var sentAt: Int64
    package var receivedAt: Int64
    /// This machine's wall clock less its monotonic clock.
    package var wallOffset: Int64
    /// What Redis' clock said.
    package var server: Int64
    /// When it should have been sent: later by what this process was paused.
    package var dueAt: Int64
    /// No answer came in time, or the connection broke before this one: since then Redis has not been heard.
    package var silentSince: Int64?

    package init(
        sentAt: Int64, receivedAt: Int64, wallOffset: Int64, server: Int64, dueAt: Int64? = nil,
        silentSince: Int64? = nil
    ) {
        self.sentAt = sentAt
        self.receivedAt = receivedAt
        self.wallOffset = wallOffset
        self.server = server
        self.dueAt = dueAt ?? sentAt
        self.silentSince = silentSince
    }

    var roundTrip: Int64 { receivedAt - sentAt }
    /// How wrong its reading of the server's clock can be.
    var error: Int64 { roundTrip / 2 }
    private var middle: Int64 { sentAt + error }
    /// The server's clock less this machine's monotonic one.
    var offset: Int64 { server - middle }
    /// The server's clock less this machine's wall clock.
    var skew: Int64 { offset - wallOffset }
}

/// How long answers took.
package struct RoundTrips: Sendable, Hashable {
    package var count: Int
    package var p50: Duration
    package var p99: Duration
    package var p999: Duration
    package var longest: Duration
}

/// How Redis' clock goes beside this machine's.
package struct ClockReading: Sendable, Hashable {
    /// A clock was set.
    package struct Step: Sendable, Hashable {
        package var isServers: Bool
        /// Positive: forward.
        package var by: Duration
    }

    /// Positive: Redis' clock is ahead.
    package var skew: Duration
    package var skewError: Duration
    /// How much faster Redis' clock runs than this machine's monotonic one, in millionths.
    package var driftPPM: Double
    package var driftErrorPPM: Double
    /// The same within about a second of the run, where the two ran apart most surely: NTP corrects a clock for a
    /// while.
    package var fastestPPM: Double = 0
    package var fastestErrorPPM: Double = 0
    package var steps: [Step]
}

/// What was measured.
package struct Measurement: Sendable {
    /// A jump of a clock below this is no step: it may be a reading that was interrupted.
    static let stepTolerance: Int64 = 10_000_000

    package var roundTrips: RoundTrips
    /// The longest time from a question to the next answer, whatever was between.
    package var silence: Duration
    /// The longest time this process was not run when it should have been.
    package var pause: Duration
    /// Questions that were not answered.
    package var failures: Int
    package var clock: ClockReading

    /// - Parameters:
    ///   - probes: those that were answered, in order; at least one.
    ///   - failures: how many were not.
    ///   - silent: how long Redis had not been heard of at the end.
    package init(_ probes: [Probe], failures: Int = 0, silent: Int64 = 0) {
        precondition(!probes.isEmpty, "a measurement without an answer")
        let sorted = probes.map(\.roundTrip).sorted()
        func quantile(_ part: Double) -> Duration {
            .nanoseconds(sorted[min(sorted.count - 1, Int(Double(sorted.count) * part))])
        }
        roundTrips = RoundTrips(
            count: sorted.count, p50: quantile(0.5), p99: quantile(0.99), p999: quantile(0.999),
            longest: .nanoseconds(sorted.last ?? 0))
        silence = .nanoseconds(max(silent, probes.map { $0.receivedAt - ($0.silentSince ?? $0.sentAt) }.max() ?? 0))
        pause = .nanoseconds(max(0, probes.map { $0.sentAt - $0.dueAt }.max() ?? 0))
        self.failures = failures
        clock = ClockReading(probes)
    }
}

extension ClockReading {
    init(_ probes: [Probe]) {
        steps = []
        // Between two steps of the server's clock.
        var stretches: [ArraySlice<Probe>] = []
        var begin = probes.startIndex
        for index in probes.indices.dropFirst() {
            let (before, after) = (probes[index - 1], probes[index])
            let jump = after.offset - before.offset
            if jump.magnitude > before.error + after.error + Measurement.stepTolerance {
                steps.append(Step(isServers: true, by: .nanoseconds(jump)))
                stretches.append(probes[begin..<index])
                begin = index
            }
            let own = after.wallOffset - before.wallOffset
            if own.magnitude > Measurement.stepTolerance {
                steps.append(Step(isServers: false, by: .nanoseconds(own)))
            }
        }
        stretches.append(probes[begin...])
        let newest = Self.best(probes[begin...].suffix(max(1, (probes.count - begin) / 5)))
        skew = .nanoseconds(newest.skew)
        skewError = .nanoseconds(newest.error)
        // The best reading of the beginning and of the end of the longest.
        let longest = stretches.max { Self.length(of: $0) < Self.length(of: $1) } ?? probes[...]
        let fifth = max(1, longest.count / 5)
        let (first, last) = (Self.best(longest.prefix(fifth)), Self.best(longest.suffix(fifth)))
        let elapsed = Double(last.sentAt - first.sentAt)
        guard elapsed > 0 else {
            (driftPPM, driftErrorPPM) = (0, 1e6)
            return
        }
        driftPPM = Double(last.offset - first.offset) / elapsed * 1e6
        driftErrorPPM = Double(first.error + last.error) / elapsed * 1e6
        (fastestPPM, fastestErrorPPM) = (driftPPM, driftErrorPPM)
        for stretch in stretches { look(within: stretch) }
    }

    /// Looks how fast the clocks ran apart from one window to the one a second later, by the best reading of each.
    private mutating func look(within stretch: ArraySlice<Probe>) {
        var windows: [Probe] = []
        var begin = stretch.startIndex
        for index in stretch.indices where stretch[index].sentAt - stretch[begin].sentAt >= Self.window {
            windows.append(Self.best(stretch[begin..<index]))
            begin = index
        }
        for index in windows.indices.dropFirst(Self.windows) {
            let (first, last) = (windows[index - Self.windows], windows[index])
            let elapsed = Double(last.sentAt - first.sentAt)
            let rate = Double(last.offset - first.offset) / elapsed * 1e6
            let error = Double(first.error + last.error) / elapsed * 1e6
            if abs(rate) - error > abs(fastestPPM) - fastestErrorPPM {
                (fastestPPM, fastestErrorPPM) = (rate, error)
            }
        }
    }

    /// Long enough to hold a probe that met no delay; four of them are a second.
    private static let window: Int64 = 250_000_000
    private static let windows = 4

    private static func best(_ probes: ArraySlice<Probe>) -> Probe {
        probes.min { $0.roundTrip < $1.roundTrip } ?? probes[probes.startIndex]
    }

    private static func length(of stretch: ArraySlice<Probe>) -> Int64 {
        (stretch.last?.sentAt ?? 0) - (stretch.first?.sentAt ?? 0)
    }
}

/// The shortest lease that a Redis like this one, over a line like this one, bears without taking out who lives.
///
/// A member beats each fifth of its lease. If the worst silence fits into one fifth, it costs one beat, and four more
/// are tried before the lease is over; it is also less than the two and a half beats from which on a group takes the
/// coordinator for gone. So: five times the worst silence, rounded up.
package struct LeaseAdvice: Sendable, Hashable {
    /// The worst silence that is known of.
    package var silence: Duration
    /// Where it comes from, for people.
    package var cause: String
    package var smallest: Duration

    package static let shortest: Duration = .milliseconds(200)

    package init(_ measurement: Measurement, _ stalls: [RedisReadings.Stall]) {
        silence = measurement.silence
        cause = measurement.failures > 0 ? "no answer while measuring" : "the slowest answer while measuring"
        if measurement.pause > silence { (silence, cause) = (measurement.pause, "a pause of this process") }
        // What Redis itself has recorded comes before the answer is on its way.
        for stall in stalls where stall.duration + measurement.roundTrips.p50 > silence {
            (silence, cause) = (stall.duration + measurement.roundTrips.p50, stall.cause)
        }
        smallest = max(Self.shortest, Self.roundedUp(silence * 5))
    }

    /// To hundreds of milliseconds, from one second on to half seconds, from ten on to whole ones.
    static func roundedUp(_ duration: Duration) -> Duration {
        let (seconds, attoseconds) = duration.components
        let milliseconds = seconds * 1_000 + (attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000
        let unit: Int64 =
            switch milliseconds {
            case ...1_000: 100
            case ...10_000: 500
            default: 1_000
            }
        return .milliseconds((milliseconds + unit - 1) / unit * unit)
    }
}
