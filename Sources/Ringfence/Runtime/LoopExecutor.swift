// SPDX-License-Identifier: Apache-2.0
//
// Runs tasks where the answers come in. A task that locks and unlocks all the time is resumed by the event loop, and on
// the default executor each resume wakes a thread of the pool, for some microseconds of work; the commands then leave
// in small batches, as those threads get round to it. On the loop itself one read of answers resumes all their tasks,
// one after another, and what they ask next leaves in one write: half the processor time for a command when measured.
// Not the default, because the tasks of others then wait whenever one does not let go of the loop.

package import NIOCore
import Synchronization

package final class LoopExecutor: TaskExecutor {
    private struct Queue {
        var jobs: [UnownedJob] = []
        var isScheduled = false
    }

    private let eventLoop: any EventLoop
    private let queue = Mutex(Queue())

    package init(_ eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    package func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        let isFirst = queue.withLock { queue in
            queue.jobs.append(job)
            defer { queue.isScheduled = true }
            return !queue.isScheduled
        }
        if isFirst { eventLoop.execute { self.drain() } }
    }

    /// Jobs that come meanwhile run in the loop's next turn, behind the writes of this one.
    private func drain() {
        let jobs = queue.withLock { queue in
            queue.isScheduled = false
            defer { queue.jobs = [] }
            return queue.jobs
        }
        let executor = asUnownedTaskExecutor()
        for job in jobs { job.runSynchronously(on: executor) }
    }
}
