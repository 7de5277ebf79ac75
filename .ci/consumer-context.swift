// SPDX-License-Identifier: Apache-2.0
//
// What the README's examples take for granted: a program, a client made before, and a database client, a stored cursor, what
// a primary does, and what is done with an event of the user's own.

import Ringfence

struct Database: Sendable {
    struct Connection: Sendable {
        func run(_ sql: String, _ arguments: any Sendable...) async throws {}
    }

    func transaction<Result: Sendable>(
        _ body: @Sendable (Connection) async throws -> Result
    ) async throws -> Result { try await body(Connection()) }
}

let database = Database()
let ringfence: RingfenceClient = {
    do { return try RingfenceClient(.init()) } catch { preconditionFailure("\(error)") }
}()
let stored: EventCursor? = nil
func batches() -> AsyncStream<Int> { AsyncStream { $0.finish() } }
func settle(_ batch: Int, fence: Int64) async throws {}
func apply(_ event: Event, cursor: EventCursor) async throws {}

@main enum Payments {
    static func main() async throws { try await example0() }
}
