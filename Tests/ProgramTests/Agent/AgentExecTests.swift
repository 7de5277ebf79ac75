// SPDX-License-Identifier: Apache-2.0
import Logging
import Ringfence
import RingfenceAgent
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

@Suite(.serialized) struct AgentExecTests {
    private static func exec(
        _ redis: RedisServer, _ member: String, _ more: [String] = [], _ command: [String]
    ) async throws -> Program {
        try await Program.start(
            ["agent", "exec", "--redis", redis.unixURL, "--group", "g", "--member", member, "--lease", "2s"] + more + [
                "--"
            ]
                + command)
    }

    private static func primary(_ redis: RedisServer) async throws -> String {
        try await redis.cli("HGET", "ringfence:{default}:state:g", "primary")
    }

    private static func field(_ name: String, of event: String) -> String? {
        guard let found = event.firstRange(of: "\"\(name)\":") else { return nil }
        return String(event[found.upperBound...].prefix { !",}".contains($0) })
    }

    @Test func `the death of the child hands the role on long before its lease would end`() async throws {
        try await withRedis { redis in
            let file = try TemporaryDirectory()
            let pid = file.path + "/pid"
            let one = try await Self.exec(
                redis, "one", ["--lease", "1h"], ["sh", "-c", "echo $$ > \(pid); exec sleep 600"])
            let two = try await Self.exec(redis, "two", ["--lease", "1h"], ["sleep", "600"])
            try await eventually("both are there") {
                try await redis.cli("HLEN", "ringfence:{default}:members:g") == "2"
            }
            // A group elects nobody for one lease after its first candidate came, and that is an hour.
            try await eventually("there is a child") { Int32(contents(of: pid).dropLast()) != nil }
            let child = try #require(Int32(contents(of: pid).dropLast()))
            kill(child, SIGKILL)
            #expect(await one.process.wait() == .code(137))
            try await eventually("it has left") { try await redis.cli("HLEN", "ringfence:{default}:members:g") == "1" }
            two.process.signal(SIGTERM)
            #expect(await two.process.wait() == .code(143))
        }
    }

    @Test func `by itself every child runs, and one is primary; its death makes another`() async throws {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            let file = directory.path + "/die"
            let one = try await Self.exec(
                redis, "one", [], ["sh", "-c", "while [ ! -e \(file) ]; do sleep 0.02; done; exit 9"])
            try await eventually("one is primary") { try await Self.primary(redis) == "one" }
            let two = try await Self.exec(redis, "two", [], ["sleep", "600"])
            try await eventually("two stands") {
                try await redis.cli("HLEN", "ringfence:{default}:candidates:g") == "2"
            }
            try writeFile(file, "")
            #expect(await one.process.wait() == .code(9))
            try await eventually("two is primary") { try await Self.primary(redis) == "two" }
            let events = try await groupEvents(redis)
            let left = try #require(events.last { $0.contains("member.left") })
            #expect(left.contains(#""reason":"exited""#), "\(left)")
            let elected = try #require(events.last { $0.contains("primary.elected") })
            // Decided in the call that told it.
            #expect(Self.field("at", of: left) == Self.field("at", of: elected))
            two.process.signal(SIGTERM)
            #expect(await two.process.wait() == .code(143))
        }
    }

    @Test func `while primary, the child runs under its epoch on one machine at a time, and is dead when the role is`()
        async throws
    {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            let log = directory.path + "/log"
            // Says when it lives; a second one beside it would be seen.
            let running = directory.path + "/running"
            let script = """
                if ! mkdir \(running); then echo TWICE >> \(log); fi
                echo "run $RINGFENCE_EPOCH $1" >> \(log)
                trap 'rmdir \(running); exit 0' TERM
                while :; do sleep 0.02; done
                """
            func start(_ member: String) async throws -> Program {
                try await Self.exec(redis, member, ["--while-primary"], ["sh", "-c", script, "sh", member])
            }
            let one = try await start("one")
            try await eventually("one runs") { contents(of: log) == "run 1 one\n" }
            let two = try await start("two")
            try await eventually("both are there") {
                try await redis.cli("HLEN", "ringfence:{default}:members:g") == "2"
            }
            // Cut off, it ends the child in time; the first of the two that Redis elects then runs it again.
            kill(redis.pid, SIGSTOP)
            try await eventually("the child has ended") { access(directory.path + "/running", F_OK) != 0 }
            kill(redis.pid, SIGCONT)
            try await eventually("it runs again") { contents(of: log).split(separator: "\n").count >= 2 }
            #expect(!contents(of: log).contains("TWICE"), "\(contents(of: log))")
            for program in [one, two] { program.process.signal(SIGTERM) }
            _ = await one.process.wait()
            _ = await two.process.wait()
        }
    }

    @Test func `an order moves the primary's work: it ends here before it begins there`() async throws {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            let log = directory.path + "/log"
            let script = """
                echo "begin $1" >> \(log)
                trap 'sleep 0.3; echo "end $1" >> \(log); exit 0' TERM
                while :; do sleep 0.02; done
                """
            func start(_ member: String) async throws -> Program {
                try await Self.exec(redis, member, ["--while-primary"], ["sh", "-c", script, "sh", member])
            }
            let one = try await start("one")
            try await eventually("one runs") { contents(of: log) == "begin one\n" }
            let two = try await start("two")
            try await eventually("two stands") {
                try await redis.cli("HLEN", "ringfence:{default}:candidates:g") == "2"
            }
            let client = try RingfenceClient(
                RingfenceConfiguration(url: redis.unixURL),
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
            _ = try await client.operations(on: "g").switchover(to: "two", timeout: .seconds(20))
            try await eventually("two runs") { contents(of: log) == "begin one\nend one\nbegin two\n" }
            _ = try await client.operations(on: "g").failover(to: "one", acceptsDataLoss: true)
            try await eventually("one runs") {
                contents(of: log) == "begin one\nend one\nbegin two\nend two\nbegin one\n"
            }
            await client.shutdown()
            for program in [one, two] { program.process.signal(SIGTERM) }
            _ = await one.process.wait()
            _ = await two.process.wait()
        }
    }

    @Test func `a second machine with the same member gives up, and names both addresses`() async throws {
        try await withRedis { redis in
            let one = try await Self.exec(redis, "one", ["--address", "10.0.0.1:80"], ["sleep", "600"])
            try await eventually("it is there") { try await redis.cli("HLEN", "ringfence:{default}:members:g") == "1" }
            let session = try await redis.cli("HGET", "ringfence:{default}:members:g", "one")
            let two = try await Self.exec(redis, "one", ["--address", "10.0.0.2:80"], ["sleep", "600"])
            #expect(await two.process.wait() != .code(0))
            #expect(two.error.contains("10.0.0.1:80") && two.error.contains("10.0.0.2:80"), "\(two.error)")
            #expect(
                try await redis.cli("HGET", "ringfence:{default}:members:g", "one").prefix(40) == session.prefix(40))
            one.process.signal(SIGTERM)
            #expect(await one.process.wait() == .code(143))
            let left = try #require(try await groupEvents(redis).last { $0.contains("member.left") })
            #expect(left.contains(#""reason":"left""#), "somebody wanted it: \(left)")
        }
    }

    @Test func `a child that cannot be started says so`() async throws {
        try await withRedis { redis in
            let one = try await Self.exec(redis, "one", [], ["/no/such/program"])
            #expect(await one.process.wait() == .code(127))
            #expect(one.error.contains("/no/such/program"))
        }
    }

    @Test func `the service survives its supervisor, the primary's work does not`() async throws {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            for (member, more) in [("always", []), ("primary", ["--while-primary"])] {
                let file = directory.path + "/" + member
                let program = try await Program.start(
                    ["agent", "exec", "--redis", redis.unixURL, "--group", member, "--member", "m", "--lease", "1s"]
                        + more
                        + ["--", "sh", "-c", "echo $$ > \(file); exec sleep 600"])
                try await eventually("the child runs") { Int32(contents(of: file).dropLast()) != nil }
                let child = try #require(Int32(contents(of: file).dropLast()))
                program.process.signal(SIGKILL)
                _ = await program.process.wait()
                if member == "always" {
                    #expect(kill(child, 0) == 0)
                    kill(child, SIGKILL)
                } else {
                    try await eventually("the child is gone") {
                        kill(child, 0) != 0
                            || contents(of: "/proc/\(child)/stat").split(separator: ")").last?.split(separator: " ")
                                .first == "Z"
                    }
                }
            }
        }
    }
}
