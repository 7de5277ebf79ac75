// SPDX-License-Identifier: Apache-2.0
//
// redis-server itself killed, restarted with and without its data, and frozen. One process holds all the clients, so
// one clock sees every hold: when its body last could say that it holds, and when the next one's first could.

import Hiredis
import Ringfence
import RingfencePlatform
import TestSupport
import Testing

@Suite struct RedisRestartTests {
    /// What a body believed.
    struct Hold: Sendable {
        var fence: Int64
        var from: ContinuousClock.Instant
        var until: ContinuousClock.Instant
    }

    /// Holds in the order in which they began; the fences must rise in it.
    private func checkFences(_ holds: [Hold]) {
        let inOrder = holds.sorted { $0.fence < $1.fence }
        for (hold, next) in zip(inOrder, inOrder.dropFirst()) {
            #expect(hold.fence < next.fence)
            #expect(hold.from < next.from, "fence \(next.fence) was believed before \(hold.fence)")
        }
    }

    private func checkAlone(_ holds: [Hold]) {
        let inOrder = holds.sorted { $0.from < $1.from }
        for (hold, next) in zip(inOrder, inOrder.dropFirst()) {
            #expect(hold.until < next.from, "two believed to hold at once")
        }
    }

    /// Tasks of two clients take turns on one lock, each for a while, until `disturb` is over and each has had one more
    /// turn.
    private func takingTurns(
        _ arguments: [String] = [], ttl: Duration = .milliseconds(300),
        _ disturb: @escaping @Sendable (RedisServer, Shared<[Hold]>) async throws -> Void
    ) async throws -> [Hold] {
        try await withRedis(arguments) { server in
            try await withClients(server.url, 2) { clients in
                let holds = Shared<[Hold]>([])
                let isOver = Shared(false)
                try await withThrowingTaskGroup { group in
                    for client in clients + clients {
                        group.addTask {
                            var rounds = 1
                            while rounds > 0 {
                                if isOver.value { rounds -= 1 }
                                do {
                                    try await client.withLock("a", ttl: ttl, wait: .seconds(60)) { lease in
                                        guard lease.isHeld else { return }
                                        var hold = Hold(fence: lease.fence, from: .now, until: .now)
                                        let turn = ContinuousClock.now.advanced(by: .milliseconds(20))
                                        while true {
                                            // The moment is taken before the question: held then, for sure.
                                            let now = ContinuousClock.now
                                            guard lease.isHeld else { break }
                                            hold.until = now
                                            if now > turn { break }
                                            await Task.yield()
                                        }
                                        holds.change { [hold] in $0.append(hold) }
                                    }
                                } catch let error as RingfenceError where error.code == .leaseLost {
                                    rounds += isOver.value ? 1 : 0
                                }
                            }
                        }
                    }
                    try await eventually { holds.value.count > 2 }
                    try await disturb(server, holds)
                    isOver.change { $0 = true }
                    for try await _ in group {}
                }
                try await eventually("nothing left") { try await server.remains() == [] }
                return holds.value
            }
        }
    }

    @Test func `with its data lost in a restart, locks go on with larger fences`() async throws {
        let holds = try await takingTurns { server, holds in
            for _ in 0..<3 {
                await server.kill(SIGKILL)
                try await server.restart()
                let count = holds.value.count
                try await eventually { holds.value.count > count + 3 }
            }
        }
        checkFences(holds)
    }

    @Test func `killed and restarted with its append-only file, no lock is held twice`() async throws {
        let holds = try await takingTurns(["--appendonly", "yes"]) { server, holds in
            for _ in 0..<3 {
                await server.kill(SIGKILL)
                try await server.restart()
                let count = holds.value.count
                try await eventually { holds.value.count > count + 3 }
            }
        }
        checkFences(holds)
        checkAlone(holds)
    }

    @Test func `frozen for longer than a lease, no lock is held twice`() async throws {
        let holds = try await takingTurns(ttl: .milliseconds(100)) { server, holds in
            for _ in 0..<3 {
                await server.kill(SIGSTOP)
                // Longer than the lease: that time passes is what this is about.
                try await Task.sleep(for: .milliseconds(250))
                await server.kill(SIGCONT)
                let count = holds.value.count
                try await eventually { holds.value.count > count + 3 }
            }
        }
        checkFences(holds)
        checkAlone(holds)
    }

    @Test(arguments: [SIGKILL, SIGSTOP])
    func `a body is cancelled by its own clock when Redis is gone`(_ signal: Int32) async throws {
        try await withRedis { server in
            try await withClient(server.url, { $0.commandTimeout = .milliseconds(300) }) { client in
                let error = await failure {
                    try await client.withLock("a", ttl: .milliseconds(400)) { _ in
                        await server.kill(signal)
                        // Ends by cancellation only.
                        try await Task.sleep(for: .seconds(3600))
                    }
                }
                #expect(error?.code == .leaseLost)
                #expect(error?.effect == .unknown)
                #expect(client.leaseCount == 0)
                await server.kill(SIGCONT)
            }
        }
    }

    @Test func `a lease that Redis lost in a restart is lost at the next renewal, and the lock is another's`()
        async throws
    {
        try await withRedis { server in
            try await withClients(server.url, 2) { clients in
                let lease = try await clients[0].acquire("a", ttl: .milliseconds(600))
                await server.kill(SIGKILL)
                try await server.restart()
                let next = try await clients[1].acquire("a", ttl: .seconds(30), wait: .seconds(60))
                #expect(next.fence > lease.fence)
                try await eventually { !lease.isHeld }
                let error = await failure { try await lease.release() }
                #expect(error?.code == .leaseLost)
                try await next.renew()
                try await next.release()
                #expect(try await server.remains() == [])
            }
        }
    }
}
