// SPDX-License-Identifier: Apache-2.0
//
// The accident that fencing is for, with real parts: a holder in a process of its own finds its lease good and is
// stopped (SIGSTOP) before it writes. Its lease runs out, the next holder gets the lock and writes. Then the first goes
// on and writes what it meant to. The guard has to refuse it, in a real Redis and in a real PostgreSQL; a control
// without the guard shows the late write land.
import Ringfence
import TestSupport
import Testing

@Suite(.postgres) struct PausedHolderTests {
    @Test(arguments: [true, false])
    func `a holder that was stopped past its lease cannot write to Redis, unless there is no guard`(
        guarded: Bool
    ) async throws {
        let script =
            (guarded
                ? RingfenceGuard.lua
                    + "if not ringfence_guard(KEYS[1], ARGV[1], ARGV[2]) then return 'refused' end\n" : "")
            + "redis.call('SET', KEYS[2], ARGV[3]) return 'written'"
        let write = #"redis-cli -s "$SOCKET" EVAL "$SCRIPT" 2 '{x}guard' '{x}data' "$FENCE" "$HOLDER" "$VALUE""#
        try await withRedis { server async throws in
            func command(_ value: String, _ more: [String] = []) -> [String] {
                ["env", "SOCKET=\(server.socketPath)", "SCRIPT=\(script)", "VALUE=\(value)"] + more + [
                    "sh", "-c", write,
                ]
            }
            let late = try await accident(server, late: command("late")) { lease in
                let next = try await run(command("next", lease.environment))
                #expect(next.output == "written\n")
            }
            #expect(late.output.hasSuffix(guarded ? "refused\n" : "written\n"), "\(late.output)")
            #expect(try await server.cli("GET", "{x}data") == (guarded ? "next" : "late"))
        }
    }

    @Test(arguments: [true, false])
    func `a holder that was stopped past its lease cannot write to PostgreSQL, unless there is no guard`(
        guarded: Bool
    ) async throws {
        let database = try await #require(PostgresServer.current).makeDatabase()
        let session = try database.session()
        try await session.run(RingfenceGuard.postgreSQL)
        try await session.run("CREATE TABLE entry (value text)")
        try await session.run("INSERT INTO entry VALUES ('')")
        let guardLine = guarded ? "SELECT ringfence_guard('account/4711', :'fence'::bigint, :'holder');" : ""
        let transaction = "BEGIN; \(guardLine) UPDATE entry SET value = :'value'; COMMIT;"
        let write = #"""
            printf '%s' "$SQL" | psql -qAtX -v ON_ERROR_STOP=1 -v VERBOSITY=verbose -v fence="$FENCE" \
                -v holder="$HOLDER" -v value="$VALUE" -h "$SOCKET" -U postgres "$DATABASE"
            """#
        func command(_ value: String, _ more: [String] = []) -> [String] {
            [
                "env", "SOCKET=\(database.directory.path)", "DATABASE=\(database.name)", "SQL=\(transaction)",
                "VALUE=\(value)",
            ] + more + ["sh", "-c", write]
        }
        try await withRedis { server async throws in
            let late = try await accident(server, late: command("late")) { lease in
                let next = try await run(command("next", lease.environment))
                #expect(next.status == 0, "\(next.output)")
            }
            // 3 is psql's code for an error in a script.
            #expect(late.status == (guarded ? 3 : 0), "\(late.output)")
            #expect(late.output.contains(RingfenceGuard.staleFenceState) == guarded)
        }
        let value = try await session.run("SELECT value FROM entry")
        #expect(value == (guarded ? "next" : "late"))
    }

    /// One holder is stopped on its way to `late`, the next one does its work, the first goes on: what it said.
    private func accident(
        _ server: RedisServer, late: [String], next: (Lease) async throws -> Void
    ) async throws -> (status: Int32, output: String) {
        let name = "account/4711"
        let old = try await StoppedHolder(redis: server.unixURL, lock: name, ttlMilliseconds: 1_000, command: late)
        let client = try RingfenceClient(.init(url: server.unixURL))
        // Granted once the stopped holder's lease is over, although that holder never gave it back.
        let lease = try await client.acquire(name, ttl: .seconds(30), wait: .seconds(30))
        try await next(lease)
        let answer = try await old.resume()
        try await lease.release()
        await client.shutdown()
        return answer
    }
}

extension Lease {
    /// As the stopped holder's command finds it.
    fileprivate var environment: [String] { ["FENCE=\(fence)", "HOLDER=\(id)"] }
}
