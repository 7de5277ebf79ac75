// SPDX-License-Identifier: Apache-2.0
//
// Exit codes follow sysexits.h where it has one, so that schedulers which know them do the right thing: 75 means try
// again later. A command run under a lock passes its own code on; 79 is none of sysexits', and rare among programs.
package import ArgumentParser
import Hiredis
import Ringfence
import RingfenceOperations
import RingfencePlatform

extension ExitCode {
    /// An order about a group was refused.
    package static let refused = ExitCode(2)
    /// Bad flags, arguments or settings (EX_USAGE).
    package static let usage = ExitCode(64)
    /// Redis cannot be reached or refused (EX_UNAVAILABLE).
    package static let unavailable = ExitCode(69)
    /// What was to be printed could not be written (EX_IOERR).
    package static let inputOutput = ExitCode(74)
    /// The lock was not free in time, a switchover did not come about, nobody can be called now (EX_TEMPFAIL).
    package static let busy = ExitCode(75)
    /// The lease was lost while the command ran.
    package static let leaseLost = ExitCode(79)
    /// The command exists but cannot be run.
    package static let notExecutable = ExitCode(126)
    /// The command was not found.
    package static let notFound = ExitCode(127)
}

/// An error as the person at the terminal sees it; nil for those that ArgumentParser words itself.
package struct Failure {
    package var message: String
    package var code: ExitCode

    package init?(_ error: any Error) {
        switch error {
        case let error as RingfenceError:
            message = error.message
            switch error.code {
            case .lockBusy: code = .busy
            case .leaseLost: code = .leaseLost
            case .invalidArgument, .wouldDeadlock: code = .usage
            case .orderRefused:
                code = .refused
                message = "refused:" + error.reasons.map { "\n  - \($0)" }.joined()
            case .switchoverAborted, .failoverAborted, .noMember, .breakerOpen, .limitReached: code = .busy
            case .unavailable, .refused, .overloaded:
                code = .unavailable
                if error.effect == .unknown { message += ". It may have been done: look before you do it again" }
            default: code = .failure
            }
        case let error as Settings.Failure: (message, code) = (error.description, .usage)
        case let error as EmbeddedRedis.Failure: (message, code) = (error.description, .unavailable)
        case let error as ChildProcess.StartFailure:
            (message, code) = (error.description, error.number == ENOENT ? .notFound : .notExecutable)
        case let error as RedisError: (message, code) = (error.message, .unavailable)
        case let error as Output.Failure:
            message = "cannot write to standard output: \(String(cString: strerror(error.number)))"
            code = .inputOutput
        case let error as CommandFailure: (message, code) = (error.description, .failure)
        case is CancellationError: (message, code) = ("interrupted", .failure)
        default: return nil
        }
    }
}
