// SPDX-License-Identifier: Apache-2.0
//
// What a Redis that runs lock.lua and renew.lua does, said in Swift: the reference model. The simulation runs the
// machines against it, and the script fuzz compares it with the real scripts on a real Redis, so a mistake must be made
// twice, in two languages and two ways of thinking, to stay unseen. It is written from the contract in the scripts'
// headers:
//
//  - a lock is a value with an end; a fence is the highest one given; a queue is places in order of arrival;
//  - `handOn` is the only place where a waiter is served: first in every queue it stands in, and none of its names
//    held;
//  - whoever is granted has a short time to claim it; a process that was granted something, or was found not to listen,
//    and was not heard of for longer than that is gone: its places are dropped when they stand at the head of a free
//    name;
//  - who comes back with the arrival it was told stands where it stood.
//
// Time is the caller's: `now` is the server's clock in µs, and may step either way. What was pushed is collected in
// `pushes`, in order. `fenceRule` and `claimMilliseconds == nil` are wrong on purpose, for the controls that must fail.
package import RingfenceCore

package struct LockServerModel: Sendable {
    package enum FenceRule: Sendable {
        case serverTime
        /// INCR: what many libraries do. It repeats after data was lost.
        case counter
    }

    package enum Answer: Equatable, Sendable {
        case fence(Int64)
        case queued(position: Int64, milliseconds: Int64, arrival: Int64)
        case busy(milliseconds: Int64, owner: String)
        /// A release of what was not held, or not all of it: as many names as were are free now.
        case notWhole(milliseconds: Int64, owner: String, freed: Int64)
        case done
        /// The line of this one of its names, counted from 1, has no place left.
        case full(Int64)
        case forced(fence: Int64, value: LockValue, milliseconds: Int64)
        /// Forced, but nobody held it.
        case free
        case renewed([Bool])
    }

    package struct Push: Equatable, Sendable {
        package enum Kind: String, Sendable { case grant, revoked }
        package var process: String
        package var kind: Kind
        package var nonce: String
        package var fence: Int64
        package var names: [String]

        /// The message as it is published.
        package var text: String { ([kind.rawValue, nonce, "\(fence)"] + names).joined(separator: "\n") }
    }

    package struct Timed<Value: Sendable & Equatable>: Sendable, Equatable {
        package var value: Value
        /// Server µs.
        package var expiresAt: Int64
    }

    package struct Entry: Sendable, Equatable {
        package var arrival: Int64
        package var place: Place
        package var text: String
    }

    package struct Successor: Sendable {
        package var nonce: String
        package var owner: String
        package var holdMilliseconds: Int64
        package var place: Place?

        package init(nonce: String, owner: String, holdMilliseconds: Int64, place: Place?) {
            self.nonce = nonce
            self.owner = owner
            self.holdMilliseconds = holdMilliseconds
            self.place = place
        }
    }

    package static let fenceMilliseconds: Int64 = 86_400_000
    package static let queueMilliseconds: Int64 = 600_000

    package var now: Int64
    package var locks: [String: Timed<LockValue>] = [:]
    package var fences: [String: Timed<Int64>] = [:]
    package var queues: [String: Timed<[Entry]>] = [:]
    /// What is kept beside the queues: the names of each place of several, by its nonce.
    package var several: [String: [String]] = [:]
    /// Since when a process owes an answer.
    package var unanswered: [String: Timed<Int64>] = [:]
    /// How many connections are subscribed to a process' inbox.
    package var listeners: [String: Int] = [:]
    package var pushes: [Push] = []

    let fenceRule: FenceRule
    /// How long a pushed grant stands unclaimed; nil: for ever.
    let claimMilliseconds: Int64?
    /// After how many µs without an answer a process is gone.
    let patience: Int64
    /// How many places may stand before a new one.
    private let mostWaiters: Int64

    package init(
        now: Int64, claimMilliseconds: Int64?, fenceRule: FenceRule = .serverTime, patience: Int64? = nil,
        mostWaiters: Int64 = .max
    ) {
        self.mostWaiters = mostWaiters
        self.now = now
        self.claimMilliseconds = claimMilliseconds
        self.fenceRule = fenceRule
        self.patience = patience ?? claimMilliseconds.map { $0 * 1000 } ?? .max
    }

    /// Everything is gone: a restart without data.
    package mutating func forgetEverything() {
        locks = [:]
        fences = [:]
        queues = [:]
        several = [:]
        unanswered = [:]
        listeners = [:]
        pushes = []
    }

    /// A key's end, told rather than waited for.
    package mutating func expireLock(_ name: String) { locks[name] = nil }
    package mutating func expireFence(_ name: String) { fences[name] = nil }
    package mutating func expireQueue(_ name: String) { queues[name] = nil }
    /// The end of what is kept of places that stand in no queue any more; returns their nonces.
    package mutating func expirePlaces() -> [String] {
        let standing = Set(queues.values.flatMap { $0.value.map(\.place.nonce) })
        let left = several.keys.filter { !standing.contains($0) }
        for nonce in left { several[nonce] = nil }
        return left
    }

    /// Removes what is over. Every call does so first.
    package mutating func expire() {
        for (name, lock) in locks where lock.expiresAt <= now { locks[name] = nil }
        for (name, fence) in fences where fence.expiresAt <= now { fences[name] = nil }
        for (name, queue) in queues where queue.expiresAt <= now { queues[name] = nil }
        for (process, since) in unanswered where since.expiresAt <= now { unanswered[process] = nil }
    }

    package static func process(of nonce: String) -> String { String(nonce.prefix { $0 != "-" }) }
}

// MARK: The verbs

extension LockServerModel {
    package mutating func acquire(
        _ place: Place, _ queueing: LockMachine.Queueing
    ) -> Answer {
        let (names, nonce) = (place.names, place.nonce)
        expire()
        if let fence = fenceHeld(by: nonce, names) {
            for name in names { locks[name]!.expiresAt = end(in: place.holdMilliseconds) }
            unanswered[Self.process(of: nonce)] = nil
            return .fence(fence)
        }
        if !isFree(names) || isWanted(names) {
            switch queueing {
            case .none: if let fence = handOn(names, caller: place) { return .fence(fence) }
            case .last: return wait(place, since: nil, most: mostWaiters)
            case .since(let arrival): return wait(place, since: arrival)
            }
        }
        guard isFree(names), !isWanted(names) else {
            return .busy(milliseconds: timeLeft(names), owner: holder(names))
        }
        return .fence(hold(names, nonce: nonce, owner: place.owner, until: end(in: place.holdMilliseconds)))
    }

    private mutating func wait(_ place: Place, since: Int64?, most: Int64 = .max) -> Answer {
        let text = place.text
        let isNew = !place.names.allSatisfy { queues[$0]?.value.contains { $0.text == text } ?? false }
        let arrival = enqueue(place, since: since)
        if let fence = handOn(place.names, caller: place) { return .fence(fence) }
        if isNew, position(of: place) >= most {
            let longest = place.names.firstIndex { name in
                queues[name]?.value.firstIndex { $0.text == text }.map { Int64($0) } == position(of: place)
            }
            leave(place, place.names)
            return .full(Int64(longest ?? 0) + 1)
        }
        return .queued(position: position(of: place), milliseconds: timeLeft(place.names), arrival: arrival)
    }

    package mutating func release(_ names: [String], _ value: LockValue, to successor: Successor?) -> Answer {
        expire()
        guard names.allSatisfy({ locks[$0]?.value == value }) else {
            // Passed on before and the answer was lost; or not the caller's any more, all of it: what is left goes too.
            if let successor, let fence = fenceHeld(by: successor.nonce, names) { return .fence(fence) }
            let part = names.filter { locks[$0]?.value == value }
            for name in part { locks[name] = nil }
            if !part.isEmpty { handOn(names, caller: nil) }
            return .notWhole(milliseconds: timeLeft(names), owner: holder(names), freed: Int64(part.count))
        }
        if let successor, successor.place == nil || !isWanted(names) {
            let until = end(in: successor.holdMilliseconds)
            return .fence(hold(names, nonce: successor.nonce, owner: successor.owner, until: until))
        }
        for name in names { locks[name] = nil }
        guard let place = successor?.place else {
            handOn(names, caller: nil)
            return .done
        }
        return wait(place, since: nil)
    }

    package mutating func cancel(_ names: [String], nonce: String, place: Place) -> Answer {
        expire()
        for name in names where locks[name]?.value.nonce == nonce { locks[name] = nil }
        leave(place, names)
        handOn(names, caller: nil)
        return .done
    }

    package mutating func force(_ name: String) -> Answer {
        expire()
        guard let lock = locks[name] else { return .free }
        let fence = nextFence([name], atLeast: lock.value.fence)
        fences[name] = Timed(value: fence, expiresAt: end(in: Self.fenceMilliseconds))
        locks[name] = nil
        let process = Self.process(of: lock.value.nonce)
        if listeners[process, default: 0] > 0 {
            pushes.append(
                Push(
                    process: process, kind: .revoked, nonce: lock.value.nonce, fence: lock.value.fence, names: [name]))
        }
        handOn([name], caller: nil)
        return .forced(fence: fence, value: lock.value, milliseconds: (lock.expiresAt - now) / 1000)
    }

    package mutating func renew(
        _ leases: [(names: [String], value: LockValue, holdMilliseconds: Int64)], claimedBy process: String? = nil
    ) -> Answer {
        expire()
        if let process { unanswered[process] = nil }
        var results: [Bool] = []
        for lease in leases {
            let held = lease.names.allSatisfy { locks[$0]?.value == lease.value }
            results.append(held)
            guard held else { continue }
            for name in lease.names {
                locks[name]!.expiresAt = max(locks[name]!.expiresAt, end(in: lease.holdMilliseconds))
            }
        }
        return .renewed(results)
    }
}
