// SPDX-License-Identifier: Apache-2.0
//
// What operators ask at three in the morning: who holds it, who waits, who had it, take it away.
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations
import RingfencePlatform

struct LocksCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "locks",
        abstract: "Show held locks, or one lock with its queue.",
        discussion: """
            Without a name: all held locks, or those whose name starts with --prefix. With a name: its holder, last \
            fence and queue, in one atomic look.

            A short list is sorted by name. More than 1000 locks are printed as they are found, in no order.

            EXAMPLES
              ringfence locks
              ringfence locks --prefix account/
              ringfence locks payout/nightly
              ringfence locks --json | jq -r '.name'          # one JSON object a line
            """)

    @Argument(help: "Show this lock, whether held or not.")
    var name: String?
    @Option(help: "Only names that start with this.")
    var prefix = ""
    @Option(help: "How many at most, 1 to 100000000. (default: all)")
    var limit: Int?
    @Flag(help: "Print JSON, one object a line.")
    var json = false
    @OptionGroup(title: "Redis and general options")
    var redis: RedisOptions

    func validate() throws {
        if name != nil, !prefix.isEmpty { throw ValidationError("give a name or --prefix, not both") }
        if name != nil, limit != nil { throw ValidationError("--limit is for a list, not for one lock") }
        if let limit, !(1...100_000_000).contains(limit) {
            throw ValidationError("--limit must be 1 to 100000000, not \(limit)")
        }
    }

    func run() async throws {
        try await redis.withClient { client in
            if let name {
                try show(try await client.inspect(name))
            } else {
                try await LockList(prefix: prefix, limit: limit, json: json).show(client)
            }
        }
    }

    private func show(_ status: LockStatus) throws {
        if json { return try put(namingRedis(JSONWriter.describing(status).text)) }
        try put("name        \(status.name)")
        if let holder = status.holder {
            try put("holder      \(holder.owner)")
            try put("hold        \(holder.id)")
            try put("fence       \(holder.fence)")
            try put("time left   \(holder.remaining.shortText)")
        } else {
            try put("holder      nobody")
            try put("last fence  \(status.lastFence.map { String($0) } ?? "none is kept")")
        }
        try put("waiting     \(status.queueLength)")
        for (place, waiter) in status.queue.enumerated() {
            let others = waiter.names.filter { $0 != status.name }
            let also = others.isEmpty ? "" : "  also for \(others.joined(separator: ", "))"
            try put("  \(place + 1). \(waiter.owner), for \(waiter.waiting.shortText)\(also)")
        }
    }
}

struct UnlockCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unlock",
        abstract: "Take a lock away from its holder.",
        discussion: """
            The holder is told at once and its work is cancelled, the next in line gets the lock, and the audit keeps \
            who did this and why. The former holder's work may still be running: the printed fence is dead, and so is \
            every older one, so raise the guards of what the lock protects to it.

            Look first (ringfence locks NAME). A holder that died needs none of this: its lock ends by itself.
            Exits with 1 when nobody held the lock.

            EXAMPLES
              ringfence unlock payout/nightly --force --reason 'ticket 4711: worker hangs'
            """)

    @Argument(help: "The lock's name.")
    var name: String
    @Flag(help: "Required: says that you know that somebody holds it.")
    var force = false
    @Option(help: "Why, for the audit. Up to 512 bytes.")
    var reason = ""
    @Option(help: ArgumentHelp("Who does this, for the audit.", valueName: "label"))
    var actor: String?
    @Flag(help: "Print JSON.")
    var json = false
    @OptionGroup(title: "Redis and general options")
    var redis: RedisOptions

    func validate() throws {
        if !force { throw ValidationError("somebody may be working under this lock: add --force if you are sure") }
    }

    func run() async throws {
        let actor = actor ?? getenv("USER").map { String(cString: $0) } ?? "uid \(getuid())"
        guard let forced = try await redis.withClient({ try await $0.forceRelease(name, actor: actor, reason: reason) })
        else {
            say("ringfence: nobody holds \(name)")
            throw ExitCode.failure
        }
        if json { return try put(namingRedis(JSONWriter.describing(forced).text)) }
        try put("taken from \(forced.previous.owner), which had \(forced.previous.remaining.shortText) left")
        try put("every fence up to \(forced.fence) is dead: raise your guards to it")
    }
}

struct AuditCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "audit",
        abstract: "Show the newest grants and releases.",
        discussion: """
            Newest first, by Redis' clock. The audit is bounded (about 10,000 records a namespace). A hold that ran \
            out has a grant and no release: the next grant of the lock, or a look at it now, tells so, as END. (With \
            Redis out of memory a release may be missing too.) A holder is called what it calls itself, unproven; who \
            took a lock away is shown with where the order came from.

            EXAMPLES
              ringfence audit
              ringfence audit --limit 1000 --json | jq 'select(.action=="force")'
            """)

    @Option(help: "How many records at most, 1 to 1000.")
    var limit = 50
    @Flag(help: "Print JSON, one object a line.")
    var json = false
    @OptionGroup var times: TimeOptions
    @OptionGroup(title: "Redis and general options")
    var redis: RedisOptions

    func run() async throws {
        let (records, outcomes) = try await redis.withClient { client -> ([AuditRecord], [Int: GrantOutcome]) in
            let records = try await client.audit(limit: limit)
            if json { return (records, [:]) }
            let outcomes = try await GrantOutcomes.find(records) { try await client.inspect($0).holder?.fence == $1 }
            guard outcomes.values.contains(.ranOut(before: nil)) else { return (records, outcomes) }
            // What was released between the two looks did not run out.
            let later = try await client.audit(limit: 1000)
            return (records, GrantOutcomes.withoutEnded(outcomes, of: records, after: later))
        }
        guard !json else {
            for record in records {
                var line = JSONWriter()
                line.record(record)
                try put(namingRedis(line.text))
            }
            return
        }
        if records.isEmpty { return try put("the audit is empty") }
        try printTable(
            ["AT", "ACTION", "LOCK", "HOLDER (AS IT SAYS)", "FENCE", "HELD", "WAITED", "END", "REASON"],
            records.enumerated().map { place, record in
                [
                    times.text(record.at), record.action, record.names.joined(separator: " "), record.owner,
                    String(record.fence), record.held?.shortText ?? "", record.waited?.shortText ?? "",
                    text(outcomes[place]), record.reason ?? "",
                ]
            })
    }

    private func text(_ outcome: GrantOutcome?) -> String {
        switch outcome {
        case nil: ""
        case .held: "held now"
        case .ranOut(nil): "ran out"
        case .ranOut(let time?): "ran out before \(times.text(time))"
        }
    }
}
