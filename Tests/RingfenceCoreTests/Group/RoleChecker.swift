// SPDX-License-Identifier: Apache-2.0
//
// The rules of the election, held against what happened. Like GroupChecker it sees calls with what was stored before
// and after, and what members are told, and judges for itself.
//
//   no two         no two members act as primary at one true moment: neither by what each would say if asked whether it
//   may,
//                  nor by what their resources still do, but for those of a process that slept
//   only up        each election has a higher epoch than any that was, of any generation, as far as anybody told Redis
//   of it since
//                  it last lost data. (What nobody told, nobody can know: an epoch that Redis lost may be given again
//                  if all who knew it are dead, or not one of them reached Redis since. Counted as `admitted`.)
//   chosen         a member begins a role only if an election under that epoch named its session, and only once
//   with a right   whoever is elected lives, is a candidate, healthy, fit, not in maintenance, not barred and not too
//   far behind; a failover
//                  by hand asks only for the first two; while a group is paused there are only orders
//   nothing lost   a switchover's winner has all that the primary had when it stopped
//   the end        in the calm a group with a candidate that may lead has one primary, ready, and it knows that it is
import RingfenceCore
import TestSupport

final class RoleChecker {
    unowned var world: GroupWorld!
    private var elected: [Int64: Set<String>] = [:]
    private var ended: [ObjectIdentifier: Set<Int64>] = [:]
    /// The highest epoch under which anybody began, and when.
    private var highest: (epoch: Int64, at: Nanos) = (0, 0)
    private var lossAt: Nanos = -1
    /// The highest epoch that Redis was told of since it lost data, or gave.
    private var told: Int64 = 0
    private var finals: [Int64: Int64] = [:]
    private var positions: [String: Int64] = [:]
    private var barred: [String: Int64] = [:]
    private var previous: (epoch: Int64, session: String, at: Nanos)?
    private(set) var elections = 0
    private(set) var admitted = 0
    private(set) var whys: Set<String> = []

    func dataWasLost() {
        lossAt = world.now
        told = 0
        barred = [:]
        previous = nil
    }

    // MARK: What members are told

    func began(_ node: GroupNode, _ epoch: Int64) {
        let session = node.record.session
        if elected[epoch]?.contains(session) != true {
            world.fail("\(session) begins epoch \(epoch), to which \(elected[epoch] ?? []) was elected")
        }
        if ended[ObjectIdentifier(node)]?.contains(epoch) == true {
            world.fail("\(session) begins epoch \(epoch) again, which had ended")
        }
        if epoch > highest.epoch { highest = (epoch, world.now) }
        look()
    }

    func ended(_ node: GroupNode, _ epoch: Int64) { ended[ObjectIdentifier(node), default: []].insert(epoch) }

    private func look() {
        var inside: (node: GroupNode, epoch: Int64)?
        for node in world.nodes {
            guard let epoch = node.candidate?.epochInside else { continue }
            if let inside {
                world.fail(
                    "two primaries: \(inside.node.record.session) under \(inside.epoch), "
                        + "\(node.record.session) under \(epoch)"
                )
            }
            inside = (node, epoch)
        }
    }

    // MARK: What Redis does

    func executed(
        _ verb: GroupServerModel.Verb, _ known: GroupKnowledge, from node: GroupNode?, before: GroupServerModel.Group?,
        after: GroupServerModel
    ) {
        look()
        told = max(told, known.epoch)
        guard let group = after.groups[GroupWorld.group] else { return }
        if case .beat(let id, let session, let lease, _, let status?) = verb, group.held(id)?.record.session == session
        {
            if let position = status.position, before?.office.session == session { positions[session] = position }
            switch status.claim {
            case .readyToHandOver(let epoch, let position, _): finals[epoch] = position ?? finals[epoch]
            case .gone(let epoch, let reason):
                let isHeard = before?.office.session == session && before?.office.epoch == epoch
                if isHeard, ["refused", "promotionFailed", "unhealthy", "stepDown"].contains(reason) {
                    barred[session] = group.now + lease
                }
            default: break
            }
        }
        // Whoever withdraws and stands again begins anew.
        if case .join(let record, _, _, _) = verb, !record.isCandidate { barred[record.session] = nil }
        for event in after.events {
            switch event.type {
            case "primary.elected": wasElected(event, before?.office, group)
            case "primary.confirmed":
                if elected[event.epoch!]?.contains(group.office.session) != true {
                    world.fail("\(group.office.session) is confirmed under \(event.epoch!), and was not elected to it")
                }
            default: break
            }
        }
        if let before, group.office.epoch < before.office.epoch {
            world.fail("the epoch went from \(before.office.epoch) to \(group.office.epoch)")
        }
    }

    private func wasElected(
        _ event: GroupServerModel.Event, _ before: GroupServerModel.Office?, _ group: GroupServerModel.Group
    ) {
        elections += 1
        whys.insert(event.reason)
        let epoch = event.epoch!
        let session = group.office.session
        if epoch <= max(told, before?.epoch ?? 0) { world.fail("epoch \(epoch) is given, and \(told) was told") }
        if epoch <= highest.epoch {
            if highest.at >= lossAt { world.fail("epoch \(epoch) is given after \(highest.epoch)") }
            admitted += 1
        }
        told = max(told, epoch)
        elected[epoch, default: []].insert(session)
        judge(event, epoch, group)
        previous = (epoch, session, world.now)
    }

    private func judge(
        _ event: GroupServerModel.Event, _ epoch: Int64, _ group: GroupServerModel.Group
    ) {
        func fail(_ why: String) { world.fail("\(event.member!) is elected to \(epoch) (\(event.reason)) and \(why)") }
        guard let held = group.held(event.member!) else { return fail("is no member") }
        let session = held.record.session
        if held.ends <= group.now { fail("its lease is over") }
        if !held.record.isCandidate { fail("is no candidate") }
        let isOrdered = ["switchover", "failback", "failover"].contains(event.reason)
        if !isOrdered, group.office.pausedUntil ?? 0 > group.now { fail("the group is paused") }
        if event.reason == "failover" { return }
        if !held.record.health.isEmpty { fail("is ill") }
        if held.standing?.unfit.isEmpty == false { fail("is not fit") }
        if held.record.weight == 0 { fail("drains") }
        if group.office.maintenance.contains(held.record.id) { fail("is in maintenance") }
        guard let previous else { return }
        let mine = held.standing?.position
        if isOrdered {
            guard let final = finals[previous.epoch] else { return }
            if mine ?? -1 < final { fail("has \(mine ?? -1) of \(final)") }
            return
        }
        if barred[session] ?? 0 > group.now { fail("is barred") }
        guard let measure = positions[previous.session] else { return }
        guard let mine else { return fail("has no position") }
        if let limit = group.settings["maxLag"].flatMap({ Int64($0) }), limit >= 0, mine + limit < measure {
            fail("lacks \(measure - mine)")
        }
    }

    // MARK: The end

    func checkTheEnd() {
        guard let group = world.model.groups[GroupWorld.group] else { return }
        let able = world.nodes.filter { node in
            guard node.isAlive, let membership = node.member?.membership, !membership.isOver,
                membership.state == .member
            else { return false }
            return node.candidate != nil && node.record.isCandidate
        }
        let office = group.office
        guard !able.isEmpty else {
            if !office.primary.isEmpty { world.fail("\(office.primary) is primary at the end, of no candidates") }
            return
        }
        let inside = able.filter { $0.candidate?.epochInside != nil }
        // Who failed by itself again and again rests for a while, and so nobody may be there.
        if office.primary.isEmpty, able.allSatisfy({ group.restsUntil($0.name) > group.now }) { return }
        if inside.count != 1 { world.fail("\(inside.map(\.name)) are primary at the end; \(office)") }
        if office.phase != .ready { world.fail("the role is \(office.phase) at the end; \(office)") }
        if let node = inside.first {
            if node.candidate?.state != .primary(office.epoch) || node.record.session != office.session {
                world.fail("\(node.name) is \(node.candidate!.state) at the end, and Redis says \(office)")
            }
        }
    }
}
