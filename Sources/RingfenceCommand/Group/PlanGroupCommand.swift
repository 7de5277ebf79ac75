// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct PlanGroupCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan",
        abstract: "Show who would be primary if it died now, how soon, and why not each of the others.",
        usage: "ringfence group plan NAME [--json]",
        discussion: """
            Candidates in the order in which they would be elected; those that may not, at the end with every reason. \
            Nothing is changed.

            EXAMPLES
              ringfence group plan ledger
              ringfence group plan ledger --json | jq -r '.winner'
            """)

    @OptionGroup var group: GroupArguments

    func run() async throws {
        let status = try await group.withOperations { try await $0.status().known() }
        if group.json { return try put(namingRedis(JSONWriter.describing(status.plan).text)) }
        for line in GroupPicture.lines(status.plan) { try put(line) }
    }
}
