// SPDX-License-Identifier: Apache-2.0
//
// All exit codes. They follow sysexits.h where it has one, so that schedulers which know them do the right thing: 75
// means try again later. `doctor` speaks as the plugins of monitoring systems do: 1 is a warning, 2 a problem. A
// command run under a lock passes its own code on; 79 is none of sysexits', and rare among programs.
//
// A signal is told as a shell tells it, 128 and its number: 130 for Ctrl-C, 143 for SIGTERM. What runs until somebody
// ends it has done all it should by then, and exits with 0: serve, agent, events --follow, group watch.
package import ArgumentParser
import RingfencePlatform
import Synchronization

extension ExitCode {
    /// An order about a group was refused; `doctor` found a problem.
    package static let refused = ExitCode(2)
    /// Bad flags, arguments or settings (EX_USAGE).
    package static let usage = ExitCode(64)
    /// What a file holds is wrong (EX_DATAERR).
    package static let data = ExitCode(65)
    /// Redis cannot be reached or refused (EX_UNAVAILABLE).
    package static let unavailable = ExitCode(69)
    /// The run could not be finished (EX_SOFTWARE).
    package static let unfinished = ExitCode(70)
    /// What was to be printed could not be written (EX_IOERR).
    package static let inputOutput = ExitCode(74)
    /// The lock was not free in time or too few replicas confirmed it, a switchover did not come about, nobody can be
    /// called now (EX_TEMPFAIL).
    package static let busy = ExitCode(75)
    /// The lease was lost while the command ran.
    package static let leaseLost = ExitCode(79)
    /// The command exists but cannot be run.
    package static let notExecutable = ExitCode(126)
    /// The command was not found.
    package static let notFound = ExitCode(127)
    /// Nobody reads what is printed any more: as SIGPIPE would end it.
    package static let outputClosed = ExitCode(signal: SIGPIPE)
    /// The signal that ended the work; SIGINT if none is known.
    package static var interrupted: ExitCode { ExitCode(signal: Interruption.signal ?? SIGINT) }

    /// As a shell tells of a process that a signal ended.
    package init(signal: Int32) { self.init(128 + signal) }

    /// All of them, for a test that compares them to the article on the command line.
    package static let documented: [ExitCode] = [
        .success, .failure, .refused, .usage, .data, .unavailable, .unfinished, .inputOutput, .busy, .leaseLost,
        .notExecutable, .notFound, ExitCode(signal: SIGINT), .outputClosed, ExitCode(signal: SIGTERM),
    ]
}

/// The signal that ended the work of this process.
package enum Interruption {
    private static let number = Mutex<Int32?>(nil)

    package static var signal: Int32? { number.withLock { $0 } }
    static func note(_ signal: Int32) { number.withLock { $0 = $0 ?? signal } }
}
