// SPDX-License-Identifier: Apache-2.0
//
// The line before a lock when something goes wrong in it: an inbox that blinks, a Redis that starts again, a process
// that is cut off, dead places. First come, first served, and nobody waits for one that is gone more than once.

import Hiredis
import TestSupport
import Testing

@testable import Ringfence
@testable import RingfenceCore

@Suite struct LineTests {
    /// Queues up all clients but the first behind a lock that the first holds, does `meanwhile`, releases, and returns
    /// in which order they got it.
    private func order(
        _ clients: [RingfenceClient], _ observer: Observer, _ meanwhile: @Sendable @escaping () async throws -> Void
    ) async throws -> [Int] {
        let order = Shared<[Int]>([])
        let first = try await clients[0].acquire("a", ttl: .seconds(600))
        try await withThrowingTaskGroup { group in
            for number in 1..<clients.count {
                group.addTask {
                    try await clients[number].withLock("a", ttl: .seconds(60), wait: .seconds(600)) { _ in
                        order.change { $0.append(number) }
                    }
                }
                try await eventually {
                    try await observer.send("ZCARD", "ringfence:{default}:queue:a") == .integer(Int64(number))
                }
            }
            try await meanwhile()
            try await first.release()
            for try await _ in group {}
        }
        return order.value
    }

    @Test func `a blink of every inbox just before the release costs nobody its place`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 6) { clients in
                let order = try await order(clients, observer) {
                    try await observer.send("CLIENT", "KILL", "TYPE", "pubsub")
                }
                #expect(order == Array(1..<clients.count))
                #expect(try await observer.isClean("a"))
            }
        }
    }

    @Test func `the order is kept over a restart of Redis with its data`() async throws {
        try await withObservedRedis(["--appendonly", "yes"]) { server, observer in
            try await withClients(server.unixURL, 6) { clients in
                let order = try await order(clients, observer) { try await server.restart() }
                #expect(order == Array(1..<clients.count))
            }
        }
    }

    @Test(arguments: [1, 2])
    func `a line takes as many as its limit says, and who finds no place holds nothing and is told the setting`(
        names count: Int
    ) async throws {
        let names = ["a", "b"].prefix(count).map(\.self)
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 4) { clients in
                try await withClient(server.unixURL) {
                    $0.limits.waiters = 2
                } _: { client in
                    let first = try await clients[0].acquire("a", ttl: .seconds(600))
                    func queue(_ client: RingfenceClient) -> Task<Void, any Error> {
                        Task { try await client.withLock("a", wait: .seconds(600)) { _ in } }
                    }
                    func stands(_ places: Int64) async throws {
                        try await eventually {
                            try await observer.send("ZCARD", "ringfence:{default}:queue:a") == .integer(places)
                        }
                    }
                    let second = queue(clients[1])
                    try await stands(1)
                    let third = queue(clients[2])
                    try await stands(2)
                    let refused = await failure {
                        _ = try await client.acquire(names, ttl: .seconds(60), wait: .seconds(600))
                    }
                    #expect(refused?.code == .limitReached && refused?.effect == RingfenceError.Effect.none)
                    #expect(refused?.isRetriable == true)
                    #expect(
                        refused?.message.contains("'a'") == true && refused?.message.contains("limits.waiters") == true)
                    try await stands(2)
                    if count > 1 {
                        #expect(try await observer.send("EXISTS", "ringfence:{default}:queue:b") == .integer(0))
                        #expect(try await observer.send("KEYS", "ringfence:{default}:place:*").array?.isEmpty == true)
                    }
                    #expect(try await client.tryAcquire("a") == nil, "who does not wait needs no place")
                    third.cancel()
                    _ = await third.result
                    try await stands(1)
                    async let last: Void = client.withLock(names, ttl: .seconds(60), wait: .seconds(600)) { _ in }
                    try await stands(2)
                    try await first.release()
                    try await second.value
                    try await last
                    #expect(try await observer.isClean("a"))
                }
            }
        }
    }

    /// Without anybody who asks for them the dead would keep the line full.
    @Test func `places of processes that are gone keep nobody out`() async throws {
        try await withObservedRedis { server, observer in
            for number in 0..<3 {
                try await observer.send(
                    "ZADD", "ringfence:{default}:queue:a", "\(1000 + number)", "gone\(number)-1-s\nold\n60000\na")
                try await observer.send(
                    "SET", "ringfence:{default}:unanswered:gone\(number)", "1000", "PX", "600000")
            }
            try await withClient(server.unixURL) {
                $0.limits.waiters = 2
            } _: { client in
                try await client.withLock("a", wait: .seconds(600)) { _ in }
                #expect(try await observer.isClean("a"))
            }
        }
    }

    @Test func `a waiter whose place was dropped comes back to where it stood`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 4) { clients in
                let order = try await order(clients, observer) {
                    // As if its process had been taken for gone.
                    let places = try await observer.send("ZRANGE", "ringfence:{default}:queue:a", "0", "0")
                    let place = try #require(places.array?.first?.text)
                    try await observer.send("ZREM", "ringfence:{default}:queue:a", place)
                    try await eventually {
                        try await observer.send("ZRANK", "ringfence:{default}:queue:a", place) == .integer(0)
                    }
                }
                #expect(order == [1, 2, 3])
            }
        }
    }

    @Test func `a process that is cut off holds a line up once, not once a place`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let holder = try await clients[0].acquire("a", ttl: .seconds(600))
                // Redis goes on to believe that it listens, as with a connection that was cut in between.
                let dead = try await DeadProcess(server, places: 30, on: ["a"])
                async let living = clients[1].acquire("a", ttl: .seconds(60), wait: .seconds(600))
                try await eventually { try await clients[0].inspect("a").queueLength == 31 }
                try await holder.release()
                try await living.release()
                let grants = try await clients[0].audit(limit: 1000).filter { $0.owner == "dead" }
                #expect(grants.count == 1)
                #expect(try await observer.isClean("a"))
                await dead.close()
            }
        }
    }

    @Test func `waiters of processes that are dead together hold a line up once`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let holder = try await clients[0].acquire("a", ttl: .seconds(600))
                for number in 0..<20 {
                    let dead = try await DeadProcess(server, "dead\(number)", places: 1, on: ["a"])
                    await dead.close()
                }
                // A connection that was closed is one that listens until Redis has looked.
                try await eventually("Redis knows that none of them listens") {
                    try await observer.send("PUBSUB", "CHANNELS", "ringfence:{default}:inbox:dead*") == .array([])
                }
                async let living = clients[1].acquire("a", ttl: .seconds(60), wait: .seconds(600))
                try await eventually { try await clients[0].inspect("a").queueLength == 21 }
                try await holder.release()
                try await living.release()
                let grants = try await clients[0].audit(limit: 1000).filter { $0.owner == "dead" }
                #expect(grants.count == 1)
                #expect(try await observer.isClean("a"))
            }
        }
    }

    @Test func `a thousand dead places with many names are dropped a few at a call`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let names = (0..<32).map { "n\($0)" }.sortedByBytes
                let holder = try await clients[0].acquire(names, ttl: .seconds(600))
                let dead = try await DeadProcess(server, places: 1000, on: names)
                await dead.close()
                // It owes an answer since long ago.
                try await observer.send("SET", "ringfence:{default}:unanswered:dead", "1")
                async let living = clients[1].acquire(names, ttl: .seconds(60), wait: .seconds(600))
                try await eventually { try await clients[0].inspect("n0").queueLength == 1001 }
                try await observer.send("CONFIG", "RESETSTAT")
                let token = holder.token
                try await clients[0].release(names, token: token)
                let statistics = try await observer.send("INFO", "commandstats").text ?? ""
                let removals = statistics.split(whereSeparator: \.isNewline).first {
                    $0.hasPrefix("cmdstat_zrem:calls=")
                }
                let count = removals.flatMap { Int($0.dropFirst(19).prefix { $0 != "," }) } ?? 0
                #expect(count > 0 && count < 8000, "\(count) of 32,000 in one call")
                try await living.release()
                for name in names { #expect(try await observer.isClean(name)) }
                #expect(try await observer.send("KEYS", "*:place:*") == .array([]))
            }
        }
    }

    @Test func `a place for many long names says them once`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let names = (10..<42).map { "\($0)" + String(repeating: "n", count: 510) }
                let holder = try await clients[0].acquire(names, ttl: .seconds(600))
                func memory() async throws -> Int {
                    let text = try await observer.send("INFO", "memory").text ?? ""
                    let line = text.split(whereSeparator: \.isNewline).first { $0.hasPrefix("used_memory_dataset:") }
                    return line.flatMap { Int($0.dropFirst(20)) } ?? 0
                }
                let before = try await memory()
                let waiters = try await DeadProcess(server, places: 20, on: names)
                let each = (try await memory() - before) / 20
                #expect(each > 10_000 && each < 100_000, "\(each) bytes for a place")
                try await holder.release()
                await waiters.close()
            }
        }
    }
}

/// Waiters of a process that listens and never answers; when it is closed, it does not listen either.
private final class DeadProcess: Sendable {
    private let subscriber: RedisSubscriber

    init(_ server: RedisServer, _ process: String = "dead", places: Int, on names: [String]) async throws {
        let scripts = LockScripts(keys: Keyspace(namespace: "default"), auditLength: 1000)
        let configuration = try RedisConfiguration(url: server.unixURL)
        let isHeard = Shared(false)
        subscriber = RedisSubscriber(
            configuration, channels: [scripts.keys.inbox(process)], logger: testLogger
        ) { if case .subscribed = $0 { isHeard.change { $0 = true } } }
        subscriber.start()
        try await eventually("it listens") { isHeard.value }
        let client = RedisClient(configuration, logger: testLogger)
        let terms = LockTerms(owner: "dead", ttl: 600 * .second)
        let mark = names.count > 1 ? "x\(names.count)" : ""
        for number in 0..<places {
            let call = scripts.call(
                names, .acquire(nonce: "\(process)-\(number)\(mark)-s", terms, queue: .last))
            let reply = try await client.run(
                call.script, keys: call.keys, arguments: call.arguments, deadline: .seconds(60), call.encode)
            guard case .queued = LockScripts.answer(reply) else { throw TestSupportError("not queued: \(reply)") }
        }
        await client.close()
    }

    func close() async { await subscriber.close() }
}
