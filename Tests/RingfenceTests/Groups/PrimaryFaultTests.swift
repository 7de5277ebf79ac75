// SPDX-License-Identifier: Apache-2.0
//
// The role of primary when Redis is away, loses its data, or an operator steps in.

import Hiredis
import Ringfence
import RingfenceCore
import RingfencePlatform
import TestSupport
import Testing

@Suite struct PrimaryFaultTests {
    /// Stands in a group until it is the ready primary.
    private func lead(_ group: Group, _ id: String, lease: Duration = .seconds(2)) async throws -> (Candidacy, Epoch) {
        let candidacy = try await group.join(id, lease: lease).campaign()
        try await eventually("'\(id)' is elected") { candidacy.role.epoch != nil }
        let epoch = try #require(candidacy.role.epoch)
        #expect(candidacy.ready(epoch))
        try await eventually(group, "'\(id)' is ready") { $0.primary?.phase == .ready && $0.primary?.member == id }
        return (candidacy, epoch)
    }

    @Test func `a primary whose Redis lost everything goes on under its epoch, and the next one is higher`()
        async throws
    {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let group = try await clients[0].group("ledger")
                // Long enough that a busy machine takes neither of them for dead: who is taken out does not stand any
                // more.
                let (first, epoch) = try await lead(group, "first", lease: .seconds(6))
                let second = try await clients[1].group("ledger").join("second", lease: .seconds(6)).campaign()
                try await eventually(group, "both stand") { $0.members.count { $0.isCandidate } == 2 }
                for _ in 0..<3 {
                    _ = try await group.inspect()
                    try await observer.send("FLUSHALL")
                    try await eventually("the primary says that it is") {
                        let confirmed = try await observer.events("primary.confirmed")
                        let status = try await clients[0].group("ledger").status()
                        return confirmed.last?.member == "first" && status.primary.phase == .ready
                            && status.primary.epoch == epoch.value && status.members.count == 2
                    }
                    #expect(epoch.isHeld && first.role == .primary(epoch))
                }
                // One that gave the role up is barred for a lease, and so long nobody is elected since the loss: on a
                // busy machine both are over when somebody looks, and it would be elected again. So it leaves.
                try await first.membership.leave()
                do {
                    try await eventually("the other is elected", within: .seconds(60)) { second.role.epoch != nil }
                } catch {
                    let plan = try await clients[0].group("ledger").plan()
                    throw TestSupportError(
                        "\(error): \(second.role), \(second.membership.state), \(plan.primary.phase), "
                            + "\(plan.blocked) \(plan.candidates.map { ($0.id, $0.reasons) })")
                }
                #expect(second.role.epoch?.value ?? 0 > epoch.value)
            }
        }
    }

    @Test func `a Redis that comes back empty elects nobody below the epoch that one of its members knew`() async throws
    {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let group = try await clients[0].group("ledger")
                var value: Int64 = 0
                for round in 0..<3 {
                    let (candidacy, epoch) = try await lead(group, "first", lease: .milliseconds(400))
                    #expect(epoch.value > value, "round \(round)")
                    value = epoch.value
                    try await candidacy.membership.leave()
                }
                // It only watches; what it knows is enough.
                let watcher = try await clients[1].group("ledger")
                #expect(watcher.snapshot.primary?.epoch == value)
                try await observer.send("FLUSHALL")
                let (_, epoch) = try await lead(watcher, "second", lease: .milliseconds(400))
                #expect(epoch.value > value)
            }
        }
    }

    @Test func `a primary that does not reach Redis stops by its own clock, and is elected anew under another epoch`()
        async throws
    {
        try await withObservedRedis { server, observer in
            let proxy = try await TCPProxy.start(to: server)
            try await withClient(proxy.url, { $0.commandTimeout = .seconds(1) }) { client in
                let group = try await client.group("ledger")
                let (candidacy, epoch) = try await lead(group, "first", lease: .milliseconds(600))
                let told = Shared<[Role]>([])
                let listener = Task { for await role in candidacy.roles { told.change { $0.append(role) } } }
                defer { listener.cancel() }
                proxy.update { $0.clientToServer.isStalled = true }
                try await eventually("its own clock ends the role") { !epoch.isHeld }
                #expect(await failure { try epoch.check() }?.code == .primaryLost)
                proxy.update { $0.clientToServer.isStalled = false }
                try await eventually("it is elected again") { candidacy.role.epoch?.value ?? 0 > epoch.value }
                #expect(!epoch.isHeld, "an epoch that is over is over")
                #expect(told.value.contains(.ended(epoch, reason: .suspended)))
                let reasons = try await observer.events("primary.elected").map(\.reason)
                #expect(reasons.first == "first" && reasons.count >= 2)
            }
            await proxy.refuse()
        }
    }

    @Test
    func
        `a failover by hand waits for the word of a primary that lives, or for the end of a dead one's lease`()
        async throws
    {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let group = try await client.group("ledger")
                let process = try TalkingProcess.start(
                    "TestMember", [server.unixURL, "ledger", "first", "1000", "primary"])
                do {
                    while try await process.line() != "primary 1" {}
                    let second = try await group.join("second", lease: .seconds(1)).campaign()
                    try second.report(position: nil, ineligibleBecause: "restoring")
                    try await eventually("it says it is unfit") {
                        try await client.group("ledger").plan().candidates.contains {
                            $0.reasons.map(\.code) == ["unfit"]
                        }
                    }
                    let answering = Task {
                        for await role in second.roles { if case .elected(let epoch) = role { second.ready(epoch) } }
                    }
                    defer { answering.cancel() }
                    // The living one stops, and says so.
                    let taken = try await client.group("ledger").failover(
                        to: "second", acceptsDataLoss: true, actor: "ann", reason: "rack on fire")
                    #expect(taken.member == "second" && taken.epoch == 2)
                    while try await process.line() != "over" {}
                    let events = try await observer.events()
                    #expect(events.contains { $0.type == "failover.started" && $0.reason == "rack on fire" })
                    #expect(events.last { $0.type == "primary.elected" }?.reason == "failover")
                    // The frozen one says nothing: its lease has to pass.
                    let back = try await client.group("ledger").failover(to: "first", acceptsDataLoss: true)
                    #expect(back.member == "first" && back.epoch == 3)
                    while try await process.line() != "primary 3" {}
                    try await process.freeze()
                    process.tell("check")
                    let left = try await client.group("ledger").status().members.first { $0.member.id == "first" }?
                        .remaining
                    let start = ContinuousClock.now
                    let again = try await client.group("ledger").failover(to: "second", acceptsDataLoss: true)
                    #expect(again.member == "second" && again.epoch == 4)
                    #expect(
                        start.duration(to: .now) > (left ?? .zero) - .milliseconds(50), "not before its lease was over")
                    process.signal(SIGCONT)
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

    @Test func `a session that is replaced is primary to nobody before its lease is over`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let group = try await clients[0].group("ledger")
                let (first, epoch) = try await lead(group, "node", lease: .seconds(1))
                let twin = try await clients[1].group("ledger").join("node", lease: .seconds(1)).campaign()
                try await eventually("the twin is elected") { twin.role.epoch != nil }
                #expect(!epoch.isHeld && first.membership.state == .replaced)
                let events = try await observer.events()
                let joined = try #require(events.last { $0.type == "member.joined" }?.at)
                let elected = try #require(events.last { $0.type == "primary.elected" })
                #expect(elected.reason == "replaced" && elected.at - joined >= 200)
            }
        }
    }

    @Test func `a paused group elects nobody until the pause ends by itself`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let group = try await client.group("ledger")
                let (first, epoch) = try await lead(group, "first", lease: .milliseconds(500))
                let second = try await group.join("second", lease: .milliseconds(500)).campaign()
                try await client.group("ledger").pause(for: .seconds(2), actor: "ann", reason: "work on the switch")
                first.giveUp(epoch)
                try await eventually(group, "the role is vacant") { $0.primary?.member == nil }
                let plan = try await client.group("ledger").plan()
                #expect(plan.winner == nil && plan.blocked.map(\.code) == ["paused"])
                #expect(second.role == .standby)
                try await eventually("somebody is elected after it") {
                    first.role.epoch != nil || second.role.epoch != nil
                }
                let types = try await observer.events().map(\.type)
                let resumed = try #require(types.lastIndex(of: "group.resumed"))
                #expect(resumed < types.lastIndex(of: "primary.elected")!)
                try await client.group("ledger").pause(for: .seconds(3600))
                try await client.group("ledger").resume()
                let paused = try await client.group("ledger").status().paused
                #expect(paused == .zero)
            }
        }
    }

    @Test func `too many failovers hold the group until they are acknowledged, unless one alone can lead`() async throws
    {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let group = try await client.group("ledger")
                let members = Shared<[Candidacy]>([])
                for id in ["a", "b", "c"] {
                    let candidacy = try await group.join(id, lease: .milliseconds(400)).campaign()
                    members.change { $0.append(candidacy) }
                }
                try await client.group("ledger").update(.init(brakeCount: 2), actor: "ann")
                for round in 0..<3 {
                    try await eventually("somebody is elected") { members.value.contains { $0.role.epoch != nil } }
                    let primary = try #require(members.value.first { $0.role.epoch != nil })
                    let epoch = try #require(primary.role.epoch)
                    primary.ready(epoch)
                    try await eventually(group, "it is ready") { $0.primary?.phase == .ready }
                    // So that who was barred in the last round is not any more.
                    if round > 0 {
                        try await eventually("nobody is barred") {
                            try await client.group("ledger").plan().candidates.allSatisfy {
                                !$0.reasons.map(\.code).contains("gaveUp")
                            }
                        }
                    }
                    primary.giveUp(epoch, reason: "unhealthy")
                }
                try await eventually("the group is held") { try await observer.events("group.braked").count == 1 }
                #expect(members.value.allSatisfy { $0.role == .standby })
                try await client.group("ledger").acknowledge(actor: "ann")
                try await eventually("somebody is elected again") { members.value.contains { $0.role.epoch != nil } }
            }
        }
    }

    @Test func `the role goes back to whom priority prefers by a switchover, when both have been well for long enough`()
        async throws
    {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let group = try await clients[0].group("ledger")
                let (low, epoch) = try await lead(group, "low")
                try await clients[0].group("ledger").update(
                    .init(failback: .automatic, failbackAfter: .milliseconds(300)))
                let high = try await clients[1].group("ledger").join("high", priority: 10, lease: .seconds(2))
                    .campaign()
                try await eventually("the lower one is asked to hand over") {
                    if case .handingOver = low.role { true } else { false }
                }
                low.readyToHandOver(epoch)
                try await eventually("the higher one is elected") { high.role.epoch?.value == 2 }
                let elected = try await observer.events("primary.elected")
                #expect(elected.last?.reason == "failback")
            }
        }
    }

    @Test func `with too few standbys a primary must not write, if the settings say so`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let group = try await client.group("ledger")
                let (_, epoch) = try await lead(group, "first")
                try epoch.check()
                try await client.group("ledger").update(.init(minStandbys: 1, shortfallAction: .suspendWrites))
                try await eventually("it must not write") {
                    await failure { try epoch.check() }?.code == .primaryWritesSuspended
                }
                #expect(epoch.isHeld)
                _ = try await group.join("second").campaign()
                try await eventually("it may write again") { await failure { try epoch.check() } == nil }
                let types = try await observer.events().map(\.type).filter { $0.hasPrefix("standby") }
                #expect(types == ["standby.shortfall", "standby.restored"])
            }
        }
    }

    @Test func `a switchover that takes too long is taken back, and the primary goes on under its epoch`() async throws
    {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let group = try await client.group("ledger")
                let (first, epoch) = try await lead(group, "first")
                try first.report(position: 100)
                let second = try await group.join("second", lease: .seconds(2)).campaign()
                try second.report(position: 90)
                try await eventually("both positions are known") {
                    try await client.group("ledger").plan().candidates.contains { $0.lag == 10 }
                }
                let switching = Task {
                    await failure {
                        try await client.group("ledger").switchover(to: "second", timeout: .milliseconds(800))
                    }
                }
                try await eventually("it is asked to hand over") {
                    if case .handingOver = first.role { true } else { false }
                }
                first.readyToHandOver(epoch, position: 120)
                let error = await switching.value
                #expect(error?.code == .switchoverAborted)
                #expect(first.role == .primary(epoch) && epoch.isHeld)
                try second.report(position: 120)
                let again = Task { try await client.group("ledger").switchover(timeout: .seconds(20)) }
                try await eventually("it is asked again") { if case .handingOver = first.role { true } else { false } }
                first.readyToHandOver(epoch, position: 120)
                try await eventually("the target has come as far") { second.role.epoch?.value == 2 }
                second.ready(try #require(second.role.epoch))
                let member = try await again.value.member
                #expect(member == "second")
                let aborted = try await observer.events("switchover.aborted")
                #expect(aborted.map(\.reason) == ["timeout"])
            }
        }
    }
}
