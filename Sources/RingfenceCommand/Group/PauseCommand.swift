// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct PauseCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pause",
        abstract: "Pause automatic election for a while.",
        usage: "ringfence group pause NAME --for DURATION [--reason TEXT]",
        discussion: """
            Leases still end, and a primary whose lease is over still stops: then the group has none until you resume, \
            or order a switchover or failover. The pause ends by itself. Pausing again sets a new end.

            EXAMPLES
              ringfence group pause ledger --for 10m --reason 'network work'
            """)

    @Option(name: .customLong("for"), help: "How long, 1s to 30d.", transform: DurationArgument.parse)
    var length: DurationArgument
    @OptionGroup var order: OrderArguments

    func validate() throws {
        guard length.duration >= .seconds(1), length.duration <= .seconds(30 * 86_400) else {
            throw ValidationError("--for must be 1s to 30d, not \(length.duration.shortText)")
        }
    }

    func run() async throws {
        let length = length.duration
        try await order.give("paused", "paused for \(length.shortText)") {
            try await $0.pause(for: length, actor: $1.who, reason: $1.reason)
        }
    }
}
