// SPDX-License-Identifier: Apache-2.0
//
// Keys by when they must be woken: a binary heap. A key that must be woken earlier is put in again, and its later entry
// is passed over when its turn comes; so nothing is ever searched for, and thousands of keys cost little each. A member
// that beats asks for the end of its lease each time, and then for its next beat: entries that are void are thrown out
// when they are most of the heap.

package struct WakeQueue<Key: Hashable & Sendable>: Sendable {
    private struct Entry {
        var at: Nanos
        var key: Key
    }

    private var heap: [Entry] = []
    /// When each is woken next.
    private var next: [Key: Nanos] = [:]

    package init() {}

    /// How many entries it keeps.
    package var count: Int { heap.count }

    /// When the first is to be woken, or somewhat earlier; `.never` if nobody is.
    package var first: Nanos { heap.first?.at ?? .never }

    /// Wakes `key` at `at`, or sooner if that was asked for before.
    package mutating func add(_ key: Key, at: Nanos) {
        guard at != .never, at < next[key] ?? .never else { return }
        next[key] = at
        if heap.count > 4 * next.count + 64 {
            // In order it is a heap.
            heap = next.map { Entry(at: $0.value, key: $0.key) }.sorted { $0.at < $1.at }
            return
        }
        heap.append(Entry(at: at, key: key))
        var child = heap.count - 1
        while child > 0, heap[child].at < heap[(child - 1) / 2].at {
            heap.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    /// The keys that are due, `most` at most. Each has to be added again.
    package mutating func takeDue(now: Nanos, most: Int = .max) -> [Key] {
        var due: [Key] = []
        while due.count < most, let entry = heap.first, entry.at <= now {
            removeFirst()
            guard next[entry.key] == entry.at else { continue }
            next[entry.key] = nil
            due.append(entry.key)
        }
        return due
    }

    /// Wakes `key` no more.
    package mutating func forget(_ key: Key) { next[key] = nil }

    private mutating func removeFirst() {
        heap.swapAt(0, heap.count - 1)
        heap.removeLast()
        var parent = 0
        while true {
            var least = parent
            for child in (2 * parent + 1)...(2 * parent + 2) where child < heap.count && heap[child].at < heap[least].at
            {
                least = child
            }
            guard least != parent else { return }
            heap.swapAt(parent, least)
            parent = least
        }
    }
}
