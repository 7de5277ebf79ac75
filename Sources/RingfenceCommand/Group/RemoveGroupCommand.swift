// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct RemoveGroupCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Remove an empty group.",
        usage: "ringfence group remove NAME [--reason TEXT]",
        discussion: """
            Its name, its ring and its settings go. Its version and epoch are remembered for 30 days and go on if a \
            member joins again; after that every new group begins above them. Refused while the group has a member, or \
            a former primary may still act.

            EXAMPLES
              ringfence group remove ledger-old --reason 'moved to ledger'
            """)

    @OptionGroup var order: OrderArguments

    func run() async throws {
        try await order.give("removed") {
            try await $0.remove(actor: $1.who, reason: $1.reason)
        }
    }
}
