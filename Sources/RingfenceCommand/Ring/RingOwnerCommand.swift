// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct RingOwnerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "owner",
        abstract: "Show the owner of each key, or the members that hold its copies.",
        usage: "ringfence ring owner NAME KEY… [--count COUNT] [--numbers] [--json]",
        discussion: """
            With --json one object a key and line.

            EXAMPLES
              ringfence ring owner ledger account/4711
              ringfence ring owner ledger account/4711 account/4712 --count 3
              ringfence ring owner ledger 4711 --numbers --json | jq -r .owner
            """)

    @OptionGroup var group: GroupArguments
    @Argument(help: "The keys.")
    var keys: [String]
    @Option(help: "How many members of each key's preference list, 1 to 1000.")
    var count = 1
    @Flag(help: "The keys are unsigned 64-bit numbers, not texts.")
    var numbers = false

    func validate() throws {
        guard (1...1000).contains(count) else { throw ValidationError("--count must be 1 to 1000, not \(count)") }
        _ = try ringKeys()
    }

    func run() async throws {
        let keys = try ringKeys()
        let view = try await group.ringView()
        guard group.json else {
            for line in RingPicture.owners(of: keys, count: count, on: view) { try put(line) }
            return
        }
        for key in keys { try put(namingRedis(JSONWriter.describing(key, count: count, on: view).text)) }
    }

    private func ringKeys() throws -> [RingKey] {
        try keys.map { text in
            guard numbers else { return .text(text) }
            guard let number = UInt64(text) else {
                throw ValidationError("\(text) is not an unsigned 64-bit number, as --numbers says")
            }
            return .number(number)
        }
    }
}
