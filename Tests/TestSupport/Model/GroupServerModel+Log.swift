// SPDX-License-Identifier: Apache-2.0
//
// The event log of the reference model: numbers, marks, forks and the text of an event.
import RingfenceCore

extension GroupServerModel {
    mutating func change(_ call: inout Call, _ news: News...) { change(&call, news) }

    /// A new group goes on from all that were removed.
    func begin(_ call: inout Call) {
        call.group.version = floors.version
        guard floors.epoch > call.group.office.epoch else { return }
        (call.group.office.epoch, call.group.office.lostAt) = (floors.epoch, call.group.now)
    }

    mutating func change(_ call: inout Call, _ all: [News]) {
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

    mutating func write(_ news: News, _ call: inout Call, version: Int64? = nil, of: Int = 1) {
        var log = self.log ?? Log(generation: call.fresh, sequence: 0, run: run)
        if log.run != run {
            log.forks = Array(([(log.generation, log.sequence)] + log.forks).prefix(16))
            log.generation = call.fresh
            log.run = run
        }
        log.sequence += 1
        self.log = log
        var text =
            #"{"generation":"\#(log.generation)","sequence":\#(log.sequence),"at":\#(clock),"type":"\#(news.type)""#
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
    func isLost(_ mark: String) -> Bool {
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
