// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import RingfenceConsole
import RingfenceOperations

struct ShowRingCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show how much of the ring each member owns (the default action).",
        usage: "ringfence ring [show] NAME [--json]",
        discussion: """
            A bar for each member: its share of all keys against its fair share by weight.

            EXAMPLES
              ringfence ring ledger
              ringfence ring ledger --json | jq -r .digest
            """)

    @OptionGroup var group: GroupArguments
    @Argument(parsing: .allUnrecognized, help: .hidden)
    var rest: [String] = []

    func validate() throws { try refuse(rest, behind: group.name, of: RingCommand.self) }

    func run() async throws {
        let view = try await group.ringView()
        if group.json { return try put(namingRedis(JSONWriter.describing(view).text)) }
        for line in RingPicture.shares(of: view) { try put(line) }
    }
}
