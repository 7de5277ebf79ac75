// SPDX-License-Identifier: Apache-2.0
//
// What operators order of a group of the reference model.
import RingfenceCore

extension GroupServerModel {
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

    mutating func startHandover(
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

    mutating func abort(_ why: String, by actor: String = "", _ call: inout Call) {
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
}
