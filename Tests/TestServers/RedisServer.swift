// SPDX-License-Identifier: Apache-2.0
//
// A real redis-server for one test: fresh directory, free loopback port and a unix socket, ended by its process id.
//
// Tests run in parallel and other programs take ports too, so a port found free may be gone when the server binds it:
// starting again with another port is part of the design. Persistence is off unless the arguments turn it on, so
// `restart()` after `kill(SIGKILL)` gives an empty server, as a cache node does in production.
import RingfencePlatform
import Synchronization

/// Starts a server, runs `body` with it, stops it.
package func withRedis<Result>(
    _ arguments: [String] = [], tls: RedisServer.TLS? = nil, under command: [String] = [],
    isolation: isolated (any Actor)? = #isolation, _ body: (RedisServer) async throws -> sending Result
) async throws -> sending Result {
    let server = try await RedisServer.start(arguments, tls: tls, under: command)
    do {
        let result = try await body(server)
        await server.stop()
        return result
    } catch {
        await server.stop()
        throw error
    }
}

/// A running redis-server, or one that was killed and may be restarted.
package final class RedisServer: Sendable {
    /// The server's TLS side: its port is `tlsPort`; the plain port stays open beside it.
    package struct TLS: Sendable {
        package var certificates: TestCertificates
        package var requiresClientCertificate: Bool
        package init(certificates: TestCertificates, requiresClientCertificate: Bool = false) {
            self.certificates = certificates
            self.requiresClientCertificate = requiresClientCertificate
        }
    }

    /// Holds the data, the log (`redis.log`) and the socket; removed with the server.
    package let directory: TemporaryDirectory
    package let port: Int
    /// 0 without TLS.
    package let tlsPort: Int
    let arguments: [String]
    /// The command that starts the server, with its arguments; usually none.
    private let command: [String]
    /// 0 while no process runs.
    private let process = Mutex<Int32>(0)

    package var pid: Int32 { process.withLock { $0 } }
    package var socketPath: String { directory.path + "/redis.sock" }
    package var url: String { "redis://127.0.0.1:\(port)" }
    package var tlsURL: String { "rediss://localhost:\(tlsPort)" }
    package var unixURL: String { "unix://\(socketPath)" }
    package var log: String { (try? readFile(directory.path + "/redis.log")) ?? "" }

    /// The program that is tested with: the first path of RINGFENCE_TEST_SERVERS, which is a list like PATH, or the
    /// packaged one.
    package static var program: String {
        let list = getenv("RINGFENCE_TEST_SERVERS").map { String(cString: $0) } ?? ""
        return list.split(separator: ":").first.map { String($0) } ?? "redis-server"
    }

    /// Whether that is like Redis 7.0 or later.
    package static let isSeven: Bool = {
        guard let stream = popen("'\(program)' --version", "r") else { return true }
        defer { pclose(stream) }
        var line = [CChar](repeating: 0, count: 256)
        guard fgets(&line, 256, stream) != nil else { return true }
        // Of Valkey all versions are.
        return strstr(line, "Redis server v=6.") == nil
    }()

    /// Options that came with 7.0 and allow what no earlier one forbids.
    private static let allowances: Set = ["--enable-debug-command", "--enable-protected-configs"]

    /// What this server knows of `arguments`.
    private static func known(_ arguments: [String]) -> [String] {
        guard !isSeven else { return arguments }
        var known: [String] = []
        var rest = arguments[...]
        while let next = rest.popFirst() {
            if allowances.contains(next) { _ = rest.popFirst() } else { known.append(next) }
        }
        return known
    }

    init(directory: TemporaryDirectory, port: Int, tlsPort: Int, arguments: [String], command: [String] = []) {
        self.directory = directory
        self.port = port
        self.tlsPort = tlsPort
        self.arguments = arguments
        self.command = command
    }

    deinit {
        // Only after a test that forgot to stop it: no waiting, the watchdog or init reaps it.
        let pid = self.pid
        if pid != 0 { _ = Self.signal(pid, SIGKILL) }
    }

    /// Starts a server with `arguments` after ours (so they win) and waits until it answers PING.
    package static func start(
        _ arguments: [String] = [], tls: TLS? = nil, under command: [String] = []
    ) async throws -> RedisServer {
        var failure: any Error = TestSupportError("redis-server never tried")
        for _ in 0..<8 {
            let server = RedisServer(
                directory: try TemporaryDirectory(), port: try freePort(), tlsPort: tls == nil ? 0 : try freePort(),
                arguments: arguments + Self.arguments(of: tls), command: command)
            do {
                try await server.launch()
                return server
            } catch {
                await server.stop()
                failure = error
            }
        }
        throw failure
    }

    static func arguments(of tls: TLS?) -> [String] {
        guard let tls else { return [] }
        return [
            "--tls-cert-file", tls.certificates.serverCertificate, "--tls-key-file", tls.certificates.serverKey,
            "--tls-ca-cert-file", tls.certificates.authority,
            "--tls-auth-clients", tls.requiresClientCertificate ? "yes" : "no",
        ]
    }

    /// Sends `signal` to the process. After SIGKILL, waits until it is gone.
    package func kill(_ signal: Int32) async {
        let pid = self.pid
        guard pid != 0 else { return }
        _ = Self.signal(pid, signal)
        if signal == SIGKILL { await reap(pid) }
    }

    /// Ends the process, by SIGTERM and after 3 s by SIGKILL; idempotent.
    package func stop() async {
        let pid = self.pid
        guard pid != 0 else { return }
        // A stopped process takes SIGTERM only after SIGCONT.
        _ = Self.signal(pid, SIGTERM)
        _ = Self.signal(pid, SIGCONT)
        if await reap(pid, within: .seconds(3)) { return }
        _ = Self.signal(pid, SIGKILL)
        await reap(pid)
    }

    /// Ends the process if it runs, and starts it again on the same port, directory and arguments.
    package func restart() async throws {
        await stop()
        try await launch()
    }

    /// Deletes its data, so that it starts empty; it must not run.
    package func deleteData() {
        for name in ["appendonlydir", "appendonly.aof", "dump.rdb"] {
            TemporaryDirectory.delete("\(directory.path)/\(name)")
        }
    }

    /// The last value that a field of any hash was set to by itself, as the append-only file tells; nil if it does not.
    package func lastInAppendOnlyFile(_ field: String) async throws -> String? {
        let files = "'\(directory.path)'/appendonly*.aof '\(directory.path)'/appendonlydir/*.aof"
        let script = "cat \(files) 2>/dev/null | tr -d '\\r' | grep -a -x -A 2 \(field) | tail -n 1; true"
        let value = try await output(of: "sh", ["-c", script]).trimmingPrefix { $0.isWhitespace }.prefix {
            !$0.isWhitespace
        }
        return value.isEmpty ? nil : String(value)
    }

    /// Starts the process and returns at once, without waiting for its first answer (it may be loading).
    package func launchWithoutWaiting() throws {
        var all = [
            "--port", "\(port)", "--bind", "127.0.0.1", "--unixsocket", socketPath, "--dir", directory.path,
            "--logfile", directory.path + "/redis.log", "--save", "", "--appendonly", "no", "--daemonize", "no",
            "--repl-diskless-sync-delay", "0",
        ]
        if tlsPort != 0 { all += ["--tls-port", "\(tlsPort)"] }
        let line = command + [Self.program] + all + Self.known(arguments)
        let pid = try Subprocess.spawn(line[0], Array(line.dropFirst()))
        Watchdog.add(pid)
        process.withLock { $0 = pid }
    }

    func launch() async throws {
        try launchWithoutWaiting()
        try await eventually("redis-server on port \(port) answers", within: .seconds(20)) {
            if self.hasExited() { throw TestSupportError("redis-server ended at once:\n\(self.log)") }
            guard let answer = self.ping() else { return false }
            return !answer.hasPrefix("-LOADING")
        }
    }

    /// One blocking PING over the unix socket: the first line of the answer, nil when there is none yet.
    private func ping() -> String? {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: socketPath.utf8) }
        let connected = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard connected == 0 else { return nil }
        var patience = timeval(tv_sec: 2, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        guard send(descriptor, "PING\r\n", 6, Int32(MSG_NOSIGNAL)) == 6 else { return nil }
        var bytes = [UInt8](repeating: 0, count: 256)
        let count = recv(descriptor, &bytes, bytes.count, 0)
        return count > 0 ? String(decoding: bytes[..<count], as: UTF8.self) : nil
    }

    private func hasExited() -> Bool {
        process.withLock { pid in
            guard pid != 0 else { return true }
            var status: Int32 = 0
            guard waitpid(pid, &status, WNOHANG) == pid else { return false }
            Watchdog.remove(pid)
            pid = 0
            return true
        }
    }

    @discardableResult
    private func reap(_ pid: Int32, within limit: Duration = .seconds(60)) async -> Bool {
        let end = ContinuousClock.now + limit
        while self.pid == pid {
            if hasExited() { return true }
            if ContinuousClock.now >= end { return false }
            // Not Task.sleep: a cancelled test must still end its server.
            await Task.detached { try? await Task.sleep(for: .milliseconds(2)) }.value
        }
        return true
    }

    private static func signal(_ pid: Int32, _ signal: Int32) -> Int32 {
        RingfencePlatform.kill(pid, signal)
    }
}

extension RedisServer {
    /// What redis-cli prints for one command, without the last newline: a look at the server that does not pass through
    /// what is tested.
    @discardableResult
    package func cli(_ arguments: String...) async throws -> String {
        try await redisCLI(["-s", socketPath] + arguments)
    }
}

/// Runs redis-cli with `arguments` and returns what it printed, without the last newline.
@discardableResult
package func redisCLI(_ arguments: [String]) async throws -> String {
    let result = try await Subprocess.run("redis-cli", arguments)
    guard result.status == 0 else { throw TestSupportError("redis-cli \(arguments): \(result.output)") }
    return result.output.hasSuffix("\n") ? String(result.output.dropLast()) : result.output
}

/// A loopback port that was free a moment ago.
///
/// Not one of the ephemeral range: there any outgoing connection may take it away while a test has it closed on
/// purpose, and a client that connects to it may meet itself.
package func freePort(in range: Range<UInt16> = 12_000..<32_000) throws -> Int {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { throw TestSupportError("socket failed") }
    defer { close(descriptor) }
    for _ in 0..<1000 {
        let port = UInt16.random(in: range)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        address.sin_port = port.bigEndian
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                bind(descriptor, pointer, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
        if bound { return Int(port) }
    }
    throw TestSupportError("no free port")
}

package func readFile(_ path: String) throws -> String {
    guard let file = fopen(path, "r") else { throw TestSupportError("cannot open \(path)") }
    defer { fclose(file) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65_536)
    while case let count = fread(&chunk, 1, chunk.count, file), count > 0 { bytes += chunk[..<count] }
    return String(decoding: bytes, as: UTF8.self)
}

/// Writes the file whole.
package func writeFile(_ path: String, _ text: String, mode: UInt32 = 0o600) throws {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode_t(mode))
    guard descriptor >= 0 else { throw TestSupportError("cannot write \(path)") }
    defer { close(descriptor) }
    _ = text.withCString { write(descriptor, $0, strlen($0)) }
}
