// SPDX-License-Identifier: Apache-2.0
//
// A caller whose answer was lost asks again, and finds the lock held: by itself. With a `requestId` of its own it finds
// its hold instead. Its requests share one acquisition, and each is a claim on what comes of it: as long as one of them
// may have been told, none of the others gives it back. The last that cannot be told does.
//
// This is known to the instance that was asked first, and to no other. The obvious way, to make the hold's token from
// the id, would work on all of them, but then an instance that sees its caller hang up would free what another has just
// told the same caller that it holds. With another instance, the repeat waits in line or is answered 409: late, but
// safe.
import Ringfence
import Synchronization

/// Acquisitions by the id that the caller gave. Class invariant: an entry has a claim at least.
final class Repeats: Sendable {
    struct Key: Hashable, Sendable {
        var id: String
        var names: [String]
        /// What it asks to be confirmed: who asks for more is not told of a hold that nobody confirmed.
        var durability = Durability.primary
    }

    /// One request's part in an acquisition.
    final class Claim: Sendable {
        let key: Key
        /// Which acquisition of the key.
        let number: Int
        let task: Task<LockGrant, any Error>
        let isFirst: Bool
        fileprivate let fate = Mutex(Fate.open)

        fileprivate init(_ key: Key, _ number: Int, _ task: Task<LockGrant, any Error>, isFirst: Bool) {
            self.key = key
            self.number = number
            self.task = task
            self.isFirst = isFirst
        }
    }

    /// What became of a claim. Whether its request is told of the grant is decided once, here: a hang-up or the end of
    /// the service may come in the same moment, and what is let go then must not be told as well.
    fileprivate enum Fate {
        case open, told
        case letGo(wasLast: Bool)
    }

    static let countMaximum = 10_000

    private struct Entry {
        var number: Int
        var task: Task<LockGrant, any Error>
        var claims = 1
        /// Nobody asks again after it.
        var until: ContinuousClock.Instant
    }
    private struct State {
        var entries: [Key: Entry] = [:]
        var next = 0
    }
    private let state = Mutex(State())

    /// Takes part in the acquisition under `key`, or begins it.
    func claim(_ key: Key, _ ttl: Duration, _ begin: () -> Task<LockGrant, any Error>) -> Claim {
        state.withLock { state in
            let now = ContinuousClock.now
            let until = now + ttl + .milliseconds(waitMsMaximum)
            if var entry = state.entries[key] {
                entry.claims += 1
                entry.until = max(entry.until, until)
                state.entries[key] = entry
                return Claim(key, entry.number, entry.task, isFirst: false)
            }
            if state.entries.count >= Self.countMaximum { Self.makeRoom(&state, now) }
            state.next += 1
            let task = begin()
            state.entries[key] = Entry(number: state.next, task: task, until: until)
            return Claim(key, state.next, task, isFirst: true)
        }
    }

    /// Forgets acquisitions that are over, or else the tenth that ends first. A caller that is forgotten and asks again
    /// waits in line or is told that the lock is held: nothing is released by it.
    private static func makeRoom(_ state: inout State, _ now: ContinuousClock.Instant) {
        state.entries = state.entries.filter { $0.value.until > now }
        guard state.entries.count >= countMaximum else { return }
        let first = state.entries.sorted { $0.value.until < $1.value.until }.prefix(countMaximum / 10)
        for (key, _) in first { state.entries[key] = nil }
    }

    /// The request behind this claim is about to be told of its grant.
    /// - Returns: false if it was let go before: then it must not be told.
    func tell(_ claim: Claim) -> Bool {
        claim.fate.withLock { fate in
            if case .letGo = fate { return false }
            fate = .told
            return true
        }
    }

    /// This request stops waiting, unless it is being told already.
    /// - Returns: whether no other waits or may have been told: then nobody needs what is asked for.
    func giveUp(_ claim: Claim) -> Bool { end(claim, evenIfTold: false) }

    /// This request will not be told, or was told and did not read it. Asked again, it answers the same.
    /// - Returns: whether no other was or may be: then what was acquired is to be given back.
    func letGo(_ claim: Claim) -> Bool { end(claim, evenIfTold: true) }

    private func end(_ claim: Claim, evenIfTold: Bool) -> Bool {
        claim.fate.withLock { fate in
            switch fate {
            case .letGo(let wasLast): return wasLast
            case .told where !evenIfTold: return false
            case .open, .told: break
            }
            let isLast = state.withLock { state in
                guard var entry = state.entries[claim.key], entry.number == claim.number else { return false }
                entry.claims -= 1
                state.entries[claim.key] = entry.claims > 0 ? entry : nil
                return entry.claims == 0
            }
            fate = .letGo(wasLast: isLast)
            return isLast
        }
    }

    /// There is nothing to share any more.
    func forget(_ claim: Claim) {
        state.withLock { state in
            if state.entries[claim.key]?.number == claim.number { state.entries[claim.key] = nil }
        }
    }
}
