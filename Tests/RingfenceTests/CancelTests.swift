// SPDX-License-Identifier: Apache-2.0
//
// A wait that is cancelled: in every phase by hand, and at random moments around the grant. Two things may go wrong: a
// place or a hold is left that nobody knows of (a ghost), or the grant that was on its way to the cancelled waiter is
// lost and the next waits in vain.

import Hiredis
import Ringfence
import TestSupport
import Testing

@Suite struct CancelTests {
    /// A client behind a proxy, and another on the server itself.
    private func withTwo(
        _ body: @Sendable (TCPProxy, RingfenceClient, RingfenceClient, Observer) async throws -> Void
    ) async throws {
        try await withObservedRedis { server, observer in
            let proxy = try await TCPProxy.start(to: server)
            try await withClient(proxy.url) { client in
                try await withClient(server.unixURL) { other in
                    try await client.withLock("warm") { _ in }
                    try await eventually("the inbox is heard") {
                        try await observer.send("PUBSUB", "CHANNELS").array?.count == 1
                    }
                    try await body(proxy, client, other, observer)
                }
            }
            await proxy.close()
        }
    }

    private func isQueued(_ count: Int64, _ observer: Observer) async throws {
        try await eventually("\(count) places") {
            try await observer.send("ZCARD", "ringfence:{default}:queue:a") == .integer(count)
        }
    }

    /// Cancels, and expects to be told so.
    private func cancel(_ task: Task<Lease, any Error>) async {
        task.cancel()
        let error = await failure { try await task.value }
        #expect(error?.code == .cancelled)
    }

    @Test func `cancelled before it asked, it sends nothing`() async throws {
        try await withTwo { _, client, _, observer in
            let isCancelled = Shared(false)
            let task = Task {
                while !Task.isCancelled { await Task.yield() }
                isCancelled.change { $0 = true }
                return try await client.acquire("a")
            }
            await cancel(task)
            #expect(isCancelled.value)
            try await eventually { try await observer.isClean("a") }
            #expect(client.waiterCount == 0)
        }
    }

    @Test func `cancelled while its request is on the way, it ends at once and leaves nothing`() async throws {
        try await withTwo { proxy, client, _, observer in
            proxy.update { $0.clientToServer.isStalled = true }
            let task = Task { try await client.acquire("a", ttl: .seconds(60)) }
            try await eventually { client.waiterCount == 1 }
            await cancel(task)
            proxy.update { $0.clientToServer.isStalled = false }
            _ = try await client.ping()
            try await eventually { try await observer.isClean("a") }
        }
    }

    @Test func `cancelled while the answer is on the way back, it leaves nothing`() async throws {
        try await withTwo { proxy, client, _, observer in
            proxy.update { $0.serverToClient.isStalled = true }
            let task = Task { try await client.acquire("a", ttl: .seconds(60)) }
            try await eventually("granted") { try await observer.value(of: "a") != nil }
            await cancel(task)
            try await eventually("withdrawn") { try await observer.isClean("a") }
            proxy.update { $0.serverToClient.isStalled = false }
            _ = try await client.ping()
            #expect(try await observer.isClean("a"))
            #expect(client.leaseCount == 0)
        }
    }

    @Test func `cancelled in the queue, its place goes and those behind move up`() async throws {
        try await withTwo { _, client, other, observer in
            let first = try await other.acquire("a", ttl: .seconds(60))
            let task = Task { try await client.acquire("a", ttl: .seconds(60), wait: .seconds(60)) }
            try await isQueued(1, observer)
            async let next = other.acquire("a", ttl: .seconds(60), wait: .seconds(60))
            try await eventually { other.waiterCount == 1 }
            await cancel(task)
            try await isQueued(0, observer)
            try await first.release()
            try await next.release()
            #expect(try await observer.isClean("a"))
        }
    }

    @Test func `cancelled while the grant is on its way to it, the next waiter gets the lock`() async throws {
        try await withTwo { proxy, client, other, observer in
            try await withClient(proxy.url) { third in
                let first = try await other.acquire("a", ttl: .seconds(60))
                let task = Task { try await client.acquire("a", ttl: .seconds(60), wait: .seconds(60)) }
                try await isQueued(1, observer)
                async let next = third.acquire("a", ttl: .seconds(60), wait: .seconds(60))
                try await isQueued(2, observer)
                proxy.update { $0.serverToClient.isStalled = true }
                try await first.release()
                // Granted to it, and it does not know.
                try await eventually { try await observer.value(of: "a") != nil }
                await cancel(task)
                proxy.update { $0.serverToClient.isStalled = false }
                try await next.release()
                try await eventually { try await observer.isClean("a") }
            }
        }
    }

    @Test func `cancelled while its claim is on the way, the next waiter gets the lock`() async throws {
        try await withTwo { proxy, client, other, observer in
            try await withClient(proxy.url) { third in
                let first = try await other.acquire("a", ttl: .seconds(60))
                let task = Task { try await client.acquire("a", ttl: .seconds(60), wait: .seconds(60)) }
                try await isQueued(1, observer)
                async let next = third.acquire("a", ttl: .seconds(60), wait: .seconds(60))
                try await isQueued(2, observer)
                proxy.update { $0.clientToServer.isStalled = true }
                try await first.release()
                try await eventually { try await observer.value(of: "a") != nil }
                await cancel(task)
                proxy.update { $0.clientToServer.isStalled = false }
                try await next.release()
                try await eventually { try await observer.isClean("a") }
            }
        }
    }

    @Test func `the body of a cancelled caller is cancelled, and its lock released`() async throws {
        try await withTwo { _, client, _, observer in
            let isRunning = Shared(false)
            let task = Task {
                try await client.withLock("a", ttl: .seconds(60)) { _ in
                    isRunning.change { $0 = true }
                    try await Task.sleep(for: .seconds(3600))
                }
            }
            try await eventually { isRunning.value }
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
            #expect(try await observer.isClean("a"))
        }
    }

    /// In each round one holds, one waits and is cancelled at a random moment around the release, and one behind it
    /// must get the lock.
    @Test func `cancelled at any moment, no grant is swallowed and no ghost is left`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.url, 3) { clients in
                try await withThrowingTaskGroup { group in
                    for lane in 0..<6 {
                        group.addTask {
                            let name = "lane \(lane)"
                            for round in 0..<40 {
                                // The one behind is now in the same process, now in another.
                                try await race(clients[0], clients[1], clients[round % 2 + 1], name)
                            }
                            try await eventually("no ghost of \(name)") { try await observer.isClean(name) }
                        }
                    }
                    for try await _ in group {}
                }
                for client in clients {
                    try await eventually { client.waiterCount == 0 && client.leaseCount == 0 }
                }
            }
        }
    }
}

private func race(
    _ holder: RingfenceClient, _ cancelled: RingfenceClient, _ behind: RingfenceClient, _ name: String
) async throws {
    let first = try await holder.acquire(name, ttl: .seconds(60), wait: .seconds(60))
    let task = Task { try await cancelled.acquire(name, ttl: .seconds(60), wait: .seconds(60)) }
    if Bool.random() { try await eventually { try await holder.inspect(name).queueLength == 1 } }
    let next = Task { try await behind.acquire(name, ttl: .seconds(60), wait: .seconds(60)) }
    let pause = Duration.microseconds(Int.random(in: 0...2000))
    let cancels = Task {
        try? await Task.sleep(for: pause)
        task.cancel()
    }
    if Bool.random() { try? await Task.sleep(for: .microseconds(Int.random(in: 0...1000))) }
    try await first.release()
    do {
        let lease = try await task.value
        #expect(lease.fence > first.fence)
        try await lease.release()
    } catch let error as RingfenceError {
        #expect(error.code == .cancelled)
    }
    await cancels.value
    let lease = try await next.value
    #expect(lease.fence > first.fence)
    try await lease.release()
}
