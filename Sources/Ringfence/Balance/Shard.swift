// SPDX-License-Identifier: Apache-2.0
//
// A thread's own part of a balancer: its table, its turn, its dice, and its copies of the members.
//
// One table for all, behind one atomic reference, is not enough: to read it safely a thread counts itself or a
// reference, and two threads that write to one cache line wait for each other longer (hundreds of ns) than a pick
// takes. So what a pick writes belongs to one thread: the lock that nobody else wants, the cursor, the count of the
// handle it returns. What it reads of the others is one version number, which changes when the plan does, and the loads
// of two members.

import RingfenceCore
import Synchronization

final class Shard: Sendable {
    struct State {
        /// Of the plan that the table is made of.
        var version = -1
        /// Of the members that the handles are made of.
        var membership = -1
        var table = PickTable()
        /// By the plan's seats.
        var handles: [MemberHandle] = []
        var cursor: PickTable.Cursor
        var isGated = false

        mutating func take(_ plan: PickPlan, version: Int) {
            self.version = version
            if membership != plan.membership { takeMembers(plan) }
            membership = plan.membership
            table = PickTable(plan)
            isGated = plan.isGated
        }

        /// Copies who is new or says something else of itself. Both are in the order of ids.
        private mutating func takeMembers(_ plan: PickPlan) {
            var old = handles[...]
            handles = plan.seats.map { seat in
                while let first = old.first, first.record.id.isBefore(seat.record.id) { old.removeFirst() }
                if let first = old.first, first.number == seat.number, first.record == seat.record { return first }
                return MemberHandle(seat)
            }
        }
    }

    private typealias Line = (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64)
    private let before: Line = (0, 0, 0, 0, 0, 0, 0, 0)
    let state: Mutex<State>
    private let after: Line = (0, 0, 0, 0, 0, 0, 0, 0)

    init(seed: UInt64) { state = Mutex(State(cursor: .init(seed: seed))) }
}
