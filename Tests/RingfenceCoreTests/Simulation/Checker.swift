// SPDX-License-Identifier: Apache-2.0
//
// The rules, held against what happened: it sees each command with Redis' keys before and after it, and what users were
// told; it shares no code with what it judges.
//
//   one holder     no two users believe at the same true moment that they hold a name. Excused: a grant that Redis
//   lost,
//                  let go early because its clock was set forward, or was made to take away; the fences must rise even
//                  then
//   fences         those given for a name only grow, so a resource that takes none but rising ones takes no stale write
//   order          whoever stood in a name's queue before the one granted was dropped, for its process had been silent
//                  for longer than a claim may take; in one process, in the order they came
//   all or nothing a set of names is granted under one fence at one moment
//   one answer     each waiter is given the lock or refused, once, and nothing after it left
//   nothing sent   an acquire of which it was said that it never left does not come later
//   no stall       in the calm, a free lock goes to who waits for it, at the latest when the last holder's time would
//   have
//                  been over, and a second
//   no ghost       no key and no place of a living process stays that nothing in it answers for for more than a second;
//                  in the end nothing stays at all
import RingfenceCore
import TestSupport

final class Checker {
    private enum Outcome { case waiting, delivered, refused, left }

    private struct Belief {
        var holding: Holding
        var until: Nanos
    }

    private struct Guarded {
        var fence: Int64 = 0
        var grant = 0
    }

    unowned var world: World!

    private var outcomes: [LockMachine.WaiterID: Outcome] = [:]
    private var lines: [ObjectIdentifier: (slot: Slot, waiting: [LockMachine.WaiterID])] = [:]
    private var beliefs: [Belief] = []
    private var void: Set<LockValue> = []

    private var namesOf: [String: [String]] = [:]
    /// Of those that came back to the place they had.
    private var arrivals: [String: Int64] = [:]
    private var highestFence: [String: Int64] = [:]
    private var grants: [LockValue: Int] = [:]
    private var resources: [String: Guarded] = [:]
    /// When the time of the longest holder of a name is over at Redis, in true time.
    private var lastEnd: [String: Nanos] = [:]

    /// Of acquires of which it was said that nothing was sent.
    private var unsent: Set<String> = []
    private var orphanSince: [String: Nanos] = [:]
    private var stalledSince: [String: Nanos] = [:]

    private(set) var delivered = 0
    private(set) var refused = 0
    private(set) var staleWritesRefused = 0

    // MARK: What users see

    func arrived(_ user: User, at slot: Slot) {
        outcomes[user.id] = .waiting
        lines[ObjectIdentifier(slot), default: (slot, [])].waiting.append(user.id)
    }

    /// True if it was still waiting.
    func left(_ id: LockMachine.WaiterID) -> Bool {
        guard outcomes[id] == .waiting else { return false }
        settle(id, .left)
        return true
    }

    func refused(_ id: LockMachine.WaiterID) {
        if outcomes[id] != .waiting { world.fail("waiter \(id) is refused after it was \(outcomes[id]!)") }
        settle(id, .refused)
        refused += 1
    }

    private func settle(_ id: LockMachine.WaiterID, _ outcome: Outcome) {
        outcomes[id] = outcome
        for key in lines.keys { lines[key]!.waiting.removeAll { $0 == id } }
    }

    func delivered(_ holding: Holding, by process: SimulatedProcess) {
        let id = holding.user.id
        if outcomes[id] != .waiting { world.fail("waiter \(id) is given the lock after it was \(outcomes[id]!)") }
        if let line = lines[ObjectIdentifier(holding.slot)], line.waiting.first != id {
            world.fail("waiter \(id) is served before \(line.waiting)")
        }
        settle(id, .delivered)
        delivered += 1
        if holding.lease.isHeld(at: process.clock) { extended(holding, by: process) }
    }

    /// It believes that it holds until its own clock shows the deadline.
    func extended(_ holding: Holding, by process: SimulatedProcess) {
        let until = process.trueTime(of: holding.lease.deadline)
        beliefs.removeAll { $0.until <= world.now || $0.holding === holding }
        for other in beliefs where other.holding.slot.names.contains(where: holding.slot.names.contains) {
            if void.contains(other.holding.value) || void.contains(holding.value) { continue }
            world.fail(
                "\(holding.value.text) and \(other.holding.value.text) both believe to hold \(holding.slot.names)")
        }
        beliefs.append(Belief(holding: holding, until: until))
    }

    func ended(_ holding: Holding) { beliefs.removeAll { $0.holding === holding } }

    func died(_ process: SimulatedProcess) {
        for user in world.workload.users where user.process === process && outcomes[user.id] == .waiting {
            settle(user.id, .left)
        }
    }

    /// A write with the lease's fence to each of its names, guarded: only rising fences pass.
    func write(_ holding: Holding) {
        guard let grant = grants[holding.value] else {
            return world.fail("\(holding.value.text) was delivered but never granted")
        }
        for name in holding.slot.names {
            let seen = resources[name] ?? Guarded()
            guard holding.value.fence >= seen.fence else {
                staleWritesRefused += 1
                continue
            }
            if grant < seen.grant { world.fail("a stale write by \(holding.value.text) to \(name) was accepted") }
            resources[name] = Guarded(fence: holding.value.fence, grant: grant)
        }
    }

    // MARK: What Redis did

    /// Redis lost every lock, or cut their time.
    func everyGrantIsVoid(in model: LockServerModel) {
        for lock in model.locks.values { void.insert(lock.value) }
    }

    func wasToldNothingWasSent(_ nonce: String) { unsent.insert(nonce) }

    func executed(_ command: Command, before: LockServerModel, after: LockServerModel) {
        if case .acquire(_, let nonce, _, _) = command, unsent.contains(nonce) {
            world.fail("\(nonce) is asked for, and was said never to have been sent")
        }
        var passed: String?
        var withdrawn: String?
        var isForced = false
        switch command {
        case .acquire(let names, let nonce, _, let queue):
            namesOf[nonce] = names
            if case .since(let arrival) = queue { arrivals[nonce] = arrival }
        case .release(let names, _, let successor?):
            namesOf[successor.nonce] = names
            if !successor.yields { passed = successor.nonce }
        case .force(let name):
            isForced = true
            if let value = before.locks[name]?.value { void.insert(value) }
        case .cancel(_, let nonce, _): withdrawn = nonce
        case .release, .renew, .hello: break
        }
        for name in after.locks.keys.sorted() {
            let lock = after.locks[name]!
            let left = min(lock.expiresAt - after.now, 3_600_000_000)
            lastEnd[name] = max(lastEnd[name] ?? 0, world.now + left * 1000)
            if before.locks[name]?.value != lock.value {
                granted(lock.value, name, before, after, isForced: isForced)
                if lock.value.nonce != passed { checkOrder(lock.value, name, withdrawn: withdrawn, before, after) }
            }
        }
    }

    private func granted(
        _ value: LockValue, _ name: String, _ before: LockServerModel, _ after: LockServerModel, isForced: Bool
    ) {
        // (What is taken by force before it was claimed comes to the same waiter again: it is the first in line.)
        if before.locks[name]?.value.nonce == value.nonce, !isForced {
            world.fail("\(value.text) replaces its own grant")
        }
        if value.fence <= highestFence[name] ?? 0 {
            world.fail("the fence of \(value.text) for \(name) does not exceed \(highestFence[name]!)")
        }
        highestFence[name] = value.fence
        if grants[value] == nil { grants[value] = grants.count + 1 }
        guard let names = namesOf[value.nonce] else {
            return world.fail("\(value.text) was granted but never asked for")
        }
        for other in names where after.locks[other]?.value != value {
            world.fail("\(value.text) was granted \(name) but not \(other)")
        }
    }

    private func checkOrder(
        _ value: LockValue, _ name: String, withdrawn: String?, _ before: LockServerModel, _ after: LockServerModel
    ) {
        let queue = before.queues[name]?.value ?? []
        let earlier = queue.prefix { $0.place.nonce != value.nonce && $0.arrival < arrivals[value.nonce] ?? .max }
        for entry in earlier where entry.place.nonce != withdrawn {
            let process = LockServerModel.process(of: entry.place.nonce)
            let stays = after.queues[name]?.value.contains { $0.place == entry.place } ?? false
            if stays || !after.isGone(process) {
                world.fail("\(value.text) was granted \(name) before \(entry.place.nonce), which had come first")
            }
        }
    }

    // MARK: Ghosts and stalls

    private func process(of nonce: String) -> SimulatedProcess? {
        let name = LockServerModel.process(of: nonce)
        return world.processes.first { $0.name == name && $0.isAlive }
    }

    func inspect() {
        let model = world.server.current()
        var orphans: [String: Nanos] = [:]
        let held = model.locks.values.map(\.value.nonce)
        let queued = model.queues.values.flatMap { $0.value.map(\.place.nonce) }
        for nonce in held + queued {
            guard let process = process(of: nonce), !process.answersFor(nonce) else { continue }
            let since = orphanSince[nonce] ?? world.now
            orphans[nonce] = since
            if world.now - since > 1 * .second {
                world.fail("a ghost: \(nonce) stays in Redis and nobody stands for it")
            }
        }
        orphanSince = orphans
        if world.isCalm { lookForStalls(model) }
    }

    private func lookForStalls(_ model: LockServerModel) {
        var stalled: [String: Nanos] = [:]
        for process in world.processes where process.isAlive {
            for slot in process.slots where !slot.machine.waiters.isEmpty && isOpen(slot, to: process, model) {
                let key = process.name + slot.names.joined(separator: "+")
                let since = stalledSince[key] ?? world.now
                stalled[key] = since
                let end = slot.names.map { lastEnd[$0] ?? 0 }.max() ?? 0
                if world.now > max(end + 1 * .second, since + 1500 * .millisecond) {
                    world.fail("\(process.name) waits for \(slot.names), which are free: \(slot.machine.state)")
                }
            }
        }
        stalledSince = stalled
    }

    /// Whether nothing stands between this slot and its names.
    private func isOpen(_ slot: Slot, to process: SimulatedProcess, _ model: LockServerModel) -> Bool {
        slot.names.allSatisfy { name in
            guard model.locks[name] == nil else { return false }
            let living = (model.queues[name]?.value ?? []).filter { self.process(of: $0.place.nonce) != nil }
            guard let first = living.first else { return true }
            return first.place.names == slot.names && self.process(of: first.place.nonce) === process
        }
    }

    func checkTheEnd() {
        for process in world.processes where !process.isQuiet { world.fail("not idle in the end:\(process.summary)") }
        for (id, outcome) in outcomes where outcome == .waiting { world.fail("waiter \(id) was never answered") }
        var model = world.server.current()
        for nonce in model.locks.values.map(\.value.nonce)
            + model.queues.values.flatMap({ $0.value.map(\.place.nonce) })
        {
            if process(of: nonce) != nil { world.fail("a ghost in the end: \(nonce)") }
        }
        // Who died left a key until its time is over, and places until somebody comes by.
        model.now += 5_000_000
        let names = ["a", "b", "c"]
        let visitor = Place(nonce: "visitor-1-s", owner: "visitor", holdMilliseconds: 1000, names: names)
        var answer = model.acquire(visitor, .last)
        for _ in 0..<8 {  // each dead place may be granted once, and costs its claim time
            if case .fence = answer { break }
            model.now += 2_000_000
            answer = model.acquire(visitor, .last)
        }
        guard case .fence = answer else { return world.fail("a visitor does not get every name: \(answer)") }
        _ = model.cancel(names, nonce: visitor.nonce, place: visitor)
        if !model.locks.isEmpty || !model.queues.isEmpty {
            world.fail("left behind: \(model.locks) \(model.queues)")
        }
    }
}
