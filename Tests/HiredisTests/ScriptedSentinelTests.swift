// SPDX-License-Identifier: Apache-2.0
//
// Sentinels that lie, are late, answer half or want a password: byte by byte, so that each does what no real one would
// do on demand.
import NIOCore
import NIOPosix
import Synchronization
import TestSupport
import Testing

@testable import Hiredis

@Suite struct ScriptedSentinelTests {
    /// The answers of a Sentinel of three that names `port` under `epoch`.
    private static func naming(_ port: Int, _ epoch: Int, others: Int = 2) -> ScriptedServer.Script {
        { words in
            guard words[0] == "SENTINEL" else { return nil }
            switch words[1] {
            case "GET-MASTER-ADDR-BY-NAME": return RESP.array([RESP.bulk("127.0.0.1"), RESP.bulk("\(port)")])
            case "MASTER":
                return RESP.array(
                    ["flags", "master", "config-epoch", "\(epoch)", "num-other-sentinels", "\(others)"].map(RESP.bulk))
            case "SENTINELS": return RESP.array([])
            default: return nil
            }
        }
    }

    private func withServers(
        _ scripts: [ScriptedServer.Script], _ body: ([ScriptedServer], String) async throws -> Void
    ) async throws {
        var servers: [ScriptedServer] = []
        for script in scripts { servers.append(try await ScriptedServer.start(script)) }
        let url = "redis+sentinel://\(servers.map(\.address).joined(separator: ","))/main"
        do { try await body(servers, url) } catch {
            for server in servers { await server.close() }
            throw error
        }
        for server in servers { await server.close() }
    }

    private func port(_ client: RedisClient) async throws -> String {
        try await client.call("CONFIG", "GET", "port").array?.last?.text ?? ""
    }

    @Test func `the word of a later failover is followed as soon as it is pushed, and a lie of before is not`()
        async throws
    {
        try await withRedis { old in
            try await withRedis { new in
                let before = Self.naming(old.port, 7)
                try await withServers([before, before, before]) { servers, url in
                    func patient(_ configuration: inout RedisConfiguration) {
                        configuration.watchInterval = .seconds(3600)
                    }
                    try await withLocatedClient(url, patient) { client, locator in
                        let first = try await port(client)
                        #expect(first == "\(old.port)")
                        try await eventually { servers.allSatisfy(\.hasListeners) }
                        // Another primary's failover, and a lie: the epoch is not higher.
                        servers[1].push("+switch-master", "other 127.0.0.1 1 127.0.0.1 2")
                        servers[2].say(Self.naming(new.port, 6))
                        servers[2].push("+switch-master", "main 127.0.0.1 \(old.port) 127.0.0.1 \(new.port)")
                        for _ in 0..<100 {
                            let next = try await port(client)
                            #expect(next == "\(old.port)")
                        }
                        servers[1].say(Self.naming(new.port, 8))
                        servers[1].push("+switch-master", "main 127.0.0.1 \(old.port) 127.0.0.1 \(new.port)")
                        try await eventually { (try? await port(client)) == "\(new.port)" }
                        #expect(locator.status.epoch == 8)
                    }
                }
            }
        }
    }

    @Test func `one that never answers, one that answers half and one that wants a password keep nobody waiting`()
        async throws
    {
        try await withRedis { redis in
            let good = Self.naming(redis.port, 7, others: 4)
            let mute: ScriptedServer.Script = { $0[0] == "SENTINEL" ? "" : nil }
            let half: ScriptedServer.Script = { $0[0] == "SENTINEL" ? "*-1\r\n" : nil }
            let locked: ScriptedServer.Script = { _ in "-NOAUTH Authentication required.\r\n" }
            try await withServers([mute, half, locked, good, Self.naming(redis.port, 7, others: 3)]) { _, url in
                try await withLocatedClient(url) { client, _ in
                    let found = try await port(client)
                    #expect(found == "\(redis.port)")
                }
            }
            try await withServers([locked, locked]) { _, url in
                let error = await redisError {
                    try await withLocatedClient(url, { $0.commandTimeout = .seconds(1) }) { client, _ in
                        _ = try await client.call("PING")
                    }
                }
                #expect(error?.message.contains("RINGFENCE_SENTINEL_PASSWORD") == true, "\(error?.message ?? "")")
            }
        }
    }

    @Test func `a Sentinel is asked for its id once on each connection`() async throws {
        try await withRedis { redis in
            let naming = Self.naming(redis.port, 7, others: 0)
            let commands = Mutex<[String]>([])
            let script: ScriptedServer.Script = { words in
                if words[0] == "SENTINEL" { commands.withLock { $0.append(words[1]) } }
                return naming(words)
            }
            func count(_ name: String) -> Int { commands.withLock { $0.count { $0 == name } } }
            try await withServers([script]) { servers, url in
                try await withLocatedClient(url, { $0.watchInterval = .milliseconds(10) }) { client, locator in
                    _ = try await client.call("PING")
                    try await eventually { count("MASTER") >= 5 }
                    #expect(count("MYID") == 1)
                    #expect(locator.status.sentinels?.answering == 1)
                    servers[0].dropConnections()
                    try await eventually { count("MYID") == 2 }
                    let before = count("MASTER")
                    try await eventually { count("MASTER") >= before + 5 }
                    #expect(count("MYID") == 2)
                    #expect(locator.status.sentinels?.answering == 1)
                }
            }
        }
    }

    @Test func `two primaries under one epoch are a plight that names who says what`() async throws {
        try await withRedis { one in
            try await withRedis { two in
                let scripts = [Self.naming(one.port, 7, others: 1), Self.naming(two.port, 7, others: 1)]
                try await withServers(scripts) { servers, url in
                    let error = await redisError {
                        try await withLocatedClient(url, { $0.commandTimeout = .seconds(1) }) { client, _ in
                            _ = try await client.call("PING")
                        }
                    }
                    let text = error?.message ?? ""
                    #expect(text.contains("127.0.0.1:\(one.port) by \(servers[0].address)"), "\(text)")
                    #expect(text.contains("127.0.0.1:\(two.port) by \(servers[1].address)"), "\(text)")
                }
            }
        }
    }
}
