// SPDX-License-Identifier: Apache-2.0

import Hiredis
import Ringfence
import RingfenceCore
import TestSupport
import Testing

@Suite struct GroupTests {
    @Test func `a member is seen by others, changed and gone, each time by one event`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let group = try await clients[0].group("ledger")
                let other = try await clients[1].group("ledger")
                #expect(other.snapshot.version == 0 && other.snapshot.members.isEmpty)
                let membership = try await group.join(
                    "node-1", address: "10.0.0.1:7000", zone: "a", weight: 2, priority: 5, capabilities: ["ledger"],
                    metadata: ["build": "7"])
                #expect(membership.isMember && membership.state == .member)
                try membership.check()
                // The one that joined sees itself at once.
                #expect(group.snapshot.ids == ["node-1"])
                try await eventually(other, "the other sees it") { $0.version == 1 }
                let member = try #require(other.snapshot.member("node-1"))
                #expect(member.address == "10.0.0.1:7000" && member.zone == "a" && member.weight == 2)
                #expect(member.priority == 5 && member.capabilities == ["ledger"] && member.metadata == ["build": "7"])
                #expect(member.lease == .seconds(3) && member.session == membership.session && !member.isDraining)

                // An address that would mean something in SQL, to which others paste it, is let in by neither.
                let wrong = await #expect(throws: RingfenceError.self) {
                    _ = try await group.join("node-2", address: "h' user='x")
                }
                #expect(wrong?.message.contains("address must be HOST:PORT") == true)
                await #expect(throws: RingfenceError.self) { try await membership.update(address: "h;DROP:1") }

                try await membership.update(weight: 0, metadata: [:])
                #expect(membership.member.isDraining && membership.member.address == "10.0.0.1:7000")
                try await eventually(other, "the other sees the change") { $0.version == 2 }
                #expect(other.snapshot.member("node-1")?.isDraining == true)
                #expect(other.snapshot.member("node-1")?.metadata == [:])

                try await membership.leave(reason: "done")
                #expect(membership.state == .left && !membership.isMember)
                #expect(await failure { try membership.check() }?.code == .membershipLeft)
                try await eventually(other, "the other sees it gone") { $0.version == 3 && $0.members.isEmpty }
                let events = try await observer.events()
                #expect(events.map(\.type) == ["member.joined", "member.updated", "member.left"])
                #expect(events.map(\.reason) == ["new", nil, "done"])
                try await observer.checkLog()
                try await membership.leave()
                let count = try await observer.events().count
                #expect(count == 3, "leaving again does nothing")
            }
        }
    }

    @Test func `a member elsewhere is renewed by any process, and never comes in by renewing`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let group = try await clients[0].group("ledger")
                let other = try await clients[1].group("ledger")
                var record = MemberRecord(id: "node-1", session: "", leaseMilliseconds: 3_600_000)
                let first = try await group.admit(record)
                #expect(group.snapshot.member("node-1")?.session == first.record.session)
                #expect(first.version == 1 && first.remaining > .zero && first.remaining < .seconds(3600))
                let renewed = try await other.renew(first.record)
                #expect(renewed.version == 1 && renewed.record == first.record)
                record = first.record
                record.weight = 0
                #expect(try await other.renew(record).version == 2)

                let second = try await other.admit(record)
                #expect(second.record.session != first.record.session)
                #expect(await failure { _ = try await group.renew(first.record) }?.code == .membershipReplaced)
                // Taking back the first does nothing to the second, and that of the second leaves nobody.
                group.withdraw(first)
                other.withdraw(second)
                try await eventually(group, "it is taken back") { $0.version == 4 && $0.members.isEmpty }
                for grant in [first, second] {
                    let error = await failure { _ = try await group.renew(grant.record) }
                    #expect(error?.code == .membershipExpired && error?.effect == RingfenceError.Effect.none)
                }
                let events = try await observer.events()
                #expect(events.map(\.type) == ["member.joined", "member.updated", "member.joined", "member.left"])
                try await observer.checkLog()
            }
        }
    }

    @Test func `a group is one object as long as it is held`() async throws {
        try await withRingfence { _, client in
            let one = try await client.group("g")
            let two = try await client.group("g")
            let other = try await client.group("h")
            #expect(one === two && one !== other)
        }
    }

    @Test func `a process that comes back replaces its old self, which is told and never fights back`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let old = try await clients[0].group("g").join("n", lease: .milliseconds(500), rejoins: true)
                let states = old.states
                let new = try await clients[1].group("g").join("n", lease: .milliseconds(500))
                var told: [Membership.State] = []
                for await state in states { told.append(state) }
                #expect(told.last == .replaced && told.first == .member)
                #expect(await failure { try old.check() }?.code == .membershipReplaced)
                #expect(new.isMember)
                let joins = try await observer.events("member.joined")
                #expect(joins.map(\.reason) == ["new", "replaced"])
                #expect(joins.last?.previous == old.session)
                // It beats no more: its client sees the new one only.
                let seen = try await clients[0].group("g").snapshot.member("n")?.session
                #expect(seen == new.session)
            }
        }
    }

    @Test func `a member lives for many leases while its process does, though all threads are blocked`() async throws {
        try await withObservedRedis { server, observer in
            let member = try TalkingProcess.start("TestMember", [server.unixURL, "g", "n", "1000"])
            _ = try #require(try await member.line())
            let state = try await member.line()
            #expect(state == "state member")
            member.tell("block")
            let blocked = try await member.line()
            #expect(blocked == "blocked")
            let watcher = try RingfenceClient(.init(url: server.unixURL), logger: testLogger)
            let group = try await watcher.group("g")
            let start = ContinuousClock.now
            try await eventually("five leases are over") { start.duration(to: .now) > .seconds(5) }
            let ids = group.snapshot.ids
            let events = try await observer.events()
            // A machine full of tests may hold its process up for longer than that; then it is out, and rightly.
            #expect(ids == ["n"] || events.contains { $0.type == "member.expired" })
            #expect(try await observer.send("ZCARD", "ringfence:{default}:leases:g") == .integer(Int64(ids.count)))
            try await member.end()
            await watcher.shutdown()
        }
    }

    @Test func `shutting a client down leaves the groups it joined`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { watching in
                let group = try await watching.group("g")
                let membership = try await withClient(server.unixURL) { client in
                    try await client.group("g").join("n")
                }
                #expect(membership.state == .left)
                let left = try await observer.events("member.left")
                #expect(left.map(\.reason) == ["shutdown"])
                try await eventually(group, "it is gone") { $0.members.isEmpty && $0.version == 2 }
            }
        }
    }

    @Test func `a group made with another seed or points per weight is refused, and its own are taken`() async throws {
        try await withRingfence { server, client in
            let group = try await client.group("g", options: .init(seed: 7, pointsPerWeight: 64))
            _ = try await group.join("a")
            #expect(group.ring.seed == 7 && group.ring.pointsPerWeight == 64)
            try await withClient(server.unixURL) { other in
                let seen = try await other.group("g")
                #expect(seen.ring.seed == 7 && seen.ring.pointsPerWeight == 64)
                let wrong = await failure { try await other.group("g", options: .init(seed: 8)) }
                #expect(wrong?.code == .groupPolicyMismatch && wrong?.effect == RingfenceError.Effect.none)
                #expect(
                    await failure { try await other.group("g", options: .init(pointsPerWeight: 65)) }?.code
                        == .groupPolicyMismatch)
                _ = try await other.group("g", options: .init(seed: 7, pointsPerWeight: 64))
            }
        }
    }

    @Test func `who asked for one ring and finds that another was made meanwhile is no member`() async throws {
        try await withRingfence { server, client in
            try await withClient(server.unixURL) { other in
                let group = try await client.group("g", options: .init(pointsPerWeight: 100))
                let made = try await other.group("g")
                let first = try await made.join("first", lease: .seconds(60))
                #expect(
                    await failure { try await group.join("second", lease: .seconds(60)) }?.code == .groupPolicyMismatch)
                // It knows by now, and takes the id from nobody.
                #expect(
                    await failure { try await group.join("first", lease: .seconds(60)) }?.code == .groupPolicyMismatch)
                try await eventually("whatever came in is out again", within: .seconds(60)) {
                    try await other.operations(on: "g").status().members.map(\.member.session) == [first.session]
                }
                #expect(
                    await failure { try await client.group("g", options: .init(pointsPerWeight: 100)) }?.code
                        == .groupPolicyMismatch)
                #expect(first.isMember)
                // Who then asks for nothing gets what there is.
                _ = try await client.group("g").join("third")
            }
        }
    }

    @Test func `a member with whom the ring would have too many points is refused before anything is sent`()
        async throws
    {
        try await withRingfence { _, client in
            let group = try await client.group("g", options: .init(pointsPerWeight: 4096))
            var members: [Membership] = []
            for number in 0..<4 { members.append(try await group.join("n\(number)", weight: 1000)) }
            let full = await failure { try await group.join("n4", weight: 97) }
            #expect(full?.code == .argumentInvalid && full?.effect == RingfenceError.Effect.none)
            #expect(full?.message.contains("16777216") == true, "\(full?.message ?? "")")
            members.append(try await group.join("n4", weight: 96))
            let more = await failure { try await members[4].update(weight: 97) }
            #expect(more?.code == .argumentInvalid)
            try await members[0].update(weight: 1)
            try await members[4].update(weight: 97)
            #expect(group.snapshot.member("n4")?.weight == 97)
        }
    }

    @Test func `a record that cannot be read is left out, and the others stay what they are`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let group = try await client.group("g")
                let membership = try await group.join("a", lease: .seconds(60))
                for (id, record) in [
                    ("hand", "not a record"), ("new", #"{"session":"s","leaseMs":60000,"weight":1000000}"#),
                ] {
                    try await observer.send("HSET", "ringfence:{default}:members:g", id, record)
                }
                // A look from somebody who knows nothing, and a change that everybody looks at.
                try await withClient(server.unixURL) { other in
                    let seen = try await other.group("g")
                    #expect(seen.snapshot.ids == ["a"])
                    _ = try await seen.join("b", lease: .seconds(60))
                    try await eventually(group, "the change is seen") { $0.ids == ["a", "b"] }
                    #expect(group.ring == seen.ring)
                    #expect(try await other.operations(on: "g").status().members.map(\.member.id) == ["a", "b"])
                }
                try await membership.update(weight: 2)
                #expect(membership.isMember)
            }
        }
    }

    @Test func `the ring is that of the snapshot, in every process`() async throws {
        try await withRedis { server in
            try await withClients(server.unixURL, 2) { clients in
                let group = try await clients[0].group("g")
                let other = try await clients[1].group("g")
                #expect(other.ring.isEmpty)
                var memberships: [Membership] = []
                for number in 0..<9 {
                    memberships.append(
                        try await group.join("n\(number)", zone: "z\(number % 3)", weight: number, lease: .seconds(30)))
                }
                try await memberships[3].leave()
                try await memberships[4].update(zone: "elsewhere")
                try await eventually(other, "both see it") { $0.version == 11 }
                #expect(group.snapshot.version == 11 && group.ring == other.ring)
                let expected = try HashRing(
                    other.snapshot.members.map { .init(id: $0.id, zone: $0.zone, weight: $0.weight) })
                #expect(expected == other.ring && expected.memberCount == 8)
                #expect(group.ring.owner(of: "account/4711") == expected.owner(of: "account/4711"))
            }
        }
    }

    @Test func `operators see groups, members and leases, and take a member out`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let group = try await client.group("g")
                let membership = try await group.join("n", lease: .seconds(20))
                _ = try await client.group("h").join("m")
                _ = try await client.group("empty")
                #expect(try await client.groupNames() == ["g", "h"])
                let status = try await client.operations(on: "g").status()
                #expect(status.version == 1 && status.members.map(\.member.id) == ["n"])
                #expect(status.members[0].remaining > .zero && status.members[0].remaining <= .seconds(20))
                #expect(status.expiryGrace == .zero && status.pointsPerWeight == 256 && status.seed == 0)
                #expect(try await client.operations(on: "empty").status().version == 0)
                let wrong = try await client.operations(on: "g").removeMember("n", session: "other")
                #expect(!wrong)
                let states = membership.states
                let removed = try await client.operations(on: "g").removeMember("n", actor: "me", reason: "why")
                #expect(removed)
                var told: [Membership.State] = []
                for await state in states { told.append(state) }
                #expect(told.last == .expired)
                #expect(await failure { try membership.check() }?.code == .membershipExpired)
                let again = try await client.operations(on: "g").removeMember("n")
                #expect(!again)
                let left = try await observer.events("member.left")
                #expect(left.count == 1 && left[0].reason == "why")
            }
        }
    }

    @Test func `a member that rejoins is told first, and comes back under a new session`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let membership = try await client.group("g").join("n", lease: .milliseconds(500), rejoins: true)
                let first = membership.session
                var states = membership.states.makeAsyncIterator()
                #expect(await states.next() == .member)
                try await client.operations(on: "g").removeMember("n")
                var told: [Membership.State] = []
                while let state = await states.next() {
                    told.append(state)
                    if state == .member, told.contains(.expired) { break }
                }
                #expect(told.contains(.expired) && membership.session != first)
                let joins = try await observer.events("member.joined")
                #expect(joins.map(\.reason) == ["new", "new"])
            }
        }
    }

    @Test func `a change is seen by its event, without a look`() async throws {
        try await withObservedRedis { server, observer in
            try await observer.send("ACL", "SETUSER", "watcher", "on", ">pw", "~*", "&*", "+@all")
            try await withClient(server.url) { member in
                try await withClient(server.url.replacing("redis://", with: "redis://watcher:pw@")) { watcher in
                    let other = try await member.group("g")
                    let one = try await other.join("one", zone: "a")
                    let group = try await watcher.group("g")
                    try await eventually { watcher.eventStatus.isLive }
                    #expect(group.snapshot.ids == ["one"])
                    #expect(group.ring.owner(of: "key") == "one")
                    // From here on the watcher cannot look: what it learns, it learns by the channel.
                    try await observer.send("ACL", "SETUSER", "watcher", "-evalsha", "-eval")
                    let error = await failure { try await watcher.operations(on: "g").status() }
                    #expect(error != nil)
                    let two = try await other.join("two", weight: 3)
                    try await eventually(group, "both are seen") { $0.ids == ["one", "two"] }
                    try await two.update(weight: 0)
                    try await one.leave()
                    try await eventually(group, "the last of it is seen") { snapshot in
                        snapshot.ids == ["two"] && snapshot.members[0].isDraining && snapshot.version == 4
                    }
                    #expect(group.ring.owner(of: "key") == nil)
                }
            }
        }
    }

    @Test func `who saw the group empty has the ring of whoever made it`() async throws {
        try await withRingfence { server, watcher in
            try await withClient(server.unixURL) { maker in
                // So that the log is known, and the first join can be taken from its event.
                _ = try await maker.group("other").join("m")
                let seen = try await watcher.group("g")
                try await eventually { watcher.eventStatus.isLive }
                #expect(seen.snapshot.members.isEmpty)
                let made = try await maker.group("g", options: GroupOptions(seed: 7, pointsPerWeight: 16))
                _ = try await made.join("a")
                _ = try await made.join("b")
                try await eventually(seen, "both are seen") { $0.ids == ["a", "b"] }
                for group in [seen, made] {
                    #expect(group.ring.seed == 7 && group.ring.pointsPerWeight == 16)
                    #expect(group.ring.digest == made.ring.digest)
                }
            }
        }
    }

    @Test func `a member that was removed is told so when it changes something, and does not come back`() async throws {
        try await withRingfence { server, client in
            try await withClient(server.unixURL) { other in
                let group = try await client.group("g")
                let membership = try await group.join("a", lease: .seconds(60))
                _ = try await other.operations(on: "g").removeMember("a")
                let error = await failure { try await membership.update(weight: 5) }
                #expect(error?.code == .membershipExpired)
                #expect(membership.state == .expired)
                #expect(try await other.operations(on: "g").status().members.isEmpty)
            }
        }
    }
}
