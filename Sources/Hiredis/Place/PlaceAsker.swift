// SPDX-License-Identifier: Apache-2.0
import Logging
import NIOCore

/// Asks single servers what a search wants to know. On one event loop.
// SAFETY: touched on the event loop only.
final class PlaceAsker: @unchecked Sendable {
    private let configuration: RedisConfiguration
    private let eventLoop: any EventLoop
    private let logger = Logger(label: "ringfence.locator") { _ in SwiftLogNoOpLogHandler() }
    private var clients: [ObjectIdentifier: RedisClient] = [:]

    init(_ configuration: RedisConfiguration, eventLoop: any EventLoop) {
        var configuration = configuration
        (configuration.locator, configuration.log) = (nil, nil)
        configuration.failsFast = true
        configuration.commandTimeout = configuration.connectTimeout
        self.configuration = configuration
        self.eventLoop = eventLoop
    }

    /// `completion` comes on the event loop, exactly once, and after a close too.
    func ask(_ question: Question, completion: @escaping @Sendable (Result<Answer, RedisError>) -> Void) {
        switch question {
        case .greet(let route):
            var greeting = configuration
            greeting.address = route.address
            if greeting.tls != nil, greeting.tls?.serverName == nil { greeting.tls?.serverName = route.name }
            ask(greeting, ["PING"]) { client, result in
                completion(
                    result.flatMap { _ in
                        client.connection.map { .success(.greeting($0)) }
                            ?? .failure(RedisError(.connectionLost, effect: .none, "the connection ended at once"))
                    })
            }
        case .slots(let address):
            var node = configuration
            (node.address, node.requiresPrimary) = (address, false)
            ask(node, ["CLUSTER", "SLOTS"]) { _, result in completion(result.map { .replies([$0]) }) }
        case .sentinel(let address):
            var sentinel = configuration.sentinel(at: address)
            sentinel.requiresPrimary = false
            ask(sentinel, ["PING"]) { _, result in completion(result.map { .replies([$0]) }) }
        }
    }

    private func ask(
        _ configuration: RedisConfiguration, _ words: [String],
        _ completion: @escaping @Sendable (RedisClient, Result<RedisReply, RedisError>) -> Void
    ) {
        let client = RedisClient(configuration, eventLoop: eventLoop, logger: logger)
        clients[ObjectIdentifier(client)] = client
        client.send { writer in
            writer.begin(words.count)
            for word in words { writer.argument(word) }
        } completion: { result in
            completion(client, result)
            self.clients[ObjectIdentifier(client)] = nil
            _ = client.core.close()
        }
    }

    func close() {
        for client in clients.values { _ = client.core.close() }
        clients = [:]
    }
}
