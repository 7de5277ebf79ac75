// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct ShowGroupCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show the group and its members (the default action).",
        usage: "ringfence group [show] NAME [--json]",
        discussion: """
            A live member renews its lease long before it ends; one whose time left keeps falling has stopped. STATE \
            is healthy, failing (its check fails), unfit (it reports so itself), maintenance, draining (weight 0) or \
            lost. LAG is how far it is behind the primary's last position. PENALTY grows by 1 each time it lost the \
            role involuntarily and halves every 5 minutes. Exits with 1 for a group that never had a member.

            EXAMPLES
              ringfence group ledger
              ringfence group ledger --json | jq '.members[] | select(.weight == 0) | .id'
            """)

    @OptionGroup var group: GroupArguments
    @Argument(parsing: .allUnrecognized, help: .hidden)
    var rest: [String] = []

    func validate() throws { try refuse(rest, behind: group.name, of: GroupCommand.self) }

    func run() async throws {
        let status = try await group.withOperations { try await $0.status() }
        guard status.version > 0 else { throw ExitCode.noGroup(group.name) }
        if group.json { return try put(namingRedis(JSONWriter.describing(GroupView(status)).text)) }
        for line in GroupPicture.lines(GroupView(status)) { try put(line) }
    }
}

extension ExitCode {
    /// Says that there is no such group.
    static func noGroup(_ name: String) -> ExitCode {
        say("ringfence: no group \(name): nobody ever joined it; `ringfence groups` shows those there are")
        return .failure
    }
}
