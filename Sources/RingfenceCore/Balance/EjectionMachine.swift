// SPDX-License-Identifier: Apache-2.0
//
// Which members are ejected: taken out of what can be picked for a while because their calls fail, as this process sees
// it. The group does not see it so: the member beats, and its own health check passes. It may be unreachable from here
// only.
//
// Two signs. Failures one after the other, which tell of a member that is broken; and a success rate far below that of
// the others in the same stretch of time, which tells of one that is half broken. The second is a comparison on
// purpose: when what all members depend on fails, all rates fall, nobody is an outlier, and ejecting would only take
// the load to the rest.
//
// A member that is soon ejected again stays out longer each time; each ejection's length in service takes one time
// back. And there are always others: at most a part of the members is out, and never the last one that serves.

package struct EjectionMachine: Sendable {
    package enum Reason: Sendable, Hashable {
        case failures(Int)
        case successRate(Double, mean: Double)

        package var text: String {
            switch self {
            case .failures(let count): "\(count) failures one after the other"
            case .successRate(let rate, let mean):
                "of its calls \(Self.percent(rate)) succeeded, of all members' \(Self.percent(mean))"
            }
        }

        private static func percent(_ part: Double) -> String { "\((part * 1000).rounded() / 10) %" }
    }

    package struct Ejection: Sendable, Hashable {
        package var number: Int
        package var until: Nanos
        /// How many ejections in a row.
        package var times: Int
        package var reason: Reason
    }

    /// A member that has a weight.
    package struct Member: Sendable, Hashable {
        package var number: Int
        /// Its check passes, so it can be picked unless it is ejected.
        package var serves: Bool
        package init(number: Int, serves: Bool) {
            self.number = number
            self.serves = serves
        }
    }

    private struct Record {
        var serves = false
        var failuresInRow = 0
        var good = 0
        var bad = 0
        var ejectedUntil: Nanos?
        var times = 0
        /// Since when it is in service again. A call that began before tells nothing new.
        var since = Nanos.min
    }

    private let settings: BalanceSettings
    private var records: [Int: Record] = [:]
    /// When success rates are compared; nil: no call has ended since they were.
    private var intervalEnd: Nanos?

    package init(_ settings: BalanceSettings) { self.settings = settings }

    /// Sets the members that have a weight. All others are forgotten.
    package mutating func set(_ members: [Member]) {
        var next: [Int: Record] = [:]
        for member in members {
            var record = records[member.number] ?? Record()
            record.serves = member.serves
            next[member.number] = record
        }
        records = next
    }

    /// No comparison is due: no call has ended since the last one.
    package var isIdle: Bool { intervalEnd == nil }

    package func ejectedUntil(_ number: Int) -> Nanos? { records[number]?.ejectedUntil }
    package var ejectedCount: Int { records.values.count { $0.ejectedUntil != nil } }

    /// Records a call that ended and tells whether the member is healthy.
    package mutating func finished(
        _ number: Int, isFailure: Bool, beganAt: Nanos, now: Nanos, dice: inout Dice
    ) -> Ejection? {
        guard var record = records[number], record.ejectedUntil == nil, beganAt >= record.since else { return nil }
        if intervalEnd == nil, settings.successRateMembers > 0 { intervalEnd = now + settings.outlierInterval }
        if isFailure {
            record.bad += 1
            record.failuresInRow += 1
        } else {
            record.good += 1
            record.failuresInRow = 0
        }
        let failures = record.failuresInRow
        records[number] = record
        guard settings.consecutiveFailures > 0, failures >= settings.consecutiveFailures else { return nil }
        return eject(number, .failures(failures), now: now, dice: &dice)
    }

    /// Ends ejections, and compares success rates when an interval is over.
    package mutating func tick(now: Nanos, dice: inout Dice) -> (returned: [Int], ejected: [Ejection]) {
        var returned: [Int] = []
        for (number, record) in records {
            guard let until = record.ejectedUntil, until <= now else { continue }
            var record = record
            record.ejectedUntil = nil
            record.failuresInRow = 0
            (record.good, record.bad) = (0, 0)
            record.since = now
            records[number] = record
            returned.append(number)
        }
        guard let end = intervalEnd, end <= now else { return (returned.sorted(), []) }
        intervalEnd = nil
        var ejected: [Ejection] = []
        for (number, rate, mean) in outliers() {
            if let ejection = eject(number, .successRate(rate, mean: mean), now: now, dice: &dice) {
                ejected.append(ejection)
            }
        }
        for number in records.keys { (records[number]!.good, records[number]!.bad) = (0, 0) }
        return (returned.sorted(), ejected)
    }

    /// The members whose success rate is too far below the others', the worst first.
    private func outliers() -> [(number: Int, rate: Double, mean: Double)] {
        let rates = records.compactMap { number, record -> (number: Int, rate: Double)? in
            let calls = record.good + record.bad
            guard record.ejectedUntil == nil, calls >= settings.successRateCalls else { return nil }
            return (number, Double(record.good) / Double(calls))
        }
        guard settings.successRateMembers > 0, rates.count >= settings.successRateMembers else { return [] }
        let mean = rates.reduce(0) { $0 + $1.rate } / Double(rates.count)
        let variance = rates.reduce(0) { $0 + ($1.rate - mean) * ($1.rate - mean) } / Double(rates.count)
        let distance = max(
            settings.successRateDeviations * variance.squareRoot(), BalanceSettings.successRateMargin)
        return rates.filter { $0.rate < mean - distance }.sorted { ($0.rate, $0.number) < ($1.rate, $1.number) }
            .map { ($0.number, $0.rate, mean) }
    }

    private mutating func eject(_ number: Int, _ reason: Reason, now: Nanos, dice: inout Dice) -> Ejection? {
        guard var record = records[number], record.serves, record.ejectedUntil == nil else { return nil }
        let most = max(
            Int(settings.maximumEjectionFraction * Double(records.count)), settings.maximumEjectionFraction > 0 ? 1 : 0)
        let hasOthers = records.contains { $0.key != number && $0.value.serves && $0.value.ejectedUntil == nil }
        guard ejectedCount < most, hasOthers else { return nil }
        if record.since != .min {
            record.times = max(0, record.times - Int(clamping: (now - record.since) / settings.baseEjectionTime))
        }
        record.times += 1
        let length = min(
            settings.maximumEjectionTime, settings.baseEjectionTime.multipliedClamping(by: Nanos(record.times)))
        let until = now.adding(length + Nanos(Double(length) * 0.1 * dice.fraction()))
        record.ejectedUntil = until
        records[number] = record
        return Ejection(number: number, until: until, times: record.times, reason: reason)
    }

    /// When the next ejection ends or the next comparison is due.
    package var wakeAt: Nanos {
        records.values.reduce(intervalEnd ?? .never) { min($0, $1.ejectedUntil ?? .never) }
    }
}
