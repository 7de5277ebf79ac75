// SPDX-License-Identifier: Apache-2.0
//
// What a lock machine does when a command fails, and when Redis refuses it for now.
//
// A failure is an answer for whoever does not wait. A refusal for now is none: a slot that is being moved, a server
// that loads, a failover. Nothing was done, and a moment later it may be. So it is asked again after a pause, also for
// a waiter that does not wait and for a release, until their patience is over. The first time soon: mostly the
// connection is on its way to the right server by then, and the command waits for it.
//
// An acquire that was withdrawn is never sent again behind its withdrawal: only this machine sends one again, and with
// its last waiter it forgets it. A release whose successor has left is sent again without it.

extension LockMachine {
    /// The first pause is no longer than that.
    private static let firstPause = 5 * Nanos.millisecond
    /// What is left for an answer at least: who does not wait is refused before, for it is known now that nothing was
    /// done.
    private static let leastPatience = 50 * Nanos.millisecond

    mutating func deferred(_ ticket: Ticket, _ pause: Nanos, _ patience: Nanos, _ step: inout Step) {
        switch state {
        case .asking(let ask, let sentAt, _) where ask.ticket == ticket,
            .claiming(let ask, _, let sentAt) where ask.ticket == ticket:
            let again = step.now + (ask.failures == 0 ? min(pause, Self.firstPause) : pause)
            for index in waiters.indices where !waiters[index].waits {
                waiters[index].giveUpAt = min(waiters[index].giveUpAt, sentAt.adding(patience))
            }
            let late = waiters.filter { !$0.waits && $0.giveUpAt < again + Self.leastPatience }
            for waiter in late { step.actions.append(.refuse(waiter.id, .failed)) }
            waiters.removeAll { waiter in late.contains { $0.id == waiter.id } }
            if waiters.isEmpty { return refuseAll(.failed, withdrawing: ask, &step) }
            var ask = ask
            ask.failures += 1
            state = .backingOff(ask, until: again)
        case .releasing(var release) where release.ticket == ticket:
            let isFirst = release.giveUpAt == .never
            release.giveUpAt = min(release.giveUpAt, release.sentAt.adding(patience))
            release.againAt = step.now + (isFirst ? min(pause, Self.firstPause) : pause)
            state = .releasing(release)
        default: break
        }
    }

    /// A release that was refused for now: once more, or it is given up.
    mutating func tryAgain(_ release: Releasing, _ step: inout Step) {
        var release = release
        release.againAt = .never
        guard step.now < release.giveUpAt else {
            state = .releasing(release)
            return failed(release.ticket, true, &step)
        }
        release.ticket = nextTicket()
        release.sentAt = step.now
        // Its successor was not passed on to, and has been withdrawn: it must not come behind that.
        if release.isWithdrawn { (release.successor, release.isWithdrawn) = (nil, false) }
        state = .releasing(release)
        step.actions.append(.release(release.ticket, release.value, release.successor))
    }

    mutating func failed(_ ticket: Ticket, _ retriable: Bool, _ step: inout Step) {
        switch state {
        case .asking(let ask, _, _) where ask.ticket == ticket,
            .claiming(let ask, _, _) where ask.ticket == ticket:
            guard retriable else { return refuseAll(.failed, withdrawing: ask, &step) }
            for waiter in waiters where !waiter.waits { step.actions.append(.refuse(waiter.id, .failed)) }
            waiters.removeAll { !$0.waits }
            if waiters.isEmpty { return refuseAll(.failed, withdrawing: ask, &step) }
            var ask = ask
            ask.failures += 1
            let delay = min(10 * Nanos.millisecond << Nanos(min(ask.failures - 1, 6)), 500 * .millisecond)
            state = .backingOff(ask, until: step.now + delay)
        case .releasing(let release) where release.ticket == ticket:
            // It may have been done or not. The value is cleaned up; the successor asks with its nonce, and finds the
            // grant if it was passed on.
            step.actions.append(.cleanUpValue(release.value))
            finish(release, .unanswered, &step)
            if var ask = release.ask {
                ask.failures = 1
                self.ask(ask, &step)
            }
        default: break
        }
    }

    private mutating func refuseAll(_ refusal: Refusal, withdrawing ask: Ask, _ step: inout Step) {
        for waiter in waiters { step.actions.append(.refuse(waiter.id, refusal)) }
        waiters = []
        step.actions.append(.cleanUp(nonce: ask.nonce, ask.terms))
        state = .idle
    }

    mutating func unconfirmed(_ ticket: Ticket, _ fence: Int64, _ step: inout Step) {
        switch state {
        case .asking(let ask, _, _) where ask.ticket == ticket,
            .claiming(let ask, _, _) where ask.ticket == ticket:
            refuseFirst(holding: LockValue(fence: fence, nonce: ask.nonce, owner: ask.terms.owner), &step)
        case .releasing(let release) where release.ticket == ticket:
            finish(release, .released, &step)
            guard let ask = release.ask else { return }
            refuseFirst(holding: LockValue(fence: fence, nonce: ask.nonce, owner: ask.terms.owner), &step)
        default: break
        }
    }

    private mutating func refuseFirst(holding value: LockValue, _ step: inout Step) {
        if !waiters.isEmpty { step.actions.append(.refuse(waiters.removeFirst().id, .unconfirmed)) }
        step.actions.append(.cleanUpValue(value))
        state = .idle
    }
}
