// SPDX-License-Identifier: Apache-2.0

import RingfenceCore

/// A balancer's machine with a clock and dice of its own.
struct BalanceWorld {
    var machine: BalanceMachine
    var now: Nanos = 1_000 * .second
    var dice: Dice
    var cursor: PickTable.Cursor
    var told: [BalanceMachine.Tell] = []
    private var table = PickTable()

    init(_ rule: PickRule = .leastLoaded, seed: UInt64 = 1, _ change: (inout BalanceSettings) -> Void = { _ in }) {
        var settings = BalanceSettings()
        change(&settings)
        machine = BalanceMachine(rule: rule, settings: settings)
        dice = Dice(seed: seed)
        cursor = PickTable.Cursor(seed: seed)
    }

    static func member(
        _ id: String, weight: Int = 1, zone: String = "", health: String = "", session: String = "s"
    ) -> MemberRecord {
        MemberRecord(id: id, session: session, leaseMilliseconds: 3000, zone: zone, weight: weight, health: health)
    }

    mutating func see(
        _ members: [MemberRecord], role: GroupRole = GroupRole(), ring: Ring? = nil, force: GroupBreaker = .automatic
    ) {
        take(machine.saw(members, role, ring: ring, force: force, now: now))
    }

    mutating func see(_ ids: String...) { see(ids.map { Self.member($0) }) }

    mutating func pass(_ time: Nanos) {
        let end = now + time
        // As the alarm does.
        while machine.wakeAt(now: now) <= end {
            now = max(now, machine.wakeAt(now: now))
            take(machine.tick(now: now, dice: &dice))
        }
        now = end
    }

    private mutating func take(_ output: BalanceMachine.Output) {
        if output.isNew { table = PickTable(machine.plan) }
        told += output.tell
    }

    mutating func pick(position: UInt64 = 0) -> String? {
        let total = machine.plan.seats.reduce(0) { $0 + $1.load.outstanding }
        let place = table.pick(&cursor, position: position, total: total, now: now)
        return place < 0 ? nil : machine.plan.seats[place].record.id
    }

    /// How often each was picked.
    mutating func shares(_ count: Int) -> [String: Double] {
        var counts: [String: Double] = [:]
        for _ in 0..<count { counts[pick() ?? "nobody", default: 0] += 1 / Double(count) }
        return counts
    }

    /// Who was picked, of so many picks.
    mutating func picked(_ count: Int) -> Set<String> { Set(shares(count).keys) }

    func seat(_ id: String) -> PickPlan.Seat { machine.plan.seats.first { $0.record.id == id }! }

    /// A call to a member, of which the result comes at once, as if it had taken so long; or it began before.
    mutating func call(
        _ id: String, _ outcome: BalanceMachine.Outcome, took: Nanos = .millisecond, beganAt: Nanos? = nil,
        probe: Int? = nil
    ) {
        now += took
        let call = BalanceMachine.Call(number: seat(id).number, beganAt: beganAt ?? now - took, probe: probe)
        take(machine.finished(call, outcome, now: now, dice: &dice))
    }

    mutating func fail(_ id: String, _ count: Int = 5) { for _ in 0..<count { call(id, .failure, took: 1000) } }

    var ejected: [String] { machine.members(now: now).filter { $0.ejectedUntil != nil }.map(\.record.id) }
    var types: [String] { told.map(\.type) }
}
