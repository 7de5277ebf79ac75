// SPDX-License-Identifier: Apache-2.0
//
// Who is primary, in the reference model: what a group keeps of it, what candidates claim, what operators order, and
// the one decision at the end of each call. Written from the header of group.lua: a role ends for one reason, in
// `endRole`; it is given in one place, `elect`; who may have it and in which order is in `ranking`, which is told from
// the members each time.
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

    private func number(_ name: String) -> Int64? { settings[name].flatMap { Int64($0) } }
    var failbackAfter: Int64 { number("failbackAfterMs") ?? 300_000 }
    var drain: Int64 { number("handoverTimeoutMs") ?? 30_000 }
    var minStandbys: Int64 { number("minStandbys") ?? 0 }
    var brakeCount: Int64 { number("brakeCount") ?? 3 }
    var brakeWindow: Int64 { number("brakeWindowMs") ?? 600_000 }
    private var mayHold: Bool { settings["onCoordinatorLoss"] == "failsafe" }

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
    fileprivate var epoch: Int64? {
        switch self {
        case .none: nil
        case .elected(let epoch), .ready(let epoch), .readyToHandOver(let epoch, _, _), .gone(let epoch, _): epoch
        }
    }
}

// MARK: - What happens

extension GroupServerModel {
    /// Losing the role so costs a penalty, and counts as a failover.
    private static let misfortunes: Set<String> = [
        "expired", "replaced", "suspended", "promotionFailed", "unhealthy", "exited",
    ]

    /// It failed by itself, or ended too soon.
    private static let failures: Set<String> = ["replaced", "promotionFailed", "unhealthy", "exited", "finished"]

    /// Whoever gives up so is left out for one lease.
    private static let refusals: Set<String> = ["refused", "promotionFailed", "unhealthy", "stepDown"]

    func endRole(_ why: String, isSilent: Bool = false, silence: Int64 = 0, _ call: inout Call) {
        let now = call.group.now
        var office = call.group.office
        if isSilent {
            office.fellSilent(at: max(now, call.group.held(office.primary)?.ends ?? 0))
            office.missed = call.group.version
        }
        let why = office.isForced ? "failover" : why
        call.ended = RoleEnded(why: why, silence: silence)
        call.favoured = office.target
        if Self.misfortunes.contains(why), now >= call.group.graceUntil {
            Self.mark(office.primary, &office.penalties, now)
        }
        if Self.failures.contains(why) { Self.mark(office.primary, &office.failures, now) }
        office.lastPosition = call.group.held(office.primary)?.standing?.position ?? office.lastPosition
        if case .said(let final?) = office.final { office.lastPosition = final }
        (office.lastPrimary, office.lastWhy) = (office.primary, why)
        (office.primary, office.session, office.phase) = ("", "", .vacant)
        (office.since, office.vacantSince) = (now, now)
        office.final = .unsaid
        if !office.isForced { office.target = "" }
        call.group.office = office
    }

    /// Nobody whom it did not know is elected before it knows that this was heard.
    private func noteLastWord(of session: String, _ call: inout Call) {
        let office = call.group.office
        guard office.silentSince == nil || (office.copyVersion != nil && !office.isVouched) else { return }
        if office.silentSince == nil { call.group.office.fellSilent(at: call.group.now) }
        call.group.office.gaveUp = LastWord(session: session, version: call.group.version)
    }

    /// A beat: whether its member knows what became of its last word.
    func noteWhatItHeard(_ session: String, _ call: inout Call) {
        guard let word = call.group.office.gaveUp, word.session == session, call.known.version > word.version,
            call.known.asks, call.known.mark.hasPrefix("\(log?.generation ?? ""):")
        else { return }
        call.group.office.gaveUp = nil
        if call.group.office.copyVersion == nil {
            call.group.office.silentSince = nil
        } else {
            call.group.office.isVouched = true
        }
    }

    private static func mark(_ id: String, _ marks: inout [Penalty], _ now: Int64) {
        let own = marks.first { $0.id.hasSameBytes(as: id) }?.left(at: now) ?? 0
        let others = marks.filter { !$0.id.hasSameBytes(as: id) && $0.left(at: now) >= 125 }
        marks = [Penalty(id: id, thousandths: own + 1000, since: now)] + others.prefix(63)
    }

    /// Its holder hears later than we that its role is over.
    func waitFor(_ held: Held, _ call: inout Call) {
        if !flaws.electsAtOnce { call.group.office.waits(until: held.ends) }
    }

    /// A record that is about to be stored.
    func stand(_ record: MemberRecord, before: Held?, _ call: inout Call) -> Standing? {
        let isSameSession = before?.record.session == record.session
        guard record.isCandidate else {
            if before?.standing != nil, call.group.isPrimary(record) {
                endRole("stepDown", &call)
                call.group.office.fellSilent(at: call.group.now)
            }
            return nil
        }
        let (now, lease) = (call.group.now, record.leaseMilliseconds)
        if call.group.office.epoch == 0, call.group.office.lostAt == nil { call.group.office.lostAt = now }
        if let lost = call.group.office.lostAt {
            if !flaws.electsAfterLoss { call.group.office.waits(until: lost + lease) }
            if call.group.office.silentSince != nil { call.group.office.fellSilent(at: lost + lease) }
        }
        guard isSameSession, let old = before?.standing else {
            return Standing(fitSince: now, joined: call.group.version)
        }
        return before?.record.health == record.health
            ? old : Standing(fitSince: now, barredUntil: old.barredUntil, joined: old.joined)
    }

    mutating func hear(_ claim: RoleClaim, from record: MemberRecord, _ call: inout Call) {
        let office = call.group.office
        guard let of = claim.epoch, of == office.epoch else { return }
        let now = call.group.now
        if call.group.isPrimary(record) {
            switch claim {
            case .gone(_, let said):
                let reason = said.isEmpty ? "stepDown" : said
                if Self.refusals.contains(reason) {
                    let key = Array(record.id.utf8)
                    call.group.members[key]!.standing?.barredUntil = now + record.leaseMilliseconds
                }
                endRole(reason, &call)
                noteLastWord(of: record.session, &call)
            case .ready where office.phase == .elected:
                var news = News(
                    "primary.ready", member: record.id, detail: "{\"promoteMs\":\(now - (office.since ?? 0))}")
                news.epoch = of
                change(&call, news)
                (call.group.office.phase, call.group.office.since) = (.ready, now)
                (call.group.office.readyMember, call.group.office.readyEpoch) = (record.id, of)
                if call.group.held(record.id)?.standing?.position == nil { call.group.office.lastPosition = nil }
            case .readyToHandOver(_, let position, let version)
            where office.phase == .handingOver && office.final.position == nil && version >= office.handoverVersion:
                call.group.office.final = .said(position)
            default: break
            }
        } else if office.phase == .recovering {
            if case .gone = claim { return }
            var news = News(
                "primary.confirmed", member: record.id, detail: "{\"session\":\"\(record.session)\"}")
            news.epoch = of
            change(&call, news)
            (call.group.office.primary, call.group.office.session) = (record.id, record.session)
            call.group.office.since = now
            if case .elected = claim {
                call.group.office.phase = .elected
            } else {
                call.group.office.phase = .ready
                (call.group.office.readyMember, call.group.office.readyEpoch) = (record.id, of)
            }
            guard office.isForced else { return }
            if office.target.hasSameBytes(as: record.id) {
                (call.group.office.isForced, call.group.office.target) = (false, "")
            } else {
                // Ordered while nobody knew of a primary: it is to stop, like any other.
                (call.group.office.phase, call.group.office.handoverUntil) = (
                    .handingOver, call.group.held(record.id)?.ends
                )
            }
        }
    }

    // MARK: Orders

    mutating func carryOut(
        _ order: RoleOrder, actor: String, reason: String, id: String, _ call: inout Call
    ) {
        let now = call.group.now
        guard call.group.version > 0 else { return call.refuse("noGroup") }
        if let before = call.group.office.orders.first(where: { $0.id == id }) {
            call.orderEpoch = before.epoch
            return
        }
        call.orderEpoch = call.group.office.epoch
        defer {
            if call.refusals.isEmpty {
                let new = PastOrder(id: id, epoch: call.orderEpoch)
                call.group.office.orders = Array(([new] + call.group.office.orders).prefix(8))
            }
        }
        func news(_ type: String, member: String? = nil, detail: String? = nil) -> News {
            var news = News(type, member: member, detail: detail)
            (news.reason, news.actor) = (reason, actor)
            return news
        }
        switch order {
        case .switchover(let member, let timeout):
            _ = isOtherServer(&call)
            guard let target = findTarget(member, &call) else { return }
            startHandover(to: target, until: now + timeout, isForced: false, by: actor, why: reason, &call)
        case .failover(let member):
            checkFailover(to: member, &call)
            guard call.refusals.isEmpty else { return }
            // As its lease is now; what lengthens it later is told to its holder along with the order.
            let ends = call.group.held(call.group.office.primary)?.ends ?? now
            let until = call.group.office.primary.isEmpty || flaws.electsAtOnce ? now : ends
            startHandover(to: member, until: until, isForced: true, by: actor, why: reason, &call)
        case .abort:
            guard !call.group.office.isForced else {
                return call.refuse(
                    "handingOver", call.group.office.target, "a failover by hand cannot be taken back")
            }
            guard call.group.office.phase == .handingOver else { return }
            abort(reason.isEmpty ? "aborted" : reason, by: actor, &call)
        case .pause(let milliseconds):
            change(&call, news("group.paused", detail: "{\"forMs\":\(milliseconds)}"))
            call.group.office.pausedUntil = now + milliseconds
        case .resume:
            guard call.group.office.pausedUntil != nil else { return }
            change(&call, news("group.resumed"))
            call.group.office.pausedUntil = nil
        case .maintenance(let member, let isOn):
            if isOn, call.group.held(member) == nil { return call.refuse("notAMember", member) }
            if isOn, call.group.office.primary.hasSameBytes(as: member) { return call.refuse("primary", member) }
            var all = call.group.office.maintenance
            guard all.contains(where: { $0.hasSameBytes(as: member) }) != isOn else { return }
            if isOn, all.count >= 128 {
                guard let place = all.firstIndex(where: { call.group.held($0) == nil }) else {
                    return call.refuse("maintenanceFull", member, "128")
                }
                var gone = News("member.maintenance", member: all.remove(at: place), detail: "{\"on\":false}")
                gone.reason = "gone"
                change(&call, gone)
            }
            change(&call, news("member.maintenance", member: member, detail: "{\"on\":\(isOn)}"))
            call.group.office.maintenance = isOn ? all + [member] : all.filter { !$0.hasSameBytes(as: member) }
        case .acknowledge:
            if call.group.office.brakedUntil != nil { change(&call, news("group.unbraked")) }
            (call.group.office.brakedUntil, call.group.office.failovers) = (nil, [])
        case .settings(let settings):
            guard settings.contains(where: { call.group.settings[$0.name] != $0.value }) else { return }
            let pairs = settings.map { "\(Self.quoted($0.name)):\(Self.quoted($0.value))" }
            change(&call, news("group.settings", detail: "{\(pairs.joined(separator: ","))}"))
            for setting in settings { call.group.settings[setting.name] = setting.value }
        case .breaker(let state):
            guard GroupBreaker(call.group.settings) != state else { return }
            change(&call, news("breaker.forced", detail: "{\"state\":\"\(state.rawValue)\"}"))
            call.group.settings["breaker"] = state.rawValue
        case .remove(let empty):
            guard !call.group.isRemoved else { return call.refuse("noGroup") }
            guard call.group.members.isEmpty else {
                return call.refuse("hasMembers", "", "\(call.group.members.count)")
            }
            let wait = max(call.group.office.electAfter, call.group.silentUntil ?? 0) - now
            guard wait <= 0 else { return call.refuse("waiting", "", "\(wait) ms") }
            if empty > 0, let refusal = beEmpty(for: empty, &call) { return call.refusals.append(refusal) }
            change(&call, news("group.removed"))
            let office = call.group.office
            floors.version = max(floors.version, call.group.version)
            floors.epoch = max(floors.epoch, office.epoch + office.skip)
            call.group.office.emptySince = nil
            (call.group.office.pausedUntil, call.group.office.brakedUntil) = (nil, nil)
            (call.group.office.failovers, call.group.office.penalties) = ([], [])
            call.group.office.failures = []
            (call.group.office.maintenance, call.group.office.isShort) = ([], false)
            (call.group.office.isForced, call.group.office.target) = (false, "")
            (call.group.policy, call.group.settings, call.group.isRemoved) = (nil, [:], true)
        }
    }

    /// Why it is not removed for having been empty for so long.
    private func beEmpty(for milliseconds: Int64, _ call: inout Call) -> RoleReason? {
        let (now, office) = (call.group.now, call.group.office)
        let reasons = [
            ("paused", office.pausedUntil.map { $0 > now } ?? false),
            ("held", office.brakedUntil.map { $0 > now } ?? false),
            ("breaker", GroupBreaker(call.group.settings) != .automatic),
            ("maintenance", !office.maintenance.isEmpty), ("handingOver", !office.target.isEmpty),
        ]
        if let kept = reasons.first(where: { $0.1 }) {
            call.group.office.emptySince = nil
            return RoleReason("kept", detail: kept.0)
        }
        let since = office.emptySince ?? now
        call.group.office.emptySince = since
        let wait = since + milliseconds - now
        return wait > 0 ? RoleReason("waiting", detail: "\(wait) ms") : nil
    }

    /// To whom a switchover goes; nil, and why not, if to nobody.
    private func findTarget(_ member: String?, _ call: inout Call) -> String? {
        let ranking = call.group.ranking()
        let office = call.group.office
        let named = member.map { member in ranking.first { $0.id.hasSameBytes(as: member) } }
        if let member, named! == nil { call.refuse("notACandidate", member) }
        if office.phase == .handingOver { call.refuse("handingOver", office.target) }
        if office.primary.isEmpty { call.refuse("noPrimary") }
        if office.phase == .elected { call.refuse("notReady", office.primary) }
        let wait = office.electAfter - call.group.now
        if wait > 0 { call.refuse("waiting", "", "\(wait) ms") }
        if let named = named ?? nil { call.refusals += named.reasons }
        let best = ranking.first { $0.mayLead }
        if member == nil, best == nil {
            call.refuse("noCandidate")
            for other in ranking where !office.primary.hasSameBytes(as: other.id) { call.refusals += other.reasons }
        }
        let (standbys, least) = (call.group.standbys, call.group.minStandbys)
        if call.group.settings["minStandbysAction"] == "refuseSwitchover", standbys < least {
            call.refuse("standbys", "", "\(standbys) of \(least)")
        }
        return call.refusals.isEmpty ? member ?? best?.id : nil
    }

    private func checkFailover(to member: String, _ call: inout Call) {
        let judged = call.group.ranking().first { $0.id.hasSameBytes(as: member) }
        let office = call.group.office
        if judged == nil { call.refuse("notACandidate", member) }
        if office.phase == .handingOver { call.refuse("handingOver", office.target) }
        guard let judged else { return }
        if office.primary.hasSameBytes(as: member) { call.refuse("primary", member) }
        call.refusals += judged.reasons.filter { $0.code == "lease" || $0.code == "maintenance" }
        let silence = max(0, (call.group.silentUntil ?? 0) - call.group.now)
        if judged.isUnknown, !office.primary.isEmpty || silence > 0 {
            call.refuse("unknownToPrimary", member, "\(silence)")
        }
    }

    private mutating func startHandover(
        to target: String, until: Int64, isForced: Bool, by actor: String, why: String, _ call: inout Call
    ) {
        let now = call.group.now
        let cause = isForced ? "failover" : actor.isEmpty ? "failback" : "switchover"
        var news = News(
            isForced ? "failover.started" : "switchover.started", member: target,
            detail: "{\"cause\":\"\(cause)\",\"timeoutMs\":\(max(0, until - now))}")
        (news.epoch, news.previous) = (call.group.office.epoch, call.group.office.primary)
        (news.reason, news.actor) = (why, actor)
        change(&call, news)
        if !call.group.office.primary.isEmpty {
            (call.group.office.phase, call.group.office.since) = (.handingOver, now)
        }
        (call.group.office.target, call.group.office.handoverUntil) = (target, until)
        call.group.office.handoverVersion = call.group.version
        (call.group.office.isForced, call.group.office.final) = (isForced, .unsaid)
        (call.group.office.orderBy, call.group.office.orderWhy) = (actor, why)
    }

    private mutating func abort(_ why: String, by actor: String = "", _ call: inout Call) {
        let now = call.group.now
        var news = News("switchover.aborted", member: call.group.office.target)
        (news.epoch, news.reason, news.actor) = (call.group.office.epoch, why, actor)
        change(&call, news)
        if call.group.office.orderBy.isEmpty {
            let longer = min(3_600_000, max(1000, 2 * call.group.office.failbackWait))
            call.group.office.failbackWait = max(call.group.failbackAfter, longer)
            call.group.office.failbackAt = now + call.group.office.failbackWait
        }
        (call.group.office.phase, call.group.office.since) = (.ready, now)
        (call.group.office.target, call.group.office.final) = ("", .unsaid)
    }

    // MARK: The decision

    mutating func decide(_ call: inout Call) {
        let now = call.group.now
        if let until = call.group.office.pausedUntil, now >= until {
            changeBecauseOfTime("group.resumed", &call)
            call.group.office.pausedUntil = nil
        }
        if let until = call.group.office.brakedUntil, now >= until {
            changeBecauseOfTime("group.unbraked", &call)
            call.group.office.brakedUntil = nil
        }
        if call.group.office.phase == .handingOver { goOnHandingOver(&call) }
        if call.group.office.primary.isEmpty {
            if let winner = choose(&call), !isOtherServer(&call) {
                elect(winner, &call)
            } else if let ended = call.ended {
                let office = call.group.office
                var news = News("primary.lost", member: office.lastPrimary.isEmpty ? nil : office.lastPrimary)
                (news.epoch, news.reason) = (office.epoch, ended.why)
                if ended.why == "failover" { news.actor = office.orderBy }
                change(&call, news)
            }
        }
        let failback = fallBack(&call)
        countStandbys(&call)
        let office = call.group.office
        var moments = [office.pausedUntil, office.brakedUntil, failback]
        if office.phase == .handingOver { moments += [office.handoverUntil, office.electAfter] }
        if office.primary.isEmpty, call.group.hasCandidates {
            moments.append(office.electAfter)
            moments.append(call.group.silentUntil)
            moments += call.group.members.values.map { held in
                held.standing.map { max($0.barredUntil, call.group.restsUntil(held.record.id)) }
            }
        }
        call.group.office.checkAt = moments.compactMap { $0 }.filter { $0 > now }.min()
    }

    private mutating func changeBecauseOfTime(_ type: String, _ call: inout Call) {
        var news = News(type)
        news.reason = "expired"
        change(&call, news)
    }

    private mutating func goOnHandingOver(_ call: inout Call) {
        let office = call.group.office
        let isOver = call.group.now >= office.handoverUntil ?? 0
        if office.isForced {
            if isOver { endRole("failover", isSilent: true, &call) }
            return
        }
        let target = call.group.ranking().first { $0.id.hasSameBytes(as: office.target) }
        guard let target, target.isStandby else { return abort("target", &call) }
        let isBlind = !call.group.members.values.contains { $0.standing?.position != nil }
        let hasCome = office.final.position.map { target.standing.position ?? -1 >= $0 } ?? isBlind
        if office.final != .unsaid, hasCome {
            // A role that nobody could be given yet does not end.
            _ = isOtherServer(&call)
            if call.group.now >= call.group.office.electAfter {
                endRole(office.orderBy.isEmpty ? "failback" : "switchover", &call)
            } else if call.group.now >= call.group.office.handoverUntil ?? 0 {
                abort("timeout", &call)
            }
        } else if isOver {
            abort(office.final == .said(nil) ? "position" : "timeout", &call)
        }
    }

    /// Whom to elect now.
    private mutating func choose(_ call: inout Call) -> Judged? {
        let now = call.group.now
        let office = call.group.office
        let ranking = call.group.ranking()
        func find(_ id: String) -> Judged? { ranking.first { $0.id.hasSameBytes(as: id) } }
        let wanted = office.isForced ? find(office.target) : nil
        if office.isForced, wanted == nil { dropFailover(&call) }
        guard call.group.hasCandidates, now >= office.electAfter else { return nil }
        if let wanted {
            let forbidding: Set<String> = ["lease", "unknownToPrimary"]
            if !wanted.reasons.contains(where: { forbidding.contains($0.code) }) {
                call.favoured = wanted.id
                return wanted
            }
            dropFailover(&call)
        }
        let favoured = office.isForced ? nil : find(call.favoured)
        if let favoured, call.ended?.why == "switchover" || call.ended?.why == "failback" { return favoured }
        guard office.pausedUntil ?? 0 <= now else { return nil }
        let able = ranking.filter { $0.mayLead }
        guard var best = able.first else { return nil }
        if let favoured, favoured.mayLead, favoured.bucket <= best.bucket { best = favoured }
        guard able.count > 1 else { return best }
        if office.brakedUntil ?? 0 > now { return nil }
        let (limit, window) = (call.group.brakeCount, call.group.brakeWindow)
        let recent = Int64(office.failovers.count { $0 > now - window })
        let isMisfortune = Self.misfortunes.contains(call.ended?.why ?? office.lastWhy)
        guard limit > 0, recent >= limit, isMisfortune, !office.lastPrimary.hasSameBytes(as: best.id) else {
            return best
        }
        var news = News("group.braked", detail: "{\"failovers\":\(recent),\"forMs\":\(window)}")
        news.reason = "flapping"
        change(&call, news)
        (call.group.office.brakedUntil, call.group.office.failovers) = (now + window, [])
        return nil
    }

    /// Whom a failover by hand named is not there.
    private mutating func dropFailover(_ call: inout Call) {
        var news = News("failover.aborted", member: call.group.office.target)
        (news.epoch, news.reason) = (call.group.office.epoch, "target")
        change(&call, news)
        (call.group.office.isForced, call.group.office.target) = (false, "")
    }

    private mutating func elect(_ winner: Judged, _ call: inout Call) {
        let (now, office) = (call.group.now, call.group.office)
        var why = call.ended?.why ?? office.lastWhy
        if office.isForced { why = "failover" } else if why.isEmpty { why = "first" }
        let isOrdered =
            call.favoured.hasSameBytes(as: winner.id) && ["switchover", "failback", "failover"].contains(why)
        let ranking = call.group.ranking().prefix(16)
        let refused = ranking.filter { !$0.mayLead }.map { one in
            let codes = one.reasons.map { "\"\($0.code)\"" }
            return "\(Self.quoted(one.id)):[\(codes.joined(separator: ","))]"
        }
        let lags = ranking.compactMap { one in one.lag.map { "\(Self.quoted(one.id)):\($0)" } }
        var detail = "{\"session\":\"\(winner.session)\",\"detectMs\":\(call.ended?.silence ?? 0)"
        detail += ",\"decideMs\":\(office.vacantSince.map { now - $0 } ?? 0)"
        if isOrdered, !office.orderWhy.isEmpty { detail += ",\"why\":\(Self.quoted(office.orderWhy))" }
        detail += ",\"ranking\":[\(ranking.map { Self.quoted($0.id) }.joined(separator: ","))]"
        detail += ",\"refused\":{\(refused.joined(separator: ","))},\"lag\":{\(lags.joined(separator: ","))}}"
        var news = News("primary.elected", member: winner.id, detail: detail)
        let epoch = office.epoch + 1 + office.skip
        (news.epoch, news.previous, news.reason) = (epoch, office.lastPrimary, why)
        if isOrdered { news.actor = office.orderBy }
        change(&call, news)
        var next = office
        if Self.misfortunes.contains(why), !office.lastPrimary.hasSameBytes(as: winner.id) {
            next.failovers = Array(([now] + office.failovers).prefix(16))
        }
        (next.skip, next.epoch, next.phase, next.since, next.vacantSince) = (0, epoch, .elected, now, nil)
        (next.primary, next.session) = (winner.id, winner.session)
        (next.target, next.isForced) = ("", false)
        (next.lostAt, next.gaveUp) = (nil, nil)
        if !office.isVouched { next.copyVersion = nil }
        (next.failbackAt, next.failbackWait) = (0, 0)
        call.group.office = next
    }

    /// Whether the role shall go back to whom zone and priority prefer. When that may be, if not yet.
    private mutating func fallBack(_ call: inout Call) -> Int64? {
        let (now, office) = (call.group.now, call.group.office)
        guard call.group.settings["failback"] == "automatic", office.phase == .ready else { return nil }
        guard office.pausedUntil ?? 0 <= now, office.brakedUntil ?? 0 <= now else { return nil }
        let ranking = call.group.ranking()
        guard let own = ranking.first(where: { $0.id.hasSameBytes(as: office.primary) }) else { return nil }
        func isBetter(_ one: Judged, _ other: Judged) -> Bool {
            one.isElsewhere != other.isElsewhere ? other.isElsewhere : one.priority > other.priority
        }
        let better = ranking.filter { $0.mayLead && isBetter($0, own) }
        // The first of the best in the ranking's order.
        guard let best = better.first(where: { one in !better.contains { isBetter($0, one) } }) else { return nil }
        let after = call.group.failbackAfter
        let due = max(
            office.failbackAt, (office.since ?? 0) + after, best.standing.fitSince + after, office.electAfter)
        if now < due { return due }
        if isOtherServer(&call), now < call.group.office.electAfter { return call.group.office.electAfter }
        startHandover(
            to: best.id, until: now + call.group.drain, isForced: false, by: "", why: "",
            &call)
        return nil
    }

    private mutating func countStandbys(_ call: inout Call) {
        let least = call.group.minStandbys
        let hasPrimary = !call.group.office.primary.isEmpty
        guard hasPrimary || least == 0 else { return }
        let count = hasPrimary ? call.group.standbys : 0
        let isShort = hasPrimary && least > 0 && count < least
        guard isShort != call.group.office.isShort else { return }
        change(
            &call,
            News(
                isShort ? "standby.shortfall" : "standby.restored",
                detail: "{\"standbys\":\(count),\"least\":\(least)}"))
        call.group.office.isShort = isShort
    }
}

extension GroupServerModel.Call {
    fileprivate mutating func refuse(_ code: String, _ member: String = "", _ detail: String = "") {
        refusals.append(RoleReason(code, member: member, detail: detail))
    }
}
