// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct FailoverCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "failover",
        abstract: "Give the role of primary to a member and accept lost writes.",
        usage: "ringfence group failover NAME --to MEMBER --accept-data-loss [--reason TEXT]",
        discussion: """
            For a primary that no longer hands over, or when there is no automatic election. The primary is told to \
            stop at once; the member is elected as soon as the primary confirms it, or its lease is over. Writes that \
            the member has not received are lost. If the primary works use switchover: it loses nothing.

            EXAMPLES
              ringfence group failover ledger --to node-2 --accept-data-loss --reason 'ticket 4711'
            """)

    @Option(help: ArgumentHelp("The new primary. Required.", valueName: "member"))
    var to: String
    @Flag(help: "Required: confirms that writes the member has not received will be lost.")
    var acceptDataLoss = false
    @Option(
        help: "How long to wait until it is ready, 1s to 1h; the failover goes on after that. (default: 60s)",
        transform: DurationArgument.parse)
    var wait = DurationArgument(.seconds(60))
    @OptionGroup var order: OrderArguments

    func validate() throws {
        guard acceptDataLoss else {
            throw ValidationError(
                "writes that \(to) has not received will be lost: add --accept-data-loss to confirm, or use switchover"
            )
        }
        guard wait.duration >= .seconds(1), wait.duration <= .seconds(3600) else {
            throw ValidationError("--wait must be 1s to 1h, not \(wait.duration.shortText)")
        }
    }

    func run() async throws {
        let (name, who, why, to, limit) = (order.name, order.who, order.reason, to, wait.duration)
        note("waits until \(to) is primary and ready, at most \(limit.shortText)")
        try await order.run("ready", "") { group in
            let outcome = try await withinTime(limit) {
                try await group.failover(to: to, acceptsDataLoss: true, actor: who, reason: why)
            }
            guard let outcome else {
                say("ringfence: ordered, and \(to) is not ready yet; it goes on: ringfence group \(name)")
                throw ExitCode.busy
            }
            return outcome
        }
    }
}

/// What `body` gives, or nil when it takes longer. It goes on then, and its outcome is nobody's.
func withinTime<Result: Sendable>(
    _ limit: Duration, _ body: @Sendable @escaping () async throws -> Result
) async throws -> Result? {
    let (stream, continuation) = AsyncStream<Swift.Result<Result, any Error>?>.makeStream()
    let work = Task {
        do { continuation.yield(.success(try await body())) } catch { continuation.yield(.failure(error)) }
    }
    let timer = Task {
        try? await Task.sleep(for: limit)
        continuation.yield(nil)
    }
    defer { timer.cancel() }
    return try await withTaskCancellationHandler {
        for await first in stream { return try first?.get() }
        throw CancellationError()
    } onCancel: {
        work.cancel()
    }
}
