// SPDX-License-Identifier: Apache-2.0
//
// A group as text for people. Pure: what comes in is what Redis said, what comes out is lines.
import Ringfence
import RingfenceService

enum GroupPicture {
    /// How the group is, and the table of its members.
    static func lines(_ status: GroupStatus) -> [String] {
        var lines = headline(status)
        guard !status.members.isEmpty else { return lines }
        lines += tableLines(
            ["MEMBER", "ADDRESS", "ZONE", "WEIGHT", "PRIORITY", "TIME LEFT", "SESSION"],
            status.members.map { entry in
                let member = entry.member
                return [
                    member.id, member.address, member.zone, "\(member.weight)", "\(member.priority)",
                    entry.remaining.shortText, member.session,
                ]
            })
        return lines
    }

    /// How the group is.
    static func headline(_ status: GroupStatus) -> [String] {
        let count = status.members.isEmpty ? "no" : "\(status.members.count)"
        var lines = [
            "\(status.name): \(count) member\(status.members.count == 1 ? "" : "s"), version \(status.version)"
        ]
        if status.held > .zero {
            lines.append("nobody is taken out for \(status.held.shortText): Redis was out of reach, or lost data")
        }
        return lines
    }
}
