// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct AcknowledgeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "acknowledge",
        abstract: "Acknowledge repeated failovers and resume automatic election.",
        usage: "ringfence group acknowledge NAME [--reason TEXT]",
        discussion: """
            After too many failovers in a short time (3 in 10 minutes by default) automatic election stops while more \
            than one candidate is eligible, so that one fault does not break every primary in turn.

            EXAMPLES
              ringfence group acknowledge ledger --reason 'bad switch port, fixed'
            """)

    @OptionGroup var order: OrderArguments

    func run() async throws {
        try await order.give("acknowledged") {
            try await $0.acknowledge(actor: $1.who, reason: $1.reason)
        }
    }
}
