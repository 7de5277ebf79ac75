// SPDX-License-Identifier: Apache-2.0
//
// A process that follows the event log and is killed by its tests:
//
//      TestSubscriber URL CURSOR
//
// It says each event in one line, `CURSOR NUMBER`, where the number is the one that its writer gave it: the line is the
// event's effect and the stored cursor in one. Anything else it gets, it says as it is.

import Logging
import Ringfence
import RingfencePlatform

// One write a line: it comes whole or not at all, also when the process is killed.
func say(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    _ = write(1, bytes, bytes.count)
}

guard CommandLine.arguments.count == 3, let cursor = EventCursor(CommandLine.arguments[2]) else {
    say("usage: TestSubscriber URL CURSOR")
    exit(64)
}
var logger = Logger(label: "subscriber")
logger.logLevel = .critical
let client = try RingfenceClient(.init(url: CommandLine.arguments[1]), logger: logger)
for try await item in client.events(after: cursor) {
    switch item {
    case .event(let event): say("\(event.cursor) \(event.joined?.metadata["n"] ?? "none")")
    case .state(let state): say("\(state.cursor) state")
    case .reset(let state, let lost): say("\(state.cursor) reset \(lost ?? -1)")
    }
}
