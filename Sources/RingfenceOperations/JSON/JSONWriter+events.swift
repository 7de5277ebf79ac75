// SPDX-License-Identifier: Apache-2.0
//
// How the event log looks in JSON. An event is given byte for byte as it stands in the log.
package import Ringfence

extension JSONWriter {
    /// A page of events.
    package static func describing(_ events: [Event], next: EventCursor, end: EventCursor, oldest: EventCursor)
        -> JSONWriter
    {
        var json = JSONWriter(capacity: 256 + events.reduce(0) { $0 + $1.json.count })
        json.object { json in
            json.key("events")
            json.array(events) { $0.event($1) }
            json.field("next", next.description)
            json.field("end", end.description)
            json.field("oldest", oldest.description)
        }
        return json
    }

    /// One event, as it stands in the log.
    package mutating func event(_ event: Event) { raw(String(decoding: event.json, as: UTF8.self)) }

    /// The groups at one moment of the log; after a reset with how many events it stands for.
    package static func describing(_ state: EventState, reset: (lost: Int?, Void)? = nil) -> JSONWriter {
        var json = JSONWriter(capacity: 1_024)
        json.object { json in
            json.field("cursor", state.cursor.description)
            json.field("oldest", state.oldest.description)
            if let reset {
                json.key("lost")
                if let lost = reset.lost { json.integer(lost) } else { json.null() }
            }
            json.key("groups")
            json.array(state.groups) { json, group in
                json.object { json in
                    json.field("group", group.group)
                    json.field("version", group.version)
                    json.field("breaker", group.breaker.rawValue)
                    json.key("members")
                    json.array(group.members) { $0.member($1) }
                }
            }
        }
        return json
    }
}
