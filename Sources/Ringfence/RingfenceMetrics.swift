// SPDX-License-Identifier: Apache-2.0
//
// Every metric of the library, made once a client from the metrics factory in force then. Dimensions are fixed and few:
// a lock's name is never one, for there may be millions.

import CoreMetrics
import RingfenceCore

struct RingfenceMetrics: Sendable {
    /// Grants to callers of this process.
    let grants = Counter(label: "ringfence_lock_grants_total")
    /// Grants that came from a local predecessor, without a place in Redis' queue.
    let passes = Counter(label: "ringfence_lock_passes_total")
    /// Acquires that ended because others held the lock for as long as the caller would wait.
    let busy = Counter(label: "ringfence_lock_busy_total")
    /// Acquires that failed: no answer, a refusal, too few replicas.
    let failures = Counter(label: "ringfence_lock_failures_total")
    /// Leases given back by their holder in time.
    let releases = Counter(label: "ringfence_lock_releases_total")
    /// Releases that Redis did not answer in time: the lock may stay held until its lease ends.
    let releaseFailures = Counter(label: "ringfence_lock_release_failures_total")
    /// Withdrawals that were not begun because too many waited for an answer: what they would undo stays for its ttl.
    let cleanUpsDropped = Counter(label: "ringfence_lock_clean_ups_dropped_total")
    /// Leases that ended before their holder was done, whatever the reason: watch this one.
    let lost = Counter(label: "ringfence_lock_lost_total")
    /// Renewals that did not get through (each is tried again until the deadline).
    let renewalFailures = Counter(label: "ringfence_lock_renewal_failures_total")
    /// From asking to being granted.
    let wait = Timer(label: "ringfence_lock_wait_seconds")
    /// From grant to release.
    let hold = Timer(label: "ringfence_lock_hold_seconds")
    /// What was left of a lease when its renewal arrived: near zero means leases too short or a Redis too slow.
    let margin = Timer(label: "ringfence_lease_margin_seconds")
    /// Leases held by this process now.
    let held = Gauge(label: "ringfence_leases_held")
    /// Times that published events were missing and were read from the stream instead.
    let eventGaps = Counter(label: "ringfence_event_gaps_total")
    /// Events that came from the stream because their message did not.
    let eventReplays = Counter(label: "ringfence_events_replayed_total")
    /// Subscribers that were told that events are missing: watch this one.
    let eventResets = Counter(label: "ringfence_event_resets_total")
    /// Who follows the event log now.
    let eventSubscribers = Gauge(label: "ringfence_event_subscribers")

    /// Beats, and joins repeated by members.
    let beats = Counter(label: "ringfence_group_beats_total")
    /// Those that did not get through (each is tried again).
    let beatFailures = Counter(label: "ringfence_group_beat_failures_total")
    /// What was left of a member's lease when its beat was answered: near zero means leases too short or a Redis too
    /// slow.
    let memberMargin = Timer(label: "ringfence_group_lease_margin_seconds")
    /// Memberships of this process now.
    let memberships = Gauge(label: "ringfence_group_memberships")
    /// Memberships whose own deadline passed: they may not act until Redis is heard of.
    let membershipsSuspended = Counter(label: "ringfence_group_memberships_suspended_total")
    /// Memberships that Redis took out of their group: watch this one.
    let membershipsExpired = Counter(label: "ringfence_group_memberships_expired_total")
    /// Roles of primaries of this process that ended, by why; `suspended` is the own clock that ended one: watch it.
    func ended(_ end: RoleMachine.End) {
        let reason =
            switch end {
            case .suspended, .handedOver, .failover, .lost: end.text
            // A reason of the caller's is free text, and no dimension.
            case .gaveUp: "gaveUp"
            }
        Counter(label: "ringfence_group_roles_ended_total", dimensions: [("reason", reason)]).increment()
    }
    /// An election of a group that this process looks at: why, and how long each stage took. Every process that looks
    /// counts it.
    func happened(_ record: EventRecord) {
        func time(_ stage: String, _ field: String) {
            let object = record.detail.flatMap { try? JSONObject.reading([field], raw: "", of: Array($0)).object }
            guard case .integer(let milliseconds)? = object?[field] else { return }
            Timer(label: "ringfence_group_failover_seconds", dimensions: [("stage", stage)])
                .recordNanoseconds(milliseconds.multipliedClamping(by: .millisecond))
        }
        switch record.type {
        case "primary.elected":
            let known = [
                "first", "expired", "left", "replaced", "removed", "stepDown", "suspended", "refused",
                "promotionFailed",
                "unhealthy", "exited", "finished", "switchover", "failback", "failover", "lost",
            ]
            // Who leaves may give any reason, and that is no dimension.
            let reason = record.reason.flatMap { known.contains($0) ? $0 : nil } ?? "other"
            Counter(label: "ringfence_group_elections_total", dimensions: [("reason", reason)]).increment()
            time("detect", "detectMs")
            time("decide", "decideMs")
        case "primary.ready": time("promote", "promoteMs")
        case "switchover.aborted": Counter(label: "ringfence_group_switchovers_aborted_total").increment()
        case "group.braked": Counter(label: "ringfence_group_brakes_total").increment()
        default: break
        }
    }

    /// The primary of a group that this process looks at. Who looks at thousands of groups has so many series.
    func saw(_ role: GroupRole, of group: String) {
        guard role.epoch > 0 else { return }
        Gauge(label: "ringfence_group_epoch", dimensions: [("group", group)]).record(role.epoch)
        Gauge(label: "ringfence_group_has_primary", dimensions: [("group", group)])
            .record(role.phase == .ready || role.phase == .handingOver ? 1 : 0)
    }

    /// How old a view was when its group was asked for again, or could not be.
    let snapshotAge = Timer(label: "ringfence_group_snapshot_age_seconds")
    /// Times nobody could reach a group, or Redis lost data of it, and so nobody is taken out for a while.
    let groupGaps = Counter(label: "ringfence_group_gaps_total")
}
