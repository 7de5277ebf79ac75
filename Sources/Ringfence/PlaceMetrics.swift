// SPDX-License-Identifier: Apache-2.0
//
// What metrics say of where Redis is: how often it moved, for how long there was none, how many Sentinels answer. No
// address is a dimension: they change, and a monitor would keep a series for each.

import CoreMetrics
import Hiredis
import RingfenceCore
import Synchronization

final class PlaceMetrics: Sendable {
    private struct State {
        var moves: [Departure: Int] = [:]
        var redirections: [RedisServerError.Prefix: Int] = [:]
        var generation = 0
        /// Since when there has been no primary.
        var lostAt: Nanos?
        /// What was recorded of the Sentinels.
        var standing: SentinelStanding?
        var disagree = false
    }

    private let generation = Gauge(label: "ringfence_redis_generation")
    private let moves = counters("ringfence_redis_moves_total", "why", Departure.allCases)
    private let redirects = counters(
        "ringfence_redis_redirects_total", "kind", [RedisServerError.Prefix.readOnly, .moved, .clusterDown])
    private let lookup = Timer(label: "ringfence_redis_lookup_seconds")
    private let without = Timer(label: "ringfence_redis_without_primary_seconds")
    private let answering = Gauge(label: "ringfence_sentinels", dimensions: [("state", "answering")])
    private let known = Gauge(label: "ringfence_sentinels", dimensions: [("state", "known")])
    private let disagreements = Counter(label: "ringfence_sentinel_disagreements_total")
    private let state = Mutex(State())

    func changed(_ status: Locator.Status) {
        let now = Moment.now
        let disagree = status.plight?.fault == .sentinelsDisagree
        let (before, gap, standing, isNew) = state.withLock { state -> (State, Nanos?, SentinelStanding?, Bool) in
            let before = state
            defer { state.disagree = disagree }
            let isNew = disagree && !state.disagree
            (state.moves, state.generation) = (status.moves, status.generation)
            state.redirections = status.redirections
            var gap: Nanos?
            if status.plight == nil {
                gap = state.lostAt.map { now - $0 }
                state.lostAt = nil
            } else if state.lostAt == nil, status.generation > 0 {
                state.lostAt = now
            }
            guard state.standing != status.sentinels else { return (before, gap, nil, isNew) }
            state.standing = status.sentinels
            return (before, gap, status.sentinels, isNew)
        }
        generation.record(status.generation)
        Self.count(status.moves, since: before.moves, moves)
        Self.count(status.redirections, since: before.redirections, redirects)
        if status.generation != before.generation, let took = status.lookup {
            lookup.recordNanoseconds(Nanos(saturating: took))
        }
        if let gap { without.recordNanoseconds(max(0, gap)) }
        if let standing {
            answering.record(standing.answering)
            known.record(standing.known)
        }
        if isNew { disagreements.increment() }
    }

    /// One for each value of a dimension.
    private static func counters<Value: RawRepresentable<String> & Hashable>(
        _ label: String, _ dimension: String, _ values: [Value]
    ) -> [Value: Counter] {
        Dictionary(
            uniqueKeysWithValues: values.map { ($0, Counter(label: label, dimensions: [(dimension, $0.rawValue)])) })
    }

    private static func count<Value: Hashable>(
        _ totals: [Value: Int], since before: [Value: Int], _ counters: [Value: Counter]
    ) {
        for (value, total) in totals where total > before[value, default: 0] {
            counters[value]?.increment(by: total - before[value, default: 0])
        }
    }
}
