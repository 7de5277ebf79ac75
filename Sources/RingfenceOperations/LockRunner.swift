// SPDX-License-Identifier: Apache-2.0
//
// `ringfence lock`: a command that runs only while its lock is held.
//
// The promise to the next holder is that this command is dead when the lease ends. So when renewals fail, the command
// is told to end (SIGTERM) a third of the ttl before the deadline, at most 5 s, and is killed before the deadline, not
// at it. When the lock is taken away by force there is no such warning time: SIGTERM at once, SIGKILL a second later;
// the fence protects that second.
//
// The command has a process group of its own, to which the signals that this process gets are passed on, Ctrl-C among
// them (Signals). Processes can leave a group, and those started through setsid, GNU timeout or a shell's job control
// do; so this process also adopts whatever the command leaves behind (Orphans), and the lock is released only when none
// of it is left. If this process itself is killed (SIGKILL), nothing can do that for it: the kernel kills the command
// then, and only that.
//
// A command that wants the terminal (an editor, a password prompt) is stopped
// by the kernel for being in the background; it is then given the terminal, and Ctrl-C goes straight to it. Neither
// process can be suspended: a suspended holder would lose its lock, and a suspended ringfence could not enforce that.
package import Ringfence
import RingfencePlatform
import Synchronization

/// Runs one command under a lock.
package struct LockRunner: Sendable {
    /// How it ended, and so the exit code.
    package enum Outcome: Sendable, Hashable {
        /// The command ended by itself.
        case ended(ChildProcess.Exit)
        /// A signal ended the wait for the lock.
        case interrupted(Int32)
        /// The lease was lost, and the command ended because of that, or worked on without the lock for a while.
        case leaseLost(String)
    }

    package var names: [String]
    package var command: [String]
    package var ttl: Duration
    package var wait: Duration
    package var owner: String?
    package var maximumHold: Duration
    package var durability: Durability
    /// Tells the person at the terminal.
    package var say: @Sendable (String) -> Void
    /// Tells what a wait waits for; nil: nobody looks.
    package var note: (@Sendable (String) -> Void)?

    package init(
        names: [String], command: [String], ttl: Duration, wait: Duration, owner: String?, maximumHold: Duration,
        durability: Durability = .primary, say: @Sendable @escaping (String) -> Void
    ) {
        self.names = names
        self.command = command
        self.ttl = ttl
        self.wait = wait
        self.owner = owner
        self.maximumHold = maximumHold
        self.durability = durability
        self.say = say
    }

    /// What a signal finds. One value, so that none falls between the grant and the start of the command.
    private final class Stage: Sendable {
        private enum State: Sendable {
            case waiting
            case interrupted(Int32)
            /// The command may run already; what came meanwhile is passed on as soon as it can be.
            case starting([Int32])
            case running(ChildProcess)
        }
        private let state = Mutex(State.waiting)

        /// The signal that ended the wait.
        var interruption: Int32? {
            state.withLock { if case .interrupted(let signal) = $0 { signal } else { nil } }
        }

        /// Takes a signal; true if it ended the wait for the lock.
        func take(_ signal: Int32) -> Bool {
            let (interrupts, child): (Bool, ChildProcess?) = state.withLock { state in
                switch state {
                case .waiting where !Signals.ends(signal):
                    // For a command that is not there yet.
                    return (false, nil)
                case .waiting:
                    state = .interrupted(signal)
                    return (true, nil)
                case .interrupted: return (true, nil)
                case .starting(let signals):
                    state = .starting(signals + [signal])
                    return (false, nil)
                case .running(let child): return (false, child)
                }
            }
            child?.signal(signal)
            return interrupts
        }

        /// The lock is held: the command is started, unless a signal came first.
        func begin() -> Bool {
            state.withLock { state in
                guard case .waiting = state else { return false }
                state = .starting([])
                return true
            }
        }

        func began(_ child: ChildProcess) {
            let signals: [Int32] = state.withLock { state in
                defer { state = .running(child) }
                return if case .starting(let signals) = state { signals } else { [] }
            }
            for signal in signals { child.signal(signal) }
        }
    }

    /// Waits for the lock, runs the command, releases the lock. A signal ends the wait, or goes to the command.
    /// - Throws: `RingfenceError` (`lock.busy`, `coordinator.unavailable`, …) when it was not acquired, and
    ///   ``ChildProcess/StartFailure``.
    package func run(with client: RingfenceClient) async throws -> Outcome {
        let stage = Stage()
        let outcome = Mutex<Outcome?>(nil)
        let held = Mutex<Lease?>(nil)
        let signals = Signals.listen(as: .supervisor)
        Orphans.adopt()
        let telling = Task { if let note { await tellWait(client, note) } }
        let work = Task {
            try await client.withLock(
                names, ttl: ttl, wait: wait,
                options: .init(owner: owner, maximumHold: maximumHold, durability: durability)
            ) { lease in
                telling.cancel()
                held.withLock { $0 = lease }
                let result = try await self.run(under: lease, stage)
                outcome.withLock { $0 = result }
            }
        }
        let forwarding = Task {
            for await signal in signals where stage.take(signal.number) { work.cancel() }
        }
        defer {
            forwarding.cancel()
            telling.cancel()
            if let left = held.withLock({ $0?.unreleasedFor }) { sayUnreleased(left) }
        }
        do {
            try await work.value
        } catch let error as RingfenceError {
            // First, because the interruption cancels the work, which then looks as if the lease were lost.
            if let signal = stage.interruption { return .interrupted(signal) }
            if let result = outcome.withLock({ $0 }) {
                // It ended by itself, but its lease was over by then.
                if case .leaseLost = result { return result }
                return .leaseLost(error.message)
            }
            throw error
        }
        if let signal = stage.interruption { return .interrupted(signal) }
        return outcome.withLock { $0 } ?? .leaseLost("the lock was lost before the command started")
    }

    /// Says who holds the lock and how many come before us, when the wait has lasted a moment, and when that changes.
    private func tellWait(_ client: RingfenceClient, _ note: @Sendable (String) -> Void) async {
        let end = ContinuousClock.now + wait
        var told: WaitView?
        var pause: Duration = .milliseconds(300)
        while (try? await Task.sleep(for: pause)) != nil {
            if let view = try? await WaitView(names, owner: owner ?? client.owner, client), !Task.isCancelled,
                !view.says(theSameAs: told)
            {
                note("waits for \(view.text), at most \(max(.zero, end - .now).shortText) more")
                told = view
            }
            pause = .seconds(1)
        }
    }

    /// The command's code is passed on all the same: its work is done.
    private func sayUnreleased(_ left: Duration) {
        let end = wallClockNanoseconds() / 1_000_000 + left.wholeMilliseconds
        say(
            "Redis did not answer the release of \(names.joined(separator: ", ")): unless it is done after all, it "
                + "stays held until \(timeText(end)) (\(left.shortText) at most)")
    }

    private func run(under lease: Lease, _ stage: Stage) async throws -> Outcome {
        guard stage.begin() else { return .interrupted(stage.interruption ?? SIGTERM) }
        var launch = ChildProcess.Launch(command)
        launch.environment = environment(of: lease)
        launch.hasOwnGroup = true
        launch.ownsDescendants = true
        launch.ignoresHangup = Signals.ignoresHangup
        let terminal = Terminal()
        let child = try await ChildProcess.start(launch) { child, number in
            terminal.stopped(child, by: number, say: say)
        } onSurvivor: { pid in
            say(ChildProcess.survivorText(pid) + "; the lock is kept for it as long as it can be renewed")
        }
        stage.began(child)
        let lost = Mutex<String?>(nil)
        let watching = Task { await watch(child, lease) { reason in lost.withLock { $0 = $0 ?? reason } } }
        let exit = await withTaskCancellationHandler {
            await child.wait()
        } onCancel: {
            if stage.interruption == nil {
                lost.withLock { $0 = $0 ?? "the lock was taken away" }
                say("the lock is lost: ending the command")
            }
            child.end(with: SIGTERM)
            Task {
                try await Task.sleep(for: .seconds(1))
                child.end(with: SIGKILL)
            }
        }
        watching.cancel()
        terminal.takeBack(from: child)
        if let reason = lost.withLock({ $0 }) { return .leaseLost(reason) }
        return .ended(exit)
    }

    /// Ends the command in time if the lease is not renewed.
    private func watch(_ child: ChildProcess, _ lease: Lease, _ lose: @Sendable (String) -> Void) async {
        let length = min(ttl, maximumHold)
        let lastWarning = min(length / 3, .seconds(5))
        let lastMoment = min(length / 10, .milliseconds(500))
        // A little early, because the library counts from before the grant, and the grant took its way.
        let hardEnd = ContinuousClock.now + maximumHold - min(maximumHold / 3, .seconds(1))
        var isTold = false
        while child.isRunning, !Task.isCancelled {
            let remaining = lease.remaining
            let isHeldTooLong = ContinuousClock.now + remaining >= hardEnd
            let reason =
                isHeldTooLong ? "the command ran for its --maximum-hold" : "Redis did not renew the lock in time"
            let told = isHeldTooLong ? "--maximum-hold is over" : "the lock is not renewed"
            if remaining <= lastMoment {
                lose(reason)
                say("killing the command before its lock ends")
                child.end(with: SIGKILL)
                return
            }
            if remaining <= lastWarning, !isTold {
                isTold = true
                lose(reason)
                say("\(told) and the lock ends in \(remaining.shortText): ending the command")
                child.end(with: SIGTERM)
            }
            // Looks again when something is due; a renewal in between only makes it look in vain.
            try? await Task.sleep(for: remaining - (isTold ? lastMoment : lastWarning) + .milliseconds(1))
        }
    }

    private func environment(of lease: Lease) -> [String] {
        let added = [
            "RINGFENCE_FENCE": String(lease.fence),
            "RINGFENCE_LOCK": names[0],
            "RINGFENCE_LOCKS": names.joined(separator: "\n"),
            "RINGFENCE_OWNER": lease.owner,
            "RINGFENCE_HOLD": lease.id,
        ]
        let kept = Environment.current.filter { added[String($0.prefix { $0 != "=" })] == nil }
        return kept + added.map { "\($0.key)=\($0.value)" }.sorted()
    }
}

/// The controlling terminal, lent to the command when it asks.
private struct Terminal: Sendable {
    private let descriptor = open("/dev/tty", O_RDWR | O_CLOEXEC)

    /// The child was stopped: by the kernel, because it wants the terminal, or by Ctrl-Z, or on purpose by somebody.
    func stopped(_ child: ChildProcess, by number: Int32, say: (String) -> Void) {
        switch number {
        case SIGTTIN, SIGTTOU:
            guard descriptor >= 0, tcgetpgrp(descriptor) == getpgrp(), tcsetpgrp(descriptor, child.pid) == 0 else {
                return say("the command wants the terminal, which is not ours to give: it is stopped")
            }
            child.signal(SIGCONT)
        case SIGTSTP:
            say("a command that holds a lock is not suspended")
            child.signal(SIGCONT)
        default: break
        }
    }

    func takeBack(from child: ChildProcess) {
        guard descriptor >= 0 else { return }
        if tcgetpgrp(descriptor) == child.pid { _ = tcsetpgrp(descriptor, getpgrp()) }
        close(descriptor)
    }
}
