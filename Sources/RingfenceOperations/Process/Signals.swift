// SPDX-License-Identifier: Apache-2.0
//
// One table of signals for every command.
//
// The default of most signals is to end the process. For a program that holds a lock or a role for others that is the
// worst answer to a signal nobody thought of: the work goes on, and a moment later somebody else begins it too. So no
// signal is left to its default. All are blocked before the first thread starts, and one thread takes them (sigwait)
// and looks into the table. A handler, or a queue for each signal, would leave those out that are not named; here none
// can be forgotten.
//
// Not in the table are SIGKILL and SIGSTOP, which nobody can take, and SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV and
// SIGSYS, by which the machine says that this program itself is broken. Job control (Ctrl-Z) stops commands that hold
// nothing.
//
// A child gets the default of each signal and an empty mask (CSpawn), whatever is set here.
import NIOPosix
import RingfencePlatform
import Synchronization

/// What kind of command gets a signal.
package enum SignalRole: Sendable, CaseIterable {
    /// Asks, prints and ends: Ctrl-C ends it at once. What every command is until it says otherwise.
    case brief
    /// Goes on until somebody ends it: events --follow, watch, an order that waits, demo, a benchmark.
    case lasting
    /// A service that is not up yet.
    case starting
    /// `serve`.
    case service
    /// `agent`.
    case agent
    /// `lock` and `agent exec`: has a command.
    case supervisor
}

/// What is done with a signal.
package enum SignalMeaning: Sendable, Hashable {
    /// It is for the command that runs here.
    case passOn
    case endInOrder
    case endAtOnce
    case reload
    case ignore
}

/// The signals of this process.
package enum Signals {
    /// A signal that asks for something.
    package struct Signal: Sendable, Hashable {
        package var number: Int32
        package var meaning: SignalMeaning
    }

    /// What `number` means to a command of the kind `role`.
    /// - Parameter ignoresHangup: it was started with SIGHUP ignored (nohup).
    package static func meaning(of number: Int32, for role: SignalRole, ignoresHangup: Bool = false) -> SignalMeaning {
        switch number {
        case SIGCHLD, SIGURG, SIGPIPE, SIGXFSZ:
            // About us: a child has ended, a write failed and says so itself.
            return .ignore
        case SIGHUP:
            switch role {
            case .service, .agent: return .reload
            case .starting: return .ignore
            case _ where ignoresHangup: return .ignore
            case .brief: return .endAtOnce
            case .lasting: return .endInOrder
            case .supervisor: return .passOn
            }
        case SIGINT, SIGTERM, SIGQUIT, SIGABRT:
            switch role {
            case .brief, .starting: return .endAtOnce
            case .lasting, .service, .agent: return .endInOrder
            case .supervisor: return .passOn
            }
        default: return role == .supervisor ? .passOn : .ignore
        }
    }

    /// Whether a signal ends a supervisor that has no command yet.
    package static func ends(_ number: Int32) -> Bool { [SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGABRT].contains(number) }

    /// Every signal that is taken.
    package static var held: [Int32] {
        #if canImport(Darwin)
            let last: Int32 = 31
            let realTime: ClosedRange<Int32>? = nil
        #else
            let last: Int32 = 31
            let realTime: ClosedRange<Int32>? = __libc_current_sigrtmin()...__libc_current_sigrtmax()
        #endif
        let others: Set = [
            SIGKILL, SIGSTOP, SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS, SIGTSTP, SIGTTIN, SIGTTOU, SIGPIPE,
            SIGXFSZ,
        ]
        return (1...last).filter { !others.contains($0) } + (realTime.map { Array($0) } ?? [])
    }

    private struct State {
        var role = SignalRole.brief
        var listener: AsyncStream<Signal>.Continuation?
        var ignoresHangup = false
    }
    private static let state = Mutex(State())

    /// Whether this process was started with SIGHUP ignored (nohup).
    package static var ignoresHangup: Bool { state.withLock { $0.ignoresHangup } }

    /// Takes all signals of this process. The first thing a program does, on its first thread: each thread takes the
    /// mask of the one that starts it.
    package static func hold() {
        var action = sigaction()
        if sigaction(SIGHUP, nil, &action) == 0,
            unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self) == 1
        {
            state.withLock { $0.ignoresHangup = true }
        }
        signal(SIGPIPE, SIG_IGN)
        signal(SIGXFSZ, SIG_IGN)
        // Ignored, an ended child would be reaped by the kernel, and nobody knew how it ended.
        signal(SIGCHLD, SIG_DFL)
        var set = sigset_t()
        sigemptyset(&set)
        for number in held { sigaddset(&set, number) }
        pthread_sigmask(SIG_BLOCK, &set, nil)
        let waited = set
        let thread = NIOThreadPool(numberOfThreads: 1)
        thread.start()
        thread.submit { _ in
            var set = waited
            while true {
                var number: Int32 = 0
                if sigwait(&set, &number) == 0 { take(number) }
            }
        }
    }

    /// The signals that ask this process for something, from now on; there is one listener at a time.
    package static func listen(as role: SignalRole) -> AsyncStream<Signal> {
        // A process that holds something for others is not suspended, and may give the terminal away and take it back.
        if role == .supervisor || role == .agent {
            signal(SIGTSTP, SIG_IGN)
            signal(SIGTTOU, SIG_IGN)
        }
        let (stream, continuation) = AsyncStream<Signal>.makeStream()
        state.withLock { state in
            state.role = role
            state.listener = continuation
        }
        return stream
    }

    /// The command is of this kind until it listens.
    package static func become(_ role: SignalRole) {
        state.withLock { state in
            state.role = role
            state.listener = nil
        }
    }

    private static func take(_ number: Int32) {
        if number == SIGCHLD { Orphans.reap() }
        let asked: SignalMeaning = state.withLock { state in
            let meaning = Self.meaning(of: number, for: state.role, ignoresHangup: state.ignoresHangup)
            if meaning != .ignore, meaning != .endAtOnce {
                state.listener?.yield(Signal(number: number, meaning: meaning))
            }
            return meaning
        }
        if asked == .endAtOnce { end(by: number) }
    }

    /// Ends this process as the signal would have, so that a shell sees what it expects.
    private static func end(by number: Int32) -> Never {
        signal(number, SIG_DFL)
        var set = sigset_t()
        sigemptyset(&set)
        sigaddset(&set, number)
        pthread_sigmask(SIG_UNBLOCK, &set, nil)
        if getpid() != 1 { kill(getpid(), number) }
        // The first process of a container has no default.
        _exit(128 + number)
    }
}
