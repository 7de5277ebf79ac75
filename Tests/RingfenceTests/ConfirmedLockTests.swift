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
                    for try await _ in group {}
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

    // MARK: All that are connected

    private let all = LockOptions(durability: .confirmed(replicas: .all, within: .seconds(3)))
    private let allSoon = LockOptions(durability: .confirmed(replicas: .all, within: .milliseconds(100)))

    @Test func `all replicas have a lock before its holder hears of it, also one that came just now`() async throws {
        try await withReplica { primary, replica, observer in
            try await withClient(primary.unixURL) { client in
                func holds(_ servers: [RedisServer]) async throws {
                    let lease = try await client.acquire("a", options: all)
                    for server in servers {
                        #expect(try await server.cli("GET", "ringfence:{default}:lock:a") == lease.token)
                    }
                    try await lease.release()
                }
                try await holds([replica])
                try await withRedis(["--replicaof", "127.0.0.1", "\(primary.port)"]) { second in
                    try await eventually("both in step") {
                        try await observer.send("WAIT", "2", "10") == .integer(2)
                    }
                    for _ in 0..<5 { try await holds([replica, second]) }
                }
                // It is gone again, and nobody waits for it.
                try await eventually("the second is dropped") {
                    try await observer.send("INFO", "replication").text?.contains("connected_slaves:1") == true
                }
                try await holds([replica])
                #expect(try await observer.isClean("a"))
            }
        }
    }

    @Test func `one frozen replica of two refuses what all must confirm, and not what one must`() async throws {
        try await withReplica { primary, _, observer in
            try await withRedis(["--replicaof", "127.0.0.1", "\(primary.port)"]) { frozen in
                try await eventually("both in step") { try await observer.send("WAIT", "2", "10") == .integer(2) }
                try await withClient(primary.unixURL) { client in
                    // Some replicas answer late once, when they have just come.
                    try await client.withLock("a", options: all) { _ in }
                    await frozen.kill(SIGSTOP)
                    let error = await failure { try await client.acquire("a", wait: .seconds(60), options: allSoon) }
                    #expect(error?.code == .lockNotConfirmed && error?.effect == RingfenceError.Effect.none)
                    #expect(
                        error?.message.contains("1 of 2 connected replicas acknowledged it within 100 ms") == true,
                        "\(error?.message ?? "")")
                    try await eventually { try await observer.isClean("a") }
                    try await client.withLock("a", options: one) { _ in }
                    await frozen.kill(SIGCONT)
                    try await client.withLock("a", options: all) { _ in }
                }
            }
        }
    }

    @Test func `a primary without replicas says that it has none, at once`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let error = await failure { try await client.acquire("a", wait: .seconds(60), options: all) }
                #expect(error?.code == .lockNotConfirmed)
                #expect(error?.message.contains("has no replica") == true, "\(error?.message ?? "")")
                try await eventually { try await observer.isClean("a") }
            }
        }
    }

    @Test func `where the replicas may not be counted nothing is held`() async throws {
        try await withReplica { primary, _, observer in
            try await primary.cli("ACL", "SETUSER", "default", "-info")
            try await withClient(primary.unixURL) { client in
                let error = await failure { try await client.acquire("a", wait: .seconds(60), options: all) }
                #expect(error?.code == .coordinatorRefused)
                #expect(error?.message.contains("INFO") == true, "\(error?.message ?? "")")
                try await eventually { try await observer.send("EXISTS", "ringfence:{default}:lock:a") == .integer(0) }
            }
        }
    }

    @Test func `a connection that breaks between the grant and the count confirms nothing`() async throws {
        try await withReplica { primary, _, observer in
            let proxy = try await TCPProxy.start(to: primary)
            try await withClient(proxy.url) { client in
                try await client.withLock("warm", options: all) { _ in }
                // At every byte of the grant, the INFO behind it, and the WAIT; what is held is held by both.
                for cut in stride(from: 40, through: 700, by: 60) {
                    proxy.update { $0.clientToServer.cutAfter = cut }
                    let lease = try? await client.acquire("a", wait: .seconds(20), options: all)
                    proxy.update { $0.clientToServer.cutAfter = nil }
                    if let lease {
                        #expect(try await observer.send("GET", "ringfence:{default}:lock:a").text == lease.token)
                        try await lease.release()
                    }
                }
                try await eventually { try await observer.isClean("a") }
            }
        }
    }
}
