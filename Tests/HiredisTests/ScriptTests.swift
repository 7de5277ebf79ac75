// SPDX-License-Identifier: Apache-2.0
import Hiredis
import NIOCore
import Synchronization
import TestSupport
import Testing

@Suite struct ScriptTests {
    private static let script = RedisScript("redis.call('INCR', KEYS[1]) return ARGV[1]")

    private func run(_ client: RedisClient, _ key: String, _ value: String) async throws -> String? {
        let reply = try await client.run(Self.script, keys: 1, arguments: 1) { writer in
            writer.argument(key)
            writer.argument(value)
        }
        return reply.text
    }

    private static func adding(_ value: String, to key: String) -> ScriptCall {
        ScriptCall(script: script, keys: 1, arguments: 1) { writer in
            writer.argument(key)
            writer.argument(value)
        }
    }

    /// As callers do it: what the server does not know goes again, by its text.
    private func runAndWait(
        _ client: RedisClient, _ call: ScriptCall, replicas: Int, within: Duration
    ) async throws -> RedisClient.Confirmed {
        var part = RedisClient.ScriptPart(call)
        while true {
            let result = await withCheckedContinuation { continuation in
                _ = client.runAndWait([part], replicas: .atLeast(replicas), within: within) {
                    continuation.resume(returning: $0)
                }
            }
            switch result.flatMap({ $0.part(0) }) {
            case .success(let confirmed): return confirmed
            case .failure(let error):
                guard error.server?.prefix == .noScript, !part.isWhole else { throw error }
                part.isWhole = true
            }
        }
    }

    @Test func `SCRIPT FLUSH at any moment is unseen, and each call runs once`() async throws {
        try await withRedis { server async throws in
            try await withClient(server.url) { client async throws in
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for task in 0..<50 {
                        group.addTask {
                            for round in 0..<20 {
                                let value = "\(task):\(round)"
                                let got = try await self.run(client, "count", value)
                                #expect(got == value)
                            }
                        }
                    }
                    group.addTask {
                        for _ in 0..<20 { try await server.cli("SCRIPT", "FLUSH") }
                    }
                    for try await _ in group {}
                }
                #expect(try await server.cli("GET", "count") == "1000")
            }
        }
    }

    @Test func `the callback forms complete once, on the event loop, NOSCRIPT unseen`() async throws {
        try await withRedis { server async throws in
            try await withClient(server.url) { client async throws in
                let answers = Mutex<[String]>([])
                for index in 0..<20 {
                    let call = ScriptCall(script: Self.script, keys: 1, arguments: 1) { writer in
                        writer.argument("count")
                        writer.argument(index)
                    }
                    client.run(call) { result in
                        client.eventLoop.preconditionInEventLoop()
                        if case .success(let reply) = result { answers.withLock { $0.append(reply.text ?? "") } }
                    }
                }
                try await eventually { answers.withLock { $0.count } == 20 }
                #expect(answers.withLock { $0 } == (0..<20).map(String.init))
                #expect(try await server.cli("GET", "count") == "20")
                await client.close()
                client.send({ $0.command("PING") }) { result in
                    client.eventLoop.preconditionInEventLoop()
                    if case .failure(let error) = result { answers.withLock { $0.append("\(error.code)") } }
                }
                try await eventually { answers.withLock { $0.last } == "closed" }
            }
        }
    }

    @Test func `a script's WAIT counts for its own write, NOSCRIPT unseen`() async throws {
        try await withRedis { primary async throws in
            try await withRedis(["--replicaof", "127.0.0.1", "\(primary.port)"]) { replica async throws in
                try await eventually { try await replica.cli("INFO", "replication").contains("master_link_status:up") }
                try await withClient(primary.url) { client async throws in
                    for replicas in [1, 2] {
                        try await primary.cli("SCRIPT", "FLUSH")
                        let confirmed = try await runAndWait(
                            client, Self.adding("x", to: "count"), replicas: replicas,
                            within: replicas == 1 ? .seconds(20) : .milliseconds(300))
                        #expect(confirmed.reply == .string([120]))
                        #expect(confirmed.acknowledgement?.replicas == 1)
                        #expect(confirmed.acknowledgement?.isEnough == (replicas == 1))
                        try await eventually { try await replica.cli("GET", "count") == "\(replicas)" }
                    }
                    let error = await redisError {
                        let script = RedisScript("return redis.error_reply('MINE no')")
                        _ = try await runAndWait(
                            client, ScriptCall(script: script, keys: 0, arguments: 0) { _ in }, replicas: 1,
                            within: .milliseconds(10))
                    }
                    #expect(error?.server?.message == "MINE no")
                }
            }
        }
    }

    @Test func `a script and its WAIT are never split over a reconnection`() async throws {
        try await withRedis { server async throws in
            let proxy = try await TCPProxy.start(to: server)
            try await withClient(proxy.url, { $0.backoff.cap = .milliseconds(20) }) { client async throws in
                _ = try await run(client, "warm", "x")
                for cut in stride(from: 0, through: 150, by: 6) {
                    try await client.call("PING")
                    proxy.update { $0.clientToServer.cutAfter = cut }
                    let error = await redisError {
                        _ = try await runAndWait(
                            client, Self.adding("x", to: "cut\(1000 + cut)"), replicas: 0, within: .milliseconds(5))
                    }
                    proxy.update { $0.clientToServer.cutAfter = nil }
                    #expect(error == nil || error?.effect == .unknown)
                    // A WAIT sent alone on the next connection would leave more WAITs than scripts behind.
                    try await client.call("PING")
                }
                let stats = try await server.cli("INFO", "commandstats")
                func calls(_ name: String) -> Int {
                    guard let start = stats.firstRange(of: "cmdstat_\(name):calls=") else { return 0 }
                    return Int(stats[start.upperBound...].prefix { $0.isNumber }) ?? 0
                }
                #expect(calls("wait") <= calls("evalsha"))
                #expect(calls("wait") > 0)
            }
            await proxy.close()
        }
    }
}
