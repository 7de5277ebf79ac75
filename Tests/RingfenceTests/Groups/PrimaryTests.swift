// SPDX-License-Identifier: Apache-2.0
//
// The role of primary over a real Redis: who gets it, when it ends, and that no two have it.

import Hiredis
import Ringfence
import RingfenceCore
import TestSupport
import Testing

@Suite struct PrimaryTests {
    /// Waits until a group has a ready primary, and gives its id.
    private func primary(of group: Group, epoch: Int64 = 1) async throws -> String {
        try await eventually(group, "there is a primary of epoch \(epoch) or later") {
            $0.primary?.phase == .ready && $0.primary?.epoch ?? 0 >= epoch
        }
        return try #require(group.snapshot.primary?.member)
    }

    @Test func `one of several is primary, and its body runs under an epoch until it returns`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 3) { clients in
                let inside = Shared<[Int64]>([])
                let most = Shared(0)
                let now = Shared(0)
                try await withThrowingTaskGroup(of: Int64.self) { tasks in
                    for (index, client) in clients.enumerated() {
                        tasks.addTask {
                            let group = try await client.group("ledger")
                            return try await group.withPrimary(as: "node-\(index)", lease: .milliseconds(600)) {
                                epoch in
                                try epoch.check()
                                inside.change { $0.append(epoch.value) }
                                let count = now.change { now in
                                    now += 1
                                    return now
                                }
                                most.change { $0 = max($0, count) }
                                // Who returns before the word of it is out has never been ready to others.
                                _ = try await primary(of: group, epoch: epoch.value)
                                #expect(epoch.isHeld)
                                now.change { $0 -= 1 }
                                return epoch.value
                            }
                        }
                    }
                    var epochs: [Int64] = []
                    for try await epoch in tasks { epochs.append(epoch) }
                    #expect(epochs.sorted() == [1, 2, 3])
                }
                #expect(inside.value == [1, 2, 3] && most.value == 1)
                let events = try await observer.events()
                let elected = events.filter { $0.type == "primary.elected" }
                #expect(elected.map(\.reason) == ["first", "stepDown", "stepDown"])
                #expect(events.count { $0.type == "primary.ready" } == 3)
                try await observer.checkLog()
            }
        }
    }

    @Test func `a full Redis takes no new members, but those that are there stay, lead, hand over and leave`()
        async throws
    {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let group = try await clients[0].group("ledger")
                let one = try await group.join("one", lease: .milliseconds(900))
                let first = try await one.campaign()
                let two = try await group.join("two", lease: .milliseconds(900))
                let second = try await two.campaign()
                try await eventually(group, "one is elected") { $0.primary?.member != nil }
                for candidacy in [first, second] {
                    Task {
                        for await role in candidacy.roles {
                            if case .elected(let epoch) = role { candidacy.ready(epoch) }
                        }
                    }
                }
                let old = try await primary(of: group)
                _ = try await observer.send("CONFIG", "SET", "maxmemory", "1")
                let until = ContinuousClock.now + .milliseconds(2700)
                try await eventually("three leases have passed") { one.deadline > until && two.deadline > until }
                #expect(group.snapshot.primary?.epoch == 1 && one.isMember && two.isMember)
                let error = await failure { try await clients[1].group("ledger").join("three") }
                #expect(error?.code == .coordinatorRefused, "\(String(describing: error))")
                try await clients[1].group("ledger").pause(for: .seconds(60))
                try await clients[1].group("ledger").resume()
                try await (old == "one" ? one : two).leave()
                let next = try await primary(of: group, epoch: 2)
                #expect(next != old)
                _ = try await observer.send("CONFIG", "SET", "maxmemory", "0")
                #expect(try await observer.events("member.expired").isEmpty)
                try await observer.checkLog()
            }
        }
    }

    @Test func `a switchover hands over without a moment of two, and is told by events`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 3) { clients in
                let group = try await clients[2].group("ledger")
                let log = Shared<[String]>([])
                try await withThrowingTaskGroup(of: Void.self) { tasks in
                    for (index, client) in clients.prefix(2).enumerated() {
                        tasks.addTask {
                            let group = try await client.group("ledger")
                            let membership = try await group.join("node-\(index)", lease: .seconds(3))
                            while !Task.isCancelled {
                                let error = await failure {
                                    try await membership.withPrimary { epoch in
                                        log.change { $0.append("in \(index)") }
                                        defer { log.change { $0.append("out \(index)") } }
                                        try await Task.sleep(for: .seconds(3600))
                                    }
                                }
                                if Task.isCancelled { break }
                                #expect(error?.code == .primaryLost)
                            }
                        }
                    }
                    let first = try await primary(of: group)
                    let status = try await clients[2].group("ledger").switchover(actor: "ann", reason: "ticket 1")
                    #expect(status.member != first && status.epoch == 2 && status.phase == .ready)
                    try await eventually(group, "the former stands again") { snapshot in
                        snapshot.members.count { $0.isCandidate } == 2
                    }
                    let back = try await clients[2].group("ledger").switchover(to: first, actor: "bob")
                    #expect(back.member == first && back.epoch == 3)
                    tasks.cancelAll()
                    for try await _ in tasks {}
                }
                let entries = log.value
                for pair in stride(from: 0, to: entries.count - 1, by: 2) {
                    #expect(entries[pair].hasPrefix("in") && entries[pair + 1].hasPrefix("out"), "\(entries)")
                }
                let started = try await observer.events("switchover.started")
                #expect(started.count == 2 && started[0].reason == "ticket 1")
                let elected = try await observer.events("primary.elected").map(\.reason)
                #expect(elected.starts(with: ["first", "switchover", "switchover"]))
                try await observer.checkLog()
            }
        }
    }

    @Test func `what cannot be ordered is refused with all reasons, and changes nothing`() async throws {
        try await withRingfence { _, client in
            let none = await failure { try await client.group("ledger").switchover() }
            #expect(
                none?.code == .orderRefused && none?.reasons.map(\.code) == ["noGroup"]
                    && none?.effect == RingfenceError.Effect.none)
            let group = try await client.group("ledger")
            let one = try await group.join("one", lease: .milliseconds(400))
            let vacant = await failure { try await client.group("ledger").switchover(to: "one") }
            #expect(vacant?.reasons.map(\.code) == ["notACandidate", "noPrimary"])
            let candidacy = try await one.campaign()
            try await eventually("elected") { if case .elected = candidacy.role { true } else { false } }
            let epoch = try #require(candidacy.role.epoch)
            let early = await failure { try await client.group("ledger").switchover() }
            #expect(early?.reasons.map(\.code) == ["notReady", "noCandidate"])
            #expect(candidacy.ready(epoch))
            _ = try await primary(of: group)
            let alone = await failure { try await client.group("ledger").switchover(to: "one") }
            #expect(alone?.reasons.map(\.code) == ["primary"])
            let other = try await group.join("two", lease: .seconds(3))
            let second = try await other.campaign()
            try await other.update(health: "disk full")
            // No reason is no silent "eligible".
            let silent = await failure { try second.report(position: nil, ineligibleBecause: "") }
            #expect(silent?.code == .argumentInvalid && silent?.message.contains("ineligibleBecause") == true)
            try second.report(position: nil, ineligibleBecause: "restoring")
            try await client.group("ledger").setMaintenance(true, for: "two", actor: "ann")
            let all = await failure { try await client.group("ledger").switchover(to: "two") }
            #expect(Set(all?.reasons.map(\.code) ?? []) == ["health", "unfit", "maintenance"])
            #expect(all?.message.contains("disk full") == true)
            let primary = await failure { try await client.group("ledger").setMaintenance(true, for: "one") }
            #expect(primary?.reasons.map(\.code) == ["primary"])
            let lossy = await failure {
                try await client.group("ledger").failover(to: "two", acceptsDataLoss: false)
            }
            #expect(lossy?.code == .argumentInvalid && lossy?.message.contains("acceptsDataLoss") == true)
            let plan = try await client.group("ledger").plan()
            #expect(plan.winner == nil && plan.blocked.map(\.code) == ["noCandidate"])
            #expect(group.snapshot.primary?.member == "one" && epoch.isHeld)
        }
    }

    @Test func `a primary whose process dies is replaced when its lease is over`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let process = try TalkingProcess.start(
                    "TestMember", [server.unixURL, "ledger", "first", "600", "primary"])
                do {
                    while try await process.line() != "primary 1" {}
                    let group = try await client.group("ledger")
                    let candidacy = try await group.join("second", lease: .milliseconds(600)).campaign()
                    try await eventually(group, "both stand") { $0.members.count { $0.isCandidate } == 2 }
                    try await process.end()
                    try await eventually("the second is elected") { candidacy.role.epoch?.value == 2 }
                    let elected = try await observer.events("primary.elected")
                    #expect(elected.map(\.reason) == ["first", "expired"] && elected.last?.previous == "first")
                } catch {
                    try await process.end()
                    throw error
                }
            }
        }
    }

    @Test func `a frozen primary has stopped by its own clock before it looks at anything`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let process = try TalkingProcess.start(
                    "TestMember", [server.unixURL, "ledger", "first", "600", "primary"])
                do {
                    while try await process.line() != "primary 1" {}
                    let group = try await client.group("ledger")
                    let candidacy = try await group.join("second", lease: .milliseconds(600)).campaign()
                    try await eventually(group, "both stand") { $0.members.count { $0.isCandidate } == 2 }
                    try await process.freeze()
                    process.tell("check")
                    try await eventually("the second is elected") { candidacy.role.epoch?.value == 2 }
                    process.signal(18)  // SIGCONT
                    var line = try await process.line()
                    while line != nil, line?.hasPrefix("check") != true { line = try await process.line() }
                    #expect(line == "check no")
                } catch {
                    try await process.end()
                    throw error
                }
                try await process.end()
            }
        }
    }
}
