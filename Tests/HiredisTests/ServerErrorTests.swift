// SPDX-License-Identifier: Apache-2.0
import Hiredis
import NIOCore
import RingfencePlatform
import TestSupport
import Testing

/// Each prefix provoked on a real server, and what is then known of the command.
@Suite struct ServerErrorTests {
    private func failure(_ client: RedisClient, _ arguments: String...) async -> RedisError? {
        await redisError { try await client.call(arguments) }
    }

    private func expect(
        _ error: RedisError?, _ prefix: RedisServerError.Prefix, _ effect: RedisError.Effect,
        _ location: SourceLocation = #_sourceLocation
    ) {
        #expect(error?.code == .server, sourceLocation: location)
        #expect(error?.server?.prefix == prefix, sourceLocation: location)
        #expect(error?.effect == effect, sourceLocation: location)
    }

    @Test func `replies of every kind come through`() async throws {
        try await withRedis { server async throws in
            try await withClient(server.url) { client async throws in
                #expect(try await client.call("SET", "k", "v") == .ok)
                #expect(try await client.call("GET", "k").text == "v")
                #expect(try await client.call("GET", "none") == .null)
                #expect(try await client.call("INCR", "n") == .integer(1))
                #expect(try await client.call("LRANGE", "none", "0", "-1") == .array([]))
                let binary = (0...255).map { UInt8($0) } + [13, 10, 0]
                let stored = try await client.pipeline(count: 2) { writer in
                    writer.begin(3)
                    writer.argument("SET")
                    writer.argument(binary)
                    writer.argument(binary)
                    writer.begin(2)
                    writer.argument("GET")
                    writer.argument(binary)
                }
                #expect(stored == [.ok, .string(binary)])
                let nested = try await client.call("EVAL", "return {1,{'a',{false}},redis.error_reply('MINE x')}", "0")
                #expect(
                    nested
                        == .array([
                            .integer(1), .array([.string([97]), .array([.null])]),
                            .error(RedisServerError(message: "MINE x")),
                        ]))
            }
        }
    }

    @Test func `a command that only a script does not know may have come behind a write`() async throws {
        try await withRedis { server async throws in
            try await withClient(server.url) { client async throws in
                let script = "redis.call('SET', KEYS[1], 1) redis.call('NOSUCH')"
                let inside = await failure(client, "EVAL", script, "1", "k")
                #expect(inside?.effect == .unknown, "\(String(describing: inside))")
                #expect(try await client.call("EXISTS", "k") == .integer(1))
            }
        }
    }

    @Test func `an error reply of one command in a pipeline leaves the others alone`() async throws {
        try await withRedis { server async throws in
            try await withClient(server.url) { client async throws in
                let replies = try await client.pipeline(count: 3) { writer in
                    writer.command("SET", "k", "v")
                    writer.command("INCR", "k")
                    writer.command("GET", "k")
                }
                #expect(replies[0] == .ok)
                #expect(replies[1].error?.prefix == .err)
                #expect(replies[2].text == "v")
            }
        }
    }

    @Test func `NOSCRIPT, ERR and WRONGTYPE say what they know`() async throws {
        try await withRedis { server async throws in
            try await withClient(server.url) { client async throws in
                let unknown = String(repeating: "0", count: 40)
                expect(await failure(client, "EVALSHA", unknown, "0"), .noScript, .none)
                expect(await failure(client, "NONSENSE"), .err, .none)
                _ = try await client.call("LPUSH", "list", "x")
                expect(await failure(client, "GET", "list"), .wrongType, .none)
                // From inside a script, after it has written, not none; with the same prefix from Redis 7.0.
                let script = "redis.call('SET','written','1') return redis.call('GET','list')"
                expect(
                    await failure(client, "EVAL", script, "0"), RedisServer.isSeven ? .wrongType : .err, .unknown)
                #expect(try await server.cli("GET", "written") == "1")
            }
        }
    }

    @Test func `OOM refuses and writes nothing`() async throws {
        try await withRedis(["--maxmemory", "1", "--maxmemory-policy", "noeviction"]) { server async throws in
            try await withClient(server.url) { client async throws in
                expect(await failure(client, "SET", "k", "v"), .outOfMemory, .none)
                expect(await failure(client, "EVAL", "return redis.call('SET','s','1')", "0"), .outOfMemory, .none)
                #expect(try await server.cli("DBSIZE") == "0")
            }
        }
    }

    @Test func `BUSY is retriable and ends with the script`() async throws {
        try await withRedis(["--lua-time-limit", "50"]) { server async throws in
            try await withClient(server.url) { client async throws in
                async let endless = failure(client, "EVAL", "while true do end", "0")
                try await withClient(server.url) { other async throws in
                    // A new connection waits until Redis is free again rather than handing out a half-working one.
                    try await eventually { try await server.cli("PING").hasPrefix("BUSY") }
                    let waiting = await redisError {
                        _ = try await other.call("GET", "k", deadline: .seconds(2))
                    }
                    #expect(waiting?.code == .notConnected)
                    #expect(waiting?.effect == RedisError.Effect.none)
                    #expect(waiting?.server?.prefix == .busy)
                    try await server.cli("SCRIPT", "KILL")
                    #expect(try await other.call("GET", "k") == .null)
                }
                expect(await endless, .err, .unknown)
            }
            // An established connection gets the reply itself.
            try await withClient(server.url) { client async throws in
                _ = try await client.call("PING")
                async let busy = redisCLI(["-s", server.socketPath, "EVAL", "while true do end", "0"])
                try await eventually { await failure(client, "GET", "k")?.server?.prefix == .busy }
                let error = await failure(client, "SET", "k", "v")
                expect(error, .busy, .none)
                #expect(error?.isRetriable == true)
                try await server.cli("SCRIPT", "KILL")
                _ = try await busy
            }
        }
    }

    @Test func `READONLY has no effect and connects again`() async throws {
        try await withRedis { primary async throws in
            try await withRedis(["--replicaof", "127.0.0.1", "\(primary.port)"]) { replica async throws in
                try await eventually { try await replica.cli("INFO", "replication").contains("master_link_status:up") }
                try await withClient(replica.url) { client async throws in
                    let error = await failure(client, "SET", "k", "v")
                    expect(error, .readOnly, .none)
                    #expect(error?.isRetriable == true)
                    try await eventually { client.connection.map { $0.generation > 1 } ?? false }
                    try await replica.cli("REPLICAOF", "NO", "ONE")
                    #expect(try await client.call("SET", "k", "v") == .ok)
                }
            }
        }
    }

    @Test func `MASTERDOWN is surfaced and new connections wait`() async throws {
        try await withRedis { primary async throws in
            let arguments = ["--replicaof", "127.0.0.1", "\(primary.port)", "--replica-serve-stale-data", "no"]
            let replica = try await RedisServer.start(arguments)
            try await eventually { try await replica.cli("GET", "k") == "" }
            try await withClient(replica.url) { client async throws in
                #expect(try await client.call("GET", "k") == .null)
                await primary.stop()
                try await eventually { await failure(client, "GET", "k")?.server?.prefix == .masterDown }
                expect(await failure(client, "GET", "k"), .masterDown, .none)
                try await withClient(replica.url) { other async throws in
                    let error = await redisError {
                        _ = try await other.call("GET", "k", deadline: .seconds(2))
                    }
                    #expect(error?.server?.prefix == .masterDown)
                    #expect(error?.effect == RedisError.Effect.none)
                }
            }
            await replica.stop()
        }
    }

    @Test func `a server that loads its data is waited for`() async throws {
        // While it loads, a server looks at its connections after each 1024 commands only: many keys, so that it looks
        // often.
        try await withRedis(["--appendonly", "yes", "--key-load-delay", "100"]) { server async throws in
            try await server.cli("EVAL", "for i=1,16000 do redis.call('SET','k'..i,'v') end return 1", "0")
            var early: [RedisError?] = []
            // On a machine so busy that it had loaded before anybody asked: again.
            for _ in 0..<20 where !early.contains(where: { $0?.server?.prefix == .loading }) {
                await server.kill(SIGKILL)
                try server.launchWithoutWaiting()
                try await withClient(server.url) { client async throws in
                    while client.connection == nil {
                        early.append(
                            await redisError {
                                _ = try await client.call("GET", "k16000", deadline: .milliseconds(20))
                            })
                    }
                    #expect(try await client.call("GET", "k16000").text == "v")
                }
            }
            #expect(early.contains { $0?.server?.prefix == .loading })
            #expect(early.allSatisfy { $0 == nil || $0?.effect == RedisError.Effect.none })
        }
    }

    @Test(arguments: [
        (
            "READONLY You can't write against a read only replica. script: a632c1, on @user_script:93.",
            "this Redis is a replica and takes no writes"
        ),
        (
            "ERR Error running script (call to f_a632): @user_script:93: @user_script: 93: -READONLY You can't write.",
            "this Redis is a replica and takes no writes"
        ),
        ("MOVED 5718 127.0.0.1:15005", "slot 5718 is at another node of the Cluster, 127.0.0.1:15005: give"),
        ("MOVED 5718 :15005", "slot 5718 is at another node of the Cluster: give"),
        ("ASK 5718 b:1", "slot 5718 is being moved to another node of the Cluster, b:1: calls"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "the slot is being moved to another node"),
        ("CLUSTERDOWN Hash slot not served", "the Redis Cluster is down"),
        ("LOADING Redis is loading the dataset in memory", "Redis is loading its data"),
        ("MASTERDOWN Link with MASTER is down", "this Redis is a replica that has lost its primary"),
        ("NOREPLICAS Not enough good replicas to write.", "min-replicas-to-write"),
        ("BUSY Redis is busy running a script.", "Redis is busy with a script"),
    ])
    func `a state that ends by itself has words of ours, effect none, and is for now`(raw: String, words: String) {
        let error = RedisError(RedisServerError(message: raw))
        #expect(error.message.contains(words), "\(error.message)")
        #expect(!error.message.contains("script:") && !error.message.contains("@user_script"))
        #expect(error.effect == .none && error.isRetriable && error.isForNow)
        #expect(error.server?.message == raw && error.title != nil)
    }

    @Test(arguments: [
        (
            "ERR The user executing the script can't run this command or subcommand script: a632, on @user_script:93.",
            "ERR The user executing the script can't run this command or subcommand"
        ),
        ("ERR Error running script (call to f_a632): @user_script:3: wrong", "wrong"),
        (
            "OOM command not allowed when used memory > 'maxmemory'.",
            "OOM command not allowed when used memory > 'maxmemory'."
        ),
        ("MINE no script: said so", "MINE no script: said so"),
    ])
    func `of any other refusal only what it says of a script is cut`(raw: String, words: String) {
        let error = RedisError(RedisServerError(message: raw))
        #expect(error.message == words)
        #expect(!error.isForNow && error.title == nil)
    }
}
