// SPDX-License-Identifier: Apache-2.0
package import Ringfence
import RingfenceCore

/// The details of an event that are worth showing beside its type and its member.
package enum EventNotes {
    /// In the order in which they are read.
    package static func notes(on event: Event) -> [String] {
        var notes: [String] = []
        let isAboutPrimary = event.type.description.hasPrefix("primary.")
        if let epoch = event.epoch { notes.append("epoch \(epoch)") }
        if let version = event.version, !isAboutPrimary { notes.append("version \(version)") }
        if event.changes > 1 { notes.append("one of \(event.changes)") }
        if let joined = event.joined {
            if !joined.address.isEmpty { notes.append(joined.address) }
            if !joined.zone.isEmpty { notes.append("zone \(joined.zone)") }
            notes.append("weight \(joined.weight)")
        }
        if isAboutPrimary, let previous = event.previous, !previous.isEmpty { notes.append("after \(previous)") }
        if let reason = event.reason, !reason.isEmpty { notes.append(reason) }
        if let actor = event.actor, !actor.isEmpty { notes.append("by \(actor)") }
        return notes + details(of: event)
    }

    /// The parts of an event's detail that are worth showing.
    private static func details(of event: Event) -> [String] {
        guard let detail = event.detail, event.joined == nil else { return [] }
        let durations = [
            ("detectMs", "detection "), ("decideMs", "decision "), ("promoteMs", "promotion "), ("forMs", "for "),
            ("timeoutMs", "within "), ("gapMs", "gap "), ("graceMs", "grace "),
        ]
        let texts = ["why", "state", "hook", "outcome", "check", "output"]
        let object = try? JSONObject.reading(
            durations.map(\.0) + texts + ["on", "standbys", "least"], raw: "", of: Array(detail.utf8)
        )
        .object
        guard let object else { return [] }
        var notes: [String] = []
        for (name, word) in durations {
            guard case .integer(let milliseconds)? = object[name] else { continue }
            // An election whose primary left by itself was detected at once: nothing to say.
            if milliseconds > 0 || name == "promoteMs" {
                notes.append(word + Duration.milliseconds(milliseconds).shortText)
            }
        }
        for name in texts {
            if case .string(let text)? = object[name], !text.isEmpty { notes.append(String(text.prefix(120))) }
        }
        if case .bool(let isOn)? = object["on"] { notes.append(isOn ? "on" : "off") }
        if case .integer(let standbys)? = object["standbys"], case .integer(let least)? = object["least"] {
            notes.append("\(standbys) of \(least) standbys")
        }
        return notes
    }
}
