// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct WatchGroupCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "watch",
        abstract: "Show what happens to the group, as it happens, until Ctrl-C.",
        usage: "ringfence group watch NAME [--json]",
        discussion: """
            On a terminal: the group and its members as `ringfence group NAME` shows them, drawn anew each second and \
            with each event, and the newest events below. In a pipe or a file: first how the group is, then a line for \
            each event, over restarts of Redis and broken connections: each once and in order, or a line that says how \
            many were lost; --json gives the events as they stand in the log. At its end it says on standard error \
            with which cursor `ringfence events` goes on.

            EXAMPLES
              ringfence group watch ledger
              ringfence group watch ledger --json | jq -r 'select(.type | test("^primary")) | [.at, .type, .member]'
            """)

    @OptionGroup var times: TimeOptions
    @OptionGroup var group: GroupArguments

    func run() async throws {
        let group = group
        let isDrawn = !group.json && Output.isDrawable
        let lines = EventLines(
            json: group.json, isLocal: times.isLocal, group: group.name, isGroupKnown: true)
        let goOn: (EventCursor) -> String = {
            "ringfence: go on with ringfence events --follow --group \(group.name) --after \($0)"
        }
        let cursor = try await lines.written.telling(goOn) {
            try await untilInterrupted(endsUnread: true) {
                // What is drawn says itself what it waits for; a line of the log would be drawn over.
                try await group.redis.withClient(isLasting: !isDrawn, isQuiet: isDrawn, waits: true) { client in
                    // Before the look: nothing between the two is missed.
                    let cursor = try await waitingForRedis { try await client.eventPage(limit: 1).end }
                    lines.written.set(cursor)
                    if isDrawn {
                        return try await LiveGroup(client: client, name: group.name, lines: lines).run(cursor)
                    }
                    if !group.json {
                        let status = try await client.operations(on: group.name).status()
                        for line in GroupPicture.headline(GroupView(status)) { try put(line) }
                        try Output.flush()
                    }
                    return try await lines.follow(client, cursor)
                }
            }
        }
        if let cursor, !say(goOn(cursor)) { throw ExitCode.inputOutput }
    }
}
