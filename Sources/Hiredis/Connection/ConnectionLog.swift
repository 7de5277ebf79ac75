// SPDX-License-Identifier: Apache-2.0
//
// What the log says of the connections to one Redis.
//
// A client has several, and all break at once when Redis goes: each would say the same. And each tries again a few
// times a second, where two reasons may come by turns (refused, no answer). So all of them tell one log. It says when
// the first is lost, each reason once, and when all are back, with how long it took.
import Logging
import Synchronization

/// Shared by the connections of one client.
package final class ConnectionLog: Sendable {
    private struct State {
        /// Those without a connection that had one, or tried to get one.
        var down: Set<ObjectIdentifier> = []
        var since: Int64 = 0
        var reasons: Set<String> = []
        var wasConnected = false
        /// There was no connection before this outage.
        var isFirst = false

        /// Whether that was the last that was down.
        mutating func end(_ connection: ObjectIdentifier) -> Bool {
            guard down.remove(connection) != nil, down.isEmpty else { return false }
            reasons = []
            return true
        }
    }

    /// Of one outage; a reason may hold what changes from time to time.
    private static let maximumReasons = 16
    private let state = Mutex(State())

    package init() {}

    func lost(
        _ connection: AnyObject, wasReady: Bool, _ error: RedisError, of name: RedisConfiguration, now: Int64,
        _ logger: Logger
    ) {
        let isNew = state.withLock { state in
            if state.down.isEmpty { (state.since, state.isFirst) = (now, !state.wasConnected) }
            state.down.insert(ObjectIdentifier(connection))
            guard state.reasons.count < Self.maximumReasons else { return false }
            return state.reasons.insert(error.message).inserted
        }
        guard isNew else { return }
        let what = wasReady ? "the connection to redis \(name) is lost" : "waiting for redis \(name)"
        logger.warning("\(what): \(error.message)")
    }

    func ready(_ connection: AnyObject, of name: RedisConfiguration, now: Int64, _ logger: Logger) {
        let outage: (length: Int64, isFirst: Bool)? = state.withLock { state in
            defer { state.wasConnected = true }
            guard state.end(ObjectIdentifier(connection)) else { return nil }
            return (now - state.since, state.isFirst)
        }
        guard let outage else { return logger.debug("connected to redis \(name)") }
        let length = Duration.milliseconds(outage.length / 1_000_000)
        logger.notice("connected to redis \(name)\(outage.isFirst ? "" : " again") after \(length)")
    }

    /// It is closed, and will not be back.
    func closed(_ connection: AnyObject) {
        state.withLock { _ = $0.end(ObjectIdentifier(connection)) }
    }
}
