// SPDX-License-Identifier: Apache-2.0
import Logging
import NIOCore

/// Two lasting connections to one Sentinel: one asks, one listens. On one event loop.
// SAFETY: touched on the event loop only.
final class SentinelLink: @unchecked Sendable {
    private static let channels = ["+switch-master", "+sentinel", "+sentinel-address-switch"]

    private let name: String
    private let client: RedisClient
    private let subscriber: RedisSubscriber
    private var wasAsked = false
    /// The reply with its id, and the connection on which it came. What answers on another one may be another Sentinel.
    private var identity: (reply: RedisReply, connection: Int)?

    /// `onNews`: it has told of a change that concerns the primary called `name`.
    init(
        _ configuration: RedisConfiguration, name: String, eventLoop: any EventLoop, logger: Logger,
        onNews: @escaping @Sendable () -> Void
    ) {
        self.name = name
        client = RedisClient(configuration, eventLoop: eventLoop, logger: logger)
        subscriber = RedisSubscriber(
            configuration, channels: Self.channels, eventLoop: eventLoop, logger: logger
        ) { event in
            guard case .message(let channel, let payload) = event else { return }
            let words = String(decoding: payload, as: UTF8.self).split(separator: " ")
            // A Sentinel may watch several primaries. Only here the name stands first.
            if channel == "+switch-master" ? words.first == name[...] : words.contains(name[...]) { onNews() }
        }
        subscriber.start()
    }

    /// `completion` comes on the event loop, exactly once, and after a close too.
    func ask(withList: Bool, completion: @escaping @Sendable (Result<Answer, RedisError>) -> Void) {
        // One that is known to be away keeps no look waiting; its connection comes back by itself.
        if wasAsked, !client.isConnected, let absence = client.absence, absence.code != .notConnected {
            return completion(.failure(absence))
        }
        wasAsked = true
        let known = identity.flatMap { $0.connection == client.connection?.generation ? $0 : nil }
        let commands = SentinelAnswer.question(about: name, withList: withList, withID: known == nil)
        client.pipeline(count: commands.count) { writer in
            for command in commands { writer.command(command) }
        } completion: { [weak self] result in
            completion(result.flatMap { replies in self?.identified(replies, known) ?? .success(.replies(replies)) })
        }
    }

    /// The replies with the id among them.
    private func identified(
        _ replies: [RedisReply], _ known: (reply: RedisReply, connection: Int)?
    ) -> Result<Answer, RedisError> {
        let connection = client.connection?.generation
        if let known {
            // They were written on a later connection than was meant.
            guard known.connection == connection, replies.count >= SentinelAnswer.idIndex else {
                return .failure(RedisError(.connectionLost, effect: .none, "the connection to a Sentinel was lost"))
            }
            var replies = replies
            replies.insert(known.reply, at: SentinelAnswer.idIndex)
            return .success(.replies(replies))
        }
        if let connection, replies.count > SentinelAnswer.idIndex, replies[SentinelAnswer.idIndex].text != nil {
            identity = (replies[SentinelAnswer.idIndex], connection)
        }
        return .success(.replies(replies))
    }
}
