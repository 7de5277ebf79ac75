// SPDX-License-Identifier: Apache-2.0
//
// What the README's examples take for granted: a program, and a database client of the user's own.

struct Database: Sendable {
    struct Connection: Sendable {
        func run(_ sql: String, _ arguments: any Sendable...) async throws {}
    }

    func transaction<Result: Sendable>(
        _ body: @Sendable (Connection) async throws -> Result
    ) async throws -> Result { try await body(Connection()) }
}

let database = Database()

@main enum Payments {
    static func main() async throws { try await example0() }
}
