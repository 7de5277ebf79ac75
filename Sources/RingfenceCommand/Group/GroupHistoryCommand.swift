// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct GroupHistoryCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "history",
        abstract: "Show what became of the primary: when, from, to, why, by whom, and how long it took.",
        usage: "ringfence group history NAME [--limit COUNT] [--json]",
        discussion: """
            The newest last, by Redis' clock, as far as the event log is kept (about the newest 10,000 events \
            of all groups). Of each election:
              DETECT   from when the former primary was last heard of: its lease, for one that died
              HANDOVER from the order until the former primary had stopped, for a switchover
              DECIDE   from the end of its role until somebody was elected
              PROMOTE  from then until the new primary was ready
              TOTAL    all of it: the longest time without a primary

            EXAMPLES
              ringfence group history ledger
              ringfence group history ledger --json | jq -c 'select(.kind == "failover") | [.at, .totalMs]'
            """)

    @Option(help: "How many entries at most, 1 to 1000.")
    var limit = 20
    @OptionGroup var times: TimeOptions
    @OptionGroup var group: GroupArguments

    func validate() throws {
        guard (1...1000).contains(limit) else { throw ValidationError("--limit must be 1 to 1000, not \(limit)") }
    }

    func run() async throws {
        let name = group.name
        let newest = try await group.redis.withClient { client in
            _ = try await client.operations(on: name).status().known()
            return try await GroupHistory.newest(limit, of: name, client)
        }
        if group.json {
            for entry in newest.entries {
                var line = JSONWriter()
                line.entry(entry)
                try put(namingRedis(line.text))
            }
            return
        }
        if newest.entries.isEmpty { return try put("nothing is known of a primary of \(name)") }
        for line in Self.lines(newest.entries, times) { try put(line) }
    }

    /// The table.
    static func lines(_ entries: [HistoryEntry], _ times: TimeOptions) -> [String] {
        func text(_ duration: Duration?) -> String { duration.map(\.shortText) ?? "" }
        return tableLines(
            ["AT", "WHAT", "EPOCH", "FROM", "TO", "WHY", "WHO", "DETECT", "HANDOVER", "DECIDE", "PROMOTE", "TOTAL"],
            entries.map { entry in
                // A reason that only repeats what it was is no reason.
                let reasons = [entry.reason, entry.note].compactMap { $0 }
                    .filter {
                        !$0.isEmpty && $0 != entry.kind.rawValue && !(entry.kind == .failoverByHand && $0 == "failover")
                    }
                return [
                    times.text(entry.at), entry.kind.rawValue, entry.epoch.map { "\($0)" } ?? "", entry.from ?? "",
                    entry.to ?? "", reasons.joined(separator: ": "), entry.actor ?? "", text(entry.detection),
                    text(entry.handover), text(entry.decision), text(entry.promotion), text(entry.total),
                ]
            })
    }
}
