// SPDX-License-Identifier: Apache-2.0
//
// The inbox of a simulated process, and its being paused or killed.
import RingfenceCore
import TestSupport

extension SimulatedProcess {
    func openInbox() {
        guard isAlive, inbox == nil else { return }
        let fresh = Inbox(self, world)
        inbox = fresh
        fresh.open {
            self.react {
                guard self.inbox === fresh else { return }
                self.inboxHeard = true
                for slot in self.slots { self.handle(.inboxReady, slot) }
            }
        }
    }

    func cutInbox() {
        guard isAlive, let inbox else { return }
        world.note("\(name) loses its inbox")
        inbox.cut { self.react { self.inboxIsGone(inbox) } }
    }

    func inboxIsGone(_ old: Inbox) {
        guard inbox === old else { return }
        inbox = nil
        inboxHeard = false
        world.after(world.dice(1 * .millisecond...500 * .millisecond)) { self.react { self.openInbox() } }
    }

    func heard(_ push: LockServerModel.Push, on inbox: Inbox) {
        react {
            guard self.inbox === inbox else { return }
            switch push.kind {
            case .grant:
                // One that nobody here waits for may be late, and of a lock that is held by now: never give it back.
                guard let slot = self.slots.first(where: { $0.machine.nonce == push.nonce }) else { return }
                self.handle(.pushed(nonce: push.nonce, fence: push.fence), slot)
            case .revoked:
                for holding in self.holdings where holding.value.nonce == push.nonce {
                    if case .lose(let reason) = holding.lease.lose(.revoked) { self.lost(holding, reason) }
                }
            }
        }
    }

    func pause(for length: Nanos) {
        guard isAlive, !isPaused else { return }
        world.note("\(name) is paused for \(length / .millisecond) ms")
        isPaused = true
        world.after(length) { self.resume() }
    }

    private func resume() {
        guard isAlive, isPaused else { return }
        world.note("\(name) wakes up")
        isPaused = false
        nextWake = .never
        let heard = heardWhilePaused
        heardWhilePaused = []
        // Timers or sockets first: an event loop may do either.
        let ticksAfter = world.random.chance(50) ? 0 : Int(world.dice(0...Int64(heard.count)))
        for (index, action) in heard.enumerated() {
            if index == ticksAfter { tick() }
            react(action)
        }
        tick()
    }

    /// kill -9. The kernel may still deliver what was written; its inbox falls silent at once or a little later.
    func kill() {
        guard isAlive else { return }
        world.note("\(name) is killed")
        for holding in holdings { world.checker.ended(holding) }
        wire?.stillToCome = Int(world.dice(0...4))
        if let wire { formerWires.append(wire) }
        isAlive = false
        if let inbox {
            let delay = world.random.chance(50) ? 0 : world.dice(0...2 * .second)
            world.after(delay) { self.world.server.unsubscribe(inbox) }
        }
        wire = nil
        inbox = nil
        requests = []
        unsent = []
        cleanUps = []
        slots = []
        holdings = []
        heardWhilePaused = []
    }

    func heal() { if isPaused { resume() } }

    /// Whether anything here still stands for this nonce.
    func answersFor(_ nonce: String) -> Bool {
        if cleanUps.contains(where: { $0.nonce == nonce }) { return true }
        if holdings.contains(where: { $0.value.nonce == nonce }) { return true }
        return slots.contains { slot in
            switch slot.machine.state {
            case .idle: false
            case .asking(let ask, _, _), .backingOff(let ask, _), .queued(let ask, _), .claiming(let ask, _, _):
                ask.nonce == nonce
            case .held(let value, _): value.nonce == nonce
            case .releasing(let release): release.value.nonce == nonce || release.successor?.nonce == nonce
            }
        }
    }

    var isQuiet: Bool { !isAlive || (slots.isEmpty && holdings.isEmpty && cleanUps.isEmpty) }

    var summary: String {
        guard isAlive, !isQuiet else { return "" }
        let machines = slots.map { "\($0.names) \($0.machine.state) waiters \($0.machine.waiters.count)" }
        return "\n\(name): \(machines.joined(separator: "; ")); holds \(holdings.count), cleans up \(cleanUps.count)"
    }
}

/// One subscription to a process' inbox: pushes arrive in order, mostly.
final class Inbox {
    let process: SimulatedProcess
    private let world: World
    private var lastArrival: Nanos = 0

    init(_ process: SimulatedProcess, _ world: World) {
        self.process = process
        self.world = world
    }

    func open(ready: @escaping () -> Void) {
        world.after(world.travelTime()) {
            self.world.server.subscribe(self)
            if self.world.server.isUp {
                self.world.after(self.world.travelTime(), ready)
            } else {  // tries again as long as Redis is away
                self.world.after(20 * .millisecond) { self.open(ready: ready) }
            }
        }
    }

    func carry(_ push: LockServerModel.Push) {
        let isStormy = !world.isCalm && world.faults.contains(.cutInbox)
        if isStormy, world.random.chance(10) { return }
        lastArrival = max(lastArrival, world.now + world.travelTime())
        world.at(lastArrival) { self.process.heard(push, on: self) }
        if isStormy, world.random.chance(10) {  // again, much later
            world.after(world.dice(0...2 * .second)) { self.process.heard(push, on: self) }
        }
    }

    /// Either end may notice first: Redis counts a dead peer as a listener, or the client thinks it still is one.
    func cut(noticed: @escaping () -> Void) {
        let serverFirst = world.random.chance(50)
        let gap = world.dice(0...1 * .second)
        world.after(serverFirst ? 0 : gap) { self.world.server.unsubscribe(self) }
        world.after(serverFirst ? gap : 0, noticed)
    }
}
