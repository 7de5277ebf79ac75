// SPDX-License-Identifier: Apache-2.0
//
// A process that wants to be primary of one group for ever, and writes down when it was, for tests that kill, freeze and cut
// it off:
//
//      TestPrimary URL GROUP MEMBER LEASE-MILLISECONDS FILE [heedless]
//
// Each line it appends to FILE is one look: CLOCK_MONOTONIC before the look and after it, both in ns, and the epoch that it held at
// that look. The clock is that of the machine, so lines of several processes can be compared. A heedless one acts on after
// its role is over, as a process does that never looks: a control, which must be found.

import Logging
import Ringfence

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

func monotonic() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
}

let arguments = CommandLine.arguments
guard arguments.count >= 6, let milliseconds = Int(arguments[4]) else {
    print("usage: TestPrimary URL GROUP MEMBER LEASE-MILLISECONDS FILE [heedless]")
    exit(64)
}
let isHeedless = arguments.last == "heedless"
let file = open(arguments[5], O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0o600)

// A process of its own: an epoch that it is given is another term, though the one before had the same.
_ = write(file, "-\n", 2)

@Sendable func note(_ before: Int64, _ epoch: Int64) {
    // One write a line: it comes whole or not at all, also when the process is killed.
    let bytes = Array("\(before) \(monotonic()) \(epoch)\n".utf8)
    _ = write(file, bytes, bytes.count)
}

var logger = Logger(label: "primary")
logger.logLevel = .critical
while true {
    let client = try RingfenceClient(
        .init(url: arguments[1], owner: arguments[3], commandTimeout: .seconds(1), connectTimeout: .seconds(1)),
        logger: logger)
    do {
        let group = try await client.group(arguments[2])
        while true {
            try await group.withPrimary(as: arguments[3], lease: .milliseconds(milliseconds)) { epoch in
                if isHeedless {
                    for _ in 0..<2500 {
                        note(monotonic(), epoch.value)
                        usleep(4000)
                    }
                    return
                }
                while !Task.isCancelled {
                    let before = monotonic()
                    guard epoch.isHeld else { return }
                    note(before, epoch.value)
                    try await Task.sleep(for: .milliseconds(4))
                }
            }
        }
    } catch {
        await client.shutdown()
        usleep(20_000)
    }
}
