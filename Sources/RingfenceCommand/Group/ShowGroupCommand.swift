// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct ShowGroupCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show the group and its members (the default action).",
        usage: "ringfence group NAME [--json]",
        discussion: """
            A member that lives renews its lease long before it ends; one whose time left keeps falling has stopped. \
            STATE is healthy, failing (its check fails), unfit (it says so itself), maintenance, draining (weight 0) or \
            lost. LAG is what it lacks of the primary's last position, PENALTY grows by one with each time it lost the \
            role against its will and halves in 5 minutes. Exits with 1 for a group that never had a member.

            EXAMPLES
              ringfence group ledger
              ringfence group ledger --json | jq '.members[] | select(.weight == 0) | .id'
            """)

    @OptionGroup var group: GroupArguments
    @Argument(help: .hidden)
    var rest: [String] = []

    func validate() throws {
        if let word = rest.first {
            throw ValidationError("there is no action \(word); they are \(GroupCommand.actions), right behind the name")
        }
    }

    func run() async throws {
        let status = try await group.redis.withClient { try await $0.inspectGroup(group.name) }
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
