// SPDX-License-Identifier: Apache-2.0
//
// A program started by this one: the embedded redis-server, or the command that runs under a lock.
//
// Two hazards shape it. First, "die with your parent" (PR_SET_PDEATHSIG) means the parent's *thread*: a child spawned
// from the cooperative pool would be killed whenever the pool retires that thread. So each child has one thread of its
// own, which spawns it, then waits for its end, and goes with it. Second, a process id is free for reuse as soon as it
// is reaped, so a late signal could hit a stranger: the end is first looked at (WNOWAIT) and reaped under the same lock
// that guards every signal.
//
// What a program leaves behind when it ends is treated in one of three ways: left alone (a hook that starts a daemon),
// ended with its process group, or ended wherever it went, which takes a parent that adopts it (Orphans). In the last
// case the program has ended when all of its descendants have: its waiter is told no sooner.
import CSpawn
import NIOPosix
import RingfencePlatform
import Synchronization

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
        /// What it started and left behind in its group lives on after it, unless ``ChildProcess/end(group:)`` was
        /// called.
        package var groupMayOutlive = false
        /// All it started is ended after it, in whatever group or session, before its end is told; a signal that is to
        /// end it (``ChildProcess/end(with:)``) reaches all of it. Only for the one child of a process that called
        /// ``Orphans/adopt()``.
        package var ownsDescendants = false
        /// How long what it leaves behind has from SIGTERM to SIGKILL, if it was not told before.
        package var leftoverGrace: Duration = .seconds(1)
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
        /// Its number may be another's; what it left behind may still be there.
        var isReaped = false
        /// SIGTERM or SIGKILL went to all it had started.
        var isTold = false
        var isKilled = false
        var waiters: [CheckedContinuation<Exit, Never>] = []
        /// Whether what is left of its group is killed when it has ended.
        var endsGroup: Bool
    }

    package let pid: Int32
    private let hasOwnGroup: Bool
    private let ownsDescendants: Bool
    private let leftoverGrace: Duration
    private let state: Mutex<State>

    private init(pid: Int32, _ launch: Launch) {
        self.pid = pid
        hasOwnGroup = launch.hasOwnGroup
        ownsDescendants = launch.ownsDescendants
        leftoverGrace = launch.leftoverGrace
        state = Mutex(State(endsGroup: launch.hasOwnGroup && !launch.groupMayOutlive))
    }

    /// Starts a program. `onStop` is called, on the child's thread, each time it is stopped by a signal, `onSurvivor`
    /// once if something it started cannot be ended.
    /// - Throws: ``StartFailure``.
    package static func start(
        _ launch: Launch, onStop: @Sendable @escaping (ChildProcess, Int32) -> Void = { _, _ in },
        onSurvivor: @Sendable @escaping (_ pid: Int32?) -> Void = { _ in }
    ) async throws -> ChildProcess {
        let thread = NIOThreadPool(numberOfThreads: 1)
        thread.start()
        do {
            let child = try await thread.runIfActive {
                ChildProcess(pid: try Orphans.starting { try spawn(launch) }, launch)
            }
            thread.submit { _ in
                child.reap(onStop, onSurvivor)
                thread.shutdownGracefully { _ in }
            }
            return child
        } catch {
            thread.shutdownGracefully { _ in }
            throw error
        }
    }

    /// Whether it, or what it left behind and is ended with it, has not ended yet.
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
            if !state.isReaped { _ = kill(hasOwnGroup ? -pid : pid, number) }
        }
    }

    /// Ends it, and all it started where that is ended with it, with SIGTERM or SIGKILL.
    package func end(with number: Int32) {
        signal(number)
        guard ownsDescendants else { return }
        state.withLock { state in
            state.isTold = true
            if number == SIGKILL { state.isKilled = true }
        }
        // The group has it already.
        if isRunning { Orphans.signal(number, outside: hasOwnGroup ? pid : 0) }
    }

    /// Sends a signal to it and its group, of which nothing will outlive it now.
    package func end(group number: Int32) {
        state.withLock { $0.endsGroup = hasOwnGroup }
        signal(number)
    }

    /// For a person: something a command started does not end.
    package static func survivorText(_ pid: Int32?) -> String {
        pid.map { "process \($0), which the command started, may not be ended by this user" }
            ?? "a process that the command started does not end"
    }

    private func reap(_ onStop: (ChildProcess, Int32) -> Void, _ onSurvivor: (Int32?) -> Void) {
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
        let exit: Exit = state.withLock { state in
            // Members of its group may have outlived it: nothing of it works on without its lock. Before it is reaped:
            // after that, the group's number may be another's if nobody is left in it.
            if state.endsGroup, !(ownsDescendants && Orphans.areOurs) { _ = kill(-pid, SIGKILL) }
            var status: Int32 = 0
            while waitpid(pid, &status, 0) < 0, errno == EINTR {}
            state.isReaped = true
            return status & 0x7f == 0 ? .code((status >> 8) & 0xff) : .signal(status & 0x7f)
        }
        Orphans.reaped(pid)
        if ownsDescendants {
            let isTold = state.withLock { $0.isTold }
            Orphans.endAll(
                grace: isTold ? .zero : leftoverGrace, isHurried: { state.withLock { $0.isKilled } },
                onSurvivor: onSurvivor)
        }
        let waiters = state.withLock { state in
            state.exit = exit
            defer { state.waiters = [] }
            return state.waiters
        }
        for waiter in waiters { waiter.resume(returning: exit) }
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
