import Ringfence
// SPDX-License-Identifier: Apache-2.0
//
// Events as lines, for people or as JSON: what `events` and `group watch NAME` share. A line is printed once and never
// again.
import RingfenceConsole
import RingfenceCore
import RingfenceOperations
import Synchronization

/// The place behind the last event that was dealt with: not wanted, or written, all of it.
final class Written: Sendable {
    private let place = Mutex<EventCursor?>(nil)

    var cursor: EventCursor? { place.withLock { $0 } }
    func set(_ cursor: EventCursor?) { place.withLock { $0 = cursor } }

    /// Runs `body`; when it ends because standard output cannot be written, says how to go on. Not where nobody reads
    /// any more: what of the last written was read is not known here.
    func telling<Result>(_ line: (EventCursor) -> String, _ body: () async throws -> Result) async throws -> Result {
        do { return try await body() } catch let failure as Output.Failure {
            if let cursor, !failure.isClosed { say(line(cursor)) }
            throw failure
        }
    }
}

/// Prints events as they come.
struct EventLines: Sendable {
    var json: Bool
    var isLocal = false
    /// Only of this group.
    var group: String?
    /// Only of this type.
    var type: String?
    /// Where to go on.
    let written = Written()
    /// The group is in every line already.
    var isGroupKnown = false

    func accepts(_ event: Event) -> Bool {
        (group == nil || event.group == group) && (type == nil || event.type.description == type)
    }

    /// Prints all behind `cursor` until the task is cancelled.
    /// - Returns: where to go on.
    func follow(_ client: RingfenceClient, _ cursor: EventCursor) async throws -> EventCursor {
        let events = try group.map { try client.events(ofGroup: $0, after: cursor) } ?? client.events(after: cursor)
        var iterator = events.makeAsyncIterator()
        while let item = try await iterator.next() {
            switch item {
            case .event(let event):
                if accepts(event) { try show(event) }
                written.set(event.cursor)
            case .state: break
            case .reset(let state, let lost):
                try show(lost: lost, state.cursor)
                written.set(state.cursor)
            }
        }
        return iterator.cursor ?? cursor
    }

    func show(lost: Int?, _ cursor: EventCursor) throws {
        if json {
            try put(#"{"reset":true,"lost":\#(lost.map { "\($0)" } ?? "null"),"cursor":"\#(cursor)"}"#)
        } else {
            try put(Self.text(lost: lost, cursor))
        }
        try Output.flush()
    }

    static func text(lost: Int?, _ cursor: EventCursor) -> String {
        let count = lost.map { "\($0) events were" } ?? "an unknown number of events was"
        return "-- \(count) lost here; it goes on after \(cursor)"
    }

    func show(_ event: Event) throws {
        try put(json ? String(decoding: event.json, as: UTF8.self) : line(of: event))
        try Output.flush()
    }

    /// An event for people.
    func line(of event: Event) -> String {
        let about = (isGroupKnown ? [event.member] : [event.group, event.member]).compactMap { $0 }
            .joined(separator: " / ")
        let notes = EventNotes.notes(on: event)
        let type = event.type.description
        let line =
            "\(timeText(event.at, isLocal: isLocal))  \(type)"
            + "\(String(repeating: " ", count: max(1, 19 - type.count)))\(about)"
            + (notes.isEmpty ? "" : "  (\(notes.joined(separator: ", ")))")
        // Names come from callers of the library, which lets no control character in; a foreign writer might.
        return line.shown
    }
}
