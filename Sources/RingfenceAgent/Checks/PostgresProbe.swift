// SPDX-License-Identifier: Apache-2.0
//
// The PostgreSQL probe, over one session that is kept: an answer takes no longer than the query, and a new connection
// is made only when the server was gone.
//
// A look that gets no answer in time leaves its question with the server: one that hangs for a moment answers later,
// and is not met by a storm of new connections. When three questions are open the session is given up for a new one,
// for its connection may be silently dead. The reason told is libpq's or the server's own message.
//
// A kept session sees only half: its process in the server goes on answering when the postmaster hangs, so that nobody
// else can connect, and when the disk is full, so that nothing can be written. So now and then a look also opens a new
// session and writes as a client would (`WriteCheck`); after one that failed every look does, until it succeeds.
import Libpq
import RingfenceAgentCore
import RingfenceCore
import RingfenceOperations

/// Passes when PostgreSQL answers a query; tells its role and how far its WAL goes, in bytes.
actor PostgresProbe: CheckProbe {
    private static let openMaximum = 3

    private let plan: AgentConfiguration.PostgresPlan
    private var session: PostgresClient?
    private var writtenAt: ContinuousClock.Instant?
    private var isWriteFailing = false

    init(_ plan: AgentConfiguration.PostgresPlan) { self.plan = plan }

    func look(timeout: Duration) async -> Observation {
        if let current = session, current.isOver || current.open >= Self.openMaximum {
            current.close()
            session = nil
        }
        do {
            let current = try session ?? PostgresClient(plan, timeout: timeout)
            session = current
            let seen = Self.observation(await current.ask(Self.question, timeout: timeout))
            guard seen.failure == nil, let role = seen.role else { return seen }
            if let why = try await objectionToWriting(role, timeout) { return Observation(failure: why) }
            return seen
        } catch { return Observation(failure: "\(error)") }
    }

    /// Connects anew and writes, if it is time to. Returns why that failed; nil: it did not, or is not due.
    private func objectionToWriting(_ role: ResourceRole, _ timeout: Duration) async throws -> String? {
        let isDue = writtenAt.map { ContinuousClock.now - $0 >= plan.writeInterval } ?? true
        guard isDue || isWriteFailing else { return nil }
        let objection = try await WriteCheck.objection(plan, role, timeout: max(timeout, plan.writeTimeout))
        writtenAt = .now
        isWriteFailing = objection != nil
        return objection
    }

    func close() async {
        session?.close()
        session = nil
    }

    /// The position of a standby is what it has, replayed or not: that is what a promotion replays first. The timeline
    /// of a standby is that of its newest checkpoint; a primary tells whom it waits for at a commit, a standby whether
    /// it receives.
    static let question = [
        "SELECT CASE WHEN r THEN 'standby' ELSE 'primary' END,",
        "(CASE WHEN r THEN GREATEST(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())",
        "ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn)::bigint,",
        "CASE WHEN r THEN (SELECT timeline_id FROM pg_control_checkpoint())",
        "ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,",
        "CASE WHEN r THEN (SELECT status FROM pg_stat_wal_receiver)",
        "ELSE (SELECT string_agg(application_name, ',') FROM pg_stat_replication",
        "WHERE sync_state IN ('sync', 'quorum')) END",
        "FROM (SELECT pg_is_in_recovery() AS r) AS s;",
    ].joined(separator: " ")

    static func observation(_ answer: PostgresClient.Answer) -> Observation {
        switch answer {
        case .timedOut: return Observation(failure: "timed out")
        case .failed(let why): return Observation(failure: why.message)
        case .row(let columns):
            guard columns.count == 4, let role = ResourceRole(rawValue: columns[0]) else {
                return Observation(failure: "it answered \(quoted(columns.joined(separator: " ")))")
            }
            var detail = ["timeline": columns[2]]
            if !columns[3].isEmpty {
                detail[role == .primary ? "syncStandbys" : "receiver"] = columns[3]
            }
            return Observation(role: role, position: Int64(columns[1]), detail: detail)
        }
    }
}

/// What a client does: a new connection, a write to the disk of the data, a commit.
///
/// It leaves nothing behind and needs no right that a user could lack. A megabyte goes through a temporary file, which
/// lies in the data directory: a log and tables grow no further either if that does not fit. On a primary a message
/// that nobody reads goes through the log, and is on disk when it is answered; without waiting for a standby, for a
/// primary that waits for one is healthy.
private enum WriteCheck {
    private static let options = "-c synchronous_commit=local -c work_mem=64kB -c temp_tablespaces="
    private static let rows = "generate_series(1, 40000)"

    /// Why it could not be done; nil: it could.
    static func objection(
        _ plan: AgentConfiguration.PostgresPlan, _ role: ResourceRole, timeout: Duration
    ) async throws -> String? {
        let session = try PostgresClient(plan, timeout: timeout, options: options)
        defer { session.close() }
        let question =
            role == .primary
            ? "SELECT count(*), pg_logical_emit_message(true, 'ringfence', 'check') FROM \(rows);"
            : "SELECT count(*) FROM \(rows);"
        switch await session.ask(question, timeout: timeout) {
        case .row: return nil
        case .timedOut: return "a new connection and a write are not done in \(timeout.shortText)"
        // It answers. If clients have taken all its connections, a failover does not help: they would all go to the
        // other machine.
        case .failed(let why) where why.sqlState == PostgresError.tooManyConnections: return nil
        case .failed(let why): return why.message
        }
    }
}

extension PostgresClient {
    /// A session for looks that wait for `timeout`.
    ///
    /// - Parameter options: further ones of the server, for this session.
    fileprivate convenience init(
        _ plan: AgentConfiguration.PostgresPlan, timeout: Duration, options: String = ""
    ) throws {
        let target = PostgresTarget(
            host: plan.host, port: plan.port, user: plan.user, database: plan.database, passwordFile: plan.passwordFile,
            options: "-c statement_timeout=\(max(100, timeout.wholeMilliseconds)) \(options)",
            applicationName: "ringfence-agent")
        try self.init(target, connectLimit: .seconds(2))
    }
}
