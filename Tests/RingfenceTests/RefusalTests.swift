// SPDX-License-Identifier: Apache-2.0
//
// A Redis that answers, but with no: full, read-only, not allowed, not able to save. The caller must hear why, with
// effect `none`, and what is held must still be renewed and released.

import Hiredis
import Ringfence
import RingfencePlatform
import TestSupport
import Testing

@Suite struct RefusalTests {
    @Test func `a full Redis refuses new locks and still renews and releases old ones`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let lease = try await client.acquire("held", ttl: .seconds(60))
                try await observer.send("CONFIG", "SET", "maxmemory", "1")
                for wait in [Duration.zero, .seconds(60)] {
                    let error = await failure { try await client.acquire("new", wait: wait) }
                    #expect(error?.code == .coordinatorRefused)
                    #expect(error?.effect == RingfenceError.Effect.none)
                    #expect(error?.message.contains("OOM") == true)
                }
                try await lease.renew()
                #expect(try await client.inspect("held").holder?.owner == lease.owner)
                try await lease.release()
                #expect(try await server.remains() == [])
                try await observer.send("CONFIG", "SET", "maxmemory", "0")
                try await client.withLock("new") { _ in }
            }
        }
    }

    @Test func `a full Redis still hands a lock on to those who wait already`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 3) { clients in
                let first = try await clients[0].acquire("a", ttl: .seconds(60))
                async let second = clients[1].acquire("a", ttl: .seconds(60), wait: .seconds(60))
                try await eventually { try await clients[0].inspect("a").queueLength == 1 }
                async let third = clients[2].acquire("a", ttl: .seconds(60), wait: .seconds(60))
                try await eventually { try await clients[0].inspect("a").queueLength == 2 }
                try await observer.send("CONFIG", "SET", "maxmemory", "1")
                try await first.release()
                let lease = try await second
                #expect(lease.fence > first.fence)
                try await lease.release()
                try await third.release()
                #expect(try await server.remains() == [])
            }
        }
    }

    @Test func `a replica refuses locks, and says so`() async throws {
        try await withObservedRedis { primary, _ in
            try await withObservedRedis(["--replicaof", "127.0.0.1", "\(primary.port)"]) { server, _ in
                try await withClient(server.unixURL, { $0.commandTimeout = .seconds(2) }) { client in
                    for wait in [Duration.zero, .milliseconds(150)] {
                        let error = await failure { try await client.acquire("a", wait: wait) }
                        #expect(error?.code == .coordinatorUnavailable)
                        // A wait may end while the next try is under way, and then nobody knows of that one.
                        if wait == .zero { #expect(error?.effect == RingfenceError.Effect.none) }
                        #expect(error?.message.contains("is a replica of 127.0.0.1:\(primary.port)") == true)
                    }
                    let remains = try await server.remains()
                    #expect(remains == [])
                }
            }
        }
    }

    @Test func `a wait at a replica ends with the lock when it is promoted`() async throws {
        try await withObservedRedis { primary, _ in
            try await withObservedRedis(["--replicaof", "127.0.0.1", "\(primary.port)"]) { server, observer in
                try await withClient(server.unixURL) { client in
                    async let waiting = client.acquire("a", wait: .seconds(60))
                    try await eventually { client.waiterCount == 1 }
                    _ = await failure { try await client.tryAcquire("b") }
                    try await observer.send("REPLICAOF", "NO", "ONE")
                    try await waiting.release()
                    #expect(try await observer.isClean("a"))
                }
            }
        }
    }

    @Test func `a user without permission is refused at once, with the reason`() async throws {
        try await withObservedRedis { server, observer in
            try await observer.send(
                "ACL", "SETUSER", "nobody", "on", ">secret-password", "~*", "&*", "+@connection", "+info")
            try await withClient("redis://nobody:secret-password@127.0.0.1:\(server.port)") { client in
                for wait in [Duration.zero, .seconds(60)] {
                    let error = await failure { try await client.acquire("a", wait: wait) }
                    #expect(error?.code == .coordinatorRefused)
                    #expect(error?.effect == RingfenceError.Effect.none)
                    #expect(error?.isRetriable == false)
                    #expect(error?.message.contains("NOPERM") == true)
                    #expect(error?.message.contains("secret-password") == false)
                }
            }
        }
    }

    @Test func `a user who may not touch these keys is refused at once, and nothing is written`() async throws {
        try await withObservedRedis { server, observer in
            try await observer.send("ACL", "SETUSER", "other", "on", ">secret-password", "~elsewhere:*", "&*", "+@all")
            try await withClient("redis://other:secret-password@127.0.0.1:\(server.port)") { client in
                let error = await failure { try await client.acquire("a", wait: .seconds(60)) }
                #expect(error?.code == .coordinatorRefused)
                #expect(error?.message.contains("NOPERM") == true)
                let keys = try await observer.send("DBSIZE")
                #expect(keys == .integer(0))
            }
        }
    }

    @Test func `a wrong password is said at once, and not repeated in the message`() async throws {
        try await withObservedRedis(["--requirepass", "right-password"]) { server, _ in
            for user in ["", "default", "stranger"] {
                try await withClient("redis://\(user):wrong-password@127.0.0.1:\(server.port)") { client in
                    let start = ContinuousClock.now
                    let error = await failure { try await client.acquire("a", wait: .seconds(60)) }
                    #expect(error?.code == .coordinatorRefused)
                    #expect(error?.effect == RingfenceError.Effect.none)
                    #expect(error?.message.contains("WRONGPASS") == true)
                    #expect("\(String(describing: error))".contains("wrong-password") == false)
                    #expect(start.duration(to: .now) < .seconds(30))
                }
            }
        }
    }

    @Test func `no password where one is needed is said at once`() async throws {
        try await withObservedRedis { server, observer in
            try await observer.send("CONFIG", "SET", "requirepass", "right-password")
            try await withClient(server.unixURL) { client in
                let error = await failure { try await client.acquire("a", wait: .seconds(60)) }
                #expect(error?.code == .coordinatorRefused)
                #expect(error?.message.contains("NOAUTH") == true)
            }
        }
    }

    @Test func `a Redis that cannot save refuses locks with effect none, and grants them when it can again`()
        async throws
    {
        try await withObservedRedis(["--enable-protected-configs", "yes"]) { server, observer in
            try await withClient(server.unixURL) { client in
                try await client.withLock("a") { _ in }
                // With a save point configured, a failed save stops all writes; into a directory that is gone, it
                // fails.
                try await observer.send("CONFIG", "SET", "save", "3600 1")
                let gone = server.directory.path + "/gone"
                #expect(mkdir(gone, 0o700) == 0)
                try await observer.send("CONFIG", "SET", "dir", gone)
                #expect(rmdir(gone) == 0)
                try await observer.send("BGSAVE")
                try await eventually("the save failed") {
                    try await observer.send("INFO", "persistence").text?.contains("rdb_last_bgsave_status:err") == true
                }
                let error = await failure { try await client.tryAcquire("a") }
                #expect(error?.code == .coordinatorUnavailable)
                #expect(error?.effect == RingfenceError.Effect.none)
                #expect(error?.isRetriable == true)
                #expect(error?.message.contains("MISCONF") == true)
                async let waiting = client.acquire("a", wait: .seconds(60))
                try await eventually { client.waiterCount == 1 }
                try await observer.send("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
                try await waiting.release()
                #expect(try await server.remains() == [])
            }
        }
    }
}
