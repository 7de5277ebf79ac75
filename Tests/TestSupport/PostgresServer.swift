import NIOPosix
// SPDX-License-Identifier: Apache-2.0
//
// A real PostgreSQL of a test suite's own: `initdb` in a temporary directory, no TCP, one unix socket in that
// directory, ended by its process id. PostgreSQL refuses to run as root, so root hands the server (and only the server)
// to the `postgres` account with `setpriv`, which replaces itself: the process we start is the one we end. Durability
// is off, since nothing here outlives the test. A cluster costs two seconds, so a suite shares one (`.postgres`) and
// every test makes a database of its own. psql is the client: what is tested is what a user can type.
import RingfencePlatform
package import Testing

/// A PostgreSQL server on a unix socket in a temporary directory.
package final class PostgresServer: Sendable {
    /// The running server of a suite that has the `.postgres` trait.
    @TaskLocal package static var current: PostgresServer?

    /// Holds the data, the log (`log`) and the socket; removed with the server.
    package let directory: TemporaryDirectory
    private let pid: pid_t

    private init(directory: TemporaryDirectory, pid: pid_t) {
        self.directory = directory
        self.pid = pid
    }

    /// Makes a cluster and starts a server on it; returns once it answers.
    package static func start() async throws -> PostgresServer {
        let binaries = try await binaries()
        let directory = try TemporaryDirectory()
        var prefix: [String] = []
        if geteuid() == 0 {
            prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
            try await run(["chown", "postgres:postgres", directory.path])
        }
        let data = directory.path + "/data"
        try await run(
            prefix + [
                binaries + "/initdb", "--pgdata", data, "--auth=trust", "--username=postgres", "--no-sync",
                "--locale=C", "--encoding=UTF8",
            ])
        let server =
            prefix + [
                binaries + "/postgres", "-D", data, "-k", directory.path, "-c", "listen_addresses=", "-c", "fsync=off",
                "-c", "synchronous_commit=off", "-c", "full_page_writes=off",
            ]
        let log = open(directory.path + "/log", O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0o600)
        defer { close(log) }
        let pid = try Subprocess.spawn(server[0], Array(server.dropFirst()), output: log)
        Watchdog.add(pid)
        let started = PostgresServer(directory: directory, pid: pid)
        do {
            try await eventually("PostgreSQL in \(directory.path) answers", every: .milliseconds(50)) {
                try await Subprocess.run("pg_isready", ["--quiet", "--host", directory.path]).status == 0
            }
        } catch {
            await started.stop()
            throw error
        }
        return started
    }

    /// Ends the server at once, with the sessions that are still open.
    package func stop() async {
        // SIGINT is PostgreSQL's fast shutdown.
        kill(pid, SIGINT)
        let pid = self.pid
        try? await NIOThreadPool.singleton.runIfActive {
            var status: Int32 = 0
            while waitpid(pid, &status, 0) < 0, errno == EINTR {}
        }
        Watchdog.remove(pid)
    }

    /// Makes an empty database; a test owns one, so tests run side by side.
    package func makeDatabase() async throws -> PostgresDatabase {
        let name = "test_\(UInt64.random(in: 0...UInt64.max))"
        let administrator = try PostgresSession(socketDirectory: directory.path, database: "postgres")
        try await administrator.run("CREATE DATABASE \(name)")
        return PostgresDatabase(directory: directory, name: name)
    }

    /// Debian keeps the server's programs out of PATH, one directory per version; elsewhere they are in PATH.
    private static func binaries() async throws -> String {
        let found = try await Subprocess.run(
            "sh",
            [
                "-c",
                "dirname \"$({ ls -1 /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1; "
                    + "command -v initdb; } | head -n 1)\"",
            ])
        let path = found.output.split(separator: "\n").first.map { String($0) } ?? "."
        guard path != "." else { throw TestSupportError("PostgreSQL is not installed: apt-get install postgresql") }
        return path
    }

    private static func run(_ command: [String]) async throws {
        let result = try await Subprocess.run(command[0], Array(command.dropFirst()))
        guard result.status == 0 else { throw TestSupportError("\(command.joined(separator: " ")): \(result.output)") }
    }
}

/// A database of one test.
package struct PostgresDatabase: Sendable {
    package let directory: TemporaryDirectory
    package let name: String

    /// Opens a session, which stays in the transaction it is in from one `run` to the next.
    package func session() throws -> PostgresSession {
        try PostgresSession(socketDirectory: directory.path, database: name)
    }
}

/// What PostgreSQL refused.
package struct PostgresRefusal: Error, Equatable, CustomStringConvertible {
    package let sqlState: String
    package let description: String

    /// What is expected, in a test: refusals are equal when their SQLSTATEs are.
    package init(sqlState: String, description: String = "") {
        self.sqlState = sqlState
        self.description = description
    }

    package static func == (one: Self, other: Self) -> Bool { one.sqlState == other.sqlState }
}

/// One session of psql, driven statement by statement through its standard input.
package actor PostgresSession {
    private let pid: pid_t
    private let input: Int32
    private let output: Int32
    private var count = 0

    /// A session with the server whose socket is in that directory.
    package init(socketDirectory: String, database: String) throws {
        let input = try Subprocess.pipe()
        let output = try Subprocess.pipe()
        defer {
            close(input.reading)
            close(output.writing)
        }
        pid = try Subprocess.spawn(
            "psql", Self.psqlArguments(socketDirectory, database), input: input.reading, output: output.writing)
        Watchdog.add(pid)
        self.input = input.writing
        self.output = output.reading
        _ = fcntl(output.reading, F_SETFL, O_NONBLOCK)
    }

    deinit {
        close(input)
        close(output)
        // Its input is closed, so it ends by itself unless a statement waits for a lock.
        kill(pid, SIGKILL)
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0, errno == EINTR {}
        Watchdog.remove(pid)
    }

    private static func psqlArguments(_ directory: String, _ database: String) -> [String] {
        [
            "--host", directory, "--username", "postgres", "--dbname", database, "--no-psqlrc", "--quiet",
            "--tuples-only", "--no-align",
        ]
    }

    /// Runs one statement and returns its rows, columns separated by `|`; throws `PostgresRefusal`.
    @discardableResult
    package func run(_ statement: String) async throws -> String {
        count += 1
        let marker = "--end-\(count)--"
        let text = statement + "\n;\n\\echo\n\\echo \(marker) :SQLSTATE\n"
        let answer = try await exchange(text, until: "\n\(marker) ")
        guard answer.state == "00000" else {
            throw PostgresRefusal(sqlState: answer.state, description: answer.rows)
        }
        return answer.rows.hasSuffix("\n") ? String(answer.rows.dropLast()) : answer.rows
    }

    /// The pipe is asked again and again instead of read by a blocked thread: a statement that waits for a lock would
    /// keep a thread of a shared pool, and a few of them all of it.
    private func exchange(_ text: String, until marker: String) async throws -> (rows: String, state: String) {
        let bytes = Array(text.utf8)
        guard write(input, bytes, bytes.count) == bytes.count else { throw TestSupportError("psql ended") }
        var received: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4_096)
        while true {
            let count = read(output, &chunk, chunk.count)
            if count < 0, errno == EAGAIN || errno == EINTR {
                try await Task.sleep(for: .milliseconds(1))
                continue
            }
            let all = String(decoding: received, as: UTF8.self)
            guard count > 0 else { throw TestSupportError("psql ended: \(all)") }
            received += chunk[..<count]
            guard received.last == UInt8(ascii: "\n") else { continue }
            let printed = String(decoding: received, as: UTF8.self)
            if let end = printed.ranges(of: marker).last {
                return (String(printed[..<end.lowerBound]), String(printed[end.upperBound...].prefix(5)))
            }
        }
    }
}

/// Gives a suite one PostgreSQL server, found in `PostgresServer.current`, for as long as its tests run.
package struct PostgresTrait: SuiteTrait, TestScoping {
    package func provideScope(
        for test: Test, testCase: Test.Case?, performing function: @Sendable () async throws -> Void
    ) async throws {
        let server = try await PostgresServer.start()
        do {
            try await PostgresServer.$current.withValue(server) { try await function() }
        } catch {
            await server.stop()
            throw error
        }
        await server.stop()
    }
}

extension Trait where Self == PostgresTrait {
    /// One PostgreSQL server for the suite.
    package static var postgres: Self { PostgresTrait() }
}
