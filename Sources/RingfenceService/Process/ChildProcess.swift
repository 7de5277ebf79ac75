// SPDX-License-Identifier: Apache-2.0
//
// A program started by this one: the embedded redis-server, or the command that runs under a lock.
//
// Two hazards shape it. First, "die with your parent" (PR_SET_PDEATHSIG) means the parent's *thread*: a child spawned
// from the cooperative pool would be killed whenever the pool retires that thread. So each child has one thread of its
// own, which spawns it, then waits for its end, and goes with it. Second, a process id is free for reuse as soon as it
// is reaped, so a late signal could hit a stranger: the end is first looked at (WNOWAIT) and reaped under the same lock
// that guards every signal.
import CSpawn
import NIOPosix
import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// A started program. Ends by itself, by `signal`, or by SIGKILL when this process dies (Linux).
package final class ChildProcess: Sendable {
    /// How a program ended.
    package enum Exit: Sendable, Hashable {
        case code(Int32)
        case signal(Int32)

        /// What a shell shows: the code, or 128 + the signal.
        package var shellCode: Int32 {
            switch self {
            case .code(let code): code
            case .signal(let number): 128 + number
            }
        }
    }

    /// What to start and how.
    package struct Launch: Sendable {
        /// The program, looked up in PATH unless it holds a slash, and its arguments.
        package var arguments: [String]
        /// `NAME=value`; nil: this process' own.
        package var environment: [String]?
        /// Descriptors for standard input, output and error; -1: this process' own. Others are not passed on.
        package var input: Int32 = -1
        package var output: Int32 = -1
        package var error: Int32 = -1
        /// One further descriptor the child keeps open; -1: none.
        package var kept: Int32 = -1
        /// A process group of its own, so that signals reach its children too.
        package var hasOwnGroup = false
        /// What it started and left behind in its group lives on after it, unless ``ChildProcess/end(group:)`` was called.
        package var groupMayOutlive = false
        /// Started under nohup: it goes on ignoring SIGHUP.
        package var ignoresHangup = false
        /// Its umask; -1: this process' own.
        package var fileMask: Int32 = -1
        /// What it gets when this process dies first.
        package var parentDeathSignal: Int32 = SIGKILL

        package init(_ arguments: [String]) { self.arguments = arguments }
    }

    /// The program could not be started.
    package struct StartFailure: Error, CustomStringConvertible {
        package var program: String
        package var number: Int32
        package var description: String { "cannot start \(program): \(String(cString: strerror(number)))" }
    }

    private struct State {
        var exit: Exit?
        var waiters: [CheckedContinuation<Exit, Never>] = []
        /// Whether what is left of its group is killed when it has ended.
        var endsGroup: Bool
    }

    package let pid: Int32
    private let hasOwnGroup: Bool
    private let state: Mutex<State>

    private init(pid: Int32, _ launch: Launch) {
        self.pid = pid
        hasOwnGroup = launch.hasOwnGroup
        state = Mutex(State(endsGroup: launch.hasOwnGroup && !launch.groupMayOutlive))
    }

    /// Starts a program. `onStop` is called, on the child's thread, each time it is stopped by a signal.
    /// - Throws: ``StartFailure``.
    package static func start(
        _ launch: Launch, onStop: @Sendable @escaping (ChildProcess, Int32) -> Void = { _, _ in }
    ) async throws -> ChildProcess {
        let thread = NIOThreadPool(numberOfThreads: 1)
        thread.start()
        do {
            let child = try await thread.runIfActive {
                ChildProcess(pid: try spawn(launch), launch)
            }
            thread.submit { _ in
                child.reap(onStop)
                thread.shutdownGracefully { _ in }
            }
            return child
        } catch {
            thread.shutdownGracefully { _ in }
            throw error
        }
    }

    /// Whether it has not ended yet.
    package var isRunning: Bool { state.withLock { $0.exit == nil } }

    /// Waits for its end, however long; cancelling the task does not shorten this.
    package func wait() async -> Exit {
        await withCheckedContinuation { continuation in
            let exit = state.withLock { state in
                if state.exit == nil { state.waiters.append(continuation) }
                return state.exit
            }
            if let exit { continuation.resume(returning: exit) }
        }
    }

    /// Sends a signal to it, and to its whole group if it has its own. Nothing happens once it has ended.
    package func signal(_ number: Int32) {
        state.withLock { state in
            if state.exit == nil { _ = kill(hasOwnGroup ? -pid : pid, number) }
        }
    }

    /// Sends a signal to it and its group, of which nothing will outlive it now.
    package func end(group number: Int32) {
        state.withLock { $0.endsGroup = hasOwnGroup }
        signal(number)
    }

    private func reap(_ onStop: (ChildProcess, Int32) -> Void) {
        while true {
            var information = siginfo_t()
            guard waitid(P_PID, id_t(pid), &information, WEXITED | WSTOPPED | WNOWAIT) == 0 else {
                if errno == EINTR { continue }
                break
            }
            var status: Int32 = 0
            if information.si_code == CLD_STOPPED {
                if waitpid(pid, &status, WUNTRACED | WNOHANG) == pid, status & 0xff == 0x7f {
                    onStop(self, (status >> 8) & 0xff)
                }
                continue
            }
            break
        }
        let waiters = state.withLock { state in
            // Members of its group may have outlived it: nothing of it works on without its lock. Before it is reaped:
            // after that, the group's number may be another's if nobody is left in it.
            if state.endsGroup { _ = kill(-pid, SIGKILL) }
            var status: Int32 = 0
            while waitpid(pid, &status, 0) < 0, errno == EINTR {}
            let exit: Exit = status & 0x7f == 0 ? .code((status >> 8) & 0xff) : .signal(status & 0x7f)
            state.exit = exit
            defer { state.waiters = [] }
            return state.waiters.map { ($0, exit) }
        }
        for (waiter, exit) in waiters { waiter.resume(returning: exit) }
    }

    private static func spawn(_ launch: Launch) throws -> Int32 {
        func strings(_ list: [String]) -> [UnsafeMutablePointer<CChar>?] { list.map { strdup($0) } + [nil] }
        let arguments = strings(launch.arguments)
        let environment = strings(launch.environment ?? Environment.current)
        defer { for pointer in arguments + environment { free(pointer) } }
        var options = ringfence_spawn_options()
        options.directory = nil
        options.input = launch.input
        options.output = launch.output
        options.error = launch.error
        options.kept = launch.kept
        options.group = launch.hasOwnGroup ? 1 : 0
        options.file_mask = launch.fileMask
        options.ignores_hangup = launch.ignoresHangup ? 1 : 0
        options.parent_death_signal = launch.parentDeathSignal
        var pid: pid_t = 0
        let number = arguments.withUnsafeBufferPointer { arguments in
            environment.withUnsafeBufferPointer { environment in
                options.arguments = arguments.baseAddress
                options.environment = environment.baseAddress
                return ringfence_spawn(&options, &pid)
            }
        }
        guard number == 0 else { throw StartFailure(program: launch.arguments.first ?? "", number: number) }
        return pid
    }
}

/// This process' environment variables.
package enum Environment {
    /// All of them as `NAME=value`.
    package static var current: [String] {
        var list: [String] = []
        var next = environ
        while let entry = next.pointee {
            list.append(String(cString: entry))
            next += 1
        }
        return list
    }

    /// All of them by name.
    package static var values: [String: String] {
        var values: [String: String] = [:]
        for entry in current {
            guard let equals = entry.firstIndex(of: "=") else { continue }
            values[String(entry[..<equals])] = String(entry[entry.index(after: equals)...])
        }
        return values
    }
}
