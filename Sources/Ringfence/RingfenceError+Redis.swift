// SPDX-License-Identifier: Apache-2.0

package import Hiredis
package import RingfenceCore

extension RingfenceError {
    /// A failure of the connection or a refusal of Redis, while `doing` something.
    package init(_ error: RedisError, _ doing: String) {
        let code: Code =
            switch error.code {
            case .invalidConfiguration: .argumentInvalid
            case .overloaded: .coordinatorOverloaded
            case .cancelled: .cancelled
            case .closed: .clientShutDown
            case .wrongServer: .coordinatorRefused
            case .server: error.isTransient ? .coordinatorUnavailable : .coordinatorRefused
            default: .coordinatorUnavailable
            }
        let effect: Effect =
            switch error.effect {
            case .none: .none
            case .applied: .applied
            case .unknown: .unknown
            }
        self.init(
            code, effect: effect, isRetriable: error.isTransient, underlying: error, "\(doing) failed: \(error.message)"
        )
    }

    package init(_ invalid: InvalidArgument) {
        self.init(.argumentInvalid, effect: .none, "\(invalid)")
    }

    package static func unexpected(_ reply: RedisReply) -> RingfenceError {
        RingfenceError(RedisError.shape(reply), "reading Redis' answer")
    }

    package static func busy(_ names: [String], _ reason: BusyReason, waited: Duration) -> RingfenceError {
        let time = waited > .zero ? "was not free within \(waited)" : "is not free"
        return RingfenceError(
            .lockBusy, effect: .none, isRetriable: true, "\(describe(names)) \(time): \(reason.words)")
    }

    static func lineIsFull(_ name: String, _ most: Int) -> RingfenceError {
        RingfenceError(
            .limitReached, effect: .none, isRetriable: true,
            "as many wait for the lock '\(name)' as the setting limits.waiters allows here: \(most)")
    }

    static func noAnswer(_ names: [String]) -> RingfenceError {
        RingfenceError(
            .coordinatorUnavailable, effect: .unknown, isRetriable: true,
            "acquiring \(describe(names)): Redis did not answer in the time to wait; the request is being withdrawn")
    }

    static func notConfirmed(
        _ names: [String], _ acknowledgement: Acknowledgement, _ confirmation: ScriptRunner.Confirmation
    ) -> RingfenceError {
        RingfenceError(
            .lockNotConfirmed, effect: .none, isRetriable: true,
            "\(describe(names)): \(acknowledgement.words(confirmation)); the lock was given back")
    }

    /// `owner`: who holds it now, empty for nobody, nil if that is not known. `freed`: names that were held, and
    /// released.
    static func notHeld(_ names: [String], owner: String?, freed: Int64 = 0) -> RingfenceError {
        if freed > 0 {
            return RingfenceError(
                .lockNotHeld, effect: .applied,
                "the token held only \(freed) of \(names.count) names any more, which were given back: "
                    + describe(names))
        }
        guard let owner else {
            return RingfenceError(
                .lockNotHeld, effect: .none,
                "the token does not hold \(describe(names)): it was released, has expired, or is of another lock")
        }
        let state = owner.isEmpty ? "nobody holds it now: it was released or has expired" : "'\(owner)' holds it now"
        let part = names.count > 1 ? "; if a part was taken away the whole is over, and the rest is given back" : ""
        return RingfenceError(
            .lockNotHeld, effect: .none,
            "the token does not hold \(describe(names)): \(state), or the token is of another lock\(part)")
    }

    package static let shutDown = RingfenceError(
        .clientShutDown, effect: .none, "the client was shut down; make a new one")

    static let cancelledWait = RingfenceError(
        .cancelled, effect: .none, "the task was cancelled; nothing is held, and what was asked for is withdrawn")
}

extension Acknowledgement {
    /// Why it is not enough.
    package func words(_ confirmation: Durability.Confirmation) -> String {
        if asked == 0 { return "the primary has no replica that could confirm it: connect one, or ask for none" }
        let all = confirmation.replicas == .all ? "connected replicas" : "replicas"
        return "\(replicas) of \(asked) \(all) acknowledged it within \(confirmation.milliseconds) ms"
    }
}

/// What is known of who is in the way of an acquire.
package enum BusyReason: Sendable, Hashable {
    /// This one, for so long unless it renews.
    case held(by: String, milliseconds: Int64)
    /// Nobody holds it: it goes to others, who wait for it.
    case line
    /// Redis was not asked, or said only where in the line the caller stood.
    case unknown

    fileprivate var words: String {
        switch self {
        case .held(let owner, let milliseconds): "'\(owner)' holds it for up to \(milliseconds) ms more"
        case .line: "others wait for it"
        case .unknown: "others hold it, or came first"
        }
    }
}

extension RedisError {
    /// Whether the same call, repeated, may get through. The scripts recognise a repetition by its nonce or value, so
    /// for them that holds where the effect is unknown too.
    var isTransient: Bool {
        switch code {
        case _ where isFinal: false
        case .connectFailed, .notConnected, .timedOut, .connectionLost, .overloaded: true
        case .server: isRetriable
        default: false
        }
    }

    /// Whether it may be for one of the keys that the whole call was refused: one is of another type, or the slot is
    /// being moved and some of the keys are there already.
    var isOfOneKey: Bool {
        !isTransient || server.map { [.tryAgain, .ask].contains($0.prefix) } == true
    }

    package static func shape(_ reply: RedisReply) -> RedisError {
        RedisError(.protocolViolation, effect: .unknown, "an answer of a shape that the script does not give")
    }
}

/// Names for a message, few and short.
func describe(_ names: [String]) -> String {
    let shown = names.prefix(3).map { "'\($0)'" }.joined(separator: ", ")
    return names.count > 3 ? "\(shown) and \(names.count - 3) more" : shown
}
