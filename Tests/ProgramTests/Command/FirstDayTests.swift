// SPDX-License-Identifier: Apache-2.0
import Logging
import Ringfence
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

/// What a new user meets in the first hours: the wrong address, the wrong word, a terminal.
@Suite struct FirstDayTests {
    /// Starts a shell line in which `$RF` is the program, with the Redis in RINGFENCE_REDIS.
    private static func start(
        _ script: String, _ redis: RedisServer, _ environment: [String] = []
    ) async throws -> Program {
        try await Program.start(
            program: "/bin/bash", ["-c", script],
            environment: environment + ["RF=\(try programPath())", "RINGFENCE_REDIS=\(redis.unixURL)", "TERM=xterm"])
    }

    /// Runs it to its end.
    private static func shell(
        _ script: String, _ redis: RedisServer, _ environment: [String] = []
    ) async throws -> (code: Int32, output: String, error: String) {
        let program = try await start(script, redis, environment)
        return (await program.process.wait().shellCode, program.output, program.error)
    }

    /// The same on a terminal of so many columns; standard error is in the output too.
    private static func terminal(
        _ command: String, columns: Int = 80, _ redis: RedisServer
    ) async throws -> (code: Int32, output: String) {
        let run = try await shell(
            "script -qec \"stty cols \(columns) rows 20; \(command)\" /dev/null < /dev/null", redis)
        return (run.code, String(String.UnicodeScalarView(run.output.unicodeScalars.filter { $0 != "\r" })))
    }

    private static func stop(_ program: Program) async -> ChildProcess.Exit {
        program.process.signal(SIGTERM)
        return await program.process.wait()
    }

    // MARK: serve

    @Test func `serve on a Redis that refuses the password waits, says why, and says when it is let in`() async throws {
        try await withRedis(["--requirepass", "other"]) { redis in
            let program = try await Program.start(
                ["serve", "--port", "0", "--redis", "redis://:right@127.0.0.1:\(redis.port)"])
            try await eventually("it says where it is") { program.output.contains("try: curl") }
            #expect(program.output.contains("ringfence listens on http://127.0.0.1:"), "\(program.output)")
            #expect(program.output.contains("and waits for Redis redis://***@127.0.0.1"), "\(program.output)")
            #expect(program.output.contains("WRONGPASS"), "\(program.output)")
            #expect(!program.error.contains("INFO"), "\(program.error)")
            try await eventually("the log has it") { program.error.contains("waiting for redis") }
            try await redis.cli("-a", "other", "--no-auth-warning", "CONFIG", "SET", "requirepass", "right")
            try await eventually("it says that it is connected") {
                program.error.contains("notice") && program.error.contains("connected to redis")
            }
            #expect(await Self.stop(program) == .code(0))
            #expect(program.error.split(separator: "waiting for redis").count == 2, "\(program.error)")
        }
    }

    @Test func `serve says when Redis is lost and when it is back, once`() async throws {
        try await withRedis { redis in
            let service = try await Service.start(["--redis", redis.url])
            let program = service.program
            #expect(program.output.contains("on Redis redis://127.0.0.1:\(redis.port)"))
            // A second connection, for the inbox.
            _ = try await service.request("POST", "/v1/locks/k/acquire", #"{"ttlMs":60000,"waitMs":1}"#)
            await redis.kill(SIGKILL)
            try await eventually("it says so") {
                program.error.contains("the connection to redis redis://127.0.0.1:\(redis.port)/0 is lost")
            }
            try await eventually("it says why it cannot be had") {
                program.error.contains("connection refused by 127.0.0.1:\(redis.port)")
            }
            try await redis.restart()
            try await eventually("it says that it is back") { program.error.contains("/0 again after ") }
            #expect(await service.stop() == .code(0))
            for once in ["is lost", "connection refused", "again after"] {
                #expect(program.error.split(separator: once).count == 2, "\(once): \(program.error)")
            }
        }
    }

    // MARK: no Redis, wrong words

    @Test(arguments: [
        ["locks"], ["group", "g"], ["ring", "g"], ["pick", "g"], ["lock", "k", "--", "true"], ["doctor"],
    ])
    func `nobody at the address is one sentence that says what to do`(command: [String]) async throws {
        let separator = command.firstIndex(of: "--") ?? command.count
        let line = command[..<separator] + ["--redis", "redis://127.0.0.1:1"] + command[separator...]
        let run = try await Program.run(Array(line))
        #expect(run.code == 69, "\(run)")
        #expect(
            run.error
                == "ringfence: connection refused by 127.0.0.1:1: start one with 'ringfence serve', or name yours with "
                + "--redis\n", "\(run)")
    }

    @Test func `lock waits for a Redis that is away where a wait is named`() async throws {
        try await withRedis { redis in
            await redis.kill(SIGKILL)
            let url = "redis://127.0.0.1:\(redis.port)"
            let program = try await Program.start(["lock", "k", "--wait", "10m", "--redis", url, "--", "echo", "done"])
            try await eventually("it says what it waits for") { program.error.contains("waiting for redis") }
            try await redis.restart()
            #expect(await program.process.wait() == .code(0))
            #expect(program.output == "done\n")
        }
    }

    @Test(arguments: [
        (["lokcs"], "no command ringfence lokcs; did you mean locks?"),
        (["agent", "exce", "--group", "g"], "no command ringfence agent exce; did you mean exec?"),
        (["help", "grup"], "did you mean group?"), (["xyzzyplugh"], "The commands are: serve, lock,"),
        (["lock", "k", "--ttl", "10", "--", "true"], "the unit is missing, such as 10s"),
        (["locks", "--command-timeout", "5"], "the unit is missing, such as 5s"),
        (["locks", "--redis-key", "/k", "--redis", "rediss://h"], "redis-key is given without redis-cert"),
        (["locks", "--redis", "redis://u:a/b@h"], "%2F and %3F"),
    ])
    func `what is mistyped is named, with what was meant`(arguments: [String], says: String) async throws {
        let run = try await Program.run(arguments)
        #expect(run.code == 64 && run.error.contains(says), "\(run)")
    }

    @Test func `a group that is not there is said with those that are`() async throws {
        try await withRedis { redis in
            let client = try RingfenceClient(
                .init(url: redis.unixURL, commandTimeout: .seconds(30)),
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
            _ = try await client.group("ledger").join("m", lease: .seconds(60))
            for command in ["ring", "ring owner", "group", "group history", "group plan", "pick"] {
                let run = try await Self.shell("$RF \(command) leger \(command == "ring owner" ? "k" : "")", redis)
                #expect(run.code == 1 && run.output.isEmpty, "\(command): \(run)")
                #expect(run.error.contains("did you mean ledger? The groups are ledger"), "\(command): \(run)")
            }
            await client.shutdown()
        }
    }

    @Test func `watch waits for a Redis that is not there yet`() async throws {
        let watch = try await Program.start(["group", "watch", "g", "--redis", "redis://127.0.0.1:1"])
        try await eventually("it says that it waits") { watch.error.contains("waiting for redis") }
        #expect(watch.process.isRunning)
        watch.process.signal(SIGINT)
        #expect(await watch.process.wait() == .code(0))
    }

    // MARK: waiting, lists, times

    @Test func `a lock that waits says on a terminal for whom, and nothing in a pipe`() async throws {
        try await withRedis { redis in
            let holder = try await Self.shell("$RF lock job --owner batch-1 -- sleep 600 & echo $!", redis)
            let pid = try #require(Int32(holder.output.split(separator: "\n").first ?? ""))
            try await eventually("it holds") { try await redis.cli("EXISTS", "ringfence:{default}:lock:job") == "1" }
            let waiting = try await Self.start("script -qec '$RF lock job --wait 10m -- true' /dev/null", redis)
            try await eventually("it says for whom") {
                waiting.output.contains("waits for 'job': 'batch-1' holds it, ")
                    && waiting.output.contains("; next in the queue, at most 9 m ")
            }
            let piped = try await Self.shell("$RF lock job --wait 1s -- true", redis)
            #expect(piped.code == 75 && !piped.error.contains("waits for"), "\(piped)")
            let tried = try await Self.shell("$RF lock job --wait 0s -- true", redis)
            #expect(tried.error.contains("'job' is not free: 'batch-1' holds it"), "\(tried)")
            kill(pid, SIGTERM)
            #expect(await waiting.process.wait() == .code(0), "\(waiting.output)")
        }
    }

    @Test func `a long list streams, obeys its limit, and fits a terminal`() async throws {
        try await withRedis { redis in
            let script = """
                for i = 1, 3000 do redis.call('SET', 'ringfence:{default}:lock:account/' .. string.rep('x', 60) .. i,
                    '7:a-1-b:me', 'EX', 1000) end
                """
            try await redis.cli("EVAL", script, "0")
            let all = try await Self.shell("$RF locks | wc -l", redis)
            #expect(all.output == "3001\n", "\(all)")
            let limited = try await Self.shell("$RF locks --limit 7 --json | wc -l", redis)
            #expect(limited.output == "7\n" && limited.error.contains("more than 7"), "\(limited)")
            let narrow = try await Self.terminal("$RF locks --limit 5", columns: 40, redis)
            let rows = narrow.output.split(separator: "\n").filter { $0.contains("…") }
            #expect(rows.count == 5 && rows.allSatisfy { $0.count <= 40 }, "\(narrow)")
            let piped = try await Self.shell("$RF locks --limit 5 | cat", redis)
            #expect(!piped.output.contains("…") && piped.output.contains(String(repeating: "x", count: 60)), "\(piped)")
        }
    }

    @Test func `watch draws on a terminal in place, and prints lines in a pipe`() async throws {
        try await withRedis { redis in
            let client = try RingfenceClient(
                .init(url: redis.unixURL, commandTimeout: .seconds(30)),
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
            _ = try await client.group("g").join("m", lease: .seconds(600))
            async let onTerminal = Self.terminal("timeout -s INT 10 $RF group watch g", redis)
            async let inPipe = Self.shell("timeout -s INT 10 $RF group watch g | cat", redis)
            let (drawn, piped) = try await (onTerminal, inPipe)
            #expect(drawn.output.contains("\u{1B}[J") && drawn.output.contains("MEMBER"), "\(drawn)")
            #expect(drawn.output.contains("\nringfence: go on with ringfence events"), "\(drawn)")
            #expect(!piped.output.contains("\u{1B}") && piped.output.hasPrefix("g: 1 member"), "\(piped)")
            await client.shutdown()
        }
    }

    @Test func `times say their zone`() async throws {
        try await withRedis { redis in
            let utc = try await Self.shell("$RF lock k -- true; $RF audit", redis, ["TZ=XYZ-05:30"])
            let local = try await Self.shell("$RF audit --local", redis, ["TZ=XYZ-05:30"])
            let time = /20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\d/
            #expect(utc.output.matches(of: time).count == 2 && utc.output.split(separator: "Z  ").count == 3, "\(utc)")
            #expect(local.output.split(separator: "+05:30  ").count == 3, "\(local)")
            #expect(timeText(1_700_000_000_123) == "2023-11-14T22:13:20.123Z")
        }
    }

    @Test(arguments: [SIGINT, SIGTERM])
    func `what is interrupted exits as a shell tells of its signal`(signal: Int32) async throws {
        let demo = try await Program.start(["demo"])
        try await eventually("it runs") { demo.output.contains("transfers over") }
        demo.process.signal(signal)
        #expect(await demo.process.wait() == .code(128 + signal), "\(demo.error)")
    }
}
