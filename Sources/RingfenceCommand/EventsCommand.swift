// SPDX-License-Identifier: Apache-2.0
//
// What happened, for the person who wants to know at three in the morning, and for scripts that must not miss anything:
// the cursor to go on with is always said at the end.
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct EventsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "events",
        abstract: "Show what happened to groups, and follow it.",
        discussion: """
            Every join, update, leave and death of a member is an event with a number; numbers have no gaps. Without \
            --after the newest are shown; with it, all behind that cursor. With --follow it goes on until Ctrl-C, over \
            restarts of Redis and broken connections: every event once and in order, or a line that says how many were \
            lost. At its end it says on standard error with which cursor to go on.

            A cursor is GENERATION:NUMBER, the place behind an event; 0:0 is before the first. The log keeps about the \
            newest 10,000 events. Times are Redis' clock. --json prints each event as it stands in the log; \
            its cursor is its "generation":"sequence". A loss is {"reset":true,"lost":N,"cursor":"…"}, with null for \
            an N that nobody can know.

            EXIT CODES
              0    done, or ended by Ctrl-C
              1    the log does not have what follows --after (without --follow)
              64   bad usage              69   Redis cannot be reached, or refused (--follow waits for it)
              74   cannot write; the cursor it says then is behind the last event that was written whole

            EXAMPLES
              ringfence events
              ringfence events --follow --group ledger
              ringfence events --after 0:0 --type member.expired
              ringfence events --follow --json | jq -r 'select(.type=="member.expired") | .member'
            """)

    @Flag(name: .shortAndLong, help: "Go on with what happens, until Ctrl-C.")
    var follow = false
    @Option(help: ArgumentHelp("Events behind this cursor.", valueName: "cursor"))
    var after: String?
    @Option(help: ArgumentHelp("Only of this group.", valueName: "name"))
    var group: String?
    @Option(help: ArgumentHelp("Only of this type, such as member.expired.", valueName: "type"))
    var type: String?
    @Option(
        help: "How many at most; with --follow: how many of the newest to begin with. (default: 20 without --after)")
    var limit: Int?
    @Flag(help: "Print JSON, one object a line.")
    var json = false
    @OptionGroup var times: TimeOptions
    @OptionGroup(title: "Redis and general options")
    var redis: RedisOptions

    func validate() throws {
        if let after, EventCursor(after) == nil {
            throw ValidationError("--after must be a cursor, GENERATION:NUMBER, such as 0:0, not \(after)")
        }
        if let limit, limit < 0 || limit > 1_000_000 {
            throw ValidationError("--limit must be 0 to 1000000, not \(limit)")
        }
        if follow, after != nil, limit != nil {
            throw ValidationError("give --after or --limit with --follow, not both: all behind the cursor is shown")
        }
    }

    func run() async throws {
        let lines = EventLines(json: json, isLocal: times.isLocal, group: group, type: type)
        let goOn: (EventCursor) -> String = { "ringfence: go on with --after \($0)" }
        let cursor = try await lines.written.telling(goOn) {
            let cursor = try await untilInterrupted(endsUnread: true) {
                try await redis.withClient(isLasting: follow, waits: follow) { client in
                    var cursor =
                        follow
                        ? try await waitingForRedis { try await showPages(client, lines) }
                        : try await showPages(client, lines)
                    if follow, !json { note("waits for what happens; Ctrl-C ends it") }
                    if follow, !Task.isCancelled { cursor = try await lines.follow(client, cursor) }
                    return cursor
                }
            }
            // What was printed is written before it is said to be.
            try Output.flush()
            return cursor
        }
        guard say(cursor.map(goOn) ?? "ringfence: interrupted before anything was read") else {
            throw ExitCode.inputOutput
        }
    }

    /// What is in the log now, as far as it is asked for.
    /// - Returns: the cursor behind it.
    private func showPages(_ client: RingfenceClient, _ lines: EventLines) async throws -> EventCursor {
        if let after = after.flatMap({ EventCursor($0) }) {
            lines.written.set(after)
            // Following shows what is behind the cursor by itself, and says what is lost.
            return follow ? after : try await showAll(client, lines, after: after)
        }
        let wanted = limit ?? 20
        var page = try await client.eventPage(limit: 1)
        let end = page.end
        // Backwards, a thousand at a time, until there are enough.
        var found: [Event] = []
        var before = end.sequence
        while found.count < wanted, before > page.oldest.sequence, !Task.isCancelled {
            let from = max(page.oldest.sequence, before - 1000)
            guard let cursor = EventCursor("\(end.generation):\(from)") else { break }
            page = try await client.eventPage(after: cursor, limit: 1000)
            if page.isReset { break }
            found = page.events.filter { $0.sequence <= before && lines.accepts($0) } + found
            before = from
        }
        lines.written.set(
            found.suffix(wanted).first.flatMap { EventCursor("\($0.cursor.generation):\($0.sequence - 1)") } ?? end)
        for event in found.suffix(wanted) {
            try lines.show(event)
            lines.written.set(event.cursor)
        }
        if found.isEmpty, !follow, !json { try put("no such event is kept") }
        return end
    }

    private func showAll(_ client: RingfenceClient, _ lines: EventLines, after: EventCursor) async throws -> EventCursor
    {
        var cursor = after
        var left = limit ?? .max
        while left > 0, !Task.isCancelled {
            let page = try await client.eventPage(after: cursor, limit: 1000)
            guard !page.isReset else {
                let lost = page.lost.map { "\($0) events lie between" } ?? "how many are lost nobody can know"
                throw CommandFailure(
                    "the log does not have what follows \(cursor): \(lost). It goes on after \(page.next), and keeps "
                        + "what is behind \(page.oldest)")
            }
            for event in page.events where left > 0 {
                cursor = event.cursor
                if lines.accepts(event) {
                    try lines.show(event)
                    left -= 1
                }
                lines.written.set(cursor)
            }
            if page.events.isEmpty || cursor == page.end { break }
        }
        return cursor
    }
}
