// SPDX-License-Identifier: Apache-2.0
//
// What goes wrong in the world of the locator: failovers, with and without the death of the old primary, and slots that
// go elsewhere.
@testable import Hiredis

extension LocatorWorld {
    mutating func demote(_ server: Int) {
        // Meanwhile it may have been elected.
        guard server != named else { return }
        servers[server].isPrimary = false
        notice(server)
    }

    /// All Sentinels begin again, with another primary: the old one lives on as a primary for a while, or is gone.
    mutating func remake() {
        guard case .sentinels(var sentinels) = authority, servers[named].isUp, servers[named].isPrimary,
            let new = servers.indices.first(where: { $0 != named && servers[$0].isUp && !servers[$0].isPrimary })
        else { return }
        sentinels.remade(at: new, now: now)
        authority = .sentinels(sentinels)
        let old = named
        named = new
        servers[new].isPrimary = true
        if Bool.random(using: &random) {
            (servers[old].isUp, servers[old].isPrimary) = (false, false)
            notice(old)
        } else {
            later(within(20_000), .demoted(old))
        }
    }

    mutating func fail() {
        let next: Int64
        switch authority {
        case .name, .list: next = failSimply()
        case .sentinels: next = failOneOfThree()
        case .cluster: next = Int.random(in: 0..<3, using: &random) == 0 ? moveSlot() : failOneOfThree()
        }
        if now + next < Self.trouble { later(next, .fault) }
    }

    /// Until the next one.
    mutating func failSimply() -> Int64 {
        let isName = if case .name = authority { true } else { false }
        if isName {
            // The name leads elsewhere while the old primary goes on as one.
            for index in servers.indices where index != named { servers[index].isPrimary = false }
        }
        let old = servers.firstIndex { $0.isPrimary && $0.isUp } ?? 0
        let new = (old + 1 + Int.random(in: 0..<2, using: &random)) % 3
        guard servers[old].isPrimary, servers[new].isUp else { return 500 * Self.millisecond }
        let delay = within(2_000)
        switch Int.random(in: 0..<(isName ? 3 : 2), using: &random) {
        case 0:
            servers[old].isUp = false
            servers[old].isPrimary = false
            later(delay + within(3_000), .returns(old, asPrimary: false))
        case 1: servers[old].isPrimary = false
        default: break
        }
        notice(old)
        later(delay, .promotes(new))
        later(delay + within(1_000), .nameMoves(to: new))
        return delay + 1_000 * Self.millisecond + within(8_000)
    }

    /// The connections there see it late.
    mutating func notice(_ old: Int) {
        for (number, link) in links.enumerated() {
            guard case .ready(_, old, _) = link else { continue }
            let attempt = attempts[number]
            let latest = within(100)
            let lives = servers[old].isUp
            later(
                latest,
                lives ? .writes(connection: number, attempt: attempt) : .notices(connection: number, attempt: attempt))
        }
    }

    /// The primary of three dies, is cut off and goes on for a while, or is followed by another one in peace.
    mutating func failOneOfThree() -> Int64 {
        let old = named
        let new = (old + 1 + Int.random(in: 0..<2, using: &random)) % 3
        guard old < 3, servers[old].isPrimary, servers[new].isUp, !servers[new].isPrimary else {
            return 500 * Self.millisecond
        }
        let delay = within(2_000)
        let lives = Bool.random(using: &random)
        if !lives {
            (servers[old].isUp, servers[old].isPrimary) = (false, false)
            notice(old)
        }
        later(delay, .failsOver(from: old, to: new, lives: lives))
        return delay + 1_000 * Self.millisecond + within(8_000)
    }

    mutating func failOver(_ old: Int, _ new: Int, _ lives: Bool) {
        named = new
        servers[new].isPrimary = true
        let untilDemoted = within(5_000)
        if lives { later(untilDemoted, .demoted(old)) }
        let isAuthority = if case .cluster = authority { false } else { Bool.random(using: &random) }
        if !lives { later(within(3_000), .returns(old, asPrimary: isAuthority)) }
        switch authority {
        case .sentinels(var sentinels):
            let messages = sentinels.failed(over: old, to: new, at: now, &random)
            authority = .sentinels(sentinels)
            guard watches else { break }
            for message in messages { later(message.at - now, .tell(.announced(by: message.by))) }
        case .cluster(var cluster):
            cluster.moved(from: old, to: new, at: now, oldKnows: now + (lives ? untilDemoted : 0), &random)
            // A primary that is cut off takes writes until the node timeout is over.
            let deaf = now + min(untilDemoted, 2_000 * Self.millisecond)
            if lives { cluster.goesDown(old, deaf..<now + untilDemoted) }
            authority = .cluster(cluster)
        case .name, .list: break
        }
    }

    /// The slot goes to a primary of other slots, or comes back.
    mutating func moveSlot() -> Int64 {
        guard case .cluster(var cluster) = authority else { return 0 }
        let home = servers.indices.prefix(3).first { servers[$0].isPrimary && servers[$0].isUp }
        let old = named
        guard let new = old < 3 ? 3 : home, servers[old].isUp, servers[old].isPrimary, servers[new].isUp else {
            return 500 * Self.millisecond
        }
        named = new
        cluster.moved(from: old, to: new, at: now, oldKnows: now, &random)
        cluster.hears(new, late: within(500))
        authority = .cluster(cluster)
        return 2_000 * Self.millisecond + within(5_000)
    }
}
