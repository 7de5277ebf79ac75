// SPDX-License-Identifier: Apache-2.0
//
// Publish and subscribe, on a connection of its own: what comes there is pushed, not answered, so it has its own small
// machine instead of the command queue.
//
// Redis forgets a subscription with its connection and keeps no messages for absent subscribers. So the two moments
// that matter are told as events, in order with the messages: all channels are live (`subscribed`), and from here
// messages may be missing (`disconnected`, or `subscribed(first: false)` after it). A subscriber that must not miss
// anything reads the state anew after each `subscribed`.
package import Logging
package import NIOCore
import NIOPosix

/// A connection that listens to fixed channels and comes back by itself.
package final class RedisSubscriber: Sendable {
    package enum Event: Sendable, Equatable {
        /// All channels are live from here. Not `first`: it is a reconnection, messages may have been missed.
        case subscribed(first: Bool)
        case message(channel: String, payload: [UInt8])
        /// Messages are missed from here until the next `subscribed`.
        case disconnected(RedisError)
        /// This user may not subscribe to the channels. It is tried again now and then.
        case refused(RedisError)
    }

    private let eventLoop: any EventLoop
    private let core: SubscriberCore

    /// `onEvent` runs on the event loop, in order; it must not block. `channels`: at least one.
    package init(
        _ configuration: RedisConfiguration, channels: [String],
        eventLoop: any EventLoop = MultiThreadedEventLoopGroup.singleton.any(), logger: Logger,
        onEvent: @escaping @Sendable (Event) -> Void
    ) {
        precondition(!channels.isEmpty, "a subscriber needs at least one channel")
        self.eventLoop = eventLoop
        core = SubscriberCore(
            configuration, channels: channels, eventLoop: eventLoop, logger: logger, onEvent: onEvent)
    }

    deinit { _ = core.close() }

    /// Starts to connect; idempotent.
    package func start() { core.start() }

    /// Closes the connection; no event comes after this returned. Idempotent.
    package func close() async { try? await core.close().get() }
}

/// What came on a subscribed connection.
struct SubscriptionMachine {
    enum Action: Equatable {
        case none
        case emit(RedisSubscriber.Event)
        /// The server does not serve the slot of the channels any more.
        case ended
        case violation
    }

    private let channels: Set<String>
    private var pending: Set<String> = []
    private var wasSubscribed = false

    init(channels: [String]) { self.channels = Set(channels) }

    /// The connection is ready: the command to write. `isSharded`: the channels belong to their slot, as those of a
    /// Cluster do from 7.0.
    mutating func connected(isSharded: Bool = false) -> [String] {
        pending = channels
        return [isSharded ? "SSUBSCRIBE" : "SUBSCRIBE"] + channels.sorted()
    }

    mutating func received(_ reply: RedisReply) -> Action {
        guard let parts = reply.array, let kind = parts.first?.text else { return .violation }
        switch kind {
        case "message" where parts.count == 3, "smessage" where parts.count == 3:
            guard let channel = parts[1].text, let payload = parts[2].bytes else { return .violation }
            return .emit(.message(channel: channel, payload: payload))
        case "subscribe" where parts.count == 3, "ssubscribe" where parts.count == 3:
            guard let channel = parts[1].text, pending.remove(channel) != nil else { return .violation }
            guard pending.isEmpty else { return .none }
            defer { wasSubscribed = true }
            return .emit(.subscribed(first: !wasSubscribed))
        // Unasked: when the slot goes elsewhere, and when its owner becomes a replica.
        case "sunsubscribe": return .ended
        case "pong": return .none
        default: return .violation
        }
    }
}

// SAFETY: mutable state is touched on the event loop only.
final class SubscriberCore: ConnectionOwner, @unchecked Sendable {
    private let eventLoop: any EventLoop
    private let isOfCluster: Bool
    private let isLocated: Bool
    private let driver: ConnectionDriver<SubscriberCore>
    private let onEvent: @Sendable (RedisSubscriber.Event) -> Void
    private var machine: SubscriptionMachine
    private var isClosed = false
    private var isDown = true
    /// Counts the connections.
    private var generation = 0
    private var isSharded = false

    /// How often a subscription is tried again that the user's rights forbid.
    private static let patience = TimeAmount.seconds(10)

    init(
        _ configuration: RedisConfiguration, channels: [String], eventLoop: any EventLoop, logger: Logger,
        onEvent: @escaping @Sendable (RedisSubscriber.Event) -> Void
    ) {
        self.eventLoop = eventLoop
        self.onEvent = onEvent
        isOfCluster = configuration.place.isCluster
        isLocated = configuration.locator != nil
        machine = SubscriptionMachine(channels: channels)
        driver = ConnectionDriver(configuration, eventLoop: eventLoop, logger: logger)
    }

    func start() {
        eventLoop.execute {
            if !self.isClosed { self.driver.start(self) }
        }
    }

    func close() -> EventLoopFuture<Void> {
        eventLoop.flatSubmit {
            self.isClosed = true
            return self.driver.close()
        }
    }

    func connectionIsReady(_ info: ConnectionInfo) {
        isDown = false
        generation = info.generation
        isSharded = isOfCluster && info.server?.hasShardedChannels ?? true
        write(machine.connected(isSharded: isSharded))
    }

    /// The rights of the user may have been mended: on the same connection, for nothing is wrong with that.
    private func tryLater() {
        let generation = generation
        eventLoop.scheduleTask(in: Self.patience) { [weak self] in
            guard let self, !isClosed, !isDown, self.generation == generation else { return }
            write(machine.connected(isSharded: isSharded))
        }
    }

    func connectionReceived(_ replies: [RedisReply]) -> Bool {
        for reply in replies where !isClosed {
            if let error = reply.error {
                // A redirection is for the driver, which sees it too.
                if error.prefix == .moved, isLocated { return true }
                let failure = RedisError(.server, effect: .none, error.words, server: error)
                if error.prefix == .noPermission {
                    onEvent(.refused(failure))
                    tryLater()
                    continue
                }
                driver.reconnect(because: failure)
                return true
            }
            switch machine.received(reply) {
            case .none: break
            case .emit(let event): onEvent(event)
            case .ended:
                driver.reconnect(
                    because: RedisError(
                        .connectionLost, effect: .unknown, "the server does not serve the slot of the channels any more"
                    ))
                return true
            case .violation: return false
            }
        }
        return true
    }

    func connectionWasLost(_ error: RedisError) -> Bool {
        if !isClosed, !isDown { onEvent(.disconnected(error)) }
        isDown = true
        return false
    }

    func connectionWasRefused(_ error: RedisError) {
        if !isClosed { onEvent(.disconnected(error)) }
    }

    func connectionNeedsProbe() { write(["PING"]) }

    private func write(_ command: [String]) {
        driver.write(ConnectionDriver<SubscriberCore>.encode([command]))
    }
}
