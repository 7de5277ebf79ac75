// SPDX-License-Identifier: Apache-2.0
//
// What is held against the locator's machine in its world.
@testable import Hiredis

extension LocatorWorld {
    mutating func check() {
        let primary: Int? =
            if case .list = authority { servers.firstIndex { $0.isPrimary && $0.isUp } } else { named }
        for (number, link) in links.enumerated() {
            guard case .ready(_, let server, _) = link, server == primary else {
                faults.append("connection \(number) ends as \(link), the primary is \(primary ?? -1)")
                continue
            }
        }
        // Four connections, three servers, a look every 5 ms at the very most, and mostly far fewer.
        for (what, times) in [("questions", asked), ("attempts", dialled)] {
            for (index, at) in times.enumerated() where index >= 60 && at - times[index - 60] < 200 * Self.millisecond {
                return faults.append("60 \(what) within 200 ms")
            }
        }
    }

    mutating func expectOnePlace() {
        let places = links.compactMap {
            if case .ready(let generation, _, let process) = $0 { "\(generation) \(process)" } else { nil }
        }
        if Set(places).count > 1 { faults.append("connections are ready at \(Set(places)) at once") }
    }

    /// Whether the epoch by which a place was found is that of its server, and the highest that was heard of; and
    /// whether enough have named it.
    mutating func judge(_ place: LocatorMachine.Place) {
        moves += 1
        guard case .sentinels(let sentinels) = authority, let epoch = place.epoch else { return }
        let address = place.route.address
        if let winner = sentinels.winners[epoch], Self.address(winner) != address {
            faults.append("epoch \(epoch) is of another server than \(address)")
        }
        if let remadeAt = sentinels.remadeAt, now - remadeAt >= SentinelView.regressionPatience { highestHeard = epoch }
        if epoch < highestHeard { faults.append("led to epoch \(epoch) after \(highestHeard)") }
        let heard = heardAt.values.count { now - $0 <= 1_000 * Self.millisecond }
        if isMajorityRequired, address != lastOffered, heard < 2 { faults.append("led to \(address) by one Sentinel") }
        lastOffered = address
    }

    /// What must be so by now, from what two Sentinels have known and said long enough.
    mutating func expectFollowed() {
        guard case .sentinels(let sentinels) = authority else { return }
        // One that knew nobody when it was asked hides the others from a client whose URL does not name them.
        let sources = machine.search.sources
        knownSince = knownSince.filter { sources.contains($0.key) }
        for source in sources where knownSince[source] == nil { knownSince[source] = now }
        let known = Set(knownSince.filter { now - $0.value >= Self.bound }.keys)
        let isAgreed = sentinels.haveAgreed(on: named, known, since: now - Self.bound, until: now)
        if isAgreed, servers[named].isUp, sentinels.remadeAt == nil {
            for (number, link) in links.enumerated() {
                if case .ready(_, named, _) = link { continue }
                faults.append("connection \(number) has not followed to \(named): \(link)")
            }
        }
        guard isMajorityRequired, machine.place?.isGreeted == true else { return }
        let isRefused = machine.search.standing?.refusal != nil
        // Two watches, a half second, and the look that notices.
        if !isRefused, sentinels.silence(since: now - 5_000 * Self.millisecond, until: now) > 1 {
            faults.append("two Sentinels are silent, and nobody is told")
        }
        if isRefused, sentinels.answering(known, since: now - Self.bound, until: now) > 1 {
            faults.append("two Sentinels answer, and nobody may acquire")
        }
    }
}
