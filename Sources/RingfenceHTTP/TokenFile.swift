// SPDX-License-Identifier: Apache-2.0
//
// The token file is changed for one reason that cannot wait: a token has leaked. So it is read again when it changes,
// looked at once a second, and at once on SIGHUP. A bad new file changes nothing: a mistyped line must not shut
// everybody out, nor let everybody in. It says so in the log and in a metric until the file is fixed.
//
// A client's token is checked when a request comes. A stream of events or a wait in line goes on for long after that,
// so each is watched: when its token has left the file, it is ended.
import CoreMetrics
import Logging
import RingfenceOperations
import RingfencePlatform
import Synchronization

/// The tokens in force.
package final class TokenFile: Sendable {
    /// By what a change is known; a file that is replaced is another inode.
    private struct Mark: Equatable {
        var inode: UInt64 = 0
        var size: Int64 = -1
        var changed: Int64 = 0

        init(_ path: String) {
            var status = stat()
            guard stat(path, &status) == 0 else { return }
            inode = UInt64(status.st_ino)
            size = Int64(status.st_size)
            #if canImport(Darwin)
                changed = withUnsafeBytes(of: status.st_mtimespec) { nanoseconds(of: $0) }
            #else
                changed = withUnsafeBytes(of: status.st_mtim) { nanoseconds(of: $0) }
            #endif
        }
    }

    private struct State {
        var tokens: BearerTokens
        var mark: Mark
        /// How often it was read again.
        var reads = 0
        var watched: [Watch: (authorization: String, end: @Sendable () -> Void)] = [:]
        var lastWatch: Watch = 0
    }

    /// A request that is watched.
    typealias Watch = UInt64

    private let path: String
    private let logger: Logger
    private let failures: Counter
    private let state: Mutex<State>
    static let pace: Duration = .seconds(1)

    /// Reads the file for the first time.
    /// - Throws: ``Settings/Failure``.
    init(_ path: String, metrics: any MetricsFactory, logger: Logger) throws {
        self.path = path
        self.logger = logger
        failures = Counter(label: "ringfence_token_file_failures_total", factory: metrics)
        let mark = Mark(path)
        state = Mutex(State(tokens: try BearerTokens(file: path), mark: mark))
        warn()
    }

    /// Whether `authorization` is `Bearer` and one of the tokens in force.
    func accept(_ authorization: String?) -> Bool {
        guard let authorization else { return false }
        return state.withLock { $0.tokens }.accept(authorization)
    }

    /// As `accept`, for a request that may go on for long.
    /// - Parameter end: called at most once, when the token is good no more.
    /// - Returns: by what `forget` knows it; nil if the token is not good now.
    func watch(_ authorization: String?, _ end: @Sendable @escaping () -> Void) -> Watch? {
        guard let authorization else { return nil }
        while true {
            // Looked at outside the lock: with many tokens that takes its time.
            let (tokens, reads) = state.withLock { ($0.tokens, $0.reads) }
            guard tokens.accept(authorization) else { return nil }
            let watch: Watch? = state.withLock { state in
                guard state.reads == reads else { return nil }
                state.lastWatch += 1
                state.watched[state.lastWatch] = (authorization, end)
                return state.lastWatch
            }
            if let watch { return watch }
        }
    }

    /// The request is over.
    func forget(_ watch: Watch) { state.withLock { _ = $0.watched.removeValue(forKey: watch) } }

    /// Reads the file again if it is another, or `always`.
    func reload(always: Bool) {
        let mark = Mark(path)
        guard always || mark != state.withLock({ $0.mark }) else { return }
        do {
            let tokens = try BearerTokens(file: path)
            let ended = state.withLock { state in
                (state.tokens, state.mark) = (tokens, mark)
                state.reads += 1
                let ended = state.watched.filter { !tokens.accept($0.value.authorization) }
                for watch in ended.keys { state.watched[watch] = nil }
                return ended.values.map(\.end)
            }
            for end in ended { end() }
            logger.notice(
                "the token file was read again",
                metadata: ["tokens": "\(tokens.count)", "endedRequests": "\(ended.count)"])
            warn()
        } catch {
            state.withLock { $0.mark = mark }
            failures.increment()
            logger.error(
                "the token file cannot be used: the tokens read before stay in force", metadata: ["error": "\(error)"])
        }
    }

    /// Looks once a second, until the task is cancelled.
    func watch() async {
        while (try? await Task.sleep(for: Self.pace)) != nil { reload(always: false) }
    }

    private func warn() {
        if state.withLock({ $0.tokens.isWorldReadable }) {
            logger.warning(
                """
                every user of this host can read the token file: give it to the user of the service, \
                chown \(geteuid()), and chmod 400 it
                """)
        }
    }
}
