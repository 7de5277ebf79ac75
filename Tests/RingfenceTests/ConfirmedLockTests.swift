// SPDX-License-Identifier: Apache-2.0

import Hiredis
import Ringfence
import RingfencePlatform
import TestSupport
import Testing

@Suite struct ConfirmedLockTests {
    private let one = LockOptions(durability: .confirmed(replicas: 1, within: .seconds(3)))
    /// Refused soon, and still long enough for a replica that works on a busy machine.
    private let oneLater = LockOptions(durability: .confirmed(replicas: 1, within: .milliseconds(1500)))
    private let oneSoon = LockOptions(durability: .confirmed(replicas: 1, within: .milliseconds(50)))

    /// A primary with a replica in step.
    private func withReplica(
        _ body: @Sendable (RedisServer, RedisServer, Observer) async throws -> Void
    ) async throws {
        try await withObservedRedis { primary, observer in
            try await withRedis(["--replicaof", "127.0.0.1", "\(primary.port)"]) { replica in
                try await eventually("replica in step") { try await observer.send("WAIT", "1", "10") == .integer(1) }
                try await body(primary, replica, observer)
            }
        }
    }

    @Test func `a confirmed lock is on the replica before its holder hears of it`() async throws {
        try await withReplica { primary, replica, observer in
            try await withClient(primary.unixURL) { client in
                for _ in 0..<20 {
                    let lease = try await client.acquire("a", options: one)
                    #expect(try await replica.cli("GET", "ringfence:{default}:lock:a") == lease.token)
                    try await lease.renew()
                    try await lease.release()
                }
                #expect(try await observer.isClean("a"))
            }
        }
    }

    @Test func `grants that are confirmed at the same time share their round trips to the replicas`() async throws {
        try await withReplica { primary, _, observer in
            try await withClient(primary.unixURL) { client in
                func waits() async throws -> Int {
                    let stats = try await observer.send("INFO", "commandstats").text ?? ""
                    let calls = stats.split(separator: "cmdstat_wait:calls=").dropFirst().first?.prefix { $0.isNumber }
                    return calls.flatMap { Int($0) } ?? 0
                }
                try await client.acquire("first", options: one).release()
                let before = try await waits()
                let options = one
                let leases = try await withThrowingTaskGroup(of: Lease.self) { tasks in
                    for index in 0..<200 {
                        tasks.addTask { try await client.acquire("lock \(index)", ttl: .seconds(60), options: options) }
                    }
                    return try await tasks.reduce(into: [Lease]()) { $0.append($1) }
                }
                let asked = try await waits() - before
                #expect(asked < 100, "200 grants were confirmed by \(asked) WAITs")
                for lease in leases { try await lease.release() }
                #expect(try await observer.isClean("lock 7"))
            }
        }
    }

    @Test func `confirmed hand-offs and passes are on the replica too`() async throws {
        try await withReplica { primary, replica, observer in
            try await withClients(primary.unixURL, 2) { clients in
                let order = Shared<[Int64]>([])
                let options = one
                try await withThrowingTaskGroup { group in
                    for task in 0..<12 {
                        group.addTask {
                            try await clients[task % 2].withLock("a", wait: .seconds(60), options: options) { lease in
                                let value = try await replica.cli("GET", "ringfence:{default}:lock:a")
                                #expect(value == lease.token)
                                order.change { $0.append(lease.fence) }
                            }
                        }
                    }
                    try await group.waitForAll()
                }
                #expect(order.value.count == 12)
                #expect(order.value == order.value.sorted())
                #expect(try await observer.isClean("a"))
            }
        }
    }

    @Test func `without a replica a confirmed lock is refused and leaves nothing`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                for wait in [Duration.zero, .seconds(60)] {
                    let error = await failure { try await client.acquire("a", wait: wait, options: oneSoon) }
                    #expect(error?.code == .lockNotConfirmed)
                    #expect(error?.effect == RingfenceError.Effect.none)
                    try await eventually { try await observer.isClean("a") }
                }
            }
        }
    }

    @Test func `with its replica frozen a confirmed lock is refused, leaves nothing, and works when it thaws`()
        async throws
    {
        try await withReplica { primary, replica, observer in
            try await withClient(primary.unixURL) { client in
                try await client.withLock("a", options: one) { _ in }
                await replica.kill(SIGSTOP)
                let error = await failure { try await client.acquire("a", wait: .seconds(60), options: oneSoon) }
                #expect(error?.code == .lockNotConfirmed)
                try await eventually { try await observer.isClean("a") }
                // Others' locks go on meanwhile: WAIT stops only what stands behind it on its own connection.
                try await client.withLock("b") { _ in }
                await replica.kill(SIGCONT)
                try await client.withLock("a", options: one) { _ in }
                #expect(try await observer.isClean("a"))
            }
        }
    }

    @Test func `a hand-off or a pass that is not confirmed is refused, and the next waiter is asked`() async throws {
        try await withReplica { primary, replica, observer in
            try await withClients(primary.unixURL, 2) { clients in
                // The same options: only then do the holder and its successor share one place, and nothing is asked of
                // Redis.
                let (options, plain) = (oneLater, LockOptions())
                let first = try await clients[0].acquire("a", wait: .seconds(60), options: options)
                async let passed = failure { try await clients[0].acquire("a", wait: .seconds(60), options: options) }
                try await eventually { clients[0].waiterCount == 1 }
                async let handed = failure { try await clients[1].acquire("a", wait: .seconds(60), options: options) }
                try await eventually { try await observer.send("ZCARD", "ringfence:{default}:queue:a") == .integer(1) }
                await replica.kill(SIGSTOP)
                try await first.release()
                #expect(await passed?.code == .lockNotConfirmed)
                #expect(await handed?.code == .lockNotConfirmed)
                try await eventually { try await observer.isClean("a") }
                let last = try await clients[1].acquire("a", wait: .seconds(60), options: plain)
                try await last.release()
                await replica.kill(SIGCONT)
            }
        }
    }
}
