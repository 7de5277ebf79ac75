// SPDX-License-Identifier: Apache-2.0
import Hiredis
import Logging
import Ringfence
import RingfenceConsole
import TestSupport
import Testing

@testable import RingfenceBench

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
                let pace = try await reference.run(
                    pair(try await reference.load(script)), loop, seconds: 0.1)
                #expect(pace.perSecond > 0)
            }
        }
    }

    @Test(arguments: [CReference.Loop.async(clients: 8), .blocking])
    func `a wrong answer ends the run with what was wrong`(loop: CReference.Loop) async throws {
        try await withRedis { redis in
            let reference = try CReference(try RedisConfiguration(url: redis.unixURL))
            let wrong = pair(try await reference.load(script), released: "2")
            let failure = await #expect(throws: CommandFailure.self) {
                _ = try await reference.run(wrong, loop, seconds: 0.1)
            }
            #expect(failure?.description == "the C reference failed: EVALSHA: expected 2, got 1")
        }
    }

    @Test func `a server that needs a password is logged in to`() async throws {
        try await withRedis(["--requirepass", "secret"]) { redis in
            var configuration = try RedisConfiguration(url: redis.unixURL)
            configuration.password = "secret"
            let reference = try CReference(configuration)
            let pace = try await reference.run(
                pair(try await reference.load(script)), .async(clients: 2), seconds: 0.05)
            #expect(pace.perSecond > 0)
            configuration.password = "wrong"
            await #expect(throws: CommandFailure.self) {
                _ = try await CReference(configuration).load(script)
            }
        }
    }

    @Test func `the C loop and the library send the same script calls`() async throws {
        try await withRedis(["--slowlog-log-slower-than", "0", "--slowlog-max-len", "4096"]) { redis in
            let configuration = try RedisConfiguration(url: redis.unixURL)
            let client = RedisClient(configuration, logger: Logger(label: "test"))
            let locks = try RingfenceClient(
                RingfenceConfiguration(
                    url: redis.unixURL, namespace: LockPairs.namespace, owner: LockPairs.owner))
            // The first acquires of a process, before it hears its inbox, do not queue and say so.
            var ours: [String: [String]] = [:]
            for _ in 0..<1000 where ours["acquire"]?.last?.isEmpty ?? true {
                try await locks.acquire("bench-0").release()
                ours = try await calls(client)
            }

            let reference = try CReference(configuration)
            let pair = try await LockPairs.pair(reference)
            _ = try await client.send { writer in
                writer.begin(2)
                writer.argument("SLOWLOG")
                writer.argument("RESET")
            }
            _ = try await reference.run(pair, .async(clients: 1), seconds: 0.01)
            let theirs = try await calls(client)

            #expect(ours.keys.sorted() == ["acquire", "release"])
            #expect(theirs == ours)
            await locks.shutdown()
            await client.close()
        }
    }

    /// The newest call of the lock script for each verb, as Redis logged it, with every number and nonce made alike.
    private func calls(_ client: RedisClient) async throws -> [String: [String]] {
        let log = try await client.send { writer in
            writer.begin(3)
            writer.argument("SLOWLOG")
            writer.argument("GET")
            writer.argument("4096")
        }
        var calls: [String: [String]] = [:]
        for entry in log.array ?? [] {
            let words = (entry.array?[3].array ?? []).compactMap(\.text)
            guard words.first == "EVALSHA", words.count > 9, calls[words[8]] == nil else { continue }
            calls[words[8]] = words.enumerated().map { index, word in
                index < 11 ? word : word.replacing(/-[0-9]+-/, with: "-n-").replacing(/[0-9a-f]{4,}/, with: "#")
            }
        }
        return calls
    }
}

@Suite struct ReferenceRingTests {
    @Test func `Envoy's ring in C gives every host its part, and looks many keys up as it does one`() throws {
        let ring = try ReferenceRing(10, points: 128)
        var counts = [Int](repeating: 0, count: 10)
        for number in 0..<5_000 { counts[ring.owner(of: "txn:\(number)")] += 1 }
        #expect(counts.allSatisfy { (250...800).contains($0) })
        // Keys that overlap, as the benchmark has them.
        let text = (0..<200).map { String(UInt8(ascii: "0") + UInt8($0 * $0 % 10)) }.joined().prefix(200)
        let bytes = Array(text.utf8)
        let one = (50..<150).reduce(0) { sum, start in
            sum + ring.owner(of: String(decoding: bytes[start..<(start + RingLookups.keyLength)], as: UTF8.self))
        }
        #expect(bytes.withUnsafeBytes { ring.lookups($0, 50..<150) } == one)
    }
}
