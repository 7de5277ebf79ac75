// SPDX-License-Identifier: Apache-2.0
//
// How a ring looks in JSON: the HTTP answers and the command line's --json are the same words. Positions are 16
// hexadecimal digits and counts of positions decimal texts, because most readers of JSON numbers lose digits beyond
// 2^53; shares are for people and charts, so they are plain numbers from 0 to 1.
package import Ringfence

/// A group's ring as of one of its versions.
package struct RingView: Sendable {
    package var group: String
    package var version: Int64
    /// Whether Redis could not be asked lately.
    package var isStale: Bool
    /// How old the snapshot may be.
    package var age: Duration
    package var ring: HashRing

    package init(group: String, version: Int64, isStale: Bool, age: Duration, ring: HashRing) {
        self.group = group
        self.version = version
        self.isStale = isStale
        self.age = age
        self.ring = ring
    }

    /// The ring of a group as this process has it: no round trip. Ring and version are read one after the other, so
    /// again until both are of one version.
    package init(of group: Group) {
        var snapshot = group.snapshot
        while true {
            let ring = group.ring
            let after = group.snapshot
            if after.version == snapshot.version, after.generation == snapshot.generation {
                self.init(
                    group: group.name, version: after.version, isStale: after.isStale, age: after.age, ring: ring)
                return
            }
            snapshot = after
        }
    }

    /// The part of all keys that a member would own if points divided the circle evenly.
    package func fairShare(of member: HashRing.Member) -> Double {
        ring.pointCount == 0 ? 0 : Double(member.weight * ring.pointsPerWeight) / Double(ring.pointCount)
    }
}

/// A key as it is asked for: a text or a number.
package enum RingKey: Sendable {
    case text(String)
    case number(UInt64)

    package var text: String {
        switch self {
        case .text(let text): text
        case .number(let number): String(number)
        }
    }

    package func position(on ring: HashRing) -> UInt64 {
        switch self {
        case .text(let text): ring.position(of: text)
        case .number(let number): ring.position(of: number)
        }
    }
}

extension JSONWriter {
    /// Each member's part of the ring.
    package static func describing(_ view: RingView) -> JSONWriter {
        var json = JSONWriter(capacity: 512 + 128 * view.ring.memberCount)
        json.object { json in
            json.head(of: view)
            json.field("seed", ringPosition(view.ring.seed))
            json.field("pointsPerWeight", view.ring.pointsPerWeight)
            json.field("points", view.ring.pointCount)
            json.key("members")
            json.array(zip(view.ring.members, view.ring.shares)) { json, entry in
                let (member, share) = entry
                json.object { json in
                    json.field("id", member.id)
                    json.field("weight", member.weight)
                    if !member.zone.isEmpty { json.field("zone", member.zone) }
                    json.share("share", share)
                    json.share("fairShare", view.fairShare(of: member))
                }
            }
        }
        return json
    }

    /// Where a key belongs.
    package static func describing(_ key: RingKey, count: Int, on view: RingView) -> JSONWriter {
        var json = JSONWriter(capacity: 384)
        json.object { json in
            json.head(of: view)
            json.field("key", key.text)
            let position = key.position(on: view.ring)
            json.field("position", ringPosition(position))
            json.member("owner", view.ring.owner(at: position))
            json.field("preference", Array(view.ring.preferenceList(at: position, count: count)))
        }
        return json
    }

    /// What would move.
    /// - Parameters:
    ///   - next: the ring after it.
    ///   - ranges: whether to list each range.
    package static func describing(
        _ plan: HashRing.Plan, to next: HashRing, from view: RingView, ranges: Bool
    ) -> JSONWriter {
        var json = JSONWriter(capacity: 1_024 + (ranges ? 128 * plan.moves.count : 0))
        json.object { json in
            json.head(of: view)
            json.field("digestAfter", "\(next.digest)")
            json.share("share", plan.share)
            json.field("positions", String(plan.positions))
            json.field("ranges", plan.moves.count)
            json.key("flows")
            json.array(plan.flows) { json, flow in
                json.object { json in
                    json.member("giver", flow.giver)
                    json.member("taker", flow.taker)
                    json.share("share", flow.share)
                    json.field("positions", String(flow.positions))
                    json.field("ranges", flow.ranges)
                }
            }
            guard ranges else { return }
            json.key("moves")
            json.array(plan.moves) { json, move in
                json.object { json in
                    json.field("after", ringPosition(move.range.after))
                    json.field("through", ringPosition(move.range.through))
                    json.member("giver", move.giver)
                    json.member("taker", move.taker)
                }
            }
        }
        return json
    }

    private mutating func head(of view: RingView) {
        field("group", view.group)
        field("version", view.version)
        field("stale", view.isStale)
        field("ageMs", view.age.wholeMilliseconds)
        field("digest", "\(view.ring.digest)")
    }

    private mutating func share(_ name: String, _ share: Double) {
        key(name)
        raw("\(share)")
    }

    private mutating func member(_ name: String, _ id: String?) {
        key(name)
        if let id { string(id) } else { null() }
    }
}

/// A position as 16 hexadecimal digits.
package func ringPosition(_ position: UInt64) -> String {
    let digits = String(position, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
}
