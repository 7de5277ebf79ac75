// SPDX-License-Identifier: Apache-2.0
package import ArgumentParser
import Hiredis
import Ringfence
import RingfenceOperations
import RingfencePlatform

/// An error as the person at the terminal sees it; nil for those that ArgumentParser words itself.
package struct Failure {
    package var message: String
    package var code: ExitCode

    package init?(_ error: any Error) {
        switch error {
        case let error as RingfenceError:
            message = (error.underlying as? RedisError).flatMap { Self.connecting($0) } ?? error.message
            switch error.code {
            case .lockBusy, .lockNotConfirmed: code = .busy
            case .leaseLost: code = .leaseLost
            case .argumentInvalid, .lockWouldDeadlock: code = .usage
            case .orderRefused:
                code = .refused
                message = "refused:" + error.reasons.map { "\n  - \($0)" }.joined()
            case .switchoverAborted, .failoverAborted, .balancerNoMember, .breakerOpen, .limitReached: code = .busy
            case .coordinatorUnavailable, .coordinatorRefused, .coordinatorOverloaded:
                code = .unavailable
                if error.effect == .unknown { message += ". It may have been done: look before you do it again" }
            default: code = .failure
            }
        case let error as Settings.Failure: (message, code) = (error.description, .usage)
        case let error as EmbeddedRedis.Failure: (message, code) = (error.description, .unavailable)
        case let error as ChildProcess.StartFailure:
            (message, code) = (error.description, error.number == ENOENT ? .notFound : .notExecutable)
        case let error as RedisError: (message, code) = (Self.connecting(error) ?? error.message, .unavailable)
        case let error as Output.Failure:
            message = "cannot write to standard output: \(String(cString: strerror(error.number)))"
            code = .inputOutput
        case let error as CommandFailure: (message, code) = (error.description, error.code)
        case is CancellationError: (message, code) = ("interrupted", .interrupted)
        default: return nil
        }
    }

    /// Why there is no connection, and what to do; nil for another failure.
    private static func connecting(_ error: RedisError) -> String? {
        switch error.fault {
        case .refused, .noSocket:
            return error.message + ": start one with 'ringfence serve', or name yours with --redis"
        case .nameNotFound, .noRoute, .silent: return error.message + ": is the address right (--redis)?"
        case nil: return error.code == .invalidConfiguration ? error.message : nil
        default: return error.message
        }
    }
}
