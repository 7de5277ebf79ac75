// SPDX-License-Identifier: Apache-2.0
//
// What callers see of a group's election: who is primary, and why an order or a candidate is refused. Plain values.

package import RingfenceCore

/// The role of primary of a group, as of one version of the group.
public struct PrimaryStatus: Sendable, Hashable {
    /// The phase of the role.
    public enum Phase: String, Sendable, Hashable {
        /// There is no primary.
        case vacant
        /// The primary is being promoted: it may not be able to do its work yet.
        case elected
        /// The primary reported that it is ready.
        case ready
        /// The primary stops and hands over to ``PrimaryStatus/target``.
        case handingOver
        /// Redis lost data; the primary may still claim its role back.
        case recovering
    }

    package let role: GroupRole

    package init(_ role: GroupRole) { self.role = role }

    /// The epoch: a number that grows by one with each election, and by more after Redis may have lost data. 0: there
    /// was no election.
    public var epoch: Int64 { role.epoch }
    /// The primary's id; nil if there is none.
    public var member: String? { role.primary.isEmpty ? nil : role.primary }
    /// The session under which the primary was elected; nil if there is none.
    public var session: String? { role.session.isEmpty ? nil : role.session }
    /// The phase of the role.
    public var phase: Phase { Phase(rawValue: role.phase.rawValue) ?? .vacant }
    /// The id of the next primary during a switchover or a failover by order; nil otherwise.
    public var target: String? { role.target.isEmpty ? nil : role.target }
    /// Whether fewer members could take over than the group's settings ask for.
    public var lacksStandbys: Bool { role.isShort }
    /// The id of the member that last gave the role away or lost it; nil if none did.
    public var last: String? { role.last.isEmpty ? nil : role.last }
    /// The id of the last primary that was ready, the current one or one before it; nil if there was none, or Redis
    /// lost it.
    public var lastReady: String? { role.readyMember.isEmpty ? nil : role.readyMember }
    /// The epoch of ``lastReady``; 0 if not known.
    public var lastReadyEpoch: Int64 { role.readyEpoch }
}

/// A reason why an order is refused, or a member may not be elected.
public struct Refusal: Sendable, Hashable, CustomStringConvertible {
    package let reason: RoleReason

    package init(_ reason: RoleReason) { self.reason = reason }

    /// A stable word: `primary`, `lease`, `health`, `unfit`, `maintenance`, `draining`, `gaveUp`, `lag`, `position`,
    /// `unknownToPrimary` of a member; `noGroup`, `noPrimary`, `notReady`, `noCandidate`, `notACandidate`,
    /// `notAMember`, `maintenanceFull`, `handingOver`, `standbys`, `paused`, `braked`, `waiting`,
    /// `serverUnknown`, `hasMembers`, `kept` of an order or a group.
    public var code: String { reason.code }
    /// The id of the member that it is about; nil: the group.
    public var member: String? { reason.member.isEmpty ? nil : reason.member }
    /// More about it, for people: the message of the check, the size of the lag.
    public var detail: String { reason.detail }

    /// The reason in words.
    public var description: String {
        let about = member.map { "'\($0)' " } ?? ""
        let text =
            switch code {
            case "primary": "is the primary"
            case "lease": "has not been heard from: its lease is over"
            case "health": "fails its check"
            case "unfit": "says it may not lead now"
            case "maintenance": "is in maintenance"
            case "draining": "has weight 0: it is draining"
            case "gaveUp": "gave the role up, and is not elected for some ms more"
            case "unknownToPrimary":
                "came when the primary was not reached any more, which may go on without Redis for so many ms"
            case "lag": "lacks more than the setting maxLag allows"
            case "position": "does not say how far its data has come"
            case "noGroup": "there is no such group: nobody joined it, or it was removed"
            case "noPrimary": "there is no primary to switch over from; name a member to fail over to"
            case "serverUnknown":
                "Redis does not let this user run INFO, which failsafe needs to tell that Redis is another server"
            case "notReady": "is still being promoted"
            case "noCandidate": "no member may take over"
            case "notACandidate": "does not stand for primary"
            case "notAMember": "is not a member"
            case "maintenanceFull": "cannot be put in maintenance too: so many members are already"
            case "handingOver": "the primary is handing over already"
            case "standbys": "there would be fewer standbys than the settings ask for"
            case "paused": "the group is paused"
            case "braked": "the brake is on: too many failovers in a short time; acknowledge them"
            case "hasMembers": "somebody is still in it"
            case "kept": "nobody is in it, but something is to be kept"
            case "waiting": "nobody is elected yet: who was primary before may not know yet that it is over"
            default: code
            }
        return about + text + (detail.isEmpty ? "" : " (\(detail))")
    }
}
