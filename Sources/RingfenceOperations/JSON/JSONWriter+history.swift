// SPDX-License-Identifier: Apache-2.0
//
// How a group's history looks in JSON: the HTTP answer and the command line's --json are the same words.

import Ringfence

extension JSONWriter {
    /// What happened to a group's primary, the newest last.
    package static func describing(_ newest: GroupHistory.Newest, of group: String) -> JSONWriter {
        var json = JSONWriter(capacity: 64 + 256 * newest.entries.count)
        json.object { json in
            json.field("group", group)
            json.field("complete", newest.isComplete)
            json.key("entries")
            json.array(newest.entries) { $0.entry($1) }
        }
        return json
    }

    /// One entry.
    package mutating func entry(_ entry: HistoryEntry) {
        object { json in
            json.field("cursor", entry.cursor.description)
            json.field("at", entry.at)
            json.field("kind", entry.kind.rawValue)
            if let epoch = entry.epoch { json.field("epoch", epoch) }
            let texts = [
                ("from", entry.from), ("to", entry.to), ("reason", entry.reason), ("note", entry.note),
                ("actor", entry.actor),
            ]
            for (name, text) in texts { if let text, !text.isEmpty { json.field(name, text) } }
            let durations = [
                ("detectMs", entry.detection), ("decideMs", entry.decision), ("drainMs", entry.drain),
                ("promoteMs", entry.promotion), ("totalMs", entry.total),
            ]
            for (name, duration) in durations { if let duration { json.field(name, duration.wholeMilliseconds) } }
        }
    }
}
