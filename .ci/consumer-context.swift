// SPDX-License-Identifier: Apache-2.0
//
// What the README's examples take for granted: a program, a client made before, and a database client, a stored cursor, what
// a primary does, and what is done with an event of the user's own; an HTTP client, and something to send with it or to cache.

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
struct Issuers: Sendable {
    func authorise(at address: String, _ payment: String) async throws -> Bool { true }
}

let http = Issuers()
let payment = "alice pays bob 12.50"
let bytes = Array(payment.utf8)
let stored: EventCursor? = nil
func batches() -> AsyncStream<Int> { AsyncStream { $0.finish() } }
func payOut(fence: Int64) async throws -> Int { 0 }
func settle(_ batch: Int, fence: Int64) async throws {}
func apply(_ event: Event, cursor: EventCursor) async throws {}

@main enum Payments {
    static func main() async throws { try await example0() }
}
