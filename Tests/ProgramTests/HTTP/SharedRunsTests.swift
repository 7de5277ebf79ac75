// SPDX-License-Identifier: Apache-2.0
import Synchronization
import TestSupport
import Testing

@testable import RingfenceHTTP

@Suite struct SharedRunsTests {
    /// Runs that end when they are told, and count how many there were and were at once.
    private final class Work: Sendable {
        struct State {
            var begun = 0
            var atOnce = 0
            var most = 0
            var isOpen = false
        }
        let state = Mutex(State())

        func run() async throws -> Int {
            let number = state.withLock { state in
                state.begun += 1
                state.atOnce += 1
                state.most = max(state.most, state.atOnce)
                return state.begun
            }
            try await eventually("the gate opens", within: .seconds(60)) { state.withLock { $0.isOpen } }
            state.withLock { $0.atOnce -= 1 }
            return number
        }
    }

    @Test func `all who ask while a run is under way share the next one, and get what was asked for after they came`()
        async throws
    {
        let (runs, work) = (SharedRuns<Int>(), Work())
        let first = Task { try await runs.value("g") { try await work.run() } }
        try await eventually("the first is under way") { work.state.withLock { $0.begun } == 1 }
        let others = (0..<50).map { _ in Task { try await runs.value("g") { try await work.run() } } }
        let elsewhere = Task { try await runs.value("h") { 7 } }
        #expect(try await elsewhere.value == 7, "another question waits for nobody")
        // All stand in line before the gate opens, or later: nobody gets the answer of the first.
        others[0].cancel()
        work.state.withLock { $0.isOpen = true }
        #expect(try await first.value == 1)
        for other in others { #expect(try await other.value > 1) }
        let (begun, most) = work.state.withLock { ($0.begun, $0.most) }
        #expect(most == 1 && begun <= 51)
        #expect(try await runs.value("g") { 9 } == 9, "what is over is asked anew")
    }

    @Test func `an error goes to those who shared the run, and the next run is another one`() async throws {
        let runs = SharedRuns<Int>()
        await #expect(throws: TestSupportError.self) { try await runs.value("g") { throw TestSupportError("no") } }
        #expect(try await runs.value("g") { 1 } == 1)
    }

    @Test func `no two runs of a question are under way at once, whoever comes when`() async throws {
        let (runs, work) = (SharedRuns<Int>(), Work())
        work.state.withLock { $0.isOpen = true }
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for _ in 0..<8 {
                tasks.addTask {
                    for _ in 0..<200 {
                        let before = work.state.withLock { $0.begun }
                        let number = try await runs.value("g") { try await work.run() }
                        #expect(number > before)
                    }
                }
            }
            for try await _ in tasks {}
        }
        let most = work.state.withLock { $0.most }
        #expect(most == 1)
    }
}
