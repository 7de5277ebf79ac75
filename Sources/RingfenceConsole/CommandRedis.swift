// SPDX-License-Identifier: Apache-2.0
//
// Which Redis a benchmark and the demo work on: the one the user names, or a private redis-server in a temporary
// directory that is gone with the command. Private is the default, because both write a lot, and a benchmark on a
// server that others use too measures the others.

package import ArgumentParser
import FoundationEssentials
import Hiredis
package import Logging
import RingfenceOperations
import RingfencePlatform

/// The Redis a command works on.
package struct CommandRedis: Sendable {
    package let url: String
    /// Nobody else uses it: its counters are ours, and what is left in it does not matter.
    package let isPrivate: Bool

    /// Runs `body` on the Redis at `url`, or on a private one when that is nil, and ends the private one after it.
    /// Ctrl-C and SIGTERM (and SIGQUIT, SIGHUP) cancel `body`, so that nothing is left behind.
    package static func with<Result: Sendable>(
        url: String?, logger: Logger, _ body: @Sendable @escaping (CommandRedis) async throws -> Result
    ) async throws -> Result {
        if let url { return try await interruptible { try await body(CommandRedis(url: url, isPrivate: false)) } }
        let directory = try temporaryDirectory()
        defer { remove(directory) }
        return try await interruptible {
            let redis = try await EmbeddedRedis.start(directory: directory, logger: logger)
            do {
                let result = try await body(CommandRedis(url: redis.url, isPrivate: true))
                await redis.stop()
                return result
            } catch {
                await redis.stop()
                throw error
            }
        }
    }

    /// Runs `body`, and cancels it at the first signal that asks for the end, or when what it prints is not read.
    private static func interruptible<Result: Sendable>(
        _ body: @Sendable @escaping () async throws -> Result
    ) async throws -> Result {
        guard let result = try await untilInterrupted(endsUnread: true, body) else { throw CancellationError() }
        return result
    }

    /// Refuses a `--redis` that cannot be right, before anything is started.
    package static func check(url: String?) throws {
        guard let url else { return }
        do { _ = try RedisConfiguration(url: url) } catch { throw ValidationError("--redis: \(error.message)") }
    }

    /// Removes what ``temporaryDirectory()`` made.
    package static func remove(_ directory: String) { try? FileManager.default.removeItem(atPath: directory) }

    /// A new directory of this user only. In /tmp and not in TMPDIR, whose path may be too long for a unix socket.
    package static func temporaryDirectory() throws -> String {
        var template = Array("/tmp/ringfence-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            throw CommandFailure("cannot make a directory in /tmp: \(String(cString: strerror(errno)))")
        }
        return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

extension Logger {
    /// A logger for a command that speaks for itself.
    package static func command(_ label: String, level: Logger.Level = .error) -> Logger {
        var logger = Logger(label: label)
        logger.logLevel = level
        return logger
    }
}

/// A command cannot go on; the text is for the user.
package struct CommandFailure: Error, CustomStringConvertible {
    package let description: String
    package let code: ExitCode

    package init(_ description: String, code: ExitCode = .failure) {
        self.description = description
        self.code = code
    }
}
