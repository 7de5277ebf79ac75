// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct ResumeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resume",
        abstract: "End a pause.",
        usage: "ringfence group resume NAME",
        discussion: """
            Nothing happens if there is none.

            EXAMPLES
              ringfence group resume ledger
            """)

    @OptionGroup var order: OrderArguments

    func run() async throws {
        try await order.give("resumed") {
            try await $0.resume(actor: $1.who, reason: $1.reason)
        }
    }
}
