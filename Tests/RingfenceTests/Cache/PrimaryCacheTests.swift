// SPDX-License-Identifier: Apache-2.0
//
// A cache at a group's primary, on a real pair of Redis servers with Redis' own replication. The test does what the
// agents do in docker/examples/cache: it promotes, lets follow, and says ready.
import Hiredis
import Ringfence
import RingfenceCache
import RingfencePlatform
import TestSupport
import Testing

@Suite struct PrimaryCacheTests {
    private static let confirmed = Durability.confirmed(replicas: 1, within: .seconds(5))
    private static let confirmedSoon = Durability.confirmed(replicas: 1, within: .milliseconds(50))

    @Test func `what is set is found until it is removed or its time is over, and stands as a plain string`()
        async throws
    {
        try await PrimaryCachePair.with { pair, _ in
            let cache = try await pair.open()
            #expect(cache.name == "cache")
            #expect(try await cache.get("a") == nil)
            try await cache.set("a", [0, 13, 10, 255])
            #expect(try await cache.get("a") == [0, 13, 10, 255])
            #expect(try await pair.value("a", at: 0) == [0, 13, 10, 255])
            try await cache.set("a", [])
            #expect(try await cache.get("a") == [])
            #expect(try await pair.observers[0].send("PTTL", PrimaryCachePair.key("a")) == .integer(-1))
            try await cache.remove("a")
            #expect(try await cache.get("a") == nil)
            try await cache.remove("a")
            // Two keys that are one string to Swift, and two to Redis.
            try await cache.set("caf\u{e9}", [1])
            try await cache.set("cafe\u{301}", [2])
            #expect(try await cache.get("caf\u{e9}") == [1])

            for durability in [Durability.primary, Self.confirmed] {
                try await cache.set("b", [1], for: .seconds(1000), durability: durability)
                let left = try #require(try await pair.observers[0].send("PTTL", PrimaryCachePair.key("b")).int)
                #expect((900_000...1_000_000).contains(left))
                try await cache.set("b", [2], for: .milliseconds(20), durability: durability)
                try await eventually("its time is over") { try await cache.get("b") == nil }
            }
            let large = [UInt8](repeating: 7, count: CacheOptions.maximumValueBytes)
            try await cache.set("large", large, durability: Self.confirmed)
            #expect(try await cache.get("large") == large)
        }
    }

    @Test func `a confirmed write is on the replica when its call returns, one alone or many at once`() async throws {
        try await PrimaryCachePair.with { pair, _ in
            let cache = try await pair.open(Self.confirmed)
            for number in 0..<20 {
                try await cache.set("a", [UInt8(number)])
                #expect(try await pair.value("a", at: 1) == [UInt8(number)])
            }
            try await cache.remove("a")
            #expect(try await pair.value("a", at: 1) == nil)
            try await withThrowingTaskGroup { tasks in
                for number in 0..<300 {
                    tasks.addTask {
                        let bytes = Array("\(number)".utf8)
                        try await cache.set("many-\(number)", bytes)
                        #expect(try await pair.value("many-\(number)", at: 1) == bytes)
                        guard number % 3 == 0 else { return }
                        try await cache.remove("many-\(number)")
                        #expect(try await pair.value("many-\(number)", at: 1) == nil)
                    }
                }
                for try await _ in tasks {}
            }
        }
    }

    @Test func `with its replica frozen a write stands at the primary, and its call says that it is not confirmed`()
        async throws
    {
        try await PrimaryCachePair.with { pair, _ in
            let cache = try await pair.open(Self.confirmedSoon)
            try await cache.set("gone", [1], durability: Self.confirmed)
            await pair.servers[1].kill(SIGSTOP)
            let error = try #require(await failure { try await cache.set("a", [1]) })
            #expect(error.code == .cacheNotConfirmed && error.effect == .unknown && error.isRetriable)
            #expect(error.message.contains("0 of 1 replicas acknowledged it within 50 ms"))
            #expect(try await cache.get("a") == [1])
            // Others ask for less, and do not stand behind it.
            try await cache.set("b", [2], durability: .primary)

            // Somebody else removed it, and the replica does not know. What finds nothing to remove must not call that
            // confirmed.
            try await cache.remove("gone", durability: .primary)
            #expect(await failure { try await cache.remove("gone") }?.code == .cacheNotConfirmed)

            await pair.servers[1].kill(SIGCONT)
            try await cache.set("a", [1], durability: Self.confirmed)
            #expect(try await pair.value("a", at: 1) == [1])
            #expect(try await pair.value("gone", at: 1) == nil)
        }
    }

    @Test func `two replicas are not one, and none is not one`() async throws {
        try await PrimaryCachePair.with { pair, _ in
            let cache = try await pair.open()
            let two = Durability.confirmed(replicas: 2, within: .seconds(2))
            let error = try #require(await failure { try await cache.set("a", [1], durability: two) })
            #expect(error.code == .cacheNotConfirmed && error.message.contains(" 1 of 2 replicas"))
            await pair.servers[1].kill(SIGKILL)
            let none = try #require(await failure { try await cache.remove("a", durability: Self.confirmedSoon) })
            #expect(none.code == .cacheNotConfirmed && none.effect == .unknown)
            #expect(try await cache.get("a") == nil)
        }
    }

    @Test func `two hundred that are not confirmed do not wait for one another's time`() async throws {
        try await PrimaryCachePair.with { pair, _ in
            let cache = try await pair.open()
            await pair.servers[1].kill(SIGSTOP)
            let durability = Durability.confirmed(replicas: 1, within: .milliseconds(300))
            try await withThrowingTaskGroup(of: RingfenceError?.self) { tasks in
                for number in 0..<200 {
                    tasks.addTask {
                        await failure { try await cache.set("\(number)", [1], durability: durability) }
                    }
                }
                for try await error in tasks { #expect(error?.code == .cacheNotConfirmed, "\(error as Any)") }
            }
            // Not by the clock: how often Redis was asked. (The first look of the test is one too.)
            let info = try await pair.observers[0].send("INFO", "commandstats").text ?? ""
            let line = try #require(info.split(whereSeparator: \.isNewline).first { $0.hasPrefix("cmdstat_wait:") })
            let calls = try #require(Int(line.dropFirst("cmdstat_wait:calls=".count).prefix { $0 != "," }))
            #expect(calls < 100)
            await pair.servers[1].kill(SIGCONT)
        }
    }

    @Test func `who was primary and is a replica now refuses, nothing is done, and calls follow to the new one`()
        async throws
    {
        try await PrimaryCachePair.with { pair, _ in
            let cache = try await pair.open()
            try await cache.set("a", [1], durability: Self.confirmed)
            // Redis was switched over, and the group has not heard of it.
            try await pair.observers[1].send("REPLICAOF", "NO", "ONE")
            try await pair.observers[0].send("REPLICAOF", "127.0.0.1", "\(pair.servers[1].port)")
            for durability in [Durability.primary, Self.confirmed] {
                let error = try #require(await failure { try await cache.set("a", [2], durability: durability) })
                #expect(error.code == .cachePrimary && error.effect == RingfenceError.Effect.none && error.isRetriable)
                #expect(error.message.contains("'node-1' refuses: this Redis is a replica"))
            }
            #expect(try await pair.value("a", at: 1) == [1])
            try await pair.memberships[0].leave()
            try await eventually(pair.group, "it has left") { $0.primary?.phase != .ready }
            let error = try #require(await failure { try await cache.get("a") })
            #expect(error.code == .cachePrimary && error.effect == RingfenceError.Effect.none && error.isRetriable)
            #expect(error.message.hasSuffix("it has no primary"))
            try await pair.lead(1)
            try await eventually("the old one follows") {
                try await pair.observers[1].send("WAIT", "1", "10") == .integer(1)
            }
            try await cache.set("a", [3], durability: Self.confirmed)
            #expect(try await cache.get("a") == [3])
            #expect(try await pair.value("a", at: 0) == [3])
        }
    }

    @Test func `a primary that hands over is read, and takes no writes`() async throws {
        try await PrimaryCachePair.with { pair, first in
            let cache = try await pair.open()
            try await cache.set("a", [1], durability: Self.confirmed)
            let second = try await pair.memberships[1].campaign()
            try await eventually(pair.group, "both stand") { $0.members.count { $0.isCandidate } == 2 }
            async let switched = pair.client.operations(on: "cache").switchover(timeout: .seconds(60))
            try await pair.see(0, .handingOver)
            #expect(try await cache.get("a") == [1])
            let error = try #require(await failure { try await cache.set("a", [2]) })
            #expect(error.code == .cachePrimary && error.effect == RingfenceError.Effect.none && error.isRetriable)
            #expect(error.message.contains("'node-1' is not ready (handingOver)"))
            try await pair.observers[1].send("REPLICAOF", "NO", "ONE")
            try await eventually("told to stop") { if case .handingOver = first.role { true } else { false } }
            #expect(first.readyToHandOver(try #require(first.role.epoch)))
            try await eventually("it is elected") { second.role.epoch != nil }
            second.ready(try #require(second.role.epoch))
            _ = try await switched
            try await pair.see(1)
            #expect(try await cache.get("a") == [1])
            try await cache.set("a", [2])
            #expect(try await pair.value("a", at: 1) == [2])
        }
    }

    @Test(arguments: [true, false])
    func `what was confirmed outlives its primary, and every failure tells the truth`(isKilled: Bool) async throws {
        try await PrimaryCachePair.with { pair, _ in
            let cache = try await pair.open(
                .confirmed(replicas: 1, within: .seconds(1)), timeout: .seconds(1))
            // By key: nil for a write that was confirmed.
            let ended = Shared<[String: RingfenceError?]>([:])
            let isOver = Shared(false)
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for task in 0..<8 {
                    tasks.addTask {
                        var number = 0
                        while !isOver.value {
                            let key = "\(task)-\(number)"
                            number += 1
                            let error = await failure { try await cache.set(key, [1]) }
                            ended.change { $0[key] = .some(error) }
                            // While there is no primary calls fail at once: not a million of them.
                            if error != nil { try await Task.sleep(for: .milliseconds(5)) }
                        }
                    }
                }
                try await eventually("some are confirmed", within: .seconds(60)) {
                    ended.value.count { $0.value == nil } > 200
                }
                await pair.servers[0].kill(isKilled ? SIGKILL : SIGSTOP)
                try await eventually("some fail", within: .seconds(60)) { ended.value.values.contains { $0 != nil } }
                try await pair.failOver()
                try await eventually("the new one takes writes, and has no replica", within: .seconds(60)) {
                    ended.value.values.contains { $0?.code == .cacheNotConfirmed }
                }
                isOver.change { $0 = true }
                for try await _ in tasks {}
            }
            let all = ended.value
            for (key, error) in all {
                let value = try await pair.value(key, at: 1)
                switch error {
                case nil: #expect(value == [1], "\(key) was confirmed, and is lost")
                case let error? where error.effect == .none:
                    #expect(value == nil, "\(key) is there: \(error)")
                    #expect(error.code == .cachePrimary && error.isRetriable)
                case let error?:
                    #expect(
                        error.effect == .unknown && [.cachePrimary, .cacheNotConfirmed].contains(error.code), "\(error)"
                    )
                }
            }

            // The old one is back as a replica, and writes are confirmed again.
            if isKilled {
                try await pair.servers[0].restart()
            } else {
                await pair.servers[0].kill(SIGCONT)
            }
            try await pair.observers[0].send("REPLICAOF", "127.0.0.1", "\(pair.servers[1].port)")
            try await eventually("it follows", within: .seconds(60)) {
                try await pair.observers[1].send("WAIT", "1", "10") == .integer(1)
            }
            try await eventually("confirmed again") { await failure { try await cache.set("last", [9]) } == nil }
            #expect(try await pair.value("last", at: 0) == [9])
        }
    }

    @Test func `a primary that does not answer leaves a write unknown and a read undone`() async throws {
        try await PrimaryCachePair.with { pair, _ in
            let cache = try await pair.open(timeout: .milliseconds(100))
            try await eventually("connected") { await failure { try await cache.get("a") } == nil }
            await pair.servers[0].kill(SIGSTOP)
            let write = try #require(await failure { try await cache.set("a", [1]) })
            #expect(write.code == .cachePrimary && write.effect == .unknown && write.isRetriable)
            let read = try #require(await failure { try await cache.get("a") })
            #expect(read.code == .cachePrimary && read.effect == RingfenceError.Effect.none && read.isRetriable)
            await pair.servers[0].kill(SIGCONT)
            // The late one is under way still, or was: it does not come after what is written now.
            try await eventually("it answers") { await failure { try await cache.set("a", [2]) } == nil }
            #expect(try await pair.value("a", at: 0) == [2])
        }
    }

    @Test func `a primary without enough replicas refuses by itself`() async throws {
        try await PrimaryCachePair.with(["--min-replicas-to-write", "1", "--min-replicas-max-lag", "60"]) { pair, _ in
            let cache = try await pair.open()
            try await cache.set("a", [1])
            await pair.servers[1].kill(SIGKILL)
            let refusal = Shared<RingfenceError?>(nil)
            try await eventually("refused") {
                let error = await failure { try await cache.set("a", [2]) }
                refusal.change { $0 = error }
                return error != nil
            }
            let error = try #require(refusal.value)
            #expect(error.code == .cachePrimary && error.effect == RingfenceError.Effect.none && error.isRetriable)
            #expect(error.message.contains("min-replicas-to-write"))
        }
    }

    @Test func `bad arguments are named before anything is sent`() async throws {
        // No Redis but the coordinator, and no member: what is sent would fail otherwise.
        try await withRingfence { _, client in
            let cache = try await client.primaryCache("cache")
            func message(_ body: () async throws -> Void) async -> String {
                let error = await failure { try await body() }
                return error?.code == .argumentInvalid ? error?.message ?? "" : "\(String(describing: error))"
            }
            let within = Durability.confirmed(replicas: 1, within: .milliseconds(5001))
            #expect(await message { _ = try await cache.get("") }.hasPrefix("key must be 1 to 512 bytes"))
            #expect(await message { try await cache.set("a\n", []) } == "key must not hold control characters")
            #expect(
                await message { try await cache.remove(.init(repeating: "a", count: 513)) }.hasPrefix(
                    "key must be 1 to 512"))
            #expect(
                await message { try await cache.set("a", .init(repeating: 0, count: 1 << 20 + 1)) }
                    == "value must be at most 1048576 bytes, not 1048577")
            #expect(
                await message { try await cache.set("a", [], for: .zero) }.hasPrefix("ttl must be 1 to 31536000000 ms"))
            #expect(
                await message { try await cache.set("a", [], durability: within) }
                    == "durability.within must be 1 ms to 5 s")
            #expect(
                await message {
                    try await cache.remove("a", durability: .confirmed(replicas: 0, within: .milliseconds(1)))
                } == "durability.replicas must be 1 to 1000")
            for options in [
                PrimaryCacheOptions(durability: within), .init(timeout: .seconds(61)), .init(timeout: .zero),
            ] {
                #expect(
                    await failure { try await client.primaryCache("cache", options: options) }?.code == .argumentInvalid
                )
            }
            #expect(await failure { try await client.primaryCache("") }?.code == .argumentInvalid)
            #expect(!"\(PrimaryCacheOptions(password: "secret"))".contains("secret"))

            let error = try #require(await failure { try await cache.get("a") })
            #expect(error.code == .cachePrimary && error.isRetriable && error.message.hasSuffix("it has no primary"))
            await cache.close()
            #expect(await failure { try await cache.get("a") }?.code == .clientShutDown)
        }
    }

    @Test func `an address that cannot be read, and none, are told`() async throws {
        for (address, text) in [("", "has no address"), ("redis://:6379", "it has no host")] {
            try await withRingfence { _, client in
                let group = try await client.group("cache")
                let candidacy = try await group.join("node-1", address: address, lease: .seconds(4)).campaign()
                try await eventually("it is elected") { candidacy.role.epoch != nil }
                candidacy.ready(try #require(candidacy.role.epoch))
                try await eventually(group, "it is ready") { $0.primary?.phase == .ready }
                let error = try #require(await failure { try await client.primaryCache("cache").get("a") })
                #expect(error.code == .cachePrimary && !error.isRetriable && error.effect == RingfenceError.Effect.none)
                #expect(error.message.contains(text))
            }
        }
    }

    @Test func `a password is asked for, and a user who may not ask WAIT is told so`() async throws {
        try await PrimaryCachePair.with { pair, _ in
            try await pair.observers[0].send(
                "ACL", "SETUSER", "app", "on", ">secret", "~ringfence:{default}:cache*", "+@all", "-wait")
            let cache = try await pair.client.primaryCache(
                "cache", options: .init(username: "app", password: "secret"))
            try await cache.set("a", [1])
            let error = try #require(await failure { try await cache.set("a", [2], durability: Self.confirmed) })
            #expect(error.code == .cacheNotConfirmed && error.effect == .unknown && !error.isRetriable)
            #expect(error.message.contains("WAIT failed: NOPERM"))
            #expect(try await cache.get("a") == [2])
            let stranger = try await pair.client.primaryCache(
                "cache", options: .init(username: "app", password: "wrong"))
            let refusal = try #require(await failure { try await stranger.get("a") })
            #expect(refusal.code == .cachePrimary && !refusal.isRetriable && !refusal.message.contains("wrong"))
        }
    }
}
