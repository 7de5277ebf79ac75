// SPDX-License-Identifier: Apache-2.0
//
// Who is primary, in the reference model: what a group keeps of it, what candidates claim, what operators order, and
// the one decision at the end of each call. Written from the header of group.lua: a role ends for one reason, in
// `endRole`; it is given in one place, `elect`; who may have it and in which order is in `ranking`, which is told from
// the members each time.
import RingfenceCore

extension GroupServerModel {
    /// Losing the role so costs a penalty, and counts as a failover.
    private static let misfortunes: Set<String> = [
        "expired", "replaced", "suspended", "promotionFailed", "unhealthy", "exited",
    ]

    /// It failed by itself, or ended too soon.
    static let failures: Set<String> = ["replaced", "promotionFailed", "unhealthy", "exited", "finished"]

    /// Whoever gives up so is left out for one lease.
    static let refusals: Set<String> = ["refused", "promotionFailed", "unhealthy", "stepDown"]

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

    static func mark(_ id: String, _ marks: inout [Penalty], _ now: Int64) {
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
    mutating func refuse(_ code: String, _ member: String = "", _ detail: String = "") {
        refusals.append(RoleReason(code, member: member, detail: detail))
    }
}
