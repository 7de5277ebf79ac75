// SPDX-License-Identifier: Apache-2.0
import Logging
import Ringfence
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

@Suite struct EventsCommandTests {
    private func withLog(_ body: @Sendable (RedisServer, RingfenceClient, Membership) async throws -> Void) async throws
    {
        try await withRedis { redis in
            let client = try RingfenceClient(
                .init(url: redis.unixURL, commandTimeout: .seconds(30)),
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
            do {
                let member = try await client.group("ledger").join("node-1", zone: "a", lease: .seconds(3600))
                try await body(redis, client, member)
            } catch {
                await client.shutdown()
                throw error
            }
            await client.shutdown()
        }
    }

    @Test func `events are shown as lines and as JSON, the newest or those behind a cursor`() async throws {
        try await withLog { redis, client, member in
            for weight in 2...30 { try await member.update(weight: weight) }
            let end = try await client.eventPage().end
            let newest = try await Program.run(["events", "--redis", redis.unixURL, "--limit", "2"])
            #expect(newest.code == 0 && newest.output.split(separator: "\n").count == 2, "\(newest)")
            #expect(newest.output.contains("member.updated") && newest.output.contains("ledger / node-1"))
            #expect(newest.output.contains("version 30, zone a, weight 30"))
            #expect(newest.error.contains("go on with --after \(end)"))
            let all = try await Program.run(["events", "--redis", redis.unixURL, "--after", "0:0", "--json"])
            let stored = try await client.eventPage(after: .start, limit: 1000).events
            #expect(
                all.output.split(separator: "\n").map { String($0) }
                    == stored.map { String(decoding: $0.json, as: UTF8.self) })
            let joined = try await Program.run(
                ["events", "--redis", redis.unixURL, "--type", "member.joined", "--group", "ledger"])
            #expect(joined.output.split(separator: "\n").count == 1 && joined.output.contains("member.joined"))
            let rest = try await Program.run(
                ["events", "--redis", redis.unixURL, "--after", "\(end.generation):27", "--limit", "2", "--json"])
            #expect(rest.output.contains(#""sequence":28,"#) && rest.output.contains(#""sequence":29,"#))
            #expect(!rest.output.contains(#""sequence":30,"#) && rest.error.contains("--after \(end.generation):29"))
            let lost = try await Program.run(["events", "--redis", redis.unixURL, "--after", "other:3"])
            #expect(lost.code == 1 && lost.error.contains("goes on after \(end)"), "\(lost)")
            for bad in [["--after", "x"], ["--limit", "-1"], ["--follow", "--after", "0:0", "--limit", "3"]] {
                #expect(try await Program.run(["events", "--redis", redis.unixURL] + bad).code == 64)
            }
        }
    }

    @Test func `follow goes on over a killed connection until Ctrl-C, and its cursor goes on after that`() async throws
    {
        try await withLog { redis, client, member in
            let first = try await Program.start(["events", "-f", "--json", "--after", "0:0", "--redis", redis.unixURL])
            try await eventually("the first comes", within: .seconds(60)) { first.output.contains("member.joined") }
            for weight in 2...10 {
                try await member.update(weight: weight)
                if weight == 5 { try await redis.cli("CLIENT", "KILL", "TYPE", "pubsub") }
            }
            try await eventually("all come", within: .seconds(60)) { first.output.contains(#""sequence":10,"#) }
            first.process.signal(SIGINT)
            #expect(await first.process.wait() == .code(0))
            let end = try await client.eventPage().end
            #expect(first.error.contains("go on with --after \(end)"), "\(first.error)")
            for weight in 11...20 { try await member.update(weight: weight) }
            let second = try await Program.start(
                ["events", "-f", "--json", "--after", "\(end)", "--redis", redis.unixURL])
            try await eventually("the rest comes", within: .seconds(60)) { second.output.contains(#""sequence":20,"#) }
            second.process.signal(SIGTERM)
            #expect(await second.process.wait() == .code(0))
            let stored = try await client.eventPage(after: .start, limit: 1000).events
            #expect(
                first.output + second.output == stored.map { String(decoding: $0.json, as: UTF8.self) + "\n" }.joined())
        }
    }
}
