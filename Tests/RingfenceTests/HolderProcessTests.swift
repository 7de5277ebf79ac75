// SPDX-License-Identifier: Apache-2.0
//
// Holders in processes of their own, killed and frozen. Times are Redis' own (a fence is the µs at which it was given),
// so what is measured is the lock and not how busy the machine is with tests.

import Hiredis
import Ringfence
import RingfencePlatform
import TestSupport
import Testing

@Suite struct HolderProcessTests {
    private static let ttl = 400

    /// A holder that has the lock `a`, and its fence.
    private func withHolder<Result: Sendable>(
        _ server: RedisServer, _ body: (TalkingProcess, Int64) async throws -> Result
    ) async throws -> Result {
        let holder = try TalkingProcess.start("TestHolder", [server.url, "a", "\(Self.ttl)"])
        do {
            let said = try #require(try await holder.line()).split(separator: " ")
            try #require(said.first == "held")
            let result = try await body(holder, try #require(Int64(said[1])))
            try await holder.end()
            return result
        } catch {
            try await holder.end()
            throw error
        }
    }

    @Test func `a killed holder's lock passes to the waiter within a second of its deadline`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                try await withHolder(server) { holder, fence in
                    async let waiting = client.acquire("a", ttl: .seconds(30), wait: .seconds(60))
                    try await eventually { try await client.inspect("a").queueLength == 1 }
                    holder.signal(SIGKILL)
                    let killed = try await observer.now()
                    let lease = try await waiting
                    #expect(lease.fence > fence)
                    let grace = 10 + Self.ttl / 100
                    #expect(lease.fence - killed < Int64(Self.ttl + grace + 1000) * 1000)
                    try await lease.release()
                    #expect(try await observer.isClean("a"))
                }
            }
        }
    }

    @Test func `a holder frozen past its lease knows it is lost before it does anything else`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                try await withHolder(server) { holder, fence in
                    holder.tell("check")
                    #expect(try await holder.line() == "check yes")
                    async let waiting = client.acquire("a", ttl: .seconds(30), wait: .seconds(60))
                    try await eventually { try await client.inspect("a").queueLength == 1 }
                    holder.signal(SIGSTOP)
                    let lease = try await waiting
                    #expect(lease.fence > fence)
                    // The order lies in the pipe before the process thaws.
                    holder.tell("check")
                    holder.signal(SIGCONT)
                    var said: [String] = []
                    while said.count < 2, let line = try await holder.line() { said.append(line) }
                    #expect(said.map { $0.split(separator: " ")[0] }.sorted() == ["cancelled", "check"])
                    #expect(said.contains("check no"))
                    holder.tell("end")
                    #expect(try await holder.line() == "ended lease.lost")
                    // What it did on its way out did not touch the next holder's lock.
                    #expect(try await observer.value(of: "a") == lease.token)
                    try await lease.renew()
                    try await lease.release()
                    #expect(try await observer.isClean("a"))
                }
            }
        }
    }

    @Test func `a holder frozen for less than its lease goes on holding`() async throws {
        try await withObservedRedis { server, observer in
            let holder = try TalkingProcess.start("TestHolder", [server.url, "a", "60000"])
            try #require(try await holder.line()?.hasPrefix("held ") == true)
            holder.signal(SIGSTOP)
            let value = try await observer.value(of: "a")
            holder.signal(SIGCONT)
            holder.tell("check")
            #expect(try await holder.line() == "check yes")
            #expect(try await observer.value(of: "a") == value)
            holder.tell("end")
            #expect(try await holder.line() == "ended none")
            #expect(try await holder.line() == nil)
            #expect(try await observer.isClean("a"))
            try await holder.end()
        }
    }

    @Test func `a body is cancelled before its lock can be another's, with every thread of the pool blocked`()
        async throws
    {
        // On a busy machine a thread may wake late by more than the margin, once; it is always late if it must wait for
        // the pool, which stays blocked until the body is cancelled.
        let lateness = Shared<[Int]>([])
        for _ in 0..<5 where lateness.value.last.map({ $0 > 10_000 }) ?? true {
            try await withObservedRedis { server, _ in
                try await withHolder(server) { holder, _ in
                    holder.tell("block")
                    #expect(try await holder.line() == "blocked")
                    await server.kill(SIGSTOP)
                    let said = try #require(try await holder.line()).split(separator: " ")
                    try #require(said.first == "cancelled")
                    let late = try #require(Int(said[1]))
                    lateness.change { $0.append(late) }
                    await server.kill(SIGCONT)
                    holder.tell("end")
                    #expect(try await holder.line() == "ended lease.lost")
                }
            }
        }
        // The grace by which Redis outlives the holder's deadline is 10 ms and a part of the ttl.
        let late = lateness.value
        #expect(late.contains { $0 <= 10_000 }, "µs after the deadline: \(late)")
    }

    /// It might have come back: within that time a connection that only blinked is there again.
    @Test func `a waiter that was killed costs those behind it one claim time and no more`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let first = try await client.acquire("a", ttl: .seconds(30))
                let dead = try TalkingProcess.start("TestHolder", [server.url, "a", "30000"])
                try await eventually { try await client.inspect("a").queueLength == 1 }
                try await withClient(server.unixURL) { other in
                    async let waiting = other.acquire("a", ttl: .seconds(30), wait: .seconds(60))
                    try await eventually { try await client.inspect("a").queueLength == 2 }
                    try await dead.end()
                    try await eventually { try await observer.send("PUBSUB", "CHANNELS").array?.count == 2 }
                    try await first.release()
                    let lease = try await waiting
                    // The first holder's, the dead one's, and this.
                    #expect(try await client.audit().filter { $0.action == "grant" }.count == 3)
                    try await lease.release()
                    #expect(try await observer.isClean("a"))
                }
            }
        }
    }

    @Test func `a waiter that is frozen when its turn comes keeps nobody longer than its predecessor could have`()
        async throws
    {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let first = try await client.acquire("a", ttl: .seconds(4))
                let frozen = try TalkingProcess.start("TestHolder", [server.url, "a", "30000"])
                try await eventually { try await client.inspect("a").queueLength == 1 }
                try await withClient(server.unixURL) { other in
                    async let waiting = other.acquire("a", ttl: .seconds(30), wait: .seconds(60))
                    try await eventually { try await client.inspect("a").queueLength == 2 }
                    try await frozen.freeze()
                    let before = try await observer.now()
                    try await first.release()
                    let lease = try await waiting
                    // The deadline that the waiters knew of, its grace, and a second.
                    #expect(lease.fence - before < 4_050_000 + 1_000_000)
                    // It thaws, finds its grant gone, queues up again, and is served.
                    frozen.signal(SIGCONT)
                    try await eventually { try await client.inspect("a").queueLength == 1 }
                    try await lease.release()
                    let said = try #require(try await frozen.line()).split(separator: " ")
                    #expect(said.first == "held")
                    #expect(Int64(said.last ?? "") ?? 0 > lease.fence)
                    frozen.tell("end")
                    #expect(try await frozen.line() == "ended none")
                    try await frozen.end()
                    #expect(try await observer.isClean("a"))
                }
            }
        }
    }
}
