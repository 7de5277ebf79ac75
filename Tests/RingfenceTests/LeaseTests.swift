// SPDX-License-Identifier: Apache-2.0

import Hiredis
import Ringfence
import TestSupport
import Testing

@Suite struct LeaseTests {
    @Test func `a lease ends at its maximumHold however often it was renewed`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let start = ContinuousClock.now
                let deadlines = Shared<[ContinuousClock.Instant]>([])
                let error = await failure {
                    try await client.withLock(
                        "a", ttl: .milliseconds(2000), options: .init(maximumHold: .milliseconds(2200))
                    ) { lease in
                        while true {
                            deadlines.change { $0.append(lease.deadline) }
                            try await Task.sleep(for: .milliseconds(5))
                        }
                    }
                }
                #expect(error?.code == .leaseLost)
                #expect(error?.message.contains("maximumHold") == true)
                let latest = try #require(deadlines.value.max())
                let first = try #require(deadlines.value.first)
                #expect(latest > first, "it was renewed")
                #expect(latest <= first.advanced(by: .milliseconds(220)))
                #expect(start.duration(to: .now) >= .milliseconds(2180))
                try await eventually { try await observer.isClean("a") }
            }
        }
    }

    @Test func `a lease that does not renew itself is renewed by hand`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let lease = try await client.acquire("a", ttl: .seconds(60), options: .init(renews: false))
                for _ in 0..<3 {
                    let before = lease.deadline
                    try await observer.send("PEXPIRE", "ringfence:{default}:lock:a", "20000")
                    try await lease.renew()
                    #expect(lease.deadline > before)
                    guard case .integer(let ms) = try await observer.send("PTTL", "ringfence:{default}:lock:a") else {
                        throw TestSupportError("PTTL")
                    }
                    #expect(ms > 55_000)
                }
                try await lease.release()
                let error = await failure { try await lease.renew() }
                #expect(error?.code == .lockNotHeld)
                #expect(error?.effect == RingfenceError.Effect.none)
                #expect(try await observer.isClean("a"))
            }
        }
    }

    @Test func `a lease that does not renew itself ends, and the next one gets the lock`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let lease = try await clients[0].acquire("a", ttl: .milliseconds(150), options: .init(renews: false))
                let next = try await clients[1].acquire("a", ttl: .seconds(60), wait: .seconds(60))
                #expect(!lease.isHeld)
                #expect(lease.remaining == .zero)
                for call in [{ try await lease.renew() }, { try lease.check() }] as [@Sendable () async throws -> Void]
                {
                    let error = await failure(call)
                    #expect(error?.code == .leaseLost)
                    #expect(error?.effect == RingfenceError.Effect.none)
                }
                let error = await failure { try await lease.release() }
                #expect(error?.code == .leaseLost)
                #expect(error?.effect == .unknown)
                for _ in 0..<5 { _ = try await clients[0].ping() }
                #expect(try await observer.value(of: "a") == next.token)
                try await next.release()
            }
        }
    }

    @Test func `copies of a lease are one: released through one, over for all`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let lease = try await client.acquire("a", ttl: .seconds(60))
                let copies = Array(repeating: lease, count: 10)
                try await withThrowingTaskGroup { group in
                    for copy in copies { group.addTask { try await copy.release() } }
                    for try await _ in group {}
                }
                for copy in copies + [lease] {
                    #expect(!copy.isHeld)
                    try await copy.release()
                }
                #expect(try await observer.isClean("a"))
                // Released once: the next holder's lock is not touched by the late ones.
                let next = try await client.acquire("a", ttl: .seconds(60))
                try await lease.release()
                _ = try await client.ping()
                #expect(try await observer.value(of: "a") == next.token)
                try await next.release()
            }
        }
    }

    @Test func `after its release a lease is checked in vain`() async throws {
        try await withRedis { server in
            try await withClient(server.unixURL) { client in
                let lease = try await client.acquire("a", ttl: .seconds(60))
                try lease.check()
                try await lease.release()
                let error = await failure { try lease.check() }
                #expect(error?.code == .lockNotHeld && error?.effect == RingfenceError.Effect.none)
            }
        }
    }

    @Test func `a loss that nobody had noticed is told by the release`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                // As by a Redis that restarts empty, and whose lock another process has got meanwhile.
                let lease = try await client.acquire("a", ttl: .seconds(600))
                try await observer.send("SET", "ringfence:{default}:lock:a", "1:other-1:other")
                let error = await failure { try await lease.release() }
                #expect(error?.code == .leaseLost && error?.effect == .unknown)
                #expect(try await observer.send("EXISTS", "ringfence:{default}:lock:a") == .integer(1))
                #expect(await failure { try await lease.release() } == nil)

                let scoped = await failure {
                    try await client.withLock("b", ttl: .seconds(600)) { _ in
                        try await observer.send("DEL", "ringfence:{default}:lock:b")
                    }
                }
                #expect(scoped?.code == .leaseLost && scoped?.effect == .unknown)
            }
        }
    }

    @Test func `a lost lease that is dropped lets go of the rest of its names`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                do {
                    let lease = try await clients[0].acquire("a", "b", ttl: .seconds(600))
                    _ = try await clients[1].forceRelease("a", actor: "ops")
                    #expect(try await observer.send("EXISTS", "ringfence:{default}:lock:b") == .integer(1))
                    try await eventually("it is told") { !lease.isHeld }
                }
                try await eventually("the rest is free") { try await observer.isClean("b") }
            }
        }
    }

    @Test func `a lock stays held while any copy of its lease lives`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let kept = Shared<Lease?>(nil)
                do {
                    let lease = try await client.acquire("a", ttl: .seconds(60))
                    kept.change { $0 = lease }
                }
                for _ in 0..<5 { _ = try await client.ping() }
                #expect(try await observer.value(of: "a") != nil)
                kept.change { $0 = nil }
                try await eventually { try await observer.isClean("a") }
            }
        }
    }

    @Test func `a body that ignores the loss of its lease still makes withLock throw it`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let error = await failure {
                    try await client.withLock("a", ttl: .milliseconds(600)) { lease in
                        try await observer.send("SET", "ringfence:{default}:lock:a", "1:x-1-s:somebody")
                        try await eventually { !lease.isHeld }
                        return "done all the same"
                    }
                }
                #expect(error?.code == .leaseLost)
                #expect(error?.effect == .unknown)
                let value = try await observer.value(of: "a")
                #expect(value == "1:x-1-s:somebody")
            }
        }
    }

    @Test func `many leases are renewed together, each for itself`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let leases = try await withThrowingTaskGroup { group in
                    for number in 0..<250 { group.addTask { try await client.acquire("\(number)", ttl: .seconds(9)) } }
                    return try await group.reduce(into: [Lease]()) { $0.append($1) }
                }
                // One is taken away behind the client's back: that one is lost, and no other.
                try await observer.send("DEL", "ringfence:{default}:lock:100")
                let start = ContinuousClock.now
                try await eventually {
                    leases.allSatisfy { $0.deadline > start.advanced(by: .milliseconds(9500)) || !$0.isHeld }
                }
                let lost = leases.filter { !$0.isHeld }.map { $0.names[0] }
                #expect(lost == ["100"])
                for lease in leases where lease.isHeld { try await lease.release() }
                #expect(try await server.remains() == [])
            }
        }
    }
}
