// SPDX-License-Identifier: Apache-2.0
//
// PostgreSQL asked through one psql that is kept: question in, answer out, over its pipes.
//
// Why psql: libpq is no dependency of ours, and its protocol with SCRAM and TLS is too much to write again for one
// question. psql has all of that, with the password file and the settings a DBA knows. One psql a look would cost 30 ms
// and a fork each second for ever; a kept one answers within a millisecond, and costs a start only when the server was
// gone.
//
// A look that gets no answer in time leaves its question with psql: a server that hangs for a moment answers later, and
// is not met by a storm of new connections. When three questions are open the session is given up for a new one, for
// its connection may be dead without a word. The text of psql's complaint is the reason told.
//
// A kept session sees half: its process in the server goes on answering when the first process hangs, so that nobody
// else can connect, and when the disk is full, so that nothing can be written. So now and then a look also opens a new
// session and writes as a client would (`WriteCheck`); after one that failed each look does, until it succeeds.
import NIOCore
import NIOPosix
import RingfenceAgentCore
import RingfenceCore
import RingfenceOperations
import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Passes when PostgreSQL answers a query; tells its role and how far its WAL goes, in bytes.
actor PostgresProbe: CheckProbe {
    private static let openMaximum = 3

    private let plan: AgentConfiguration.PostgresPlan
    private var session: PsqlSession?
    private var writtenAt: ContinuousClock.Instant?
    private var isWriteFailing = false

    init(_ plan: AgentConfiguration.PostgresPlan) { self.plan = plan }

    func look(timeout: Duration) async -> Observation {
        if let current = session, current.isOver || current.open >= Self.openMaximum {
            current.end()
            session = nil
        }
        do {
            let current: PsqlSession
            if let session {
                current = session
            } else {
                current = try await PsqlSession.start(plan, timeout: timeout)
                session = current
            }
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
        session?.end()
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

    static func observation(_ answer: PsqlSession.Answer) -> Observation {
        switch answer {
        case .timedOut: return Observation(failure: "timed out")
        case .failed(let why): return Observation(failure: why)
        case .row(let row):
            let columns = row.split(separator: "|", omittingEmptySubsequences: false)
            guard columns.count == 4, let role = ResourceRole(rawValue: String(columns[0])) else {
                return Observation(failure: "psql answered \(quoted(row))")
            }
            var detail = ["timeline": String(columns[2])]
            if !columns[3].isEmpty {
                detail[role == .primary ? "syncStandbys" : "receiver"] = String(columns[3])
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
/// primary that does is well.
private enum WriteCheck {
    private static let options = "-c synchronous_commit=local -c work_mem=64kB -c temp_tablespaces="
    private static let rows = "generate_series(1, 40000)"

    /// Why it could not be done; nil: it could.
    static func objection(
        _ plan: AgentConfiguration.PostgresPlan, _ role: ResourceRole, timeout: Duration
    ) async throws -> String? {
        let session = try await PsqlSession.start(plan, timeout: timeout, options: options)
        defer { session.end() }
        let question =
            role == .primary
            ? "SELECT count(*), pg_logical_emit_message(true, 'ringfence', 'check') FROM \(rows);"
            : "SELECT count(*) FROM \(rows);"
        switch await session.ask(question, timeout: timeout) {
        case .row: return nil
        case .timedOut: return "a new connection and a write are not done in \(timeout.shortText)"
        // It answers. That clients have taken all its connections is no better on another machine, where they would all
        // go.
        case .failed(let why) where ["too many", "connection slots"].contains { why.contains($0) }: return nil
        case .failed(let why): return why
        }
    }
}

/// A psql that lives, and the questions it has not answered.
final class PsqlSession: Sendable {
    enum Answer: Sendable, Hashable {
        case row(String)
        case failed(String)
        case timedOut
    }

    private struct State {
        var asked = 0
        var answered = 0
        var waiting: [Int: EventLoopPromise<Answer>] = [:]
        var partial: [UInt8] = []
        /// What came since the last answer.
        var lines: [String] = []
        var isOver = false
    }

    private static let mark = "--ringfence--"
    private static let linesMaximum = 32
    private static let lineBytesMaximum = 8_192

    private let child: ChildProcess
    private let channel: any Channel
    private let state = Mutex(State())

    private init(_ child: ChildProcess, _ channel: any Channel) {
        self.child = child
        self.channel = channel
    }

    /// It has ended, or is not to be asked any more.
    var isOver: Bool { state.withLock { $0.isOver } }
    /// Questions without an answer.
    var open: Int { state.withLock { $0.asked - $0.answered } }

    /// Starts psql; it connects by itself, and answers what it is asked then.
    ///
    /// - Parameter options: of the server, for this session.
    static func start(
        _ plan: AgentConfiguration.PostgresPlan, timeout: Duration, options: String = ""
    ) async throws -> PsqlSession {
        var input: [Int32] = [0, 0]
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        guard socketpair(AF_UNIX, type, 0, &input) == 0 else {
            throw Settings.Failure(description: "no socket: \(String(cString: strerror(errno)))")
        }
        defer { close(input[1]) }
        var launch = ChildProcess.Launch([
            plan.psql == "psql" ? installed : plan.psql, "-X", "-A", "-t", "-q", "-w", "-F", "|",
        ])
        launch.environment = environment(plan, timeout, options)
        launch.hasOwnGroup = true
        (launch.input, launch.output, launch.error) = (input[1], input[1], input[1])
        let reader = LineReader()
        let channel: any Channel
        do {
            channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(reader) }
                }
                .withConnectedSocket(input[0]).get()
        } catch {
            close(input[0])
            throw error
        }
        do {
            let session = PsqlSession(try await ChildProcess.start(launch), channel)
            reader.attach(session)
            return session
        } catch {
            channel.close(promise: nil)
            throw error
        }
    }

    private static func environment(
        _ plan: AgentConfiguration.PostgresPlan, _ timeout: Duration, _ options: String
    ) -> [String] {
        var added = [
            "PGHOST=\(plan.host)", "PGPORT=\(plan.port)", "PGUSER=\(plan.user)", "PGDATABASE=\(plan.database)",
            "PGAPPNAME=ringfence-agent", "PGCONNECT_TIMEOUT=2",
            "PGOPTIONS=-c statement_timeout=\(max(100, timeout.wholeMilliseconds)) \(options)",
        ]
        if let file = plan.passwordFile { added.append("PGPASSFILE=\(file)") }
        let names = added.map { $0.prefix { $0 != "=" } }
        return HookContext.inherited.filter { entry in !names.contains(entry.prefix { $0 != "=" }) } + added
    }

    /// Debian's psql in PATH is a script that looks for this one.
    private static let installed: String = {
        let directory = "/usr/lib/postgresql"
        guard let handle = opendir(directory) else { return "psql" }
        defer { closedir(handle) }
        var newest = -1
        while let entry = readdir(handle) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if let version = Int(name), access("\(directory)/\(name)/bin/psql", X_OK) == 0 {
                newest = max(newest, version)
            }
        }
        return newest < 0 ? "psql" : "\(directory)/\(newest)/bin/psql"
    }()

    /// Asks, and waits for the answer, but not longer than `timeout`.
    func ask(_ question: String, timeout: Duration) async -> Answer {
        let promise = channel.eventLoop.makePromise(of: Answer.self)
        let number = state.withLock { state -> Int in
            state.asked += 1
            state.waiting[state.asked] = promise
            return state.asked
        }
        channel.writeAndFlush(
            ByteBuffer(string: "\(question)\n\\echo\n\\echo \(Self.mark) \(number) :SQLSTATE\n"), promise: nil)
        if isOver { ended() }
        let limit = channel.eventLoop.scheduleTask(in: .init(timeout)) { [self] in
            state.withLock { $0.waiting.removeValue(forKey: number) }?.succeed(.timedOut)
        }
        let answer = try? await promise.futureResult.get()
        limit.cancel()
        return answer ?? .timedOut
    }

    func end() {
        state.withLock { $0.isOver = true }
        child.end(group: SIGKILL)
        channel.close(promise: nil)
    }

    fileprivate func received(_ bytes: ByteBufferView) {
        var done: [(EventLoopPromise<Answer>, Answer)] = []
        state.withLock { state in
            state.partial += bytes
            while let end = state.partial.firstIndex(of: 0x0A) {
                let line = String(decoding: state.partial[..<end], as: UTF8.self)
                state.partial.removeFirst(end + 1)
                if let answer = Self.took(line, &state) { done.append(answer) }
            }
            if state.partial.count > Self.lineBytesMaximum { state.partial = [] }
        }
        for (promise, answer) in done { promise.succeed(answer) }
    }

    private static func took(_ line: String, _ state: inout State) -> (EventLoopPromise<Answer>, Answer)? {
        guard line.hasPrefix(mark) else {
            if !line.isEmpty, state.lines.count < linesMaximum { state.lines.append(line) }
            return nil
        }
        let words = line.split(separator: " ")
        guard words.count == 3, let number = Int(words[1]) else { return nil }
        defer { state.lines = [] }
        state.answered = max(state.answered, number)
        guard let promise = state.waiting.removeValue(forKey: number) else { return nil }
        if words[2] == "00000", let row = state.lines.last { return (promise, .row(row)) }
        return (promise, .failed(complaint(state.lines) ?? "SQLSTATE \(words[2])"))
    }

    fileprivate func ended() {
        let (waiting, why) = state.withLock { state in
            state.isOver = true
            if !state.partial.isEmpty { state.lines.append(String(decoding: state.partial, as: UTF8.self)) }
            defer { state.waiting = [:] }
            return (state.waiting, Self.complaint(state.lines) ?? "psql ended")
        }
        for promise in waiting.values { promise.succeed(.failed(why)) }
    }

    /// The essence of what psql says: `psql: error: connection to server at "…", port 5432 failed: Connection refused`.
    private static func complaint(_ lines: [String]) -> String? {
        guard let line = lines.first(where: { $0.contains("FATAL") || $0.contains("failed:") }) ?? lines.first else {
            return nil
        }
        let cut = line.ranges(of: "failed: ").last.map { line[$0.upperBound...] } ?? line[...]
        return String(cut.trimmingPrefix("psql: error: ").prefix(200))
    }
}

/// Hands on what psql prints; what comes before it knows to whom is kept.
private final class LineReader: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer
    private struct State {
        weak var session: PsqlSession?
        var early = ByteBuffer()
        var hasEnded = false
    }
    private let state = Mutex(State())

    func attach(_ session: PsqlSession) {
        let (early, hasEnded) = state.withLock { state in
            state.session = session
            return (state.early, state.hasEnded)
        }
        if early.readableBytes > 0 { session.received(early.readableBytesView) }
        if hasEnded { session.ended() }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = unwrapInboundIn(data)
        let session = state.withLock { state in
            if state.session == nil { state.early.writeImmutableBuffer(bytes) }
            return state.session
        }
        session?.received(bytes.readableBytesView)
    }

    func channelInactive(context: ChannelHandlerContext) {
        let session = state.withLock { state in
            state.hasEnded = true
            return state.session
        }
        session?.ended()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
