// SPDX-License-Identifier: Apache-2.0
//
// One line for each request, in words that no client chose: the method, the route as the table has it, the status, the
// time until the answer, and from where it came. Neither path nor query nor headers nor body are in it, for a token may
// stand in any of them; what an order names (a lock, a group, a member, who gives it) is there once it was checked.
//
// Everything is said at debug. At info, where a service runs, is what went wrong with an order: with what takes,
// changes or ends something. That a lock is busy is no fault but the answer to a question, and clients may ask it all
// the time. In an outage every order fails, and a stranger may try tokens without end: beyond so many lines a second
// the rest is counted, and said with the next line.
import HTTPTypes
import Logging
import NIOCore
import Ringfence
import Synchronization

final class AccessLog: Sendable {
    /// How many lines a second may be at info.
    struct Budget {
        let perSecond: Int
        private var second = Int64.min
        private var written = 0
        private var withheld = 0

        init(perSecond: Int) { self.perSecond = perSecond }

        /// - Returns: how many lines were withheld before this one; nil: this one is, too.
        mutating func take(second now: Int64) -> Int? {
            if now != second { (second, written) = (now, 0) }
            guard written < perSecond else {
                withheld += 1
                return nil
            }
            written += 1
            defer { withheld = 0 }
            return withheld
        }
    }

    private static let start = ContinuousClock.now
    private let logger: Logger
    private let faults = Mutex(Budget(perSecond: 50))
    /// Apart, so that a stranger's tries do not keep the faults of others out of the log.
    private let strangers = Mutex(Budget(perSecond: 5))

    init(_ logger: Logger) { self.logger = logger }

    /// The request has its answer; of a stream, its head.
    func answered(_ method: HTTPRequest.Method, _ route: Route?, _ exchange: Exchange, _ reply: Reply) {
        let isFault = reply.status.code >= 400 && route?.isOrder == true && reply.code != Problem.Code.busy
        let withheld = isFault ? take(isStranger: reply.code == Problem.Code.unauthorized) : nil
        write(withheld == nil ? .debug : .info, "request", method, route, exchange) { metadata in
            if let withheld, withheld > 0 { metadata["withheld"] = "\(withheld)" }
            metadata["status"] = "\(reply.status.code)"
            if let code = reply.code { metadata["code"] = "\(code.name)" }
        }
    }

    private func take(isStranger: Bool) -> Int? {
        let second = (ContinuousClock.now - Self.start).components.seconds
        return isStranger
            ? strangers.withLock { $0.take(second: second) } : faults.withLock { $0.take(second: second) }
    }

    /// There is nobody to answer any more.
    func hungUp(_ method: HTTPRequest.Method, _ route: Route?, _ exchange: Exchange) {
        write(.debug, "request whose client hung up", method, route, exchange) { _ in }
    }

    /// It was refused before it was a request.
    func refused(_ problem: Problem, from channel: any Channel) {
        logger.debug(
            "request refused",
            metadata: [
                "status": "\(problem.code.status)", "code": "\(problem.code.name)",
                LoggingKeys.actor: "\(peer(of: channel))",
            ])
    }

    private func write(
        _ level: Logger.Level, _ message: Logger.Message, _ method: HTTPRequest.Method, _ route: Route?,
        _ exchange: Exchange, _ more: (inout Logger.Metadata) -> Void
    ) {
        guard logger.logLevel <= level else { return }
        let microseconds = (ContinuousClock.now - exchange.arrived) / .microseconds(1)
        var metadata: Logger.Metadata = [
            "method": "\(method.rawValue)", "route": "\(route?.path ?? "none")",
            "ms": "\((microseconds / 10).rounded() / 100)",
            LoggingKeys.actor: "\(exchange.actor ?? peer(of: exchange.channel))",
        ]
        let subject = route?.path.hasPrefix("/v1/groups") == true ? LoggingKeys.group : LoggingKeys.lock
        for (name, value) in exchange.parameters where name == "name" || name == "member" {
            metadata[name == "name" ? subject : LoggingKeys.member] = "\(value)"
        }
        more(&metadata)
        logger.log(level: level, message, metadata: metadata)
    }
}

extension Route {
    /// It takes, changes or ends something.
    fileprivate var isOrder: Bool { method != .get && !isQuestion }
}

/// Whose connection it is, as far as the service sees it.
func peer(of channel: any Channel) -> String { "http/\(channel.remoteAddress?.ipAddress ?? "unknown")" }
