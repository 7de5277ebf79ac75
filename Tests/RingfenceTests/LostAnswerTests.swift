// SPDX-License-Identifier: Apache-2.0
//
// Acquires whose answers do not come in time. The dangerous ones are those whose bytes are still on their way when the
// caller has been told: executed late, they would take a lock for nobody.

import Hiredis
import Ringfence
import RingfencePlatform
import TestSupport
import Testing

@Suite struct LostAnswerTests {
    enum Stall: CaseIterable {
        /// The commands wait on the way, and arrive when it heals.
        case onTheWay
        /// They arrive and are done, but the answers wait.
        case onTheWayBack
        /// The server sleeps.
        case inTheServer
        /// The commands wait on the way, and their connection is lost: they arrive from a client that has connected
        /// anew and cleaned up.
        case behindALostConnection
    }

    @Test(arguments: Stall.allCases)
    func `200 acquires without an answer leave no ghost`(_ stall: Stall) async throws {
        try await withObservedRedis { server, observer in
            let proxy = try await TCPProxy.start(to: server)
            try await withClient(proxy.url, { $0.commandTimeout = .milliseconds(300) }) { client in
                // The script is loaded.
                try await eventually { (try? await client.withLock("warm", wait: .zero) { _ in }) != nil }
                switch stall {
                case .onTheWay, .behindALostConnection: proxy.update { $0.clientToServer.isStalled = true }
                case .onTheWayBack: proxy.update { $0.serverToClient.isStalled = true }
                case .inTheServer: await server.kill(SIGSTOP)
                }
                await withTaskGroup { group in
                    for number in 0..<200 {
                        group.addTask {
                            let error = await failure {
                                try await client.tryAcquire("lock \(number)", ttl: .seconds(60))
                            }
                            #expect(error?.code == .coordinatorUnavailable)
                            #expect(error?.effect == .unknown)
                        }
                    }
                }
                if stall == .behindALostConnection {
                    proxy.passNewConnections()
                    proxy.cutClients()
                    try await eventually { (try? await client.ping()) != nil }
                    try await eventually("cleaned up") { try await commands(observer) >= 200 }
                }
                await server.kill(SIGCONT)
                proxy.update { faults in
                    faults.clientToServer.isStalled = false
                    faults.serverToClient.isStalled = false
                }
                try await eventually("no ghosts") { try await server.remains() == [] }
                // Not for a moment only: the client has nothing more under way, and it still is so.
                for number in 0..<200 {
                    let lease = try await client.acquire("lock \(number)", ttl: .seconds(60), wait: .seconds(60))
                    try await lease.release()
                }
                #expect(try await server.remains() == [])
            }
            await proxy.close()
        }
    }

    /// Scripts run so far.
    private func commands(_ observer: Observer) async throws -> Int {
        let lines = try await observer.send("INFO", "commandstats").text?.split(whereSeparator: \.isNewline) ?? []
        let line = lines.first { $0.hasPrefix("cmdstat_evalsha:calls=") }
        return line.flatMap { Int($0.dropFirst(22).prefix { $0 != "," }) } ?? 0
    }

    @Test func `a wait outlives a silent Redis, and ends with the lock`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL, { $0.commandTimeout = .milliseconds(100) }) { client in
                try await client.withLock("a") { _ in }
                await server.kill(SIGSTOP)
                async let waiting = client.acquire("a", ttl: .seconds(30), wait: .seconds(60))
                try await eventually { client.waiterCount == 1 }
                let error = await failure { try await client.ping() }
                #expect(error?.code == .coordinatorUnavailable)
                await server.kill(SIGCONT)
                try await waiting.release()
                #expect(try await observer.isClean("a"))
            }
        }
    }

    @Test func `a wait that ends while Redis is silent says that Redis was silent, not that the lock was busy`()
        async throws
    {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL, { $0.commandTimeout = .seconds(60) }) { client in
                try await client.withLock("a") { _ in }
                await server.kill(SIGSTOP)
                let error = await failure { try await client.acquire("a", wait: .milliseconds(150)) }
                await server.kill(SIGCONT)
                #expect(error?.code == .coordinatorUnavailable)
                #expect(error?.effect == .unknown)
                try await eventually { try await observer.isClean("a") }
                #expect(try await client.tryAcquire("a") != nil)
            }
        }
    }
}
