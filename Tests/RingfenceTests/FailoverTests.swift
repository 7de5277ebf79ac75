// SPDX-License-Identifier: Apache-2.0
//
// Lossy failover: the replica is promoted without the last writes of its primary, again and again. That loses the lock,
// which nothing on asynchronous replication can prevent; the fence must grow all the same. A counter (INCR) kept beside
// the lock, the usual way to make fences, is run through the same promotions: it repeats, which shows that the test
// bites.

import Hiredis
import Ringfence
import RingfenceCore
import TestSupport
import Testing

@Suite struct FailoverTests {
    private static let promotions = 100

    /// One of the two servers, as primary or replica.
    private struct Node: Sendable {
        let server: RedisServer
        let observer: Observer
        let client: RingfenceClient

        func role() async throws -> String {
            let info = try await observer.send("INFO", "replication").text ?? ""
            func field(_ name: String) -> Substring {
                info.split(whereSeparator: \.isNewline).first { $0.hasPrefix(name + ":") }?.dropFirst(name.count + 1)
                    ?? ""
            }
            return "\(field("role")) \(field("master_link_status")) \(field("master_repl_offset"))"
        }

        func follow(_ primary: Node) async throws {
            try await observer.send("REPLICAOF", "127.0.0.1", "\(primary.server.port)")
        }

        func promote() async throws { try await observer.send("REPLICAOF", "NO", "ONE") }

        func incrementalFence() async throws -> Int64 {
            guard case .integer(let fence) = try await observer.send("INCR", "counter") else {
                throw TestSupportError("INCR")
            }
            return fence
        }
    }

    private func withNode<Result: Sendable>(_ body: @Sendable (Node) async throws -> Result) async throws -> Result {
        try await withObservedRedis(["--hz", "500", "--repl-diskless-load", "swapdb"]) { server, observer in
            try await withClient(server.unixURL) { client in
                try await body(Node(server: server, observer: observer, client: client))
            }
        }
    }

    @Test func `fences grow over 100 promotions that lost writes, where a counter repeats`() async throws {
        try await withNode { one in
            try await withNode { two in
                var (primary, replica) = (one, two)
                var fences: [Int64] = []
                var counter: [Int64] = []
                for _ in 0..<Self.promotions {
                    // In step: what was written so far is there.
                    try await replica.follow(primary)
                    try await eventually("replica in step") {
                        let (first, second) = (try await primary.role(), try await replica.role())
                        return second.hasPrefix("slave up")
                            && first.split(separator: " ").last == second.split(separator: " ").last
                    }
                    // Replication is cut, and the primary goes on granting: writes that will be lost.
                    try await replica.promote()
                    for _ in 0..<3 {
                        try await primary.client.withLock("a", wait: .zero) { _ in }
                        counter.append(try await primary.incrementalFence())
                    }
                    let lost = try #require(
                        try await primary.client.tryAcquire("a", ttl: .seconds(60), options: .init(renews: false)))
                    fences.append(lost.fence)
                    counter.append(try await primary.incrementalFence())
                    // The primary is gone; its holder does not know. The next one asks the promoted replica.
                    let next = try #require(try await replica.client.tryAcquire("a", ttl: .seconds(60)))
                    fences.append(next.fence)
                    counter.append(try await replica.incrementalFence())
                    try await next.release()
                    // (The old holder gives back what only the old primary knows of, so that its handle is over.)
                    try await lost.release()
                    (primary, replica) = (replica, primary)
                }
                #expect(fences.count == 2 * Self.promotions)
                #expect(zip(fences, fences.dropFirst()).allSatisfy { $0 < $1 })
                // The control: each new primary counted from where the lost writes began.
                let repeats = counter.indices.filter { index in counter[..<index].contains { $0 >= counter[index] } }
                #expect(repeats.count >= Self.promotions)
            }
        }
    }
}
