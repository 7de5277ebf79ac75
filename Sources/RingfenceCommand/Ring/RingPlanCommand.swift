// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct RingPlanCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan",
        abstract: "Show how much would move, and from whom to whom, if members joined, changed or left.",
        usage: "ringfence ring plan NAME [--join ID[:WEIGHT[:ZONE]] …] [--leave ID …] [--json [--ranges]]",
        discussion: """
            --join of a member that is there changes it. What is left out of id[:weight[:zone]] stays as it is, or is \
            weight 1 and no zone. A colon in an id is written \\: as in 10.0.0.7\\:7000:2.

            EXAMPLES
              ringfence ring plan ledger --join node-9:2:zone-a --leave node-3
              ringfence ring plan ledger --join node-3:0           # drain it
              ringfence ring plan ledger --leave node-3 --ranges --json | jq .moves
            """)

    @OptionGroup var group: GroupArguments
    @Option(
        name: .customLong("join"),
        help: ArgumentHelp("A member that would join or change.", valueName: "id[:weight[:zone]]"))
    var joining: [JoinArgument] = []
    @Option(name: .customLong("leave"), help: ArgumentHelp("A member that would leave.", valueName: "id"))
    var leaving: [String] = []
    @Flag(help: "With --json: list each range that would move.")
    var ranges = false

    func validate() throws {
        if joining.isEmpty, leaving.isEmpty {
            throw ValidationError("plan needs --join or --leave: what would change?")
        }
        if ranges, !group.json { throw ValidationError("--ranges belongs to --json: there are hundreds") }
    }

    func run() async throws {
        let view = try await group.ringView()
        let joining = joining.map { $0.member(on: view.ring) }
        let plan = try view.ring.plan(joining: joining, leaving: leaving)
        let next = try view.ring.applying(joining: joining, leaving: leaving)
        if group.json {
            return try put(namingRedis(JSONWriter.describing(plan, to: next, from: view, ranges: ranges).text))
        }
        for line in RingPicture.plan(plan, to: next, from: view) { try put(line) }
    }
}
