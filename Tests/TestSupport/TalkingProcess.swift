// SPDX-License-Identifier: Apache-2.0
import RingfencePlatform
import Synchronization

/// The path of the executable `name` that was built beside the tests.
package func builtExecutable(_ name: String) throws -> String {
    // Beside the test bundle, which is the program that runs.
    var path = [CChar](repeating: 0, count: 4096)
    let count = readlink("/proc/self/exe", &path, path.count)
    guard count > 0 else { throw TestSupportError("cannot tell where the tests run from") }
    let bundle = String(decoding: path[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    let program = bundle.split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" } + "/" + name
    guard access(program, X_OK) == 0 else { throw TestSupportError("no executable \(program)") }
    return program
}

/// A program of this package that a test starts, talks to line by line, freezes and kills.
package final class TalkingProcess: Sendable {
    private struct State {
        var pid: Int32
        var unread: [UInt8] = []
    }

    private let input: Int32
    private let output: Int32
    private let state: Mutex<State>

    package var pid: Int32 { state.withLock { $0.pid } }

    /// Starts the executable `name` that was built beside the tests.
    package static func start(_ name: String, _ arguments: [String]) throws -> TalkingProcess {
        return try TalkingProcess(builtExecutable(name), arguments)
    }

    /// Starts any program.
    package static func start(program: String, _ arguments: [String]) throws -> TalkingProcess {
        try TalkingProcess(program, arguments)
    }

    private init(_ program: String, _ arguments: [String]) throws {
        let orders = try Subprocess.pipe()
        let says = try Subprocess.pipe()
        let pid = try Subprocess.spawn(program, arguments, input: orders.reading, output: says.writing)
        Watchdog.add(pid)
        close(orders.reading)
        close(says.writing)
        input = orders.writing
        output = says.reading
        _ = fcntl(output, F_SETFL, O_NONBLOCK)
        state = Mutex(State(pid: pid))
    }

    deinit {
        close(input)
        close(output)
    }

    /// Puts one line into its standard input.
    package func tell(_ line: String) {
        let bytes = Array((line + "\n").utf8)
        _ = send(input, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    }

    /// The next line it says; nil when it has ended and said all.
    package func line() async throws -> String? {
        var line: String?
        try await eventually("a line from process \(pid)") {
            var isAtEnd = false
            var chunk = [UInt8](repeating: 0, count: 4096)
            let count = recv(self.output, &chunk, chunk.count, 0)
            if count == 0 { isAtEnd = true }
            line = self.state.withLock { state in
                if count > 0 { state.unread += chunk[..<count] }
                guard let end = state.unread.firstIndex(of: UInt8(ascii: "\n")) else { return nil }
                defer { state.unread.removeFirst(end + 1) }
                return String(decoding: state.unread[..<end], as: UTF8.self)
            }
            return line != nil || isAtEnd
        }
        return line
    }

    /// Does nothing once it has ended.
    package func signal(_ signal: Int32) {
        let pid = self.pid
        // 0 would be the tests themselves.
        if pid != 0 { _ = kill(pid, signal) }
    }

    /// Stops it, and returns once all its threads have stopped: a signal is on its way for a moment, in which they
    /// still run.
    package func freeze() async throws {
        signal(SIGSTOP)
        let pid = self.pid
        try await eventually("process \(pid) has stopped") {
            guard let tasks = opendir("/proc/\(pid)/task") else { return false }
            defer { closedir(tasks) }
            while let entry = readdir(tasks) {
                let task = withUnsafeBytes(of: &entry.pointee.d_name) {
                    String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
                }
                if task.hasPrefix(".") { continue }
                // "<id> (<name>) <state> …", where the name may hold anything.
                let stat = try? readFile("/proc/\(pid)/task/\(task)/stat")
                guard stat?.split(separator: ")").last?.split(separator: " ").first == "T" else { return false }
            }
            return true
        }
    }

    /// Kills it if it still runs, and waits until it is gone.
    package func end() async throws {
        let pid = self.pid
        guard pid != 0 else { return }
        _ = kill(pid, SIGKILL)
        try await eventually("process \(pid) is gone") {
            var status: Int32 = 0
            return waitpid(pid, &status, WNOHANG) != 0
        }
        Watchdog.remove(pid)
        state.withLock { $0.pid = 0 }
    }
}
