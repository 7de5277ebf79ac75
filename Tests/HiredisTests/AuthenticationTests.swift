// SPDX-License-Identifier: Apache-2.0
import Hiredis
import TestSupport
import Testing

@Suite struct AuthenticationTests {
    @Test func `a password, an ACL user, a database and a name are set up on each connection`() async throws {
        try await withRedis(["--requirepass", "p@ss:w/rd%", "--user", "pay", "on", ">s3cret", "~*", "&*", "+@all"]) {
            server async throws in
            let encoded = "p%40ss%3Aw%2Frd%25"
            for user in [":\(encoded)", "pay:s3cret"] {
                let url = "redis://\(user)@127.0.0.1:\(server.port)/3"
                try await withClient(url, { $0.clientName = "ringfence-test" }) { client async throws in
                    for generation in 1...2 {
                        let info = try await client.call("CLIENT", "INFO").text ?? ""
                        #expect(info.contains("db=3"))
                        #expect(info.contains("name=ringfence-test"))
                        #expect(info.contains(user.hasPrefix("pay") ? "user=pay" : "user=default"))
                        let connection = client.connection
                        #expect(connection?.generation == generation)
                        #expect(info.contains("id=\(connection?.clientID ?? -1) "))
                        #expect(connection?.runID?.utf8.count == 40)
                        #expect(connection?.server?.version?.isEmpty == false)
                        #expect((connection?.serverTimeMicroseconds ?? 0) > 1_600_000_000_000_000)
                        if generation == 2 { break }
                        let id = "\(connection?.clientID ?? 0)"
                        #expect(
                            try await server.cli("-a", "p@ss:w/rd%", "--no-auth-warning", "CLIENT", "KILL", "ID", id)
                                == "1")
                        try await eventually { client.connection?.generation == 2 }
                    }
                }
            }
        }
    }

    @Test func `a wrong or missing password fails what waits, without effect, and a right one later heals`()
        async throws
    {
        try await withRedis(["--requirepass", "right"]) { server async throws in
            for (url, prefix) in [
                ("redis://:wrong@127.0.0.1:\(server.port)", RedisServerError.Prefix.wrongPassword),
                ("redis://127.0.0.1:\(server.port)", .noAuthentication),
            ] {
                try await withClient(url) { client async throws in
                    let error = await redisError { _ = try await client.call("SET", "k", "v") }
                    #expect(error?.code == .server)
                    #expect(error?.server?.prefix == prefix)
                    #expect(error?.effect == RedisError.Effect.none)
                }
            }
            try await withClient("redis://:later@127.0.0.1:\(server.port)") { client async throws in
                let refused = await redisError { _ = try await client.call("PING") }
                #expect(refused != nil)
                try await server.cli("-a", "right", "--no-auth-warning", "CONFIG", "SET", "requirepass", "later")
                try await eventually { await redisError { _ = try await client.call("PING") } == nil }
            }
        }
    }

    @Test func `a password file is read at each attempt, so a new password needs no restart`() async throws {
        let directory = try TemporaryDirectory()
        let file = directory.path + "/password"
        func write(_ text: String) throws { try writeFile(file, text) }
        try write("first\n")
        try await withRedis(["--requirepass", "first"]) { server async throws in
            let url = "redis://default@127.0.0.1:\(server.port)"
            var configuration = try RedisConfiguration(url: url, passwordFile: file)
            (configuration.commandTimeout, configuration.connectTimeout) = (.seconds(30), .seconds(10))
            try await withClient(configuration) { client async throws in
                #expect(try await client.call("SET", "k", "v") == .ok)
                try await server.cli("-a", "first", "--no-auth-warning", "CONFIG", "SET", "requirepass", "second")
                try write("second")
                let id = "\(client.connection?.clientID ?? 0)"
                try await server.cli("-a", "second", "--no-auth-warning", "CLIENT", "KILL", "ID", id)
                try await eventually { client.connection?.generation == 2 }
                #expect(try await client.call("GET", "k").text == "v")
                // Who writes a file anew makes it empty first.
                try write("")
                let next = "\(client.connection?.clientID ?? 0)"
                try await server.cli("-a", "second", "--no-auth-warning", "CLIENT", "KILL", "ID", next)
                try await eventually { client.connection == nil }
                async let waiting = client.call("GET", "k")
                try await eventually { client.absence?.code == .invalidConfiguration }
                try write("second\n")
                #expect(try await waiting.text == "v")
            }
            for (text, mentions) in [
                ("", "is empty"), ("a\nb\n", "one line"), (String(repeating: "x", count: 5000), "4096"),
            ] {
                try write(text)
                try await withClient(configuration) { client async throws in
                    let error = await redisError { try await client.call("PING") }
                    #expect(error?.code == .invalidConfiguration && error?.message.contains(mentions) == true)
                    #expect(error?.message.contains(file) == true && error?.effect == RedisError.Effect.none)
                }
            }
            #expect(throws: RedisError.self) { try RedisConfiguration(url: "redis://:pw@h", passwordFile: file) }
            #expect(throws: RedisError.self) { try RedisConfiguration(url: "redis://user@h") }
        }
    }

    @Test(arguments: [[], ["--requirepass", "pw"]])
    func `a server without room says so, and is waited for`(arguments: [String]) async throws {
        try await withRedis(arguments + ["--maxclients", "1"]) { server async throws in
            let user = arguments.isEmpty ? "" : ":pw@"
            let url = "redis://\(user)127.0.0.1:\(server.port)"
            try await withClient(url) { first async throws in
                _ = try await first.call("PING")
                try await withClient(url) { second async throws in
                    let error = await redisError { _ = try await second.call("PING", deadline: .milliseconds(500)) }
                    #expect(error?.code == .notConnected && error?.isRetriable == true)
                    #expect(error?.message.contains("max number of clients") == true, "\(error?.message ?? "")")
                    await first.close()
                    #expect(try await second.call("PING") == .status("PONG"))
                }
            }
        }
    }

    @Test func `a user without CLIENT and INFO still works, and NOPERM has no effect`() async throws {
        try await withRedis(["--user", "small", "on", ">pw", "~mine:*", "+get", "+set", "+eval"]) {
            server async throws in
            try await withClient("redis://small:pw@127.0.0.1:\(server.port)", { $0.clientName = "n" }) {
                client async throws in
                #expect(try await client.call("SET", "mine:k", "v") == .ok)
                #expect(client.connection?.clientID == nil)
                for command in [["SET", "other", "v"], ["DEL", "mine:k"]] {
                    let error = await redisError { try await client.call(command) }
                    #expect(error?.server?.prefix == .noPermission)
                    #expect(error?.effect == RedisError.Effect.none)
                }
                // Inside a script the first write stays.
                let script = "redis.call('SET',KEYS[1],'2') return redis.call('SET',KEYS[2],'2')"
                let error = await redisError {
                    _ = try await client.call("EVAL", script, "2", "mine:k", "mine:l")
                    _ = try await client.call(
                        "EVAL", "redis.call('SET',KEYS[1],'3') return redis.call('DEL',KEYS[1])", "1", "mine:k")
                }
                #expect(error?.effect == .unknown)
                #expect(try await server.cli("GET", "mine:k") == "3")
            }
        }
    }

    @Test func `a database that does not exist fails what waits`() async throws {
        try await withRedis { server async throws in
            try await withClient(server.url + "/99") { client async throws in
                let error = await redisError { _ = try await client.call("PING") }
                #expect(error?.code == .server)
                #expect(error?.effect == RedisError.Effect.none)
            }
        }
    }
}
