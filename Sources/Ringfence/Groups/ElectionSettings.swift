// SPDX-License-Identifier: Apache-2.0
//
// How a group elects: the settings, their defaults and ranges, and the texts in which they are stored.

package import RingfenceCore

/// The settings of a group's elections. nil: unchanged in an update, the default where shown.
public struct ElectionSettings: Sendable, Hashable {
    /// The order of eligible candidates.
    public enum Rank: String, Sendable, Hashable, CaseIterable {
        /// Least lag first, then zone and priority; for databases. The default.
        case data
        /// Zone and priority first, then least lag; for services without state.
        case priority
    }

    /// Whether the role returns to the candidate that zone and priority prefer.
    public enum Failback: String, Sendable, Hashable, CaseIterable {
        /// The role stays where it is. The default.
        case never
        /// The role stays until an operator orders a switchover; the plan names the preferred candidate.
        case manual
        /// The role returns by a switchover when both members have been healthy for
        /// ``ElectionSettings/failbackAfter``.
        case automatic
    }

    /// The consequence of fewer standbys than ``ElectionSettings/minStandbys``.
    public enum ShortfallAction: String, Sendable, Hashable, CaseIterable {
        /// An event only. The default.
        case warn
        /// Switchovers are refused.
        case refuseSwitchover
        /// The primary must not write: ``Epoch/check()`` throws, and agents suspend it.
        case suspendWrites
    }

    /// The behavior of a primary that cannot reach Redis.
    public enum CoordinatorLoss: String, Sendable, Hashable, CaseIterable {
        /// The role ends with its lease. The default.
        case demote
        /// The role goes on, for at most ``ElectionSettings/failsafeLimit``, while every candidate that the primary
        /// knows promises, asked directly again and again, not to be elected meanwhile. Only agents can be asked. The
        /// role ends with its lease if one of the candidates is no agent, does not answer, or still reaches Redis.
        ///
        /// The price: a candidate that joined after contact with the primary was lost is not elected before
        /// ``ElectionSettings/failsafeLimit`` is over, not even by an operator's order. If all candidates that knew the
        /// primary are dead, set `demote`, but only when you are sure that the primary is dead too. A Redis that lost
        /// its data does not honor this setting, since it lost the setting too.
        case failsafe
    }

    /// The order of eligible candidates. Default: `data`.
    public var rank: Rank?
    /// The largest lag of an eligible candidate, in units of the members' positions (bytes of WAL with PostgreSQL).
    /// 0 to 2^53 - 1, or -1: no limit; default 16,777,216. Without synchronous replication up to this much is lost with
    /// a dead primary.
    public var maxLag: Int64?
    /// The smallest difference of lag that counts in the ranking. 1 to 2^53 - 1; default 1.
    public var lagStep: Int64?
    /// The preferred zone; empty, the default: none.
    public var zone: String?
    /// Whether the role returns to the preferred candidate. Default: `never`.
    public var failback: Failback?
    /// How long both members must have been healthy before a failback. 0 to 24 h; default 5 minutes.
    public var failbackAfter: Duration?
    /// The time limit for a failback's switchover. 10 ms to 1 h; default 30 s.
    public var handoverTimeout: Duration?
    /// The smallest number of members that should be able to take over. 0 to 100; default 0.
    public var minStandbys: Int?
    /// The consequence of fewer standbys than ``minStandbys``. Default: `warn`.
    public var shortfallAction: ShortfallAction?
    /// The number of automatic failovers in ``brakeWindow`` that puts the brake on. 0 (never) to 16; default 3.
    public var brakeCount: Int?
    /// The period over which failovers are counted for the brake. 1 s to 24 h; default 10 minutes.
    public var brakeWindow: Duration?
    /// The behavior of a primary that cannot reach Redis. Default: `demote`.
    public var onCoordinatorLoss: CoordinatorLoss?
    /// The longest time a primary goes on without Redis, beyond its lease. 1 s to 24 h; default 10 minutes.
    public var failsafeLimit: Duration?

    /// Creates settings; nil leaves a setting unchanged.
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

    /// The defaults.
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
