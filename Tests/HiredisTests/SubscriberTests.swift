// SPDX-License-Identifier: Apache-2.0
import NIOCore
import Synchronization
import TestSupport
import Testing

@testable import Hiredis

@Suite struct SubscriberTests {
    typealias Event = RedisSubscriber.Event

    /// Collects events; `body` gets the subscriber started.
    private func collecting(
        _ configuration: RedisConfiguration, _ channels: [String],
        _ body: (RedisSubscriber, borrowing Mutex<[Event]>) async throws -> Void
    ) async throws {
        let box = EventBox()
        let subscriber = RedisSubscriber(configuration, channels: channels, logger: quiet) { event in
            box.events.withLock { $0.append(event) }
        }
        subscriber.start()
        do { try await body(subscriber, box.events) } catch {
            await subscriber.close()
            throw error
        }
        await subscriber.close()
    }

    private final class EventBox: Sendable {
        let events = Mutex<[Event]>([])
    }

    private func message(_ channel: String, _ text: String) -> Event {
        .message(channel: channel, payload: Array(text.utf8))
    }

    @Test func `messages of all channels come in order, after subscribed`() async throws {
        try await withRedis { server async throws in
            let configuration = try RedisConfiguration(url: server.url)
            try await collecting(configuration, ["a", "b"]) { _, events async throws in
                try await eventually { events.withLock { $0.count } == 1 }
                for index in 0..<50 { try await server.cli("PUBLISH", index % 2 == 0 ? "a" : "b", "\(index)") }
                try await eventually { events.withLock { $0.count } == 51 }
                let expected = (0..<50).map { message($0 % 2 == 0 ? "a" : "b", "\($0)") }
                #expect(events.withLock { $0 } == [.subscribed(first: true)] + expected)
            }
            // Closed: the server knows no subscriber any more.
            try await eventually { try await server.cli("PUBLISH", "a", "x") == "0" }
        }
    }

    @Test func `after a kill it subscribes again and says that messages may be missing`() async throws {
        try await withRedis { server async throws in
            var configuration = try RedisConfiguration(url: server.url)
            configuration.connectTimeout = .seconds(10)
            try await collecting(configuration, ["a"]) { _, events async throws in
                try await eventually { events.withLock { $0.count } == 1 }
                #expect(try await server.cli("CLIENT", "KILL", "TYPE", "pubsub") == "1")
                try await eventually { events.withLock { $0.count } == 3 }
                try await server.cli("PUBLISH", "a", "1")
                try await eventually { events.withLock { $0.count } == 4 }
                await server.kill(9)
                try await server.restart()
                try await eventually { events.withLock { $0.last } == .subscribed(first: false) }
                try await server.cli("PUBLISH", "a", "2")
                try await eventually { events.withLock { $0.last } == message("a", "2") }
                let kinds = events.withLock { $0 }.map { event in
                    switch event {
                    case .subscribed(let first): first ? "first" : "again"
                    case .message: "message"
                    case .disconnected(let error), .refused(let error): "\(error.code)"
                    }
                }
                #expect(
                    kinds == [
                        "first", "connectionLost", "again", "message", "connectionLost", "again", "message",
                    ])
            }
        }
    }

    @Test func `a half-open subscription is noticed`() async throws {
        try await withRedis { server async throws in
            let proxy = try await TCPProxy.start(to: server)
            var configuration = try RedisConfiguration(url: proxy.url)
            configuration.probeInterval = .milliseconds(100)
            configuration.connectTimeout = .seconds(10)
            try await collecting(configuration, ["a"]) { _, events async throws in
                try await eventually { events.withLock { $0.count } == 1 }
                // Probed and alive for some intervals: no event. (A busy machine may take longer than that to answer a
                // probe, and then the connection is rightly given up; so it is looked for, not expected at once.)
                var count = 0
                try await eventually("three probes are answered") {
                    count = events.withLock { $0.count }
                    let before = proxy.bytesToServer
                    try await eventually { proxy.bytesToServer >= before + 3 * 14 }
                    return events.withLock { $0.count } == count && events.withLock { $0.last }?.isSubscribed == true
                }
                proxy.update { $0.serverToClient.isStalled = true }
                proxy.passNewConnections()
                try await eventually("it is noticed, and another one is there") {
                    let news = events.withLock { $0.dropFirst(count) }
                    return news.first?.isSubscribed == false && news.last == .subscribed(first: false)
                }
            }
            await proxy.close()
        }
    }

    @Test func `what is not a push breaks the subscription`() {
        var machine = SubscriptionMachine(channels: ["a", "b"])
        #expect(machine.connected() == ["SUBSCRIBE", "a", "b"])
        func push(_ parts: String...) -> RedisReply { .array(parts.map { .string(Array($0.utf8)) }) }
        #expect(machine.received(push("subscribe", "a", "1")) == .none)
        #expect(machine.received(push("subscribe", "a", "1")) == .violation)
        #expect(machine.received(push("subscribe", "c", "1")) == .violation)
        #expect(machine.received(push("subscribe", "b", "2")) == .emit(.subscribed(first: true)))
        #expect(machine.received(push("pong", "")) == .none)
        #expect(machine.received(.ok) == .violation)
        #expect(machine.received(push("message", "a")) == .violation)
        _ = machine.connected()
        #expect(machine.received(push("subscribe", "b", "1")) == .none)
        #expect(machine.received(push("subscribe", "a", "2")) == .emit(.subscribed(first: false)))
    }

    @Test func `channels of a slot are subscribed to at its owner, and end with its service`() {
        var machine = SubscriptionMachine(channels: ["{s}a", "{s}b"])
        func push(_ parts: String...) -> RedisReply { .array(parts.map { .string(Array($0.utf8)) }) }
        #expect(machine.connected(isSharded: true) == ["SSUBSCRIBE", "{s}a", "{s}b"])
        #expect(machine.received(push("ssubscribe", "{s}a", "1")) == .none)
        #expect(machine.received(push("ssubscribe", "{s}b", "2")) == .emit(.subscribed(first: true)))
        #expect(
            machine.received(push("smessage", "{s}b", "x")) == .emit(.message(channel: "{s}b", payload: [0x78])))
        #expect(machine.received(push("sunsubscribe", "{s}a", "1")) == .ended)
        // It may come before all are subscribed, and without a channel.
        _ = machine.connected(isSharded: true)
        #expect(machine.received(.array([.string(Array("sunsubscribe".utf8)), .null, .integer(0)])) == .ended)
    }
}

extension RedisSubscriber.Event {
    fileprivate var isSubscribed: Bool { if case .subscribed = self { true } else { false } }
}
