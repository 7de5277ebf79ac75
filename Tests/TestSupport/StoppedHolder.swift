// SPDX-License-Identifier: Apache-2.0
import RingfencePlatform

/// A process that took a lock, found its lease good, and was stopped before it wrote. See Tests/StoppedHolder.
package final class StoppedHolder: Sendable {
    private let pid: pid_t
    private let directory: TemporaryDirectory

    /// Starts it, and returns once it holds the lock and is stopped. `command` is what it does when it is continued,
    /// with FENCE and HOLDER in its environment.
    package init(redis url: String, lock: String, ttlMilliseconds: Int, command: [String]) async throws {
        directory = try TemporaryDirectory()
        let output = open(directory.path + "/output", O_CREAT | O_WRONLY | O_CLOEXEC, 0o600)
        defer { close(output) }
        pid = try Subprocess.spawn(
            Self.program(), [url, lock, "\(ttlMilliseconds)"] + command, output: output)
        Watchdog.add(pid)
        do {
            try await eventually("the holder is stopped") {
                // Bounded by the limit of `eventually` if it ended instead.
                self.state == "T"
            }
        } catch {
            kill(pid, SIGKILL)
            throw TestSupportError("\(error): \(try readFile(directory.path + "/output"))")
        }
    }

    /// Continues it; returns what its command printed and its exit code.
    package func resume() async throws -> (status: Int32, output: String) {
        kill(pid, SIGCONT)
        var status: Int32 = 0
        try await eventually("the holder ends") { waitpid(pid, &status, WNOHANG) == pid }
        Watchdog.remove(pid)
        return (Subprocess.exitCode(status), try readFile(directory.path + "/output"))
    }

    /// The state letter of /proc/<pid>/stat: "<pid> (<name>) <state> …", where the name may hold anything.
    private var state: Substring? {
        (try? readFile("/proc/\(pid)/stat"))?.split(separator: ")").last?.split(separator: " ").first
    }

    /// The program lies beside the one that runs the tests.
    private static func program() throws -> String {
        var path = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/exe", &path, path.count)
        guard count > 0 else { throw TestSupportError("cannot read /proc/self/exe") }
        let own = String(decoding: path[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        guard let slash = own.lastIndex(of: "/") else { throw TestSupportError("no directory in \(own)") }
        return own[...slash] + "StoppedHolder"
    }
}

/// Runs a command to its end, for tests outside this module.
package func run(_ command: [String]) async throws -> (status: Int32, output: String) {
    try await Subprocess.run(command[0], Array(command.dropFirst()))
}
