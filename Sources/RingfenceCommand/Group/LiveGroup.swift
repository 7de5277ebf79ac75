// SPDX-License-Identifier: Apache-2.0
//
// A group on a terminal, drawn over and over in the same place: how it is, its members, and the newest events. Drawn
// each second, because leases run down without an event, and at once when one comes. Nothing of it is a record: who
// wants each event once and in order takes a pipe, or `ringfence events`.
import Ringfence
import RingfenceConsole
import RingfenceOperations
import Synchronization

struct LiveGroup: Sendable {
    let client: RingfenceClient
    let name: String
    let lines: EventLines

    private static let newest = 8

    /// What one draws and the other changes.
    private final class Board: Sendable {
        private struct State {
            var status: [String] = []
            var events: [String] = []
            /// How many lines the cursor is below the first of the last picture.
            var depth = 0
        }
        private let state = Mutex(State())

        func show(status: [String]) throws { try draw { $0.status = status } }

        func show(event: String) throws {
            try draw { $0.events = ($0.events + [event]).suffix(LiveGroup.newest) }
        }

        private func draw(_ change: (inout State) -> Void) throws {
            let text = state.withLock { state in
                change(&state)
                // Higher than the screen, its first line could not be found again. The head says the most.
                let room = max(2, (Output.rows ?? 24) - 1)
                var lines = state.status
                if lines.count > room {
                    let hidden = lines.count - room + 1
                    lines = lines.prefix(room - 1) + ["… \(hidden) more lines: ringfence group show NAME"]
                }
                if !state.events.isEmpty, lines.count + 2 <= room {
                    lines += [""] + state.events.suffix(room - lines.count - 1)
                }
                lines = lines.map { $0.cut(to: Output.columns ?? 80) }
                let back = state.depth > 0 ? "\u{1B}[\(state.depth)A" : ""
                state.depth = lines.count - 1
                return "\r" + back + "\u{1B}[J" + lines.joined(separator: "\n")
            }
            try put(text)
            try Output.flush()
        }
    }

    /// Draws until the task is cancelled.
    /// - Returns: where `ringfence events` goes on.
    func run(_ cursor: EventCursor) async throws -> EventCursor {
        let board = Board()
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { try await self.look(board) }
            tasks.addTask { try await self.follow(board, cursor) }
            try await tasks.next()
            tasks.cancelAll()
        }
        // What is said next begins a line.
        try put("")
        return lines.written.cursor ?? cursor
    }

    private func look(_ board: Board) async throws {
        while !Task.isCancelled {
            do {
                let status = try await client.operations(on: name).status()
                let now = timeText(wallClockNanoseconds() / 1_000_000, isLocal: lines.isLocal)
                try board.show(status: ["\(now)  (Ctrl-C ends it)"] + GroupPicture.lines(GroupView(status)))
            } catch let error as RingfenceError
                where Task.isCancelled || [.coordinatorUnavailable, .coordinatorRefused].contains(error.code)
            {
                if Task.isCancelled { return }
                try board.show(status: ["\(name): not known now: \(error.message)"])
            }
            try? await Task.sleep(for: .seconds(1))
        }
    }

    private func follow(_ board: Board, _ cursor: EventCursor) async throws {
        for try await item in try client.events(ofGroup: name, after: cursor) {
            switch item {
            case .event(let event):
                if lines.accepts(event) { try board.show(event: lines.line(of: event)) }
                lines.written.set(event.cursor)
            case .state: break
            case .reset(let state, let lost):
                try board.show(event: EventLines.text(lost: lost, state.cursor))
                lines.written.set(state.cursor)
            }
        }
    }
}
