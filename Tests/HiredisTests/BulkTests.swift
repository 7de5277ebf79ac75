// SPDX-License-Identifier: Apache-2.0
//
// Large answers: how much of them may be on its way, whoever still waits for it.
import Hiredis
import NIOCore
import TestSupport
import Testing

@Suite struct BulkTests {
    /// A key of 200,000 bytes, and room for five answers of it.
    private func withLargeKey(
        _ body: (RedisServer, TCPProxy, RedisClient) async throws -> Void
    ) async throws {
        try await withRedis { server async throws in
            try await server.cli("SETRANGE", "large", "199999", "x")
            let proxy = try await TCPProxy.start(to: server)
            var configuration = try RedisConfiguration(url: proxy.url)
            configuration.commandTimeout = .milliseconds(50)
            configuration.connectTimeout = .seconds(10)
            configuration.probeInterval = .seconds(600)
            let client = RedisClient(configuration, logger: quiet)
            client.connect()
            try await eventually { client.isConnected }
            try await body(server, proxy, client)
            await client.close()
            await proxy.close()
        }
    }

    private func get(_ client: RedisClient) async throws(RedisError) -> Int? {
        try await client.bulk(count: 1, answerBytes: 200_000) { writer in
            writer.begin(2)
            writer.argument("GET")
            writer.argument("large")
        }[0].bytes?.count
    }

    private func gets(_ server: RedisServer) async throws -> Int {
        let line = try await server.cli("INFO", "commandstats").split(whereSeparator: \.isNewline)
            .first { $0.hasPrefix("cmdstat_get:calls=") }
        return line.flatMap { Int($0.dropFirst(18).prefix { $0 != "," }) } ?? 0
    }

    @Test func `callers that give up and ask again have no more answers under way than there is room for`()
        async throws
    {
        try await withLargeKey { server, proxy, client in
            proxy.update { $0.serverToClient.isStalled = true }
            for _ in 0..<10 {
                await withTaskGroup(of: RedisError?.self) { tasks in
                    for _ in 0..<10 { tasks.addTask { await redisError { _ = try await get(client) } } }
                    for await error in tasks { #expect(error?.code == .timedOut || error?.code == .overloaded) }
                }
            }
            #expect(try await gets(server) == 5, "1 MiB is room for five")
            // Small ones pass, as soon as anything does; and then there is room again.
            proxy.update { $0.serverToClient.isStalled = false }
            try await eventually("they are answered") { (try? await get(client)) == 200_000 }
        }
    }

    @Test func `room comes back with the answer, with the end of the connection, and with what was never written`()
        async throws
    {
        try await withLargeKey { server, proxy, client in
            for round in 0..<6 {
                proxy.update { $0.serverToClient.isStalled = true }
                await withTaskGroup(of: Void.self) { tasks in
                    for number in 0..<40 {
                        tasks.addTask {
                            let call = Task { try? await get(client) }
                            if number % 3 == 0 { await Task.yield() }
                            if number % 2 == 0 { call.cancel() }
                            _ = await call.value
                        }
                    }
                    if round % 2 == 0 {
                        proxy.cut()
                        await proxy.refuse()
                    }
                }
                proxy.update { $0.serverToClient.isStalled = false }
                if round % 2 == 0 { try await proxy.listen() }
                // All of the room, for each needs half of it, and one after another.
                for _ in 0..<4 {
                    try await eventually("there is room for answers of half the room") {
                        let sum = await withTaskGroup(of: Int.self) { tasks in
                            for _ in 0..<2 {
                                tasks.addTask {
                                    let replies = try? await client.bulk(count: 1, answerBytes: 1 << 19) { writer in
                                        writer.begin(2)
                                        writer.argument("STRLEN")
                                        writer.argument("large")
                                    }
                                    return replies?[0].int.map { Int($0) } ?? 0
                                }
                            }
                            return await tasks.reduce(0, +)
                        }
                        return sum == 400_000
                    }
                }
            }
        }
    }

    @Test func `a script with a large answer is sent by its text where it is not known, and answered`() async throws {
        try await withLargeKey { _, _, client in
            let script = RedisScript("return redis.call('GET', KEYS[1])")
            try await eventually("it is answered") {
                let call = ScriptCall(script: script, keys: 1, arguments: 0, answerBytes: 200_000) {
                    $0.argument("large")
                }
                return (try? await client.run(call))?.bytes?.count == 200_000
            }
            let call = ScriptCall(
                script: RedisScript("return redis.error_reply('ERR no')"), keys: 0, arguments: 0, answerBytes: 1
            ) { _ in }
            try await eventually("an error is thrown") {
                await redisError { _ = try await client.run(call) }?.code == .server
            }
        }
    }
}
