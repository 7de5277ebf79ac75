// SPDX-License-Identifier: Apache-2.0
import HTTPTypes
import RingfenceCore
import RingfenceOperations
import RingfencePlatform

/// The tokens that may use the service, from a file: one a line, blank lines and `#` comments left out. Several at once
/// make a change without a gap possible: add the new one, move the clients, remove the old one.
package struct BearerTokens: Sendable {
    static let lengthMinimum = 16
    private let tokens: [[UInt8]]
    var count: Int { tokens.count }
    /// Others than the owner and its group can read the file.
    package let isWorldReadable: Bool

    /// Reads the file.
    /// - Throws: ``Settings/Failure`` if it is unreadable, holds no token, or one of less than 16 bytes.
    package init(file: String) throws {
        let lines = try readFile(file, limit: 65_536).split(separator: 0x0A)
        var tokens: [[UInt8]] = []
        for (number, line) in lines.enumerated() {
            let token = line.drop { $0 == 0x20 || $0 == 0x09 }.reversed().drop { $0 <= 0x20 }.reversed()
            guard !token.isEmpty, token.first != UInt8(ascii: "#") else { continue }
            guard token.count >= Self.lengthMinimum else {
                throw Settings.Failure(
                    description: "\(file), token \(number + 1): a token must have \(Self.lengthMinimum) bytes at least")
            }
            tokens.append(Array(token))
        }
        guard !tokens.isEmpty else { throw Settings.Failure(description: "\(file) holds no token") }
        self.tokens = tokens
        var status = stat()
        isWorldReadable = stat(file, &status) == 0 && status.st_mode & 0o004 != 0
    }

    /// Whether `authorization` is `Bearer` and one of the tokens. Compares all bytes of all tokens whatever it finds,
    /// so the time it takes tells nothing about them but their lengths.
    func accept(_ authorization: String?) -> Bool {
        guard let authorization else { return false }
        let bytes = Array(authorization.utf8)
        guard bytes.count > 7, bytes[..<7].elementsEqual("bearer ".utf8, by: { $0 | 0x20 == $1 }) else { return false }
        let given = bytes[7...].drop { $0 == 0x20 }
        var accepted = false
        for token in tokens {
            var difference: UInt8 = given.count == token.count ? 0 : 1
            for (index, byte) in given.enumerated() { difference |= byte ^ token[index % token.count] }
            accepted = (difference == 0) || accepted
        }
        return accepted
    }
}
