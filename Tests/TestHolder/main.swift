// SPDX-License-Identifier: Apache-2.0
//
// A process that holds one lock, for tests that kill and freeze it:
//
//      TestHolder URL NAME TTL-MILLISECONDS
//
// It says what happens on standard output, a line each, and does what it is told on standard input, but only then: so a
// test can put an order into the pipe of a frozen holder and see what it does first when it thaws.
//
//      says   held FENCE        it has the lock
//             cancelled MICROS  the task that runs the body was cancelled, so long after its deadline
//             check yes|no      the answer to `check`: what isHeld and check() say, which must agree
//             ended CODE        withLock threw (`none` when it did not), then it exits
//             blocked           no thread of the cooperative pool is free, and none will be until it is cancelled
//      obeys  check, block, end

import Logging
import Ringfence
import RingfencePlatform
import Synchronization

// One write a line: it comes whole or not at all, also when the process is killed.
@Sendable func say(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    _ = write(1, bytes, bytes.count)
}

final class Flag: Sendable {
    private let value = Atomic<Bool>(false)
    var isSet: Bool { value.load(ordering: .relaxed) }
    func set() { value.store(true, ordering: .relaxed) }
}

final class Counter: Sendable {
    private let value = Atomic<Int>(0)
    var count: Int { value.load(ordering: .relaxed) }
    func increment() { value.add(1, ordering: .relaxed) }
}

/// Blocks all threads of the pool until `isOver`: more tasks than it can have threads, and some could not even start.
@Sendable func block(until isOver: Flag) {
    let started = Counter()
    for _ in 0..<256 {
        Task.detached {
            started.increment()
            while !isOver.isSet { usleep(1000) }
        }
    }
    usleep(50_000)
    say(started.count < 256 ? "blocked" : "free")
}

let arguments = CommandLine.arguments
guard arguments.count == 4, let milliseconds = Int(arguments[3]) else {
    say("usage: TestHolder URL NAME TTL-MILLISECONDS")
    exit(64)
}
var logger = Logger(label: "holder")
logger.logLevel = .critical
let client = try RingfenceClient(.init(url: arguments[1], owner: "holder"), logger: logger)
do {
    try await client.withLock(arguments[2], ttl: .milliseconds(milliseconds), wait: .seconds(60)) { lease in
        say("held \(lease.fence)")
        // Blocks a thread of the pool, as a body may: what protects the lock must not need it.
        let isOver = Flag()
        await withTaskCancellationHandler {
            while let order = readLine(), order != "end" {
                if order == "block" {
                    block(until: isOver)
                } else {
                    let passes = (try? lease.check()) != nil
                    say(passes == lease.isHeld ? "check \(passes ? "yes" : "no")" : "check torn")
                }
            }
            isOver.set()
        } onCancel: {
            say("cancelled \(Int(lease.deadline.duration(to: .now) / .microseconds(1)))")
            isOver.set()
        }
    }
    say("ended none")
} catch {
    say("ended \((error as? RingfenceError)?.code.description ?? "\(error)")")
}
await client.shutdown()
