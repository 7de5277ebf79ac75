// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import TestSupport
import Testing

@testable import RingfenceBench

@Suite struct CommandListTests {
    @Test func `the article on the command line names the benchmarks that there are, and no others`() throws {
        let shown = BenchCommand.configuration.subcommands.filter { $0.configuration.shouldDisplay }
        let commands = Set(shown.compactMap { $0.configuration.commandName })
        #expect(commands.count > 5)
        let article = "Sources/Ringfence/Ringfence.docc/CommandLine.md"
        #expect(try documentedCommands(of: "ringfence-bench", in: [article]) == commands)
    }
}
