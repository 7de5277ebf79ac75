// SPDX-License-Identifier: Apache-2.0
//
// A lock machine, and what Redis may know of what it asked for.
//
// The machine withdraws each acquire that it abandons. One that never left this process needs no withdrawal: in an
// outage that would be a hundred thousand calls for nothing, all at once when Redis is back. And a caller that waited
// in vain must be told whether anything may have been done. Both are one question: may Redis know of the newest
// acquire? It may from the moment its bytes were written, or a release named it as its successor, until Redis said that
// nothing of it is left.
//
// All of that is decided here, and so a simulation reaches it. Only whether the bytes of a command were written is
// asked outside: `takeBack` takes a command out of the connection's queue, and is false if it is too late for that.

package struct LockLine: Sendable {
    package typealias Ticket = LockMachine.Ticket

    /// What is known of a command that ended.
    package enum Ending: Sendable, Equatable {
        /// It did something, or may have done it.
        case mayStand
        /// Redis gave the lock to nobody, and kept nothing of the caller.
        case busy
        /// Certainly not done.
        case notDone

        /// - Parameter isUndone: of a command that failed: it was certainly not done.
        package init(_ event: LockMachine.Event, isUndone: Bool) {
            switch event {
            case .busy: self = .busy
            case .failed where isUndone, .deferred where isUndone: self = .notDone
            default: self = .mayStand
            }
        }
    }

    /// What is known when waiters are told that they failed.
    package enum Failure: Sendable, Equatable {
        /// The newest acquire never left. `isUnknown`: one before it did, and its end is not known.
        case notSent(isUnknown: Bool)
        /// As the last command ended. `isUnknown`: whatever that was, something may have been done.
        case ended(isUnknown: Bool)
    }

    /// What one event leads to, and all that the shell wants to know of the machine after it: in one access, because
    /// each look at a machine within an object copies it.
    package struct Turn {
        package var actions: [LockMachine.Action]
        package var isIdle: Bool
        package var wakeAt: Nanos
        /// How often in a row a lock that was delivered had been passed on within the process.
        package var passes: Int
        /// For those that are refused as failed.
        package var failure: Failure?
    }

    package private(set) var machine: LockMachine
    /// What it gets is held elsewhere: forgotten here as soon as it is delivered.
    private let isRemote: Bool
    /// The acquire under way of which nothing is known yet.
    private var asking: Ticket?
    /// The newest acquire, by its nonce, and whether Redis may know of it.
    private var asked = ""
    private var mayStand = false
    /// The release that passes the lock on to it, and was the first to name it.
    private var passing: Ticket?

    package init(ticketsAfter ticket: Ticket = 0, isRemote: Bool) {
        machine = LockMachine(ticketsAfter: ticket)
        self.isRemote = isRemote
    }

    /// Whether an acquire that ended so is withdrawn once more, if nobody awaits its end. It was withdrawn when it was
    /// given up, but a script that had to be loaded first may have run behind that.
    package static func withdrawsAgain(_ ending: Ending) -> Bool { ending == .mayStand }

    /// Takes one event, and says what to do. nil: it ends a command that is not awaited any more.
    ///
    /// - Parameters:
    ///   - ended: the command that the event ends, and what is known of it.
    ///   - takeBack: see above.
    ///   - isUnsent: whether the command's bytes are still here.
    package mutating func turn(
        _ event: LockMachine.Event, ended: (ticket: Ticket, ending: Ending)? = nil, now: Nanos, inboxHeard: Bool,
        makeNonce: () -> String, takeBack: (Ticket) -> Bool, isUnsent: (Ticket) -> Bool
    ) -> Turn? {
        if let ended, !machine.awaits(ended.ticket) { return nil }
        var actions = machine.handle(event, now: now, inboxHeard: inboxHeard, makeNonce: makeNonce)
        let passes = machine.passes
        if let ended { note(ended.ticket, ended.ending) }
        var failure: Failure?
        var needless: [Int] = []
        for index in actions.indices {
            // No more is taken out of an action than is needed: each string costs.
            switch actions[index] {
            case .releaseDone, .claim, .cleanUpValue, .release(_, _, nil): break
            case .ask(let ticket, let nonce, _, _):
                sent(nonce, mayStand: false)
                asking = ticket
            case .release(let ticket, _, let successor?):
                // What becomes of it the successor gets or not, also when no answer comes.
                sent(successor.nonce, mayStand: true)
                passing = ticket
            case .cleanUp(let nonce, _):
                if nonce == asked, !mayStand, asking.map(takeBack) ?? true {
                    asking = nil
                    needless.append(index)
                }
            case .refuse(_, .failed):
                if failure == nil { failure = self.failure(takeBack, isUnsent) }
            case .deliver:
                guard isRemote, case .deliver(_, let grant) = actions[index] else { continue }
                _ = machine.handle(.forget(grant.value), now: now, inboxHeard: false, makeNonce: { "" })
            case .refuse: break
            }
        }
        for index in needless.reversed() { actions.remove(at: index) }
        return Turn(
            actions: actions, isIdle: machine.isIdle, wakeAt: machine.wakeAt, passes: passes, failure: failure)
    }

    private mutating func note(_ ticket: Ticket, _ ending: Ending) {
        asking = nil
        switch ending {
        case .mayStand: mayStand = true
        case .busy: break
        // A release that never left did not name its successor to anybody.
        case .notDone: if passing == ticket { mayStand = false }
        }
    }

    private mutating func sent(_ nonce: String, mayStand: Bool) {
        if asked != nonce { (asked, self.mayStand) = (nonce, false) }
        if mayStand { self.mayStand = true }
    }

    private mutating func failure(_ takeBack: (Ticket) -> Bool, _ isUnsent: (Ticket) -> Bool) -> Failure {
        guard let asking else { return .ended(isUnknown: mayStand) }
        if machine.waiters.isEmpty {
            // Nobody else waits: it is taken back before anything is said of it.
            guard takeBack(asking) else { return .ended(isUnknown: true) }
            self.asking = nil
        } else if !isUnsent(asking) {
            return .ended(isUnknown: true)
        }
        return .notSent(isUnknown: mayStand)
    }
}
