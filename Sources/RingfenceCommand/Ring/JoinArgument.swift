// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence

/// `--join id[:weight[:zone]]`: a member that would join, or one of the ring's that would change. What is left out
/// stays as it is, or is weight 1 and no zone. A colon in an id or zone is written `\:`, as in `10.0.0.7\:7000:2`.
struct JoinArgument: ExpressibleByArgument, Hashable {
    var id: String
    var weight: Int?
    var zone: String?

    init?(argument: String) {
        var parts = [""]
        var isEscaped = false
        for scalar in argument.unicodeScalars {
            if isEscaped {
                // A backslash is only special in front of a colon or another backslash.
                if scalar != ":", scalar != "\\" { parts[parts.count - 1].unicodeScalars.append("\\") }
                parts[parts.count - 1].unicodeScalars.append(scalar)
                isEscaped = false
            } else if scalar == "\\" {
                isEscaped = true
            } else if scalar == ":", parts.count < 3 {
                parts.append("")
            } else {
                parts[parts.count - 1].unicodeScalars.append(scalar)
            }
        }
        if isEscaped { parts[parts.count - 1] += "\\" }
        guard !parts[0].isEmpty else { return nil }
        id = parts[0]
        if parts.count > 1, !parts[1].isEmpty {
            guard let weight = Int(parts[1]) else { return nil }
            self.weight = weight
        }
        if parts.count > 2 { zone = parts[2] }
    }

    /// The member it makes on `ring`.
    func member(on ring: HashRing) -> HashRing.Member {
        var member = ring.member(id) ?? HashRing.Member(id: id)
        if let weight { member.weight = weight }
        if let zone { member.zone = zone }
        return member
    }
}
