// SPDX-License-Identifier: Apache-2.0
//
// Members that die, sleep and come back; a Redis that stalls, restarts, forgets, steps back and has its clock set. What
// is looked at is the log, which is what all others see, and what the member itself is told.

import Hiredis
import Ringfence
import RingfencePlatform
import TestSupport
import Testing

@Suite struct DyingMemberTests {
    private func start(
        _ server: RedisServer, _ id: String, lease: Int, _ more: String...
    ) async throws -> TalkingProcess {
        let member = try TalkingProcess.start("TestMember", [server.unixURL, "g", id, "\(lease)"] + more)
        var line = try await member.line()
        while let said = line, said != "state member" { line = try await member.line() }
        #expect(line == "state member")
        return member
    }

    @Test(arguments: [1, 3, 30])
    func `a silent death is one event, however many watch`(watchers: Int) async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, watchers) { clients in
                var groups: [Group] = []
                for client in clients { groups.append(try await client.group("g")) }
                // One that lives on, in a process of its own, with the rest.
                let alive = try await self.start(server, "alive", lease: 20_000)
                for round in 1...3 {
                    var members: [TalkingProcess] = []
                    for id in ["a", "b"] { members.append(try await self.start(server, id, lease: 400)) }
                    for group in groups {
                        try await eventually(group, "they are seen") { $0.ids == ["a", "alive", "b"] }
                    }
                    for member in members { try await member.end() }
                    for group in groups { try await eventually(group, "they are gone") { $0.ids == ["alive"] } }
                    let expired = try await observer.events("member.expired")
                    #expect(expired.count == 2 * round)
                    #expect(expired.suffix(2).map(\.member).sorted { $0! < $1! } == ["a", "b"])
                }
                try await observer.checkLog()
                try await alive.end()
            }
        }
    }

    @Test func `a member that slept past its lease knows that it is out before it does anything`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { watching in
                let group = try await watching.group("g")
                let member = try await self.start(server, "n", lease: 500)
                try await eventually(group, "it is seen") { $0.ids == ["n"] }
                try await member.freeze()
                member.tell("check")
                try await eventually(group, "it is out") { $0.ids == [] && $0.version == 2 }
                member.signal(SIGCONT)
                var said: [String] = []
                while said.last != "state expired", let line = try await member.line() { said.append(line) }
                // The answer to the order that lay in its pipe when it woke, whenever the thread came to it.
                #expect(!said.contains("check yes") && !said.contains("check torn"))
                #expect(said.last == "state expired" && !said.contains("state member"))
                if !said.contains("check no") { #expect(try await member.line() == "check no") }
                let types = try await observer.events().map(\.type)
                #expect(types.filter { $0 != "coordinator.gap" } == ["member.joined", "member.expired"])
                try await member.end()
            }
        }
    }

    @Test func `a member all alone that slept past its lease is told, and then is a member again`() async throws {
        try await withObservedRedis { server, observer in
            let member = try await self.start(server, "n", lease: 400)
            for _ in 0..<3 {
                try await member.freeze()
                let start = ContinuousClock.now
                try await eventually("two leases are over") { start.duration(to: .now) > .milliseconds(800) }
                member.signal(SIGCONT)
                var said: [String] = []
                while said.last != "state member", let line = try await member.line() { said.append(line) }
                #expect(said.contains("state suspended") && said.last == "state member")
            }
            // Nobody could see it die, so it did not: there was nobody to take over.
            let types = try await observer.events().map(\.type)
            #expect(!types.contains("member.expired") && types.contains("coordinator.gap"))
            #expect(try await observer.send("HLEN", "ringfence:{default}:members:g") == .integer(1))
            try await member.end()
        }
    }

    @Test func `a member that rejoins after it slept comes back under a new session`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { watching in
                let group = try await watching.group("g")
                let member = try await self.start(server, "n", lease: 500, "rejoins")
                try await eventually(group, "it is seen") { $0.ids == ["n"] }
                let session = group.snapshot.members[0].session
                try await member.freeze()
                try await eventually(group, "it is out") { $0.ids == [] }
                member.signal(SIGCONT)
                try await eventually(group, "it is back") { $0.ids == ["n"] }
                #expect(group.snapshot.members[0].session != session)
                var said: [String] = []
                while said.last != "state member", let line = try await member.line() { said.append(line) }
                #expect(said.contains("state expired"))
                try await observer.checkLog()
                try await member.end()
            }
        }
    }
}

@Suite struct FailingRedisTests {
    /// Three members with clients of their own, and a group that watches.
    private func withMembers(
        _ server: RedisServer, _ observer: Observer, url: String? = nil, lease: Duration,
        _ body: @Sendable (Group, [Membership]) async throws -> Void
    ) async throws {
        try await withMembersAndGroups(server, observer, url: url, lease: lease) { groups, memberships in
            try await body(groups[3], memberships)
        }
    }

    private func withMembersAndGroups(
        _ server: RedisServer, _ observer: Observer, url: String? = nil, lease: Duration,
        _ body: @Sendable ([Group], [Membership]) async throws -> Void
    ) async throws {
        try await withClients(url ?? server.unixURL, 4) { clients in
            var groups: [Group] = []
            for client in clients { groups.append(try await client.group("g")) }
            var memberships: [Membership] = []
            for index in 0..<3 { memberships.append(try await groups[index].join("n\(index)", lease: lease)) }
            // All know the same version: then it is clear what each of them asks for.
            for group in groups { try await eventually(group, "all are seen") { $0.ids == ["n0", "n1", "n2"] } }
            try await body(groups, memberships)
            for membership in memberships { try await membership.leave() }
        }
    }

    private func types(_ observer: Observer) async throws -> [String: Int] {
        try await observer.events().reduce(into: [:]) { $0[$1.type, default: 0] += 1 }
    }

    @Test func `a Redis that stands still for longer than all leases expires nobody`() async throws {
        try await withObservedRedis { server, observer in
            try await self.withMembers(server, observer, lease: .milliseconds(1000)) { group, memberships in
                await server.kill(SIGSTOP)
                // Nobody may act while nobody knows.
                try await eventually("all are suspended", within: .seconds(90)) {
                    memberships.allSatisfy { $0.state == .suspended }
                }
                try await eventually("the view is stale", within: .seconds(90)) { group.snapshot.isStale }
                #expect(group.snapshot.ids == ["n0", "n1", "n2"])
                for membership in memberships {
                    #expect(await failure { try membership.check() }?.code == .membershipExpired)
                    #expect(await failure { try membership.check() }?.isRetriable == true)
                }
                await server.kill(SIGCONT)
                try await eventually("all are members again", within: .seconds(90)) {
                    memberships.allSatisfy { $0.isMember }
                }
                try await eventually("the view is fresh", within: .seconds(90)) { !group.snapshot.isStale }
                let types = try await self.types(observer)
                #expect(types["member.expired"] == nil && types["member.joined"] == 3)
                #expect(types["coordinator.gap"] ?? 0 >= 1)
            }
        }
    }

    @Test func `members rebuild a group that Redis lost, upward, and nobody ever sees less than all`() async throws {
        try await withObservedRedis { server, observer in
            try await self.withMembersAndGroups(server, observer, lease: .seconds(60)) { groups, memberships in
                let sessions = memberships.map(\.session)
                for round in 1...3 {
                    let version = groups[0].snapshot.version
                    // Answered behind all that was sent before: a call that knows an older version and comes after the
                    // loss would be a loss of its own.
                    for group in groups { _ = try await group.inspect() }
                    try await observer.send("FLUSHALL")
                    try await eventually("Redis has them all again", within: .seconds(90)) {
                        for group in groups {
                            let ids = group.snapshot.ids
                            #expect(ids == ["n0", "n1", "n2"])
                        }
                        return try await observer.send("ZCARD", "ringfence:{default}:leases:g") == .integer(3)
                    }
                    for group in groups {
                        // What was lost, and three joins.
                        try await eventually(group, "the view is of now") { $0.version == version + 4 && !$0.isStale }
                        #expect(group.snapshot.members.map(\.session) == sessions, "round \(round)")
                    }
                    #expect(memberships.allSatisfy { $0.state != .expired })
                    let types = try await self.types(observer)
                    #expect(types == ["state.rolledBack": 1, "member.joined": 3])
                    try await observer.checkLog()
                }
            }
        }
    }

    @Test func `a Redis that restarts without its data gets its groups back from the members`() async throws {
        try await withObservedRedis { server, observer in
            try await self.withMembers(server, observer, lease: .seconds(60)) { group, memberships in
                let version = group.snapshot.version
                await server.kill(SIGKILL)
                try await server.restart()
                try await eventually("Redis has them all again", within: .seconds(90)) {
                    #expect(group.snapshot.ids == ["n0", "n1", "n2"])
                    let count = try? await observer.send("ZCARD", "ringfence:{default}:leases:g")
                    return count == .integer(3)
                }
                try await eventually(group, "the view is of now") { $0.version >= version + 4 && !$0.isStale }
                let types = try await self.types(observer)
                #expect(types == ["state.rolledBack": 1, "member.joined": 3])
                #expect(memberships.allSatisfy { $0.isMember })
            }
        }
    }

    @Test func `a Redis that restarts with its data goes on where it was, in a new generation`() async throws {
        try await withObservedRedis(["--appendonly", "yes", "--appendfsync", "always"]) { server, observer in
            try await self.withMembers(server, observer, lease: .seconds(60)) { group, memberships in
                let before = try await observer.events()
                await server.kill(SIGKILL)
                try await server.restart()
                try await eventually("the view is fresh", within: .seconds(90)) { !group.snapshot.isStale }
                #expect(group.snapshot.version == 3)
                try await memberships[0].update(weight: 2)
                try await eventually(group, "the change is seen") { $0.version == 4 }
                let events = try await observer.events()
                #expect(Array(events.prefix(before.count)) == before, "nothing was lost, and nothing told anew")
                #expect(events.last?.type == "member.updated" && events.last?.generation != before.last?.generation)
                #expect(!events.contains { $0.type == "state.rolledBack" || $0.type == "member.expired" })
                let forks = try await observer.send("HGET", "ringfence:{default}:log", "forks").text
                #expect(forks?.hasPrefix("\(before[0].generation)@") == true)
                try await observer.checkLog()
            }
        }
    }

    @Test func `a replica promoted without the last joins gets them back, and versions do not repeat`() async throws {
        try await withObservedRedis { server, observer in
            try await withObservedRedis(["--hz", "500", "--repl-diskless-load", "swapdb"]) { second, secondObserver in
                let proxy = try await TCPProxy.start(to: server)
                try await self.withMembers(server, observer, url: proxy.url, lease: .seconds(60)) {
                    group, memberships in
                    try await secondObserver.send("REPLICAOF", "127.0.0.1", "\(server.port)")
                    try await eventually("the replica has all three", within: .seconds(90)) {
                        let count = try? await secondObserver.send("HLEN", "ringfence:{default}:members:g")
                        return count == .integer(3)
                    }
                    // Cut: what happens from here on the replica does not know.
                    try await secondObserver.send("REPLICAOF", "NO", "ONE")
                    try await memberships[0].leave()
                    try await withClient(proxy.url) { late in
                        let lost = try await late.group("g").join("n9", lease: .seconds(60))
                        // Each client raises the version by what it knows, so both know the last.
                        let lateGroup = try await late.group("g")
                        // What each asks from now on says so: nothing is on its way that was written before.
                        for group in [group, lateGroup] {
                            try await eventually(group, "it is seen") { $0.ids == ["n1", "n2", "n9"] }
                            let seen = ContinuousClock.now
                            try await eventually(group, "it has asked since") { $0.confirmedAt > seen }
                        }
                        let known = group.snapshot
                        #expect(known.version == 5)
                        try proxy.retarget(to: second)
                        proxy.cutClients()
                        // n0, which left in what was lost, is there again until its lease ends; n9 joins again by
                        // itself.
                        try await eventually("the promoted one has n9", within: .seconds(90)) {
                            let there = try? await secondObserver.send("HEXISTS", "ringfence:{default}:members:g", "n9")
                            return there == .integer(1)
                        }
                        try await eventually(group, "the view goes on") {
                            $0.version > 5 && $0.generation != known.generation
                        }
                        #expect(lost.isMember && memberships[1].isMember && memberships[2].isMember)
                        let rolledBack = try await secondObserver.events("state.rolledBack")
                        #expect(rolledBack.map(\.version) == [6])
                        let joins = try await secondObserver.events("member.joined").map(\.member)
                        #expect(joins == ["n0", "n1", "n2", "n9"])
                        try await lost.leave()
                    }
                }
                await proxy.close()
            }
        }
    }

    @Test func `a server whose clock is set by an hour, forth and back, loses nobody`() async throws {
        let shim = try await ClockShim()
        try await withObservedRedis(under: shim.command) { server, observer in
            try await self.withMembers(server, observer, lease: .seconds(4)) { group, memberships in
                for offset: Int64 in [3_600_000, -3_600_000, 0] {
                    let before = try await observer.now()
                    try shim.set(milliseconds: offset)
                    try await eventually("the server's clock has stepped") {
                        abs(try await observer.now() - before) > 3_000_000_000
                    }
                    // Two leases, in which each member must have beaten to be there.
                    let start = ContinuousClock.now
                    try await eventually("two leases are over", within: .seconds(90)) {
                        start.duration(to: .now) > .seconds(8)
                    }
                    #expect(group.snapshot.ids == ["n0", "n1", "n2"])
                }
                let types = try await self.types(observer)
                // (A machine that holds this process up for a whole lease gives a gap, not a death: all are in it.)
                #expect(types["member.expired"] == nil && types["member.joined"] == 3)
                #expect(types["coordinator.gap"] ?? 0 >= 2, "the steps forward are gaps")
                #expect(memberships.allSatisfy { $0.state != .expired })
            }
            // Leases still end by group time.
            let member = try TalkingProcess.start("TestMember", [server.unixURL, "g", "dead", "500"])
            _ = try await member.line()
            try await withClient(server.unixURL) { client in
                let group = try await client.group("g")
                try await eventually(group, "it is seen") { $0.ids == ["dead"] }
                try await member.end()
                try await eventually(group, "it is gone") { $0.ids == [] }
            }
        }
    }

    @Test func `an answer that is lost on its way makes no second event`() async throws {
        try await withObservedRedis { server, observer in
            let proxy = try await TCPProxy.start(to: server)
            try await withClient(proxy.url) { client in
                let group = try await client.group("g")
                // The join is done, its answer never comes, and the connection dies.
                proxy.update { $0.serverToClient.isStalled = true }
                let joining = Task { try await group.join("n", lease: .seconds(60)) }
                try await eventually("it has joined at Redis", within: .seconds(90)) {
                    try await observer.send("HLEN", "ringfence:{default}:members:g") == .integer(1)
                }
                proxy.passNewConnections()
                proxy.cutClients()
                let membership = try await joining.value
                #expect(membership.isMember)
                proxy.update { $0.serverToClient.isStalled = true }
                let leaving = Task { try await membership.leave() }
                try await eventually("it has left at Redis", within: .seconds(90)) {
                    try await observer.send("HLEN", "ringfence:{default}:members:g") == .integer(0)
                }
                proxy.passNewConnections()
                proxy.cutClients()
                try await leaving.value
                // (Nobody could reach the group meanwhile.)
                let types = try await observer.events().map(\.type).filter { $0 != "coordinator.gap" }
                #expect(types == ["member.joined", "member.left"])
            }
            await proxy.close()
        }
    }

    @Test func `a member whose record became unreadable in a loss is waited for: the view stays, and is stale`()
        async throws
    {
        try await withObservedRedis { server, observer in
            try await self.withMembers(server, observer, lease: .seconds(60)) { group, memberships in
                let record = #"{"session":"x","weight":"much"}"#
                try await observer.send("HSET", "ringfence:{default}:members:g", "n1", record)
                // Another history of the same version: the group heals, and until then nobody is missing (without a
                // loss the record is left out: GroupTests).
                try await observer.send("HSET", "ringfence:{default}:state:g", "mark", "other:1")
                try await eventually("it is stale", within: .seconds(90)) { group.snapshot.isStale }
                #expect(group.snapshot.ids == ["n0", "n1", "n2"])
                try await observer.send("DEL", "ringfence:{default}:members:g")
            }
        }
    }
}
