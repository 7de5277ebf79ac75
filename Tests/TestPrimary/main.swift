// SPDX-License-Identifier: Apache-2.0
//
// A process that wants to be primary of one group for ever, and writes down when it was, for tests that kill, freeze
// and cut it off:
//
//      TestPrimary URL GROUP MEMBER LEASE-MILLISECONDS FILE [heedless | script TEXT]
//
// What it appends to FILE: `- SESSION` when it joined, and then a line for each look: CLOCK_MONOTONIC before the look
// and after it, both in ns, and the epoch that it held at that look. The clock is that of the machine, so lines of
// several processes can be compared. A heedless one acts on after its role is over, as a process does that never looks;
// one with another TEXT of group.lua does what that says: controls, which must be found.

import Logging
import Ringfence
import RingfencePlatform

func monotonic() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
}

let arguments = CommandLine.arguments
guard arguments.count >= 6, let milliseconds = Int(arguments[4]) else {
    print("usage: TestPrimary URL GROUP MEMBER LEASE-MILLISECONDS FILE [heedless | script TEXT]")
    exit(64)
}
let isHeedless = arguments.count == 7 && arguments[6] == "heedless"
let script = arguments.count == 8 && arguments[6] == "script" ? arguments[7] : nil
let file = open(arguments[5], O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0o600)

@Sendable func note(_ line: String) {
    // One write a line: it comes whole or not at all, also when the process is killed.
    let bytes = Array((line + "\n").utf8)
    // What is not written down would look as if it had not been.
    guard write(file, bytes, bytes.count) == bytes.count else { exit(74) }
}

var logger = Logger(label: "primary")
logger.logLevel = .critical

@Sendable func lead(_ epoch: Epoch) async throws {
    if isHeedless {
        for _ in 0..<2500 {
            let now = monotonic()
            note("\(now) \(now) \(epoch.value)")
            usleep(4000)
        }
        return
    }
    while !Task.isCancelled {
        let before = monotonic()
        guard epoch.isHeld else { return }
        note("\(before) \(monotonic()) \(epoch.value)")
        try await Task.sleep(for: .milliseconds(4))
    }
}

while true {
    var configuration = RingfenceConfiguration(
        url: arguments[1], owner: arguments[3], commandTimeout: .seconds(1), connectTimeout: .seconds(1))
    configuration.groupScript = script
    let client = try RingfenceClient(configuration, logger: logger)
    do {
        let group = try await client.group(arguments[2])
        while true {
            let membership = try await group.join(arguments[3], lease: .milliseconds(milliseconds))
            note("- \(membership.session)")
            do {
                try await membership.withPrimary(lead)
                try? await membership.leave()
            } catch {
                try? await membership.leave()
                throw error
            }
        }
    } catch {
        await client.shutdown()
        usleep(20_000)
    }
}
