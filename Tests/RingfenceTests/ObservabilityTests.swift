// SPDX-License-Identifier: Apache-2.0

import CoreMetrics
import Hiredis
import Logging
import MetricsTestKit
import Ringfence
import TestSupport
import Testing

@Suite struct ObservabilityTests {
    @Test func `grants, waits, losses and failures are counted`() async throws {
        try await withObservedRedis { server, observer in
            let metrics = TestMetrics()
            let client = try withMetricsFactory(metrics) {
                try RingfenceClient(.init(url: server.unixURL), logger: testLogger)
            }
            func total(_ name: String) -> Int64 { metrics.counterTotal(label: "ringfence_\(name)_total") }

            for _ in 0..<3 { try await client.withLock("a") { _ in } }
            #expect(total("lock_grants") == 3)
            #expect(total("lock_releases") == 3)
            let lease = try await client.acquire("a", ttl: .milliseconds(900))
            #expect(try await client.tryAcquire("a") == nil)
            #expect(total("lock_busy") == 1)
            try await eventually("renewed") {
                (try? metrics.expectTimer("ringfence_lease_margin_seconds").values.count) ?? 0 > 0
            }
            try await observer.send("DEL", "ringfence:{default}:lock:a")
            try await eventually { !lease.isHeld }
            #expect(total("lock_lost") == 1)
            try await observer.send("CONFIG", "SET", "maxmemory", "1")
            _ = await failure { try await client.tryAcquire("b") }
            #expect(total("lock_failures") == 1)
            #expect(try metrics.expectTimer("ringfence_lock_wait_seconds").values.count == 4)
            #expect(try metrics.expectTimer("ringfence_lock_hold_seconds").values.count == 3)
            await client.shutdown()
        }
    }

    @Test func `passing a lock on within a process is counted`() async throws {
        try await withRedis { server in
            let metrics = TestMetrics()
            let client = try withMetricsFactory(metrics) {
                try RingfenceClient(.init(url: server.unixURL), logger: testLogger)
            }
            let first = try await client.acquire("a")
            async let second = client.acquire("a")
            try await eventually { client.waiterCount == 1 }
            try await first.release()
            try await second.release()
            #expect(metrics.counterTotal(label: "ringfence_lock_passes_total") == 1)
            await client.shutdown()
        }
    }

    @Test func `logs say which lock, and never a token or a password`() async throws {
        try await withObservedRedis(["--requirepass", "open-sesame"]) { server, _ in
            try await withRedisPassword(server, "open-sesame") { url, observer in
                let log = Shared<[String]>([])
                let logger = Logger(label: "captured") { _ in Capture(lines: log) }
                let client = try RingfenceClient(.init(url: url), logger: logger)
                let tokens = Shared<[String]>([])
                // A lost lease, a taken one, a killed connection, a refused and a cancelled call, a grant elsewhere.
                let lease = try await client.acquire("account/1", ttl: .milliseconds(150))
                tokens.change { $0.append(lease.token) }
                try await observer.send("DEL", "ringfence:{default}:lock:account/1")
                try await eventually { !lease.isHeld }
                let taken = try await client.acquire("account/2", ttl: .seconds(60))
                tokens.change { $0.append(taken.token) }
                _ = try await client.forceRelease("account/2", actor: "ops", reason: "test")
                try await eventually { !taken.isHeld }
                let kept = try await client.acquireGrant(["account/3"], ttl: .seconds(60))
                tokens.change { $0.append(kept.token) }
                let waiting = Task { try await client.acquire("account/3", wait: .seconds(60)) }
                try await eventually { client.waiterCount == 1 }
                try await observer.send("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                try await observer.send("CLIENT", "KILL", "TYPE", "pubsub")
                try await eventually { (try? await client.ping()) != nil }
                waiting.cancel()
                _ = await failure { try await waiting.value }
                _ = await failure { try await client.release(["account/1"], token: kept.token) }
                try await observer.send("CONFIG", "SET", "requirepass", "changed")
                try await observer.send("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                let refused = await failure { try await client.tryAcquire("account/4") }
                #expect("\(String(describing: refused))".contains("open-sesame") == false)
                await client.shutdown()

                let lines = log.value
                #expect(
                    lines.contains {
                        $0.contains("lease lost") && $0.contains("account/1") && $0.contains("\(lease.fence)")
                    })
                #expect(lines.contains { $0.contains("taken away") && $0.contains("account/2") })
                #expect(lines.allSatisfy { $0.contains("ringfence.process") && $0.contains("ringfence.namespace") })
                for line in lines {
                    #expect(!line.contains("open-sesame"))
                    for token in tokens.value {
                        // The secret is the third part of the nonce.
                        let secret = token.split(separator: ":")[1].split(separator: "-")[2]
                        #expect(!line.contains(secret), "\(line)")
                    }
                }
            }
        }
    }

    private func withRedisPassword(
        _ server: RedisServer, _ password: String, _ body: @Sendable (String, Observer) async throws -> Void
    ) async throws {
        let url = "redis://:\(password)@127.0.0.1:\(server.port)"
        let observer = try Observer(url)
        try await body(url, observer)
        await observer.close()
    }

    @Test func `what is printed of a lease and an error holds no secret`() async throws {
        try await withRingfence { _, client in
            let lease = try await client.acquire("a")
            let secret = lease.token.split(separator: ":")[1].split(separator: "-")[2]
            #expect(!"\(lease)".contains(secret))
            #expect("\(lease)".contains("\(lease.fence)"))
            #expect("\(lease)".contains(lease.id))
            try await lease.release()
        }
    }
}

/// Keeps each line with all its metadata.
struct Capture: LogHandler {
    let lines: Shared<[String]>
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.trace

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let all = metadata.merging(event.metadata ?? [:]) { $1 }
        lines.change { $0.append("\(event.level) \(event.message) \(all)") }
    }
}
