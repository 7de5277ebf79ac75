// SPDX-License-Identifier: Apache-2.0
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

@Suite struct LockCommandTests {
    private static func lock(_ redis: RedisServer, _ more: [String], _ command: [String]) -> [String] {
        ["lock", "job", "--redis", redis.unixURL] + more + ["--"] + command
    }

    private static func held(_ redis: RedisServer) async throws -> Bool {
        try await redis.cli("EXISTS", "ringfence:{default}:lock:job") == "1"
    }

    @Test func `passes the command's code, signal and environment on, and releases at once`() async throws {
        try await withRedis { redis in
            let code = try await Program.run(Self.lock(redis, ["--ttl", "1h"], ["sh", "-c", "exit 7"]))
            #expect(code.code == 7, "\(code)")
            #expect(try await !Self.held(redis))
            let signal = try await Program.run(Self.lock(redis, ["--ttl", "1h"], ["sh", "-c", "kill -USR1 $$"]))
            #expect(signal.code == 128 + SIGUSR1, "\(signal)")
            #expect(try await !Self.held(redis))
            let script = """
                redis-cli -s \(redis.socketPath) GET 'ringfence:{default}:lock:job'
                echo "$RINGFENCE_FENCE $RINGFENCE_LOCK $RINGFENCE_OWNER $RINGFENCE_HOLD"; echo "$RINGFENCE_LOCKS"
                """
            let shown = try await Program.run(
                ["lock", "job", "other", "--redis", redis.unixURL, "--owner", "me", "--", "sh", "-c", script])
            let lines = shown.output.split(separator: "\n").map(String.init)
            try #require(lines.count == 4, "\(shown)")
            let parts = lines[1].split(separator: " ").map(String.init)
            #expect(lines[0].hasPrefix(parts[0] + ":") && lines[0].hasSuffix(":me"))
            #expect(parts[1] == "job" && parts[2] == "me" && lines[0].contains(parts[3]))
            #expect(Array(lines[2...]) == ["job", "other"])
        }
    }

    @Test func `each failure has its own exit code and says what to do`() async throws {
        try await withRedis { redis in
            let holder = try await Program.start(Self.lock(redis, [], ["sleep", "60"]))
            try await eventually("it holds") { try await Self.held(redis) }
            let busy = try await Program.run(Self.lock(redis, ["--wait", "0s"], ["true"]))
            #expect(busy.code == 75 && busy.error.contains("job"), "\(busy)")
            // Time enough for a busy machine to ask at least.
            let late = try await Program.run(Self.lock(redis, ["--wait", "1s"], ["true"]))
            #expect(late.code == 75, "\(late)")
            holder.process.signal(SIGTERM)
            #expect(await holder.process.wait() == .code(128 + SIGTERM))
            #expect(try await !Self.held(redis))

            let missing = try await Program.run(Self.lock(redis, [], ["no-such-program"]))
            #expect(missing.code == 127 && missing.error.contains("no-such-program"), "\(missing)")
            let directory = try await Program.run(Self.lock(redis, [], ["/tmp"]))
            #expect(directory.code == 126, "\(directory)")
            #expect(try await !Self.held(redis))
            for wrong in [["lock", "job"], ["lock", "job", "--"], ["lock", "--", "true"]] {
                #expect(try await Program.run(wrong).code == 64)
            }
            let ttl = try await Program.run(Self.lock(redis, ["--ttl", "0s"], ["true"]))
            #expect(ttl.code == 64 && ttl.error.contains("ttl"), "\(ttl)")
            let unit = try await Program.run(Self.lock(redis, ["--ttl", "10"], ["true"]))
            #expect(unit.code == 64, "\(unit)")
        }
        let away = try await Program.run(
            [
                "lock", "job", "--redis", "redis://127.0.0.1:1", "--wait", "0s", "--command-timeout", "200ms", "--",
                "true",
            ])
        #expect(away.code == 69 && !away.error.contains("Swift"), "\(away)")
    }

    @Test(arguments: [SIGINT, SIGTERM, SIGHUP, SIGQUIT])
    func `a signal reaches the command once, and its children`(signal: Int32) async throws {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            let name = [SIGINT: "INT", SIGTERM: "TERM", SIGHUP: "HUP", SIGQUIT: "QUIT"][signal] ?? ""
            let script = """
                trap 'echo got >> \(directory.path)/got; exit 5' \(name)
                echo $$ > \(directory.path)/pid
                while :; do sleep 0.01; done
                """
            let program = try await Program.start(Self.lock(redis, [], ["sh", "-c", script]))
            try await eventually("the command runs") { !contents(of: directory.path + "/pid").isEmpty }
            program.process.signal(signal)
            #expect(await program.process.wait() == .code(5))
            #expect(contents(of: directory.path + "/got") == "got\n")
            #expect(try await !Self.held(redis))
        }
    }

    @Test func `a signal while waiting ends the wait and leaves no place in line`() async throws {
        try await withRedis { redis in
            try await redis.cli("SET", "ringfence:{default}:lock:job", "1:0-1-0:other", "PX", "60000")
            let program = try await Program.start(Self.lock(redis, ["--wait", "1h"], ["true"]))
            try await eventually("it waits") {
                try await redis.cli("ZCARD", "ringfence:{default}:queue:job") == "1"
            }
            program.process.signal(SIGINT)
            #expect(await program.process.wait() == .code(128 + SIGINT))
            #expect(try await redis.cli("ZCARD", "ringfence:{default}:queue:job") == "0")
        }
    }

    /// A command that notes the time every few milliseconds, in a child of its own that ignores SIGTERM.
    private static func ticking(_ directory: TemporaryDirectory) -> [String] {
        let script = """
            trap 'echo term >> \(directory.path)/term' TERM
            (trap '' TERM; while :; do date +%s%N > \(directory.path)/tick.new
            mv \(directory.path)/tick.new \(directory.path)/tick; done) &
            while :; do wait; done
            """
        return ["sh", "-c", script]
    }

    private static func lastTick(_ directory: TemporaryDirectory) -> Int64 {
        Int64(contents(of: directory.path + "/tick").filter(\.isNumber)) ?? 0
    }

    private static var now: Int64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }

    @Test func `when Redis hangs, the command is told to end and is dead before its lease ends`() async throws {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            let program = try await Program.start(
                Self.lock(redis, ["--ttl", "3s"], Self.ticking(directory)))
            try await eventually("the command ticks") { Self.lastTick(directory) > 0 }
            await redis.kill(SIGSTOP)
            let stopped = Self.now
            #expect(await program.process.wait() == .code(79))
            let last = Self.lastTick(directory)
            // No renewal was answered after the stop, so the lease ends within 3 s of it; its last tick must be
            // earlier.
            #expect(last < stopped + 3_000_000_000)
            #expect(contents(of: directory.path + "/term") == "term\n")
            #expect(program.error.contains("not renewed"), "\(program.error)")
            // The child's own child, which ignored SIGTERM, is dead too: the ticks have stopped.
            await redis.kill(SIGCONT)
            #expect(Self.lastTick(directory) == last)
        }
    }

    @Test func `a lock taken away ends the command`() async throws {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            let program = try await Program.start(
                Self.lock(redis, ["--ttl", "1h"], Self.ticking(directory)))
            try await eventually("the command ticks") { Self.lastTick(directory) > 0 }
            let refused = try await Program.run(["unlock", "job", "--redis", redis.unixURL])
            #expect(refused.code == 64 && refused.error.contains("--force"), "\(refused)")
            #expect(try await Self.held(redis))
            let taken = try await Program.run(
                ["unlock", "job", "--force", "--reason", "test", "--actor", "me", "--redis", redis.unixURL])
            #expect(taken.code == 0 && taken.output.contains("raise your guards"), "\(taken)")
            #expect(await program.process.wait() == .code(79))
            #expect(contents(of: directory.path + "/term") == "term\n")
            let nobody = try await Program.run(["unlock", "job", "--force", "--redis", redis.unixURL])
            #expect(nobody.code == 1, "\(nobody)")
            let audit = try await Program.run(["audit", "--json", "--redis", redis.unixURL])
            #expect(audit.output.contains(#""action":"force""#) && audit.output.contains("test"), "\(audit)")
        }
    }

    @Test func `killed with SIGKILL, ringfence takes the command with it`() async throws {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            let script = "echo $$ > \(directory.path)/pid; exec sleep 300"
            let program = try await Program.start(Self.lock(redis, [], ["sh", "-c", script]))
            try await eventually("the command runs") { !contents(of: directory.path + "/pid").isEmpty }
            let pid = try #require(Int32(contents(of: directory.path + "/pid").filter(\.isNumber)))
            program.process.signal(SIGKILL)
            _ = await program.process.wait()
            try await eventually("the command is gone") {
                let status = contents(of: "/proc/\(pid)/stat")
                return status.isEmpty || status.contains(") Z ")
            }
        }
    }

    @Test func `locks shows who holds and who waits, as a table and as JSON`() async throws {
        try await withRedis { redis in
            let none = try await Program.run(["locks", "--redis", redis.unixURL])
            #expect(none.output == "no lock is held\n", "\(none)")
            let holder = try await Program.start(Self.lock(redis, ["--owner", "anna"], ["sleep", "60"]))
            try await eventually("it holds") { try await Self.held(redis) }
            let waiter = try await Program.start(Self.lock(redis, ["--owner", "ben", "--wait", "1h"], ["true"]))
            try await eventually("it waits") {
                try await redis.cli("ZCARD", "ringfence:{default}:queue:job") == "1"
            }
            let table = try await Program.run(["locks", "--redis", redis.unixURL])
            let rows = table.output.split(separator: "\n")
            #expect(rows.count == 2 && rows[0].hasPrefix("NAME") && rows[1].contains("anna"), "\(table)")
            let one = try await Program.run(["locks", "job", "--redis", redis.unixURL])
            #expect(one.output.contains("anna") && one.output.contains("1. ben"), "\(one)")
            let json = try await Program.run(["locks", "job", "--json", "--redis", redis.unixURL])
            #expect(json.output.hasPrefix(#"{"name":"job","holder":{"owner":"anna""#), "\(json)")
            holder.process.signal(SIGTERM)
            #expect(await waiter.process.wait() == .code(0))
        }
    }
}
