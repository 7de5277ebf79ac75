// SPDX-License-Identifier: Apache-2.0
//
// A ring as text for people. Pure: what comes in is a ring, what comes out is lines.
import Ringfence
import RingfenceOperations

enum RingPicture {
    /// How wide the longest bar is.
    static let width = 40

    /// A bar for each member: what it owns, and a mark where its fair share ends.
    static func shares(of view: RingView) -> [String] {
        let ring = view.ring
        var lines = [heading(of: view)]
        if ring.memberCount == 0 { return lines + ["nobody is in it"] }
        let members = ring.members
        let shares = ring.shares
        let fair = members.map { view.fairShare(of: $0) }
        let scale = Double(width) / max((shares + fair).max() ?? 0, 1e-9)
        let hasZones = members.contains { !$0.zone.isEmpty }
        let rows = members.indices.map { index in
            let member = members[index]
            let texts =
                member.isDrained
                ? ["drained", "", ""]
                : [
                    percent(shares[index]), percent(shares[index] / fair[index], digits: 0),
                    bar(shares[index] * scale, mark: fair[index] * scale),
                ]
            return [member.id] + (hasZones ? [member.zone] : []) + [String(member.weight)] + texts
        }
        lines += tableLines(
            ["MEMBER"] + (hasZones ? ["ZONE"] : []) + ["WEIGHT", "SHARE", "OF FAIR", "(| is the fair share)"], rows)
        return lines
    }

    /// A line for each key: its owner, or its preference list.
    static func owners(of keys: [RingKey], count: Int, on view: RingView) -> [String] {
        let rows = keys.map { key in
            let list = view.ring.preferenceList(at: key.position(on: view.ring), count: count)
            return [key.text, list.isEmpty ? "nobody" : list.joined(separator: " ")]
        }
        return tableLines(["KEY", count == 1 ? "OWNER" : "OWNER AND NEXT"], rows)
    }

    /// How much moves, and from whom to whom.
    static func plan(_ plan: HashRing.Plan, to next: HashRing, from view: RingView) -> [String] {
        if plan.isEmpty { return [heading(of: view), "nothing would move"] }
        var lines = [
            heading(of: view),
            "\(percent(plan.share)) of all keys would move, in \(plan.moves.count) "
                + (plan.moves.count == 1 ? "range" : "ranges"),
        ]
        lines += tableLines(
            ["FROM", "TO", "SHARE", "RANGES"],
            plan.flows.map { [$0.giver ?? "nobody", $0.taker ?? "nobody", percent($0.share), String($0.ranges)] })
        lines.append("the ring would have \(count(next.memberCount, "member")) and the digest \(next.digest)")
        return lines
    }

    // MARK: Parts

    private static func heading(of view: RingView) -> String {
        var line =
            "\(view.group): \(count(view.ring.memberCount, "member")), \(count(view.ring.pointCount, "point")), "
            + "version \(view.version), digest \(view.ring.digest)"
        if view.isStale { line += " (stale: \(view.age.shortText) old, Redis does not answer)" }
        return line
    }

    private static func count(_ number: Int, _ noun: String) -> String {
        "\(number) \(noun)\(number == 1 ? "" : "s")"
    }

    /// `#` for what it owns; the mark stands where the fair share ends.
    static func bar(_ length: Double, mark: Double) -> String {
        let filled = Int(length.rounded())
        let place = Int(mark.rounded())
        var bar = ""
        for column in 0..<max(filled, place) {
            bar += column == place - 1 ? "|" : column < filled ? "#" : " "
        }
        return bar
    }

    /// A part as `12.34 %`. Whole hundreds have no fraction lost: 0.5 is `50.00 %`.
    static func percent(_ part: Double, digits: Int = 2) -> String {
        guard part.isFinite else { return "" }
        var scale = 1
        for _ in 0..<digits { scale *= 10 }
        let number = Int64((part * 100 * Double(scale)).rounded())
        guard digits > 0 else { return "\(number) %" }
        let fraction = String(Int(number) % scale + scale).dropFirst()
        return "\(Int(number) / scale).\(fraction) %"
    }
}
