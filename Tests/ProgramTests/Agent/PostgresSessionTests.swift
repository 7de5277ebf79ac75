// SPDX-License-Identifier: Apache-2.0
//
// What becomes of the agent's session with a PostgreSQL that stops, says nothing, or is not asked any more.
import NIOCore
import NIOPosix
import RingfenceAgentCore
import RingfenceCore
import RingfencePlatform
import Synchronization
import TestSupport
import Testing

@testable import Libpq
@testable import RingfenceAgent

/// Accepts connections and says nothing to them.
private final class SilentServer: Sendable {
    private final class Counter: ChannelInboundHandler, Sendable {
        typealias InboundIn = ByteBuffer
        private let server: SilentServer
        init(_ server: SilentServer) { self.server = server }
        func channelActive(context: ChannelHandlerContext) {
            server.counts.withLock { counts in
                counts.accepted += 1
                counts.open += 1
            }
        }
        func channelInactive(context: ChannelHandlerContext) { server.counts.withLock { $0.open -= 1 } }
        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
    }

    private let counts = Mutex((accepted: 0, open: 0))
    private let listener = Mutex<(any Channel)?>(nil)

    var accepted: Int { counts.withLock { $0.accepted } }
    var open: Int { counts.withLock { $0.open } }

    /// Starts it; returns its port.
    func start() async throws -> Int {
        let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(Counter(self))
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        listener.withLock { $0 = channel }
        return try #require(channel.localAddress?.port)
    }

    func stop() async throws { try await listener.withLock { $0 }?.close() }
}

@Suite(.postgres) struct PostgresSessionTests {
    private static let patience: Duration = .seconds(10)
    /// For a look that will get no answer.
    private static let moment: Duration = .milliseconds(50)

    private static func target(_ host: String, port: Int = 5432) -> PostgresTarget {
        PostgresTarget(
            host: host, port: port, user: "postgres", database: "postgres", passwordFile: nil,
            options: "-c statement_timeout=20", applicationName: "test")
    }

    @Test func `a server that stops for a moment is asked on over the session there is, and for long over a new one`()
        async throws
    {
        let server = try #require(PostgresServer.current)
        let database = try await server.makeDatabase()
        let probe = try probe(
            #"""
            {"type":"postgres","address":"\#(server.directory.path)","database":"\#(database.name)",\#
            "writeInterval":"1h"}
            """#)
        let session = try database.session()
        func pids() async throws -> [Int32] {
            try await session.run(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'ringfence-agent' AND datname = "
                    + "'\(database.name)'"
            ).split(separator: "\n").compactMap { Int32($0) }
        }
        #expect(await probe.look(timeout: Self.patience).failure == nil)
        // That of the write is closed, and the server takes note of it.
        try await eventually("one session is left") { try await pids().count == 1 }
        let pid = try #require(try await pids().first)

        kill(pid, SIGSTOP)
        #expect(await probe.look(timeout: Self.moment).failure == "timed out")
        #expect(await probe.look(timeout: Self.moment).failure == "timed out")
        kill(pid, SIGCONT)
        #expect(await probe.look(timeout: Self.patience).failure == nil)
        #expect(try await pids() == [pid])

        kill(pid, SIGSTOP)
        for _ in 0..<3 { #expect(await probe.look(timeout: Self.moment).failure == "timed out") }
        #expect(await probe.look(timeout: Self.patience).failure == nil)
        #expect(try await pids().count == 2)
        kill(pid, SIGCONT)
        try await eventually("the old session ends") { try await !pids().contains(pid) }
        await probe.close()
        try await eventually("so does that of a closed probe") { try await pids().isEmpty }
    }

    @Test func `no connection is left by a session that is closed, dropped or cancelled while it connects`()
        async throws
    {
        let server = SilentServer()
        let port = try await server.start()
        // It would go on connecting for longer than this test waits.
        func client() throws -> PostgresClient {
            try PostgresClient(Self.target("127.0.0.1", port: port), connectLimit: .seconds(3600))
        }
        let closed = try client()
        try await eventually("it connects") { server.open == 1 }
        closed.close()
        try await eventually("the connection of a closed session ends") { server.open == 0 }
        guard case .failed = await closed.ask("SELECT 1", timeout: Self.patience) else {
            Issue.record("a session that was closed answers")
            return
        }
        do {
            let dropped = try client()
            #expect(await dropped.ask("SELECT 1", timeout: Self.moment) == .timedOut)
            try await eventually("it connects") { server.open == 1 }
        }
        try await eventually("the connection of a dropped session ends") { server.open == 0 }
        let asking = Task { [cancelled = try client()] in await cancelled.ask("SELECT 1", timeout: Self.moment) }
        asking.cancel()
        #expect(await asking.value == .timedOut)
        try await eventually("the connection of a cancelled one ends") { server.accepted == 3 && server.open == 0 }
        try await server.stop()
    }

    @Test func `connecting has a limit of its own`() async throws {
        let server = SilentServer()
        let port = try await server.start()
        let probe = try probe(#"{"type":"postgres","address":"127.0.0.1:\#(port)"}"#)
        #expect(await probe.look(timeout: Self.patience).failure == "timeout expired")
        try await eventually("the connection ends") { server.open == 0 }
        #expect(server.accepted == 1)
        await probe.close()
        try await server.stop()
    }

    @Test func `a failure names the server's code`() async throws {
        let server = try #require(PostgresServer.current)
        let client = try PostgresClient(Self.target(server.directory.path), connectLimit: Self.patience)
        func sqlState(_ question: String) async -> String? {
            guard case .failed(let why) = await client.ask(question, timeout: Self.patience) else { return nil }
            return why.sqlState
        }
        #expect(await sqlState("SELECT 1 / 0") == "22012")
        #expect(await sqlState("SELECT pg_sleep(10)") == "57014")
        #expect(await client.ask("SELECT 1, NULL, 'a|b'", timeout: Self.patience) == .row(["1", "", "a|b"]))
        // What has no answer of the kind that is asked for ends the session.
        #expect(await client.ask("COPY (SELECT 1) TO STDOUT", timeout: Self.patience) != .timedOut)
        try await eventually("it ends") { client.isOver }
        guard case .failed = await client.ask("SELECT 1", timeout: Self.patience) else {
            Issue.record("a session that has ended answers")
            return
        }
    }

    @Test(
        arguments: [
            (
                "connection to server at \"db\" (10.0.0.1), port 5432 failed: Connection refused\n\tIs the server "
                    + "running?\n",
                "Connection refused", nil
            ),
            (
                "connection to server on socket \"/x/.s.PGSQL.5432\" failed: FATAL:  53300: sorry, too many clients "
                    + "already\n",
                "FATAL:  53300: sorry, too many clients already", "53300"
            ),
            (
                "FEHLER:  53400: temporäre Datei zu groß\nORT:  FileWrite, fd.c:2167\n",
                "FEHLER:  53400: temporäre Datei zu groß", "53400"
            ),
            (
                "FATAL:  57P01: terminating connection due to administrator command\nLOCATION:  ProcessInterrupts\n"
                    + "server closed the connection unexpectedly\n",
                "FATAL:  57P01: terminating connection due to administrator command", "57P01"
            ),
            ("fe_sendauth: no password supplied\n", "fe_sendauth: no password supplied", nil),
            ("", "libpq failed", nil),
        ] as [(String, String, String?)])
    func `of what libpq says the reason is told`(text: String, message: String, sqlState: String?) {
        let error = PostgresError(libpq: text)
        #expect(error.message == message)
        #expect(error.sqlState == sqlState)
    }
}
