// SPDX-License-Identifier: Apache-2.0
//
// The one place that knows what is a misconfiguration of Redis, how bad it is and what to do about it. Readings in,
// findings out, nothing else: `serve` asks it at its start about the settings, `doctor` about all.
//
// A problem breaks a promise of Ringfence: locks are given away, nothing can be written, scripts may not run. A warning
// breaks one when something else happens as well: a restart, a failover, a full memory. A note is worth knowing.

import Ringfence
import RingfenceCore

/// Something to know about a Redis.
package struct Finding: Sendable, Hashable {
    package enum Severity: String, Sendable, Comparable {
        case note, warning, problem

        private var rank: Int {
            switch self {
            case .note: 0
            case .warning: 1
            case .problem: 2
            }
        }

        package static func < (left: Severity, right: Severity) -> Bool { left.rank < right.rank }
    }

    package var severity: Severity
    /// Stable, to branch on: `redis.evicts`.
    package var code: String
    /// What is the matter, and what comes of it.
    package var detail: String
    /// What to do; empty if nothing is to be done.
    package var remedy: String

    package init(_ severity: Severity, _ code: String, _ detail: String, remedy: String = "") {
        self.severity = severity
        self.code = code
        self.detail = detail
        self.remedy = remedy
    }
}

package enum Diagnosis {
    /// The lease that members have unless they say otherwise.
    static let defaultLease: Duration = .seconds(3)

    /// What is to be said of a Redis' settings and state; the worst first.
    package static func findings(_ readings: RedisReadings) -> [Finding] {
        sorted(ofState(readings))
    }

    /// What is to be said of what was measured; the worst first.
    /// - Parameter lease: the lease that is to be used here, if somebody said so.
    package static func findings(
        _ measurement: Measurement, _ advice: LeaseAdvice, _ readings: RedisReadings, lease: Duration? = nil
    ) -> [Finding] {
        sorted(ofMeasurement(measurement, advice, readings, lease))
    }

    package static func sorted(_ findings: [Finding]) -> [Finding] {
        // Stable: in the order in which they are found.
        findings.enumerated()
            .sorted { ($1.element.severity, $0.offset) < ($0.element.severity, $1.offset) }
            .map(\.element)
    }
}

/// For people, with a digit or two below a millisecond: `0.08 ms`, `12 ms`, `3.4 s`.
package func millisecondsText(_ duration: Duration) -> String {
    let microseconds = Int64(duration / .microseconds(1))
    switch abs(microseconds) {
    case ..<10_000:
        let hundredths = (abs(microseconds) + 5) / 10
        let fraction = String(100 + hundredths % 100).dropFirst()
        return "\(microseconds < 0 ? "-" : "")\(hundredths / 100).\(fraction) ms"
    case ..<1_000_000: return "\(microseconds / 1_000) ms"
    default: return "\(microseconds < 0 ? "-" : "")\(Duration.microseconds(abs(microseconds)).shortText)"
    }
}

extension Duration {
    var magnitude: Duration { self < .zero ? .zero - self : self }
}
