// SPDX-License-Identifier: Apache-2.0
//
// Bad arguments: refused with the field and the limit named, before so much as a connection is made (the proxy would
// have seen it).

import Ringfence
import TestSupport
import Testing

@Suite struct BadInputTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var field: String
        /// Must stand in the message: the limit.
        var limit: String
        var testDescription: String
        var call: @Sendable (RingfenceClient) async throws -> Void

        init(
            _ field: String, _ limit: String, _ what: String,
            _ call: @escaping @Sendable (RingfenceClient) async throws -> Void
        ) {
            (self.field, self.limit, self.call) = (field, limit, call)
            testDescription = "\(field): \(what)"
        }
    }

    static let names: [Case] = [
        ("", "1 to 512 bytes"), (String(repeating: "a", count: 513), "1 to 512 bytes"),
        (String(repeating: "é", count: 257), "1 to 512 bytes"), ("a\nb", "control characters"),
        ("a\0b", "control characters"), ("\u{7F}", "control characters"), ("a\u{85}", "control characters"),
        ("a\u{202E}b", "format characters"), ("a\u{2028}b", "format characters"),
    ].map { name, limit in
        Case("name", limit, name.debugDescription.prefix(20).description) { _ = try await $0.tryAcquire(name) }
    }

    static let times: [Case] = [
        Case("ttl", "100 to 86400000 ms", "0") { _ = try await $0.tryAcquire("a", ttl: .zero) },
        Case("ttl", "100 to 86400000 ms", "99 ms") { _ = try await $0.tryAcquire("a", ttl: .milliseconds(99)) },
        Case("ttl", "100 to 86400000 ms", "negative") { _ = try await $0.tryAcquire("a", ttl: .seconds(-1)) },
        Case("ttl", "100 to 86400000 ms", "a day and more") { _ = try await $0.acquire("a", ttl: .seconds(86_401)) },
        Case("ttl", "100 to 86400000 ms", "for ever") { _ = try await $0.acquire("a", ttl: .seconds(Int64.max)) },
        Case("ttl", "100 to 86400000 ms", "of a renewal") {
            _ = try await $0.renew(["a"], token: "1:a-1-b:c", ttl: .milliseconds(1))
        },
        Case("wait", "0 to 86400000 ms", "negative") { _ = try await $0.acquire("a", wait: .milliseconds(-1)) },
        Case("wait", "0 to 86400000 ms", "a day and more") { _ = try await $0.acquire("a", wait: .seconds(86_401)) },
        Case("wait", "0 to 86400000 ms", "for ever") { _ = try await $0.acquire("a", wait: .seconds(Int64.max)) },
        Case("wait", "0 to 86400000 ms", "below all") {
            _ = try await $0.withLock("a", wait: .seconds(Int64.min)) { _ in }
        },
        Case("maximumHold", "100 to", "0") {
            _ = try await $0.acquire("a", options: .init(maximumHold: .zero))
        },
        Case("maximumHold", "2592000000 ms", "31 days") {
            _ = try await $0.acquire("a", options: .init(maximumHold: .seconds(31 * 86_400)))
        },
    ]

    static let others: [Case] = [
        Case("names", "1 to 64", "none") { _ = try await $0.acquire([String]()) },
        Case("names", "1 to 64", "65") { _ = try await $0.acquire((0..<65).map { "\($0)" }) },
        Case("names", "at most 16384 bytes together", "too long together") {
            _ = try await $0.acquire((10..<43).map { "\($0)" + String(repeating: "n", count: 510) })
        },
        Case("names", "different", "twice the same") { _ = try await $0.acquire(["a", "b", "a"]) },
        Case("names", "control characters", "one of them") { _ = try await $0.acquire(["a", "b\t"]) },
        Case("owner", "1 to 128 bytes", "empty") { _ = try await $0.acquire("a", options: .init(owner: "")) },
        Case("owner", "1 to 128 bytes", "long") {
            _ = try await $0.acquire("a", options: .init(owner: String(repeating: "o", count: 129)))
        },
        Case("owner", "control characters", "of two lines") {
            _ = try await $0.acquire("a", options: .init(owner: "a\nb"))
        },
        Case("owner", "format characters", "turned round") {
            _ = try await $0.acquire("a", options: .init(owner: "a\u{202E}b"))
        },
        Case("reason", "format characters", "of force") {
            _ = try await $0.forceRelease("a", actor: "ops", reason: "a\u{2066}b")
        },
        Case("owner", "1 to 128 bytes", "of a grant") {
            _ = try await $0.acquireGrant(["a"], owner: "", ttl: .seconds(1))
        },
        Case("durability.replicas", "1 to 1000", "0") {
            _ = try await $0.acquire("a", options: .init(durability: .confirmed(replicas: 0, within: .seconds(1))))
        },
        Case("durability.within", "1 ms to a third of the ttl, and at most 5 s", "0") {
            _ = try await $0.acquire("a", options: .init(durability: .confirmed(replicas: 1, within: .zero)))
        },
        Case("token", "512 bytes", "empty") { try await $0.release(["a"], token: "") },
        Case("token", "512 bytes", "no fence") { try await $0.release(["a"], token: "x:y:z") },
        Case("token", "512 bytes", "long") {
            try await $0.release(["a"], token: "1:a-1-b:" + String(repeating: "x", count: 505))
        },
        Case("token", "512 bytes", "of a renewal") { _ = try await $0.renew(["a"], token: "-1:a:b", ttl: .seconds(1)) },
        Case("name", "1 to 512 bytes", "of a release") { try await $0.release([""], token: "1:a-1-b:c") },
        Case("name", "1 to 512 bytes", "of inspect") { _ = try await $0.inspect("") },
        Case("name", "control characters", "of force") { _ = try await $0.forceRelease("a\r", actor: "ops") },
        Case("actor", "1 to 128 bytes", "empty") { _ = try await $0.forceRelease("a", actor: "") },
        Case("reason", "0 to 512 bytes", "long") {
            _ = try await $0.forceRelease("a", actor: "ops", reason: String(repeating: "r", count: 513))
        },
        Case("prefix", "512 bytes", "long") { _ = try await $0.locks(prefix: String(repeating: "p", count: 513)) },
        Case("limit", "1 to 1000", "0") { _ = try await $0.locks(limit: 0) },
        Case("limit", "1 to 1000", "1001") { _ = try await $0.audit(limit: 1001) },
        Case("cursor", "page", "made up") { _ = try await $0.locks(cursor: "1; FLUSHALL") },
        Case("cursor", "page", "negative") { _ = try await $0.locks(cursor: "-1") },
    ]

    @Test(arguments: names + times + others)
    func `a bad argument is refused by field and limit, before anything is sent`(_ bad: Case) async throws {
        try await withRedis { server in
            let proxy = try await TCPProxy.start(to: server)
            try await withClient(proxy.url) { client in
                let error = await failure { try await bad.call(client) }
                #expect(error?.code == .argumentInvalid)
                #expect(error?.effect == RingfenceError.Effect.none)
                #expect(error?.isRetriable == false)
                let message = error?.message ?? ""
                #expect(message.hasPrefix(bad.field + " "), "\(message)")
                #expect(message.contains(bad.limit), "\(message)")
                #expect(proxy.accepted == 0)
                #expect(client.waiterCount == 0)
            }
            await proxy.close()
        }
    }

    @Test func `what is just inside the limits works`() async throws {
        try await withRingfence { server, client in
            let name = String(repeating: "n", count: 512)
            let owner = String(repeating: "é", count: 64)
            let lease = try await client.acquire(
                name, ttl: .seconds(86_400), wait: .seconds(86_400), options: .init(owner: owner))
            #expect(try await client.inspect(name).holder?.owner == owner)
            try await lease.release()
            let many = try await client.acquire((0..<64).map { "\($0)" }, ttl: .milliseconds(100), wait: .zero)
            try? await many.release()  // on a slow machine it may be over
            let odd = ["{}", "a:b", "a b", "*", "🔒", "ringfence:{default}:lock:a", " ", "a\u{A0}b", "\\"]
            for name in odd { try await client.withLock(name) { _ in } }
            try await client.withLock(odd) { _ in }
            try await eventually { try await server.remains() == [] }
        }
    }

    struct Setting: Sendable, CustomTestStringConvertible {
        var field: String
        var limit: String
        var spoil: @Sendable (inout RingfenceConfiguration) -> Void
        var testDescription: String { "\(field) \(limit)" }

        init(_ field: String, _ limit: String, _ spoil: @escaping @Sendable (inout RingfenceConfiguration) -> Void) {
            (self.field, self.limit, self.spoil) = (field, limit, spoil)
        }
    }

    static let settings: [Setting] = [
        Setting("namespace", "1 to 64") { $0.namespace = "" },
        Setting("namespace", "A-Z") { $0.namespace = "a}b" },
        Setting("namespace", "1 to 64") { $0.namespace = String(repeating: "n", count: 65) },
        Setting("owner", "1 to 128") { $0.owner = "" },
        Setting("commandTimeout", "1 to") { $0.commandTimeout = .zero },
        Setting("connectTimeout", "1 to") { $0.connectTimeout = .seconds(-1) },
        Setting("maximumCommandsInFlight", "1 to") { $0.maximumCommandsInFlight = 0 },
        Setting("auditLength", "0") { $0.auditLength = -1 },
        Setting("fenceRetention", "1 minute to 365 days") { $0.fenceRetention = .seconds(59) },
        Setting("fenceRetention", "1 minute to 365 days") { $0.fenceRetention = .seconds(366 * 86_400) },
        Setting("url", "") { $0.url = "" },
        Setting("url", "") { $0.url = "http://localhost" },
        Setting("url", "") { $0.url = "redis://user:secret-word@:99999/x" },
    ]

    @Test(arguments: settings)
    func `a bad setting is refused by name when the client is made`(_ bad: Setting) throws {
        var configuration = RingfenceConfiguration()
        bad.spoil(&configuration)
        let error = #expect(throws: RingfenceError.self) { try RingfenceClient(configuration, logger: testLogger) }
        #expect(error?.code == .argumentInvalid)
        #expect(error?.message.hasPrefix(bad.field) == true, "\(error?.message ?? "")")
        #expect(error?.message.contains(bad.limit) == true, "\(error?.message ?? "")")
        #expect(error?.message.contains("secret-word") == false)
    }

    @Test func `the token of another lock, and one that is over, change nothing`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let a = try await client.acquireGrant(["a"], ttl: .seconds(60))
                let b = try await client.acquireGrant(["b"], ttl: .seconds(60))
                let over = try await client.acquireGrant(["c"], ttl: .milliseconds(100))
                try await eventually { try await observer.isClean("c") }
                let calls: [@Sendable () async throws -> Void] = [
                    { try await client.release(["a"], token: b.token) },
                    { try await client.release(["c"], token: over.token) },
                    { _ = try await client.renew(["a"], token: b.token, ttl: .seconds(60)) },
                    { _ = try await client.renew(["a", "b"], token: a.token, ttl: .seconds(60)) },
                    { _ = try await client.renew(["c"], token: over.token, ttl: .seconds(60)) },
                ]
                for call in calls {
                    let error = await failure(call)
                    #expect(error?.code == .lockNotHeld)
                    #expect(error?.effect == RingfenceError.Effect.none)
                    #expect(error?.message.contains(a.token) == false)
                    #expect(error?.message.contains(b.token) == false)
                }
                #expect(try await observer.value(of: "a") == a.token)
                #expect(try await observer.value(of: "b") == b.token)
                #expect(try await observer.isClean("c"))
            }
        }
    }

    @Test func `the token of several names releases and renews those and no others, all or nothing`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let hold = try await client.acquireGrant(["b", "a"], ttl: .seconds(60))
                for names in [["a", "c"], ["c", "d"], ["b", "c"]] {
                    let calls: [@Sendable () async throws -> Void] = [
                        { try await client.release(names, token: hold.token) },
                        { _ = try await client.renew(names, token: hold.token, ttl: .seconds(60)) },
                    ]
                    for call in calls {
                        let error = await failure(call)
                        #expect(error?.code == .lockNotHeld && error?.effect == RingfenceError.Effect.none)
                        #expect(error?.message.contains("of other names") == true, "\(error?.message ?? "")")
                    }
                }
                #expect(try await observer.value(of: "a") == hold.token)
                #expect(try await observer.value(of: "b") == hold.token)
                _ = try await client.renew(["a", "b"], token: hold.token, ttl: .seconds(60))
                try await client.release(["b", "a"], token: hold.token)
                #expect(try await server.remains() == [])
            }
        }
    }

    @Test func `a release of several names, one of which was taken away, says that the others were given back`()
        async throws
    {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let hold = try await client.acquireGrant(["a", "b", "c"], ttl: .seconds(60))
                _ = try await client.forceRelease("b", actor: "ops", reason: "test")
                let error = await failure { try await client.release(["a", "b", "c"], token: hold.token) }
                #expect(error?.code == .lockNotHeld && error?.effect == .applied)
                #expect(error?.message.contains("only 2 of 3 names") == true, "\(error?.message ?? "")")
                #expect(try await server.remains() == [])
                let again = await failure { try await client.release(["a", "b", "c"], token: hold.token) }
                #expect(again?.code == .lockNotHeld && again?.effect == RingfenceError.Effect.none)
            }
        }
    }
}
