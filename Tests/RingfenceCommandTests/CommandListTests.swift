// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import TestSupport
import Testing

@testable import RingfenceCommand

@Suite struct CommandListTests {
    private static let commandLine = "Sources/Ringfence/Ringfence.docc/CommandLine.md"

    private var commands: Set<String> {
        let configuration = Main.configuration
        let all = configuration.subcommands + configuration.groupedSubcommands.flatMap { $0.subcommands }
        return Set(all.filter { $0.configuration.shouldDisplay }.compactMap { $0.configuration.commandName })
    }

    @Test func `the article on the command line names the commands that there are, and no others`() throws {
        #expect(commands.count > 10)
        #expect(try documentedCommands(of: "ringfence", in: [Self.commandLine]) == commands)
    }

    @Test func `no document names a command that does not exist`() throws {
        let articles = ["Agent", "Balancing", "Failover", "Fencing", "Groups", "HTTP", "Operating", "Tour"]
        let documents = ["README.md", "SECURITY.md"] + articles.map { "Sources/Ringfence/Ringfence.docc/\($0).md" }
        let named = try documentedCommands(of: "ringfence", in: documents)
        #expect(named.count > 5)
        #expect(named.subtracting(commands) == [])
    }
}
