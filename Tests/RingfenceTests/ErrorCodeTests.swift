// SPDX-License-Identifier: Apache-2.0
import TestSupport
import Testing

@Suite struct ErrorCodeTests {
    @Test func `the name of an error's code in Swift is its text, and the article on errors has all of them`() throws {
        let source = try readFile(repositoryRoot + "Sources/Ringfence/RingfenceError.swift")
        let codes = source.matches(of: /static let (\w+) = Code\("([\w.]+)"\)/).map {
            (name: String($0.output.1), text: String($0.output.2))
        }
        #expect(codes.count > 25)
        for code in codes {
            let words = code.text.split(separator: ".")
            let name = words.dropFirst().reduce(String(words[0])) { $0 + $1.prefix(1).uppercased() + $1.dropFirst() }
            #expect(code.name == name)
        }
        let article = try readFile(repositoryRoot + "Sources/Ringfence/Ringfence.docc/Errors.md")
        let documented = article.matches(of: /\n\| `([\w.]+)` \|/).map { String($0.output.1) }
        #expect(Set(codes.map(\.text)).subtracting(documented) == [])
    }
}
