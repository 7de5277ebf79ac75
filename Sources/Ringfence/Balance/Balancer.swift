// SPDX-License-Identifier: Apache-2.0
//
// The balancer for users. It is two references: to the core, which the group keeps, and to the group, so that the view
// is kept current as long as somebody has a balancer of it.

import Hiredis
import Logging
import NIOCore
import NIOPosix
import RingfenceCore

/// A balancer: picks a member of a group for each call, and learns from the outcome.
///
/// ```swift
/// let balancer = try group.balancer(.leastLoaded)
/// let receipt = try await balancer.withMember { member in
///     try await charge(card, at: member.address)
/// }
/// ```
///
/// It picks among the members of the group's last snapshot that have a weight, whose check passes, and that are not
/// ejected because calls to them failed. Picking is local: no round trip, no wait, no allocation, no contention with
/// other threads. While Redis is away it goes on with the last snapshot.
///
/// It never repeats a call and never makes two of one: a balancer cannot know whether a payment may be made again.
///
/// A balancer is a cheap value. Within a process, balancers of one group with the same policy and options share what
/// they learn; other processes count for themselves.
public struct Balancer: Sendable {
    private let group: Group?
    let core: BalancerCore

    init(_ group: Group, _ core: BalancerCore) {
        self.group = group
        self.core = core
    }

    /// The policy it picks by.
    public var policy: BalancePolicy { BalancePolicy(core.rule) }

    /// The balancer's current knowledge and decisions.
    public var state: BalancerState { core.state }

    // MARK: Picking

    /// Returns the member that would be called now. The call is not counted, nothing is learned, and no probe of the
    /// breaker is used up.
    ///
    /// The member may be gone by the time it is called; and since the call is not counted, all threads may get the same
    /// member.
    ///
    /// - Throws: ``RingfenceError`` with effect `none`: `balancer.noMember`; `breaker.open`; `argument.invalid` if the
    ///   policy needs a key.
    public func pick() throws -> BalancedMember { BalancedMember(try core.pick(nil)) }

    /// Returns the member that would be called now for a key. See ``pick()``. Policies that need no key ignore it.
    @inlinable
    public func pick(key: some HashRing.Key) throws -> BalancedMember {
        try key.withRingBytes { bytes in Result { try pick(keyBytes: bytes) } }.get()
    }

    @usableFromInline
    func pick(keyBytes: UnsafeRawBufferPointer) throws -> BalancedMember { BalancedMember(try core.pick(keyBytes)) }

    // MARK: Calling

    /// Picks a member, calls `body` with it once, and learns how that went and how long it took.
    ///
    /// A body that throws is a failed call, with two exceptions: `CancellationError` (and ``RingfenceError`` with
    /// `cancelled`), which says nothing about the member, and errors that are not failures by `isFailure`, because the
    /// member was healthy and its answer was no. A call that hangs counts as outstanding until it ends: give it a
    /// deadline.
    ///
    /// - Parameters:
    ///   - isolation: the actor on which `body` runs; default: the caller's.
    ///   - isFailure: whether an error of `body` speaks against the member.
    ///   - body: the call. It is run in the caller's task: if that is cancelled, so is the call.
    /// - Returns: what `body` returned.
    /// - Throws: the body's own error, unchanged; or ``RingfenceError`` with effect `none`, and then `body` was not
    ///   called: `balancer.noMember`, `breaker.open`, or `argument.invalid` if the policy needs a key.
    public func withMember<Success>(
        isolation: isolated (any Actor)? = #isolation, isFailure: (any Error) -> Bool = { _ in true },
        _ body: (BalancedMember) async throws -> Success
    ) async throws -> Success {
        try await run(try core.begin(nil), isolation: isolation, isFailure: isFailure, body)
    }

    /// The same for a key. Policies that need none ignore it. See ``withMember(isolation:isFailure:_:)``.
    public func withMember<Success>(
        key: some HashRing.Key, isolation: isolated (any Actor)? = #isolation,
        isFailure: (any Error) -> Bool = { _ in true }, _ body: (BalancedMember) async throws -> Success
    ) async throws -> Success {
        let call = try key.withRingBytes { bytes in Result { try core.begin(bytes) } }.get()
        return try await run(call, isolation: isolation, isFailure: isFailure, body)
    }

    private func run<Success>(
        _ call: BalancerCore.Begun, isolation: isolated (any Actor)?, isFailure: (any Error) -> Bool,
        _ body: (BalancedMember) async throws -> Success
    ) async throws -> Success {
        do {
            let success = try await body(BalancedMember(call.handle))
            core.end(call, .success)
            return success
        } catch {
            let isCancelled = error is CancellationError || (error as? RingfenceError)?.code == .cancelled
            core.end(call, isCancelled ? .cancelled : isFailure(error) ? .failure : .success)
            throw error
        }
    }

    // MARK: Without a group

    /// Creates a balancer of fixed members without a group, so that the cost of picking can be measured without Redis.
    package init(
        _ policy: BalancePolicy, options: BalancerOptions = BalancerOptions(),
        members: [(id: String, weight: Int, zone: String)]
    ) throws {
        group = nil
        core = BalancerCore(
            policy.rule, try options.checked(), group: "",
            .init(
                eventLoop: MultiThreadedEventLoopGroup.singleton.any(), logger: .init(label: "ringfence.balancer"),
                note: { _, _, _, _ in }))
        let records = members.map {
            MemberRecord(id: $0.id, session: "s", leaseMilliseconds: 3000, zone: $0.zone, weight: $0.weight)
        }.sorted { $0.id.isBefore($1.id) }
        let ring = try HashRing(records.map { .init(id: $0.id, zone: $0.zone, weight: $0.weight) })
        core.saw(
            .init(generation: "", version: 1, members: records, policy: nil, isRecovering: false), ring: ring.core)
    }
}
