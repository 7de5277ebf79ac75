// SPDX-License-Identifier: Apache-2.0
//
// What the reference model answers: changes and pages of members.
import RingfenceCore

extension GroupServerModel {
    func noteChanges(_ call: inout Call, since before: Group) {
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

    static func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

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
    func keptFor(_ held: Held, _ new: MemberRecord, _ group: Group) -> Int64 {
        let left = max(0, held.ends - group.now)
        let (its, own) = (held.record.address, new.address)
        if !its.isEmpty, !own.isEmpty, !its.hasSameBytes(as: own) { return left }
        guard group.isPrimary(held.record) else { return 0 }
        return min(left, max(0, group.restsUntil(held.record.id) - group.now))
    }

    func answer(_ status: GroupAnswer.Status, _ call: Call) -> GroupAnswer {
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
}
