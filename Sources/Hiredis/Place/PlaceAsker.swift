// SPDX-License-Identifier: Apache-2.0
import Logging
import NIOCore

/// Asks single servers what a search wants to know, each on a connection for that question alone, and Sentinels on
/// connections that last. On one event loop.
// SAFETY: touched on the event loop only.
final class PlaceAsker: @unchecked Sendable {
    private let configuration: RedisConfiguration
    private let eventLoop: any EventLoop
    private let logger = Logger(label: "ringfence.locator") { _ in SwiftLogNoOpLogHandler() }
    private let onNews: @Sendable (RedisConfiguration.Address) -> Void
    private var clients: [ObjectIdentifier: RedisClient] = [:]
    private var sentinels: [RedisConfiguration.Address: SentinelLink] = [:]

    /// `onNews`: this Sentinel has told, unasked, of a change.
    init(
        _ configuration: RedisConfiguration, eventLoop: any EventLoop,
        onNews: @escaping @Sendable (RedisConfiguration.Address) -> Void = { _ in }
    ) {
        self.onNews = onNews
        var configuration = configuration
        (configuration.locator, configuration.log) = (nil, nil)
        (configuration.failsFast, configuration.failsWhileNotReady) = (true, true)
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
            ask(node, ["CLUSTER", "SLOTS"]) { _, result in
                // An error reply is an answer too.
                if case .failure(let error) = result, error.code == .server, error.fault == nil, let said = error.server
                {
                    return completion(.success(.replies([.error(said)])))
                }
                completion(result.map { .replies([$0]) })
            }
        case .sentinel(let address, let withList):
            let link = sentinels[address] ?? link(to: address)
            sentinels[address] = link
            link.ask(withList: withList, completion: completion)
        }
    }

    private func link(to address: RedisConfiguration.Address) -> SentinelLink {
        let name = if case .sentinels(_, let name) = configuration.place { name } else { "" }
        return SentinelLink(
            configuration.sentinel(at: address), name: name, eventLoop: eventLoop, logger: logger
        ) { [onNews] in onNews(address) }
    }

    /// Sentinels that are not asked any more are left.
    func keep(_ sources: Set<RedisConfiguration.Address>) {
        sentinels = sentinels.filter { sources.contains($0.key) }
    }

    private func ask(
        _ configuration: RedisConfiguration, _ words: [String],
        _ completion: @escaping @Sendable (RedisClient, Result<RedisReply, RedisError>) -> Void
    ) {
        let client = RedisClient(configuration, eventLoop: eventLoop, logger: logger)
        clients[ObjectIdentifier(client)] = client
        client.send {
            $0.command(words)
        } completion: { result in
            completion(client, result)
            self.clients[ObjectIdentifier(client)] = nil
            _ = client.core.close()
        }
    }

    func close() {
        for client in clients.values { _ = client.core.close() }
        clients = [:]
        sentinels = [:]
    }
}
