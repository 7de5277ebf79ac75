// SPDX-License-Identifier: Apache-2.0
//
// The log of the simulation, as the scripts keep it, and a subscriber of it.
import RingfenceCore
import TestSupport

struct SimulatedEvent: LogEntry {
    var position: LogPosition
    var id: Int
    var parent: Int
    var byteCount: Int { 100 }
}

/// The log as the scripts keep it.
struct SimulatedLog {
    var generation: String?
    var sequence: Int64 = 0
    var run = ""
    var forks: [LogHead.Fork] = []
    /// All of this history, by number; `nil` is deleted by hand.
    var history: [SimulatedEvent?] = []
    var first: Int64 = 1
    var lastID: Int { ids.last ?? 0 }
    /// Of all events, deleted ones too.
    var ids: [Int] = []

    var head: LogHead {
        LogHead(generation: generation ?? LogPosition.start.generation, sequence: sequence, first: first, forks: forks)
    }

    mutating func append(id: Int, run: String, nonce: String, retain: Int64) -> SimulatedEvent {
        if let generation {
            if run != self.run {
                forks.insert(.init(generation: generation, last: sequence), at: 0)
                self.generation = nonce
            }
        } else {
            generation = nonce
        }
        self.run = run
        let event = SimulatedEvent(
            position: LogPosition(generation: generation!, sequence: sequence + 1), id: id, parent: lastID)
        sequence += 1
        history.append(event)
        ids.append(id)
        // Trimming is approximate: in pieces of ten.
        if sequence - first >= retain + 10 { first = sequence - retain + 1 }
        return event
    }

    func page(after sequence: Int64, count: Int64) -> LogPage<SimulatedEvent> {
        let from = max(sequence + 1, first)
        let to = min(self.sequence, from + count - 1)
        let found = from <= to ? history[Int(from - 1)..<Int(to)].compactMap { $0 } : []
        return LogPage(head: head, after: sequence, read: found)
    }
}

final class SimulatedReader {
    let number: Int
    var machine: EventReaderMachine<SimulatedEvent>
    /// The event it had last, or that its state stands for.
    var anchor = 0
    /// What it would store.
    var given: LogPosition?
    var waitsFor: Int?
    var isAlive = true
    var isSlow = false
    var name: String { "reader \(number)" }

    init(number: Int, cursor: LogPosition?) {
        self.number = number
        given = cursor
        machine = EventReaderMachine(after: cursor, limit: 5)
    }
}
