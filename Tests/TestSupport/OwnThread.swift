// SPDX-License-Identifier: Apache-2.0
//
// Tests run in parallel on a cooperative pool of as many threads as there are cores. One that computes for seconds
// takes a thread from all others, and theirs are tests of leases that run out. It goes to a thread of its own, which
// the kernel shares fairly with the rest.
import NIOCore
import NIOPosix

private final class OwnThread: TaskExecutor {
    private let eventLoop = MultiThreadedEventLoopGroup(numberOfThreads: 1).next()

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        eventLoop.execute { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
    }
}

private let ownThread = OwnThread()

/// Runs a body that computes for long on one thread kept for such, instead of the cooperative pool.
package func onOwnThread<Result: Sendable>(
    _ body: @Sendable () async throws -> Result
) async throws -> Result {
    try await withTaskExecutorPreference(ownThread) { try await body() }
}
