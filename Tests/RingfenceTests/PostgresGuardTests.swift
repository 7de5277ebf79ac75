// SPDX-License-Identifier: Apache-2.0
//
// The SQL guard in front of a real write, on a real PostgreSQL, through psql: order, refusal, and what concurrent
// transactions see at each isolation level.
import Ringfence
import TestSupport
import Testing

@Suite(.postgres) struct PostgresGuardTests {
    static let stale = PostgresRefusal(sqlState: RingfenceGuard.staleFenceState)
    static let serialization = PostgresRefusal(sqlState: "40001")
    static let malformed = PostgresRefusal(sqlState: "22023")

    @Test(arguments: RedisGuardTests.order)
    func `a newer fence writes, and an older one is then refused`(older: Int64, newer: Int64) async throws {
        let session = try await installed().session()
        try await session.write("first", fence: older, holder: "a-1")
        try await session.write("second", fence: newer, holder: "b-1")
        await #expect(throws: Self.stale) { try await session.write("late", fence: older, holder: "a-1") }
        #expect(try await session.run("SELECT value FROM entry") == "second")
        #expect(try await session.run("SELECT resource, fence, holder FROM ringfence_guard") == "x|\(newer)|b-1")
    }

    @Test func `one holder writes again and again under one fence, another holder of the same fence never`()
        async throws
    {
        let session = try await installed().session()
        for value in 1...3 { try await session.write("\(value)", fence: 7, holder: "a-1") }
        await #expect(throws: Self.stale) { try await session.write("other", fence: 7, holder: "b-1") }
        #expect(try await session.run("SELECT value FROM entry") == "3")
    }

    @Test func `a holder stopped inside its transaction keeps its successor waiting no longer than the settings say`()
        async throws
    {
        let database = try await installed()
        let (stopped, other, successor) = (try database.session(), try database.session(), try database.session())
        try await stopped.run("BEGIN; SELECT ringfence_guard('x', 1, 'a-1')")
        // It says nothing more. By default that goes on for ever: the wait must end by itself.
        try await successor.run("SET lock_timeout = '50ms'")
        await #expect(throws: PostgresRefusal(sqlState: "55P03")) {
            try await successor.run("SELECT ringfence_guard('x', 2, 'b-1')")
        }
        try await other.run("SET idle_in_transaction_session_timeout = '100ms'")
        try await other.run("BEGIN; SELECT ringfence_guard('y', 1, 'a-1')")
        try await successor.run("SET lock_timeout = 0")
        try await successor.run("SELECT ringfence_guard('y', 2, 'b-1')")
        #expect(try await successor.run("SELECT fence FROM ringfence_guard WHERE resource = 'y'") == "2")
        await #expect(throws: (any Error).self) { try await other.run("COMMIT") }
    }

    @Test func `a refusal names the newest fence and its holder`() async throws {
        let session = try await installed().session()
        try await session.write("first", fence: 8, holder: "b-1")
        let refusal = await #expect(throws: PostgresRefusal.self) {
            try await session.write("late", fence: 7, holder: "a-1")
        }
        #expect(refusal?.description.contains("fence 7 of a-1 is stale for x") == true)
        #expect(refusal?.description.contains("The newest fence seen is 8 of b-1.") == true)
    }

    @Test(arguments: [
        ("'x', 0, 'a-1'", "fence must be from 1 to 9223372036854775807"),
        ("'x', -1, 'a-1'", "fence must be from 1 to 9223372036854775807"),
        ("'x', NULL, 'a-1'", "fence must be from 1 to 9223372036854775807"),
        ("'', 1, 'a-1'", "resource must have 1 to 512 bytes"),
        ("NULL, 1, 'a-1'", "resource must have 1 to 512 bytes"),
        ("repeat('r', 513), 1, 'a-1'", "resource must have 1 to 512 bytes"),
        ("'x', 1, ''", "holder must have 1 to 256 bytes"),
        ("'x', 1, NULL", "holder must have 1 to 256 bytes"),
        ("'x', 1, repeat('h', 257)", "holder must have 1 to 256 bytes"),
    ])
    func `a malformed argument is refused by name and nothing is recorded`(
        arguments: String, message: String
    ) async throws {
        let session = try await installed().session()
        let refusal = await #expect(throws: Self.malformed) {
            try await session.run("SELECT ringfence_guard(\(arguments))")
        }
        #expect(refusal?.description.contains(message) == true)
        #expect(try await session.run("SELECT count(*) FROM ringfence_guard") == "0")
    }

    @Test(arguments: [("'abc'", "22P02"), ("9223372036854775808", "42883"), ("'9223372036854775808'", "22003")])
    func `what is not a 64-bit integer does not reach the guard`(fence: String, state: String) async throws {
        let session = try await installed().session()
        await #expect(throws: PostgresRefusal(sqlState: state)) {
            try await session.run("SELECT ringfence_guard('x', \(fence), 'a-1')")
        }
    }

    @Test func `installing again, and eight at once, changes nothing`() async throws {
        let database = try await installed()
        try await database.session().write("first", fence: 7, holder: "a-1")
        try await withThrowingTaskGroup { group in
            for _ in 0..<8 {
                group.addTask { _ = try await database.session().run(RingfenceGuard.postgreSQL) }
            }
            for try await _ in group {}
        }
        let session = try database.session()
        #expect(try await session.run("SELECT fence FROM ringfence_guard") == "7")
        await #expect(throws: Self.stale) { try await session.write("late", fence: 6, holder: "b-1") }
    }

    @Test func `eight installers of an empty database all succeed`() async throws {
        let database = try await #require(PostgresServer.current).makeDatabase()
        try await withThrowingTaskGroup { group in
            for _ in 0..<8 {
                group.addTask { _ = try await database.session().run(RingfenceGuard.postgreSQL) }
            }
            for try await _ in group {}
        }
    }

    // MARK: concurrent transactions

    @Test func `a holder that queued up behind a newer one is refused when that one commits`() async throws {
        let database = try await installed()
        let newer = try database.session()
        let older = try database.session()
        try await newer.run("BEGIN")
        try await newer.guardWrite(fence: 8, holder: "b-1")
        let late = Task { try await older.write("late", fence: 7, holder: "a-1") }
        try await database.aWriterWaits()
        try await newer.run("UPDATE entry SET value = 'newer'")
        try await newer.run("COMMIT")
        await #expect(throws: Self.stale) { try await late.value }
        #expect(try await newer.run("SELECT value FROM entry") == "newer")
    }

    @Test func `a newer holder that queued up behind an older one writes after it`() async throws {
        let database = try await installed()
        let older = try database.session()
        let newer = try database.session()
        try await older.run("BEGIN")
        try await older.guardWrite(fence: 7, holder: "a-1")
        let next = Task { try await newer.write("newer", fence: 8, holder: "b-1") }
        try await database.aWriterWaits()
        try await older.run("UPDATE entry SET value = 'older'")
        try await older.run("COMMIT")
        try await next.value
        #expect(try await newer.run("SELECT value FROM entry") == "newer")
    }

    @Test func `a rollback takes the record back with the write`() async throws {
        let database = try await installed()
        let newer = try database.session()
        let older = try database.session()
        try await newer.run("BEGIN")
        try await newer.guardWrite(fence: 8, holder: "b-1")
        let write = Task { try await older.write("older", fence: 7, holder: "a-1") }
        try await database.aWriterWaits()
        try await newer.run("ROLLBACK")
        try await write.value
        #expect(try await older.run("SELECT value FROM entry") == "older")
    }

    @Test(arguments: ["REPEATABLE READ", "SERIALIZABLE"], [true, false])
    func `above READ COMMITTED whoever met a concurrent commit gets 40001, and RF001 when run again`(
        level: String, recordedBefore: Bool
    ) async throws {
        let database = try await installed()
        let newer = try database.session()
        let older = try database.session()
        if recordedBefore { try await newer.write("before", fence: 6, holder: "z-1") }

        // Queued up behind the other.
        try await newer.run("BEGIN")
        try await newer.guardWrite(fence: 8, holder: "b-1")
        try await older.run("BEGIN ISOLATION LEVEL \(level)")
        let queued = Task { try await older.guardWrite(fence: 7, holder: "a-1") }
        try await database.aWriterWaits()
        try await newer.run("COMMIT")
        await #expect(throws: Self.serialization) { try await queued.value }
        try await older.run("ROLLBACK")

        // Began before the other's commit, without meeting it.
        try await older.run("BEGIN ISOLATION LEVEL \(level)")
        try await older.run("SELECT count(*) FROM entry")
        try await newer.write("newer", fence: 9, holder: "b-2")
        await #expect(throws: Self.serialization) { try await older.guardWrite(fence: 7, holder: "a-1") }
        try await older.run("ROLLBACK")

        // Run again from its start.
        try await older.run("BEGIN ISOLATION LEVEL \(level)")
        await #expect(throws: Self.stale) { try await older.guardWrite(fence: 7, holder: "a-1") }
        try await older.run("ROLLBACK")
        #expect(try await newer.run("SELECT value FROM entry") == "newer")
    }

    @Test func `under eight writers with random fences the accepted fences only grow`() async throws {
        let database = try await installed()
        try await database.session().run("CREATE TABLE journal (id bigserial, fence bigint, holder text)")
        let refused = try await withThrowingTaskGroup(of: Int.self) { group in
            for writer in 0..<8 {
                group.addTask {
                    let session = try database.session()
                    var refused = 0
                    for _ in 0..<40 {
                        let fence = Int64.random(in: 1...60)
                        do {
                            // One statement list is one transaction; the row lock is held from the guard to its end.
                            try await session.run("BEGIN")
                            try await session.guardWrite(fence: fence, holder: "w-\(writer)")
                            try await session.run(
                                "INSERT INTO journal (fence, holder) VALUES (\(fence), 'w-\(writer)')")
                            try await session.run("COMMIT")
                        } catch let refusal as PostgresRefusal where refusal == Self.stale {
                            try await session.run("ROLLBACK")
                            refused += 1
                        }
                    }
                    return refused
                }
            }
            return try await group.reduce(0, +)
        }
        let session = try database.session()
        let disorder = """
            SELECT count(*) FROM (SELECT fence, holder, lag(fence) OVER (ORDER BY id) AS previous,
            lag(holder) OVER (ORDER BY id) AS before FROM journal) AS pairs
            WHERE fence < previous OR (fence = previous AND holder <> before)
            """
        #expect(try await session.run(disorder) == "0")
        let accepted = try await session.run("SELECT count(*) FROM journal")
        #expect(accepted == "\(8 * 40 - refused)")
        #expect(refused > 0, "no write was ever refused, so this test showed nothing")
    }

    @Test func `transfers over the same two resources in opposite order do not deadlock when guarded in order`()
        async throws
    {
        let database = try await installed()
        try await withThrowingTaskGroup { group in
            for writer in 0..<6 {
                group.addTask {
                    let session = try database.session()
                    let names = writer % 2 == 0 ? "ARRAY['a', 'b']" : "ARRAY['b', 'a']"
                    for turn in 1...30 {
                        let fence = turn * 10 + writer
                        do {
                            try await session.run(
                                "SELECT ringfence_guard(r, \(fence), 'w-\(writer)') FROM unnest(\(names)) AS r ORDER "
                                    + "BY r"
                            )
                        } catch let refusal as PostgresRefusal where refusal == Self.stale {}
                    }
                }
            }
            for try await _ in group {}
        }
        let newest = try await database.session().run("SELECT DISTINCT fence, holder FROM ringfence_guard")
        #expect(newest == "305|w-5", "both resources carry the newest fence")
    }

    @Test func `a column per row refuses an older fence, and an equal one of another holder`() async throws {
        let session = try await installed().session()
        try await session.run("CREATE TABLE account (id int, balance int, fence bigint NOT NULL, holder text NOT NULL)")
        try await session.run("INSERT INTO account VALUES (42, 1000, 0, '')")
        try await session.run(
            """
            PREPARE debit AS UPDATE account SET balance = balance - 100, fence = $1, holder = $2
            WHERE id = 42 AND (fence < $1 OR (fence = $1 AND holder = $2)) RETURNING balance
            """)
        #expect(try await session.run("EXECUTE debit(7, 'a-1')") == "900")
        #expect(try await session.run("EXECUTE debit(7, 'a-1')") == "800")
        #expect(try await session.run("EXECUTE debit(7, 'b-1')") == "")
        #expect(try await session.run("EXECUTE debit(8, 'b-1')") == "700")
        #expect(try await session.run("EXECUTE debit(7, 'a-1')") == "")
    }

    private func installed() async throws -> PostgresDatabase {
        let database = try await #require(PostgresServer.current).makeDatabase()
        let session = try database.session()
        try await session.run(RingfenceGuard.postgreSQL)
        try await session.run("CREATE TABLE entry (value text)")
        try await session.run("INSERT INTO entry VALUES ('')")
        return database
    }
}

extension PostgresDatabase {
    /// Waits until a guard of this database waits for a lock.
    func aWriterWaits() async throws {
        let observer = try self.session()
        try await eventually("a statement waits for a lock") {
            try await observer.run(
                """
                SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%ringfence_guard%'
                """) == "1"
        }
    }
}

extension PostgresSession {
    func guardWrite(fence: Int64, holder: String) async throws {
        try await run("SELECT ringfence_guard('x', \(fence), '\(holder)')")
    }

    /// A guarded write in a transaction of its own.
    func write(_ value: String, fence: Int64, holder: String) async throws {
        try await run("BEGIN")
        do {
            try await guardWrite(fence: fence, holder: holder)
            try await run("UPDATE entry SET value = '\(value)'")
            try await run("COMMIT")
        } catch {
            try await run("ROLLBACK")
            throw error
        }
    }
}
