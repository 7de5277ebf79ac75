// SPDX-License-Identifier: Apache-2.0
import Logging
import NIOCore
import NIOPosix
import Synchronization
import TestSupport
import Testing

@testable import Hiredis

/// What a person reads when there is no connection.
@Suite struct ConnectionWordsTests {
    /// No value of Swift, no constant of BoringSSL and no path of a source file.
    private static func isPlain(_ text: String) -> Bool {
        let foreign = [
            "error:", "OPENSSL", "SSL_", "_FAILED", ".cc", ".swift", "NIO", "Optional", "errno", "Error(", "$",
        ]
        let opened = text.filter { $0 == "(" }.count
        return !text.isEmpty && !foreign.contains { text.contains($0) } && opened == text.filter { $0 == ")" }.count
    }

    /// The failure of a client that does not wait.
    private static func failure(
        _ url: String, _ tls: RedisConfiguration.TLS = .init(), patience: Duration = .seconds(30)
    ) async throws -> RedisError? {
        var configuration = try RedisConfiguration(url: url, tls: tls)
        (configuration.commandTimeout, configuration.connectTimeout) = (.seconds(60), patience)
        configuration.failsFast = true
        return try await withClient(configuration) { client async throws in
            await redisError { try await client.call("PING") }
        }
    }

    private static func expect(
        _ error: RedisError?, _ fault: ConnectionFault, _ says: String, _ location: SourceLocation = #_sourceLocation
    ) {
        let text = error?.message ?? ""
        #expect(error?.fault == fault, "\(text)", sourceLocation: location)
        #expect(error?.effect == RedisError.Effect.none, sourceLocation: location)
        #expect(text.contains(says), "\(text)", sourceLocation: location)
        #expect(isPlain(text), "\(text)", sourceLocation: location)
    }

    @Test func `who fails fast hears at the first attempt that nobody is there, in one sentence`() async throws {
        let refused = try await Self.failure("redis://127.0.0.1:1")
        #expect(refused?.code == .connectFailed && refused?.message == "connection refused by 127.0.0.1:1")
        Self.expect(refused, .refused, "127.0.0.1:1")
        Self.expect(try await Self.failure("redis://[::1]:1"), .refused, "connection refused by [::1]:1")
        let directory = try TemporaryDirectory()
        let socket = directory.path + "/no.sock"
        Self.expect(try await Self.failure("unix://\(socket)"), .noSocket, "there is no socket \(socket)")
        Self.expect(
            try await Self.failure("redis://nowhere.invalid"), .nameNotFound, "the name nowhere.invalid is not found")
    }

    @Test func `a password that is missing or wrong is said as that`() async throws {
        try await withRedis(["--requirepass", "right"]) { server async throws in
            let missing = try await Self.failure(server.url)
            Self.expect(missing, .password, "NOAUTH")
            Self.expect(missing, .password, "password file")
            Self.expect(
                try await Self.failure("redis://:wrong@127.0.0.1:\(server.port)"), .password, "WRONGPASS")
        }
    }

    @Test func `each fault of TLS has words of its own`() async throws {
        let certificates = try await TestCertificates.make()
        let trusted = RedisConfiguration.TLS(authorityFile: certificates.authority)
        try await withRedis(tls: .init(certificates: certificates)) { server async throws in
            Self.expect(try await Self.failure(server.tlsURL), .untrusted, "no authority that is trusted here")
            var other = trusted
            other.serverName = "other.example"
            Self.expect(try await Self.failure(server.tlsURL, other), .wrongName, "for")
            // It waits for the end of what it takes for a command.
            let plain = "rediss://localhost:\(server.port)"
            Self.expect(try await Self.failure(plain, trusted, patience: .seconds(1)), .silent, "port speak TLS?")
            let secure = "redis://127.0.0.1:\(server.tlsPort)"
            Self.expect(try await Self.failure(secure), .broken, "give rediss://")
            for wrong in [
                RedisConfiguration.TLS(authorityFile: certificates.serverKey),
                .init(certificateFile: "/nonexistent/c.crt", privateKeyFile: certificates.clientKey),
                .init(certificateFile: certificates.clientCertificate, privateKeyFile: certificates.serverKey),
            ] {
                let error = try await Self.failure(server.tlsURL, wrong)
                #expect(error?.code == .invalidConfiguration && Self.isPlain(error?.message ?? ""), "\(error as Any)")
            }
        }
        let strict = RedisServer.TLS(certificates: certificates, requiresClientCertificate: true)
        try await withRedis(tls: strict) { server async throws in
            Self.expect(try await Self.failure(server.tlsURL, trusted), .clientCertificate, "redis-cert and redis-key")
        }
        let old = try await TestCertificates.make(days: -1)
        try await withRedis(tls: .init(certificates: old)) { server async throws in
            let authority = RedisConfiguration.TLS(authorityFile: old.authority)
            Self.expect(try await Self.failure(server.tlsURL, authority), .expired, "has expired")
        }
    }

    @Test(arguments: [
        (ECONNREFUSED, ConnectionFault.refused), (ETIMEDOUT, .silent), (EHOSTUNREACH, .noRoute),
        (ENETUNREACH, .noRoute),
        (ECONNRESET, .broken), (EPIPE, .broken), (EMFILE, .broken),
    ])
    func `an errno is told in words, with the address`(number: Int32, fault: ConnectionFault) {
        let words = ConnectionWords(address: .tcp(host: "10.0.0.1", port: 6379))
        let error = words.failure(IOError(errnoCode: number, reason: "connect(descriptor:addr:size:)"))
        Self.expect(error, fault, "10.0.0.1:6379")
        let loss = words.loss(IOError(errnoCode: number, reason: "read(descriptor:pointer:size:)"))
        #expect(Self.isPlain(loss.message) && loss.code == .connectionLost, "\(loss)")
    }

    @Test func `no answer in time is told with the time`() {
        let words = ConnectionWords(address: .tcp(host: "10.0.0.1", port: 6379))
        Self.expect(words.failure(ChannelError.connectTimeout(.seconds(1))), .silent, "no answer from 10.0.0.1:6379")
        Self.expect(words.silent(.seconds(1)), .silent, "within 1.0 seconds")
        let socket = ConnectionWords(address: .unix(path: "/run/r.sock"))
        Self.expect(
            socket.failure(IOError(errnoCode: EACCES, reason: "x")), .forbidden, "may not use the socket /run/r")
    }

    @Test(arguments: ["redis://user:pa/ss@host:6379", "redis://user:pa?ss@host", "rediss://:a/b@c/d@host"])
    func `a raw slash or question mark in a password is named as the cause`(url: String) async {
        let error = await redisError { _ = try RedisConfiguration(url: url) }
        #expect(error?.message.contains("%2F and %3F") == true && error?.message.contains("ss@") == false, "\(url)")
    }
}

@Suite struct ConnectionLogTests {
    /// Keeps what is logged.
    private final class Lines: LogHandler, Sendable {
        private let lines = Mutex<[String]>([])
        var all: [String] { lines.withLock { $0 } }
        func forget() { lines.withLock { $0 = [] } }
        var metadata: Logger.Metadata {
            get { [:] }
            set {}
        }
        var logLevel: Logger.Level {
            get { .info }
            set {}
        }
        subscript(metadataKey _: String) -> Logger.Metadata.Value? {
            get { nil }
            set {}
        }
        func log(event: LogEvent) { lines.withLock { $0.append("\(event.level) \(event.message)") } }
    }

    private final class Connection {}

    @Test func `several connections tell of one outage once, each reason once, and its end with its length`() throws {
        let lines = Lines()
        let logger = Logger(label: "test") { _ in lines }
        let log = ConnectionLog()
        let name = try RedisConfiguration(url: "redis://h")
        let (main, inbox) = (Connection(), Connection())
        func lose(_ connection: Connection, _ text: String, ready: Bool = false, at second: Int64) {
            log.lost(
                connection, wasReady: ready, RedisError(.connectFailed, effect: .none, text), of: name,
                now: second * 1_000_000_000, logger)
        }
        for connection in [main, inbox] { lose(connection, "refused", at: 0) }
        for connection in [main, inbox] { log.ready(connection, of: name, now: 500_000_000, logger) }
        #expect(lines.all.last == "notice connected to redis redis://h:6379/0 after 0.5 seconds")
        lines.forget()
        lose(main, "closed", ready: true, at: 1)
        lose(inbox, "closed", ready: true, at: 1)
        for second in 2..<40 {
            lose(second % 2 == 0 ? main : inbox, second % 3 == 0 ? "refused" : "silent", at: Int64(second))
        }
        log.ready(main, of: name, now: 41_000_000_000, logger)
        #expect(lines.all.count == 3)
        log.ready(inbox, of: name, now: 42_000_000_000, logger)
        #expect(
            lines.all == [
                "warning the connection to redis redis://h:6379/0 is lost: closed",
                "warning waiting for redis redis://h:6379/0: silent",
                "warning waiting for redis redis://h:6379/0: refused",
                "notice connected to redis redis://h:6379/0 again after 41.0 seconds",
            ])
        lose(main, "refused", at: 50)
        log.closed(main)
        lose(inbox, "refused", at: 60)
        log.ready(inbox, of: name, now: 61_000_000_000, logger)
        #expect(lines.all.last == "notice connected to redis redis://h:6379/0 again after 1.0 seconds")
    }
}
