// SPDX-License-Identifier: Apache-2.0
//
// What a Redis that runs group.lua does, said in Swift: the reference model. The simulation runs the machines against it,
// and the script fuzz compares it with the real script on a real Redis, so a mistake must be made twice, in two languages
// and two ways of thinking, to stay unseen. It is written from the contract in the script's header:
//
//  - a group is its members, each with the end of its lease in group time, and a version with the mark of its last event;
//  - a call is: time, then whether the server is still the same, then healing, then the dead, then the verb; each change set is one version;
//  - an event is written down once, under the next number of the log; the log forks when its server is another.
//
// Nothing is kept that can be told from the members: the script counts leases, the model looks. Time is the caller's: `clock`
// is the server's, in ms, and may step either way. `Flaws` are wrong on purpose, for the controls that must fail.
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
        package init() {}
    }

    package enum Verb: Sendable {
        case watch(leases: Bool)
        case beat(id: String, session: String, leaseMilliseconds: Int64, joined: String)
        case join(MemberRecord, JoinMode, RingPolicy)
        case leave(id: String, session: String, reason: String, actor: String)
    }

    package struct Held: Sendable, Equatable {
        package var record: MemberRecord
        package var ends: Int64
        /// The sessions it took the id from, newest first.
        package var before: [String] = []
    }

    package struct Group: Sendable, Equatable {
        package var version: Int64 = 0
        package var mark = ""
        package var now: Int64 = 0
        package var offset: Int64 = 0
        package var holdUntil: Int64 = 0
        package var recoverUntil: Int64 = 0
        /// In a row, up to the last call.
        package var gaps: Int64 = 0
        /// The server that was seen last, and when.
        package var run = ""
        package var runAt: Int64 = 0
        /// By the bytes of their ids.
        package var members: [[UInt8]: Held] = [:]
        package var policy: RingPolicy?

        package init() {}

        package var shortest: Int64 { members.values.map(\.record.leaseMilliseconds).min() ?? 0 }
        package var longest: Int64 { members.values.map(\.record.leaseMilliseconds).max() ?? 0 }
        package var pace: Int64 { members.isEmpty ? 1000 : min(1000, shortest / 5) }
        package var firstEnd: Int64? { members.values.map(\.ends).min() }
    }

    package struct Event: Sendable, Equatable {
        package var gen: String
        package var seq: Int64
        package var group: String
        package var type: String
        package var member: String?
        package var version: Int64?
        package var of: Int = 1
        package var record: MemberRecord?
        package var text: String
    }

    package struct Log: Sendable, Equatable {
        package var gen: String
        package var seq: Int64
        package var run: String
        /// The last number kept of each generation that ended, newest first.
        package var forks: [(gen: String, kept: Int64)] = []

        package static func == (one: Log, other: Log) -> Bool {
            one.gen == other.gen && one.seq == other.seq && one.run == other.run
                && one.forks.elementsEqual(other.forks) { $0 == $1 }
        }
    }

    /// The server's clock, ms.
    package var clock: Int64
    /// Which server process it is, and of which history.
    package var run: String
    package private(set) var groups: [String: Group] = [:]
    package private(set) var log: Log?
    package private(set) var events: [Event] = []
    private let flaws: Flaws

    package init(clock: Int64, run: String = "run1", flaws: Flaws = Flaws()) {
        self.clock = clock
        self.run = run
        self.flaws = flaws
    }

    /// Everything is gone.
    package mutating func forgetEverything() {
        groups = [:]
        log = nil
        events = []
    }

    /// What an older copy knew is all there is.
    package mutating func stepBack(to copy: GroupServerModel) {
        groups = copy.groups
        log = copy.log
        events = copy.events
    }

    // MARK: A call

    package mutating func call(
        _ verb: Verb, _ name: String, fresh: String, known: GroupKnowledge
    ) -> GroupAnswer {
        var group = groups[name] ?? Group()
        passTime(&group, name, fresh)
        lookAtServer(&group, name, fresh)
        heal(&group, name, fresh, known)
        buryTheDead(&group, name, fresh, verb.id)
        let status = perform(verb, &group, name, fresh)
        if group.version > 0 { groups[name] = group }
        return answer(status, group, known, verb)
    }

    private mutating func passTime(_ group: inout Group, _ name: String, _ fresh: String) {
        let due = clock + group.offset
        let elapsed = due - group.now
        var isGap = false
        defer { if !isGap { group.gaps = 0 } }
        if elapsed < 0 {
            group.offset -= elapsed
        } else if !group.members.isEmpty, group.now > 0, 2 * elapsed > 5 * group.pace, !flaws.ignoresGaps {
            group.gaps += 1
            isGap = true
            group.offset -= elapsed - (group.gaps > 2 ? group.pace : 0)
            let now = clock + group.offset
            let hold = min(group.longest, max(group.shortest, 3000))
            let mayHold = now - group.holdUntil >= hold
            if mayHold { group.holdUntil = now + hold }
            note(
                name, "coordinator.gap", fresh, more: ",\"reason\":\"silence\"",
                detail: "{\"gapMs\":\(elapsed),\"holdMs\":\(mayHold ? hold : 0)}")
        }
        group.now = clock + group.offset
    }

    /// Before anybody is taken out, and every 10 s: another server may have lost the last beats.
    private mutating func lookAtServer(_ group: inout Group, _ name: String, _ fresh: String) {
        guard let firstEnd = group.firstEnd else { return }
        let isDue = group.now >= max(firstEnd, group.holdUntil)
        guard isDue || group.now - group.runAt >= 10_000 else { return }
        if !group.run.isEmpty, group.run != run {
            let grace = 4 * group.pace
            note(
                name, "coordinator.gap", fresh, more: ",\"reason\":\"server\"",
                detail: "{\"gapMs\":0,\"holdMs\":\(grace)}")
            for id in group.members.keys { group.members[id]!.ends += grace }
        }
        (group.run, group.runAt) = (run, group.now)
    }

    private mutating func heal(_ group: inout Group, _ name: String, _ fresh: String, _ known: GroupKnowledge) {
        guard !flaws.neverHeals else { return }
        guard (known.version, known.mark) != (group.version, group.mark), known.version >= group.version else { return }
        let stored = group.version
        group.version = known.version
        group.policy = known.policy ?? group.policy
        group.holdUntil = max(group.holdUntil, group.now + max(group.longest, known.longestLeaseMilliseconds))
        group.recoverUntil = group.holdUntil
        change(
            &group, name, fresh, [("state.rolledBack", nil, nil, "{\"from\":\(known.version),\"to\":\(stored)}", "")])
    }

    private mutating func buryTheDead(_ group: inout Group, _ name: String, _ fresh: String, _ caller: String?) {
        guard group.now >= group.holdUntil else { return }
        let now = group.now
        var dead = group.members.values.filter { $0.ends <= now }.sorted {
            $0.ends != $1.ends ? $0.ends < $1.ends : $0.record.id.isBefore($1.record.id)
        }
        if dead.count > 64 {
            let late = dead[64...].first { $0.record.id == caller }
            dead = Array(dead.prefix(64)) + (late.map { [$0] } ?? [])
        }
        guard !dead.isEmpty else { return }
        change(
            &group, name, fresh,
            dead.map { held in
                let detail = "{\"session\":\"\(held.record.session)\",\"lateMs\":\(now - held.ends)}"
                return ("member.expired", held.record.id, nil, detail, "")
            })
        guard !flaws.leavesTheDead else { return }
        for held in dead { group.members[Array(held.record.id.utf8)] = nil }
    }

    private mutating func perform(
        _ verb: Verb, _ group: inout Group, _ name: String, _ fresh: String
    ) -> GroupAnswer.Status {
        switch verb {
        case .watch: return .watching
        case .beat(let id, let session, let lease, let joined):
            guard let held = group.members[Array(id.utf8)] else { return isLost(joined) ? .unknown : .expired }
            guard held.record.session == session else { return .replaced }
            group.members[Array(id.utf8)]!.ends = group.now + lease
            return .member
        case .join(let record, let mode, let policy):
            return join(record, mode, policy, &group, name, fresh)
        case .leave(let id, let session, let reason, let actor):
            guard let held = group.members[Array(id.utf8)], session.isEmpty || held.record.session == session else {
                return .gone
            }
            var more = reason.isEmpty ? "" : ",\"reason\":\(Self.quoted(reason))"
            if !actor.isEmpty { more += ",\"actor\":\(Self.quoted(actor))" }
            change(
                &group, name, fresh, [("member.left", id, nil, "{\"session\":\"\(held.record.session)\"}", more)])
            group.members[Array(id.utf8)] = nil
            return .left
        }
    }

    private mutating func join(
        _ record: MemberRecord, _ mode: JoinMode, _ policy: RingPolicy, _ group: inout Group, _ name: String,
        _ fresh: String
    ) -> GroupAnswer.Status {
        let key = Array(record.id.utf8)
        let wasEmpty = group.members.isEmpty
        let text = String(decoding: record.json, as: UTF8.self)
        defer { if wasEmpty, group.members[key] != nil { (group.run, group.runAt) = (run, group.now) } }
        let held = group.members[key]
        var before: [String] = []
        if let held, held.record.session == record.session {
            if held.record.json != record.json {
                change(&group, name, fresh, [("member.updated", record.id, record, text, "")])
            }
            before = held.before
        } else if let held {
            let isLate = held.before.contains(record.session) && !flaws.forgetsTheReplaced
            guard mode == .first || mode == .over(held.record.session), !isLate else { return .replaced }
            let more = ",\"previous\":\"\(held.record.session)\",\"reason\":\"replaced\""
            group.policy = group.policy ?? policy
            change(&group, name, fresh, [("member.joined", record.id, record, text, more)])
            before = Array(([held.record.session] + held.before).prefix(4))
        } else if case .stay(let joined) = mode {
            return !joined.isEmpty && isLost(joined) ? .unknown : .expired
        } else {
            group.policy = group.policy ?? policy
            change(&group, name, fresh, [("member.joined", record.id, record, text, ",\"reason\":\"new\"")])
        }
        group.members[key] = Held(record: record, ends: group.now + record.leaseMilliseconds, before: before)
        return .member
    }

    private func answer(
        _ status: GroupAnswer.Status, _ group: Group, _ known: GroupKnowledge, _ verb: Verb
    ) -> GroupAnswer {
        var asksForLeases = false
        if case .watch(true) = verb { asksForLeases = true }
        var content: GroupAnswer.Content?
        if known.mark != group.mark || asksForLeases {
            let all = group.members.values.sorted { $0.record.id.isBefore($1.record.id) }
            content = GroupAnswer.Content(
                members: all.map(\.record), leases: asksForLeases ? all.map { max(0, $0.ends - group.now) } : [],
                policy: group.policy)
        }
        return GroupAnswer(
            status: status, gen: log?.gen ?? "", seq: log?.seq ?? 0, version: group.version, mark: group.mark,
            nextMilliseconds: group.firstEnd.map { max(0, max($0, group.holdUntil) - group.now) },
            paceMilliseconds: group.pace, heldMilliseconds: max(0, group.holdUntil - group.now),
            recoveryMilliseconds: max(0, group.recoverUntil - group.now), content: content)
    }

    // MARK: The log

    private mutating func change(
        _ group: inout Group, _ name: String, _ fresh: String,
        _ changes: [(type: String, member: String?, record: MemberRecord?, detail: String, more: String)]
    ) {
        group.version += 1
        for change in changes {
            note(
                name, change.type, fresh, member: change.member, version: group.version, of: changes.count,
                record: change.record, more: change.more, detail: change.detail)
        }
        group.mark = "\(log!.gen):\(log!.seq)"
    }

    private mutating func note(
        _ group: String, _ type: String, _ fresh: String, member: String? = nil, version: Int64? = nil, of: Int = 1,
        record: MemberRecord? = nil, more: String = "", detail: String
    ) {
        var log = self.log ?? Log(gen: fresh, seq: 0, run: run)
        if log.run != run {
            log.forks = Array(([(log.gen, log.seq)] + log.forks).prefix(16))
            log.gen = fresh
            log.run = run
        }
        log.seq += 1
        self.log = log
        var text = "{\"gen\":\"\(log.gen)\",\"seq\":\(log.seq),\"at\":\(clock),\"type\":\"\(type)\""
        text += ",\"group\":\(Self.quoted(group))"
        if let member { text += ",\"member\":\(Self.quoted(member))" }
        if let version { text += ",\"version\":\(version)" }
        if of > 1 { text += ",\"of\":\(of)" }
        text += "\(more),\"detail\":\(detail)}"
        events.append(
            Event(
                gen: log.gen, seq: log.seq, group: group, type: type, member: member, version: version, of: of,
                record: record, text: text))
    }

    /// Whether the event with this mark is not in the log.
    private func isLost(_ mark: String) -> Bool {
        let parts = mark.split(separator: ":")
        guard parts.count == 2, let seq = Int64(parts[1]), let log else { return true }
        if parts[0] == log.gen { return seq > log.seq }
        return seq > log.forks.first { $0.gen == parts[0] }?.kept ?? -1
    }

    /// As Lua's cjson writes a string.
    private static func quoted(_ text: String) -> String {
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
    /// The member that calls.
    package var id: String? {
        switch self {
        case .watch: nil
        case .beat(let id, _, _, _), .leave(let id, _, _, _): id
        case .join(let record, _, _): record.id
        }
    }
}
