// SPDX-License-Identifier: Apache-2.0
import RingfenceCore

/// What happens when: a heap of actions by true time, and in the order they were planned within one moment.
struct Agenda {
    private struct Entry {
        var time: Nanos
        var order: Int
        var action: () -> Void
        func isBefore(_ other: Entry) -> Bool { time != other.time ? time < other.time : order < other.order }
    }

    private var heap: [Entry] = []
    private var planned = 0

    var isEmpty: Bool { heap.isEmpty }
    var nextTime: Nanos? { heap.first?.time }

    mutating func add(at time: Nanos, _ action: @escaping () -> Void) {
        heap.append(Entry(time: time, order: planned, action: action))
        planned += 1
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard heap[child].isBefore(heap[parent]) else { break }
            heap.swapAt(child, parent)
            child = parent
        }
    }

    mutating func popFirst() -> (time: Nanos, action: () -> Void)? {
        guard let first = heap.first, let last = heap.popLast() else { return nil }
        guard !heap.isEmpty else { return (first.time, first.action) }
        heap[0] = last
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2] where child < heap.count {
                if heap[child].isBefore(heap[least]) { least = child }
            }
            guard least != parent else { break }
            heap.swapAt(parent, least)
            parent = least
        }
        return (first.time, first.action)
    }

    mutating func removeAll() { heap = [] }
}
