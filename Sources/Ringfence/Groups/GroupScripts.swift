// SPDX-License-Identifier: Apache-2.0
//
// The group script (Scripts/group, joined) as typed calls. Its first file says what each argument means. Answers are
// decoded strictly: a shape that the script cannot have made is an error, never a guess. But for one thing: a member
// whose record cannot be read, because somebody wrote it by hand or a later version has other limits, is left out,
// loudly. The ring here then differs from that of a process that can read the record; as an error it would suspend
// every member of the group for the sake of one.

import Hiredis
import RingfenceCore

struct GroupScripts: Sendable {
    private static let plain = RedisScript(GroupScriptText.group)
    private static let sharded = RedisScript(ScriptFlavour.sharded.text(GroupScriptText.group))

    /// The seed and points per weight of a group made by somebody who asked for none.
    static let defaultPolicy = RingPolicy(seed: 0, pointsPerWeight: 256)

    let keys: Keyspace
    let eventLength: String
    let nonces: NonceSource
    let limits: NamespaceLimits
    private let script: RedisScript
    private let mayBeElected: @Sendable () -> Bool

    /// `text`: another one than `GroupScriptText.group`. `mayBeElected`: whether candidates of this client may begin a
    /// role now.
    init(
        keys: Keyspace, eventLength: Int, nonces: NonceSource, limits: NamespaceLimits = NamespaceLimits(),
        text: String? = nil, mayBeElected: @escaping @Sendable () -> Bool = { true }
    ) {
        self.mayBeElected = mayBeElected
        self.limits = limits
        self.keys = keys
        self.eventLength = String(eventLength)
        self.nonces = nonces
        script = text.map { RedisScript($0) } ?? (keys.flavour == .sharded ? Self.sharded : Self.plain)
    }

    // MARK: Calls

    /// `cursor`: the `next` of the page before, if this is to go on from there.
    func watch(
        _ group: String, _ known: GroupKnowledge, leases: Bool = false, cursor: String? = nil
    ) -> ScriptCall {
        var call = call("watch", group, known, arguments: 2) { writer in
            writer.argument(leases ? "leases" : "")
            writer.argument(cursor ?? known.cursor)
        }
        // A page.
        call.answerBytes = 80_000
        return call
    }

    /// `joined`: the mark of its join. `status`: of a candidate.
    func beat(
        _ group: String, _ known: GroupKnowledge, id: String, session: String, leaseMilliseconds: Int64, joined: String,
        status: CandidateStatus? = nil
    ) -> ScriptCall {
        call("beat", group, known, arguments: 4 + (status == nil ? 0 : 3)) { writer in
            writer.argument(id)
            writer.argument(session)
            writer.argument(leaseMilliseconds)
            writer.argument(joined)
            status.map { judged($0) }?.encode(&writer)
        }
    }

    /// A candidate without a role says that it is not to get one; a primary stays what it is.
    private func judged(_ status: CandidateStatus) -> CandidateStatus {
        guard status.unfit.isEmpty, !mayBeElected() else { return status }
        switch status.claim {
        case .elected, .ready, .readyToHandOver: return status
        case .none, .gone:
            var status = status
            status.unfit = "half of the Sentinels or more do not answer"
            return status
        }
    }

    /// Of many members, none of them a candidate.
    func beats(_ group: String, _ beats: [GroupAnswer.Beat]) -> ScriptCall {
        call("beats", group, .notAsking, arguments: 1 + 4 * beats.count) { writer in
            writer.argument(Int64(beats.count))
            for beat in beats {
                writer.argument(beat.id)
                writer.argument(beat.session)
                writer.argument(beat.leaseMilliseconds)
                writer.argument(beat.joined)
            }
        }
    }

    func join(
        _ group: String, _ known: GroupKnowledge, _ record: MemberRecord, _ mode: JoinMode, _ policy: RingPolicy,
        status: CandidateStatus? = nil
    ) -> ScriptCall {
        let json = record.json
        let limits = limits
        return call("join", group, known, arguments: 9 + (status == nil ? 0 : 3)) { writer in
            writer.argument(record.id)
            writer.argument(record.session)
            writer.argument(record.leaseMilliseconds)
            writer.argument(json)
            writer.argument(mode.text)
            writer.argument("\(policy.seed)")
            writer.argument(Int64(policy.pointsPerWeight))
            writer.argument(Int64(limits.members))
            writer.argument(Int64(limits.groups))
            status.map { judged($0) }?.encode(&writer)
        }
    }

    /// `id`: the same whenever the order is repeated.
    func order(
        _ group: String, _ known: GroupKnowledge, _ order: RoleOrder, actor: String, reason: String, id: String
    ) -> ScriptCall {
        let settings = order.settings
        return call("order", group, known, arguments: 6 + 2 * settings.count) { writer in
            writer.argument(order.name)
            writer.argument(order.member)
            writer.argument(order.number)
            writer.argument(actor)
            writer.argument(reason)
            writer.argument(id)
            for setting in settings {
                writer.argument(setting.name)
                writer.argument(setting.value)
            }
        }
    }

    /// An event that changes nothing.
    func note(
        _ group: String, _ known: GroupKnowledge, type: String, member: String, reason: String, actor: String,
        detail: [UInt8]
    ) -> ScriptCall {
        call("note", group, known, arguments: 5) { writer in
            writer.argument(type)
            writer.argument(member)
            writer.argument(reason)
            writer.argument(actor)
            writer.argument(detail)
        }
    }

    /// `session`: empty for any.
    func leave(
        _ group: String, _ known: GroupKnowledge, id: String, session: String, reason: String, actor: String
    ) -> ScriptCall {
        call("leave", group, known, arguments: 4) { writer in
            writer.argument(id)
            writer.argument(session)
            writer.argument(reason)
            writer.argument(actor)
        }
    }

    private func call(
        _ verb: String, _ group: String, _ known: GroupKnowledge, arguments: Int,
        _ more: @escaping @Sendable (inout CommandWriter) -> Void
    ) -> ScriptCall {
        let keys = keys
        let eventLength = eventLength
        let generation = nonces.generation()
        return ScriptCall(script: script, keys: 11, arguments: 10 + arguments) { writer in
            writer.argument(keys.leases, group)
            writer.argument(keys.members, group)
            writer.argument(keys.state, group)
            writer.argument(keys.policy, group)
            writer.argument(keys.groups)
            writer.argument(keys.events)
            writer.argument(keys.log)
            writer.argument(keys.candidates, group)
            writer.argument(keys.changes, group)
            writer.argument(keys.gone, group)
            writer.argument(keys.absent)
            writer.argument(verb)
            writer.argument(group)
            writer.argument(generation)
            writer.argument(eventLength)
            writer.argument(known.version)
            writer.argument(known.asks ? known.mark : "-")
            writer.argument(known.longestLeaseMilliseconds)
            if let policy = known.policy {
                writer.argument("\(policy.seed)")
                writer.argument(Int64(policy.pointsPerWeight))
            } else {
                writer.argument("")
                writer.argument("")
            }
            writer.argument(known.epoch)
            more(&writer)
        }
    }

    // MARK: Answers

    /// nil if the script cannot have made it.
    static func answer(_ reply: RedisReply) -> GroupAnswer? {
        guard case .array(let items) = reply, items.count == 9 || items.count == 15 || items.count == 16,
            let text = items[0].text, let (status, holder) = Self.status(text), let generation = items[1].text,
            case .integer(let sequence) = items[2], case .integer(let version) = items[3], let mark = items[4].text,
            case .integer(let next) = items[5], case .integer(let pace) = items[6], case .integer(let grace) = items[7],
            case .integer(let recovery) = items[8], pace > 0
        else { return nil }
        var content: GroupAnswer.Content?
        if items.count > 9 {
            guard let decoded = Self.content(items[9...]) else { return nil }
            content = decoded
        }
        var answer = GroupAnswer(
            status: status, generation: generation, sequence: sequence, version: version, mark: mark,
            nextMilliseconds: next < 0 ? nil : next,
            paceMilliseconds: pace, graceMilliseconds: grace, recoveryMilliseconds: recovery, content: content,
            holder: holder)
        if status == .beats {
            guard let statuses = Self.statuses(text) else { return nil }
            answer.statuses = statuses
        }
        return answer
    }

    /// `beats:` and a letter for each.
    private static func statuses(_ text: String) -> [GroupAnswer.Status]? {
        var statuses: [GroupAnswer.Status] = []
        for letter in text.utf8.dropFirst("beats:".utf8.count) {
            switch letter {
            case UInt8(ascii: "m"): statuses.append(.member)
            case UInt8(ascii: "r"): statuses.append(.replaced)
            case UInt8(ascii: "u"): statuses.append(.unknown)
            case UInt8(ascii: "e"): statuses.append(.expired)
            default: return nil
            }
        }
        return statuses
    }

    /// `taken` says more: `taken:<ms>:<address>`.
    private static func status(_ text: String) -> (GroupAnswer.Status, GroupAnswer.Holder?)? {
        if text.hasPrefix("beats:") { return (.beats, nil) }
        guard text.hasPrefix("taken:") else { return GroupAnswer.Status(rawValue: text).map { ($0, nil) } }
        let parts = text.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3, let milliseconds = Int64(parts[1]) else { return nil }
        return (.taken, GroupAnswer.Holder(milliseconds: milliseconds, address: String(parts[2])))
    }

    private static func content(_ items: ArraySlice<RedisReply>) -> GroupAnswer.Content? {
        let items = Array(items)
        let (isUnchanged, isMore) = (items[0].text == "unchanged", items[0].text == "more")
        guard case .array(var pairs) = isUnchanged || isMore ? .array([]) : items[0], case .array(let ends) = items[1],
            let seed = items[2].text, let pointsPerWeight = items[3].text, ends.count % 2 == 0
        else { return nil }
        var page: GroupAnswer.Page?
        if pairs.count % 2 == 1 {
            guard pairs.count >= 3, pairs[0].text == "page", let from = pairs[1].text, let next = pairs[2].text else {
                return nil
            }
            page = GroupAnswer.Page(from: from, next: next)
            pairs.removeFirst(3)
        }
        guard pairs.count % 2 == 0 else { return nil }
        var members: [MemberRecord] = []
        members.reserveCapacity(pairs.count / 2)
        var unreadable: [String] = []
        for index in stride(from: 0, to: pairs.count, by: 2) {
            guard case .string(let name) = pairs[index], case .string(let json) = pairs[index + 1] else { return nil }
            if page != nil, json.isEmpty, let id = pairs[index].text {
                page?.gone.append(id)
            } else if let id = pairs[index].text, let record = try? MemberRecord(id: id, json: json) {
                members.append(record)
            } else {
                unreadable.append(String(decoding: name, as: UTF8.self))
            }
        }
        members.sort { $0.id.isBefore($1.id) }
        var left: [[UInt8]: Int64] = [:]
        for index in stride(from: 0, to: ends.count, by: 2) {
            guard case .string(let id) = ends[index], case .integer(let milliseconds) = ends[index + 1] else {
                return nil
            }
            left[id] = milliseconds
        }
        // A member whose lease somebody deleted by hand has none left.
        let leases = left.isEmpty ? [] : members.map { left[Array($0.id.utf8)] ?? 0 }
        var policy: RingPolicy?
        if !seed.isEmpty {
            guard let seed = UInt64(seed), let pointsPerWeight = Int(pointsPerWeight),
                Limits.pointsPerWeight.contains(pointsPerWeight)
            else { return nil }
            policy = RingPolicy(seed: seed, pointsPerWeight: pointsPerWeight)
        }
        guard let (role, since) = role(items[4]), let settings = settings(items[5]) else { return nil }
        var report: RoleReport?
        if items.count > 6 {
            guard let decoded = Self.report(items[6]) else { return nil }
            report = decoded
        }
        page?.members = members
        var content = GroupAnswer.Content(
            members: isUnchanged || isMore || page != nil ? nil : members, leases: leases, policy: policy,
            unreadable: unreadable, role: role,
            sinceMilliseconds: since, settings: settings, report: report)
        content.page = page
        content.isMore = isMore
        return content
    }

    private static func role(_ reply: RedisReply) -> (GroupRole, since: Int64)? {
        guard case .array(let items) = reply, items.count == 11, case .integer(let epoch) = items[0],
            let primary = items[1].text, let session = items[2].text,
            let phase = items[3].text.flatMap({ GroupRole.Phase(rawValue: $0) }), case .integer(let since) = items[4],
            let target = items[5].text, case .integer(let forced) = items[6], case .integer(let short) = items[7],
            let last = items[8].text, let readyMember = items[9].text, case .integer(let readyEpoch) = items[10]
        else { return nil }
        let role = GroupRole(
            epoch: epoch, primary: primary, session: session, phase: phase, target: target, isForced: forced == 1,
            isShort: short > 0, suspendsWrites: short == 2, last: last,
            readyMember: readyMember, readyEpoch: readyEpoch)
        return (role, since)
    }

    private static func settings(_ reply: RedisReply) -> [String: String]? {
        guard case .array(let items) = reply, items.count % 2 == 0 else { return nil }
        var settings: [String: String] = [:]
        for index in stride(from: 0, to: items.count, by: 2) {
            guard let name = items[index].text, let value = items[index + 1].text else { return nil }
            settings[name] = value
        }
        return settings
    }

    private static func report(_ reply: RedisReply) -> RoleReport? {
        guard case .array(let items) = reply, items.count == 7, case .integer(let paused) = items[0],
            case .integer(let braked) = items[1], case .integer(let elect) = items[2],
            case .integer(let handover) = items[3], case .array(let texts) = items[4], texts.count % 3 == 0,
            case .array(let entries) = items[5], case .integer(let orderEpoch) = items[6]
        else { return nil }
        var refusals: [RoleReason] = []
        for index in stride(from: 0, to: texts.count, by: 3) {
            guard let code = texts[index].text, let member = texts[index + 1].text, let detail = texts[index + 2].text
            else { return nil }
            refusals.append(RoleReason(code, member: member, detail: detail))
        }
        var candidates: [RoleReport.Candidate] = []
        for entry in entries {
            guard case .array(let parts) = entry, parts.count == 7, let id = parts[0].text,
                case .integer(let lag) = parts[1], let position = parts[2].text, case .integer(let fit) = parts[3],
                case .integer(let penalty) = parts[4], case .integer(let maintained) = parts[5],
                case .array(let reasons) = parts[6], reasons.count % 2 == 0
            else { return nil }
            var list: [RoleReason] = []
            for index in stride(from: 0, to: reasons.count, by: 2) {
                guard let code = reasons[index].text, let detail = reasons[index + 1].text else { return nil }
                list.append(RoleReason(code, member: id, detail: detail))
            }
            candidates.append(
                RoleReport.Candidate(
                    id: id, lag: lag < 0 ? nil : lag, position: Int64(position), fitMilliseconds: fit,
                    penalty: penalty, isInMaintenance: maintained == 1, reasons: list))
        }
        return RoleReport(
            pausedMilliseconds: paused, brakedMilliseconds: braked, electMilliseconds: elect,
            handoverMilliseconds: handover,
            refusals: refusals, candidates: candidates, orderEpoch: orderEpoch)
    }
}

extension CandidateStatus {
    fileprivate func encode(_ writer: inout CommandWriter) {
        writer.argument(claim.text)
        writer.argument(position.map { "\($0)" } ?? "-")
        writer.argument(unfit)
    }
}
