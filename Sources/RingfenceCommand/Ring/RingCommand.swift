// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceOperations

struct RingCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ring",
        abstract: "Show who owns how much of a group's ring, where keys belong, and what would move.",
        usage: "ringfence ring [ACTION] NAME [options]",
        discussion: """
            The members of a group stand on a hash ring, which gives the owner of every key. This reads the members \
            once and computes the rest here. Nothing is changed. Without an action it shows each member's share. (A \
            group that is called like an action: ringfence ring show NAME.)

            EXAMPLES
              ringfence ring ledger
              ringfence ring owner ledger account/4711 account/4712 --count 3
              ringfence ring plan ledger --join node-9:2:zone-a --leave node-3
            """,
        subcommands: [ShowRingCommand.self, RingOwnerCommand.self, RingPlanCommand.self],
        defaultSubcommand: ShowRingCommand.self)
}

extension GroupArguments {
    /// The ring of the group's members as they are now.
    func ringView() async throws -> RingView {
        let name = name
        return try await redis.withClient { client in
            let group = try await client.group(name)
            // A mistyped name is no group without members, whose keys nobody owns.
            guard group.snapshot.version > 0 else { throw NoSuchGroup(name: name) }
            return RingView(of: group)
        }
    }
}
