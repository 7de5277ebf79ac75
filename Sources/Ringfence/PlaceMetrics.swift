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
        var moves = 0
        /// Since when there has been no primary.
        var lostAt: Nanos?
        /// What was recorded of the Sentinels.
        var standing: SentinelStanding?
        var disagree = false
    }

    private let generation = Gauge(label: "ringfence_redis_generation")
    private let moves = Counter(label: "ringfence_redis_moves_total")
    private let without = Timer(label: "ringfence_redis_without_primary_seconds")
    private let answering = Gauge(label: "ringfence_sentinels", dimensions: [("state", "answering")])
    private let known = Gauge(label: "ringfence_sentinels", dimensions: [("state", "known")])
    private let disagreements = Counter(label: "ringfence_sentinel_disagreements_total")
    private let state = Mutex(State())

    func changed(_ status: Locator.Status) {
        let now = Moment.now
        let disagree = status.plight?.fault == .sentinelsDisagree
        let (moved, gap, standing, isNew) = state.withLock { state -> (Int, Nanos?, SentinelStanding?, Bool) in
            defer { state.disagree = disagree }
            let isNew = disagree && !state.disagree
            let moved = status.moves - state.moves
            state.moves = status.moves
            var gap: Nanos?
            if status.plight == nil {
                gap = state.lostAt.map { now - $0 }
                state.lostAt = nil
            } else if state.lostAt == nil, status.generation > 0 {
                state.lostAt = now
            }
            guard state.standing != status.sentinels else { return (moved, gap, nil, isNew) }
            state.standing = status.sentinels
            return (moved, gap, status.sentinels, isNew)
        }
        generation.record(status.generation)
        if moved > 0 { moves.increment(by: moved) }
        if let gap { without.recordNanoseconds(max(0, gap)) }
        if let standing {
            answering.record(standing.answering)
            known.record(standing.known)
        }
        if isNew { disagreements.increment() }
    }

    /// A command that Redis refused for now, by what it said: READONLY, MOVED, LOADING and so on.
    static func refused(_ error: RedisError) {
        guard error.isForNow, let prefix = error.server?.prefix.rawValue else { return }
        Counter(label: "ringfence_redis_refusals_total", dimensions: [("prefix", prefix)]).increment()
    }
}
