// SPDX-License-Identifier: Apache-2.0
//
// Being primary, step by step: for a program that promotes something outside this process, a database say. To do the
// primary's work in this very process, use `withPrimary` (Group+Primary.swift), which is made of this.

import RingfenceCore

/// An epoch of the role of primary, held by this process.
///
/// Hand ``value`` to whatever the primary changes, and let that refuse older ones: it grows with each election, and any
/// process can be paused between a check and its next act.
public struct Epoch: Sendable, CustomStringConvertible {
    /// The number; it grows with each election of the group, and is never given twice.
    public let value: Int64
    let membership: Membership

    init(_ value: Int64, _ membership: Membership) {
        self.value = value
        self.membership = membership
    }

    /// Whether this process may act as primary of this epoch now. Local, no round trip.
    public var isHeld: Bool { membership.roleDeadline(value) != nil }

    /// When the role ends unless a beat gets through, on this machine's clock; the present moment if it is over.
    public var deadline: ContinuousClock.Instant { Moment.instant(membership.roleDeadline(value) ?? Moment.now) }

    /// Throws unless this process may act as primary of this epoch now. Local, no round trip.
    ///
    /// - Throws: ``RingfenceError``, effect `none`: `primary.lost`; `primary.writesSuspended` while there are fewer
    ///   standbys than the group's settings ask for, if they say so: the role goes on, and so does the body.
    public func check() throws {
        guard isHeld else { throw RingfenceError.primaryLost(self, effect: .none) }
        guard !membership.group.known.role.suspendsWrites else {
            throw RingfenceError(
                .primaryWritesSuspended, effect: .none, isRetriable: true,
                "the primary of the group '\(membership.groupName)' must not write: fewer members could take over than "
                    + "its settings ask for")
        }
    }

    /// The number.
    public var description: String { "\(value)" }
}

extension Epoch: Hashable {
    /// The same number of the same membership.
    public static func == (one: Epoch, other: Epoch) -> Bool {
        one.value == other.value && one.membership === other.membership
    }
    /// Feeds the number.
    public func hash(into hasher: inout Hasher) { hasher.combine(value) }
}

/// The role of a candidate.
public enum Role: Sendable, Hashable {
    /// Not the primary.
    case standby
    /// Elected: promote, then say ``Candidacy/ready(_:)``, or ``Candidacy/giveUp(_:reason:)``.
    case elected(Epoch)
    /// The primary. After `handingOver` it means that the switchover was taken back: go on.
    case primary(Epoch)
    /// A switchover was ordered: stop, then say ``Candidacy/readyToHandOver(_:position:)``.
    case handingOver(Epoch)
    /// The role is over: do not act any more. `standby` follows.
    case ended(Epoch, reason: RoleEnd)

    /// The epoch of the role; nil for `standby` and `ended`.
    public var epoch: Epoch? {
        switch self {
        case .standby, .ended: nil
        case .elected(let epoch), .primary(let epoch), .handingOver(let epoch): epoch
        }
    }
}

/// Why a role ended.
public enum RoleEnd: Sendable, Hashable, CustomStringConvertible {
    /// The candidate's own clock ended it: no beat got through in time, the process was paused, or the membership
    /// ended.
    case suspended
    /// The target of a switchover took it over.
    case handedOver
    /// An operator ordered a failover.
    case failover
    /// Another member has it.
    case lost
    /// The candidate gave it up, for this reason.
    case gaveUp(String)

    init(_ end: RoleMachine.End) {
        self =
            switch end {
            case .suspended: .suspended
            case .handedOver: .handedOver
            case .failover: .failover
            case .lost: .lost
            case .gaveUp(let reason): .gaveUp(reason)
            }
    }

    /// The reason as it stands in events.
    public var description: String {
        switch self {
        case .suspended: "suspended"
        case .handedOver: "switchover"
        case .failover: "failover"
        case .lost: "lost"
        case .gaveUp(let reason): reason
        }
    }
}

/// This process' candidacy for the role of primary, from ``Membership/campaign(margin:)`` until it is withdrawn.
///
/// What is reported here reaches Redis with each beat, and at once where it matters. Only ``withdraw()`` waits for an
/// answer.
public final class Candidacy: Sendable {
    /// The membership that stands for election.
    public let membership: Membership

    init(_ membership: Membership) { self.membership = membership }

    /// The current role. Local, no round trip.
    public var role: Role { membership.role }

    /// The roles: the current one, then each change. The stream ends with the membership or the candidacy.
    public var roles: AsyncStream<Role> { membership.roles }

    /// Reports the candidate's position, and whether it may be elected, from now on.
    ///
    /// - Parameters:
    ///   - position: the position of its data, in a unit that all candidates share (bytes of a log). 0 to 2^53 - 1;
    ///     nil: it has none. The candidate with the least lag is elected first.
    ///   - reason: the reason why it may not be elected now, 1 to 256 bytes; nil, the default: it may. For conditions
    ///     that change often; for those that last use the member's health.
    /// - Throws: ``RingfenceError`` with `argument.invalid`.
    public func report(position: Int64?, ineligibleBecause reason: String? = nil) throws {
        do throws(InvalidArgument) {
            try Limits.check(position: position)
            if let reason {
                guard !reason.isEmpty else { throw InvalidArgument("ineligibleBecause", "must be 1 to 256 bytes") }
                try Limits.check(unfit: reason, field: "ineligibleBecause")
            }
        } catch { throw RingfenceError(error) }
        membership.report(position: position, unfit: reason ?? "")
    }

    /// Reports that the promotion is done.
    ///
    /// - Returns: false if that epoch is over, and nothing may be done under it.
    @discardableResult
    public func ready(_ epoch: Epoch) -> Bool { membership.say { $0.ready(epoch.value) } }

    /// Reports that it has stopped, for a switchover. What follows is the end of the role, or `primary` again: the
    /// target did not reach `position` in time.
    ///
    /// - Parameters:
    ///   - epoch: the epoch of the role.
    ///   - position: its last position; nil: it has none. If any candidate reports a position, the role is not handed
    ///     over without this one.
    /// - Returns: false if the role is not `handingOver`.
    @discardableResult
    public func readyToHandOver(_ epoch: Epoch, position: Int64? = nil) -> Bool {
        membership.say { $0.readyToHandOver(epoch.value, position: position) }
    }

    /// Reports that nothing is done any more under an epoch that ended with ``RoleEnd/failover`` or
    /// ``RoleEnd/suspended``, so that the next primary is elected at once and not when the lease is over.
    ///
    /// - Returns: false if no such epoch is waited for.
    @discardableResult
    public func stopped(_ epoch: Epoch) -> Bool { membership.say { $0.stopped(epoch.value) } }

    /// Gives the role up: call it when nothing is done under this epoch any more, for another may be elected at once.
    ///
    /// - Parameters:
    ///   - epoch: the epoch of the role.
    ///   - reason: `stepDown` (or nothing), `refused`, `promotionFailed` or `unhealthy`: then it is not elected again
    ///     for one lease. Any other text of up to 64 bytes is only recorded in the event.
    /// - Returns: false if the role was over already.
    @discardableResult
    public func giveUp(_ epoch: Epoch, reason: String = "stepDown") -> Bool {
        let reason = String(reason.filter { $0.isASCII && !$0.isNewline && $0 != "\0" }.prefix(64))
        return membership.say { $0.giveUp(epoch.value, reason: reason) }
    }

    /// Stops standing for election. If it is the primary, it gives the role up.
    ///
    /// - Throws: ``RingfenceError``: `coordinator.unavailable` when Redis did not answer in time; it is
    ///   retried in the background.
    public func withdraw() async throws {
        try await membership.setCandidate(false)
    }
}

extension Membership {
    /// Stands for election as the group's primary.
    ///
    /// - Parameter margin: how long before the lease the role ends, to leave time for stopping. Zero to half of the
    ///   lease; default zero.
    /// - Throws: ``RingfenceError``: `argument.invalid`; `candidacy.exists` when this membership stands already;
    ///   `membership.…` when it is over; `coordinator.unavailable` when Redis did not answer in time.
    public func campaign(margin: Duration = .zero) async throws -> Candidacy {
        let lease = member.lease
        guard margin >= .zero, margin <= lease / 2 else {
            throw RingfenceError(
                InvalidArgument("margin", "must be 0 to half of the lease (\(lease / 2)), not \(margin)"))
        }
        guard beginCandidacy(margin: Nanos(saturating: margin)) else {
            throw RingfenceError(
                .candidacyExists, effect: .none, "'\(id)' stands for primary already: withdraw that first")
        }
        do { try await setCandidate(true) } catch {
            endCandidacy()
            try? await setCandidate(false)
            throw error
        }
        return Candidacy(self)
    }
}

extension RingfenceError {
    static func primaryLost(_ epoch: Epoch, effect: Effect, _ end: RoleEnd? = nil) -> RingfenceError {
        let why =
            switch end {
            case .handedOver, .failover: "an operator gave it to another"
            case .gaveUp: "it was given up"
            case .lost: "another has it"
            case .suspended: "no beat got through in time, or this process was paused"
            case nil: "this process must not act under it any more"
            }
        return RingfenceError(
            .primaryLost, effect: effect, isRetriable: effect == .none,
            "the role of primary of the group '\(epoch.membership.groupName)' under epoch \(epoch.value) is over: "
                + why
        )
    }
}
