// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct SwitchoverCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "switchover",
        abstract: "Hand the role of primary over without losing writes.",
        usage: "ringfence group switchover NAME [--to MEMBER] [--timeout DURATION] [--reason TEXT]\n"
            + "ringfence group switchover NAME --abort",
        discussion: """
            The primary is told to stop and reports its last position; the target is elected when it has reached that \
            position. Waits until the new primary is ready. If the target does not get there in time the order is \
            taken back and the primary goes on (exit code 75). Ctrl-C takes it back too.

            EXAMPLES
              ringfence group switchover ledger --reason 'kernel update'    # to the one that would be elected
              ringfence group switchover ledger --to node-2 --timeout 10s
              ringfence group switchover ledger --abort
            """)

    @Option(help: ArgumentHelp("The new primary. (default: the member that would be elected)", valueName: "member"))
    var to: String?
    @Option(help: "The time limit for its election, 10ms to 1h. (default: 30s)", transform: DurationArgument.parse)
    var timeout = DurationArgument(.seconds(30))
    @Flag(help: "Take the current switchover back.")
    var abort = false
    @OptionGroup var order: OrderArguments

    func validate() throws {
        guard timeout.duration >= .milliseconds(10), timeout.duration <= .seconds(3600) else {
            throw ValidationError("--timeout must be 10ms to 1h, not \(timeout.duration.shortText)")
        }
        if abort, to != nil { throw ValidationError("give --to or --abort, not both") }
    }

    func run() async throws {
        let (who, why, to, limit) = (order.who, order.reason, to, timeout.duration)
        if abort {
            return try await order.give("aborted", "taken back") {
                try await $0.abortSwitchover(actor: $1.who, reason: $1.reason)
            }
        }
        note("waits until the new primary is ready; its election may take \(limit.shortText). Ctrl-C takes it back")
        try await order.run("ready", "") {
            try await $0.switchover(to: to, timeout: limit, actor: who, reason: why)
        }
    }
}
