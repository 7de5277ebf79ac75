// SPDX-License-Identifier: Apache-2.0
//
// How an examination of Redis looks in JSON. Durations are milliseconds with three digits behind the point: round trips
// are often shorter than one.

extension JSONWriter {
    /// All that was found.
    /// - Parameter findings: the worst first.
    package static func describing(
        _ readings: RedisReadings, _ measurement: Measurement, _ advice: LeaseAdvice, _ findings: [Finding],
        redis: String, measured: Duration
    ) -> JSONWriter {
        var json = JSONWriter(capacity: 4_096)
        json.object { json in
            json.field("redis", redis)
            json.key("version")
            if let version = readings.version { json.string(version) } else { json.null() }
            json.server(readings)
            json.field("verdict", findings.first.map { $0.severity == .note ? "fine" : $0.severity.rawValue } ?? "fine")
            json.decimal("measuredMs", measured)
            json.key("roundTripMs")
            json.object { json in
                json.field("count", measurement.roundTrips.count)
                json.decimal("p50", measurement.roundTrips.p50)
                json.decimal("p99", measurement.roundTrips.p99)
                json.decimal("p999", measurement.roundTrips.p999)
                json.decimal("max", measurement.roundTrips.longest)
            }
            json.decimal("silenceMs", measurement.silence)
            json.decimal("ownPauseMs", measurement.pause)
            json.field("unanswered", measurement.failures)
            json.key("recordedStalls")
            json.array(readings.stalls) { json, stall in
                json.object { json in
                    json.field("cause", stall.cause)
                    json.decimal("ms", stall.duration)
                }
            }
            json.clock(measurement.clock)
            json.key("lease")
            json.object { json in
                json.field("smallestMs", advice.smallest.wholeMilliseconds)
                json.decimal("worstSilenceMs", advice.silence)
                json.field("cause", advice.cause)
            }
            json.key("replicas")
            json.array(readings.replicas) { json, replica in
                json.object { json in
                    json.field("address", replica.address)
                    json.field("online", replica.isOnline)
                    json.key("priority")
                    if let priority = replica.priority { json.integer(priority) } else { json.null() }
                }
            }
            json.key("sentinels")
            if let sentinels = readings.sentinels { json.integer(sentinels) } else { json.null() }
            json.key("findings")
            json.array(findings) { json, finding in
                json.object { json in
                    json.field("severity", finding.severity.rawValue)
                    json.field("code", finding.code)
                    json.field("detail", finding.detail)
                    if !finding.remedy.isEmpty { json.field("remedy", finding.remedy) }
                }
            }
        }
        return json
    }

    private mutating func clock(_ clock: ClockReading) {
        key("clock")
        object { json in
            json.decimal("skewMs", clock.skew)
            json.decimal("skewErrorMs", clock.skewError)
            json.field("driftPpm", Int(clock.driftPPM.rounded()))
            json.field("driftErrorPpm", Int(clock.driftErrorPPM.rounded(.up)))
            json.field("fastestDriftPpm", Int(clock.fastestPPM.rounded()))
            json.field("fastestDriftErrorPpm", Int(clock.fastestErrorPPM.rounded(.up)))
            json.key("steps")
            json.array(clock.steps) { json, step in
                json.object { json in
                    json.field("clock", step.isServers ? "redis" : "own")
                    json.decimal("byMs", step.by)
                }
            }
        }
    }

    private mutating func decimal(_ name: String, _ duration: Duration) {
        key(name)
        raw("\(Double(Int64(duration / .microseconds(1))) / 1_000)")
    }

    private mutating func server(_ readings: RedisReadings) {
        if let software = readings.software { field("software", software) }
        if let primary = readings.foundAt { field("primary", primary) }
    }
}
