// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct RingCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ring",
        abstract: "Show who owns how much of a group's ring, where keys belong, and what would move.",
        discussion: """
            A group's members stand on a hash ring; whoever knows them knows the owner of every key. This reads the \
            members once and computes the rest here. Nothing is changed.

            Without an action: a bar for each member, its share of all keys against its fair share by weight. With \
            owner: the owner of each key, or with --count the members that hold its copies. With plan: how much would \
            move, from whom to whom, if members joined, changed (--join of one that is there) or left.

            --join takes id[:weight[:zone]]; what is left out stays as it is, or is weight 1 and no zone. A colon in \
            an id is written \\: as in 10.0.0.7\\:7000:2.

            EXAMPLES
              ringfence ring ledger
              ringfence ring ledger owner account/4711 account/4712 --count 3
              ringfence ring ledger plan --join node-9:2:zone-a --leave node-3
              ringfence ring ledger plan --join node-3:0           # drain it
              ringfence ring ledger plan --leave node-3 --ranges --json | jq .moves
            """)

    enum Action: String, ExpressibleByArgument, CaseIterable {
        case owner, plan
    }

    @Argument(help: "The group's name.")
    var group: String
    @Argument(help: "owner, or plan; without it the shares.")
    var action: Action?
    @Argument(help: "For owner: the keys.")
    var keys: [String] = []
    @Option(help: "For owner: how many members of each key's preference list, 1 to 1000.")
    var count = 1
    @Flag(help: "For owner: the keys are unsigned 64-bit numbers, not texts.")
    var numbers = false
    @Option(
        name: .customLong("join"),
        help: ArgumentHelp("For plan: who would join or change.", valueName: "id[:weight[:zone]]"))
    var joining: [JoinArgument] = []
    @Option(name: .customLong("leave"), help: ArgumentHelp("For plan: who would leave.", valueName: "id"))
    var leaving: [String] = []
    @Flag(help: "For plan, with --json: list each range that would move.")
    var ranges = false
    @Flag(help: "Print JSON: one object, or for owner one a key and line.")
    var json = false
    @OptionGroup(title: "Redis and general options")
    var redis: RedisOptions

    func validate() throws {
        if action == .owner, keys.isEmpty {
            throw ValidationError("owner needs a key: ringfence ring \(group) owner KEY…")
        }
        if action != .owner, let key = keys.first { throw ValidationError("\(key) is too much: only owner takes keys") }
        if action != .owner, numbers || count != 1 { throw ValidationError("--count and --numbers belong to owner") }
        if action == .plan, joining.isEmpty, leaving.isEmpty {
            throw ValidationError("plan needs --join or --leave: what would change?")
        }
        if action != .plan, !joining.isEmpty || !leaving.isEmpty || ranges {
            throw ValidationError("--join, --leave and --ranges belong to plan: ringfence ring \(group) plan …")
        }
        if ranges, !json { throw ValidationError("--ranges belongs to --json: there are hundreds") }
        guard (1...1000).contains(count) else { throw ValidationError("--count must be 1 to 1000, not \(count)") }
        _ = try ringKeys()
    }

    func run() async throws {
        let view = try await redis.withClient { client in
            let group = try await client.group(group)
            // A mistyped name is no group without members, whose keys nobody owns.
            guard group.snapshot.version > 0 else { throw ExitCode.noGroup(group.name) }
            return RingView(of: group)
        }
        for line in try lines(view) { try put(json ? namingRedis(line) : line) }
    }

    /// What is printed.
    func lines(_ view: RingView) throws -> [String] {
        switch action {
        case nil:
            return json ? [JSONWriter.describing(view).text] : RingPicture.shares(of: view)
        case .owner:
            let keys = try ringKeys()
            return json
                ? keys.map { JSONWriter.describing($0, count: count, on: view).text }
                : RingPicture.owners(of: keys, count: count, on: view)
        case .plan:
            let joining = joining.map { $0.member(on: view.ring) }
            let plan = try view.ring.plan(joining: joining, leaving: leaving)
            let next = try view.ring.applying(joining: joining, leaving: leaving)
            return json
                ? [JSONWriter.describing(plan, to: next, from: view, ranges: ranges).text]
                : RingPicture.plan(plan, to: next, from: view)
        }
    }

    private func ringKeys() throws -> [RingKey] {
        try keys.map { text in
            guard numbers else { return .text(text) }
            guard let number = UInt64(text) else {
                throw ValidationError("\(text) is not an unsigned 64-bit number, as --numbers says")
            }
            return .number(number)
        }
    }
}
