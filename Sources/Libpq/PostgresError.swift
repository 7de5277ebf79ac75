// SPDX-License-Identifier: Apache-2.0

/// Why PostgreSQL cannot be asked, or what it says of a question.
package struct PostgresError: Error, Sendable, Hashable, CustomStringConvertible {
    /// The SQLSTATE of a server that answers, but takes no further connection of this user.
    package static let tooManyConnections = "53300"

    /// For a person, in one line: `Connection refused`, or `FATAL:  3D000: database "x" does not exist`.
    package var message: String
    /// The server's code of the error; nil: no server said it.
    package var sqlState: String?
    package var description: String { message }

    init(_ message: String) { self.message = message }

    /// The essence of what libpq says: of `connection to server at "…", port 5432 failed: Connection refused` and the
    /// advice below it, the reason.
    init(libpq text: String) {
        let lines = text.split(whereSeparator: \.isNewline)
        let line = lines.first { $0.contains("FATAL") || $0.contains("failed:") } ?? lines.first ?? "libpq failed"
        let reason = line.ranges(of: "failed: ").last.map { line[$0.upperBound...] } ?? line
        message = String(reason.prefix(200))
        // The severity is in the server's language.
        sqlState = reason.firstMatch(of: #/^\S+:  ([0-9A-Z]{5}): /#).map { String($0.1) }
    }
}
