// SPDX-License-Identifier: Apache-2.0
//
// Our side of a benchmark: N tasks that do one thing over and over for a given time. The pace is what all of them did
// together; the time of a single one is taken for every sixteenth only, so that looking at the clock is not what is
// measured.

import RingfenceConsole
import RingfencePlatform
import Synchronization

/// N tasks doing one thing over and over.
struct Load: Sendable {
    /// What the tasks did together.
    struct Outcome: Sendable {
        var count = 0
        var seconds = 0.0
        /// User and system time of this whole process meanwhile.
        var cpuSeconds = 0.0
        /// How long single ones took, in microseconds: a sample.
        var sampled: [Double] = []

        var perSecond: Double { seconds > 0 ? Double(count) / seconds : 0 }
    }

    static let sampledOneIn = 16
    /// RUSAGE_SELF, which Glibc imports with another type than `getrusage` takes.
    private static let rusageSelf: Int32 = 0

    /// Runs `body` in `tasks` tasks for about `seconds`; `body` gets the task's number and a number that is new each
    /// time, in all tasks, which prefer `executor`. The first error ends all. `whenOver` is called when the time is
    /// over, to wake who waits.
    static func run(
        tasks: Int, seconds: Double, executor: (any TaskExecutor)? = nil,
        _ body: @Sendable @escaping (_ task: Int, _ serial: Int64) async throws -> Void,
        whenOver: @Sendable @escaping () -> Void = {}
    ) async throws -> Outcome {
        let isOver = Shared(false)
        let start = ContinuousClock.now
        let cpu = processCPUSeconds()
        return try await withThrowingTaskGroup(of: (Int, [Double]).self) { group in
            for task in 0..<tasks {
                group.addTask(executorPreference: executor) {
                    var count = 0
                    var sampled: [Double] = []
                    var serial = Int64(task) << 40
                    while !isOver.value {
                        serial += 1
                        count += 1
                        if count % sampledOneIn == 0 {
                            let begin = ContinuousClock.now
                            try await body(task, serial)
                            sampled.append((ContinuousClock.now - begin).microseconds)
                        } else {
                            try await body(task, serial)
                        }
                    }
                    return (count, sampled)
                }
            }
            group.addTask {
                try await Task.sleep(for: .seconds(seconds))
                isOver.withLock { $0 = true }
                whenOver()
                return (0, [])
            }
            var outcome = Outcome()
            for try await (count, sampled) in group {
                outcome.count += count
                outcome.sampled += sampled
            }
            outcome.seconds = (ContinuousClock.now - start).seconds
            outcome.cpuSeconds = processCPUSeconds() - cpu
            return outcome
        }
    }

    /// User and system time of this process so far.
    static func processCPUSeconds() -> Double {
        var usage = rusage()
        getrusage(rusageSelf, &usage)
        return Double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
            + Double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6
    }
}

/// A value that several tasks share: a mutex that closures can capture.
final class Shared<Value: Sendable>: Sendable {
    private let mutex: Mutex<Value>

    init(_ value: Value) { mutex = Mutex(value) }

    var value: Value { mutex.withLock { $0 } }

    func withLock<Result: Sendable>(_ body: (inout Value) -> Result) -> Result {
        mutex.withLock { body(&$0) }
    }
}
