// SPDX-License-Identifier: Apache-2.0
//
// One kept session with PostgreSQL, over libpq: the protocol, SCRAM, TLS, the password file and the settings a DBA
// knows are its own.
//
// The session has a thread of its own, for its whole life, because parts of libpq block: names are resolved and
// certificates read by calls that wait, for how long nobody can say. The caller waits on an event loop instead, and no
// longer than it wants to. A question that is not answered in time stays with the server, which may have stopped for a
// moment; those behind it wait.
//
// The thread's function owns the connection (PostgresConnection), so ending it is closing that. A session that is
// dropped ends too: the thread knows the desk only.
import NIOCore
import NIOPosix

/// A session with PostgreSQL that is asked one question after the other.
package final class PostgresClient: Sendable {
    package enum Answer: Sendable, Hashable {
        /// The first row's columns as text; NULL is an empty one.
        case row([String])
        case failed(PostgresError)
        case timedOut
    }

    private let desk: PostgresDesk
    private let eventLoop = MultiThreadedEventLoopGroup.singleton.next()

    /// Begins to connect; what is asked meanwhile is answered then, or fails with the connection.
    ///
    /// - Parameter connectLimit: How long connecting may take.
    /// - Throws: ``PostgresError``.
    package init(_ target: PostgresTarget, connectLimit: Duration) throws {
        let desk = try PostgresDesk()
        self.desk = desk
        let thread = NIOThreadPool(numberOfThreads: 1)
        thread.start()
        thread.submit { _ in
            desk.end(Self.serve(target, connectLimit, desk))
            thread.shutdownGracefully { _ in }
        }
    }

    deinit { close() }

    /// Whether it has ended, by itself or by ``close()``.
    package var isOver: Bool { desk.isOver }
    /// Questions without an answer.
    package var open: Int { desk.open }

    /// Asks, and waits for the answer, but not longer than `timeout`.
    package func ask(_ question: String, timeout: Duration) async -> Answer {
        let promise = eventLoop.makePromise(of: Answer.self)
        if let number = desk.ask(question, promise) {
            let limit = eventLoop.scheduleTask(in: .init(timeout)) { [desk] in desk.giveUp(number) }
            promise.futureResult.whenComplete { _ in limit.cancel() }
        }
        return (try? await promise.futureResult.get()) ?? .timedOut
    }

    /// Ends the session. Its connection is closed as soon as libpq returns from what it is at.
    package func close() { desk.end(PostgresError("the session was closed")) }

    /// Connects and answers, until there is an end to it; returns why.
    private static func serve(_ target: PostgresTarget, _ limit: Duration, _ desk: PostgresDesk) -> PostgresError {
        do throws(PostgresError) {
            let connection = try PostgresConnection.open(target, limit: limit, desk)
            while true {
                let question = try desk.next()
                desk.answer(question, try connection.ask(question.text, desk))
            }
        } catch { return error }
    }
}
