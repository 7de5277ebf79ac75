// SPDX-License-Identifier: Apache-2.0
//
// The states of a lock machine, and what may be asked of it.

extension LockMachine {
    package enum State: Sendable, Equatable {
        case idle
        /// An acquire is under way. `pushed`: a grant for it came meanwhile, before the answer.
        case asking(Ask, sentAt: Nanos, pushed: Int64?)
        /// The acquire failed; the same nonce is asked again then.
        case backingOff(Ask, until: Nanos)
        /// In Redis' queue (or, while nobody hears the inbox, only waiting to ask again).
        case queued(Ask, askAgainAt: Nanos)
        case claiming(Ask, fence: Int64, sentAt: Nanos)
        case held(LockValue, passes: Int)
        case releasing(Releasing)
    }

    /// A release under way, perhaps with a successor that takes over.
    package struct Releasing: Sendable, Equatable {
        package var ticket: Ticket
        package var value: LockValue
        package var successor: Successor?
        package var sentAt: Nanos
        package var passes: Int
        /// A grant for the successor, which had to queue, came before the answer.
        package var pushed: Int64?
        /// Nobody waits here any more: what the successor gets is withdrawn.
        package var isWithdrawn = false
        /// When it is sent again; `never` while it is under way.
        package var againAt = Nanos.never
        /// Redis has refused it for now, and it is tried until then.
        package var giveUpAt = Nanos.never

        /// The successor's acquire, if somebody still waits for it.
        var ask: Ask? {
            guard let successor, !isWithdrawn else { return nil }
            return Ask(ticket: ticket, nonce: successor.nonce, terms: successor.terms)
        }
    }

    /// One logical acquire.
    package struct Ask: Sendable, Equatable {
        package var ticket: Ticket
        package var nonce: String
        package var terms: LockTerms
        /// In a row.
        package var failures = 0
        /// Redis said that others hold it.
        package var foundBusy = false
        /// Its arrival in Redis' queue, as Redis told it.
        package var arrival: Int64?
    }

    // MARK: What may be asked

    /// When `tick` has something to do next.
    package var wakeAt: Nanos {
        var at = Nanos.never
        switch state {
        case .backingOff(_, let until): at = until
        case .queued(_, let askAgainAt): at = askAgainAt
        case .releasing(let release): at = min(release.againAt, release.giveUpAt)
        default: break
        }
        for waiter in waiters where waiter.giveUpAt < at { at = waiter.giveUpAt }
        return at
    }

    /// The logical acquire that is under way or queued now.
    package var nonce: String? {
        switch state {
        case .asking(let ask, _, _), .backingOff(let ask, _), .queued(let ask, _), .claiming(let ask, _, _): ask.nonce
        case .releasing(let release): release.ask?.nonce
        case .idle, .held: nil
        }
    }

    /// Whether the answer to this command still counts. Only the newest ticket's may: who waits for an answer holds it.
    package func awaits(_ ticket: Ticket) -> Bool {
        switch state {
        case .releasing(let release) where release.againAt != .never: false
        case .asking, .claiming, .releasing: ticket == lastTicket
        case .idle, .backingOff, .queued, .held: false
        }
    }

    /// How often in a row the lock held here was passed on within the process.
    package var passes: Int { if case .held(_, let passes) = state { passes } else { 0 } }
}
