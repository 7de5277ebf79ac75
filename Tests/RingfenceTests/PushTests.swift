// SPDX-License-Identifier: Apache-2.0
//
// A push is a hint: it may be lost, late, repeated, or of something long over. Each of that is sent here by hand,
// through the same channel and in the same words as lock.lua's own.

import Hiredis
import Ringfence
import TestSupport
import Testing

@Suite struct PushTests {
    /// Publishes a grant of what `token` holds, once more.
    private func repeatGrant(_ token: String, _ name: String, _ observer: Observer) async throws {
        let parts = token.split(separator: ":", maxSplits: 2).map { String($0) }
        let process = parts[1].prefix { $0 != "-" }
        let heard = try await observer.send(
            "PUBLISH", "ringfence:{default}:inbox:\(process)", "grant\n\(parts[1])\n\(parts[0])\n\(name)")
        #expect(heard == .integer(1))
    }

    /// Two round trips of the client, by which it has heard and acted upon what was pushed before.
    private func settle(_ client: RingfenceClient, _ observer: Observer) async throws {
        for _ in 0..<5 {
            _ = try await client.ping()
            _ = try await observer.now()
        }
    }

    @Test func `a grant that is pushed again takes nothing from its holder`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { one in
                try await withClient(server.unixURL) { other in
                    let first = try await one.acquire("a", ttl: .seconds(30))
                    async let second = other.acquire("a", ttl: .seconds(30), wait: .seconds(30))
                    try await eventually { try await one.inspect("a").queueLength == 1 }
                    try await first.release()
                    let lease = try await second
                    for _ in 0..<5 {
                        try await repeatGrant(lease.token, "a", observer)
                        try await settle(other, observer)
                        #expect(try await observer.value(of: "a") == lease.token)
                    }
                    try await lease.release()
                    #expect(try await observer.isClean("a"))
                }
            }
        }
    }

    @Test func `a grant that is pushed again takes nothing from a holder outside this process`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { one in
                try await withClient(server.unixURL) { other in
                    let first = try await one.acquire("a", ttl: .seconds(30))
                    async let second = other.acquireGrant(["a"], ttl: .seconds(30), wait: .seconds(30))
                    try await eventually { try await one.inspect("a").queueLength == 1 }
                    try await first.release()
                    let grant = try await second
                    for _ in 0..<5 {
                        try await repeatGrant(grant.token, "a", observer)
                        try await settle(other, observer)
                        #expect(try await observer.value(of: "a") == grant.token)
                    }
                    try await other.release(["a"], token: grant.token)
                    #expect(try await observer.isClean("a"))
                }
            }
        }
    }

    @Test func `an old push to one that waits costs it neither its place nor the lock`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { one in
                try await withClient(server.unixURL) { other in
                    let first = try await one.acquire("a", ttl: .seconds(30))
                    async let second = other.acquire("a", ttl: .seconds(30), wait: .seconds(30))
                    try await eventually { try await one.inspect("a").queueLength == 1 }
                    let places = try await observer.send("ZRANGE", "ringfence:{default}:queue:a", "0", "0")
                    let nonce = try #require(places.array?.first?.text).prefix { $0 != "\n" }
                    // As of a grant whose claim came too late: the fence is not the one that will come.
                    try await repeatGrant("\(first.fence - 1):\(nonce):x", "a", observer)
                    try await settle(other, observer)
                    try await eventually { try await one.inspect("a").queueLength >= 1 }
                    try await first.release()
                    let lease = try await second
                    #expect(lease.fence > first.fence)
                    try await lease.release()
                    #expect(try await observer.isClean("a"))
                }
            }
        }
    }

    @Test func `nonsense on the inbox is ignored`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let lease = try await client.acquire("a")
                let process = lease.id.prefix { $0 != "-" }
                for message in [
                    "", "grant", "grant\n\n\n", "revoked\n\(lease.id)\n1\na", "grant\nx\n-1\na", "\n\n\n\n",
                    "x\ny\n1\nz",
                ] {
                    _ = try await observer.send("PUBLISH", "ringfence:{default}:inbox:\(process)", message)
                }
                try await settle(client, observer)
                #expect(lease.isHeld)
                try await lease.renew()
                try await lease.release()
                #expect(try await observer.isClean("a"))
            }
        }
    }
}
