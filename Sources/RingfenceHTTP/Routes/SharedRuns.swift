// SPDX-License-Identifier: Apache-2.0
//
// One run for many callers that ask the same at the same time. A look at a whole large group is 80 calls to Redis and
// megabytes to write; if sixteen dashboards ask for it at once, locks wait behind all of them.
//
// One run of a question is under way at a time. Callers that come meanwhile share the next one: so what a caller gets
// was asked for after it came, and is no older than an answer of its own would be. A run goes on when its first caller
// has gone: others may wait for it.
import Synchronization

final class SharedRuns<Value: Sendable>: Sendable {
    private struct Runs {
        var current: Task<Value, any Error>
        /// Begins when `current` is over.
        var next: Task<Value, any Error>?
    }

    private let runs = Mutex<[[UInt8]: Runs]>([:])

    /// The value of a run that begins after this was called.
    func value(_ question: String, _ run: @escaping @Sendable () async throws -> Value) async throws -> Value {
        // A name is its bytes.
        let key = Array(question.utf8)
        let task = runs.withLock { runs -> Task<Value, any Error> in
            if let next = runs[key]?.next { return next }
            guard let before = runs[key]?.current else {
                let task = Task { try await self.perform(key, run) }
                runs[key] = Runs(current: task)
                return task
            }
            let task = Task {
                _ = await before.result
                self.runs.withLock { runs in
                    if let next = runs[key]?.next { runs[key] = Runs(current: next) }
                }
                return try await self.perform(key, run)
            }
            runs[key]?.next = task
            return task
        }
        return try await task.value
    }

    private func perform(_ key: [UInt8], _ run: @Sendable () async throws -> Value) async throws -> Value {
        defer {
            runs.withLock { runs in
                if runs[key]?.next == nil { runs[key] = nil }
            }
        }
        return try await run()
    }
}
