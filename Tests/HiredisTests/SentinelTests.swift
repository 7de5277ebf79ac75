// SPDX-License-Identifier: Apache-2.0
//
// One client under `redis+sentinel://`, and real Sentinels over real servers.
import Logging
import NIOCore
import RingfencePlatform
import TestSupport
import Testing

@testable import Hiredis

/// A located client for `body`, closed after it.
func withLocatedClient<Result>(
    _ url: String, isolation: isolated (any Actor)? = #isolation,
    _ change: (inout RedisConfiguration) -> Void = { _ in },
    _ body: (RedisClient, Locator) async throws -> sending Result
) async throws -> sending Result {
    var configuration = try RedisConfiguration(url: url)
    configuration.requiresPrimary = true
    configuration.commandTimeout = .seconds(30)
    change(&configuration)
    let locator = Locator(configuration, logger: quiet)
    configuration.locator = locator
    let client = RedisClient(configuration, eventLoop: locator.eventLoop, logger: quiet)
    do {
        let result = try await body(client, locator)
        await client.close()
        return result
    } catch {
        await client.close()
        throw error
    }
}

@Suite struct SentinelTests {
    /// The server that the client talks to.
    private func port(_ client: RedisClient) async throws -> Int? {
        try await client.call("CONFIG", "GET", "port").array?.last?.text.flatMap { Int($0) }
    }

    private func check(_ client: RedisClient, at server: RedisServer) async throws {
        #expect(try await port(client) == server.port)
    }

    /// Waits until the client writes at `server`.
    private func reach(_ server: RedisServer, _ client: RedisClient) async throws {
        try await eventually("the client at \(server.port)", within: .seconds(60)) {
            guard let number = try? await port(client), number == server.port else { return false }
            return (try? await client.call("SET", "x", "\(number)")) == .status("OK")
        }
    }

    @Test func `one Sentinel of the URL is enough, the others are found`() async throws {
        try await withSentinels { sentinels in
            try await withLocatedClient(sentinels.url([1])) { client, locator in
                try await check(client, at: sentinels.servers[0])
                try await eventually { locator.status.sentinels == .init(answering: 3, known: 3) }
                #expect(locator.status.address == .tcp(host: "127.0.0.1", port: sentinels.servers[0].port))
                // The one that was named goes, and the others tell of a failover.
                await sentinels.sentinels[1].stop()
                try await sentinels.failover(at: 0)
                let promoted = try await sentinels.promotion(after: sentinels.servers[0], at: [0, 2])
                try await reach(promoted, client)
                try await eventually { locator.status.sentinels == .init(answering: 2, known: 3) }
            }
        }
    }

    @Test func `a killed primary is left for the one that is promoted, and is not gone back to when it returns`()
        async throws
    {
        try await withSentinels { sentinels in
            try await withLocatedClient(sentinels.url()) { client, locator in
                let old = sentinels.servers[0]
                try await check(client, at: old)
                await old.kill(9)
                let promoted = try await sentinels.promotion(after: old)
                try await reach(promoted, client)
                #expect((locator.status.epoch ?? 0) > 0)
                let generation = locator.status.generation
                try await old.restart()
                try await eventually("the old primary is a replica", within: .seconds(60)) {
                    try await sentinels.tell(old, "ROLE").hasPrefix("slave")
                }
                try await check(client, at: promoted)
                #expect(locator.status.generation == generation)
            }
        }
    }

    @Test func `a frozen primary is left, and nothing is written there when it wakes up`() async throws {
        try await withSentinels { sentinels in
            try await withLocatedClient(sentinels.url()) { client, _ in
                let old = sentinels.servers[0]
                try await check(client, at: old)
                await old.kill(SIGSTOP)
                let promoted = try await sentinels.promotion(after: old)
                try await reach(promoted, client)
                await old.kill(SIGCONT)
                for _ in 0..<200 { try await check(client, at: promoted) }
            }
        }
    }

    @Test func `an ordered failover is followed`() async throws {
        try await withSentinels { sentinels in
            try await withLocatedClient(sentinels.url()) { client, locator in
                try await check(client, at: sentinels.servers[0])
                try await sentinels.failover()
                let promoted = try await sentinels.promotion(after: sentinels.servers[0])
                try await reach(promoted, client)
                #expect(locator.status.sentinels == .init(answering: 3, known: 3))
            }
        }
    }

    @Test func `a Sentinel that was left behind does not lead back to the old primary`() async throws {
        try await withSentinels { sentinels in
            let old = sentinels.servers[0]
            await sentinels.sentinels[2].kill(SIGSTOP)
            try await sentinels.failover()
            let promoted = try await sentinels.promotion(after: old, at: [0, 1])
            try await withLocatedClient(sentinels.url([2, 0, 1])) { client, _ in
                try await check(client, at: promoted)
                // It wakes up with the old primary in its head, and the client asks it from now on.
                await sentinels.sentinels[2].kill(SIGCONT)
                for _ in 0..<200 { try await check(client, at: promoted) }
            }
        }
    }

    @Test func `Redis and its Sentinels have passwords of their own`() async throws {
        var options = RedisSentinels.Options()
        options.password = "for-redis"
        options.sentinelPassword = "for-sentinels"
        try await withSentinels(options) { sentinels in
            try await withLocatedClient(sentinels.url(), { $0.sentinelPassword = "for-sentinels" }) { client, locator in
                try await check(client, at: sentinels.servers[0])
                try await eventually { locator.status.sentinels == .init(answering: 3, known: 3) }
                try await sentinels.failover()
                try await reach(try await sentinels.promotion(after: sentinels.servers[0]), client)
            }
            let missing = await redisError {
                try await withLocatedClient(sentinels.url(), { $0.commandTimeout = .seconds(1) }) { client, _ in
                    _ = try await client.call("PING")
                }
            }
            #expect(missing?.message.contains("RINGFENCE_SENTINEL_PASSWORD") == true, "\(missing?.message ?? "")")
            let wrong = await redisError {
                try await withLocatedClient(
                    sentinels.url(), { ($0.sentinelPassword, $0.commandTimeout) = ("no", .seconds(1)) }
                ) { client, _ in
                    _ = try await client.call("PING")
                }
            }
            #expect(wrong?.message.contains("refuses our user or password") == true, "\(wrong?.message ?? "")")
        }
    }

    @Test func `a user with few rights is enough at a Sentinel`() async throws {
        var options = RedisSentinels.Options()
        options.lines = [
            "user watcher on >secret resetchannels &* -@all +auth +client +info +ping +subscribe "
                + "+sentinel|get-master-addr-by-name +sentinel|master +sentinel|sentinels +sentinel|myid"
        ]
        try await withSentinels(options) { sentinels in
            func configure(_ configuration: inout RedisConfiguration) {
                (configuration.sentinelUsername, configuration.sentinelPassword) = ("watcher", "secret")
            }
            try await withLocatedClient(sentinels.url([0]), configure) { client, locator in
                try await check(client, at: sentinels.servers[0])
                try await eventually { locator.status.sentinels == .init(answering: 3, known: 3) }
                #expect(try await sentinels.ask(0, "CLIENT", "LIST").contains("user=watcher"))
            }
        }
    }

    @Test func `Redis and Sentinels speak TLS`() async throws {
        var options = RedisSentinels.Options()
        let certificates = try await TestCertificates.make()
        options.certificates = certificates
        try await withSentinels(options) { sentinels in
            func configure(_ configuration: inout RedisConfiguration) {
                configuration.tls?.authorityFile = certificates.authority
                configuration.connectTimeout = .seconds(10)
            }
            try await withLocatedClient(sentinels.url(), configure) { client, locator in
                try await check(client, at: sentinels.servers[0])
                try await eventually { locator.status.sentinels == .init(answering: 3, known: 3) }
                try await sentinels.failover()
                try await reach(try await sentinels.promotion(after: sentinels.servers[0]), client)
            }
            let untrusted = await redisError {
                try await withLocatedClient(sentinels.url(), { $0.commandTimeout = .seconds(1) }) { client, _ in
                    _ = try await client.call("PING")
                }
            }
            #expect(untrusted?.message.contains("certificate of localhost") == true, "\(untrusted?.message ?? "")")
        }
    }

    @Test func `a wrong name, and a Redis in the place of a Sentinel, are told of by name`() async throws {
        var options = RedisSentinels.Options()
        (options.replicas, options.sentinels, options.quorum) = (0, 1, 1)
        try await withSentinels(options) { sentinels in
            let url = "redis+sentinel://127.0.0.1:\(sentinels.sentinels[0].port)/other"
            let unknown = await redisError {
                try await withLocatedClient(url, { $0.commandTimeout = .seconds(1) }) { client, _ in
                    _ = try await client.call("PING")
                }
            }
            #expect(unknown?.message.contains("watches no primary that is called \"other\"") == true)
            let wrong = await redisError {
                try await withLocatedClient(
                    "redis+sentinel://127.0.0.1:\(sentinels.servers[0].port)/main", { $0.commandTimeout = .seconds(1) }
                ) { client, _ in
                    _ = try await client.call("PING")
                }
            }
            #expect(wrong?.message.contains("is no Sentinel") == true, "\(wrong?.message ?? "")")
        }
    }

    @Test func `where a majority is required, one Sentinel of three leads nowhere`() async throws {
        try await withSentinels { sentinels in
            for index in 1...2 { await sentinels.sentinels[index].stop() }
            func required(_ configuration: inout RedisConfiguration) {
                configuration.sentinelMajority = .required
                configuration.commandTimeout = .seconds(2)
            }
            let error = await redisError {
                try await withLocatedClient(sentinels.url([0]), required) { client, _ in
                    _ = try await client.call("PING")
                }
            }
            #expect(error?.message.contains("1 of 3 Sentinels") == true, "\(error?.message ?? "")")
            try await withLocatedClient(sentinels.url([0])) { client, locator in
                try await check(client, at: sentinels.servers[0])
                try await eventually { locator.status.sentinels == .init(answering: 1, known: 3) }
            }
        }
    }
}
