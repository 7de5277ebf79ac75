// SPDX-License-Identifier: Apache-2.0
//
// The repository itself, for tests of its text: what its documents say that a program can do.

/// With a slash at its end.
package let repositoryRoot = "/" + #filePath.split(separator: "/").dropLast(3).joined(separator: "/") + "/"

/// The subcommands of `program` that the documents call, in blocks of code and between backticks.
package func documentedCommands(of program: String, in documents: [String]) throws -> Set<String> {
    var commands: Set<String> = []
    for document in documents {
        var isCode = false
        for line in try readFile(repositoryRoot + document).split(separator: "\n") {
            if line.hasPrefix("```") {
                isCode.toggle()
                continue
            }
            // A block of code, and what stands between backticks in a text.
            let pieces = isCode ? [line] : everySecond(line.split(separator: "`", omittingEmptySubsequences: false))
            for piece in pieces {
                let words = piece.split(separator: " ")
                for (index, word) in words.enumerated().dropLast()
                where word == program || word.hasSuffix("/" + program) {
                    let next = words[index + 1]
                    if next.first?.isLowercase == true, next.allSatisfy({ $0.isLowercase || $0 == "-" }) {
                        commands.insert(String(next))
                    }
                }
            }
        }
    }
    return commands
}

private func everySecond(_ pieces: [Substring]) -> [Substring] {
    pieces.enumerated().filter { $0.offset % 2 == 1 }.map(\.element)
}
