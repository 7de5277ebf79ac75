// SPDX-License-Identifier: Apache-2.0
//
// What a Redis that runs group.lua does, said in Swift: the reference model. The simulation runs the machines against
// it, and the script fuzz compares it with the real script on a real Redis, so a mistake must be made twice, in two
// languages and two ways of thinking, to stay unseen. It is written from the contract in the script's header:
//
//  - a group is its members, each with the end of its lease in group time, and a version with the mark of its last
//    event;
//  - a call is: time, then whether the server is still the same, then healing, then the dead, then the verb, then the
//    decision who is primary (GroupServerModel+Election.swift); each change set is one version;
//  - a call that finds nothing due, of a caller that knows all and says nothing new, is just a sign of life;
//  - an event is written down once, under the next number of the log; the log forks when its server is another.
//
// Nothing is kept that can be told from the members: the script counts leases, the model looks. Time is the caller's:
// `clock` is the server's, in ms, and may step either way. `Flaws` are wrong on purpose, for the controls that must
// fail.
package import RingfenceCore

package struct GroupServerModel: Sendable {

    /// The server's clock, ms.
    package var clock: Int64
    /// Which server process it is, and of which history.
    package var run: String
    package private(set) var groups: [String: Group] = [:]
    /// Of all groups that were ever removed, the highest.
    package internal(set) var floors = Floors()
    package var log: Log?
    package var events: [Event] = []
    let flaws: Flaws

    package init(clock: Int64, run: String = "run1", flaws: Flaws = Flaws()) {
        self.clock = clock
        self.run = run
        self.flaws = flaws
    }

    /// Everything is gone.
    package mutating func forgetEverything() {
        groups = [:]
        floors = Floors()
        log = nil
        events = []
    }

    /// 30 days after its removal nothing is known of a group any more.
    package mutating func forgetRemoved() {
        for (name, group) in groups where group.isRemoved { groups[name] = nil }
    }

    /// What an older copy knew is all there is.
    package mutating func stepBack(to copy: GroupServerModel) {
        (groups, floors) = (copy.groups, copy.floors)
        log = copy.log
        events = copy.events
    }

    /// Events are not kept any longer, for whoever asks for few things many times.
    package mutating func forgetEvents() { events = [] }

    // MARK: A call

    package mutating func call(
        _ verb: Verb, _ name: String, fresh: String, known: GroupKnowledge
    ) -> GroupAnswer {
        let group = groups.removeValue(forKey: name) ?? Group()
        var call = Call(
            verb: verb, name: name, fresh: fresh, known: known, group: group, runBefore: group.run,
            away: clock + group.offset - group.now)
        let status: GroupAnswer.Status
        if isQuiet(call) {
            passTime(&call)
            status = noteSignOfLife(&call)
        } else {
            let isGap = isGap(group)
            passTime(&call)
            let knowsLost = known.asks && !known.mark.isEmpty && known.mark != group.mark && isLost(known.mark)
            if let end = call.group.firstEnd {
                let isDue = call.group.now >= max(end, call.group.graceUntil)
                let mayBeAnother = isGap || call.away < 0 || isLastWord(call) || knowsLost
                if isDue || mayBeAnother || call.group.now - call.group.runAt >= 10_000 { _ = isOtherServer(&call) }
            }
            if knowsLost, !flaws.believesWhoIsBack { call.group.office.copyVersion = nil }
            heal(&call, knownAs: group)
            buryTheDead(&call)
            status = perform(&call)
            if call.group.version > 0 { decide(&call) }
        }
        noteChanges(&call, since: group)
        if call.group.version > 0 { groups[name] = call.group }
        return answer(status, call)
    }

    /// The primary says that it gave its role up.
    private func isLastWord(_ call: Call) -> Bool {
        let (id, session, status) =
            switch call.verb {
            case .beat(let id, let session, _, _, let status): (id, session, status)
            case .join(let record, _, _, let status): (record.id, record.session, status)
            default: ("", "", nil as CandidateStatus?)
            }
        guard case .gone(let epoch, _)? = status?.claim, epoch == call.group.office.epoch,
            let held = call.group.held(id)
        else { return false }
        return held.record.session == session && call.group.isPrimary(held.record)
    }

    /// Nothing is due, and the caller says nothing new: it knows all, or does not ask, or is told what others were told
    /// before.
    private func isQuiet(_ call: Call) -> Bool {
        let (group, known) = (call.group, call.known)
        guard known.version <= group.version, known.epoch <= group.office.epoch else { return false }
        let mark = known.asks ? known.mark : ""
        guard known.version < group.version || mark == group.mark else { return false }
        let knowsAll = mark == group.mark
        let isOnlyTold = known.asks && group.office.gaveUp == nil && (mark.isEmpty || isOfThisGeneration(mark))
        switch call.verb {
        case .watch(leases: false):
            guard knowsAll || !known.asks || isOnlyTold else { return false }
        case .beat(let id, let session, _, _, let status):
            guard group.held(id)?.record.session == session else { return false }
            guard knowsAll || isOnlyTold || (!known.asks && status == nil) else { return false }
            if let status, group.awaitsCandidates || !group.knows(status.claim, of: id, session) { return false }
        case .beats(let beats):
            let areAllThere = beats.allSatisfy { group.held($0.id)?.record.session == $0.session }
            guard !known.asks, areAllThere else { return false }
        default: return false
        }
        let now = clock + group.offset
        guard now >= group.now, !isGap(group) else { return false }
        if let end = group.firstEnd, now >= max(end, group.graceUntil) || now - group.runAt >= 10_000 { return false }
        return group.office.checkAt.map { now < $0 } ?? true
    }

    private func isOfThisGeneration(_ mark: String) -> Bool {
        guard let log, mark.hasPrefix("\(log.generation):") else { return false }
        return !isLost(mark)
    }

    private mutating func noteSignOfLife(_ call: inout Call) -> GroupAnswer.Status {
        if case .beats(let beats) = call.verb { return hear(beats, &call) }
        guard case .beat(let id, _, let lease, _, let status) = call.verb else { return .watching }
        call.group.renew(id, lease, status)
        noteKnowledge(of: call.group.held(id)!.record, status, &call)
        return .member
    }

    func hear(_ beats: [GroupAnswer.Beat], _ call: inout Call) -> GroupAnswer.Status {
        for beat in beats {
            let session = call.group.held(beat.id)?.record.session
            switch session {
            case nil: call.statuses.append(isLost(beat.joined) ? .unknown : .expired)
            case beat.session:
                call.group.renew(beat.id, beat.leaseMilliseconds, nil)
                call.statuses.append(.member)
            default: call.statuses.append(.replaced)
            }
        }
        return .beats
    }

    /// A primary that knows the group as it is says so with each beat.
    private func noteKnowledge(of record: MemberRecord, _ status: CandidateStatus?, _ call: inout Call) {
        let epoch = call.group.office.epoch
        guard call.group.isPrimary(record), status?.claim == .elected(epoch) || status?.claim == .ready(epoch) else {
            return
        }
        guard call.known.mark == call.group.mark else { return }
        // It has begun, and so whoever was silent has ended.
        (call.group.office.silentSince, call.group.office.copyVersion) = (nil, nil)
        (call.group.office.gaveUp, call.group.office.isVouched) = (nil, false)
        call.group.office.known = flaws.electsTheUnknown ? .max : call.group.version
    }

    private func isGap(_ group: Group) -> Bool {
        guard !group.members.isEmpty, group.now > 0, !flaws.ignoresGaps else { return false }
        return 2 * (clock + group.offset - group.now) > 5 * group.pace
    }

    private mutating func passTime(_ call: inout Call) {
        let elapsed = clock + call.group.offset - call.group.now
        if elapsed < 0 {
            call.group.offset -= elapsed
        } else if isGap(call.group) {
            call.group.gaps += 1
            call.group.offset -= elapsed - (call.group.gaps > 2 ? call.group.pace : 0)
            let now = clock + call.group.offset
            let hold = min(call.group.longest, max(call.group.shortest, 3000))
            let mayHold = now - call.group.graceUntil >= hold
            if mayHold { call.group.graceUntil = now + hold }
            var news = News("coordinator.gap", detail: "{\"gapMs\":\(elapsed),\"graceMs\":\(mayHold ? hold : 0)}")
            news.reason = "silence"
            write(news, &call)
            call.group.now = now
            return
        }
        call.group.gaps = 0
        call.group.now = clock + call.group.offset
    }

    /// Before anybody is taken out or elected, and every 10 s: another server may have lost the last beats and
    /// elections.
    mutating func isOtherServer(_ call: inout Call) -> Bool {
        guard !call.isServerChecked else { return false }
        call.isServerChecked = true
        let isOther = !call.runBefore.isEmpty && call.runBefore != run
        if isOther {
            let grace = 4 * call.group.pace
            let limit = call.group.settings["failsafeLimitMs"].flatMap { Int64($0) } ?? 600_000
            let copy = call.away >= 0 && call.away < limit ? call.group.office.runVersion : nil
            var news = News("coordinator.gap", detail: "{\"gapMs\":0,\"graceMs\":\(grace)}")
            news.reason = "server"
            change(&call, news)
            for id in call.group.members.keys { call.group.members[id]!.ends += grace }
            let end = call.group.now + call.group.longest + grace
            call.group.office.mayHaveLost(at: call.group.now, until: end, copy: copy)
            if flaws.believesWhoIsBack { call.group.office.isVouched = true }
            call.group.office.distrust(until: end, grace, flaws)
        }
        call.group.noteServer(run)
        return isOther
    }

    /// - Parameter stored: as the group was before this call.
    private mutating func heal(_ call: inout Call, knownAs stored: Group) {
        let known = call.known
        let isBehind =
            (known.version, known.mark) != (stored.version, stored.mark) && known.version >= stored.version
            && !flaws.neverHeals
        let isEpochBehind = known.epoch > call.group.office.epoch && !flaws.forgetsEpochs
        guard isBehind || isEpochBehind else { return }
        let kept = call.group.version
        let longest = max(call.group.longest, known.longestLeaseMilliseconds)
        if kept == 0 { begin(&call) }
        call.group.version = max(call.group.version, known.version)
        if isBehind {
            call.group.policy = known.policy ?? call.group.policy
            call.group.graceUntil = max(call.group.graceUntil, call.group.now + longest)
            call.group.recoverUntil = call.group.graceUntil
        }
        let more = isEpochBehind ? ",\"epoch\":\(known.epoch)" : ""
        change(
            &call, News("state.rolledBack", detail: "{\"from\":\(call.group.version),\"to\":\(kept)\(more)}"))
        if !flaws.electsAfterLoss { call.group.office.waits(until: call.group.now + longest) }
        call.group.office.mayHaveLost(at: call.group.now, until: call.group.now + longest, copy: nil)
        if isEpochBehind { call.group.office.recover(known.epoch, now: call.group.now) }
    }

    private mutating func buryTheDead(_ call: inout Call) {
        guard let end = call.group.firstEnd, call.group.now >= max(end, call.group.graceUntil) else { return }
        let now = call.group.now
        var dead = call.group.members.values.filter { $0.ends <= now }.sorted {
            $0.ends != $1.ends ? $0.ends < $1.ends : $0.record.id.isBefore($1.record.id)
        }
        if dead.count > 64 {
            let late = call.verb.ids.compactMap { id in dead[64...].first { $0.record.id.hasSameBytes(as: id) } }
            dead = Array(dead.prefix(64)) + late
        }
        change(
            &call,
            dead.map { held in
                News(
                    "member.expired", member: held.record.id,
                    detail: "{\"session\":\"\(held.record.session)\",\"lateMs\":\(now - held.ends)}")
            })
        call.group.office.missed = call.group.version
        guard !flaws.leavesTheDead else { return }
        for held in dead {
            if call.group.isPrimary(held.record) {
                endRole("expired", isSilent: true, silence: now - held.ends + held.record.leaseMilliseconds, &call)
            }
            call.group.members[Array(held.record.id.utf8)] = nil
            call.touched.insert(Array(held.record.id.utf8))
        }
    }

    private mutating func perform(_ call: inout Call) -> GroupAnswer.Status {
        switch call.verb {
        case .watch: return .watching
        case .beat(let id, let session, let lease, let joined, let status):
            guard let held = call.group.held(id) else { return isLost(joined) ? .unknown : .expired }
            guard held.record.session == session else { return .replaced }
            call.group.renew(id, lease, status)
            noteKnowledge(of: held.record, status, &call)
            noteWhatItHeard(session, &call)
            if let status { hear(status.claim, from: held.record, &call) }
            return .member
        case .beats(let beats): return hear(beats, &call)
        case .join(let record, let mode, let policy, let status):
            return join(record, mode, policy, status, &call)
        case .leave(let id, let session, let reason, let actor):
            guard let held = call.group.held(id), session.isEmpty || held.record.session == session else {
                return .gone
            }
            var news = News("member.left", member: id, detail: "{\"session\":\"\(held.record.session)\"}")
            (news.reason, news.actor) = (reason, actor)
            change(&call, news)
            if !actor.isEmpty || session.isEmpty { call.group.office.missed = call.group.version }
            if call.group.isPrimary(held.record) {
                if actor.isEmpty, !session.isEmpty {
                    endRole(reason.isEmpty ? "left" : reason, &call)
                } else {
                    waitFor(held, &call)
                    endRole("removed", isSilent: true, &call)
                }
            }
            if !session.isEmpty, actor.isEmpty, call.group.office.copyVersion == nil,
                call.group.office.gaveUp?.session == session
            {
                (call.group.office.gaveUp, call.group.office.silentSince) = (nil, nil)
            }
            call.group.members[Array(id.utf8)] = nil
            call.touched.insert(Array(id.utf8))
            return .left
        case .order(let order, let actor, let reason, let id):
            carryOut(order, actor: actor, reason: reason, id: id, &call)
            return call.refusals.isEmpty ? .ordered : .refused
        case .note(let type, let member, let reason, let actor, let detail):
            var news = News(type, member: member.isEmpty ? nil : member, detail: detail.isEmpty ? nil : detail)
            (news.reason, news.actor) = (reason, actor)
            write(news, &call)
            return .noted
        }
    }

    mutating func join(
        _ record: MemberRecord, _ mode: JoinMode, _ policy: RingPolicy, _ status: CandidateStatus?, _ call: inout Call
    ) -> GroupAnswer.Status {
        let key = Array(record.id.utf8)
        let wasEmpty = call.group.members.isEmpty
        let held = call.group.members[key]
        var news = News(
            "member.joined", member: record.id, record: record, detail: String(decoding: record.json, as: UTF8.self))
        var before: [String] = []
        var isSame = false
        if let held, held.record.session == record.session {
            isSame = held.record.json == record.json
            news.type = "member.updated"
            if !isSame { change(&call, news) }
            before = held.before
        } else if let held {
            let isLate = held.before.contains(record.session) && !flaws.forgetsTheReplaced
            guard mode == .first || mode == .over(held.record.session), !isLate else { return .replaced }
            let kept = keptFor(held, record, call.group)
            guard kept == 0 else {
                call.holder = GroupAnswer.Holder(milliseconds: kept, address: held.record.address)
                return .taken
            }
            (news.previous, news.reason) = (held.record.session, "replaced")
            change(&call, news)
            call.group.office.missed = call.group.version
            if call.group.isPrimary(held.record) {
                waitFor(held, &call)
                endRole("replaced", isSilent: true, &call)
            }
            before = Array(([held.record.session] + held.before).prefix(4))
        } else if case .stay(let joined) = mode {
            return !joined.isEmpty && isLost(joined) ? .unknown : .expired
        } else {
            news.reason = "new"
            change(&call, news)
        }
        call.group.office.emptySince = nil
        call.group.policy = call.group.policy ?? policy
        if !isSame { call.touched.insert(key) }
        let standing = isSame ? held?.standing : stand(record, before: held, &call)
        call.group.members[key] = Held(record: record, ends: 0, before: before, standing: standing)
        if wasEmpty { _ = isOtherServer(&call) }
        call.group.renew(record.id, record.leaseMilliseconds, status)
        if let status { hear(status.claim, from: record, &call) }
        return .member
    }
}
