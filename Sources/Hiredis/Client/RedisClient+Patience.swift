// SPDX-License-Identifier: Apache-2.0
//
// Single calls that Redis refuses for now.
//
// MOVED, READONLY, LOADING and the like are no answers: nothing was done, and a moment later the same call may get
// through, here or, after a failover, at another server, to which the connection is on its way by then. So the call is
// sent again, after a pause, as long as its deadline allows; never after it, and not so shortly before it that the
// answer would not be waited for: what is known now, that nothing was done, would then be known no more. Only for calls
// whose caller waits here: once it has gone nobody sends again, and so nothing comes behind what it does instead.
//
// The first pause is short, since mostly the connection has just left for the right server, and the call waits for
// that. Later ones are drawn from a range, or all clients of a Redis that fails over would come at the same moments.

extension RedisError {
    /// A refusal of a server that may take the same call a moment later; nothing was done. (WAIT may be refused so
    /// behind a script that ran.)
    package var isForNow: Bool {
        guard code == .server, effect == .none, !isFinal, let prefix = server?.prefix else { return false }
        return RedisServerError.Prefix.waits.contains(prefix)
    }

    /// How long to wait before it is asked again, but for the first time.
    package static func pauseForNow() -> Duration { .milliseconds(Int.random(in: 50...250)) }
}

extension RedisServerError.Prefix {
    /// States in which a server refuses everything for a while, before it has done anything.
    fileprivate static let waits: Set<Self> = [
        .readOnly, .loading, .busy, .masterDown, .noReplicas, .moved, .ask, .tryAgain, .clusterDown,
    ]
}

extension RedisClient {
    private static let firstPause = Duration.milliseconds(5)
    /// What is left for an answer at least.
    private static let leastPatience = Duration.milliseconds(50)

    /// Sends by `send`, and again while the server refuses it for now, until the command timeout is over. `send` is
    /// given the time that is left.
    package func patiently<Answer: Sendable>(
        _ send: (_ left: Duration) async -> Result<Answer, RedisError>
    ) async -> Result<Answer, RedisError> {
        let end = ContinuousClock.now + commandTimeout
        var pause = Self.firstPause
        while true {
            let result = await send(max(.zero, ContinuousClock.now.duration(to: end)))
            guard case .failure(let refusal) = result, refusal.isForNow,
                ContinuousClock.now + pause + Self.leastPatience < end
            else {
                return result
            }
            do { try await Task.sleep(for: pause) } catch {
                return .failure(
                    RedisError(.cancelled, effect: .none, "the task was cancelled; last: \(refusal.message)"))
            }
            pause = RedisError.pauseForNow()
        }
    }
}
