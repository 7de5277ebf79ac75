// SPDX-License-Identifier: Apache-2.0
//
// Whether the Sentinels could replace the primary, and whether a client could follow.
import Ringfence
import RingfenceCore

extension Diagnosis {
    static func watchers(_ readings: RedisReadings) -> [Finding] {
        silent(readings) + disagreeing(readings) + quorum(readings) + unlike(readings) + slow(readings)
    }

    private static func list(_ sentinels: [RedisReadings.Sentinel], _ words: (RedisReadings.Sentinel) -> String)
        -> String
    {
        sentinels.map { "\($0.address): \(words($0))" }.joined(separator: "; ")
    }

    private static func silent(_ readings: RedisReadings) -> [Finding] {
        let silent = readings.watchers.filter { $0.failure != nil }
        let hidden = silent.filter { $0.isNamedByOthers && !$0.isDown }
        let named = silent.filter { !$0.isNamedByOthers || $0.isDown }
        var findings: [Finding] = []
        if !named.isEmpty {
            findings.append(
                Finding(
                    .warning, "sentinel.unreachable",
                    "Sentinels do not answer as they should (\(list(named) { $0.failure ?? "" })): with "
                        + "more than half of them silent nobody replaces a dead primary",
                    remedy: "start them; or name others in the URL, and let the rest forget them (SENTINEL RESET)"))
        }
        if !hidden.isEmpty {
            findings.append(
                Finding(
                    .warning, "sentinel.announcesUnreachable",
                    "Sentinels announce others that cannot be reached from here (\(list(hidden) { $0.failure ?? "" }))"
                        + ": clients do not count them, and may not reach the primary either when it moves",
                    remedy: "give --redis-address-map what they are called here, or let them announce names that all "
                        + "know (sentinel announce-ip)"))
        }
        return findings
    }

    private static func disagreeing(_ readings: RedisReadings) -> [Finding] {
        let answering = readings.watchers.filter { $0.failure == nil }
        guard Set(answering.map { "\($0.primary ?? "") \($0.epoch ?? 0)" }).count > 1 else { return [] }
        let sides = list(answering) { "\($0.primary ?? "") in epoch \($0.epoch ?? 0)" }
        return [
            Finding(
                .problem, "sentinel.disagrees",
                "the Sentinels do not say the same of the primary (\(sides)): clients follow the highest epoch; a "
                    + "Sentinel that stays behind is cut off, or was set up with another file",
                remedy: "look again in ten seconds; then see to the one that is behind: SENTINEL RESET, or its file")
        ]
    }

    private static func quorum(_ readings: RedisReadings) -> [Finding] {
        let without = readings.watchers.filter { $0.quorumFault != nil }
        guard !without.isEmpty else { return [] }
        return [
            Finding(
                .problem, "sentinel.noQuorum",
                "Sentinels could not order a failover (\(list(without) { $0.quorumFault ?? "" })): a dead primary "
                    + "stays",
                remedy: "let all Sentinels reach one another, and the quorum be no more than half of them and one")
        ]
    }

    /// Each has its own settings: an order to one changes no other.
    private static func unlike(_ readings: RedisReadings) -> [Finding] {
        let answering = readings.watchers.filter { $0.failure == nil }
        func settings(_ sentinel: RedisReadings.Sentinel) -> String {
            func text(_ time: Duration?) -> String { time?.shortText ?? "unknown" }
            return "quorum \(sentinel.quorum.map { "\($0)" } ?? "unknown"), down-after-milliseconds "
                + "\(text(sentinel.downAfter)), failover-timeout \(text(sentinel.failoverTimeout))"
        }
        guard Set(answering.map(settings)).count > 1 else { return [] }
        return [
            Finding(
                .warning, "sentinel.settingsDiffer",
                "the Sentinels have different settings (\(list(answering, settings))): how soon a dead primary is "
                    + "replaced depends on who notices",
                remedy: "SENTINEL SET NAME … at each of them: an order to one changes no other")
        ]
    }

    /// Only said: how soon a primary is given up is for the operator to choose.
    private static func slow(_ readings: RedisReadings) -> [Finding] {
        guard let downAfter = readings.watchers.compactMap(\.downAfter).max(),
            let shortest = readings.leases.map(\.shortest).min(), downAfter > shortest
        else { return [] }
        return [
            Finding(
                .note, "sentinel.slow",
                "the Sentinels wait \(downAfter.shortText) before they replace a primary, and the shortest lease of a "
                    + "member is \(shortest.shortText): a failover ends it",
                remedy: "down-after-milliseconds below the leases, or longer leases")
        ]
    }
}
