// SPDX-License-Identifier: Apache-2.0
//
// A connection of libpq, by its calls that do not wait: what they would wait for is waited for at the desk, until the
// deadline or the end of the session. It belongs to the thread that opened it and cannot be copied, so it is closed on
// every way out of that thread's function, exactly once, and by nobody else.
import CLibpq
import RingfencePlatform

/// The address of a PostgreSQL, and the user to connect as. libpq takes what is not given here from the environment and
/// its files.
package struct PostgresTarget: Sendable, Hashable {
    /// A host, or the absolute path of the directory of the socket.
    package var host: String
    package var port: Int
    package var user: String
    package var database: String
    /// A password file; nil: libpq's own.
    package var passwordFile: String?
    /// The server's options for this session, as on its command line.
    package var options: String
    /// How the session shows in `pg_stat_activity`.
    package var applicationName: String

    package init(
        host: String, port: Int, user: String, database: String, passwordFile: String?, options: String,
        applicationName: String
    ) {
        self.host = host
        self.port = port
        self.user = user
        self.database = database
        self.passwordFile = passwordFile
        self.options = options
        self.applicationName = applicationName
    }
}

/// An open connection. Dropping it closes it.
struct PostgresConnection: ~Copyable {
    private let libpq: rf_libpq
    // SAFETY: libpq's, made in `open`, used by this value only and freed in `deinit`; a PGconn may be used by one
    // thread at a time, and this value, which is not Sendable, never leaves the one it was made on.
    private let handle: OpaquePointer

    private init(_ libpq: rf_libpq, _ handle: OpaquePointer) {
        self.libpq = libpq
        self.handle = handle
    }

    deinit { libpq.PQfinish(handle) }

    /// Connects, within `limit`.
    static func open(
        _ target: PostgresTarget, limit: Duration, _ desk: PostgresDesk
    ) throws(PostgresError) -> PostgresConnection {
        let deadline = ContinuousClock.now + limit
        // SAFETY: a table that does not change once it is handed out, or a text that lasts until this thread's next
        // call of the dynamic linker.
        var why: UnsafePointer<CChar>?
        guard let libpq = rf_libpq_load(&why) else {
            throw PostgresError("no libpq (Debian: libpq5): \(text(why))")
        }
        let handle = rf_libpq_start(
            libpq, target.host, "\(target.port)", target.user, target.database, target.passwordFile, target.options,
            target.applicationName)
        guard let handle else { throw PostgresError("out of memory") }
        let connection = PostgresConnection(libpq.pointee, handle)
        try connection.connect(until: deadline, desk)
        return connection
    }

    private func connect(until deadline: ContinuousClock.Instant, _ desk: PostgresDesk) throws(PostgresError) {
        guard libpq.PQstatus(handle) != CONNECTION_BAD else { throw error }
        var events = POLLOUT
        while true {
            try wait(events, until: deadline, desk)
            switch libpq.PQconnectPoll(handle) {
            case PGRES_POLLING_READING: events = POLLIN
            case PGRES_POLLING_WRITING: events = POLLOUT
            case PGRES_POLLING_OK:
                // Else libpq waits by itself for the server to take what it sends, the farewell too.
                guard libpq.PQsetnonblocking(handle, 1) == 0 else { throw error }
                return
            default: throw error
            }
        }
    }

    /// Asks one question and waits for its answer, for as long as the desk is open.
    ///
    /// - Throws: why the connection is of no use any more.
    func ask(_ question: String, _ desk: PostgresDesk) throws(PostgresError) -> PostgresClient.Answer {
        guard libpq.PQsendQuery(handle, question) == 1 else { throw error }
        try flush(desk)
        var answer = PostgresClient.Answer.failed(PostgresError("no row was answered"))
        while true {
            while libpq.PQisBusy(handle) == 1 {
                try wait(POLLIN, desk)
                try consume()
            }
            // SAFETY: its owner until it is cleared, before the next one is taken.
            guard let result = libpq.PQgetResult(handle) else { break }
            defer { libpq.PQclear(result) }
            switch libpq.PQresultStatus(result) {
            case PGRES_TUPLES_OK:
                if let row = row(result) { answer = .row(row) }
            case PGRES_COMMAND_OK: break
            case PGRES_FATAL_ERROR:
                answer = .failed(PostgresError(libpq: Self.text(libpq.PQresultErrorMessage(result))))
            default:
                let kind = Self.text(libpq.PQresStatus(libpq.PQresultStatus(result)))
                throw PostgresError("it answers with \(kind)")
            }
        }
        guard libpq.PQstatus(handle) == CONNECTION_BAD else { return answer }
        if case .failed(let why) = answer { throw why }
        throw error
    }

    /// The first row, as text; NULL is an empty one.
    private func row(_ result: OpaquePointer) -> [String]? {
        guard libpq.PQntuples(result) > 0 else { return nil }
        return (0..<libpq.PQnfields(result)).map { column in
            Self.text(libpq.PQgetvalue(result, 0, column))
        }
    }

    private func flush(_ desk: PostgresDesk) throws(PostgresError) {
        while true {
            let left = libpq.PQflush(handle)
            if left == 0 { return }
            guard left == 1 else { throw error }
            // A server that cannot answer takes nothing: what it says is read first.
            if try wait(POLLIN | POLLOUT, desk) & POLLIN != 0 { try consume() }
        }
    }

    private func consume() throws(PostgresError) {
        guard libpq.PQconsumeInput(handle) == 1 else { throw error }
    }

    @discardableResult
    private func wait(
        _ events: Int32, until deadline: ContinuousClock.Instant? = nil, _ desk: PostgresDesk
    ) throws(PostgresError) -> Int32 {
        // Another one after each address that failed.
        let descriptor = libpq.PQsocket(handle)
        guard descriptor >= 0 else { throw error }
        return try desk.wait(descriptor, events, until: deadline)
    }

    private var error: PostgresError { PostgresError(libpq: Self.text(libpq.PQerrorMessage(handle))) }

    // SAFETY: libpq's texts end with a zero, and last longer than this call: a result's until it is cleared, the
    // connection's until the next call with it.
    private static func text(_ bytes: UnsafePointer<CChar>?) -> String { bytes.map { String(cString: $0) } ?? "" }
}
