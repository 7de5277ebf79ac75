// SPDX-License-Identifier: Apache-2.0
//
// A process that is a member of one group, for tests that kill and freeze it:
//
//      TestMember URL GROUP MEMBER LEASE-MILLISECONDS [rejoins|primary]
//
// It says what happens on standard output, a line each, and does what it is told on standard input, but only then: so a
// test can put an order into the pipe of a frozen member and see what it does first when it thaws.
//
//      says   joined SESSION    it is a member
//             state STATE       its state changed
//             check yes|no      the answer to `check`: what isMember and check() say, which must agree
//             seen IDS          the answer to `see`: the ids in its snapshot
//             blocked           no thread of the cooperative pool is free
//             left              the answer to `leave`; then it exits
//             primary EPOCH     it is primary, and inside its body; `check` then asks its epoch too
//             over              its body has ended
//      obeys  check, see, block, leave

import Logging
import Ringfence
import RingfencePlatform
import Synchronization

// One write a line: it comes whole or not at all, also when the process is killed.
@Sendable func say(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    _ = write(1, bytes, bytes.count)
}

/// Blocks all threads of the pool for good: more tasks than it can have threads, and some could not even start.
@Sendable func block() {
    for _ in 0..<256 {
        Task.detached {
            while true { usleep(1000) }
        }
    }
    usleep(50_000)
    say("blocked")
}

let arguments = CommandLine.arguments
guard arguments.count >= 5, let milliseconds = Int(arguments[4]) else {
    say("usage: TestMember URL GROUP MEMBER LEASE-MILLISECONDS [rejoins|primary]")
    exit(64)
}
var logger = Logger(label: "member")
logger.logLevel = .critical
let client = try RingfenceClient(
    .init(url: arguments[1], owner: "member", commandTimeout: .seconds(20), connectTimeout: .seconds(20)),
    logger: logger)
let group = try await client.group(arguments[2])
let membership = try await group.join(
    arguments[3], lease: .milliseconds(milliseconds), rejoins: arguments.last == "rejoins")
say("joined \(membership.session)")
let states = membership.states
let listener = Task.detached {
    for await state in states { say("state \(state.rawValue)") }
}
let epoch = Mutex<Epoch?>(nil)
if arguments.last == "primary" {
    Task.detached {
        while true {
            do {
                try await membership.withPrimary { held in
                    epoch.withLock { $0 = held }
                    say("primary \(held)")
                    try await Task.sleep(for: .seconds(3600))
                }
            } catch { say("over") }
            guard membership.state == .member || membership.state == .suspended else { return }
        }
    }
}
while let order = readLine() {
    switch order {
    case "check":
        let passes = (try? membership.check()) != nil
        let isMember = membership.isMember
        if let held = epoch.withLock({ $0 }) {
            say("check \(held.isHeld ? "yes" : "no")")
            continue
        }
        // The deadline may pass between the two.
        say(passes || !isMember ? "check \(isMember ? "yes" : "no")" : "check torn")
    case "see": say("seen " + group.snapshot.members.map(\.id).joined(separator: ","))
    case "block": block()
    case "leave":
        try await membership.leave(reason: "told to")
        await client.shutdown()
        say("left")
        exit(0)
    default: say("what is \(order)?")
    }
}
