// SPDX-License-Identifier: Apache-2.0
//
// What a group of the reference model keeps of its primary and its candidates, and who may be elected.
package import RingfenceCore

extension GroupServerModel {
    /// What a candidate said of itself last.
    package struct Standing: Sendable, Hashable {
        package var fitSince: Int64
        /// It gave an epoch up and is left out until then.
        package var barredUntil: Int64 = 0
        /// The version with which it became a candidate.
        package var joined: Int64
        package var position: Int64?
        package var unfit = ""
    }

    /// Where a primary stopped that hands over.
    package enum Final: Sendable, Hashable {
        case unsaid, said(Int64?)

        var position: Int64? { if case .said(let position) = self { position } else { nil } }
    }

    package struct Penalty: Sendable, Hashable {
        static let halfLife: Int64 = 300_000
        package var id: String
        /// In thousandths, when it was given.
        package var thousandths: Int64
        package var since: Int64

        func left(at now: Int64) -> Int64 { thousandths >> min((now - since) / Self.halfLife, 62) }
    }

    package struct LastWord: Sendable, Hashable {
        package var session: String
        /// Whoever knows a later version of this server's knows.
        package var version: Int64
    }

    package struct PastOrder: Sendable, Hashable {
        package var id: String
        package var epoch: Int64
    }

    /// What a group keeps of its primary.
    package struct Office: Sendable, Hashable {
        package var epoch: Int64 = 0
        package var primary = ""
        package var session = ""
        package var phase = GroupRole.Phase.vacant
        package var since: Int64?
        package var vacantSince: Int64?
        /// Nobody is elected before.
        package var electAfter: Int64 = 0
        /// So many epochs are left out by the next election.
        package var skip: Int64 = 0
        package var lastPrimary = ""
        package var lastWhy = ""
        package var lastPosition: Int64?
        /// Who was ready last, and under which epoch.
        package var readyMember = ""
        package var readyEpoch: Int64 = 0
        /// Whom an order wants, and what is known of the order.
        package var target = ""
        package var isForced = false
        package var final = Final.unsaid
        package var handoverUntil: Int64?
        /// The version in which it was ordered.
        package var handoverVersion: Int64 = 0
        /// The last ones that were carried out, newest first.
        package var orders: [PastOrder] = []
        package var orderBy = ""
        package var orderWhy = ""
        package var pausedUntil: Int64?
        package var brakedUntil: Int64?
        package var failbackAt: Int64 = 0
        /// How long the last failback that was aborted made the next one wait.
        package var failbackWait: Int64 = 0
        /// When there were automatic failovers, newest first.
        package var failovers: [Int64] = []
        /// Newest first.
        package var penalties: [Penalty] = []
        /// Of those that failed by themselves.
        package var failures: [Penalty] = []
        package var maintenance: [String] = []
        package var isShort = false
        /// The version of the group that the primary said it knew.
        package var known: Int64 = 0
        /// Since when nobody knows whether a primary acts that cannot reach Redis.
        package var silentSince: Int64?
        /// Redis lost data then, as far as is known, or may have: nobody was elected since.
        package var lostAt: Int64?
        /// The version when the server was last seen to be the same; the one before it was another, if nothing is known
        /// to be lost.
        package var runVersion: Int64 = 0
        package var copyVersion: Int64?
        /// The version in which somebody last went otherwise than by its own word.
        package var missed: Int64 = 0
        /// Who said that its role is over, and does not know yet that this was heard.
        package var gaveUp: LastWord?
        /// The primary that the other server's copy knows said so, and knows.
        package var isVouched = false
        /// Since when it is known that nobody is in it, and nothing is to be kept.
        package var emptySince: Int64?
        /// When time alone decides something.
        package var checkAt: Int64?

        package init() {}

        mutating func waits(until moment: Int64) { electAfter = max(electAfter, moment) }

        /// The server is another one: it may have lost an election.
        mutating func distrust(until moment: Int64, _ grace: Int64, _ flaws: Flaws) {
            if !flaws.forgetsEpochs { skip = 16 }
            if !flaws.electsAfterLoss { waits(until: moment) }
            if phase == .handingOver { handoverUntil! += grace }
        }

        /// A lease was over, or was not what it is, and its holder has not said that it stopped.
        mutating func fellSilent(at moment: Int64) { silentSince = max(silentSince ?? 0, moment) }

        /// Redis may have lost an election.
        ///
        /// - Parameter copy: what the other server is known to have, if nothing is known to be lost.
        mutating func mayHaveLost(at now: Int64, until end: Int64, copy: Int64?) {
            copyVersion = silentSince == nil && !primary.isEmpty ? copy : nil
            (gaveUp, isVouched) = (nil, false)
            fellSilent(at: end)
            (known, lostAt) = (0, now)
        }

        /// There was a higher epoch than the one stored, so whoever is stored is not primary any more.
        mutating func recover(_ known: Int64, now: Int64) {
            if !primary.isEmpty { lastPrimary = primary }
            epoch = max(epoch, known)
            (primary, session, phase, vacantSince) = ("", "", .recovering, now)
            (target, isForced, final, lastWhy) = ("", false, .unsaid, "lost")
        }
    }

    struct RoleEnded {
        var why: String
        /// How long its holder had not been heard of.
        var silence: Int64
    }

    /// A candidate as it is judged.
    struct Judged {
        var id: String
        var session: String
        var standing: Standing
        var lag: Int64?
        var penalty: Int64
        var priority: Int
        var isElsewhere: Bool
        var isInMaintenance: Bool
        /// Nothing speaks against it but, perhaps, its lag and that it gave up.
        var isStandby: Bool
        /// The primary did not know it, and may go on without its promise.
        var isUnknown: Bool
        var reasons: [RoleReason]
        var order: [Int64] = []
        /// Its lag in steps.
        var bucket: Int64 = 0

        var mayLead: Bool { reasons.isEmpty }

        func isBefore(_ other: Judged) -> Bool {
            if order != other.order { return order.lexicographicallyPrecedes(other.order) }
            return id.isBefore(other.id)
        }
    }
}

extension GroupServerModel.Group {
    var hasCandidates: Bool { members.values.contains { $0.standing != nil } }

    /// Something may be decided with each call of a candidate.
    var awaitsCandidates: Bool { (office.primary.isEmpty || office.phase == .handingOver) && hasCandidates }

    func isPrimary(_ record: MemberRecord) -> Bool {
        office.session == record.session && office.primary.hasSameBytes(as: record.id)
    }

    /// The claim says nothing new.
    func knows(_ claim: RoleClaim, of id: String, _ session: String) -> Bool {
        guard let of = claim.epoch else { return true }
        let isHolder = office.session == session && office.primary.hasSameBytes(as: id)
        guard isHolder, of == office.epoch else { return of < office.epoch }
        return switch claim {
        case .elected: office.phase == .elected
        case .ready: office.phase != .elected
        case .none, .readyToHandOver, .gone: false
        }
    }

    mutating func renew(_ id: String, _ lease: Int64, _ status: CandidateStatus?) {
        let key = Array(id.utf8)
        members[key]!.ends = now + lease
        guard let status, var standing = members[key]!.standing else { return }
        if status.unfit.isEmpty, !standing.unfit.isEmpty { standing.fitSince = now }
        (standing.position, standing.unfit) = (status.position, status.unfit)
        members[key]!.standing = standing
    }

    func number(_ name: String) -> Int64? { settings[name].flatMap { Int64($0) } }
    var failbackAfter: Int64 { number("failbackAfterMs") ?? 300_000 }
    var drain: Int64 { number("handoverTimeoutMs") ?? 30_000 }
    var minStandbys: Int64 { number("minStandbys") ?? 0 }
    var brakeCount: Int64 { number("brakeCount") ?? 3 }
    var brakeWindow: Int64 { number("brakeWindowMs") ?? 600_000 }
    var mayHold: Bool { settings["onCoordinatorLoss"] == "failsafe" }

    /// Nobody is missing that another server's copy knows, and its primary said that it has ended.
    private var areAllBack: Bool {
        guard let copy = office.copyVersion, office.missed <= copy, now >= office.electAfter,
            let end = firstEnd, end > now
        else { return false }
        return office.isVouched
    }

    /// Until then a primary that is gone may act still, among those it knew.
    var silentUntil: Int64? {
        guard office.primary.isEmpty, mayHold, let since = office.silentSince, !areAllBack else { return nil }
        return since + (number("failsafeLimitMs") ?? 600_000)
    }

    // MARK: What is told

    package var role: GroupRole {
        let suspends = office.isShort && settings["minStandbysAction"] == "suspendWrites"
        return GroupRole(
            epoch: office.epoch, primary: office.primary, session: office.session, phase: office.phase,
            target: office.target, isForced: office.isForced, isShort: office.isShort, suspendsWrites: suspends,
            last: office.lastPrimary, readyMember: office.readyMember, readyEpoch: office.readyEpoch)
    }

    func report(_ refusals: [RoleReason], orderEpoch: Int64) -> RoleReport {
        func left(_ moment: Int64?) -> Int64 { max(0, (moment ?? 0) - now) }
        let candidates = ranking().map { one in
            RoleReport.Candidate(
                id: one.id, lag: one.lag, position: one.standing.position,
                fitMilliseconds: max(0, now - one.standing.fitSince), penalty: one.penalty,
                isInMaintenance: one.isInMaintenance, reasons: one.reasons)
        }
        return RoleReport(
            pausedMilliseconds: left(office.pausedUntil), brakedMilliseconds: left(office.brakedUntil),
            electMilliseconds: left(office.electAfter),
            handoverMilliseconds: office.phase == .handingOver ? left(office.handoverUntil) : 0, refusals: refusals,
            candidates: candidates, orderEpoch: orderEpoch)
    }

    // MARK: Who may lead

    /// How far the data of whoever was or is primary has come, or else of whoever is furthest.
    private var measure: Int64? {
        if office.phase == .handingOver, case .said(let final?) = office.final { return final }
        let reference = office.primary.isEmpty ? office.lastPosition : held(office.primary)?.standing?.position
        return reference ?? members.values.compactMap { $0.standing?.position }.max()
    }

    /// All candidates in the order in which they would be elected, those that may not at the end.
    func ranking() -> [GroupServerModel.Judged] {
        let measure = measure
        let zone = settings["zone"] ?? ""
        return members.values.compactMap { judge($0, measure, zone) }.sorted { $0.isBefore($1) }
    }

    private func judge(
        _ held: GroupServerModel.Held, _ measure: Int64?, _ zone: String
    ) -> GroupServerModel.Judged? {
        guard let standing = held.standing else { return nil }
        let record = held.record
        let id = record.id
        var reasons: [RoleReason] = []
        func because(_ code: String, _ detail: String = "") {
            reasons.append(RoleReason(code, member: id, detail: detail))
        }
        let isInMaintenance = office.maintenance.contains { $0.hasSameBytes(as: id) }
        if office.primary.hasSameBytes(as: id) { because("primary") }
        if held.ends <= now { because("lease") }
        if !record.health.isEmpty { because("health", record.health) }
        if !standing.unfit.isEmpty { because("unfit", standing.unfit) }
        if isInMaintenance { because("maintenance") }
        if record.weight == 0 { because("draining") }
        let isStandby = reasons.isEmpty
        let barredUntil = max(standing.barredUntil, restsUntil(id))
        if barredUntil > now { because("gaveUp", "\(barredUntil - now)") }
        let isUnknown = mayHold && standing.joined > office.known
        if isUnknown, let until = silentUntil, until > now { because("unknownToPrimary", "\(until - now)") }
        var lag: Int64?
        if let measure, let position = standing.position {
            lag = max(0, measure - position)
            let limit = number("maxLag") ?? 16_777_216
            if limit >= 0, lag! > limit { because("lag", "\(lag!)") }
        } else if measure != nil {
            because("position")
        }
        let penalty = office.penalties.first { $0.id.hasSameBytes(as: id) }?.left(at: now) ?? 0
        var judged = GroupServerModel.Judged(
            id: id, session: record.session, standing: standing, lag: lag, penalty: penalty, priority: record.priority,
            isElsewhere: !zone.isEmpty && record.zone != zone, isInMaintenance: isInMaintenance, isStandby: isStandby,
            isUnknown: isUnknown, reasons: reasons)
        let step = max(1, number("lagStep") ?? 1)
        let bucket = measure == nil ? 0 : lag.map { $0 / step } ?? .max
        let wasCutOff = office.lastPrimary.hasSameBytes(as: id) && ["suspended", "lost"].contains(office.lastWhy)
        let failed: Int64 = penalty >= 3000 ? 1 : 0
        let elsewhere: Int64 = judged.isElsewhere ? 1 : 0
        let preference: [Int64] = [failed, wasCutOff ? 0 : 1, elsewhere, -Int64(record.priority)]
        let isDataFirst = (settings["rank"] ?? "data") == "data"
        judged.order = [reasons.isEmpty ? 0 : 1] + (isDataFirst ? [bucket] + preference : preference + [bucket])
        judged.order.append(-(standing.position ?? -1))
        judged.bucket = bucket
        return judged
    }

    /// Who failed by itself twice in a row and more rests so long.
    package func restsUntil(_ id: String) -> Int64 {
        guard let mark = office.failures.first(where: { $0.id.hasSameBytes(as: id) }) else { return 0 }
        let times = mark.left(at: now) / 1000
        return times < 2 ? 0 : mark.since + min(60_000, 1000 << min(times, 10))
    }

    var standbys: Int64 { Int64(ranking().count { $0.isStandby }) }
}

extension RoleClaim {
    var epoch: Int64? {
        switch self {
        case .none: nil
        case .elected(let epoch), .ready(let epoch), .readyToHandOver(let epoch, _, _), .gone(let epoch, _): epoch
        }
    }
}
