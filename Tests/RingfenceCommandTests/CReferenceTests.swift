// SPDX-License-Identifier: Apache-2.0
import Hiredis
import TestSupport
import Testing

@testable import RingfenceCommand

/// The yardstick of the benchmarks has to measure work that was done.
@Suite struct CReferenceTests {
    private func pair(_ sha: String, released: String = "1") -> CReference.Pair {
        CReference.Pair(
            acquire: .init(arguments: ["SET", "k{client}", "{nonce}", "NX", "PX", "10000"], expected: "OK"),
            release: .init(arguments: ["EVALSHA", sha, "1", "k{client}", "{nonce}"], expected: released))
    }

    private let script = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

    @Test(arguments: [CReference.Loop.async(clients: 8), .blocking])
    func `pairs are done by Redis, over TCP and over a unix socket`(loop: CReference.Loop) async throws {
        try await withRedis { redis in
            for url in [redis.url, redis.unixURL] {
                let reference = try CReference(try RedisConfiguration(url: url))
                let pace = try await reference.pairsPerSecond(
                    pair(try await reference.load(script)), loop, seconds: 0.1)
                #expect(pace > 0)
            }
        }
    }

    @Test(arguments: [CReference.Loop.async(clients: 8), .blocking])
    func `a wrong answer ends the run with what was wrong`(loop: CReference.Loop) async throws {
        try await withRedis { redis in
            let reference = try CReference(try RedisConfiguration(url: redis.unixURL))
            let wrong = pair(try await reference.load(script), released: "2")
            let failure = await #expect(throws: CommandFailure.self) {
                _ = try await reference.pairsPerSecond(wrong, loop, seconds: 0.1)
            }
            #expect(failure?.description == "the C reference failed: EVALSHA: expected 2, got 1")
        }
    }

    @Test func `a server that needs a password is logged in to`() async throws {
        try await withRedis(["--requirepass", "secret"]) { redis in
            var configuration = try RedisConfiguration(url: redis.unixURL)
            configuration.password = "secret"
            let reference = try CReference(configuration)
            let pace = try await reference.pairsPerSecond(
                pair(try await reference.load(script)), .async(clients: 2), seconds: 0.05)
            #expect(pace > 0)
            configuration.password = "wrong"
            await #expect(throws: CommandFailure.self) {
                _ = try await CReference(configuration).load(script)
            }
        }
    }

    @Test func `the C loop and the library send the same script calls`() async throws {
        try await withRedis { redis in
            let configuration = try RedisConfiguration(url: redis.unixURL)
            let reference = try CReference(configuration)
            let pace = try await reference.pairsPerSecond(
                try await LockPairs.pair(reference), .async(clients: 4), seconds: 0.1)
            #expect(pace > 0)
        }
    }
}
