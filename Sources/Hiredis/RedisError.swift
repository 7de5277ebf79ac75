// SPDX-License-Identifier: Apache-2.0
//
// The errors of a command, and what is then known of its effect.
//
// A payment must know one thing of a failed call: did it happen? So every error carries an `effect`. It is `none` only
// where that is certain: the bytes were never handed to the kernel, or the server refused the command before running
// it. Everything else is `unknown`, also an error raised inside a script: what the script wrote before stays written.

/// A failed command or connection.
package struct RedisError: Error, Sendable, Equatable {
    /// Kinds of failure. Open: new ones may come.
    package struct Code: Sendable, Hashable, CustomStringConvertible {
        private enum Value: String {
            case invalidConfiguration, connectFailed, notConnected, timedOut, cancelled, connectionLost, overloaded
            case protocolViolation, server, wrongServer, closed
        }
        private let value: Value
        package var description: String { value.rawValue }

        /// A URL, a file or a setting is wrong.
        package static let invalidConfiguration = Code(value: .invalidConfiguration)
        /// Connecting, TLS or the first commands on a connection failed.
        package static let connectFailed = Code(value: .connectFailed)
        /// The deadline passed before there was a connection to send on.
        package static let notConnected = Code(value: .notConnected)
        /// The deadline passed before the answer came.
        package static let timedOut = Code(value: .timedOut)
        /// The task was cancelled.
        package static let cancelled = Code(value: .cancelled)
        /// The connection broke after the command was written.
        package static let connectionLost = Code(value: .connectionLost)
        /// Too many commands or bytes are in flight.
        package static let overloaded = Code(value: .overloaded)
        /// The server sent what is not RESP2, or beyond our limits, or an answer nobody asked for.
        package static let protocolViolation = Code(value: .protocolViolation)
        /// The server answered with an error: see `server`.
        package static let server = Code(value: .server)
        /// What answers is no server for this: a Sentinel, say, or a node of a Cluster.
        package static let wrongServer = Code(value: .wrongServer)
        /// The client was closed.
        package static let closed = Code(value: .closed)
    }

    /// What is known of the command that failed.
    package enum Effect: Sendable, Hashable {
        /// Certainly not done, and it will not be done later.
        case none
        /// Certainly done.
        case applied
        /// It may have been done, or (rarely) may still be.
        case unknown
    }

    package var code: Code
    package var effect: Effect
    /// What keeps a connection from being made, when that is what failed.
    package var fault: ConnectionFault?
    /// It came of a client that fails fast: to try again is not wanted.
    package var isFinal = false
    package var message: String
    /// The error reply, when `code` is `.server` or the server refused the connection.
    package var server: RedisServerError?

    package init(
        _ code: Code, effect: Effect, _ message: String, server: RedisServerError? = nil, fault: ConnectionFault? = nil
    ) {
        self.code = code
        self.effect = effect
        self.message = message
        self.server = server
        self.fault = fault
    }

    /// The error reply of a single command.
    package init(_ reply: RedisServerError) {
        self.init(.server, effect: reply.effect, reply.words, server: reply)
    }

    /// Nothing happened, and the same command may well succeed a little later.
    package var isRetriable: Bool {
        guard effect == .none, !isFinal else { return false }
        switch code {
        case .connectFailed, .notConnected, .timedOut, .connectionLost, .overloaded: return true
        case .server: return server.map { RedisServerError.Prefix.passing.contains($0.prefix) } ?? false
        default: return false
        }
    }
}

extension RedisError {
    /// The server is there and will take commands soon.
    var isNotReady: Bool { server.map { $0.isFull || RedisServerError.Prefix.notReady.contains($0.prefix) } ?? false }
}

extension RedisError: CustomStringConvertible {
    package var description: String { "\(code) (effect \(effect)): \(message)" }
}

/// An error reply of Redis.
package struct RedisServerError: Error, Sendable, Equatable {
    /// The first word of an error reply. Open: modules and scripts make their own.
    package struct Prefix: RawRepresentable, Sendable, Hashable {
        package let rawValue: String
        package init(rawValue: String) { self.rawValue = rawValue }

        package static let err = Prefix(rawValue: "ERR")
        package static let noScript = Prefix(rawValue: "NOSCRIPT")
        package static let readOnly = Prefix(rawValue: "READONLY")
        package static let loading = Prefix(rawValue: "LOADING")
        package static let busy = Prefix(rawValue: "BUSY")
        package static let outOfMemory = Prefix(rawValue: "OOM")
        package static let masterDown = Prefix(rawValue: "MASTERDOWN")
        package static let wrongPassword = Prefix(rawValue: "WRONGPASS")
        package static let noPermission = Prefix(rawValue: "NOPERM")
        package static let noAuthentication = Prefix(rawValue: "NOAUTH")
        package static let misconfigured = Prefix(rawValue: "MISCONF")
        package static let noReplicas = Prefix(rawValue: "NOREPLICAS")
        package static let moved = Prefix(rawValue: "MOVED")
        package static let ask = Prefix(rawValue: "ASK")
        package static let tryAgain = Prefix(rawValue: "TRYAGAIN")
        package static let clusterDown = Prefix(rawValue: "CLUSTERDOWN")
        package static let executionAborted = Prefix(rawValue: "EXECABORT")
        /// Protected mode: it serves its own machine only.
        package static let denied = Prefix(rawValue: "DENIED")
        package static let wrongType = Prefix(rawValue: "WRONGTYPE")

        /// Checked before a command, or the first write of a script, runs: with one of these nothing was written.
        fileprivate static let refusals: Set<Prefix> = [
            .noScript, .readOnly, .loading, .busy, .outOfMemory, .masterDown, .wrongPassword, .noAuthentication,
            .misconfigured, .noReplicas, .moved, .ask, .tryAgain, .clusterDown, .executionAborted,
        ]
        /// States of a server that end by themselves.
        fileprivate static let passing: Set<Prefix> = [
            .readOnly, .loading, .busy, .masterDown, .misconfigured, .noReplicas, .moved, .ask, .tryAgain,
            .clusterDown,
        ]
        /// A server that is not ready yet; connecting goes on.
        static let notReady: Set<Prefix> = [.loading, .busy, .masterDown]
    }

    /// All of the reply, prefix included.
    package let message: String

    package init(message: String) { self.message = message }

    package var prefix: Prefix {
        var words = message.utf8[...]
        // Before Redis 7 an error that a command inside a script met stands behind the script's own words, after ": -".
        if message.hasPrefix("ERR Error running script") {
            let mark = Array(": -".utf8)
            var rest = words
            while rest.count > mark.count {
                if rest.starts(with: mark) {
                    words = rest.dropFirst(mark.count)
                    break
                }
                rest = rest.dropFirst()
            }
        }
        return Prefix(rawValue: String(decoding: words.prefix { $0 != UInt8(ascii: " ") }, as: UTF8.self))
    }

    /// It has no room for another connection now: said before the connection is closed, whatever was asked.
    var isFull: Bool { message.contains("max number of clients") }

    var effect: RedisError.Effect {
        let prefix = self.prefix
        if Prefix.refusals.contains(prefix) { return .none }
        if prefix == .noPermission || prefix == .wrongType {
            // Redis names the script when the error rose inside one, perhaps after a write of it.
            return message.contains("script") ? .unknown : .none
        }
        // What it does not know it did not do: a Sentinel, say, knows no scripts. (From inside a script it is told in
        // other words.)
        if message.hasPrefix("ERR unknown command") { return .none }
        return .unknown
    }
}

extension RedisServerError: CustomStringConvertible {
    package var description: String { words }
}
