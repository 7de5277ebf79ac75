// SPDX-License-Identifier: Apache-2.0
//
// One lock (a name, or a set of names taken together) as one process sees it: its waiters here, and what was asked of
// Redis.
//
// All waiters of a process share one place in Redis' queue and pass the lock on among themselves, so a hand-off within
// the process costs one command and no push; after `maximumPasses` in a row the process releases the lock and queues up
// behind others.
//
//     idle ──wait──> asking ──granted──────────────────────────────> held ──release──> releasing ──> idle
//                      │ ▲                                             ▲  └─(waiters here: pass on, or let go, queue)
//                queued│ │ask again: its time came, or the inbox is    │
//                      ▼ │new (pushes may have been lost)              │
//                     queued ──pushed──> claiming ──renewed────────────┘
//
// The machine decides, a shell performs its actions and reports their results. It has no clock, no dice and no I/O:
// `now` and `makeNonce` are arguments. Two rules carry its safety.
//
//  1. Every command carries a ticket, and only the answer to the newest ticket counts. Whatever the machine abandons (a
//     place, a grant that may come, a value that may still be there) it hands to `cleanUp` in the same step: the
//     clean-up is written behind the command it undoes on the same connection, and repeated until Redis answered, so
//     nothing is left behind.
//  2. A nonce is one logical acquire. It is repeated only to ask the same thing again: Redis finds its own work and
//     repeats the answer. So asking again is always safe, and it is what the machine does whenever it does not know.

package struct LockMachine: Sendable {
    package typealias WaiterID = UInt64
    package typealias Ticket = UInt64

    /// In a row within one process, before it yields to other processes' waiters.
    package static let maximumPasses = 16

    package internal(set) var state: State = .idle
    package internal(set) var waiters: [Waiter] = []
    /// The newest ticket given out.
    package private(set) var lastTicket: Ticket

    /// A machine whose tickets begin above `ticket`. The answer to a command that was turned away from may come after
    /// its machine was dropped, to the next one of the same names: that must not have given the same ticket again.
    package init(ticketsAfter ticket: Ticket = 0) { lastTicket = ticket }

    /// Nothing is going on: the shell may drop the machine, if it makes the next one with tickets after its last.
    package var isIdle: Bool { isAtRest && waiters.isEmpty }

    // Not `state == .idle`: the comparison of the whole state copies it.
    private var isAtRest: Bool { if case .idle = state { true } else { false } }

    /// Takes one event, and says what to do. `inboxHeard`: pushes reach this process now, so that queueing makes sense.
    package mutating func handle(
        _ event: Event, now: Nanos, inboxHeard: Bool, makeNonce: () -> String
    ) -> [Action] {
        var step = Step(now: now, inboxHeard: inboxHeard)
        switch event {
        case .wait(let waiter): wait(waiter, &step)
        case .leave(let id): leave(id, &step)
        case .release(let value): release(value, &step, makeNonce)
        case .forget(let value):
            if case .held(value, _) = state { state = .idle }
        case .granted(let ticket, let fence): granted(ticket, fence, &step, makeNonce)
        case .queued(let ticket, let position, let milliseconds, let arrival):
            queued(ticket, position, milliseconds, arrival, &step)
        case .busy(let ticket, let milliseconds): busy(ticket, milliseconds, &step)
        case .claimed(let ticket):
            if case .claiming(let ask, let fence, let sentAt) = state, ask.ticket == ticket {
                deliver(ask, fence: fence, sentAt: sentAt, passes: 0, &step, makeNonce)
            }
        case .claimRefused(let ticket):
            // The grant is gone, or the push was of an older one. Its place may still stand, so the same is asked
            // again.
            if case .claiming(let ask, _, _) = state, ask.ticket == ticket { self.ask(ask, &step) }
        case .released(let ticket):
            if case .releasing(let release) = state, release.ticket == ticket {
                finish(release, .released, &step)
            }
        case .unconfirmed(let ticket, let fence): unconfirmed(ticket, fence, &step)
        case .failed(let ticket, let retriable): failed(ticket, retriable, &step)
        case .deferred(let ticket, let pause, let patience): deferred(ticket, pause, patience, &step)
        case .pushed(let nonce, let fence): pushed(nonce, fence, &step)
        case .inboxReady:
            // Whoever waits after a failure too, and a release that was refused: the inbox is heard again where Redis
            // is now.
            switch state {
            case .queued(let ask, _), .backingOff(let ask, _): self.ask(ask, &step)
            case .releasing(let release) where release.againAt != .never: tryAgain(release, &step)
            default: break
            }
        case .tick: tick(&step)
        }
        if isAtRest, let first = waiters.first {
            ask(Ask(ticket: 0, nonce: makeNonce(), terms: first.terms), &step)
        }
        return step.actions
    }
}

extension LockMachine {
    struct Step {
        var now: Nanos
        var inboxHeard: Bool
        var actions: [Action] = []
    }

    // MARK: Waiting

    private mutating func wait(_ waiter: Waiter, _ step: inout Step) {
        // Somebody here holds it or waits for it already: who does not wait is refused without a round trip.
        guard waiter.waits || isIdle else {
            step.actions.append(.refuse(waiter.id, .busy))
            return
        }
        waiters.append(waiter)
    }

    private mutating func leave(_ id: WaiterID, _ step: inout Step) {
        waiters.removeAll { $0.id == id }
        if waiters.isEmpty { withdraw(&step) }
    }

    /// Nobody waits here any more: whatever was asked for them is taken back.
    private mutating func withdraw(_ step: inout Step) {
        switch state {
        case .asking(let ask, _, _), .backingOff(let ask, _), .queued(let ask, _), .claiming(let ask, _, _):
            step.actions.append(.cleanUp(nonce: ask.nonce, ask.terms))
            state = .idle
        case .releasing(var release):
            guard let ask = release.ask else { return }
            step.actions.append(.cleanUp(nonce: ask.nonce, ask.terms))
            release.isWithdrawn = true
            state = .releasing(release)
        case .idle, .held: break
        }
    }

    private mutating func tick(_ step: inout Step) {
        if let first = waiters.firstIndex(where: { $0.giveUpAt <= step.now }) {
            var staying = Array(waiters[..<first])
            for waiter in waiters[first...] {
                if waiter.giveUpAt <= step.now {
                    step.actions.append(.refuse(waiter.id, refusalInTime))
                } else {
                    staying.append(waiter)
                }
            }
            waiters = staying
            if waiters.isEmpty { withdraw(&step) }
        }
        switch state {
        case .backingOff(let ask, let until) where until <= step.now: self.ask(ask, &step)
        case .queued(let ask, let at) where at <= step.now: self.ask(ask, &step)
        case .releasing(let release) where min(release.againAt, release.giveUpAt) <= step.now:
            tryAgain(release, &step)
        default: break
        }
    }

    /// What a waiter is told whose time is up: that others hold it, unless we do not know because Redis does not
    /// answer.
    private var refusalInTime: Refusal {
        switch state {
        case .asking(let ask, _, _): ask.foundBusy && ask.failures == 0 ? .busy : .failed
        case .backingOff: .failed
        default: .busy
        }
    }

    // MARK: Asking

    mutating func nextTicket() -> Ticket {
        lastTicket += 1
        return lastTicket
    }

    mutating func ask(_ ask: Ask, _ step: inout Step) {
        var ask = ask
        ask.ticket = nextTicket()
        var queue = Queueing.none
        if step.inboxHeard, waiters.first?.waits ?? false { queue = ask.arrival.map { .since($0) } ?? .last }
        state = .asking(ask, sentAt: step.now, pushed: nil)
        step.actions.append(.ask(ask.ticket, nonce: ask.nonce, ask.terms, queue: queue))
    }

    private mutating func granted(
        _ ticket: Ticket, _ fence: Int64, _ step: inout Step, _ makeNonce: () -> String
    ) {
        switch state {
        case .asking(let ask, let sentAt, _) where ask.ticket == ticket:
            deliver(ask, fence: fence, sentAt: sentAt, passes: 0, &step, makeNonce)
        case .releasing(let release) where release.ticket == ticket:
            finish(release, .released, &step)
            guard let ask = release.ask else { return }
            let passes = release.successor?.yields == true ? 0 : release.passes + 1
            deliver(ask, fence: fence, sentAt: release.sentAt, passes: passes, &step, makeNonce)
        default: break
        }
    }

    /// The lock is this process's: give it to its first waiter, on that waiter's terms.
    private mutating func deliver(
        _ ask: Ask, fence: Int64, sentAt: Nanos, passes: Int, _ step: inout Step, _ makeNonce: () -> String
    ) {
        let value = LockValue(fence: fence, nonce: ask.nonce, owner: ask.terms.owner)
        guard let first = waiters.first else {
            step.actions.append(.cleanUpValue(value))
            state = .idle
            return
        }
        if first.waits, ask.terms.deadline(sentAt: sentAt) <= step.now {
            // The answer took longer than the lease, or this process slept. Asked again, Redis finds it held or queues.
            return self.ask(ask, &step)
        }
        guard first.terms == ask.terms else {
            // Asked for on the terms of a waiter that left: pass on, which writes this one's owner, ttl and a new
            // fence.
            let successor = Successor(nonce: makeNonce(), terms: first.terms, yields: false)
            release(value, successor, passes: passes, &step)
            return
        }
        waiters.removeFirst()
        state = .held(value, passes: passes)
        step.actions.append(.deliver(first.id, Grant(value: value, terms: first.terms, sentAt: sentAt)))
    }

    private mutating func queued(
        _ ticket: Ticket, _ position: Int64, _ milliseconds: Int64, _ arrival: Int64, _ step: inout Step
    ) {
        switch state {
        case .asking(var ask, _, let pushed) where ask.ticket == ticket:
            ask.arrival = arrival
            if let pushed {
                claim(ask, fence: pushed, &step)
            } else {
                wait(ask, position, milliseconds, &step)
            }
        case .releasing(let release) where release.ticket == ticket:
            finish(release, .released, &step)
            guard var ask = release.ask else { return }
            ask.arrival = arrival
            if let pushed = release.pushed {
                claim(ask, fence: pushed, &step)
            } else {
                wait(ask, position, milliseconds, &step)
            }
        default: break
        }
    }

    /// Waits for a push, but not longer than the holder has: a push may be lost, and a dead holder pushes nothing.
    /// Waiters further back ask a little later, so that the first finds it done.
    private mutating func wait(_ ask: Ask, _ position: Int64, _ milliseconds: Int64, _ step: inout Step) {
        // Nobody sleeps for as long as it is held: the key may vanish, and those before may be granted, sleep, and lose
        // it after their short claim time.
        let longest = position > 0 ? min(position, 5) * 1000 : 2000
        let held = min(max(milliseconds, 5), longest) * .millisecond
        let stagger = (1 + min(max(position, 0), 25) * 4) * Nanos.millisecond
        var ask = ask
        ask.failures = 0
        ask.foundBusy = true
        state = .queued(ask, askAgainAt: step.now + held + stagger)
    }

    private mutating func busy(_ ticket: Ticket, _ milliseconds: Int64, _ step: inout Step) {
        switch state {
        case .asking(let ask, _, _) where ask.ticket == ticket:
            for waiter in waiters where !waiter.waits { step.actions.append(.refuse(waiter.id, .busy)) }
            waiters.removeAll { !$0.waits }
            if waiters.isEmpty {
                state = .idle
            } else if step.inboxHeard {
                // Only tried this time, for one that does not wait or for want of an inbox: now queue. On the same
                // terms, though the waiter may be another, for a place may stand from before (rule 2); `deliver` sees
                // to it.
                var ask = ask
                ask.failures = 0
                ask.foundBusy = true
                self.ask(ask, &step)
            } else {
                // One with a place may be granted it without being told: within the claim time, so it looks more often.
                wait(ask, 0, min(milliseconds, ask.arrival == nil ? 1000 : 300), &step)
            }
        case .releasing(let release) where release.ticket == ticket:
            // Not ours any more, so nothing was passed on either; of several names the rest may still be. The nonce of
            // the successor is asked for itself.
            step.actions.append(.cleanUpValue(release.value))
            finish(release, .notHeld, &step)
            if let ask = release.ask { self.ask(ask, &step) }
        default: break
        }
    }

    // MARK: The push and its claim

    private mutating func pushed(_ nonce: String, _ fence: Int64, _ step: inout Step) {
        switch state {
        case .queued(let ask, _) where ask.nonce == nonce:
            claim(ask, fence: fence, &step)
        case .backingOff(let ask, _) where ask.nonce == nonce:
            claim(ask, fence: fence, &step)
        case .asking(let ask, let sentAt, _) where ask.nonce == nonce:
            // The push overtook the answer, which may have been made before the grant.
            state = .asking(ask, sentAt: sentAt, pushed: fence)
        case .releasing(var release) where release.ask?.nonce == nonce:
            release.pushed = fence
            state = .releasing(release)
        default: break
        }
    }

    private mutating func claim(_ ask: Ask, fence: Int64, _ step: inout Step) {
        var ask = ask
        ask.ticket = nextTicket()
        state = .claiming(ask, fence: fence, sentAt: step.now)
        let value = LockValue(fence: fence, nonce: ask.nonce, owner: ask.terms.owner)
        step.actions.append(.claim(ask.ticket, value, ask.terms))
    }

    // MARK: Releasing

    private mutating func release(_ value: LockValue, _ step: inout Step, _ makeNonce: () -> String) {
        guard case .held(value, let passes) = state else {
            // Lost before, or used elsewhere: Redis compares, so this harms nobody.
            step.actions.append(.cleanUpValue(value))
            step.actions.append(.releaseDone(value, .released))
            return
        }
        var successor: Successor?
        // Without an inbox it cannot queue: it yields by letting go, and asks again like everybody else.
        let mustYield = passes >= Self.maximumPasses
        if let first = waiters.first, step.inboxHeard || !mustYield {
            successor = Successor(nonce: makeNonce(), terms: first.terms, yields: mustYield)
        }
        release(value, successor, passes: passes, &step)
    }

    private mutating func release(_ value: LockValue, _ successor: Successor?, passes: Int, _ step: inout Step) {
        let ticket = nextTicket()
        state = .releasing(
            Releasing(ticket: ticket, value: value, successor: successor, sentAt: step.now, passes: passes))
        step.actions.append(.release(ticket, value, successor))
    }

    /// The release is over. If its successor left, what became of it is withdrawn, again: a script that had to be
    /// loaded first may have run behind the first withdrawal.
    mutating func finish(_ release: Releasing, _ outcome: ReleaseOutcome, _ step: inout Step) {
        state = .idle
        step.actions.append(.releaseDone(release.value, outcome))
        if release.isWithdrawn, let successor = release.successor {
            step.actions.append(.cleanUp(nonce: successor.nonce, successor.terms))
        }
    }
}
