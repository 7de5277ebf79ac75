// SPDX-License-Identifier: Apache-2.0
//
// How a primary goes on while it cannot reach Redis, where the group's settings say `failsafe`: by the promise of
// everybody who could be elected in its place.
//
// Two rules limit whom Redis may elect, one here and one in group.lua. The candidates that the primary knows are asked
// directly, again and again, to begin no role before a lease from now; the role is good until the earliest of these
// times. Candidates that it does not know, because they came later, are not elected by Redis before `failsafeLimitMs`
// is over; so the role ends at the latest then. Nobody else can become primary, so there cannot be two. A majority
// would not do: Redis needs no majority to elect.
//
// With a beat the primary tells Redis which candidates it knows. So all of this is judged again before a beat is
// written, by the candidates it knows at that moment.
//
// It is the primary that asks, not the others that offer: so nobody waits for a primary that is dead or cut off from
// all. And a candidate that still reaches Redis refuses, for then the primary is the one that is cut off, and another
// must lead.
//
// Both sides allow for clocks that run apart by 1 %: the primary takes 1 % off, and a candidate that promises adds 1 %.

package struct FailsafeMachine: Sendable, Hashable {
    /// What the primary asks for.
    package struct Question: Sendable, Hashable {
        package var epoch: Int64
        /// The primary's. Only a process that can read the group knows it.
        package var session: String
        package var leaseMilliseconds: Int64

        package init(epoch: Int64, session: String, leaseMilliseconds: Int64) {
            self.epoch = epoch
            self.session = session
            self.leaseMilliseconds = leaseMilliseconds
        }

        package var lease: Nanos { leaseMilliseconds * .millisecond }
    }

    package let epoch: Int64
    /// Until when each has promised, by its session: another process under the same id has promised nothing.
    private var promises: [String: Nanos] = [:]

    package init(epoch: Int64) { self.epoch = epoch }

    /// Whether Redis has not been heard of for longer than a beat that was lost explains.
    package static func isAway(confirmedAt: Nanos, pace: Nanos, now: Nanos) -> Bool {
        now - confirmedAt > pace + pace / 2
    }

    /// All members that could be elected in the primary's place, as far as it knows.
    package static func peers(_ view: GroupMachine.View, but id: String) -> [MemberRecord] {
        view.members.filter { $0.isCandidate && !$0.id.hasSameBytes(as: id) }
    }

    /// Why a candidate with this view of the group must not promise; nil: it may, if it has no role of its own.
    package static func objection(to question: Question, _ view: GroupMachine.View) -> String? {
        guard view.failsafeLimit != nil else { return "the group's settings do not say failsafe" }
        guard view.role.epoch == question.epoch, view.role.session == question.session else {
            return "the asker is not the primary known here"
        }
        guard view.member(view.role.primary)?.leaseMilliseconds == question.leaseMilliseconds else {
            return "the primary's lease known here is another"
        }
        return nil
    }

    /// Until when the asker may count on a promise, given to a question asked at `askedAt`.
    package static func end(_ question: Question, askedAt: Nanos) -> Nanos {
        askedAt + ClockDrift.shortened(question.lease) - .millisecond
    }

    /// Until when a promise binds who gives it at `now`.
    package static func binding(_ question: Question, now: Nanos) -> Nanos {
        now + ClockDrift.lengthened(question.lease) + .millisecond
    }

    package mutating func promised(_ session: String, until: Nanos) {
        promises[session] = max(promises[session] ?? .min, until)
    }

    /// Until when the role is good by the promises of all known candidates, if that is beyond the membership's
    /// deadline.
    package func until(_ view: GroupMachine.View, but id: String, deadline: Nanos) -> Nanos {
        guard let limit = view.failsafeLimit else { return .min }
        return Self.peers(view, but: id).reduce(deadline.adding(ClockDrift.shortened(limit))) { end, peer in
            min(end, promises[peer.session] ?? .min)
        }
    }
}
