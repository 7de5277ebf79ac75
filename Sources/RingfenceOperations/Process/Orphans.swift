// SPDX-License-Identifier: Apache-2.0
//
// Children that this process has but did not start.
//
// A process whose parent ends is handed to the nearest ancestor that is a subreaper, or else to process 1. This applies
// to two kinds of our processes: `lock` and `agent exec`, which ask for it so that nothing a command has started can
// escape them (setsid, GNU timeout and a shell's job control leave the command's process group, but not this), and any
// of our commands as the first process of a container. A process that is given children must reap them, or each stays a
// zombie for ever.
//
// Children that we start are reaped by a thread of their own (ChildProcess), which wants to know how they ended, so
// they are on a list, and all others are reaped here. Between the fork and the list a child of ours would look like a
// stranger: while one is being started none is reaped here, and afterwards we look again.
import CSpawn
import RingfencePlatform
import Synchronization

/// Reaps and ends the processes that were handed to this one.
package enum Orphans {
    private struct State {
        /// What this process started itself.
        var own: Set<Int32> = []
        /// How many are being started.
        var starting = 0
        var areOurs = getpid() == 1
    }
    private static let state = Mutex(State())

    /// From now on every descendant whose parent ends becomes a child of this process.
    /// - Returns: false where the system cannot do that (it can on Linux).
    @discardableResult
    package static func adopt() -> Bool {
        guard ringfence_become_subreaper() == 0 else { return false }
        state.withLock { $0.areOurs = true }
        return true
    }

    /// Whether what descendants leave behind becomes ours.
    static var areOurs: Bool { state.withLock { $0.areOurs } }

    /// Starts a child of our own.
    static func starting(_ spawn: () throws -> Int32) throws -> Int32 {
        state.withLock { $0.starting += 1 }
        defer { reap() }
        do {
            let pid = try spawn()
            state.withLock { state in
                state.starting -= 1
                state.own.insert(pid)
            }
            return pid
        } catch {
            state.withLock { $0.starting -= 1 }
            throw error
        }
    }

    /// A child of our own was reaped: its number may be a stranger's from now on.
    static func reaped(_ pid: Int32) {
        state.withLock { _ = $0.own.remove(pid) }
        reap()
    }

    /// Reaps what has ended and is not our own.
    package static func reap() {
        state.withLock { state in
            guard state.areOurs, state.starting == 0 else { return }
            // One of our own in front hides the others; they are looked for again when it is reaped, a moment later.
            while case let pid = ringfence_ended_child(), pid > 0, !state.own.contains(pid) {
                _ = waitpid(pid, nil, WNOHANG)
            }
        }
    }

    /// Sends a signal to all descendants outside of the group `group`.
    /// - Returns: one that may not be signalled.
    @discardableResult
    static func signal(_ number: Int32, outside group: Int32 = 0) -> Int32? {
        var refused: pid_t = 0
        _ = ringfence_signal_descendants(number, group, &refused)
        return refused == 0 ? nil : refused
    }

    /// Ends all descendants, but those that were there before ``adopt()``, and returns when there is none left. The
    /// kernel says so; where there were some before, the list of processes does.
    /// - Parameters:
    ///   - grace: from SIGTERM to SIGKILL; zero: SIGKILL at once.
    ///   - isHurried: whether the grace is over all the same.
    ///   - onSurvivor: called once if one of them cannot be ended.
    static func endAll(
        grace: Duration, isHurried: () -> Bool, onSurvivor: (_ pid: Int32?) -> Void
    ) {
        reap()
        guard ringfence_has_descendants() != 0 else { return }
        let began = ContinuousClock.now
        var isSaid = false
        var pause: useconds_t = 500
        if grace > .zero { signal(SIGTERM) }
        while ringfence_has_descendants() != 0 {
            var refused: Int32?
            let lasted = ContinuousClock.now - began
            // Again and again: what is forked while the list is read is not on it.
            if lasted >= grace || isHurried() { refused = signal(SIGKILL) }
            reap()
            if !isSaid, lasted > grace + .seconds(1) {
                isSaid = true
                onSurvivor(refused)
            }
            guard ringfence_has_descendants() != 0 else { return }
            usleep(pause)
            pause = min(pause * 2, 20_000)
            reap()
        }
    }
}
