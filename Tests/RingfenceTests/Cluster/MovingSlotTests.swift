// SPDX-License-Identifier: Apache-2.0
//
// What scripts do in a slot that is moved key by key, on a real Cluster: nothing, on either side, whatever has moved.

import Hiredis
import RingfenceCore
import TestSupport
import Testing

@testable import Ringfence

@Suite struct MovingSlotTests {
    /// The script calls of a namespace, on one node.
    private struct Calls: Sendable {
        let client: RedisClient
        let keys = Keyspace(namespace: "default", flavour: .sharded)

        init(_ server: RedisServer) throws {
            client = RedisClient(try RedisConfiguration(url: server.unixURL), logger: testLogger)
        }

        var locks: LockScripts { LockScripts(keys: keys, auditLength: 1000) }
        var groups: GroupScripts { GroupScripts(keys: keys, eventLength: 1000, nonces: NonceSource()) }
        let terms = LockTerms(owner: "o", ttl: 600 * .second)

        func acquire(_ name: String, _ nonce: String) -> ScriptCall {
            locks.call([name], .acquire(nonce: nonce, terms, queue: .last))
        }

        func join(_ id: String) -> ScriptCall {
            groups.join(
                "g", .none, MemberRecord(id: id, session: "s", leaseMilliseconds: 60_000), .first,
                GroupScripts.defaultPolicy)
        }

        func release(_ name: String, _ value: LockValue) -> ScriptCall {
            locks.call([name], .release(value, successor: nil))
        }

        /// One of every kind but renewals.
        func all(_ held: LockValue) -> [ScriptCall] {
            let events = EventScripts(keys: keys)
            return [
                acquire("free", "p3-1-s"), acquire("held", "p3-2-s"), release("held", held),
                locks.cancel(["held"], nonce: "p2-1-s", terms), locks.force("held", actor: "a", reason: "r"),
                locks.call(["held", "free"], .acquire(nonce: "p3-3x2-s", terms, queue: .last)),
                locks.inspect("held", waiters: 5), events.page(after: 0, count: 10), events.state(of: nil),
                join("b"), groups.watch("g", .none), groups.beats("g", []),
                groups.beat("g", .none, id: "a", session: "s", leaseMilliseconds: 1000, joined: "x:1"),
                groups.note("g", .none, type: "t", member: "a", reason: "", actor: "", detail: []),
            ]
        }

        /// The first word of the refusal; nil if it was not refused.
        func refusal(_ call: ScriptCall) async throws -> String? {
            do { _ = try await client.run(call) } catch {
                guard let server = error.server else { throw error }
                return server.prefix.rawValue
            }
            return nil
        }

        /// The same behind ASKING, as a client that follows a redirection would.
        func refusalOfAsking(_ call: ScriptCall) async throws -> String? {
            let replies = try await client.pipeline(count: 2, deadline: .seconds(20)) { writer in
                writer.begin(1)
                writer.argument("ASKING")
                writer.begin(3 + call.keys + call.arguments)
                writer.argument("EVAL")
                writer.argument(call.script.source)
                writer.argument(call.keys)
                call.encode(&writer)
            }
            return replies[1].error?.prefix.rawValue
        }

        /// The commands that were run since the last reset, and are part of scripts.
        func commands() async throws -> [String] {
            let text =
                try await client.send { writer in
                    writer.begin(2)
                    writer.argument("INFO")
                    writer.argument("commandstats")
                }.text ?? ""
            let part: Set = [
                "time", "get", "set", "mget", "del", "exists", "pexpire", "pttl", "zadd", "zrem", "zrange", "zcard",
                "hget", "hset", "hmget", "hgetall", "xadd", "xrange", "publish", "spublish",
            ]
            return text.split(whereSeparator: \.isNewline).compactMap { line in
                let name = line.dropFirst("cmdstat_".count).prefix { $0 != ":" }
                return part.contains(String(name)) && !line.contains("calls=0,") ? String(name) : nil
            }
        }
    }

    /// A lock that is held and waited for, and a group with a member.
    private func prepare(_ calls: Calls) async throws -> LockValue {
        let reply = try await calls.client.run(calls.acquire("held", "p1-1-s"))
        guard case .granted(let fence) = LockScripts.answer(reply) else { throw TestSupportError("\(reply)") }
        guard case .queued = LockScripts.answer(try await calls.client.run(calls.acquire("held", "p2-1-s"))) else {
            throw TestSupportError("not queued")
        }
        _ = try await calls.client.run(calls.join("a"))
        return try #require(LockValue(parsing: "\(fence):p1-1-s:o"))
    }

    private func withMove(
        _ body: @Sendable (SlotMigration, _ source: Calls, _ target: Calls) async throws -> Void
    ) async throws {
        try await withRedisCluster(replicas: false) { cluster in
            let move = try await cluster.migration(ofNamespace: "default")
            let (source, target) = (try Calls(move.source), try Calls(move.target))
            do { try await body(move, source, target) } catch {
                await source.client.close()
                await target.client.close()
                throw error
            }
            await source.client.close()
            await target.client.close()
        }
    }

    @Test func `no script runs in a slot that is being moved, on either side, whatever has moved already`() async throws
    {
        try await withMove { move, source, target in
            let held = try await prepare(source)
            func allAreRefused(_ state: String) async throws {
                for node in [move.source, move.target] { try await node.cli("CONFIG", "RESETSTAT") }
                for (number, call) in source.all(held).enumerated() {
                    let there = try await source.refusal(call)
                    #expect(there == "TRYAGAIN" || there == "ASK", "call \(number), \(state): \(there ?? "it ran")")
                    let here = try await target.refusalOfAsking(call)
                    #expect(here == "TRYAGAIN", "call \(number), \(state), asking: \(here ?? "it ran")")
                    #expect(try await target.refusal(call) == "MOVED")
                }
                #expect(try await source.commands() == [])
                #expect(try await target.commands() == [])
            }
            try await move.begin()
            try await allAreRefused("nothing has moved")
            #expect(try await move.moveKeys(4) == 4)
            try await allAreRefused("some keys have moved")
            #expect(try await move.moveKeys() > 4)
            try await allAreRefused("all keys have moved")
            try await move.end()
            #expect(try await source.refusal(source.acquire("held", "p3-2-s")) == "MOVED")
            #expect(LockScripts.answer(try await target.client.run(target.release("held", held))) == .done)
            // Its waiter has it: nothing was lost on the way.
            let value = try await move.target.cli("GET", "ringfence:{default}:lock:held")
            #expect(value.contains(":p2-1-s:"))
        }
    }

    @Test func `a lease is renewed where its key is, while the slot is moved`() async throws {
        try await withMove { move, source, _ in
            let held = try await prepare(source)
            try await move.begin()
            let renewal = source.locks.renew([(["held"], held.text, 1_200_000)])
            #expect(LockScripts.renewed(try await source.client.run(renewal), count: 1) == [true])
            try await move.moveKeys()
            #expect(try await source.refusal(renewal) == "ASK")
            try await move.end()
        }
    }

    @Test func `without the absent key a release would be done by half`() async throws {
        try await withMove { move, source, _ in
            let held = try await prepare(source)
            try await move.begin()
            let keys = ["lock:held", "fence:held", "queue:held", "audit", "audit"].map { source.keys.prefix + $0 }
            let audited = try await move.source.cli("XLEN", keys[4])
            let words = ["release", "1000", "1000", "86400000", held.text, "", "", "", ""]
            let half = ScriptCall(script: source.locks.lock, keys: keys.count, arguments: words.count) { writer in
                for word in keys + words { writer.argument(word) }
            }
            // It begins: everything is there.
            #expect(try await source.refusal(half) == "ERR")
            // The lock is gone, and was not handed on.
            #expect(try await move.source.cli("GET", keys[0]).hasPrefix("ASK"))
            #expect(try await move.source.cli("XLEN", keys[4]) != audited)
            try await move.abort()
        }
    }
}
