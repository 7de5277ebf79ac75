// SPDX-License-Identifier: Apache-2.0
import FoundationEssentials
import Hiredis
import Logging
import RingfenceConsole
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

@testable import RingfenceCommand

/// The demo as a user starts it: the real program, its worker processes, a private Redis.
@Suite(.serialized) struct DemoTests {
    /// What the demo prints with `--json`, as far as it matters here.
    private struct Result: Decodable {
        var mode: String
        var balanced: Bool
        var transfers: Int
        var appliedOnce: Int
        var wrongAccounts: Int
        var totalBefore: Int64
        var totalAfter: Int64
    }

    /// The program, which the build puts beside the tests.
    private var program: String {
        get throws {
            let tests = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
            var directory = URL(filePath: tests).deletingLastPathComponent()
            while directory.path.count > 1 {
                let candidate = directory.appending(path: "ringfence").path
                if access(candidate, X_OK) == 0 { return candidate }
                directory.deleteLastPathComponent()
            }
            throw CommandFailure("no program ringfence above \(tests)")
        }
    }

    private func run(_ arguments: [String]) async throws -> (exit: ChildProcess.Exit, output: Data) {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/output"
        let output = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
        try #require(output >= 0)
        defer { close(output) }
        var launch = ChildProcess.Launch([try program] + arguments)
        launch.output = output
        launch.error = output
        let exit = try await ChildProcess.start(launch).wait()
        return (exit, try Data(contentsOf: URL(filePath: path)))
    }

    @Test func `every transfer is applied once, whatever happens to the workers, and nothing stays behind`()
        async throws
    {
        let directory = try TemporaryDirectory()
        let file = directory.path + "/transfers.jsonl"
        try Data(TransferGenerator.contents(count: 1500).utf8).write(to: URL(filePath: file))
        try await withRedis { redis in
            let (exit, output) = try await run(
                ["demo", "--json", "--workers", "4", "--file", file, "--redis", redis.unixURL])
            #expect(exit == .code(0))
            let result = try JSONDecoder().decode(Result.self, from: output)
            #expect(result.mode == "safe")
            #expect(result.balanced)
            #expect(result.appliedOnce == 1500)
            #expect(result.totalAfter == result.totalBefore)
            #expect(try await keysWithoutEnd(redis) == [])
        }
    }

    /// The keys that would stay in Redis for ever.
    private func keysWithoutEnd(_ redis: RedisServer) async throws -> [String] {
        let client = RedisClient(try RedisConfiguration(url: redis.unixURL), logger: Logger(label: "test"))
        let script = RedisScript(
            """
            local lasting = {}
            for _, key in ipairs(redis.call('KEYS', '*')) do
                if redis.call('TTL', key) == -1 then lasting[#lasting + 1] = key end
            end
            return lasting
            """)
        let reply = try await client.run(script, keys: 0, arguments: 0) { _ in }
        await client.close()
        return reply.array?.compactMap(\.text) ?? ["no answer"]
    }

    @Test func `without locks the same demo ends with wrong books and says so`() async throws {
        let (exit, output) = try await run(["demo", "--unsafe", "--json"])
        #expect(exit == .code(1))
        let result = try JSONDecoder().decode(Result.self, from: output)
        #expect(result.mode == "unsafe")
        #expect(!result.balanced)
        #expect(result.wrongAccounts > 0)
    }

    @Test func `a wrong file is refused by its line before anything starts`() async throws {
        let directory = try TemporaryDirectory()
        let file = directory.path + "/transfers.jsonl"
        try Data("{\"id\":\"a\",\"from\":\"x\",\"to\":\"y\",\"amount\":-1}\n".utf8).write(to: URL(filePath: file))
        let (exit, output) = try await run(["demo", "--file", file])
        #expect(exit == .code(65))
        #expect(String(decoding: output, as: UTF8.self).hasPrefix("\(file): line 1: field \"amount\" must be"))
    }
}
