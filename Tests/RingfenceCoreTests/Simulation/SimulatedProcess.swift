// SPDX-License-Identifier: Apache-2.0
//
// One process that uses locks: the lines of the library, unchanged, over simulated wires. It performs actions, hands
// answers back under their ticket, keeps what must be cleaned up until Redis has answered, renews leases, and passes
// pushes on. Its clock runs up to 1 % fast or slow beside Redis', its timers are late, and it can be paused (everything
// it would have heard waits in its sockets) or killed.
import RingfenceCore
import TestSupport

final class SimulatedProcess {
    /// A command on its way. Whatever happens, `over` is called once: with the answer, or nil if it was lost.
    final class Request {
        let command: Command
        let over: (Reply?) -> Void
        var isOver = false
        /// It waits for a wire.
        var isUnsent = true
        init(_ command: Command, over: @escaping (Reply?) -> Void) {
            self.command = command
            self.over = over
        }
    }

    final class CleanUp {
        let command: Command
        let nonce: String
        init(_ command: Command, nonce: String) {
            self.command = command
            self.nonce = nonce
        }
    }

    let name: String
    unowned let world: World
    private let driftPPM: Int64
    private let clockOffset: Nanos
    var isAlive = true
    var isPaused = false
    var heardWhilePaused: [() -> Void] = []

    var wire: Wire?
    var formerWires: [Wire] = []
    var requests: [Request] = []
    var unsent: [Request] = []
    var cleanUps: [CleanUp] = []
    var inbox: Inbox?
    var inboxHeard = false

    var slots: [Slot] = []
    var holdings: [Holding] = []
    private var lastNonce = 0
    private var lastTicket: LockMachine.Ticket = 0
    var nextWake: Nanos = .never

    init(_ world: World, name: String) {
        self.world = world
        self.name = name
        driftPPM = world.dice(-10_000...10_000)
        clockOffset = world.dice(0...1_000_000 * .second)
        connect()
        openInbox()
    }

    // MARK: Time

    var clock: Nanos { clockOffset + world.now + world.now * driftPPM / 1_000_000 }

    /// The first true moment at which the clock shows `local`.
    func trueTime(of local: Nanos) -> Nanos {
        let here = local - clockOffset
        guard here < 1_000 * .second else { return .never }
        return here * 1_000_000 / (1_000_000 + driftPPM) + 1
    }

    /// Runs `action` in this process: at once, on waking up, or never.
    func react(_ action: @escaping () -> Void) {
        guard isAlive else { return }
        if isPaused { heardWhilePaused.append(action) } else { action() }
    }

    private func planWake() {
        guard isAlive, !isPaused else { return }
        var at = Nanos.never
        for slot in slots { at = min(at, slot.machine.wakeAt) }
        for holding in holdings { at = min(at, holding.lease.wakeAt) }
        let due = trueTime(of: at)
        guard due != .never else { return }
        let when = max(due, world.now) + world.dice(0...2 * .millisecond)
        guard when < nextWake || nextWake <= world.now else { return }
        nextWake = when
        world.at(when) {
            guard self.nextWake == when else { return }
            self.nextWake = .never
            if !self.isPaused { self.tick() }
        }
    }

    func tick() {
        guard isAlive else { return }
        for slot in slots where slot.machine.wakeAt <= clock { handle(.tick, slot) }
        var due: [Holding] = []
        for holding in holdings {
            switch holding.lease.tick(now: clock) {
            case .none: break
            case .renew: due.append(holding)
            case .lose(let reason): lost(holding, reason)
            }
        }
        if !due.isEmpty { renew(due) }
        planWake()
    }

    // MARK: The machines

    func slot(_ names: [String], solo: LockMachine.WaiterID?) -> Slot {
        if let slot = existingSlot(names, solo: solo) { return slot }
        let slot = Slot(names, solo: solo, ticketsAfter: world.flaws.reusesTickets ? 0 : lastTicket)
        slots.append(slot)
        return slot
    }

    private func existingSlot(_ names: [String], solo: LockMachine.WaiterID?) -> Slot? {
        slots.first { $0.names == names && $0.solo == solo }
    }

    /// False if nobody awaits the end of the command that the event ends.
    @discardableResult
    func handle(
        _ event: LockMachine.Event, _ slot: Slot, ended: (ticket: LockMachine.Ticket, ending: LockLine.Ending)? = nil
    ) -> Bool {
        guard isAlive else { return true }
        world.note("\(name) \(slot.names) \(event)")
        let turn = slot.line.turn(
            event, ended: ended, now: clock, inboxHeard: inboxHeard,
            makeNonce: {
                lastNonce += 1
                return "\(name)-\(lastNonce)-s"
            }, takeBack: slot.takeBack, isUnsent: slot.isUnsent)
        guard let turn else { return false }
        if turn.failure == .notSent(isUnknown: false), slot.machine.waiters.isEmpty, let nonce = slot.asking?.nonce {
            world.checker.wasToldNothingWasSent(nonce)
        }
        for action in turn.actions { perform(action, slot) }
        if turn.isIdle {
            lastTicket = max(lastTicket, slot.machine.lastTicket)
            slots.removeAll { $0 === slot }
        }
        planWake()
        return true
    }

    private func perform(_ action: LockMachine.Action, _ slot: Slot) {
        world.note("\(name) \(slot.names)   => \(action)")
        switch action {
        case .ask(let ticket, let nonce, let terms, let queue):
            slot.asking = (
                ticket, nonce, send(.acquire(slot.names, nonce: nonce, terms, queue: queue), slot, ticket)
            )
        case .claim(let ticket, let value, let terms):
            let lease = (slot.names, value, terms.holdMilliseconds)
            send(.renew([lease], claimedBy: name), slot, ticket, fence: value.fence)
        case .release(let ticket, let value, let successor):
            send(.release(slot.names, value, successor), slot, ticket)
        case .deliver(let id, let grant): deliver(id, grant, slot)
        case .refuse(let id, let refusal):
            world.checker.refused(id)
            world.workload.refused(id, refusal)
        case .releaseDone: break
        case .cleanUp(let nonce, let terms): cleanUp(.cancel(slot.names, nonce: nonce, terms), nonce: nonce)
        case .cleanUpValue(let value):
            let terms = LockTerms(owner: value.owner, ttl: 0)
            cleanUp(.cancel(slot.names, nonce: value.nonce, terms), nonce: value.nonce)
        }
    }

    func deliver(_ id: LockMachine.WaiterID, _ grant: LockMachine.Grant, _ slot: Slot) {
        let user = world.workload.users[Int(id)]
        let sentAt = world.flaws.countsDeadlineFromReceipt ? clock : grant.sentAt
        let lease = LeaseMachine(
            terms: grant.terms, sentAt: sentAt, maximumHold: user.maximumHold, renews: user.renews)
        let holding = Holding(user: user, slot: slot, value: grant.value, lease: lease)
        holdings.append(holding)
        world.checker.delivered(holding, by: self)
        user.process = self
        react { self.world.workload.delivered(holding, by: self) }
    }

    @discardableResult
    private func send(
        _ command: Command, _ slot: Slot, _ ticket: LockMachine.Ticket, fence: Int64 = 0
    ) -> Request {
        let (names, solo) = (slot.names, slot.solo)
        var made: Request?
        let request = send(command) { reply in
            let event = self.event(of: reply, ticket, fence)
            var isUndone = made?.isUnsent == true
            if case .answer(.full) = reply { isUndone = true }
            if case .deferred = event { isUndone = true }
            let ending = LockLine.Ending(event, isUndone: isUndone)
            var isClaim = false
            if case .renew = command { isClaim = true }
            var ended: (LockMachine.Ticket, LockLine.Ending)? = (ticket, ending)
            if isClaim, case .answer = reply { ended = nil }
            // Idle machines are dropped: by now it may be another one of the same names.
            let isAwaited = self.existingSlot(names, solo: solo).map { self.handle(event, $0, ended: ended) } ?? false
            guard !isAwaited, case .acquire(_, let nonce, let terms, _) = command else { return }
            if LockLine.withdrawsAgain(ending) { self.cleanUp(.cancel(names, nonce: nonce, terms), nonce: nonce) }
        }
        made = request
        return request
    }

    func event(of reply: Reply?, _ ticket: LockMachine.Ticket, _ claimed: Int64) -> LockMachine.Event {
        let isConfirmed = !(world.faults.contains(.loseConfirmations) && !world.isCalm && world.random.chance(10))
        switch reply {
        case nil, .hello: return .failed(ticket, retriable: true)
        case .refused:
            guard world.random.chance(70) else { return .failed(ticket, retriable: world.random.chance(70)) }
            return .deferred(ticket, pause: world.dice(50 * .millisecond...250 * .millisecond), patience: 2 * .second)
        case .answer(let answer):
            switch answer {
            case .fence(let fence):
                return isConfirmed ? .granted(ticket, fence: fence) : .unconfirmed(ticket, fence: fence)
            case .queued(let position, let milliseconds, let arrival):
                return .queued(ticket, position: position, milliseconds: milliseconds, arrival: arrival)
            case .busy(let milliseconds, _), .notWhole(let milliseconds, _, _):
                return .busy(ticket, milliseconds: milliseconds)
            case .renewed([true]): return isConfirmed ? .claimed(ticket) : .unconfirmed(ticket, fence: claimed)
            case .renewed: return .claimRefused(ticket)
            case .full: return .failed(ticket, retriable: false)
            case .done, .forced, .free: return .released(ticket)
            }
        }
    }

    // MARK: Leases

    /// The user lets go. True if it still held.
    func release(_ holding: Holding) {
        guard isAlive, let index = holdings.firstIndex(where: { $0 === holding }) else { return }
        holdings.remove(at: index)
        _ = holding.lease.end()
        world.checker.ended(holding)
        handle(.release(holding.value), slot(holding.slot.names, solo: holding.slot.solo))
    }

    private func forget(_ holding: Holding) {
        guard let slot = existingSlot(holding.slot.names, solo: holding.slot.solo) else { return }
        handle(.forget(holding.value), slot)
    }

    func lost(_ holding: Holding, _ reason: LeaseMachine.LossReason) {
        world.note("\(name) lost \(holding.value.text): \(reason)")
        world.checker.ended(holding)
        forget(holding)
        world.workload.lost(holding, by: self)
    }

    private func renew(_ due: [Holding]) {
        let sentAt = clock
        let leases = due.map { ($0.slot.names, $0.value, $0.lease.terms.holdMilliseconds) }
        send(.renew(leases, claimedBy: nil)) { reply in
            for (index, holding) in due.enumerated() {
                var action = LeaseMachine.Action.none
                if case .answer(.renewed(let results)) = reply {
                    if results[index] {
                        action = holding.lease.renewed(sentAt: sentAt, now: self.clock)
                        if action == .none, holding.lease.isLive { self.world.checker.extended(holding, by: self) }
                    } else {
                        action = holding.lease.lose(.notHeld)
                    }
                } else {
                    action = holding.lease.renewalFailed(now: self.clock)
                }
                switch action {
                case .lose(let reason): self.lost(holding, reason)
                case .renew: self.renew([holding])
                case .none: break
                }
            }
            self.planWake()
        }
    }

    // MARK: Commands

    private func cleanUp(_ command: Command, nonce: String) {
        guard !world.flaws.cleansNothingUp else { return }
        let work = CleanUp(command, nonce: nonce)
        cleanUps.append(work)
        tryCleanUp(work)
    }

    /// Until Redis has answered. A wire that breaks is no answer: it is sent again on the next one.
    private func tryCleanUp(_ work: CleanUp) {
        guard isAlive, wire != nil else { return }
        send(work.command) { reply in
            if case .answer = reply {
                self.cleanUps.removeAll { $0 === work }
            } else if self.wire != nil {
                self.tryCleanUp(work)
            }
        }
    }

    @discardableResult
    func send(_ command: Command, over: @escaping (Reply?) -> Void) -> Request {
        let request = Request(command, over: over)
        if let wire {
            write(request, on: wire)
        } else {
            // It waits for the next wire, but not for long; and it never fails inside the call that sent it.
            unsent.append(request)
            world.after(world.random.chance(50) ? 0 : world.dice(0...300 * .millisecond)) {
                self.react { if request.isUnsent { self.finish(request, nil) } }
            }
        }
        return request
    }

    private func write(_ request: Request, on wire: Wire) {
        request.isUnsent = false
        requests.append(request)
        world.server.send(request.command, on: wire) { reply in
            self.react { if self.wire === wire { self.finish(request, reply) } }
        }
        let patience =
            world.faults.contains(.timeouts) ? world.dice(1 * .millisecond...500 * .millisecond) : 2 * .second
        if !world.isCalm { world.after(patience) { self.react { self.finish(request, nil) } } }
    }

    private func finish(_ request: Request, _ reply: Reply?) {
        guard isAlive, !request.isOver else { return }
        request.isOver = true
        requests.removeAll { $0 === request }
        unsent.removeAll { $0 === request }
        request.over(reply)
    }

    // MARK: Wires

    private func connect() {
        guard isAlive, wire == nil else { return }
        guard world.server.isUp else {
            world.after(world.dice(5 * .millisecond...100 * .millisecond)) { self.react { self.connect() } }
            return
        }
        // Its hello is the first thing on the wire; the clean-ups, behind it, the next.
        let fresh = Wire(self, predecessors: formerWires)
        wire = fresh
        world.server.send(.hello, on: fresh) { _ in }
        let waiting = unsent.filter { !$0.isOver }
        unsent = []
        for work in cleanUps { tryCleanUp(work) }
        for request in waiting { write(request, on: fresh) }
    }

    /// The client's end is gone; what was written may arrive up to some byte, soon or late.
    func cutWire() {
        guard isAlive, let old = wire else { return }
        world.note("\(name) loses its wire")
        old.stillToCome = Int(world.dice(0...4))
        formerWires.append(old)
        react { self.wireIsGone(old) }
    }

    private func wireIsGone(_ old: Wire) {
        guard wire === old else { return }
        wire = nil
        let lost = requests
        requests = []
        for request in lost { finish(request, nil) }
        world.after(world.dice(1 * .millisecond...300 * .millisecond)) { self.react { self.connect() } }
    }

    func serverDied() {
        for old in formerWires { old.isKilled = true }
        if let old = wire {
            old.isKilled = true
            world.after(world.dice(0...20 * .millisecond)) { self.react { self.wireIsGone(old) } }
        }
        if let old = inbox { world.after(world.dice(0...50 * .millisecond)) { self.react { self.inboxIsGone(old) } } }
    }
}
