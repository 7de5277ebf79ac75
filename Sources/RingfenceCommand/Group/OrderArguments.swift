// SPDX-License-Identifier: Apache-2.0
//
// What operators order about a group. Each order says who gave it and why, and both stand in its event; what is refused
// changes nothing, says every reason and exits with 2.
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations
import RingfencePlatform

/// What every order takes.
struct OrderArguments: ParsableArguments {
    @Option(help: "Why, for the event. Up to 512 bytes.")
    var reason = ""
    @Option(help: ArgumentHelp("Who orders it, for the event: 1 to 128 bytes. (default: the user)", valueName: "label"))
    var actor: String?
    @OptionGroup var group: GroupArguments

    var name: String { group.name }

    var who: String { actor ?? getenv("USER").map { String(cString: $0) } ?? "uid \(getuid())" }

    /// Gives the order, and says what came of it.
    /// - Parameter outcome: what `give` did, in one word for JSON.
    func run(
        _ outcome: String, _ said: String,
        _ give: @Sendable @escaping (GroupOperations) async throws -> PrimaryStatus?
    ) async throws {
        let group = group
        let primary = try await untilInterrupted { try await group.withOperations(give) }
        guard let primary else {
            throw CommandFailure("interrupted; `ringfence group \(name)` shows how it is now", code: .interrupted)
        }
        if group.json { return try put(namingRedis(JSONWriter.describing(outcome, of: name, primary).text)) }
        try put(said + (primary.map { "\($0.member ?? "nobody") is primary, epoch \($0.epoch)" } ?? ""))
    }
}

extension OrderArguments {
    /// Gives an order after which there is nothing to wait for.
    func give(
        _ outcome: String, _ said: String? = nil,
        _ order: @Sendable @escaping (GroupOperations, OrderArguments) async throws -> Void
    ) async throws {
        let arguments = self
        try await run(outcome, said ?? outcome) { group in
            try await order(group, arguments)
            return nil
        }
    }
}
