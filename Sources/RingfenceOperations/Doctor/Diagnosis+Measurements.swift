// SPDX-License-Identifier: Apache-2.0
//
// What was measured: how the clocks run apart, what was not answered, which lease is too short.
import Ringfence
import RingfenceCore

extension Diagnosis {
    static func ofMeasurement(
        _ measurement: Measurement, _ advice: LeaseAdvice, _ readings: RedisReadings, _ lease: Duration?
    ) -> [Finding] {
        clock(measurement.clock) + answers(measurement) + leases(advice, readings, lease)
    }

    private static func clock(_ clock: ClockReading) -> [Finding] {
        var findings: [Finding] = []
        let drift = abs(clock.fastestPPM) - clock.fastestErrorPPM
        let remedy =
            "look at NTP on both machines; with chrony: `maxslewrate \(ClockDrift.slewPartsPerMillion)` and no "
            + "makestep after the start"
        if drift > ClockDrift.partsPerMillion {
            findings.append(
                Finding(
                    .problem, "clock.drifts",
                    "Redis' clock and this machine's run apart by more than 1 % (\(ppm(clock.fastestPPM)), for a "
                        + "second at least): a holder may believe in a lease that Redis has given away",
                    remedy: remedy))
        } else if drift > 1_000 {
            findings.append(
                Finding(
                    .warning, "clock.drifts",
                    "Redis' clock and this machine's run apart by \(ppm(clock.fastestPPM)): 1 % is all that is allowed "
                        + "for",
                    remedy: remedy))
        }
        for step in clock.steps {
            let whose = step.isServers ? "Redis' clock" : "this machine's clock"
            let direction = step.by < .zero ? "back" : "forward"
            findings.append(
                Finding(
                    step.isServers ? .warning : .note, "clock.stepped",
                    "\(whose) was set \(direction) by \(millisecondsText(step.by.magnitude)) while we looked"
                        + (step.isServers ? ": locks expire early or late by that" : ""),
                    remedy: "let NTP slew the clock, by at most 0.4 %, and not step it"))
        }
        let skew = clock.skew.magnitude - clock.skewError
        if skew > .seconds(1) {
            findings.append(
                Finding(
                    .warning, "clock.skewed",
                    "Redis' clock is \(millisecondsText(clock.skew.magnitude)) "
                        + "\(clock.skew < .zero ? "behind" : "ahead of") this machine's: while one Redis serves leases "
                        + "do not mind, but times in events mislead; a failover to a Redis whose clock is ahead ends "
                        + "leases early by that, so a lock may have two holders, and to one that is behind fences may "
                        + "fall", remedy: "keep both by NTP"))
        }
        return findings
    }

    private static func answers(_ measurement: Measurement) -> [Finding] {
        guard measurement.failures > 0 else { return [] }
        return [
            Finding(
                .warning, "redis.silent",
                "\(measurement.failures) question\(measurement.failures == 1 ? " was" : "s were") not answered while "
                    + "we measured",
                remedy: "look at Redis' log and at the network")
        ]
    }

    private static func leases(_ advice: LeaseAdvice, _ readings: RedisReadings, _ lease: Duration?) -> [Finding] {
        var findings: [Finding] = []
        let smallest = advice.smallest.shortText
        if let lease, lease < advice.smallest {
            findings.append(
                Finding(
                    .warning, "lease.tooShort",
                    "a lease of \(lease.shortText) is too short here: the smallest safe one is \(smallest)",
                    remedy: "lengthen it, or end the silences of \(millisecondsText(advice.silence)) (\(advice.cause))")
            )
        } else if lease == nil, defaultLease < advice.smallest {
            findings.append(
                Finding(
                    .warning, "lease.defaultTooShort",
                    "the default lease of 3 s is too short here: the smallest safe one is \(smallest)",
                    remedy: "give members a longer one, or end the silences of \(millisecondsText(advice.silence)) "
                        + "(\(advice.cause))"))
        }
        for entry in readings.leases where entry.shortest < advice.smallest {
            findings.append(
                Finding(
                    .warning, "lease.groupTooShort",
                    "the group \(entry.group) has a member with a lease of \(entry.shortest.shortText): the smallest "
                        + "safe one is "
                        + smallest, remedy: "lengthen it"))
        }
        return findings
    }

    private static func ppm(_ value: Double) -> String { "\(Int(value.rounded())) millionths" }
}
