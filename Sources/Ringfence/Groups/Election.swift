// SPDX-License-Identifier: Apache-2.0
//
// What callers see of a group's election: who is primary, who would be next, what was refused and why. Plain values.

package import RingfenceCore

/// Who is primary of a group, as of one version of it.
public struct PrimaryStatus: Sendable, Hashable {
    /// How far the role has come.
    public enum Phase: String, Sendable, Hashable {
        /// There is no primary.
        case vacant
        /// It is being promoted: it may not be able to do its work yet.
        case elected
        /// It said that it is ready.
        case ready
        /// It stops, and hands over to ``PrimaryStatus/target``.
        case handingOver
        /// Redis lost data; whoever was primary may say so.
        case recovering
    }

    package let role: GroupRole

    package init(_ role: GroupRole) { self.role = role }

    /// Grows by one with each election, and by more after Redis may have lost some.
    public var epoch: Int64 { role.epoch }
    /// The primary's id; nil if there is none.
    public var member: String? { role.primary.isEmpty ? nil : role.primary }
    /// The session it was elected under.
    public var session: String? { role.session.isEmpty ? nil : role.session }
    /// How far the role has come.
    public var phase: Phase { Phase(rawValue: role.phase.rawValue) ?? .vacant }
    /// Who is to be primary next, while one hands over or a failover is ordered.
    public var target: String? { role.target.isEmpty ? nil : role.target }
    /// Fewer members could take over than the group's settings ask for.
    public var lacksStandbys: Bool { role.isShort }
    /// Who had the role before it was last given away or lost.
    public var last: String? { role.last.isEmpty ? nil : role.last }
    /// Who was ready last, the present primary or one before it; nil: nobody ever was, or Redis lost it.
    public var lastReady: String? { role.readyMember.isEmpty ? nil : role.readyMember }
    /// Under which epoch that was; 0: not known.
    public var lastReadyEpoch: Int64 { role.readyEpoch }
}

/// Why an order is refused, or a member may not be elected.
public struct Refusal: Sendable, Hashable, CustomStringConvertible {
    package let reason: RoleReason

    package init(_ reason: RoleReason) { self.reason = reason }

    /// A stable word: `primary`, `lease`, `health`, `unfit`, `maintenance`, `draining`, `gaveUp`, `lag`, `position` of
    /// a member; `noGroup`, `noPrimary`, `notReady`, `noCandidate`, `notACandidate`, `notAMember`, `maintenanceFull`,
    /// `handingOver`, `standbys`, `paused`, `held`, `waiting` of an order or a group.
    public var code: String { reason.code }
    /// Of whom it is said; nil: of the group.
    public var member: String? { reason.member.isEmpty ? nil : reason.member }
    /// More about it, for a person: what the check said, how large the lag is.
    public var detail: String { reason.detail }

    /// In words.
    public var description: String {
        let about = member.map { "'\($0)' " } ?? ""
        let text =
            switch code {
            case "primary": "is the primary"
            case "lease": "has not been heard of: its lease is over"
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
                "Redis does not let this user ask INFO: without it nobody can tell when Redis is another server, on which hold rests"
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

/// Who would be primary if the present one died now, and why not each of the others.
public struct GroupPlan: Sendable {
    /// A candidate, judged.
    public struct Candidate: Sendable, Hashable {
        package let candidate: RoleReport.Candidate

        /// Its id.
        public var id: String { candidate.id }
        /// Whether it may be elected.
        public var isEligible: Bool { candidate.reasons.isEmpty }
        /// All reasons why it may not.
        public var reasons: [Refusal] { candidate.reasons.map { Refusal($0) } }
        /// How much it lacks of the primary's last known position; nil: there is nothing to measure it by.
        public var lag: Int64? { candidate.lag }
        /// How far its data has come, as it last said.
        public var position: Int64? { candidate.position }
        /// Grows by 1 each time the candidate lost the role against its will, and halves every 5 minutes. At 3 or more
        /// it ranks behind those with less.
        public var penalty: Double { Double(candidate.penalty) / 1000 }
        /// Since it last joined, was unfit or unhealthy.
        public var fitFor: Duration { .milliseconds(candidate.fitMilliseconds) }
        /// An operator took it out of the election.
        public var isInMaintenance: Bool { candidate.isInMaintenance }
    }

    /// The group.
    public var group: String
    /// Who is primary now.
    public var primary: PrimaryStatus
    /// Who would be elected; nil: nobody.
    public var winner: String?
    /// At the latest, if the primary died now: until its lease is over, or nobody is kept from being elected any more.
    /// nil: by nobody and never, as things are.
    public var electionWithin: Duration?
    /// What keeps the group as a whole from electing.
    public var blocked: [Refusal]
    /// In the order in which they would be elected, those that may not at the end.
    public var candidates: [Candidate]
}

/// How a group elects. What is nil is left as it is.
public struct ElectionSettings: Sendable, Hashable {
    /// What decides among those that may lead.
    public enum Rank: String, Sendable, Hashable, CaseIterable {
        /// Who lacks least, then zone and priority. For databases. The default.
        case data
        /// Zone and priority, then who lacks least. For services without state.
        case priority
    }

    /// Whether the role goes back to whom zone and priority prefer.
    public enum Failback: String, Sendable, Hashable, CaseIterable {
        /// It stays where it is. The default.
        case never
        /// It stays until an operator orders a switchover; the plan names who would be preferred.
        case manual
        /// By a switchover, when both have been well for ``ElectionSettings/failbackAfter``.
        case automatic
    }

    /// What follows when there are fewer standbys than ``ElectionSettings/minStandbys``.
    public enum ShortfallAction: String, Sendable, Hashable, CaseIterable {
        /// An event tells it. The default.
        case warn
        /// No switchover is taken.
        case refuseSwitchover
        /// The primary must not write: ``Epoch/check()`` throws, and agents suspend it.
        case suspendWrites
    }

    /// What a primary does that cannot reach Redis.
    public enum CoordinatorLoss: String, Sendable, Hashable, CaseIterable {
        /// Its role ends with its lease. The default.
        case demote
        /// Its role goes on as long as every candidate that it knows promises, asked directly again and again, to begin
        /// none meanwhile, and for ``ElectionSettings/failsafeLimit`` at most. Only agents can be asked: one other
        /// candidate, or one agent that does not answer or still reaches Redis, and the role ends with its lease.
        ///
        /// The price: a candidate that came when the primary was not reached any more is not elected before
        /// ``ElectionSettings/failsafeLimit`` is over, not even by an operator's order. If all that knew the primary
        /// are dead, set `fence`, but only when you know that the primary is dead too. And not promised: that a Redis
        /// that lost its data heeds it, for it has lost this setting.
        case failsafe
    }

    /// What decides among those that may lead.
    public var rank: Rank?
    /// Who lacks more is not elected, in units of the members' positions (bytes of WAL, with PostgreSQL); 16,777,216 is
    /// the default, -1: no limit. What nobody has but a dead primary is lost with it: with synchronous replication that
    /// is nothing, else up to this much.
    public var maxLag: Int64?
    /// Differences of lag smaller than this do not count; 1 is the default.
    public var lagStep: Int64?
    /// Members of this zone are preferred; empty: none is.
    public var zone: String?
    /// Whether the role goes back.
    public var failback: Failback?
    /// How long both must have been well before; 5 minutes is the default.
    public var failbackAfter: Duration?
    /// How long a failback's switchover may take; 30 s is the default.
    public var handoverTimeout: Duration?
    /// How many members should be able to take over; 0 is the default.
    public var minStandbys: Int?
    /// What follows when there are fewer.
    public var shortfallAction: ShortfallAction?
    /// After so many automatic failovers in ``brakeWindow`` the group is held; 3 is the default, 0: never.
    public var brakeCount: Int?
    /// 10 minutes is the default.
    public var brakeWindow: Duration?
    /// What a primary does that cannot reach Redis.
    public var onCoordinatorLoss: CoordinatorLoss?
    /// How long a primary goes on without Redis at most, beyond its lease: 1 s to 24 h; 10 minutes is the default.
    public var failsafeLimit: Duration?

    /// What is nil is left as it is.
    public init(
        rank: Rank? = nil, maxLag: Int64? = nil, lagStep: Int64? = nil, zone: String? = nil, failback: Failback? = nil,
        failbackAfter: Duration? = nil, handoverTimeout: Duration? = nil, minStandbys: Int? = nil,
        shortfallAction: ShortfallAction? = nil, brakeCount: Int? = nil, brakeWindow: Duration? = nil,
        onCoordinatorLoss: CoordinatorLoss? = nil, failsafeLimit: Duration? = nil
    ) {
        self.rank = rank
        self.maxLag = maxLag
        self.lagStep = lagStep
        self.zone = zone
        self.failback = failback
        self.failbackAfter = failbackAfter
        self.handoverTimeout = handoverTimeout
        self.minStandbys = minStandbys
        self.shortfallAction = shortfallAction
        self.brakeCount = brakeCount
        self.brakeWindow = brakeWindow
        self.onCoordinatorLoss = onCoordinatorLoss
        self.failsafeLimit = failsafeLimit
    }

    /// The names under which the settings are stored, told over HTTP and given on the command line.
    package static let names = [
        "rank", "maxLag", "lagStep", "zone", "failback", "failbackAfterMs", "handoverTimeoutMs", "minStandbys",
        "minStandbysAction", "brakeCount", "brakeWindowMs", "onCoordinatorLoss", "failsafeLimitMs",
    ]

    /// Names and texts as they are stored.
    package var stored: [(name: String, value: String)] {
        func milliseconds(_ duration: Duration?) -> String? {
            duration.map { "\(Nanos(saturating: $0) / .millisecond)" }
        }
        let all: [(String, String?)] = [
            ("rank", rank?.rawValue), ("maxLag", maxLag.map { "\($0)" }), ("lagStep", lagStep.map { "\($0)" }),
            ("zone", zone), ("failback", failback?.rawValue), ("failbackAfterMs", milliseconds(failbackAfter)),
            ("handoverTimeoutMs", milliseconds(handoverTimeout)), ("minStandbys", minStandbys.map { "\($0)" }),
            ("minStandbysAction", shortfallAction?.rawValue), ("brakeCount", brakeCount.map { "\($0)" }),
            ("brakeWindowMs", milliseconds(brakeWindow)), ("onCoordinatorLoss", onCoordinatorLoss?.rawValue),
            ("failsafeLimitMs", milliseconds(failsafeLimit)),
        ]
        return all.compactMap { name, value in value.map { (name, $0) } }
    }

    /// What holds where nothing was set.
    static let byDefault = ElectionSettings(
        rank: .data, maxLag: 16_777_216, lagStep: 1, zone: "", failback: .never, failbackAfter: .seconds(300),
        handoverTimeout: .seconds(30), minStandbys: 0, shortfallAction: .warn, brakeCount: 3,
        brakeWindow: .seconds(600),
        onCoordinatorLoss: .demote, failsafeLimit: .seconds(600))

    /// Names and texts of all settings: as they were set, or by default.
    package var inForce: [(name: String, value: String)] {
        let own = Dictionary(uniqueKeysWithValues: stored.map { ($0.name, $0.value) })
        return Self.byDefault.stored.map { ($0.name, own[$0.name] ?? $0.value) }
    }

    /// Of a group's settings as Redis has them: what is among them beside is not of the election.
    init(of group: [String: String]) {
        let own = group.filter { Self.names.contains($0.key) }
        self = (try? Self(stored: own)) ?? Self()
    }

    /// Reads names and texts as they are stored.
    /// - Throws: `InvalidArgument`, naming the setting and what it may be.
    package init(stored: [String: String]) throws(InvalidArgument) {
        for name in stored.keys.sorted() where !Self.names.contains(name) {
            throw InvalidArgument(name, "is no setting; they are \(Self.names.joined(separator: ", "))")
        }
        self.init()
        rank = try Self.word(stored, "rank")
        maxLag = try Self.number(stored, "maxLag")
        lagStep = try Self.number(stored, "lagStep")
        zone = stored["zone"]
        failback = try Self.word(stored, "failback")
        failbackAfter = try Self.number(stored, "failbackAfterMs").map { .milliseconds($0) }
        handoverTimeout = try Self.number(stored, "handoverTimeoutMs").map { .milliseconds($0) }
        minStandbys = try Self.number(stored, "minStandbys").map { Int(clamping: $0) }
        shortfallAction = try Self.word(stored, "minStandbysAction")
        brakeCount = try Self.number(stored, "brakeCount").map { Int(clamping: $0) }
        brakeWindow = try Self.number(stored, "brakeWindowMs").map { .milliseconds($0) }
        onCoordinatorLoss = try Self.word(stored, "onCoordinatorLoss")
        failsafeLimit = try Self.number(stored, "failsafeLimitMs").map { .milliseconds($0) }
        try check()
    }

    private static func word<Word: RawRepresentable & CaseIterable>(
        _ stored: [String: String], _ name: String
    ) throws(InvalidArgument) -> Word? where Word.RawValue == String {
        guard let text = stored[name] else { return nil }
        guard let word = Word(rawValue: text) else {
            throw InvalidArgument(name, "must be one of \(Word.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        return word
    }

    private static func number(_ stored: [String: String], _ name: String) throws(InvalidArgument) -> Int64? {
        guard let text = stored[name] else { return nil }
        guard let number = Int64(text) else { throw InvalidArgument(name, "must be an integer") }
        return number
    }

    package func check() throws(InvalidArgument) {
        func check(_ value: Int64?, _ name: String, _ range: ClosedRange<Int64>) throws(InvalidArgument) {
            guard let value, !range.contains(value) else { return }
            throw InvalidArgument(name, "must be \(range.lowerBound) to \(range.upperBound), not \(value)")
        }
        func check(_ value: Duration?, _ name: String, _ range: ClosedRange<Nanos>) throws(InvalidArgument) {
            if let value { try Limits.check(Nanos(saturating: value), name, range) }
        }
        try check(maxLag, "maxLag", -1...Limits.position.upperBound)
        try check(lagStep, "lagStep", 1...Limits.position.upperBound)
        if let zone { try Limits.check(zone: zone) }
        try check(failbackAfter, "failbackAfterMs", 0...86_400 * .second)
        try check(handoverTimeout, "handoverTimeoutMs", Limits.handover)
        try check(minStandbys.map { Int64($0) }, "minStandbys", 0...100)
        try check(brakeCount.map { Int64($0) }, "brakeCount", 0...16)
        try check(brakeWindow, "brakeWindowMs", .second...86_400 * .second)
        try check(failsafeLimit, "failsafeLimitMs", .second...86_400 * .second)
    }
}
