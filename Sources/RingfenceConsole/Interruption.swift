// SPDX-License-Identifier: Apache-2.0
import RingfenceOperations
import Synchronization

/// Runs `body`, and cancels it when it is to end: at Ctrl-C, SIGTERM, SIGQUIT or SIGHUP.
/// - Parameter endsUnread: also when nobody reads what it prints, or it cannot be written. Not for what changes
///   something.
/// - Returns: nil when that made it throw.
/// - Throws: what `body` throws; ``Output/Failure``.
package func untilInterrupted<Result: Sendable>(
    endsUnread: Bool = false, _ body: @Sendable @escaping () async throws -> Result
) async throws -> Result? {
    let signals = Signals.listen(as: .lasting)
    let work = Task { try await body() }
    let ending = Task {
        for await signal in signals {
            Interruption.note(signal.number)
            work.cancel()
        }
    }
    let unwritten = Mutex<Output.Failure?>(nil)
    let watching = Task {
        while endsUnread, !Task.isCancelled {
            if let failure = Output.ending {
                unwritten.withLock { $0 = failure }
                return work.cancel()
            }
            try? await Task.sleep(for: .milliseconds(250))
        }
    }
    defer {
        ending.cancel()
        watching.cancel()
    }
    do {
        let result = try await work.value
        if let failure = unwritten.withLock({ $0 }) { throw failure }
        return result
    } catch let failure as Output.Failure {
        throw failure
    } catch  where work.isCancelled {
        if let failure = unwritten.withLock({ $0 }) { throw failure }
        return nil
    }
}
