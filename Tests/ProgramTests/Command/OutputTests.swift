// SPDX-License-Identifier: Apache-2.0
import Logging
import Ringfence
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

@Suite struct OutputTests {
    /// Runs a shell line in which `$RF` is the program and `$U` the Redis.
    private static func shell(
        _ script: String, _ redis: RedisServer
    ) async throws -> (code: Int32, output: String, error: String) {
        let program = try await Program.start(
            program: "/bin/bash", ["-c", script],
            environment: ["RF=\(try programPath())", "U=\(redis.unixURL)", "RINGFENCE_REDIS=\(redis.unixURL)"])
        return (await program.process.wait().shellCode, program.output, program.error)
    }

    /// A group whose log is longer than a file of 1 KiB.
    private static func withGroup(_ body: @Sendable (RedisServer) async throws -> Void) async throws {
        try await withRedis { redis in
            let client = try RingfenceClient(
                .init(url: redis.unixURL, commandTimeout: .seconds(30)),
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
            do {
                for number in 0..<12 { _ = try await client.group("g").join("m\(number)", lease: .seconds(3600)) }
                try await body(redis)
            } catch {
                await client.shutdown()
                throw error
            }
            await client.shutdown()
        }
    }

    @Test(arguments: [
        "locks", "locks k", "audit", "groups", "group g", "group history g", "group settings g", "ring g",
        "ring owner g k", "events --after 0:0", "events --json", "events --follow --after 0:0", "--help", "lock --help",
        "--version",
    ])
    func `what cannot be written is no success`(command: String) async throws {
        try await Self.withGroup { redis in
            let full = try await Self.shell("$RF \(command) > /dev/full", redis)
            #expect(full.code == 74, "\(full)")
            #expect(full.error.contains("cannot write to standard output: No space left on device"), "\(full)")
            let closed = try await Self.shell("$RF \(command) >&-", redis)
            #expect(closed.code == 74, "\(closed)")
        }
    }

    @Test func `the cursor counts only events that were written`() async throws {
        try await Self.withGroup { redis in
            let none = try await Self.shell("$RF events --json --after 0:0 > /dev/full", redis)
            #expect(none.error.contains("go on with --after 0:0\n"), "\(none)")
            // A file that takes 1 KiB, and then no more; XFSZ is ours to ignore.
            let some = try await Self.shell(
                "cd $HOME; (ulimit -f 1; $RF events --json --after 0:0 > part; echo \"code $?\")", redis)
            #expect(some.output.contains("code 74"), "\(some)")
            let all = try await Self.shell("$RF events --json --after 0:0", redis)
            let cursor = try #require(some.error.split(separator: "--after ").last?.prefix { !$0.isWhitespace })
            let rest = try await Self.shell("$RF events --json --after \(cursor)", redis)
            #expect(!rest.output.isEmpty && rest.output != all.output && all.output.hasSuffix(rest.output), "\(some)")
        }
    }

    @Test func `a closed pipe ends a command quietly, and one that waits too`() async throws {
        try await Self.withGroup { redis in
            for command in ["locks", "events --after 0:0", "group g"] {
                let ended = try await Self.shell("{ sleep 0.1; $RF \(command); echo $? >&2; } | true", redis)
                #expect(ended.error == "141\n", "\(command): \(ended)")
            }
            // Nothing more happens, and still it sees that nobody reads.
            for command in [
                "$RF events --follow --after 0:0", "$RF group watch g", "$RF demo", "$RF-bench lock --seconds 60",
            ] {
                let ended = try await Self.shell("{ \(command); echo $? >&2; } | head -n 1 > /dev/null", redis)
                #expect(ended.error == "141\n", "\(command): \(ended)")
            }
        }
    }

    @Test func `a service and a lock do not end because nobody reads what they print`() async throws {
        try await withRedis { redis in
            let lock = try await Self.shell("$RF lock k --redis $U -- sh -c 'exit 3' > /dev/full", redis)
            #expect(lock.code == 3, "\(lock)")
            let serve = try await Program.start(
                program: "/bin/bash",
                ["-c", "exec $RF serve --port 0 --redis $U > /dev/full"],
                environment: ["RF=\(try programPath())", "U=\(redis.unixURL)"])
            try await eventually("it says so") { serve.error.contains("cannot write to standard output") }
            serve.process.signal(SIGTERM)
            #expect(await serve.process.wait() == .code(0))
        }
    }

    @Test func `a mistyped group is no answer, and the program says its version`() async throws {
        try await withRedis { redis in
            for command in ["ring TYPO", "ring owner TYPO k", "ring plan TYPO --leave a", "pick TYPO", "group TYPO"] {
                let wrong = try await Self.shell("$RF \(command)", redis)
                #expect(wrong.code == 1 && wrong.output.isEmpty && wrong.error.contains("no group TYPO"), "\(wrong)")
            }
            let version = try await Self.shell("$RF --version", redis)
            #expect(version.code == 0 && version.output == "ringfence \(ringfenceVersion)\n", "\(version)")
        }
    }

    @Test func `follow waits for a Redis that is not there yet`() async throws {
        let follow = try await Program.start(["events", "--follow", "--redis", "redis://127.0.0.1:1"])
        try await eventually("it says that it waits") { follow.error.contains("waiting for redis") }
        #expect(follow.process.isRunning)
        follow.process.signal(SIGINT)
        #expect(await follow.process.wait() == .code(0))
    }

    @Test func `a release that was not answered is said with until when`() async throws {
        try await withRedis { redis in
            let told = try await Program.run([
                "lock", "job", "--ttl", "60s", "--command-timeout", "500ms", "--redis", redis.unixURL, "--",
                "redis-cli",
                "-s", redis.socketPath, "client", "pause", "60000", "write",
            ])
            #expect(told.code == 0, "\(told)")
            #expect(
                told.error.contains("did not answer the release of job") && told.error.contains("Z ("), "\(told)")
            #expect(told.error.contains("a release was not answered"), "\(told)")
            try await redis.cli("CLIENT", "UNPAUSE")
        }
    }
}
