// SPDX-License-Identifier: Apache-2.0

import Hiredis
import Logging
import Ringfence
import RingfencePlatform
import ServiceLifecycle
import TestSupport
import Testing

@Suite struct LifecycleTests {
    @Test func `a graceful shutdown ends waits, cancels bodies, releases all, and run returns`() async throws {
        try await withObservedRedis { server, observer in
            let client = try RingfenceClient(.init(url: server.unixURL), logger: testLogger)
            let group = ServiceGroup(
                configuration: .init(services: [.init(service: client)], logger: testLogger))
            async let running: Void = group.run()
            let lease = try await client.acquire("held", ttl: .seconds(60))
            let other = try #require(try await client.tryAcquire(["x", "y"], ttl: .seconds(60)))
            let isRunning = Shared(false)
            async let body = failure {
                try await client.withLock("body", ttl: .seconds(60)) { _ in
                    isRunning.change { $0 = true }
                    try await Task.sleep(for: .seconds(3600))
                }
            }
            try await eventually { isRunning.value }
            async let waiting = failure { try await client.acquire("held", wait: .seconds(60)) }
            try await eventually { client.waiterCount == 1 }

            await group.triggerGracefulShutdown()
            #expect(await waiting?.code == .clientShutDown)
            #expect(await body?.code == .leaseLost)
            try await running
            #expect(try await server.remains() == [])
            #expect(!lease.isHeld && !other.isHeld)
            #expect(await failure { try await client.tryAcquire("a") }?.code == .clientShutDown)
            #expect(await failure { try await client.acquire("a") }?.code == .clientShutDown)
            #expect(await failure { try await client.inspect("a") }?.code == .clientShutDown)
            // Its connections are closed.
            try await eventually { try await observer.send("CLIENT", "LIST").text?.split(separator: "\n").count == 1 }
        }
    }

    @Test func `cancelling run shuts down too`() async throws {
        try await withObservedRedis { server, observer in
            let client = try RingfenceClient(.init(url: server.unixURL), logger: testLogger)
            let running = Task { try await client.run() }
            let lease = try await client.acquire("a", ttl: .seconds(60))
            running.cancel()
            try await running.value
            #expect(!lease.isHeld)
            #expect(try await observer.isClean("a"))
        }
    }

    @Test(arguments: [SIGKILL, SIGSTOP])
    func `a shutdown without Redis ends all the same`(_ signal: Int32) async throws {
        try await withRedis { server in
            let client = try RingfenceClient(
                .init(url: server.url, commandTimeout: .milliseconds(200), connectTimeout: .milliseconds(200)),
                logger: testLogger)
            let lease = try await client.acquire("a", ttl: .seconds(60))
            await server.kill(signal)
            async let waiting = failure { try await client.acquire("b", wait: .seconds(60)) }
            try await eventually { client.waiterCount == 1 }
            let start = ContinuousClock.now
            await client.shutdown()
            // Promised: about two command timeouts. Far more is allowed here, for a machine full of tests.
            #expect(start.duration(to: .now) < .seconds(15))
            #expect(await waiting?.code == .clientShutDown)
            #expect(!lease.isHeld)
            await server.kill(SIGCONT)
        }
    }

    @Test func `shutting down twice, unused, and while a release is under way is harmless`() async throws {
        try await withObservedRedis { server, observer in
            let unused = try RingfenceClient(.init(url: server.unixURL), logger: testLogger)
            await unused.shutdown()
            await unused.shutdown()
            for _ in 0..<20 {
                let client = try RingfenceClient(.init(url: server.unixURL), logger: testLogger)
                let leases = try await [client.acquire("a", ttl: .seconds(60)), client.acquire("b", ttl: .seconds(60))]
                await withTaskGroup { group in
                    for lease in leases { group.addTask { try? await lease.release() } }
                    group.addTask { await client.shutdown() }
                    group.addTask { await client.shutdown() }
                }
                await client.shutdown()
                try await eventually { try await server.remains() == [] }
            }
        }
    }

    @Test func `a second shutdown returns when the first has ended`() async throws {
        try await withRedis { server in
            for _ in 0..<20 {
                let client = try RingfenceClient(.init(url: server.unixURL), logger: testLogger)
                let lease = try await client.acquire("a", ttl: .seconds(600))
                let first = Task { await client.shutdown() }
                try await eventually { client.isClosed }
                await client.shutdown()
                #expect(try await server.remains() == [] && !lease.isHeld)
                await first.value
            }
        }
    }

    @Test func `a client that is dropped without shutdown lets go of its connections`() async throws {
        try await withObservedRedis { server, observer in
            do {
                let client = try RingfenceClient(.init(url: server.unixURL), logger: testLogger)
                try await client.withLock("a") { _ in }
                #expect(try await observer.send("CLIENT", "LIST").text?.split(separator: "\n").count ?? 0 > 1)
            }
            try await eventually { try await observer.send("CLIENT", "LIST").text?.split(separator: "\n").count == 1 }
        }
    }
}
