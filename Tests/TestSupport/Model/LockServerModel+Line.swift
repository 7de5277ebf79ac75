// SPDX-License-Identifier: Apache-2.0
//
// Who stands in a line of the reference model, who is served, and who is gone.
import RingfenceCore

extension LockServerModel {
    func end(in milliseconds: Int64) -> Int64 { now + milliseconds * 1000 }
    func isFree(_ names: [String]) -> Bool { names.allSatisfy { locks[$0] == nil } }
    func isWanted(_ names: [String]) -> Bool { names.contains { queues[$0] != nil } }

    func fenceHeld(by nonce: String, _ names: [String]) -> Int64? {
        guard names.allSatisfy({ locks[$0]?.value.nonce == nonce }) else { return nil }
        return locks[names[names.count - 1]]?.value.fence
    }

    func holder(_ names: [String]) -> String {
        for name in names { if let lock = locks[name] { return lock.value.owner } }
        return ""
    }

    func timeLeft(_ names: [String]) -> Int64 {
        names.compactMap { locks[$0] }.map { ($0.expiresAt - now) / 1000 }.min() ?? 1000
    }

    func nextFence(_ names: [String], atLeast known: Int64 = 0) -> Int64 {
        let last = names.reduce(known) { max($0, fences[$1]?.value ?? 0) }
        switch fenceRule {
        case .serverTime: return max(now, last + 1)
        case .counter: return last + 1
        }
    }

    mutating func hold(_ names: [String], nonce: String, owner: String, until: Int64) -> Int64 {
        let fence = nextFence(names)
        for name in names {
            locks[name] = Timed(value: LockValue(fence: fence, nonce: nonce, owner: owner), expiresAt: until)
            fences[name] = Timed(value: fence, expiresAt: end(in: Self.fenceMilliseconds))
        }
        return fence
    }

    /// Where it stands or says that it stood, or behind everybody; the same arrival in every queue.
    mutating func enqueue(_ place: Place, since: Int64?) -> Int64 {
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
    static func stands(_ one: Entry, before other: Entry) -> Bool {
        one.arrival != other.arrival
            ? one.arrival < other.arrival : one.text.utf8.lexicographicallyPrecedes(other.text.utf8)
    }

    mutating func leave(_ place: Place, _ names: [String]) {
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

    func position(of place: Place) -> Int64 {
        let text = place.text
        return place.names.map { name in
            Int64(queues[name]?.value.firstIndex { $0.text == text } ?? 0)
        }.max() ?? 0
    }

    /// Serves the heads of the free names until nobody is left who can be served. The caller is answered, not told.
    @discardableResult
    mutating func handOn(_ names: [String], caller: Place?) -> Int64? {
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
