// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import RingfenceConsole
import TestSupport
import Testing

@Suite struct ConsoleTests {
    private static let rows = [
        ["a", "short", "1"], [String(repeating: "b", count: 50), "owner/1234", "1795399200123456"],
    ]

    @Test(arguments: [20, 40, 60, 80, 200])
    func `a table is as wide as the terminal at most, and cuts the widest column first`(columns: Int) {
        let table = Table(["NAME", "HOLDER", "FENCE"], sample: Self.rows, columns: columns)
        let lines = [table.headingLine] + Self.rows.map { table.line($0) }
        #expect(lines.allSatisfy { $0.count <= columns }, "\(lines)")
        if columns >= 60 { #expect(lines[2].contains("owner/1234") && lines[2].hasSuffix("1795399200123456")) }
        if columns < 80 { #expect(lines[2].contains("…")) }
        if columns == 200 { #expect(!lines[2].contains("…")) }
    }

    @Test func `a pipe gets all of a table, and later rows may be wider than the first`() {
        let table = Table(["NAME", "HOLDER", "FENCE"], sample: [Self.rows[0]], columns: nil)
        #expect(table.line(Self.rows[1]).contains(Self.rows[1][0] + "  owner/1234  1795"))
        #expect(table.line(["x\u{1B}[2J", "", ""]) == "x\\u{1B}[2J")
    }

    @Test func `the article on the command line has every exit code, and no other`() throws {
        let article = try readFile(repositoryRoot + "Sources/Ringfence/Ringfence.docc/CommandLine.md")
        let table = try #require(article.split(separator: "## Exit codes").last?.prefix(while: { $0 != "#" }))
        let codes = table.matches(of: /\n\| (\d+) \|/).compactMap { Int32($0.output.1) }
        #expect(codes == ExitCode.documented.map(\.rawValue))
    }
}
