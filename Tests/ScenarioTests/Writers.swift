// SPDX-License-Identifier: Apache-2.0
import Synchronization
import TestSupport

/// Clients that write without a break, and remember what they were told is committed. A number is used once: what
/// became of a commit without an answer nobody knows, so it counts neither way.
final class Writers: Sendable {
    struct Acknowledgement: Sendable {
        var writer: Int
        var number: Int
        /// When its statement was sent,
        var begun: ContinuousClock.Instant
        /// and when it was answered.
        var at: ContinuousClock.Instant
    }

    private let acknowledged = Mutex<[Acknowledgement]>([])
    private let complaint = Mutex("")
    private let tasks = Mutex<[Task<Void, Never>]>([])

    static let table = "CREATE TABLE writes (writer int, number int, PRIMARY KEY (writer, number))"

    /// Starts one that writes to whatever answers on `port`.
    func start(_ writer: Int, port: Int) {
        let task = Task { [self] in
            var number = 0
            var session: PostgresWire?
            while !Task.isCancelled {
                number += 1
                do {
                    let current: PostgresWire
                    if let session { current = session } else { current = try await PostgresWire.connect(port: port) }
                    session = current
                    let begun = ContinuousClock.now
                    try await current.run("INSERT INTO writes VALUES (\(writer), \(number))")
                    let now = ContinuousClock.now
                    acknowledged.withLock {
                        $0.append(.init(writer: writer, number: number, begun: begun, at: now))
                    }
                    try await Task.sleep(for: .milliseconds(2))
                } catch {
                    session = nil
                    complaint.withLock { $0 = "\(error)" }
                    try? await Task.sleep(for: .milliseconds(5))
                }
            }
        }
        tasks.withLock { $0.append(task) }
    }

    func stop() async {
        let tasks = tasks.withLock { $0 }
        for task in tasks { task.cancel() }
        for task in tasks { await task.value }
    }

    var count: Int { acknowledged.withLock { $0.count } }

    /// What the last failure was, for a story of why nothing goes on.
    var lastComplaint: String { complaint.withLock { $0 } }

    /// Waits until so many commits are acknowledged that began after now, and returns when the first of them was. One
    /// that is under way now proves nothing of what comes: a server that is killed may have answered it already.
    @discardableResult
    func progress(_ what: String, by more: Int = 20, writers: ClosedRange<Int> = 0...99) async throws
        -> ContinuousClock.Instant
    {
        let start = ContinuousClock.now
        try await eventually("writes go on \(what)", within: .seconds(120)) {
            count(begunAfter: start, of: writers) >= more
        }
        return acknowledged.withLock { all in
            all.first { $0.begun > start && writers.contains($0.writer) }?.at ?? start
        }
    }

    private func count(begunAfter start: ContinuousClock.Instant, of writers: ClosedRange<Int>) -> Int {
        // Nothing that began after it was answered before it.
        acknowledged.withLock { all in
            all.reversed().prefix { $0.at > start }.count { $0.begun > start && writers.contains($0.writer) }
        }
    }

    /// The longest time without any acknowledgement that reaches into the time since `start`.
    func longestGap(since start: ContinuousClock.Instant) -> Duration {
        acknowledged.withLock { all in
            var gap = Duration.zero
            for (one, next) in zip(all, all.dropFirst()) where next.at > start { gap = max(gap, next.at - one.at) }
            return gap
        }
    }

    /// What was acknowledged and is not there.
    func lost(on port: Int) async throws -> [String] {
        // First what was acknowledged, then what is there: the other way round, what came in between would look lost.
        let all = acknowledged.withLock { $0 }
        let session = try await PostgresWire.connect(port: port)
        let there = Set(try await session.run("SELECT writer, number FROM writes"))
        return all.map { "\($0.writer)|\($0.number)" }.filter { !there.contains($0) }
    }
}
