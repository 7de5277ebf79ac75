// SPDX-License-Identifier: Apache-2.0
//
// A Redis that refuses everything for a while: here one that wants a replica before it takes a write. Whoever asks
// meanwhile waits, and is told why when the time is over.

import Hiredis
import Ringfence
import TestSupport
import Testing

@Suite struct RefusalForNowTests {
    /// Until it is told to go on.
    private static func refuse(_ observer: Observer, _ refuses: Bool) async throws {
        try await observer.send("CONFIG", "SET", "min-replicas-to-write", refuses ? "1" : "0")
    }

    /// How many commands it has refused.
    private static func refused(_ observer: Observer) async throws -> Int {
        let stats = try await observer.send("INFO", "errorstats").text ?? ""
        // Redis 6.2 counts what a script was refused as ERR.
        return ["NOREPLICAS", "ERR"].reduce(0) { sum, word in
            let count = stats.split(separator: "errorstat_\(word):count=").dropFirst().first?.prefix { $0.isNumber }
            return sum + (count.flatMap { Int($0) } ?? 0)
        }
    }

    /// Waits until `work` was refused twice at least, lets Redis go on, and returns what came of it.
    private static func outlive<Value: Sendable>(
        _ observer: Observer, _ work: @Sendable () async throws -> Value
    ) async throws -> Value {
        try await refuse(observer, true)
        let before = try await refused(observer)
        async let value = work()
        try await eventually("it is refused twice") { try await refused(observer) >= before + 2 }
        try await refuse(observer, false)
        return try await value
    }

    private static let patient: @Sendable (inout RingfenceConfiguration) -> Void = {
        $0.commandTimeout = .seconds(60)
    }

    @Test func `a try, a release, a renewal and a look outlive it`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL, Self.patient) { client in
                let lease = try await Self.outlive(observer) { try await client.tryAcquire("a", ttl: .seconds(60)) }
                #expect(lease != nil)
                guard let lease else { return }
                try await Self.outlive(observer) { try await lease.renew() }
                try await Self.outlive(observer) { try await lease.release() }
                #expect(try await observer.isClean("a"))

                let grant = try await Self.outlive(observer) {
                    try await client.acquireGrant(["a", "b"], ttl: .seconds(60))
                }
                _ = try await Self.outlive(observer) {
                    try await client.renew(["a", "b"], token: grant.token, ttl: .seconds(60))
                }
                try await Self.outlive(observer) { try await client.release(["a", "b"], token: grant.token) }
                #expect(try await observer.isClean("a"))
                let group = try await client.group("g")
                let membership = try await Self.outlive(observer) {
                    try await group.join("node-1", lease: .seconds(60))
                }
                try await membership.leave()
            }
        }
    }

    @Test func `when the time is over it says what is the matter, in words, and that nothing was done`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL, { $0.commandTimeout = .milliseconds(300) }) { client in
                let held = try await client.acquire("held", ttl: .seconds(60))
                try await Self.refuse(observer, true)
                let confirmed = LockOptions(durability: .confirmed(replicas: 1, within: .milliseconds(50)))
                let calls: [@Sendable () async throws -> Void] = [
                    { _ = try await client.acquire("a", wait: .milliseconds(300)) },
                    { _ = try await client.tryAcquire("a") },
                    { _ = try await client.tryAcquire("a", options: confirmed) },
                    { try await held.renew() },
                    { _ = try await client.forceRelease("held", actor: "ann") },
                ]
                for call in calls {
                    // The time may end while the next try is under way, and then nobody knows of that one.
                    var errors = [await failure(call)]
                    while errors.last??.effect == .unknown, errors.count < 20 { errors.append(await failure(call)) }
                    #expect(errors.last??.effect == RingfenceError.Effect.none, "\(errors)")
                    for error in errors {
                        #expect(error?.code == .coordinatorUnavailable, "\(String(describing: error))")
                        #expect(error?.isRetriable == true)
                        let text = error?.message ?? ""
                        #expect(text.contains("min-replicas-to-write") && !text.contains("script"), "\(text)")
                    }
                }
                try await Self.refuse(observer, false)
                try await held.release()
                try await eventually { try await observer.isClean("a") }
                #expect(try await observer.isClean("held"))
            }
        }
    }

    @Test func `what was cancelled meanwhile is not asked for when Redis goes on`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL, Self.patient) { client in
                try await Self.refuse(observer, true)
                let before = try await Self.refused(observer)
                let tasks = (0..<20).map { number in
                    Task { _ = try await client.acquireGrant(["a\(number)"], ttl: .seconds(60)) }
                }
                try await eventually("each is refused") { try await Self.refused(observer) >= before + 40 }
                for task in tasks { task.cancel() }
                for task in tasks {
                    let error = await failure { try await task.value }
                    #expect(error?.code == .cancelled)
                }
                try await Self.refuse(observer, false)
                // Behind whatever was on its way.
                try await client.withLock("b") { _ in }
                for number in 0..<20 { try await eventually { try await observer.isClean("a\(number)") } }
            }
        }
    }
}
