// SPDX-License-Identifier: Apache-2.0
//
// The users and the faults of a world: who comes when, for which names, on what terms and with how much patience; how
// long they hold, whether they renew, hand their lease elsewhere, write late, or walk away; and what breaks under them.
import RingfenceCore
import TestSupport

final class User {
    let id: LockMachine.WaiterID
    let names: [String]
    let terms: LockTerms
    let waits: Bool
    let renews: Bool
    let maximumHold: Nanos
    /// Held outside this process, as a lock over HTTP is.
    let isRemote: Bool
    var process: SimulatedProcess
    var holding: Holding?

    init(
        id: LockMachine.WaiterID, names: [String], terms: LockTerms, waits: Bool, renews: Bool, maximumHold: Nanos,
        isRemote: Bool, process: SimulatedProcess
    ) {
        self.id = id
        self.names = names
        self.terms = terms
        self.waits = waits
        self.renews = renews
        self.maximumHold = maximumHold
        self.isRemote = isRemote
        self.process = process
    }

    var solo: LockMachine.WaiterID? { isRemote ? id : nil }
}

final class Workload {
    private unowned let world: World
    private(set) var users: [User] = []
    /// The sets of names in play. A set is one machine in each process.
    private let sets: [[String]]
    private let ttls: [Nanos]
    private let pause: Nanos
    private var started = 0

    init(_ world: World) {
        self.world = world
        let all = [["a"], ["a"], ["b"], ["a", "b"], ["b", "c"], ["c", "a"], ["a", "b", "c"]]
        let single = world.random.chance(40)
        sets = single ? [["a"]] : (0..<world.dice(2...4)).map { _ in world.random.pick(all) }
        ttls = [100, 200, 500, 1000, 3000].filter { _ in world.random.chance(50) }.map { $0 * .millisecond }
        pause = world.random.pick([5, 20, 80]) * .millisecond
    }

    func begin() {
        for _ in 0..<world.dice(1...4) { startProcess() }
        comeAgain()
        breakAgain()
    }

    private func startProcess() {
        started += 1
        world.processes.append(SimulatedProcess(world, name: "p\(started)"))
    }

    // MARK: Users

    private func comeAgain() {
        world.after(world.dice(0...2 * pause)) {
            guard !self.world.isCalm else { return }
            self.come()
            self.comeAgain()
        }
    }

    private func come() {
        let living = world.processes.filter(\.isAlive)
        guard !living.isEmpty else { return }
        let process = world.random.pick(living)
        let terms = LockTerms(
            owner: world.random.chance(80) ? process.name : "other",
            ttl: ttls.isEmpty ? 1 * .second : world.random.pick(ttls))
        let user = User(
            id: LockMachine.WaiterID(users.count), names: world.random.pick(sets), terms: terms,
            waits: world.random.chance(85), renews: world.random.chance(60),
            maximumHold: world.random.chance(95) ? 3600 * .second : world.dice(100 * .millisecond...1 * .second),
            isRemote: world.random.chance(20), process: process)
        users.append(user)
        let patience = world.random.chance(40) ? nil : Optional(world.dice(5 * .millisecond...4 * .second))
        let leavesAfter = world.random.chance(20) ? Optional(world.dice(0...500 * .millisecond)) : nil
        process.react {
            let slot = process.slot(user.names, solo: user.solo)
            self.world.checker.arrived(user, at: slot)
            let giveUpAt = user.waits ? patience.map { process.clock + $0 } ?? .never : process.clock + 5 * .second
            process.handle(
                .wait(.init(id: user.id, terms: user.terms, giveUpAt: giveUpAt, waits: user.waits)), slot)
            if let leavesAfter { self.world.after(leavesAfter) { process.react { self.leave(user) } } }
        }
    }

    /// A task was cancelled: it stops waiting, or lets go of what it got.
    private func leave(_ user: User) {
        if let holding = user.holding { return user.process.release(holding) }
        guard world.checker.left(user.id) else { return }
        user.process.handle(.leave(user.id), user.process.slot(user.names, solo: user.solo))
    }

    func refused(_ id: LockMachine.WaiterID, _ refusal: LockMachine.Refusal) {}

    func delivered(_ holding: Holding, by process: SimulatedProcess) {
        holding.user.holding = holding
        let time = holdTime(holding)
        for _ in 0..<2 {  // unaware of anything that happened to its lease: the resource must refuse it then
            world.after(world.dice(0...time)) { process.react { self.world.checker.write(holding) } }
        }
        world.after(time) { process.react { process.release(holding) } }
    }

    private func holdTime(_ holding: Holding) -> Nanos {
        if world.isCalm || world.random.chance(60) { return world.dice(0...10 * .millisecond) }
        if world.random.chance(70) { return world.dice(0...200 * .millisecond) }
        return world.dice(0...2 * holding.user.terms.ttl)
    }

    func lost(_ holding: Holding, by process: SimulatedProcess) {
        let notices = world.dice(0...100 * .millisecond)
        world.after(notices) { process.react { process.release(holding) } }
    }

    // MARK: Faults

    private func breakAgain() {
        guard !world.faults.isEmpty else { return }
        world.after(world.dice(1 * .millisecond...400 * .millisecond)) {
            guard !self.world.isCalm else { return }
            self.breakSomething()
            self.breakAgain()
        }
    }

    private func breakSomething() {
        let process = world.random.pick(world.processes)
        switch world.random.pick(world.faults) {
        case .cutWire: process.cutWire()
        case .cutInbox: process.cutInbox()
        case .pause:
            process.pause(
                for: world.random.chance(70) ? world.dice(0...300 * .millisecond) : world.dice(0...4 * .second))
        case .kill:
            guard process.isAlive, world.random.chance(50) else { return }
            process.kill()
            world.checker.died(process)
            world.after(world.dice(0...500 * .millisecond)) { self.startProcess() }
        case .restartRedis:
            if world.random.chance(20) { world.server.restart(after: world.dice(0...600 * .millisecond)) }
        case .pauseRedis: world.server.pause(for: world.dice(0...800 * .millisecond))
        case .stepClock:
            if world.random.chance(30) { world.server.stepClock(by: world.dice(-2_000_000...2_000_000)) }
        case .force:
            let names = world.random.pick(sets)
            process.react {
                process.send(.force(self.world.random.pick(names))) { _ in }
            }
        case .slowWires:
            world.latency =
                world.random.chance(50) ? 2 * .millisecond : world.dice(2 * .millisecond...120 * .millisecond)
        case .errorReplies, .timeouts, .loseConfirmations: break  // these are always on where they were drawn
        }
    }
}
