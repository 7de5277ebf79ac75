// SPDX-License-Identifier: Apache-2.0
//
// The repair of a cache, performed. Every process that has the cache open wants to do it, and one is elected
// (CacheRepairElection). What it does is decided by RepairMachine; here its calls are made on the event loop, and what
// happens is noted in the group's events.

import Hiredis
import Logging
import NIOCore
import Ringfence
import RingfenceCacheCore
import RingfenceCore
import Synchronization

final class CacheRepair: Sendable {
    private struct State {
        var machine: RepairMachine
        var isOver = false
    }

    /// How often the nodes are looked at.
    static let lookEvery = 500 * Nanos.millisecond

    private let core: CacheCore
    private let state: Mutex<State>
    private let alarm: Alarm

    init(_ core: CacheCore, nonce: String, isNew: Bool) {
        self.core = core
        let options = core.options
        let settings = RepairMachine.Settings(
            callLimit: Nanos(saturating: CacheOptions.callLimit), pace: options.repairKeysPerSecond,
            lookEvery: Self.lookEvery,
            replaceAfter: Nanos(saturating: options.replaceAfter), freshness: options.freshness)
        state = Mutex(
            State(
                machine: RepairMachine(
                    core.placement.map, settings: settings, nonce: nonce, change: .random(in: 1 ... .max),
                    isNew: isNew, now: Moment.now)))
        alarm = Alarm(eventLoop: core.eventLoop)
        alarm.onRing { [weak self] now in self?.tick(now: now) }
    }

    deinit { alarm.stop() }

    var progress: SweepMachine.Progress? { state.withLock { $0.machine.progress } }

    /// Another process seems to repair the cache, too.
    var isContested: Bool { state.withLock { $0.machine.isContested } }

    func start() { setAlarm() }

    /// Nothing is sent from here on.
    func stop() {
        state.withLock { $0.isOver = true }
        alarm.stop()
    }

    /// A member is gone for good.
    func forget(_ id: String) {
        state.withLock { $0.machine.forget(id, now: Moment.now) }
        setAlarm()
    }

    /// Something happened that may be for us: looks at once.
    func hurry() {
        state.withLock { $0.machine.hurry(now: Moment.now) }
        setAlarm()
    }

    private func tick(now: Nanos) {
        let snapshot = core.group.snapshot
        core.follow()
        let map = core.placement.map
        let members = snapshot.members.filter { member in
            // A member whose check fails, or has not ended yet, is given no keys; one that has some keeps them.
            let isNew = !map.layout.everybody.contains { $0.id.hasSameBytes(as: member.id) }
            return !member.address.isEmpty && (member.health.isEmpty || !isNew)
        }
        .map { CacheMember(id: $0.id, zone: $0.zone, weight: $0.weight, address: $0.address) }
        perform { machine in
            machine.adopt(map, now: now)
            // A member missing from a view that may be old is not taken to be missing.
            if !snapshot.isStale { machine.saw(members, now: now) }
            return machine.tick(now: now)
        }
    }

    private func setAlarm() {
        alarm.set(state.withLock { $0.isOver ? .never : $0.machine.wakeAt })
    }

    private func perform(_ body: (inout RepairMachine) -> [RepairMachine.Action]) {
        let (actions, adopted) = state.withLock { state -> ([RepairMachine.Action], CacheLayout?) in
            guard !state.isOver else { return ([], nil) }
            let before = state.machine.map.stamp
            let actions = body(&state.machine)
            let map = state.machine.map
            return (actions, map.stamp == before ? nil : map.layout)
        }
        if let adopted { core.adopt(adopted, isAtNodes: true) }
        for action in actions {
            switch action {
            case .call(let id, let node, let stamp, let call): send(id, node, stamp, call)
            case .publish(let layout):
                core.publish(layout) { [weak self] current in
                    self?.perform { $0.published(current, now: Moment.now) }
                }
            case .tell(let happening): tell(happening)
            }
        }
        setAlarm()
    }

    private func send(_ id: Int, _ name: String, _ stamp: CacheStamp, _ call: CacheCall) {
        let placement = core.placement
        let place = placement.map.ids.firstIndex { $0.hasSameBytes(as: name) }
        guard let node = place.flatMap({ placement.nodes[$0] }) else {
            return core.eventLoop.execute { self.took(id, .failure(.notSent)) }
        }
        // Never from within the call that asked.
        let loop = core.eventLoop
        node.call(call, stamp: stamp) { result in loop.execute { [weak self] in self?.took(id, result) } }
    }

    private func took(_ id: Int, _ result: Result<CacheAnswer, CacheFailure>) {
        if case .success(let answer) = result, case .outdated(let layout) = answer.result { core.renew(layout) {} }
        perform { $0.answered(id, result, now: Moment.now) }
    }

    // MARK: Telling

    private func tell(_ happening: RepairMachine.Notice) {
        let (type, reason, members, count): (String, String, [String], Int64?)
        var share: Double?
        switch happening {
        case .moving(let joining, let leaving, let part):
            share = part
            (type, reason, members, count) = (
                "cache.moving", leaving.isEmpty ? "join" : "leave", joining + leaving, nil
            )
        case .moved(let all): (type, reason, members, count) = ("cache.moved", "", all, nil)
        case .completing(let nodes): (type, reason, members, count) = ("cache.completing", "", nodes, nil)
        case .completed(let nodes, let copied):
            (type, reason, members, count) = ("cache.completed", "", nodes, copied)
            core.metrics.copied(copied, "sweep")
        case .lost(let nodes): (type, reason, members, count) = ("cache.lost", "", nodes, nil)
        case .drained(let node, let copied):
            (type, reason, members, count) = ("cache.drained", "", [node], copied)
            core.metrics.copied(copied, "hints")
        case .waiting(let nodes):
            (type, reason, members, count) = ("cache.waiting", "", nodes, nil)
            // What is not reached for a moment at the start is no event.
            core.renew(nil) {}
        }
        var detail = Array(#"{"members":["#.utf8)
        for (index, member) in members.prefix(16).enumerated() {
            if index > 0 { detail.append(UInt8(ascii: ",")) }
            detail.appendJSON(member)
        }
        detail += "]".utf8
        if let count { detail += #","copied":\#(count)"#.utf8 }
        if let share { detail += #","share":\#((share * 10_000).rounded() / 10_000)"#.utf8 }
        detail += "}".utf8
        core.logger.info("\(type): \(members.joined(separator: " "))")
        core.client.note(
            type, group: core.name, member: members.count == 1 ? members[0] : "", reason: reason, detail: detail)
    }
}
