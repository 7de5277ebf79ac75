// SPDX-License-Identifier: Apache-2.0
//
// A private redis-server for users who have none: started and ended with the service, its data kept in one directory.
//
// It listens on a unix socket in that directory and on no TCP port, and all it writes is readable by this user only,
// because the append-only file holds the tokens that renew and release. A directory that others may write to is
// refused, not repaired: it may be /tmp. The append-only file, flushed every second, keeps locks and fences over a
// restart; a power cut may cost the last second. Eviction is off, because an evicted key is a lock given away.
//
// One directory has one live instance. The proof is a lock (flock) on the file `lock`, held by the service and handed
// on to its redis-server: the kernel drops it when both are gone, so nothing stale is left after a crash. If the
// service is killed, the kernel ends redis-server too (PR_SET_PDEATHSIG) and the next start waits for that.
//
// If redis-server dies by itself it is not started again behind the caller's back: a second silently lost may be a lock
// silently lost. `run()` throws, the service ends with an error, and its supervisor (systemd, Docker) starts both
// again from the append-only file.
package import Logging
import NIOPosix
import RingfencePlatform
import ServiceLifecycle
import Synchronization

/// A redis-server owned by this process.
package final class EmbeddedRedis: Service {
    /// The longest directory whose `redis.sock` still fits a unix socket's address (107 bytes).
    static let directoryLengthMaximum = 107 - "/redis.sock".utf8.count

    /// `unix://` and the socket's path: what ``RingfenceConfiguration/url`` takes.
    package let url: String
    /// Where the data, the log (`redis.log`) and the socket are.
    package let directory: String
    package let pid: Int32
    private let process: ChildProcess
    private let logger: Logger
    private let isStopping = Mutex(false)

    private init(directory: String, process: ChildProcess, logger: Logger) {
        self.directory = directory
        self.url = "unix://\(directory)/redis.sock"
        self.pid = process.pid
        self.process = process
        self.logger = logger
    }

    /// `$XDG_STATE_HOME/ringfence`, or `~/.local/state/ringfence`; nil when neither is known.
    package static func defaultDirectory(_ environment: [String: String] = Environment.values) -> String? {
        if let state = environment["XDG_STATE_HOME"], state.hasPrefix("/") { return state + "/ringfence" }
        if let home = environment["HOME"], home.hasPrefix("/") { return home + "/.local/state/ringfence" }
        return nil
    }

    /// Starts redis-server on the data in `directory` (made if missing) and returns once it answers PING.
    ///
    /// Loading a large append-only file may take long; there is no limit as long as the process lives.
    /// - Parameter patience: how long to wait for a predecessor on the same directory that is just ending.
    /// - Throws: ``Failure``: no redis-server, the directory is taken, not writable or too long, or it ended at once.
    package static func start(
        directory: String, patience: Duration = .seconds(6), logger: Logger
    ) async throws -> EmbeddedRedis {
        // Before the directory: who has no redis-server needs none.
        guard isInstalled() else {
            throw Failure(
                """
                no Redis is named, and redis-server, to run one here, is not installed. Name a running one with \
                --redis redis://host:6379 or RINGFENCE_REDIS, or install redis-server (Debian, Ubuntu: \
                sudo apt-get install redis-server)
                """)
        }
        let directory = try prepare(directory)
        let lock = try await takeLock(directory, patience: patience)
        defer { close(lock) }
        let log = open(directory + "/redis.log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard log >= 0 else { throw Failure.system("cannot write \(directory)/redis.log") }
        defer { close(log) }
        let null = open("/dev/null", O_RDONLY | O_CLOEXEC)
        defer { close(null) }

        var launch = ChildProcess.Launch(
            ["redis-server", "--port", "0", "--unixsocket", directory + "/redis.sock", "--unixsocketperm", "700"]
                + ["--dir", directory, "--pidfile", directory + "/redis.pid", "--daemonize", "no"]
                + ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
                + ["--maxmemory-policy", "noeviction"])
        launch.input = null
        launch.output = log
        launch.error = log
        launch.kept = lock
        // Ctrl-C in a terminal is for the service, which ends redis-server after its last request.
        launch.hasOwnGroup = true
        launch.fileMask = 0o077
        // A graceful end writes the last second of the append-only file, which a kill would lose.
        launch.parentDeathSignal = SIGTERM
        let process = try await ChildProcess.start(launch)
        let redis = EmbeddedRedis(directory: directory, process: process, logger: logger)
        do { try await redis.waitUntilReady() } catch {
            await redis.stop()
            throw error
        }
        return redis
    }

    /// Whether there is a redis-server in PATH.
    private static func isInstalled() -> Bool {
        let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin"
        return path.split(separator: ":").contains { access("\($0)/redis-server", X_OK) == 0 }
    }

    /// Stays until graceful shutdown or cancellation, then ends redis-server; throws when it ended by itself.
    package func run() async throws {
        let exit = await cancelWhenGracefulShutdown {
            await withTaskCancellationHandler {
                await self.process.wait()
            } onCancel: {
                Task { await self.stop() }
            }
        }
        if isStopping.withLock({ $0 }) { return }
        throw Failure("the embedded redis-server ended by itself (\(exit)); its log is \(directory)/redis.log")
    }

    /// Ends redis-server with its data written, by SIGKILL if that takes more than 5 s. Idempotent.
    package func stop() async {
        isStopping.withLock { $0 = true }
        process.signal(SIGTERM)
        let killer = Task {
            try await Task.sleep(for: .seconds(5))
            process.signal(SIGKILL)
        }
        _ = await process.wait()
        killer.cancel()
    }

    /// Ends redis-server at once, without waiting for it.
    package func kill() { process.signal(SIGKILL) }

    private func waitUntilReady() async throws {
        var nextNote = ContinuousClock.now + .seconds(5)
        while true {
            guard process.isRunning else {
                throw Failure("redis-server ended at once; the reason is in \(directory)/redis.log")
            }
            if Self.answersPing(directory + "/redis.sock") { return }
            if ContinuousClock.now > nextNote {
                logger.info("still loading the append-only file", metadata: ["ringfence.state-dir": "\(directory)"])
                nextNote += .seconds(5)
            }
            try await Task.sleep(for: .milliseconds(3))
        }
    }
}

extension EmbeddedRedis {
    /// The embedded Redis cannot run; the text says what to do.
    package struct Failure: Error, CustomStringConvertible {
        package let description: String
        init(_ description: String) { self.description = description }
        static func system(_ what: String) -> Failure { Failure("\(what): \(String(cString: strerror(errno)))") }
    }

    /// Makes the directory, readable by this user only, and returns its real path.
    private static func prepare(_ directory: String) throws -> String {
        var made = directory.hasPrefix("/") ? "" : "."
        for part in directory.split(separator: "/") {
            made += "/" + part
            if mkdir(made, 0o700) != 0, errno != EEXIST { throw Failure.system("cannot make \(made)") }
        }
        guard let resolved = realpath(directory, nil) else { throw Failure.system("cannot use \(directory)") }
        defer { free(resolved) }
        let path = String(cString: resolved)
        guard path.utf8.count <= directoryLengthMaximum else {
            throw Failure(
                """
                state-dir is \(path.utf8.count) bytes long, and a unix socket in it allows \(directoryLengthMaximum): \
                choose a shorter one with --state-dir (\(path))
                """)
        }
        guard access(path, R_OK | W_OK | X_OK) == 0 else { throw Failure.system("cannot use \(path)") }
        var status = stat()
        guard stat(path, &status) == 0 else { throw Failure.system("cannot use \(path)") }
        guard status.st_mode & 0o022 == 0 else {
            throw Failure(
                """
                others may write to \(path), and so take or free every lock: chmod 700 it, or choose another \
                --state-dir
                """)
        }
        // Earlier versions made what is in it readable by others.
        if chmod(path + "/appendonlydir", 0o700) != 0, errno != ENOENT {
            throw Failure.system("cannot use \(path)/appendonlydir")
        }
        return path
    }

    /// Returns a descriptor that holds the directory's lock.
    private static func takeLock(_ directory: String, patience: Duration) async throws -> Int32 {
        let lock = open(directory + "/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard lock >= 0 else { throw Failure.system("cannot write \(directory)/lock") }
        let end = ContinuousClock.now + patience
        while flock(lock, LOCK_EX | LOCK_NB) != 0 {
            do {
                guard ContinuousClock.now < end else {
                    throw Failure(
                        """
                        \(directory) is in use by another ringfence. Share its Redis with \
                        --redis unix://\(directory)/redis.sock, or choose another --state-dir
                        """)
                }
                try await Task.sleep(for: .milliseconds(20))
            } catch {
                close(lock)
                throw error
            }
        }
        return lock
    }

    /// One PING over the socket, blocking for at most a second. False while it is not there yet or still loading.
    private static func answersPing(_ path: String) -> Bool {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let connected = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard connected == 0 else { return false }
        guard send(descriptor, "PING\r\n", 6, Int32(MSG_NOSIGNAL)) == 6 else { return false }
        var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        guard poll(&waiting, 1, 1000) == 1 else { return false }
        var answer = [UInt8](repeating: 0, count: 64)
        let count = recv(descriptor, &answer, answer.count, 0)
        return count > 0 && answer[..<count].starts(with: "+PONG".utf8)
    }
}
