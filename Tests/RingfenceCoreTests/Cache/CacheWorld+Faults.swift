// SPDX-License-Identifier: Apache-2.0
//
// What strikes the nodes and processes of the simulated cache, and what must be true once it is over.
import RingfenceCacheCore
import RingfenceCore
import TestSupport

extension CacheWorld {
    // MARK: Faults

    func strikeAgain() {
        guard !isCalm else { return }
        after(dice(30 * .millisecond...unrest)) {
            guard !self.isCalm else { return }
            if !self.faultList.isEmpty { self.strike(self.random.pick(self.faultList)) }
            self.strikeAgain()
        }
    }

    private var allProcesses: [CacheProcess] { clients as [CacheProcess] + repairers as [CacheProcess] }

    func strike(_ fault: Fault) {
        let node = nodes[random.pick(ids)]!
        switch fault {
        case .lose, .late, .again: break
        case .cut:
            let process = random.pick(allProcesses)
            process.cutUntil[node.id] = now + dice(50 * .millisecond...4 * .second)
        case .partition:
            // Some do not see some.
            let until = now + dice(200 * .millisecond...4 * .second)
            for process in allProcesses where random.chance(50) {
                for id in ids where random.chance(40) { process.cutUntil[id] = until }
            }
        case .freeze:
            guard node.isUp, !node.isFrozen else { return }
            note("\(node.id) freezes")
            node.isFrozen = true
            after(dice(50 * .millisecond...4 * .second)) { self.thaw(node) }
        case .pauseClient:
            clients.randomElement(using: &random)?.pause(for: dice(50 * .millisecond...longestPause))
        case .pauseRepairer:
            guard let repairer = repairers.randomElement(using: &random) else { return }
            let length = dice(50 * .millisecond...longestPause)
            repairer.pause(for: length)
            // It loses its lock, another has it; and it wakes, and goes on until it notices.
            guard repairers.count == 1, random.chance(70) else { return }
            after(dice(0...length)) { if !self.isCalm { self.startRepairer(isNew: false) } }
            after(length + dice(0...2 * .second)) { self.end(repairer) }
        case .killClient:
            guard let client = clients.randomElement(using: &random) else { return }
            client.kill()
            clients.removeAll { $0 === client }
            after(dice(0...2 * .second)) { self.startClient() }
        case .killRepairer:
            guard let repairer = repairers.randomElement(using: &random) else { return }
            end(repairer)
            after(dice(0...2 * .second)) { if self.repairers.isEmpty { self.startRepairer(isNew: false) } }
        case .restart, .loseSecond, .loseData, .flush:
            guard node.isUp, mayLose(node) else { return }
            lose(node, fault)
        case .stepClientClock:
            clients.randomElement(using: &random)?.wallOffset += random.pick([-3000, -500, 500, 3000, 60_000])
        case .stepNodeClock:
            // Small ones: all that is promised about times rests on clocks that run.
            node.clockOffset += random.pick([-400, -100, 100, 400])
        case .coordinatorAway:
            guard isCoordinatorUp else { return }
            isCoordinatorUp = false
            after(dice(100 * .millisecond...4 * .second)) { self.isCoordinatorUp = true }
        case .coordinatorLoses:
            note("the coordinator loses the layout")
            stored = nil
        case .coordinatorStepsBack:
            guard let before else { return }
            note("the coordinator has layout \(before.epoch) again")
            stored = before
        case .join: join()
        case .drain: drain()
        case .leave: leave()
        }
    }

    func end(_ repairer: CacheRepairer) {
        guard repairer.isAlive else { return }
        repairer.kill()
        repairers.removeAll { $0 === repairer }
        if repairers.isEmpty, isCalm { startRepairer(isNew: false) }
    }

    private func thaw(_ node: CacheNode) {
        guard node.isFrozen else { return }
        note("\(node.id) goes on")
        node.isFrozen = false
        let all = node.unread
        node.unread = []
        for action in all { action() }
    }

    func lose(_ node: CacheNode, _ fault: Fault) {
        note("\(node.id): \(fault)")
        losses += 1
        switch fault {
        case .flush:
            node.model.forgetEverything()
            // What is in a file is flushed with it.
            node.snapshots = []
            return
        case .loseData:
            node.model.forgetEverything()
            node.snapshots = []
        case .loseSecond:
            if let snapshot = node.snapshots.randomElement(using: &random) { node.model.stepBack(to: snapshot) }
        default: break
        }
        node.isUp = false
        node.isFrozen = false
        node.newRun()
        after(dice(0...2 * .second)) { if !node.isGone { node.isUp = true } }
    }

    func join() {
        guard present.count < 6 else { return }
        let away = ids.filter { id in !present.contains { $0.id == id } && !layout.everybody.contains { $0.id == id } }
        let id: String
        if let old = away.randomElement(using: &random), random.chance(60) {
            // One that was there before, with what it had then, or without.
            id = old
            let node = nodes[id]!
            if random.chance(30) { node.model.forgetEverything() }
            if random.chance(60) { node.newRun() }
            (node.isUp, node.isGone) = (true, false)
            goneForGood.remove(id)
        } else {
            guard ids.count < 8 else { return }
            id = "n\(ids.count)"
            addNode(id)
        }
        note("\(id) joins")
        present.append(CacheMember(id: id, weight: random.chance(80) ? 1 : 2))
    }

    private var owners: Int { present.count { $0.weight > 0 } }

    func drain() {
        guard owners > settings.copies, let index = present.indices.randomElement(using: &random),
            present[index].weight > 0
        else { return }
        note("\(present[index].id) is drained")
        present[index].weight = 0
        let id = present[index].id
        if random.chance(50) { leaveOnceDrained(id) }
    }

    private func leaveOnceDrained(_ id: String) {
        after(200 * .millisecond) {
            if self.layout.step == .settled, let member = self.layout.members.first(where: { $0.id == id }),
                member.weight == 0
            {
                self.note("\(id) leaves, drained")
                self.present.removeAll { $0.id == id }
                // Its data stays in it, for when it comes again.
                if self.random.chance(50) { self.nodes[id]!.isUp = false }
            } else if !self.isCalm {
                self.leaveOnceDrained(id)
            }
        }
    }

    func leave() {
        // Where every node is needed for some quorum, nobody can be given up.
        let isSpared =
            min(settings.writes, settings.reads) > 1 && max(settings.writes, settings.reads) < settings.copies
        guard isSpared, owners > settings.copies, layout.step == .settled,
            let member = present.filter({ $0.weight > 0 }).randomElement(using: &random),
            layout.members.contains(where: { $0.id == member.id }), mayLose(nodes[member.id]!)
        else { return }
        note("\(member.id) is gone for good")
        losses += 1
        let node = nodes[member.id]!
        (node.isUp, node.isFrozen, node.isGone) = (false, false, true)
        node.newRun()
        present.removeAll { $0.id == member.id }
        if random.chance(50) { goneForGood.insert(member.id) }
    }

    // MARK: The end

    func becomeCalm() {
        note("calm")
        isCalm = true
        isCoordinatorUp = true
        for process in allProcesses {
            process.cutUntil = [:]
            process.wake()
        }
        for id in ids {
            thaw(nodes[id]!)
            if !nodes[id]!.isGone { nodes[id]!.isUp = true }
        }
        for repairer in repairers.dropLast() { end(repairer) }
        if repairers.isEmpty { startRepairer(isNew: false) }
        after(Self.grace) { self.mustSucceed = true }
        after(Self.grace + 4 * .second) { self.isOver = true }
        after(Self.grace + 17 * .second) { self.checkTheEnd() }
        after(Self.grace + 20 * .second) { self.isFinished = true }
    }

    /// A call failed.
    func failed(_ what: @autoclosure () -> String) {
        if mustSucceed { fail("\(what()), \(Self.grace / .second) s and more after all faults ended") }
    }

    private func checkTheEnd() {
        if layout.step != .settled { fail("at the end the layout moves still: \(layout)") }
        let wanted = present.sorted { $0.id.isBefore($1.id) }
        if layout.members != wanted {
            fail("at the end the members are \(layout.members.map(\.id)), not \(wanted.map(\.id))")
        }
        if stored != layout { fail("at the end the coordinator has another layout") }
        if !lacking.isEmpty { fail("at the end these are not whole: \(lacking)") }
        guard violation == nil, let map = map(of: layout) else { return }
        for key in keys {
            let found = map.keepers(of: key).map { place -> String in
                let node = nodes[map.ids[place]]!
                node.model.clock = now / .millisecond + node.clockOffset
                let answer = node.model.call(.get([key]), stamp: layout.stamp, run: node.run)
                guard case .entries(let entries) = answer.result else { return "\(answer.result)" }
                // What is over may be forgotten here and remembered there.
                guard let entry = entries[0], entry.payload != nil else { return "-" }
                return entry.version.text
            }
            // Times that run out come to an end within the slack of copying.
            let values = Set(found)
            if values.count > 1 { fail("at the end the nodes of \(key) have \(found)") }
        }
        for client in clients {
            for key in keys {
                client.write(key, isRemoval: random.chance(20), ttl: nil) { isDone in
                    if isDone { client.read(key) { _ in } }
                }
            }
        }
    }
}
