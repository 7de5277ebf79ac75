// SPDX-License-Identifier: Apache-2.0
import RingfenceAgentCore
import RingfenceCore
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

@testable import RingfenceAgent

/// The probe of one check of a file.
func probe(_ check: String) throws -> any CheckProbe {
    let json = #"{"group":"g","member":"m","checks":[\#(check)]}"#
    return try AgentConfiguration(json: Array(json.utf8)).checks[0].makeProbe()
}

@Suite(.postgres) struct ProbeTests {
    private static let patience: Duration = .seconds(10)

    private static func look(_ check: String, _ timeout: Duration = patience) async throws -> Observation {
        let probe = try probe(check)
        let observation = await probe.look(timeout: timeout)
        await probe.close()
        return observation
    }

    @Test func `tcp passes where somebody listens and says why it fails`() async throws {
        try await withRedis { redis in
            let seen = try await Self.look(#"{"type":"tcp","address":"127.0.0.1:\#(redis.port)"}"#)
            #expect(seen == Observation())
        }
        let port = try freePort()
        let refused = try await Self.look(#"{"type":"tcp","address":"127.0.0.1:\#(port)"}"#)
        #expect(refused.failure == "connection refused")
        let unknown = try await Self.look(#"{"type":"tcp","address":"no-such-host.invalid:80"}"#)
        #expect(unknown.failure?.contains("no-such-host.invalid") == true, "\(unknown)")
    }

    @Test func `http looks at status, header and body of a real service`() async throws {
        try await withService { service, redis in
            let url = "http://127.0.0.1:\(service.port)"
            #expect(try await Self.look(#"{"type":"http","url":"\#(url)/livez"}"#) == Observation())
            #expect(
                try await Self.look(
                    #"{"type":"http","url":"\#(url)/livez","body":"\"alive\"","header":"content-type","#
                        + #""headerValue":"json"}"#) == Observation())
            let text = try await Self.look(#"{"type":"http","url":"\#(url)/livez","body":"dead"}"#)
            #expect(text.failure == "the body lacks the text")
            let header = try await Self.look(#"{"type":"http","url":"\#(url)/livez","header":"X-Role"}"#)
            #expect(header.failure == "no header X-Role")
            let other = try await Self.look(
                #"{"type":"http","url":"\#(url)/livez","header":"Content-Type","headerValue":"html"}"#)
            #expect(other.failure == "header Content-Type is another")
            let missing = try await Self.look(#"{"type":"http","url":"\#(url)/nowhere"}"#)
            #expect(missing.failure == "status 404")
            #expect(try await Self.look(#"{"type":"http","url":"\#(url)/nowhere","status":404}"#) == Observation())
            await redis.stop()
            let ready = try await Self.look(#"{"type":"http","url":"\#(url)/readyz"}"#)
            #expect(ready.failure == "status 503")
        }
        let port = try freePort()
        let refused = try await Self.look(#"{"type":"http","url":"http://127.0.0.1:\#(port)/"}"#)
        #expect(refused.failure == "connection refused")
    }

    @Test func `http gives up on a service that accepts and says nothing`() async throws {
        try await withRedis { redis in
            // A redis-server that is stopped: the kernel accepts for it.
            kill(redis.pid, SIGSTOP)
            defer { kill(redis.pid, SIGCONT) }
            let began = ContinuousClock.now
            let hung = try await Self.look(
                #"{"type":"http","url":"http://127.0.0.1:\#(redis.port)/"}"#, .milliseconds(200))
            #expect(hung.failure == "timed out")
            #expect(ContinuousClock.now - began < .seconds(10))
        }
    }

    @Test func `https trusts the given authority, and no stranger`() async throws {
        let certificates = try await TestCertificates.make()
        let port = try freePort()
        var launch = ChildProcess.Launch([
            "openssl", "s_server", "-quiet", "-www", "-accept", "127.0.0.1:\(port)", "-cert",
            certificates.serverCertificate,
            "-key", certificates.serverKey,
        ])
        let null = open("/dev/null", O_RDWR | O_CLOEXEC)
        defer { close(null) }
        (launch.input, launch.output, launch.error) = (null, null, null)
        let server = try await ChildProcess.start(launch)
        defer { server.signal(SIGKILL) }
        let check =
            #"{"type":"https","url":"https://localhost:\#(port)/","body":"s_server","ca":"\#(certificates.authority)"}"#
        try await eventually("s_server answers") { try await Self.look(check).failure == nil }
        let stranger = try await Self.look(
            #"{"type":"https","url":"https://localhost:\#(port)/","ca":"\#(certificates.strangerAuthority)"}"#)
        #expect(stranger.failure != nil)
        // The certificate is for the address too.
        let address = try await Self.look(
            #"{"type":"https","url":"https://127.0.0.1:\#(port)/","ca":"\#(certificates.authority)"}"#)
        #expect(address.failure == nil)
    }

    @Test func `command passes by its exit code and may tell role and position`() async throws {
        func look(_ script: String, _ timeout: Duration = Self.patience) async throws -> Observation {
            try await Self.look(#"{"type":"command","command":["/bin/sh","-c","\#(script)"]}"#, timeout)
        }
        #expect(try await look("exit 0") == Observation())
        #expect(
            try await look("echo role=standby; echo position=42")
                == Observation(role: .standby, position: 42))
        #expect(try await look("echo no disk; exit 2").failure == "exited with 2: no disk")
        #expect(try await look("sleep 30", .milliseconds(200)).failure == "not done in time")
        #expect(try await look("echo role=king") == Observation())
    }

    @Test func `a command does not see the agent's secrets`() async throws {
        setenv("RINGFENCE_REDIS", "redis://:secret@nowhere", 1)
        defer { unsetenv("RINGFENCE_REDIS") }
        let seen = try await Self.look(#"{"type":"command","command":["/bin/sh","-c","! env | grep -q secret"]}"#)
        #expect(seen == Observation())
    }

    @Test func `redis tells role and offset, and a replica without its primary is well`() async throws {
        try await withRedis(["--repl-ping-replica-period", "1"]) { primary in
            let first = try await Self.look(#"{"type":"redis","address":"127.0.0.1:\#(primary.port)"}"#)
            #expect(first.failure == nil)
            #expect(first.role == .primary)
            try await withRedis(["--replicaof", "127.0.0.1", "\(primary.port)", "--replica-serve-stale-data", "no"]) {
                replica in
                let check = #"{"type":"redis","address":"\#(replica.socketPath)"}"#
                let probe = try probe(check)
                try await eventually("the replica has caught up") {
                    let seen = await probe.look(timeout: Self.patience)
                    return seen.role == .standby && seen.detail["link"] == "connected" && (seen.position ?? 0) > 0
                }
                _ = try await primary.cli("SET", "a", "b")
                let written =
                    try await Self.look(#"{"type":"redis","address":"127.0.0.1:\#(primary.port)"}"#).position ?? 0
                try await eventually("the replica has what was written") {
                    (await probe.look(timeout: Self.patience).position ?? 0) >= written
                }
                await primary.kill(SIGKILL)
                try await eventually("the replica has lost its primary") {
                    let seen = await probe.look(timeout: Self.patience)
                    return seen.failure == nil && seen.role == .standby && seen.detail["link"] != "connected"
                }
                _ = try await replica.cli("REPLICAOF", "NO", "ONE")
                let promoted = await probe.look(timeout: Self.patience)
                #expect(promoted.role == .primary)
                #expect((promoted.position ?? 0) >= written)
                await replica.kill(SIGKILL)
                #expect(await probe.look(timeout: .milliseconds(300)).failure != nil)
                await probe.close()
            }
        }
    }

    @Test func `redis asks for a password from its file`() async throws {
        let directory = try TemporaryDirectory()
        try writeFile(directory.path + "/password", "tell\n")
        try await withRedis(["--requirepass", "tell"]) { redis in
            let refused = try await Self.look(#"{"type":"redis","address":"127.0.0.1:\#(redis.port)"}"#)
            #expect(refused.failure?.contains("NOAUTH") == true, "\(refused)")
            let seen = try await Self.look(
                #"{"type":"redis","address":"127.0.0.1:\#(redis.port)","passwordFile":"\#(directory.path)/password"}"#)
            #expect(seen.role == .primary)
        }
    }

    @Test func `postgres tells role, position and timeline over a session that is kept`() async throws {
        let server = try #require(PostgresServer.current)
        let database = try await server.makeDatabase()
        let probe = try probe(
            #"{"type":"postgres","address":"\#(server.directory.path)","database":"\#(database.name)"}"#)
        let first = await probe.look(timeout: Self.patience)
        #expect(first.failure == nil)
        #expect(first.role == .primary)
        #expect(first.detail["timeline"] == "1")
        let before = try #require(first.position)
        _ = try await database.session().run("CREATE TABLE t AS SELECT generate_series(1, 10000)")
        // The position is what is on disk, and this server does not wait for that.
        try await server.makeDatabase().session().run("CHECKPOINT")
        let began = ContinuousClock.now
        let second = await probe.look(timeout: Self.patience)
        #expect((second.position ?? 0) > before + 100_000)
        #expect(ContinuousClock.now - began < .seconds(1))
        // One session all the time.
        let count = try await database.session().run(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ringfence-agent' AND datname = "
                + "current_database()"
        )
        #expect(count == "1")
        await probe.close()
    }

    @Test func `postgres fails when nobody can connect anew, though the kept session answers`() async throws {
        let server = try #require(PostgresServer.current)
        let database = try await server.makeDatabase()
        let probe = try probe(
            """
            {"type":"postgres","address":"\(server.directory.path)","database":"\(database.name)",\
            "writeInterval":"10ms"}
            """)
        let first = await probe.look(timeout: Self.patience).failure
        #expect(first == nil)
        let session = try database.session()
        // Who is connected stays connected.
        try await session.run("UPDATE pg_database SET datallowconn = false WHERE datname = '\(database.name)'")
        try await eventually("a new connection is refused") {
            await probe.look(timeout: Self.patience).failure?.contains("not currently accepting") == true
        }
        #expect(await probe.look(timeout: Self.patience).failure != nil, "each look looks, until it is well")
        try await session.run("UPDATE pg_database SET datallowconn = true WHERE datname = '\(database.name)'")
        // On a busy machine a connection may take longer than it may.
        try await eventually("it is well again") { await probe.look(timeout: Self.patience).failure == nil }
        await probe.close()
    }

    @Test func `postgres fails when nothing can be written, and when a write is not done in time`() async throws {
        let server = try #require(PostgresServer.current)
        let database = try await server.makeDatabase()
        let probe = try probe(
            """
            {"type":"postgres","address":"\(server.directory.path)","database":"\(database.name)",\
            "writeInterval":"10ms"}
            """)
        #expect(await probe.look(timeout: Self.patience).failure == nil)
        let session = try database.session()
        // As little room as a full disk has.
        try await session.run("ALTER DATABASE \(database.name) SET temp_file_limit = '100kB'")
        #expect(await probe.look(timeout: Self.patience).failure?.contains("temp_file_limit") == true)
        try await session.run("ALTER DATABASE \(database.name) RESET temp_file_limit")
        #expect(await probe.look(timeout: Self.patience).failure == nil)
        // A client's connections are all taken: that is no fault of the server.
        try await session.run("ALTER DATABASE \(database.name) CONNECTION LIMIT 0")
        #expect(await probe.look(timeout: Self.patience).failure == nil)
        await probe.close()
    }

    @Test func `postgres says why it cannot be asked, and is asked again when it can`() async throws {
        let directory = try TemporaryDirectory()
        let away = try await Self.look(#"{"type":"postgres","address":"\#(directory.path)"}"#)
        #expect(away.failure == "No such file or directory", "\(away)")
        let server = try #require(PostgresServer.current)
        let unknown = try await Self.look(
            #"{"type":"postgres","address":"\#(server.directory.path)","database":"nowhere"}"#)
        #expect(unknown.failure?.contains("database \"nowhere\" does not exist") == true, "\(unknown)")

        let database = try await server.makeDatabase()
        let probe = try probe(
            #"{"type":"postgres","address":"\#(server.directory.path)","database":"\#(database.name)"}"#)
        #expect(await probe.look(timeout: Self.patience).failure == nil)
        let session = try database.session()
        let pid = try await session.run(
            "SELECT max(pid) FROM pg_stat_activity WHERE application_name = 'ringfence-agent' AND datname = "
                + "'\(database.name)'"
        )
        try await session.run("SELECT pg_terminate_backend(\(pid))")
        try await eventually("the session's end is seen") { await probe.look(timeout: Self.patience).failure != nil }
        try await eventually("it is asked again") { await probe.look(timeout: Self.patience).failure == nil }
        await probe.close()
    }
}
