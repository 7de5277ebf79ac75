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
    package private(set) var locks: [String: Timed<LockValue>] = [:]
    package private(set) var fences: [String: Timed<Int64>] = [:]
    package private(set) var queues: [String: Timed<[Entry]>] = [:]
    /// What is kept beside the queues: the names of each place of several, by its nonce.
    package private(set) var several: [String: [String]] = [:]
    /// Since when a process owes an answer.
    package private(set) var unanswered: [String: Timed<Int64>] = [:]
    /// How many connections are subscribed to a process' inbox.
    package var listeners: [String: Int] = [:]
    package var pushes: [Push] = []

    private let fenceRule: FenceRule
    /// How long a pushed grant stands unclaimed; nil: for ever.
    private let claimMilliseconds: Int64?
    /// After how many µs without an answer a process is gone.
    private let patience: Int64
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

// MARK: What they are made of

extension LockServerModel {
    private func end(in milliseconds: Int64) -> Int64 { now + milliseconds * 1000 }
    private func isFree(_ names: [String]) -> Bool { names.allSatisfy { locks[$0] == nil } }
    private func isWanted(_ names: [String]) -> Bool { names.contains { queues[$0] != nil } }

    private func fenceHeld(by nonce: String, _ names: [String]) -> Int64? {
        guard names.allSatisfy({ locks[$0]?.value.nonce == nonce }) else { return nil }
        return locks[names[names.count - 1]]?.value.fence
    }

    private func holder(_ names: [String]) -> String {
        for name in names { if let lock = locks[name] { return lock.value.owner } }
        return ""
    }

    private func timeLeft(_ names: [String]) -> Int64 {
        names.compactMap { locks[$0] }.map { ($0.expiresAt - now) / 1000 }.min() ?? 1000
    }

    private func nextFence(_ names: [String], atLeast known: Int64 = 0) -> Int64 {
        let last = names.reduce(known) { max($0, fences[$1]?.value ?? 0) }
        switch fenceRule {
        case .serverTime: return max(now, last + 1)
        case .counter: return last + 1
        }
    }

    private mutating func hold(_ names: [String], nonce: String, owner: String, until: Int64) -> Int64 {
        let fence = nextFence(names)
        for name in names {
            locks[name] = Timed(value: LockValue(fence: fence, nonce: nonce, owner: owner), expiresAt: until)
            fences[name] = Timed(value: fence, expiresAt: end(in: Self.fenceMilliseconds))
        }
        return fence
    }

    /// Where it stands or says that it stood, or behind everybody; the same arrival in every queue.
    private mutating func enqueue(_ place: Place, since: Int64?) -> Int64 {
        let text = place.text
        let mine = place.names.compactMap { name in queues[name]?.value.first { $0.text == text } }.first
        let behind = place.names.compactMap { queues[$0]?.value.last?.arrival }.max().map { $0 + 1 } ?? now
        let entry = Entry(arrival: mine?.arrival ?? since ?? max(now, behind), place: place, text: text)
        for name in place.names {
            var entries = queues[name]?.value ?? []
            if !entries.contains(where: { $0.text == text }) {
                let index = entries.firstIndex { Self.stands(entry, before: $0) } ?? entries.count
                entries.insert(entry, at: index)
            }
            queues[name] = Timed(value: entries, expiresAt: end(in: Self.queueMilliseconds))
        }
        if place.names.count > 1 { several[place.nonce] = place.names }
        unanswered[Self.process(of: place.nonce)] = nil
        return entry.arrival
    }

    /// Whether the process owes an answer for too long.
    package func isGone(_ process: String) -> Bool {
        unanswered[process].map { now - $0.value > patience } ?? false
    }

    private mutating func expectAnswer(of process: String) {
        if unanswered[process] == nil {
            unanswered[process] = Timed(value: now, expiresAt: end(in: Self.queueMilliseconds))
        }
    }

    private func isHeard(_ process: String) -> Bool { listeners[process, default: 0] > 0 }

    /// Of the same arrival, the lesser bytes stand first, as in a sorted set.
    private static func stands(_ one: Entry, before other: Entry) -> Bool {
        one.arrival != other.arrival
            ? one.arrival < other.arrival : one.text.utf8.lexicographicallyPrecedes(other.text.utf8)
    }

    private mutating func leave(_ place: Place, _ names: [String]) {
        several[place.nonce] = nil
        let text = place.text
        for name in names {
            guard var entries = queues[name]?.value, let index = entries.firstIndex(where: { $0.text == text }) else {
                continue
            }
            entries.remove(at: index)
            if entries.isEmpty { queues[name] = nil } else { queues[name]!.value = entries }
        }
    }

    private func position(of place: Place) -> Int64 {
        let text = place.text
        return place.names.map { name in
            Int64(queues[name]?.value.firstIndex { $0.text == text } ?? 0)
        }.max() ?? 0
    }

    /// Serves the heads of the free names until nobody is left who can be served. The caller is answered, not told.
    @discardableResult
    private mutating func handOn(_ names: [String], caller: Place?) -> Int64? {
        var todo = names
        var callersFence: Int64?
        while let name = todo.first {
            todo.removeFirst()
            while locks[name] == nil, let head = queues[name]?.value.first {
                let isCaller = head.place == caller
                let process = Self.process(of: head.place.nonce)
                if !isGone(process) || isCaller {
                    guard isServable(head) else {
                        if !isCaller, !isHeard(process) { expectAnswer(of: process) }
                        break
                    }
                    leave(head.place, head.place.names)
                    let fence = serve(head.place, isCaller: isCaller)
                    if isCaller { callersFence = fence } else { push(fence, to: head.place, first: name) }
                    break
                }
                leave(head.place, head.place.names)
                // Whoever stood behind may be first now, there too.
                todo += head.place.names.filter { $0 != name && !todo.contains($0) }
            }
        }
        return callersFence
    }

    /// It has to answer, heard or not; and so has from now on whoever else does not listen in that line.
    private mutating func push(_ fence: Int64, to place: Place, first name: String) {
        let process = Self.process(of: place.nonce)
        expectAnswer(of: process)
        guard isHeard(process) else {
            for entry in queues[name]?.value ?? [] {
                let other = Self.process(of: entry.place.nonce)
                if !isHeard(other) { expectAnswer(of: other) }
            }
            return
        }
        pushes.append(
            Push(process: process, kind: .grant, nonce: place.nonce, fence: fence, names: place.names))
    }

    /// None of its names held, and first in every queue; one that lost its place in a queue (the key is gone) is not
    /// kept from the lock by that.
    private func isServable(_ entry: Entry) -> Bool {
        entry.place.names.allSatisfy { name in
            guard locks[name] == nil else { return false }
            return (queues[name]?.value.firstIndex { $0.text == entry.text } ?? 0) == 0
        }
    }

    private mutating func serve(_ place: Place, isCaller: Bool) -> Int64 {
        let claimEnd = claimMilliseconds.map { end(in: $0) } ?? Int64.max
        let until = isCaller ? end(in: place.holdMilliseconds) : claimEnd
        return hold(place.names, nonce: place.nonce, owner: place.owner, until: until)
    }
}
