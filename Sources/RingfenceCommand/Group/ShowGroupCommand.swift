// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceCore
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
        let status = try await group.withOperations { try await $0.status().known() }
        if group.json { return try put(namingRedis(JSONWriter.describing(GroupView(status)).text)) }
        for line in GroupPicture.lines(GroupView(status)) { try put(line) }
    }
}

/// Nobody ever joined a group of this name.
struct NoSuchGroup: Error {
    var name: String

    /// Says so, and which groups there are.
    func tell(_ client: RingfenceClient) async throws {
        let names = try await client.groupSummaries().map(\.name)
        let more = names.count > Self.shown ? " and \(names.count - Self.shown) more (ringfence groups)" : ""
        let shown = names.prefix(Self.shown).joined(separator: ", ") + more
        let there =
            nearest(to: name, among: names).map { "did you mean \($0)? The groups are \(shown)" }
            ?? (names.isEmpty ? "there are no groups" : "the groups are \(shown)")
        say("ringfence: no group \(name.shown): nobody ever joined it; " + there)
    }

    private static let shown = 10
}

extension GroupStatus {
    /// - Throws: ``NoSuchGroup``: a mistyped name is no group without members.
    func known() throws -> GroupStatus {
        guard version > 0 else { throw NoSuchGroup(name: name) }
        return self
    }
}
