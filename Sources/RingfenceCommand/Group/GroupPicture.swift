// SPDX-License-Identifier: Apache-2.0
//
// A group as text for people. Pure: what comes in is what Redis said, what comes out is lines.
import Ringfence
import RingfenceOperations

enum GroupPicture {
    /// The state of the group, and the table of its members.
    static func lines(_ view: GroupView) -> [String] {
        var lines = headline(view)
        guard !view.members.isEmpty else { return lines }
        guard view.primary != nil else {
            lines += tableLines(
                ["MEMBER", "ADDRESS", "ZONE", "WEIGHT", "PRIORITY", "TIME LEFT", "SESSION"],
                view.members.map { entry in
                    let member = entry.member
                    return [
                        member.id, member.address, member.zone, "\(member.weight)", "\(member.priority)",
                        entry.remaining?.shortText ?? "", member.session,
                    ]
                })
            return lines
        }
        lines += tableLines(
            ["MEMBER", "ROLE", "ZONE", "STATE", "LEASE LEFT", "LAG", "PENALTY", "LAST CHECK", "ADDRESS"],
            view.members.map { entry in
                [
                    entry.member.id, entry.role.rawValue, entry.member.zone, entry.state.rawValue,
                    left(of: entry), entry.candidate?.lag.map { "\($0)" } ?? "",
                    entry.candidate.map { penalty($0.penalty) } ?? "", check(of: entry), entry.member.address,
                ]
            })
        return lines
    }

    /// How the group is.
    static func headline(_ view: GroupView) -> [String] {
        let count = view.members.isEmpty ? "no" : "\(view.members.count)"
        var lines = ["\(view.group): \(count) member\(view.members.count == 1 ? "" : "s"), version \(view.version)"]
        if let grace = view.expiryGrace, grace > .zero {
            lines.append("no member is expired for \(grace.shortText): Redis was out of reach, or lost data")
        }
        switch view.breaker {
        case .automatic: break
        case .open: lines.append("breaker forced open: nobody calls its members; history says who ordered it, and why")
        case .closed:
            lines.append("breaker forced closed: all its members are called; history says who ordered it, and why")
        }
        if let primary = view.primary { lines += about(primary, view.election) }
        return lines
    }

    private static func about(_ primary: PrimaryStatus, _ election: GroupView.Election?) -> [String] {
        let since = election.map { " for \($0.phaseDuration.shortText)" } ?? ""
        let epoch = "epoch \(primary.epoch)"
        var lines: [String] = []
        switch (primary.phase, primary.member) {
        case (.elected, let member?): lines.append("primary: \(member), \(epoch), being promoted\(since)")
        case (.handingOver, let member?):
            let left = election.map { ", \($0.handoverRemaining.shortText) left" } ?? ""
            lines.append("primary: \(member), \(epoch), hands over to \(primary.target ?? "another")\(since)\(left)")
        case (_, let member?): lines.append("primary: \(member), \(epoch), ready\(since)")
        case (.recovering, nil):
            lines.append("primary: unknown\(since): Redis lost data; the holder of \(epoch) may say so")
        case (_, nil):
            let last = primary.last.map { ", the last was \($0)" } ?? ""
            lines.append(
                primary.epoch == 0 ? "primary: there was none yet" : "primary: nobody\(since), \(epoch)\(last)")
        }
        guard let election else { return lines }
        if election.paused > .zero {
            lines.append("paused for another \(election.paused.shortText): no automatic election")
        }
        if election.braked > .zero {
            lines.append(
                "brake on for another \(election.braked.shortText): too many failovers; see ringfence group acknowledge"
            )
        }
        if primary.lacksStandbys { lines.append("fewer members could take over than the settings ask for") }
        lines.append(forecast(election.plan))
        return lines
    }

    /// The next primary, in one line.
    static func forecast(_ plan: GroupPlan) -> String {
        let premise = plan.primary.member == nil ? "next" : "if it died now"
        guard let winner = plan.winner, let wait = plan.electionWithin else {
            let reasons = plan.blocked.map(\.description).joined(separator: "; ")
            return "\(premise): nobody\(reasons.isEmpty ? "" : ": " + reasons)"
        }
        return "\(premise): \(winner) in <= \(wait.shortText)"
    }

    /// The next primary, and why not each of the others.
    static func lines(_ plan: GroupPlan) -> [String] {
        guard plan.primary.epoch > 0 || !plan.candidates.isEmpty else {
            return ["\(plan.group): nobody stands for primary"]
        }
        var lines = ["\(plan.group): " + forecast(plan)]
        // Without a winner the reasons stand in the forecast.
        if plan.winner != nil { lines += plan.blocked.map { "  but \($0.description)" } }
        guard !plan.candidates.isEmpty else { return lines }
        lines += tableLines(
            ["", "CANDIDATE", "LAG", "PENALTY", "FIT FOR", "WHY NOT"],
            plan.candidates.enumerated().map { place, candidate in
                [
                    candidate.isEligible ? "\(place + 1)." : "-", candidate.id, candidate.lag.map { "\($0)" } ?? "",
                    penalty(candidate.penalty), candidate.fitFor.shortText,
                    candidate.reasons.map { words($0) }.joined(separator: "; "),
                ]
            })
        return lines
    }

    /// A reason, in the line of its member.
    private static func words(_ reason: Refusal) -> String {
        let text = reason.description
        guard let member = reason.member, text.hasPrefix("'\(member)' ") else { return text }
        return String(text.dropFirst(member.count + 3))
    }

    private static func left(of entry: GroupView.Entry) -> String {
        guard let remaining = entry.remaining else { return "" }
        return "\(remaining.shortText) of \(entry.member.lease.shortText)"
    }

    private static func check(of entry: GroupView.Entry) -> String {
        if !entry.member.health.isEmpty { return entry.member.health }
        return entry.candidate?.reasons.first { $0.code == "unfit" }?.detail ?? "passing"
    }

    private static func penalty(_ value: Double) -> String {
        let tenths = Int((value * 10).rounded())
        return tenths == 0 ? "" : "\(tenths / 10).\(tenths % 10)"
    }
}
