// SPDX-License-Identifier: Apache-2.0
//
// How groups look in JSON: the HTTP answers and the command line's --json are the same words.
package import Ringfence

/// A group with what is left of each lease, or, when Redis cannot be asked, as it was last seen.
package struct GroupView: Sendable {
    package struct Entry: Sendable {
        package var member: Member
        /// nil when Redis cannot be asked.
        package var remaining: Duration?
    }

    package var group: String
    package var version: Int64
    package var gen: String
    package var isStale: Bool
    package var age: Duration
    /// nil when Redis cannot be asked.
    package var held: Duration?
    package var members: [Entry]

    /// As Redis has just answered.
    package init(_ status: GroupStatus) {
        group = status.name
        version = status.version
        gen = status.gen
        isStale = false
        age = .zero
        held = status.held
        members = status.members.map { Entry(member: $0.member, remaining: $0.remaining) }
    }

    /// As this process last saw it.
    package init(lastSeen snapshot: GroupSnapshot) {
        group = snapshot.group
        version = snapshot.version
        gen = snapshot.gen
        isStale = true
        age = snapshot.age
        members = snapshot.members.map { Entry(member: $0) }
    }
}

extension JSONWriter {
    /// A group.
    package static func describing(_ view: GroupView) -> JSONWriter {
        var json = JSONWriter(capacity: 256 + 256 * view.members.count)
        json.object { json in
            json.field("group", view.group)
            json.field("version", view.version)
            json.field("gen", view.gen)
            json.field("stale", view.isStale)
            json.field("ageMs", view.age.wholeMilliseconds)
            json.milliseconds("heldMs", view.held)
            json.key("members")
            json.array(view.members) { json, entry in
                json.object { json in
                    json.fields(of: entry.member)
                    json.milliseconds("remainingMs", entry.remaining)
                }
            }
        }
        return json
    }

    /// One line of the list of groups.
    package mutating func group(_ summary: GroupSummary) {
        object { json in
            json.field("group", summary.name)
            json.field("version", summary.version)
            json.field("members", summary.memberCount)
        }
    }

    /// A member, as its record has it, with its id.
    package mutating func member(_ member: Member) {
        object { $0.fields(of: member) }
    }

    private mutating func fields(of member: Member) {
        field("id", member.id)
        field("session", member.session)
        field("leaseMs", member.lease.wholeMilliseconds)
        if !member.address.isEmpty { field("address", member.address) }
        if !member.zone.isEmpty { field("zone", member.zone) }
        field("weight", member.weight)
        field("priority", member.priority)
        if !member.capability.isEmpty { field("capability", member.capability) }
        if !member.metadata.isEmpty {
            key("metadata")
            object { json in
                for (key, value) in member.metadata.sorted(by: { $0.key < $1.key }) { json.field(key, value) }
            }
        }
    }

    private mutating func milliseconds(_ name: String, _ duration: Duration?) {
        key(name)
        if let duration { integer(duration.wholeMilliseconds) } else { null() }
    }
}
