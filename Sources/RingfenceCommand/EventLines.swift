import Ringfence
// SPDX-License-Identifier: Apache-2.0
//
// Events as lines, for people or as JSON: what `events` and `group NAME watch` share. A line is printed once and never again.
import RingfenceCore
import RingfenceService

/// Prints events as they come.
struct EventLines: Sendable {
    var json: Bool
    /// Only of this group.
    var group: String?
    /// Only of this type.
    var type: String?
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
            case .event(let event): if accepts(event) { show(event) }
            case .state: break
            case .reset(let state, let lost): show(lost: lost, state.cursor)
            }
        }
        return iterator.cursor ?? cursor
    }

    func show(lost: Int?, _ cursor: EventCursor) {
        if json {
            print(#"{"reset":true,"lost":\#(lost.map { "\($0)" } ?? "null"),"cursor":"\#(cursor)"}"#)
        } else {
            let count = lost.map { "\($0) events were" } ?? "an unknown number of events was"
            print("-- \(count) lost here; it goes on after \(cursor)")
        }
        flushOutput()
    }

    func show(_ event: Event) {
        defer { flushOutput() }
        print(json ? String(decoding: event.json, as: UTF8.self) : line(of: event))
    }

    /// An event for people.
    func line(of event: Event) -> String {
        let about = (isGroupKnown ? [event.member] : [event.group, event.member]).compactMap { $0 }
            .joined(separator: " / ")
        let notes = EventNotes.notes(on: event)
        let type = event.type.description
        let line =
            "\(utcText(event.at))  \(type)\(String(repeating: " ", count: max(1, 19 - type.count)))\(about)"
            + (notes.isEmpty ? "" : "  (\(notes.joined(separator: ", ")))")
        // Names come from callers of the library, which lets no control character in; a foreign writer might.
        return line.shown
    }
}

/// Runs `body`, and cancels it when it is to end: at Ctrl-C, SIGTERM, SIGQUIT or SIGHUP.
/// - Returns: nil when that made it throw.
func untilInterrupted<Result: Sendable>(
    _ body: @Sendable @escaping () async throws -> Result
) async throws -> Result? {
    let signals = Signals.listen(as: .lasting)
    let work = Task { try await body() }
    let ending = Task { for await _ in signals { work.cancel() } }
    defer { ending.cancel() }
    do { return try await work.value } catch  where work.isCancelled { return nil }
}
