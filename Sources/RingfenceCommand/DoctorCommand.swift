// SPDX-License-Identifier: Apache-2.0
//
// Is this Redis good enough, and how short may a lease be here? The exit code is for monitoring: 0 fine, 1 warning, 2
// problem, as the plugins of monitoring systems have it.
import ArgumentParser
import Hiredis
import Logging
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct DoctorCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Check Redis for misconfiguration and measure the shortest safe lease.",
        discussion: """
            Asks Redis for the time every 2 ms for --seconds, and looks at its settings, its replicas and what it \
            recorded of itself. Nothing is written.

            The smallest safe lease is 5 times the worst silence, at least 200 ms: a member beats each fifth of its \
            lease, so one such silence costs one beat, and four more are tried before the lease is over. The silence \
            is the longest of: an answer that was waited for, a pause of this machine, Redis' last fork, its slowest \
            command and its worst latency event of the last week. Measure from the machines that will hold the leases, \
            in the busiest hour, with --seconds 600: what did not happen meanwhile is not known.

            EXIT CODES
              0    fine, notes at most
              1    a warning: a promise breaks when something else happens too (a restart, a failover, a full memory)
              2    a problem: a promise of Ringfence does not hold on this Redis
              64   bad usage              69   Redis cannot be reached, or refused

            EXAMPLES
              ringfence doctor
              ringfence doctor --seconds 600 --lease 1s           # is one second enough?
              ringfence doctor --json | jq '.findings[] | select(.severity == "problem")'
            """)

    @Option(help: "How long to measure, 1 to 3600 seconds.")
    var seconds = 5
    @Option(
        help: "A lease that is to be used, 200ms to 1h: too short is a warning.", transform: DurationArgument.parse)
    var lease: DurationArgument?
    @Flag(help: "Print JSON.")
    var json = false
    @OptionGroup(title: "Redis and general options")
    var redis: RedisOptions

    func validate() throws {
        guard (1...3600).contains(seconds) else {
            throw ValidationError("--seconds must be 1 to 3600, not \(seconds)")
        }
        if let lease, lease.duration < .milliseconds(200) || lease.duration > .seconds(3600) {
            throw ValidationError("--lease must be 200ms to 1h, not \(lease.duration.shortText)")
        }
    }

    func run() async throws {
        let settings = try redis.settings()
        let place = try settings.place()
        var configuration = settings.configuration(url: place.url)
        configuration.failsFast = true
        let shown = place.shown
        let duration = Duration.seconds(seconds)
        let progress = Progress(isShown: !json)
        let (readings, measurement) = try await Examination.with(
            configuration, logger: makeLogger(settings, default: .error)
        ) { examination in
            let readings = try await examination.readings()
            if !json { say("measuring \(shown) for \(seconds) s …") }
            let measurement = try await examination.measure(for: duration) { progress.show("\(Int($0 * 100)) %") }
            progress.end()
            return (readings, measurement)
        }
        let advice = LeaseAdvice(measurement, readings.stalls)
        let findings = Diagnosis.sorted(
            Diagnosis.findings(readings)
                + Diagnosis.findings(measurement, advice, readings, lease: lease?.duration))
        if json {
            try put(
                JSONWriter.describing(
                    readings, measurement, advice, findings, redis: shown, measured: duration
                ).text)
        } else {
            for line in DoctorReport.lines(readings, measurement, advice, findings, redis: shown) { try put(line) }
        }
        switch findings.first?.severity {
        case .problem?: throw ExitCode.refused
        case .warning?: throw ExitCode.failure
        case .note?, nil: break
        }
    }
}

/// An examination as text for people. Pure.
enum DoctorReport {
    static func lines(
        _ readings: RedisReadings, _ measurement: Measurement, _ advice: LeaseAdvice, _ findings: [Finding],
        redis: String
    ) -> [String] {
        let trips = measurement.roundTrips
        let clock = measurement.clock
        var recorded = readings.stalls.map { "\($0.cause) \(millisecondsText($0.duration))" }
        if recorded.isEmpty { recorded = ["Redis recorded none"] }
        var lines = [
            "\(readings.software ?? "Redis of unknown version") at \(redis)",
            topology(readings),
            "",
            "round trips    \(trips.count) in turn: p50 \(millisecondsText(trips.p50)), p99 "
                + "\(millisecondsText(trips.p99)), p99.9 \(millisecondsText(trips.p999)), max "
                + "\(millisecondsText(trips.longest))",
            "stalls         the longest silence here was \(millisecondsText(measurement.silence)), the longest pause "
                + "of this process \(millisecondsText(measurement.pause))",
            "before         \(recorded.joined(separator: "; "))",
            "clock          Redis is \(millisecondsText(clock.skew.isNegative ? .zero - clock.skew : clock.skew)) "
                + "\(clock.skew.isNegative ? "behind" : "ahead") (± \(millisecondsText(clock.skewError))), drift "
                + "\(Int(clock.driftPPM.rounded())) ppm (± \(Int(clock.driftErrorPPM.rounded(.up)))), "
                + "at most \(Int(clock.fastestPPM.rounded())) ppm for a second (± "
                + "\(Int(clock.fastestErrorPPM.rounded(.up)))), "
                + "\(clock.steps.isEmpty ? "no step" : "\(clock.steps.count) steps")",
            "lease          smallest safe \(advice.smallest.shortText): 5 x \(millisecondsText(advice.silence)) "
                + "(\(advice.cause)), at least 200 ms; one such silence costs one beat of five",
            "",
        ]
        for finding in findings {
            let mark =
                switch finding.severity {
                case .problem: "PROBLEM"
                case .warning: "warning"
                case .note: "note   "
                }
            lines.append("\(mark)  \(finding.detail)  [\(finding.code)]")
            if !finding.remedy.isEmpty { lines.append("         do: \(finding.remedy)") }
        }
        let counts = [Finding.Severity.problem, .warning].compactMap { severity -> String? in
            let count = findings.count { $0.severity == severity }
            return count == 0 ? nil : "\(count) \(severity.rawValue)\(count == 1 ? "" : "s")"
        }
        lines.append(counts.isEmpty ? "fine" : counts.joined(separator: ", "))
        return lines
    }
}

extension DoctorReport {
    /// What this server is among others, and how clients find it again.
    private static func topology(_ readings: RedisReadings) -> String {
        let (count, online) = (readings.replicas.count, readings.replicas.filter(\.isOnline).count)
        let replicas =
            count == 0
            ? "no replica"
            : "\(count) replica\(count == 1 ? "" : "s")\(online < count ? ", \(online) of them in step" : "")"
        let place = readings.foundAt ?? "not known"
        let what: String =
            switch readings.place {
            case .cluster?: "a Cluster; the slot of the namespace is at \(place), with \(replicas)"
            case .sentinels(_, let name)?: "Sentinels; the primary '\(name)' is \(place), with \(replicas)"
            case .replicated?: "a list of servers; the primary is \(place), with \(replicas)"
            case .server?, nil:
                if readings.isReplica {
                    "one server, a replica\(readings.primary.map { " of \($0)" } ?? "")"
                } else if readings.isCluster {
                    "one server, a node of a Cluster"
                } else {
                    "one server, a primary with \(replicas)"
                }
            }
        return "topology       \(what)"
    }
}

extension Duration {
    fileprivate var isNegative: Bool { self < .zero }
}
