// SPDX-License-Identifier: Apache-2.0

import Ringfence
import RingfenceCore
import RingfencePlatform
import TestSupport
import Testing

@Suite struct LockTests {
    @Test func `a body runs under the lock, with a fence, and leaves nothing behind`() async throws {
        try await withRingfence { server, client in
            let fence = try await client.withLock("account/4711") { lease in
                #expect(lease.isHeld)
                let value = try await server.cli("GET", "ringfence:{default}:lock:account/4711")
                #expect(value == lease.token)
                return lease.fence
            }
            #expect(fence > 1_700_000_000_000_000)
            #expect(try await server.remains() == [])
        }
    }

    @Test func `tasks on the client's own loop lock, wait and are cancelled there as anywhere else`() async throws {
        try await withRingfence { server, client in
            let (threads, inside) = (Shared<Set<pthread_t>>([]), Shared(0))
            try await withThrowingTaskGroup { group in
                for _ in 0..<8 {
                    group.addTask(executorPreference: client.taskExecutor) {
                        for _ in 0..<20 {
                            let lease = try await client.acquire("a", wait: .seconds(60))
                            threads.change { _ = $0.insert(pthread_self()) }
                            #expect(
                                inside.change {
                                    $0 += 1; return $0
                                } == 1)
                            inside.change { $0 -= 1 }
                            try await lease.release()
                        }
                    }
                }
                for try await _ in group {}
            }
            #expect(threads.value.count == 1)
            let lease = try await client.acquire("a")
            let waiting = Task(executorPreference: client.taskExecutor) {
                try await client.acquire("a", wait: .seconds(60))
            }
            try await eventually { client.waiterCount == 1 }
            waiting.cancel()
            let error = await failure { try await waiting.value }
            #expect(error?.code == .cancelled)
            try await lease.release()
            #expect(try await server.remains() == [])
        }
    }

    @Test func `a held lock is busy for everybody else, and fences grow`() async throws {
        try await withRingfence { server, one in
            try await withClient(server.url, owner: "other") { other in
                let first = try #require(try await one.tryAcquire("a"))
                #expect(try await other.tryAcquire("a") == nil)
                #expect(try await one.tryAcquire("a") == nil)
                let error = await failure { try await other.acquire("a", wait: .milliseconds(500)) }
                #expect(error?.code == .lockBusy)
                #expect(error?.effect == RingfenceError.Effect.none)
                try await first.release()
                let second = try #require(try await other.tryAcquire("a"))
                #expect(second.fence > first.fence)
                try await second.release()
                #expect(try await server.remains() == [])
            }
        }
    }

    @Test func `a waiter in another process is handed the lock when it is released`() async throws {
        try await withRingfence { server, one in
            try await withClient(server.url) { other in
                let first = try await one.acquire("a", ttl: .seconds(30))
                async let second = other.acquire("a", ttl: .seconds(30), wait: .seconds(30))
                try await eventually { try await one.inspect("a").queueLength == 1 }
                try await first.release()
                let lease = try await second
                #expect(lease.fence > first.fence)
                try await lease.release()
                #expect(try await server.remains() == [])
            }
        }
    }

    @Test func `tasks of one process get the lock in the order in which they asked`() async throws {
        try await withRingfence { server, client in
            let order = Shared<[Int]>([])
            try await withThrowingTaskGroup { group in
                let first = try await client.acquire("a")
                for number in 0..<40 {
                    group.addTask {
                        try await client.withLock("a", wait: .seconds(60)) { _ in order.change { $0.append(number) } }
                    }
                    try await eventually { client.waiterCount == number + 1 }
                }
                try await first.release()
                for try await _ in group {}
            }
            #expect(order.value == Array(0..<40))
            #expect(try await server.remains() == [])
        }
    }

    @Test func `several names are taken at once, under one fence, whatever their order`() async throws {
        try await withRingfence { server, client in
            try await withClient(server.url) { other in
                let both = try await client.acquire(["b", "a"])
                #expect(both.names == ["a", "b"])
                #expect(try await other.tryAcquire("a") == nil)
                #expect(try await other.tryAcquire("b") == nil)
                #expect(try await other.tryAcquire(["c", "a"]) == nil)
                let free = try #require(try await other.tryAcquire("c"))
                try await free.release()
                async let next = other.acquire(["a", "c"], wait: .seconds(30))
                try await eventually { try await client.inspect("a").queueLength == 1 }
                try await both.release()
                try await next.release()
                #expect(try await server.remains() == [])
            }
        }
    }

    @Test func `a body that takes pairs in opposite orders never deadlocks`() async throws {
        try await withRingfence { server, client in
            try await withClient(server.url) { other in
                let total = Shared(0)
                try await withThrowingTaskGroup { group in
                    for (index, each) in [client, other, client, other].enumerated() {
                        group.addTask {
                            for round in 0..<50 {
                                let pair = ["x", "y", "z"].shuffledBy(index * 50 + round).prefix(2)
                                try await each.withLock(Array(pair), wait: .seconds(60)) { _ in total.change { $0 += 1 }
                                }
                            }
                        }
                    }
                    for try await _ in group {}
                }
                #expect(total.value == 200)
                #expect(try await server.remains() == [])
            }
        }
    }

    @Test func `the body's own error passes through unchanged and the lock is free`() async throws {
        struct Mine: Error, Equatable {}
        try await withRingfence { server, client in
            await #expect(throws: Mine()) { try await client.withLock("a") { _ in throw Mine() } }
            let remains = try await server.remains()
            #expect(remains == [])
        }
    }

    @Test func `a lease that lives longer than its ttl was renewed`() async throws {
        try await withRingfence { server, client in
            let lease = try await client.acquire("a", ttl: .milliseconds(1500))
            let first = lease.deadline
            try await eventually { lease.deadline > first.advanced(by: .milliseconds(900)) }
            #expect(lease.isHeld)
            try await lease.release()
        }
    }

    @Test func `a lease with the last copy gone is released`() async throws {
        try await withRingfence { server, client in
            do { _ = try await client.acquire("a", ttl: .seconds(60)) }
            try await eventually { try await server.remains() == [] }
        }
    }

    @Test func `waiting for what the same task holds is refused at once`() async throws {
        try await withRingfence { _, client in
            let error = await failure {
                try await client.withLock(["a", "b"]) { _ in
                    try await client.withLock("b", wait: .seconds(60)) { _ in }
                }
            }
            #expect(error?.code == .lockWouldDeadlock)
        }
    }

    @Test func `names that differ only in how an accent is written are two locks`() async throws {
        try await withRingfence { server, client in
            let composed = try #require(try await client.tryAcquire("caf\u{E9}"))
            let decomposed = try #require(try await client.tryAcquire("cafe\u{301}"))
            #expect(try await server.remains().count == 2)
            try await composed.release()
            try await decomposed.release()
        }
    }

    @Test func `what a lock leaves behind is its last fence, for a day`() async throws {
        try await withRingfence { server, client in
            try await client.withLock("a") { _ in }
            let ttl = try await server.cli("PTTL", "ringfence:{default}:fence:a")
            #expect((Int(ttl) ?? 0) > 86_000_000)
        }
    }

    @Test func `the last fence is kept as long as it is configured, by each way to give one`() async throws {
        try await withRedis { server in
            try await withClient(server.unixURL, { $0.fenceRetention = .seconds(100) }) { client in
                func expectKept(_ name: String) async throws {
                    let left = Int(try await server.cli("PTTL", "ringfence:{default}:fence:\(name)")) ?? 0
                    #expect((40_000...100_000).contains(left), "\(name) \(left)")
                }
                let first = try await client.acquire("a", ttl: .seconds(60))
                async let second = client.acquire("a", ttl: .seconds(60), wait: .seconds(60))
                try await eventually("it waits") { client.waiterCount == 1 }
                try await first.release()
                let handed = try await second
                try await expectKept("a")
                try await handed.release()
                _ = try await client.acquireGrant(["b"], ttl: .seconds(60))
                _ = try await client.forceRelease("b", actor: "test")
                try await expectKept("b")
            }
        }
    }

    @Test func `who waited in vain is not told that others wait for it`() async throws {
        try await withRingfence { _, client in
            _ = try await client.acquireGrant(["a"], owner: "first", ttl: .seconds(60))
            let waited = await failure { _ = try await client.acquire("a", wait: .milliseconds(100)) }
            #expect(waited?.code == .lockBusy)
            #expect(waited?.message == "'a' was not free within 0.1 seconds: others hold it, or came first")
            let tried = await failure { _ = try await client.acquireGrant(["a"], ttl: .seconds(1)) }
            #expect(tried?.message.hasPrefix("'a' is not free: 'first' holds it for up to ") == true)
        }
    }
}

extension Array {
    /// A fixed shuffle of few elements: the permutation of that number.
    func shuffledBy(_ number: Int) -> [Element] {
        var rest = self
        var number = number
        var result: [Element] = []
        while !rest.isEmpty {
            result.append(rest.remove(at: number % rest.count))
            number /= 2
        }
        return result
    }
}
