// SPDX-License-Identifier: Apache-2.0
//
// Redis and the wires to it. A wire is a TCP connection: bytes arrive in order, or not at all from some byte on. When a
// client gives a connection up, what it wrote may still be on the way or unread in the socket and is executed later,
// unless the server was told to kill that connection first: it is the `hello` of each new connection that does so.
import RingfenceCore
import TestSupport

enum Command {
    case hello
    case acquire([String], nonce: String, LockTerms, queue: LockMachine.Queueing)
    case release([String], LockValue, LockMachine.Successor?)
    case cancel([String], nonce: String, LockTerms)
    case force(String)
    case renew([(names: [String], value: LockValue, holdMilliseconds: Int64)], claimedBy: String?)
}

enum Reply {
    case hello
    case answer(LockServerModel.Answer)
    /// An error reply: nothing was done.
    case refused
}

/// One connection for commands.
final class Wire {
    let process: SimulatedProcess
    var lastArrival: Nanos = 0
    var lastReply: Nanos = 0
    /// Once the client has given it up: only so many more commands still get through, late.
    var stillToCome: Int?
    var isKilled = false

    let predecessors: [Wire]

    init(_ process: SimulatedProcess, predecessors: [Wire]) {
        self.process = process
        self.predecessors = predecessors
    }
}

final class SimulatedServer {
    private unowned let world: World
    var model: LockServerModel
    private var clockOffset: Int64 = 1_790_000_000_000_000
    private var highestClock: Int64 = 0
    private(set) var isUp = true
    private var isPaused = false
    private var hasRestarted = false
    /// Everything is refused for now: it is moving, say, or fails over.
    private var refusesUntil: Nanos = 0
    private var unread: [(Wire, () -> Void)] = []
    private(set) var inboxes: [Inbox] = []

    init(_ world: World) {
        self.world = world
        model = LockServerModel(
            now: 0, claimMilliseconds: world.flaws.claimNeverEnds ? nil : World.claimMilliseconds,
            fenceRule: world.flaws.fenceRule)
        readClock()
    }

    private func readClock() {
        model.now = world.now / 1000 + clockOffset
        highestClock = max(highestClock, model.now)
    }

    /// The model as of now.
    func current() -> LockServerModel {
        readClock()
        model.expire()
        return model
    }

    // MARK: Commands

    /// Puts a command on the wire; `answered` is called at the client, unless the answer is lost.
    func send(_ command: Command, on wire: Wire, answered: @escaping (Reply) -> Void) {
        wire.lastArrival = max(wire.lastArrival, world.now + world.travelTime())
        world.at(wire.lastArrival) { self.arrive(command, on: wire, answered) }
    }

    private func arrive(_ command: Command, on wire: Wire, _ answered: @escaping (Reply) -> Void) {
        if let left = wire.stillToCome {
            guard left > 0 else { return }
            wire.stillToCome = left - 1
            if world.random.chance(50) {  // still in a buffer on the way
                wire.stillToCome = left
                wire.lastArrival = max(wire.lastArrival, world.now + world.dice(1 * .millisecond...1500 * .millisecond))
                world.at(wire.lastArrival) { self.read(command, on: wire, answered) }
                return
            }
        }
        read(command, on: wire, answered)
    }

    private func read(_ command: Command, on wire: Wire, _ answered: @escaping (Reply) -> Void) {
        guard isUp, !wire.isKilled else { return }
        if isPaused {
            unread.append((wire, { self.read(command, on: wire, answered) }))
            return
        }
        let reply = execute(command, on: wire)
        wire.lastReply = max(wire.lastReply, world.now + world.travelTime())
        world.at(wire.lastReply) { answered(reply) }
    }

    private func execute(_ command: Command, on wire: Wire) -> Reply {
        if case .hello = command {
            if !world.flaws.reconnectsWithoutKillingThePredecessor {
                for old in wire.predecessors { old.isKilled = true }
                wire.process.formerWires.removeAll { $0.isKilled }
            }
            return .hello
        }
        if world.faults.contains(.errorReplies), !world.isCalm {
            if world.now < refusesUntil { return .refused }
            if world.random.chance(2) {
                if world.random.chance(10) { refusesUntil = world.now + world.dice(0...1_000 * .millisecond) }
                return .refused
            }
        }
        let before = current()
        let answer = run(command)
        world.note("  redis \(wire.process.name) \(command) -> \(answer)")
        world.checker.executed(command, before: before, after: model)
        publish()
        return .answer(answer)
    }

    private func run(_ command: Command) -> LockServerModel.Answer {
        switch command {
        case .hello: .done
        case .acquire(let names, let nonce, let terms, let queue):
            model.acquire(Self.place(nonce, terms, names), queue)
        case .release(let names, let value, let successor):
            model.release(
                names, value,
                to: successor.map {
                    LockServerModel.Successor(
                        nonce: $0.nonce, owner: $0.terms.owner, holdMilliseconds: $0.terms.holdMilliseconds,
                        place: $0.yields ? Self.place($0.nonce, $0.terms, names) : nil)
                })
        case .cancel(let names, let nonce, let terms):
            model.cancel(names, nonce: nonce, place: Self.place(nonce, terms, names))
        case .force(let name): model.force(name)
        case .renew(let leases, let process): model.renew(leases, claimedBy: process)
        }
    }

    private static func place(_ nonce: String, _ terms: LockTerms, _ names: [String]) -> Place {
        Place(nonce: nonce, owner: terms.owner, holdMilliseconds: terms.holdMilliseconds, names: names)
    }

    // MARK: Inboxes

    private func publish() {
        for push in model.pushes {
            for inbox in inboxes where inbox.process.name == push.process { inbox.carry(push) }
        }
        model.pushes = []
    }

    func subscribe(_ inbox: Inbox) {
        guard isUp else { return }
        inboxes.append(inbox)
        model.listeners[inbox.process.name, default: 0] += 1
    }

    func unsubscribe(_ inbox: Inbox) {
        guard let index = inboxes.firstIndex(where: { $0 === inbox }) else { return }
        inboxes.remove(at: index)
        model.listeners[inbox.process.name, default: 1] -= 1
    }

    // MARK: Faults

    /// Dies, and comes back empty or with all its data.
    func restart(after downtime: Nanos) {
        guard isUp else { return }
        let keepsData = world.random.chance(50)
        world.note("redis restarts \(keepsData ? "with" : "without") its data, up in \(downtime / .millisecond) ms")
        if !keepsData {
            world.checker.everyGrantIsVoid(in: current())
            hasRestarted = true
        }
        isUp = false
        isPaused = false
        unread = []
        inboxes = []
        if keepsData { model.listeners = [:] } else { model.forgetEverything() }
        for process in world.processes { process.serverDied() }
        world.after(downtime) {
            // Without the data a fence grows as far as the clock does; the checker holds it to no more.
            self.readClock()
            let behind = self.highestClock - self.model.now
            if !keepsData, behind >= 0 { self.clockOffset += behind + 1000 }
            self.isUp = true
        }
    }

    func pause(for length: Nanos) {
        guard isUp, !isPaused else { return }
        world.note("redis pauses for \(length / .millisecond) ms")
        isPaused = true
        world.after(length) { self.resume() }
    }

    /// Sockets are read in any order, each from its first byte.
    private func resume() {
        guard isPaused else { return }
        isPaused = false
        var left = unread
        unread = []
        while !left.isEmpty {
            let wire = left[Int(world.dice(0...Int64(left.count) - 1))].0
            let index = left.firstIndex { $0.0 === wire }!
            left.remove(at: index).1()
        }
    }

    func stepClock(by microseconds: Int64) {
        // Data lost and then the clock set back: there no fence of server time can grow, and none is promised.
        guard microseconds > 0 || !hasRestarted else { return }
        world.note("redis' clock steps by \(microseconds) µs")
        // A step forward ends leases early: a lock on one Redis cannot survive that. The fences must.
        if microseconds > 0 { world.checker.everyGrantIsVoid(in: current()) }
        clockOffset += microseconds
    }

    func heal() { resume() }
}
