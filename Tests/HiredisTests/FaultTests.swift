// SPDX-License-Identifier: Apache-2.0
//
// What the network and the server do to a command, and what the caller is then told.
import Hiredis
import NIOCore
import RingfencePlatform
import TestSupport
import Testing

@Suite struct FaultTests {
    // MARK: deadlines and cancellation

    @Test func `a late answer is unknown to its caller and never another's`() async throws {
        try await withRedis { server async throws in
            let proxy = try await TCPProxy.start(to: server)
            try await withClient(proxy.url) { client async throws in
                try await client.call("SET", "k", "v")
                proxy.update { $0.serverToClient.isStalled = true }
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for task in 0..<200 {
                        group.addTask {
                            // Every third one has no patience; all the others must get their own echo.
                            guard task % 3 == 0 else {
                                let echo = try await client.call("ECHO", "\(task)").text
                                return #expect(echo == "\(task)")
                            }
                            let error = await redisError {
                                try await client.call("ECHO", "\(task)", deadline: .milliseconds(30))
                            }
                            #expect(error?.code == .timedOut)
                            #expect(error?.effect == .unknown)
                        }
                    }
                    group.addTask {
                        for _ in 0..<67 { try await Task.sleep(for: .milliseconds(1)) }
                        proxy.update { $0.serverToClient.isStalled = false }
                    }
                    for try await _ in group {}
                }
                #expect(client.connection?.generation == 1)
            }
            await proxy.close()
        }
    }

    @Test func `a cancelled task returns at once and the others get their own answers`() async throws {
        try await withRedis { server async throws in
            let proxy = try await TCPProxy.start(to: server)
            try await withClient(proxy.url) { client async throws in
                try await client.call("PING")
                proxy.update { $0.serverToClient.isStalled = true }
                let before = proxy.bytesToServer
                let tasks = (100..<200).map { index in
                    Task { try await client.call("ECHO", "\(index)") }
                }
                let length = "*2\r\n$4\r\nECHO\r\n$3\r\n100\r\n".utf8.count
                try await eventually { proxy.bytesToServer == before + 100 * length }
                for task in tasks.enumerated() where task.offset.isMultiple(of: 2) { task.element.cancel() }
                for task in tasks.enumerated() where task.offset.isMultiple(of: 2) {
                    let error = await redisError { _ = try await task.element.value }
                    #expect(error?.code == .cancelled)
                    #expect(error?.effect == .unknown)
                }
                proxy.update { $0.serverToClient.isStalled = false }
                for task in tasks.enumerated() where !task.offset.isMultiple(of: 2) {
                    #expect(try await task.element.value.text == "\(100 + task.offset)")
                }
                #expect(client.connection?.generation == 1)
            }
            await proxy.close()
        }
    }

    @Test func `a task that is already cancelled sends nothing`() async throws {
        try await withRedis { server async throws in
            try await withClient(server.url) { client async throws in
                try await client.call("PING")
                let task = Task {
                    withUnsafeCurrentTask { $0?.cancel() }
                    try await client.call("SET", "k", "v")
                }
                let error = await redisError { _ = try await task.value }
                #expect(error?.code == .cancelled)
                #expect(error?.effect == RedisError.Effect.none)
                try await client.call("PING")
                #expect(try await server.cli("EXISTS", "k") == "0")
            }
        }
    }

    @Test func `commands that ended while disconnected are never sent later`() async throws {
        try await withRedis { server async throws in
            let proxy = try await TCPProxy.start(to: server)
            await proxy.refuse()
            try await withClient(proxy.url) { client async throws in
                let cancelled = Task { try await client.call("INCR", "cancelled") }
                async let late = redisError { try await client.call("INCR", "late", deadline: .milliseconds(50)) }
                async let patient = client.call("INCR", "patient")
                let error = await late
                #expect(error?.code == .notConnected)
                #expect(error?.effect == RedisError.Effect.none)
                #expect(error?.isRetriable == true)
                cancelled.cancel()
                let cancellation = await redisError { _ = try await cancelled.value }
                #expect(cancellation?.code == .cancelled)
                #expect(cancellation?.effect == RedisError.Effect.none)
                try await proxy.listen()
                #expect(try await patient == .integer(1))
                #expect(try await server.cli("EXISTS", "late", "cancelled") == "0")
            }
            await proxy.close()
        }
    }

    // MARK: reconnection

    @Test func `CLIENT KILL breaks what waits as unknown and the client comes back`() async throws {
        try await withRedis { server async throws in
            try await withClient(server.url) { client async throws in
                try await client.call("PING")
                for generation in 1...5 {
                    let id = try #require(client.connection?.clientID)
                    // Blocks the connection, so that it dies with a command unanswered.
                    async let blocked = redisError { try await client.call("BLPOP", "none", "0") }
                    try await eventually { try await server.cli("INFO", "clients").contains("blocked_clients:1") }
                    #expect(try await server.cli("CLIENT", "KILL", "ID", "\(id)") == "1")
                    let error = await blocked
                    #expect(error?.code == .connectionLost)
                    #expect(error?.effect == .unknown)
                    #expect(try await client.call("ECHO", "\(generation)").text == "\(generation)")
                    #expect(client.connection?.generation == generation + 1)
                }
            }
        }
    }

    @Test func `a server killed by kill -9 and started again is found again`() async throws {
        try await withRedis { server async throws in
            for url in [server.url, server.unixURL] {
                try await withClient(url) { client async throws in
                    try await client.call("SET", "k", "v")
                    let run = client.connection?.runID
                    await server.kill(SIGKILL)
                    try await eventually { client.connection == nil }
                    let error = await redisError { try await client.call("PING", deadline: .milliseconds(30)) }
                    #expect(error?.code == .notConnected)
                    #expect(error?.effect == RedisError.Effect.none)
                    async let waiting = client.call("EXISTS", "k")
                    try await server.restart()
                    #expect(try await waiting == .integer(0))
                    #expect(client.connection?.runID != run)
                }
            }
        }
    }

    @Test func `a half-open connection is noticed by the probe`() async throws {
        try await withRedis { server async throws in
            let proxy = try await TCPProxy.start(to: server)
            try await withClient(proxy.url, { $0.probeInterval = .milliseconds(100) }) { client async throws in
                try await client.call("PING")
                // Idle but alive: the probe is answered, nothing happens.
                let before = proxy.bytesToServer
                try await eventually { proxy.bytesToServer > before + 3 * 14 }
                #expect(client.connection?.generation == 1)
                proxy.update { $0.serverToClient.isStalled = true }
                let error = await redisError { try await client.call("PING") }
                #expect(error?.code == .connectionLost)
                #expect(error?.message.contains("probe") == true)
                proxy.update { $0.serverToClient.isStalled = false }
                #expect(try await client.call("ECHO", "back").text == "back")
            }
            await proxy.close()
        }
    }

    @Test func `a connection cut at every byte of a command runs it at most once and says what is known`() async throws
    {
        try await withRedis { server async throws in
            let proxy = try await TCPProxy.start(to: server)
            try await withClient(proxy.url, { $0.backoff.cap = .milliseconds(20) }) { client async throws in
                let command = "*2\r\n$4\r\nINCR\r\n$5\r\nk0000\r\n"
                for position in 0...command.utf8.count {
                    let key = "k\(1000 + position)"
                    try await client.call("PING")
                    proxy.update { $0.clientToServer.cutAfter = position }
                    let error = await redisError { try await client.call("INCR", key) }
                    let count = try await server.cli("GET", key)
                    if let error {
                        #expect(error.effect == .unknown || count == "")
                        #expect(count == "" || count == "1")
                        #expect(position >= command.utf8.count || count == "")
                    } else {
                        #expect(count == "1")
                    }
                    proxy.update { $0.clientToServer.cutAfter = nil }
                }
            }
            await proxy.close()
        }
    }

    // MARK: ghosts

    /// Cuts a client off while its INCR is still on the way, lets it reconnect, then delivers the INCR.
    private func ghosts(_ server: RedisServer, user: String) async throws -> Int {
        var ghosts = 0
        for round in 0..<5 {
            let proxy = try await TCPProxy.start(to: server)
            let key = "ghost:\(user):\(round)"
            try await withClient("redis://\(user):pw@127.0.0.1:\(proxy.port)") { client async throws in
                try await client.call("GET", key)
                proxy.update { $0.clientToServer.isStalled = true }
                var error: RedisError?
                // (On a busy machine its time may be over before it is written.)
                repeat {
                    error = await redisError { try await client.call("INCR", key, deadline: .milliseconds(40)) }
                } while error?.effect == RedisError.Effect.none
                #expect(error?.code == .timedOut)
                #expect(error?.effect == .unknown)
                // The new connection passes, the old one's bytes do not yet.
                proxy.passNewConnections()
                proxy.cutClients()
                try await eventually { client.connection?.generation == 2 }
                #expect(try await client.call("GET", key) == .null)
                proxy.update { $0.clientToServer.isStalled = false }
                // The old server connection is gone once all that was on it has been read or refused.
                try await eventually { proxy.open == 1 }
                if try await client.call("GET", key) != .null { ghosts += 1 }
            }
            await proxy.close()
        }
        return ghosts
    }

    @Test func `bytes of a broken connection never run after its successor took over`() async throws {
        let users = [
            "--user", "able", "on", ">pw", "~*", "&*", "+@all", "--user", "unable", "on", ">pw", "~*", "&*", "+@all",
            "-client", "+client|id", "+client|setname",
        ]
        try await withRedis(users) { server async throws in
            #expect(try await ghosts(server, user: "able") == 0)
            // The control: whose rights do not reach to end the old connection sees the ghost each time.
            #expect(try await ghosts(server, user: "unable") == 5)
        }
    }

    // MARK: limits

    @Test func `limits on commands and bytes in flight refuse with overloaded and no effect`() async throws {
        try await withRedis { server async throws in
            let proxy = try await TCPProxy.start(to: server)
            let limits: (inout RedisConfiguration) -> Void = {
                $0.maximumCommandsInFlight = 100
                $0.maximumBytesInFlight = 100_000
            }
            try await withClient(proxy.url, limits) { client async throws in
                try await client.call("PING")
                proxy.update { $0.serverToClient.isStalled = true }
                let tasks = (0..<100).map { index in Task { try await client.call("INCR", "k") } }
                try await eventually { try await server.cli("GET", "k") == "100" }
                let error = await redisError { try await client.call("INCR", "k") }
                #expect(error?.code == .overloaded)
                #expect(error?.effect == RedisError.Effect.none)
                proxy.update { $0.serverToClient.isStalled = false }
                for task in tasks { _ = try await task.value }
                let large = String(repeating: "x", count: 100_001)
                let tooLarge = await redisError { try await client.call("SET", "k", large) }
                #expect(tooLarge?.code == .overloaded)
                #expect(try await client.call("GET", "k").int == 100)
            }
            await proxy.close()
        }
    }

    @Test func `close fails what waits and what comes later, and is idempotent`() async throws {
        try await withRedis { server async throws in
            try await withClient(server.url) { client async throws in
                try await client.call("PING")
                async let blocked = redisError { try await client.call("BLPOP", "none", "0") }
                try await eventually { try await server.cli("INFO", "clients").contains("blocked_clients:1") }
                await client.close()
                let error = await blocked
                #expect(error?.code == .closed)
                #expect(error?.effect == .unknown)
                await client.close()
                let later = await redisError { try await client.call("PING") }
                #expect(later?.code == .closed)
                #expect(later?.effect == RedisError.Effect.none)
                try await eventually { try await server.cli("INFO", "clients").contains("connected_clients:1") }
            }
        }
    }
}
