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
    package struct Flaws: Sendable {
        /// Time runs on while nobody can reach the group.
        package var ignoresGaps = false
        /// A version that Redis lost is given again.
        package var neverHeals = false
        /// Whoever finds a dead member says so, and leaves it there for the next to find.
        package var leavesTheDead = false
        /// A late first join wins the id back.
        package var forgetsTheReplaced = false
        /// Nobody waits for the lease of a primary that was replaced, removed or is to be failed over.
        package var electsAtOnce = false
        /// After Redis lost data, or a new group began, an election does not wait for who may be primary.
        package var electsAfterLoss = false
        /// What callers know of epochs that Redis lost is not heeded, and none are left out.
        package var forgetsEpochs = false
        /// Whom a silent primary did not know is elected like others.
        package var electsTheUnknown = false
        /// After Redis may have lost an election, whoever is back is believed to be all there are.
        package var believesWhoIsBack = false
        package init() {}
    }

    package enum Verb: Sendable {
        case watch(leases: Bool)
        /// `status`: of a candidate.
        case beat(id: String, session: String, leaseMilliseconds: Int64, joined: String, status: CandidateStatus?)
        /// Of members that are no candidates.
        case beats([GroupAnswer.Beat])
        case join(MemberRecord, JoinMode, RingPolicy, status: CandidateStatus?)
        case leave(id: String, session: String, reason: String, actor: String)
        case order(RoleOrder, actor: String, reason: String, id: String)
        case note(type: String, member: String, reason: String, actor: String, detail: String)
    }

    package struct Held: Sendable, Hashable {
        package var record: MemberRecord
        package var ends: Int64
        /// The sessions it took the id from, newest first.
        package var before: [String] = []
        /// Of a candidate.
        package var standing: Standing?
    }

    package struct Group: Sendable, Hashable {
        package var version: Int64 = 0
        package var mark = ""
        /// The version of the last change of members.
        package var memberVersion: Int64 = 0
        package var now: Int64 = 0
        package var offset: Int64 = 0
        package var graceUntil: Int64 = 0
        package var recoverUntil: Int64 = 0
        /// In a row, up to the last call.
        package var gaps: Int64 = 0
        /// The server that was seen last, and when.
        package var run = ""
        package var runAt: Int64 = 0
        /// By the bytes of their ids.
        package var members: [[UInt8]: Held] = [:]
        package var policy: RingPolicy?
        package var settings: [String: String] = [:]
        package var office = Office()
        /// Of a large group.
        package var changes: Changes?
        /// Nothing is kept but that its versions and epochs go on.
        package var isRemoved = false

        package init() {}

        package var shortest: Int64 {
            members.isEmpty ? 0 : members.values.reduce(.max) { min($0, $1.record.leaseMilliseconds) }
        }
        package var longest: Int64 { members.values.reduce(0) { max($0, $1.record.leaseMilliseconds) } }
        package var pace: Int64 { members.isEmpty ? 1000 : min(1000, shortest / 5) }
        mutating func noteServer(_ name: String) { (run, runAt, office.runVersion) = (name, now, version) }

        package var firstEnd: Int64? { members.isEmpty ? nil : members.values.reduce(.max) { min($0, $1.ends) } }

        package func held(_ id: String) -> Held? { members[Array(id.utf8)] }
    }

    /// In which version each member of a large group last changed, and the last ones that are gone went.
    package struct Changes: Sendable, Hashable {
        package var last: [[UInt8]: Int64] = [:]
        package var gone: [[UInt8]: Int64] = [:]
        /// Of who went in versions up to here some are forgotten.
        package var floor: Int64
    }

    package struct Floors: Sendable, Hashable {
        package var version: Int64 = 0
        package var epoch: Int64 = 0
    }

    package struct Event: Sendable, Equatable {
        package var generation: String
        package var sequence: Int64
        package var group: String
        package var type: String
        package var member: String?
        package var version: Int64?
        package var of: Int = 1
        package var record: MemberRecord?
        package var epoch: Int64?
        package var reason = ""
        package var text: String
    }

    /// What an event will say, but for where it stands in the log.
    struct News {
        var type: String
        var member: String?
        var record: MemberRecord?
        var epoch: Int64?
        var previous = ""
        var reason = ""
        var actor = ""
        /// JSON.
        var detail: String?

        init(_ type: String, member: String? = nil, record: MemberRecord? = nil, detail: String? = nil) {
            self.type = type
            self.member = member
            self.record = record
            self.detail = detail
        }
    }

    package struct Log: Sendable, Hashable {
        package var generation: String
        package var sequence: Int64
        package var run: String
        /// The last number kept of each generation that ended, newest first.
        package var forks: [(generation: String, kept: Int64)] = []

        package static func == (one: Log, other: Log) -> Bool {
            one.generation == other.generation && one.sequence == other.sequence && one.run == other.run
                && one.forks.elementsEqual(other.forks) { $0 == $1 }
        }

        package func hash(into hasher: inout Hasher) {
            hasher.combine(generation)
            hasher.combine(sequence)
            hasher.combine(run)
        }
    }

    /// One call, while it is carried out.
    struct Call {
        let verb: Verb
        let name: String
        let fresh: String
        let known: GroupKnowledge
        var group: Group
        /// Whether the server was compared with the group's in this call, which is done once; and with which.
        var isServerChecked = false
        let runBefore: String
        /// Since the last call that the group knows, by the clocks of the servers.
        let away: Int64
        /// The role that ended in this call.
        var ended: RoleEnded?
        /// Whom an order wants in its place.
        var favoured = ""
        var refusals: [RoleReason] = []
        /// Under which the order was carried out, in this call or before.
        var orderEpoch: Int64 = 0
        /// Who came, changed or went.
        var touched: Set<[UInt8]> = []
        /// Who keeps the id that a join wanted.
        var holder: GroupAnswer.Holder?
        /// Of many beats, of each.
        var statuses: [GroupAnswer.Status] = []
    }

    /// The server's clock, ms.
    package var clock: Int64
    /// Which server process it is, and of which history.
    package var run: String
    package private(set) var groups: [String: Group] = [:]
    /// Of all groups that were ever removed, the highest.
    package internal(set) var floors = Floors()
    package private(set) var log: Log?
    package private(set) var events: [Event] = []
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

    private mutating func join(
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

    private func noteChanges(_ call: inout Call, since before: Group) {
        let (version, members) = (call.group.memberVersion, call.group.members)
        guard version != before.memberVersion else { return }
        guard members.count > 64 else { return call.group.changes = nil }
        guard var changes = call.group.changes else {
            var new = Changes(floor: call.group.version)
            let inOrder = members.sorted {
                $0.value.ends != $1.value.ends
                    ? $0.value.ends < $1.value.ends : $0.value.record.id.isBefore($1.value.record.id)
            }
            for (index, held) in inOrder.enumerated() { new.last[held.key] = Int64(index + 1 - inOrder.count) }
            return call.group.changes = new
        }
        for key in call.touched {
            changes.last[key] = members[key] == nil ? nil : version
            changes.gone[key] = members[key] == nil ? version : nil
        }
        while changes.gone.count > 1024 {
            let oldest = changes.gone.min { ($0.value, Self.text($0.key)) < ($1.value, Self.text($1.key)) }!
            changes.gone[oldest.key] = nil
            changes.floor = oldest.value
        }
        call.group.changes = changes
    }

    private static func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

    /// Of what changed after a place, in the order of versions, as much as an answer takes.
    private func page(
        _ group: Group, _ changes: Changes, from: String, began: Int64, after: Int64, most: Int
    ) -> GroupAnswer.Page {
        var page = GroupAnswer.Page(from: from, next: "")
        let here = changes.last.map { (place: $0.value, isGone: false, id: Self.text($0.key)) }
        let gone = changes.gone.map { (place: $0.value, isGone: true, id: Self.text($0.key)) }
        var (bytes, count, place) = (0, 0, after)
        let all = (here + gone).filter { $0.place > after }.sorted { one, other in
            if one.place != other.place { return one.place < other.place }
            return one.isGone != other.isGone ? other.isGone : one.id.isBefore(other.id)
        }
        for change in all {
            if count >= most || bytes >= 65_536, change.place != place {
                page.next = "\(log?.generation ?? ""):\(began):\(place)"
                break
            }
            if change.isGone {
                page.gone.append(change.id)
            } else {
                let record = group.held(change.id)!.record
                page.members.append(record)
                bytes += record.json.count
            }
            (bytes, count, place) = (bytes + change.id.utf8.count, count + 1, change.place)
        }
        page.members.sort { $0.id.isBefore($1.id) }
        return page
    }

    /// What the caller is told of the members of a large group; nil: that there is more.
    private func page(_ changes: Changes, _ call: Call) -> GroupAnswer.Page? {
        let (group, known) = (call.group, call.known)
        var (isLook, asksForLeases) = (false, false)
        if case .watch(let leases) = call.verb { (isLook, asksForLeases) = (true, leases) }
        let cursor = known.cursor.split(separator: ":")
        if isLook, cursor.count == 3, String(cursor[0]) == log?.generation, let began = Int64(cursor[1]),
            began >= changes.floor
        {
            return page(group, changes, from: known.cursor, began: began, after: Int64(cursor[2])!, most: 256)
        }
        if !asksForLeases, known.mark.hasPrefix("\(log?.generation ?? ""):"), known.version >= changes.floor {
            let page = page(
                group, changes, from: GroupAnswer.Page.known, began: known.version, after: known.version,
                most: isLook ? 256 : 16)
            if isLook || page.next.isEmpty { return page }
        }
        guard isLook else { return nil }
        return page(
            group, changes, from: GroupAnswer.Page.start, began: group.version, after: .min, most: 256)
    }

    /// How long another keeps its id.
    private func keptFor(_ held: Held, _ new: MemberRecord, _ group: Group) -> Int64 {
        let left = max(0, held.ends - group.now)
        let (its, own) = (held.record.address, new.address)
        if !its.isEmpty, !own.isEmpty, !its.hasSameBytes(as: own) { return left }
        guard group.isPrimary(held.record) else { return 0 }
        return min(left, max(0, group.restsUntil(held.record.id) - group.now))
    }

    private func answer(_ status: GroupAnswer.Status, _ call: Call) -> GroupAnswer {
        let group = call.group
        var asksForLeases = false
        var isOrder = false
        switch call.verb {
        case .watch(true): asksForLeases = true
        case .order: isOrder = true
        default: break
        }
        var content: GroupAnswer.Content?
        if call.known.asks, call.known.mark != group.mark || asksForLeases || isOrder {
            let all = group.members.values.sorted { $0.record.id.isBefore($1.record.id) }
            // What the caller knows was not lost, and no member changed since.
            let isSame =
                call.known.version >= group.memberVersion && call.known.mark.hasPrefix("\(log?.generation ?? ""):")
            content = GroupAnswer.Content(
                members: isSame && !asksForLeases ? nil : all.map(\.record),
                leases: asksForLeases ? all.map { max(0, $0.ends - group.now) } : [],
                policy: group.policy, role: group.role,
                sinceMilliseconds: group.office.since.map { group.now - $0 } ?? 0, settings: group.settings,
                report: asksForLeases || isOrder
                    ? group.report(call.refusals, orderEpoch: call.orderEpoch) : nil)
            let isContinued = asksForLeases && call.known.cursor.hasPrefix("\(log?.generation ?? ""):")
            if let changes = group.changes, !isSame || asksForLeases || isContinued {
                content!.members = nil
                content!.page = page(changes, call)
                content!.isMore = content!.page == nil
                if asksForLeases {
                    content!.leases = content!.page!.members.map {
                        max(0, group.held($0.id)!.ends - group.now)
                    }
                    if !content!.page!.next.isEmpty { content!.report = nil }
                }
            }
        }
        var next = group.firstEnd.map { max(0, max($0, group.graceUntil) - group.now) }
        if let at = group.office.checkAt { next = min(next ?? .max, max(0, at - group.now)) }
        var answer = GroupAnswer(
            status: status, generation: log?.generation ?? "", sequence: log?.sequence ?? 0, version: group.version,
            mark: group.mark,
            nextMilliseconds: next, paceMilliseconds: group.pace,
            graceMilliseconds: max(0, group.graceUntil - group.now),
            recoveryMilliseconds: max(0, group.recoverUntil - group.now), content: content, holder: call.holder)
        answer.statuses = call.statuses
        return answer
    }

    // MARK: The log

    mutating func change(_ call: inout Call, _ news: News...) { change(&call, news) }

    /// A new group goes on from all that were removed.
    private func begin(_ call: inout Call) {
        call.group.version = floors.version
        guard floors.epoch > call.group.office.epoch else { return }
        (call.group.office.epoch, call.group.office.lostAt) = (floors.epoch, call.group.now)
    }

    private mutating func change(_ call: inout Call, _ all: [News]) {
        if call.group.version == 0 { begin(&call) }
        call.group.version += 1
        call.group.isRemoved = false
        for news in all { write(news, &call, version: call.group.version, of: all.count) }
        let ofMembers: Set<String> = [
            "member.joined", "member.updated", "member.left", "member.expired", "state.rolledBack",
        ]
        if ofMembers.contains(all[0].type) { call.group.memberVersion = call.group.version }
        call.group.mark = "\(log!.generation):\(log!.sequence)"
    }

    private mutating func write(_ news: News, _ call: inout Call, version: Int64? = nil, of: Int = 1) {
        var log = self.log ?? Log(generation: call.fresh, sequence: 0, run: run)
        if log.run != run {
            log.forks = Array(([(log.generation, log.sequence)] + log.forks).prefix(16))
            log.generation = call.fresh
            log.run = run
        }
        log.sequence += 1
        self.log = log
        var text =
            "{\"generation\":\"\(log.generation)\",\"sequence\":\(log.sequence),\"at\":\(clock),\"type\":\"\(news.type)\""
        text += ",\"group\":\(Self.quoted(call.name))"
        if let member = news.member { text += ",\"member\":\(Self.quoted(member))" }
        if let version { text += ",\"version\":\(version)" }
        if of > 1 { text += ",\"of\":\(of)" }
        if let epoch = news.epoch { text += ",\"epoch\":\(epoch)" }
        if !news.previous.isEmpty { text += ",\"previous\":\(Self.quoted(news.previous))" }
        if !news.reason.isEmpty { text += ",\"reason\":\(Self.quoted(news.reason))" }
        if !news.actor.isEmpty { text += ",\"actor\":\(Self.quoted(news.actor))" }
        if let detail = news.detail { text += ",\"detail\":\(detail)" }
        text += "}"
        events.append(
            Event(
                generation: log.generation, sequence: log.sequence, group: call.name, type: news.type,
                member: news.member, version: version,
                of: of, record: news.record, epoch: news.epoch, reason: news.reason, text: text))
    }

    /// Whether the event with this mark is not in the log.
    private func isLost(_ mark: String) -> Bool {
        let parts = mark.split(separator: ":")
        guard parts.count == 2, let sequence = Int64(parts[1]), let log else { return true }
        if parts[0] == log.generation { return sequence > log.sequence }
        return sequence > log.forks.first { $0.generation == parts[0] }?.kept ?? -1
    }

    /// As Lua's cjson writes a string.
    static func quoted(_ text: String) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\", "/": quoted += "\\\(scalar)"
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }
}

extension GroupServerModel.Verb {
    /// The members that call.
    package var ids: [String] {
        switch self {
        case .watch, .order, .note: []
        case .beat(let id, _, _, _, _), .leave(let id, _, _, _): [id]
        case .beats(let beats): beats.map(\.id)
        case .join(let record, _, _, _): [record.id]
        }
    }
}
