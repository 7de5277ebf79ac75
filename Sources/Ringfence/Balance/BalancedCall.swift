// SPDX-License-Identifier: Apache-2.0
//
// A call whose beginning and end are not in one scope: a proxy that is told of the end by another request, a connection
// that is handed on. `withMember` is the way in for all others, for it cannot forget the end. Here the end may be
// forgotten, so a call that nobody holds any more ends by itself and teaches nothing: a report that never came is no
// evidence against a member.

import RingfenceCore
import Synchronization

/// A call to a member that a ``Balancer`` picked: outstanding until it is ended, or dropped.
public final class BalancedCall: Sendable {
    /// The outcome of a call.
    public enum Outcome: String, Sendable, Hashable, CaseIterable {
        /// The member answered.
        case success
        /// The call failed, and that speaks against the member.
        case failure
        /// The call was given up, or its outcome is not known: nothing is learned.
        case cancelled
    }

    /// The member to call.
    public let member: BalancedMember
    private let core: BalancerCore
    private let begun: BalancerCore.Begun
    private let hasEnded = Atomic(false)

    init(_ begun: BalancerCore.Begun, _ core: BalancerCore) {
        member = BalancedMember(begun.handle)
        self.begun = begun
        self.core = core
    }

    deinit { end(.cancelled) }

    /// Ends the call: the balancer learns its outcome and how long it took. Only the first end counts.
    ///
    /// - Returns: whether this was it.
    @discardableResult
    public func end(_ outcome: Outcome) -> Bool {
        guard !hasEnded.exchange(true, ordering: .acquiringAndReleasing) else { return false }
        switch outcome {
        case .success: core.end(begun, .success)
        case .failure: core.end(begun, .failure)
        case .cancelled: core.end(begun, .cancelled)
        }
        return true
    }
}

extension Balancer {
    /// Picks a member and begins a call to it, where beginning and end cannot be in one scope; else use
    /// ``withMember(isolation:isFailure:_:)``.
    ///
    /// - Returns: the call: end it. One that is dropped without that ends as ``BalancedCall/Outcome/cancelled``.
    /// - Throws: ``RingfenceError`` with effect `none`: `balancer.noMember`; `breaker.open`; `argument.invalid` if the
    ///   policy needs a key.
    public func begin() throws -> BalancedCall { BalancedCall(try core.begin(nil), core) }

    /// The same for a key. Policies that need none ignore it. See ``begin()``.
    public func begin(key: some HashRing.Key) throws -> BalancedCall {
        BalancedCall(try key.withRingBytes { bytes in Result { try core.begin(bytes) } }.get(), core)
    }
}
