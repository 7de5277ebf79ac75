// SPDX-License-Identifier: Apache-2.0
//
// What group.lua tells of a group's primary, and what a candidate tells it. The script's header says what each part
// means.

/// The role of primary of a group, as of one version of the group.
package struct GroupRole: Sendable, Hashable {
    package enum Phase: String, Sendable, Hashable {
        /// There is none.
        case vacant
        /// It is being promoted.
        case elected
        /// It said that it is ready.
        case ready
        /// It hands over to the target.
        case handingOver
        /// Redis lost data: the holder of the epoch may say so.
        case recovering
    }

    /// Grows with each election; 0: there never was one.
    package var epoch: Int64
    /// Empty: nobody.
    package var primary: String
    package var session: String
    package var phase: Phase
    /// The member to be primary next; empty unless `handingOver`.
    package var target: String
    /// The primary must stop at once: a failover by hand.
    package var isForced: Bool
    /// Fewer members could take over than the settings ask for.
    package var isShort: Bool
    /// The primary must not write, because standbys are missing.
    package var suspendsWrites: Bool
    /// The primary before the role was last given away or lost.
    package var last: String
    /// The primary that was ready last, and under which epoch: one that was only elected may have done nothing. Empty
    /// and 0: not known.
    package var readyMember: String
    package var readyEpoch: Int64

    package init(
        epoch: Int64 = 0, primary: String = "", session: String = "", phase: Phase = .vacant, target: String = "",
        isForced: Bool = false, isShort: Bool = false, suspendsWrites: Bool = false, last: String = "",
        readyMember: String = "", readyEpoch: Int64 = 0
    ) {
        self.epoch = epoch
        self.primary = primary
        self.session = session
        self.phase = phase
        self.target = target
        self.isForced = isForced
        self.isShort = isShort
        self.suspendsWrites = suspendsWrites
        self.last = last
        self.readyMember = readyMember
        self.readyEpoch = readyEpoch
    }

    /// Whether this session is the primary of this epoch.
    package func isHeld(by id: String, _ session: String, _ epoch: Int64) -> Bool {
        self.epoch == epoch && self.session == session && primary.hasSameBytes(as: id)
    }

    /// Whether this member is the primary, and said that it is ready.
    package func isReady(_ record: MemberRecord) -> Bool {
        phase == .ready && isHeld(by: record.id, record.session, epoch)
    }

    /// Whether this member is the primary still, and hands over.
    package func isDraining(_ record: MemberRecord) -> Bool {
        phase == .handingOver && isHeld(by: record.id, record.session, epoch)
    }

    /// Why no member is ready.
    package var noneReady: String {
        guard !primary.isEmpty else { return "it has no primary" }
        return phase == .ready
            ? "its primary '\(primary)' is not among its members"
            : "its primary '\(primary)' is not ready (\(phase.rawValue))"
    }
}

/// Why something is refused, or may not be elected.
package struct RoleReason: Sendable, Hashable {
    package var code: String
    /// Empty: the group.
    package var member: String
    package var detail: String

    package init(_ code: String, member: String = "", detail: String = "") {
        self.code = code
        self.member = member
        self.detail = detail
    }
}

/// The report of an election, for orders and inspections.
package struct RoleReport: Sendable, Hashable {
    package struct Candidate: Sendable, Hashable {
        package var id: String
        /// nil: nothing to measure it by.
        package var lag: Int64?
        package var position: Int64?
        package var fitMilliseconds: Int64
        /// In thousandths.
        package var penalty: Int64
        package var isInMaintenance: Bool
        /// Why it may not lead; empty: it may.
        package var reasons: [RoleReason]

        package init(
            id: String, lag: Int64?, position: Int64?, fitMilliseconds: Int64, penalty: Int64, isInMaintenance: Bool,
            reasons: [RoleReason]
        ) {
            self.id = id
            self.lag = lag
            self.position = position
            self.fitMilliseconds = fitMilliseconds
            self.penalty = penalty
            self.isInMaintenance = isInMaintenance
            self.reasons = reasons
        }
    }

    package var pausedMilliseconds: Int64
    package var brakedMilliseconds: Int64
    /// Until then nobody is elected.
    package var electMilliseconds: Int64
    package var handoverMilliseconds: Int64
    package var refusals: [RoleReason]
    /// In the order in which they would be elected.
    package var candidates: [Candidate]
    /// Under which the order was carried out: of one that was repeated, when it was first. 0: there was none.
    package var orderEpoch: Int64

    package init(
        pausedMilliseconds: Int64, brakedMilliseconds: Int64, electMilliseconds: Int64, handoverMilliseconds: Int64,
        refusals: [RoleReason], candidates: [Candidate], orderEpoch: Int64 = 0
    ) {
        self.pausedMilliseconds = pausedMilliseconds
        self.brakedMilliseconds = brakedMilliseconds
        self.electMilliseconds = electMilliseconds
        self.handoverMilliseconds = handoverMilliseconds
        self.refusals = refusals
        self.candidates = candidates
        self.orderEpoch = orderEpoch
    }
}

/// What a candidate says with a beat of what it believes and does. Said again with each beat, so no answer need arrive.
package enum RoleClaim: Sendable, Hashable {
    case none
    /// It is being promoted for this epoch.
    case elected(Int64)
    case ready(Int64)
    /// It stopped, for the switchover of the version it saw, and this is its last position.
    case readyToHandOver(Int64, position: Int64?, asOf: Int64)
    /// It gave this epoch up for good.
    case gone(Int64, reason: String)

    package var text: String {
        switch self {
        case .none: ""
        case .elected(let epoch): "e:\(epoch)"
        case .ready(let epoch): "r:\(epoch)"
        case .readyToHandOver(let epoch, let position, let version):
            "d:\(epoch):\(position.map { "\($0)" } ?? ""):\(version)"
        case .gone(let epoch, let reason): "g:\(epoch):\(reason)"
        }
    }
}

/// What a candidate says of itself with each beat.
package struct CandidateStatus: Sendable, Hashable {
    package var claim: RoleClaim
    /// How far its data has come, in whatever pointsPerWeight the group's members share.
    package var position: Int64?
    /// Why it may not lead now; empty: it may.
    package var unfit: String

    package init(claim: RoleClaim = .none, position: Int64? = nil, unfit: String = "") {
        self.claim = claim
        self.position = position
        self.unfit = unfit
    }

    package func check() throws(InvalidArgument) {
        try Limits.check(position: position)
        try Limits.check(unfit: unfit)
        switch claim {
        case .none: break
        case .elected(let epoch), .ready(let epoch): try Self.check(epoch: epoch)
        case .readyToHandOver(let epoch, let position, _):
            try Self.check(epoch: epoch)
            try Limits.check(position: position)
        case .gone(let epoch, let reason):
            try Self.check(epoch: epoch)
            try Limits.check(reason: reason)
        }
    }

    private static func check(epoch: Int64) throws(InvalidArgument) {
        guard Limits.position.contains(epoch), epoch > 0 else {
            throw InvalidArgument("epoch", "must be 1 to \(Limits.position.upperBound), not \(epoch)")
        }
    }
}

/// What an operator ordered about calls to a group's members, by whomever.
package enum GroupBreaker: String, Sendable, Hashable, CaseIterable {
    /// Each process decides for itself, by what it sees.
    case automatic
    /// Nobody is called.
    case open
    /// Calls are made, however many of them fail.
    case closed

    /// Among a group's settings, under this name. One that a later version wrote is as good as none.
    package init(_ settings: [String: String]) {
        self = settings["breaker"].flatMap { Self(rawValue: $0) } ?? .automatic
    }
}

/// What an operator orders.
package enum RoleOrder: Sendable, Hashable {
    /// To the given member, or to the best one.
    case switchover(to: String?, timeoutMilliseconds: Int64)
    case abort
    case failover(to: String)
    case pause(milliseconds: Int64)
    case resume
    case maintenance(String, isOn: Bool)
    case acknowledge
    /// Names and values as they are stored.
    case settings([(name: String, value: String)])
    case breaker(GroupBreaker)
    /// Remove the whole group, if it is empty, and has been for this long; 0: however long.
    case remove(emptyForMilliseconds: Int64)

    package var name: String {
        switch self {
        case .switchover: "switchover"
        case .abort: "abort"
        case .failover: "failover"
        case .pause: "pause"
        case .resume: "resume"
        case .maintenance: "maintenance"
        case .acknowledge: "acknowledge"
        case .settings: "settings"
        case .breaker: "breaker"
        case .remove: "remove"
        }
    }

    package var member: String {
        switch self {
        case .switchover(let member, _): member ?? ""
        case .failover(let member), .maintenance(let member, _): member
        default: ""
        }
    }

    package var number: Int64 {
        switch self {
        case .switchover(_, let milliseconds), .pause(let milliseconds), .remove(let milliseconds): milliseconds
        case .maintenance(_, let isOn): isOn ? 1 : 0
        default: 0
        }
    }

    package var settings: [(name: String, value: String)] {
        switch self {
        case .settings(let settings): settings
        case .breaker(let state): [("breaker", state.rawValue)]
        default: []
        }
    }

    package static func == (one: RoleOrder, other: RoleOrder) -> Bool {
        one.name == other.name && one.member == other.member && one.number == other.number
            && one.settings.elementsEqual(other.settings) { $0 == $1 }
    }

    package func hash(into hasher: inout Hasher) {
        hasher.combine(name)
        hasher.combine(member)
        hasher.combine(number)
    }
}
