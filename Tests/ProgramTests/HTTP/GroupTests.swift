// SPDX-License-Identifier: Apache-2.0
//
// Membership over HTTP and on the command line, on a real Redis. What the group's script does in every order of events
// is the library's business; here each status of it must reach a stranger as the right answer, and nothing must happen
// that the stranger was not told of.
import Logging
import Ringfence
import RingfencePlatform
import TestSupport
import Testing

@Suite struct GroupTests {
    static let path = "/v1/groups/ledger%2Feu/members/10.0.0.1:7000"
    /// Where Redis lives it answers, however slow the machine.
    static let patient = ["--command-timeout", "30s"]
    private static let hour = #""ttlMs":3600000"#

    func withClient<Result: Sendable>(
        _ redis: RedisServer, _ body: @Sendable (RingfenceClient) async throws -> Result
    ) async throws -> Result {
        let client = try RingfenceClient(
            .init(url: redis.unixURL, commandTimeout: .seconds(30)),
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        do {
            let result = try await body(client)
            await client.shutdown()
            return result
        } catch {
            await client.shutdown()
            throw error
        }
    }

    private func types(_ client: RingfenceClient) async throws -> [String] {
        try await client.eventPage(after: .start, limit: 100).events.map(\.type.description)
    }

    // MARK: HTTP

    @Test func `a group whose ring has too many points lives on, and can be made smaller`() async throws {
        try await withRedis { redis in
            let first = try await Service.start(["--redis", redis.unixURL] + Self.patient)
            var sessions: [String] = []
            for number in 0..<5 {
                let answer = try await first.request(
                    "PUT", "/v1/groups/g/members/\(number)", "{\"weight\":1000,\(Self.hour)}")
                sessions.append(try #require(answer["session"]))
            }
            // As if all had joined at once, each before it knew of the others.
            try await redis.cli("HSET", "ringfence:{default}:policy:g", "pointsPerWeight", "4096")
            let service = try await Service.start(["--redis", redis.unixURL] + Self.patient)
            func put(_ number: Int, weight: Int) async throws -> Answer {
                try await service.request(
                    "PUT", "/v1/groups/g/members/\(number)",
                    "{\"session\":\"\(sessions[number])\",\"weight\":\(weight),\(Self.hour)}")
            }
            for number in 0..<5 { #expect(try await put(number, weight: 1000).status == 200) }
            let more = try await service.request("PUT", "/v1/groups/g/members/5", "{\(Self.hour)}")
            #expect(more.status == 400 && more["detail"]?.hasPrefix("weight") == true, "\(more.body)")
            for number in 0..<5 { #expect(try await put(number, weight: 2).status == 200) }
            let ring = try await service.request("GET", "/v1/groups/g/ring")
            #expect(ring.status == 200 && ring.body.contains(#""pointsPerWeight":4096"#), "\(ring.body)")
            let again = try await put(0, weight: 3)
            #expect(again.status == 200)
            _ = await first.stop()
            _ = await service.stop()
        }
    }

    @Test func `two machines with one id are told of each other, and the first one keeps it`() async throws {
        try await withService(Self.patient) { service, redis in
            let first = try await service.request("PUT", Self.path, #"{"address":"10.0.0.1:7000","ttlMs":3600000}"#)
            #expect(first.status == 200)
            let second = try await service.request("PUT", Self.path, #"{"address":"10.0.0.2:7000","ttlMs":3600000}"#)
            #expect(second.status == 409 && second["code"] == "membership.taken", "\(second.body)")
            let detail = try #require(second["detail"])
            #expect(detail.contains("10.0.0.1:7000") && detail.contains("10.0.0.2:7000"), "\(detail)")
            #expect(second.body.contains(#""retryAfterMs":3"#), "\(second.body)")
            // The one that is there is started anew; or an operator takes it out.
            #expect(
                try await service.request("PUT", Self.path, #"{"address":"10.0.0.1:7000","ttlMs":3600000}"#).status
                    == 200)
            #expect(try await service.request("DELETE", Self.path).status == 200)
            #expect(
                try await service.request("PUT", Self.path, #"{"address":"10.0.0.2:7000","ttlMs":3600000}"#).status
                    == 200)
        }
    }

    @Test func `who never heard that it was let in is taken out again`() async throws {
        try await withRedis { redis in
            try await withClient(redis) { client in
                let proxy = try await TCPProxy.start(to: redis)
                let service = try await Service.start(["--redis", "redis://127.0.0.1:\(proxy.port)"] + Self.patient)
                // What the service asks first, it has asked by then.
                #expect(try await service.request("PUT", "/v1/groups/g/members/first", "{\(Self.hour)}").status == 200)
                proxy.update { $0.serverToClient.isStalled = true }
                let connection = try await service.connect()
                try await connection.send("PUT", "/v1/groups/g/members/m", "{\(Self.hour)}")
                try await eventually("Redis has it") {
                    try await client.operations(on: "g").status().members.count == 2
                }
                try await connection.reset()
                proxy.update { $0.serverToClient.isStalled = false }
                try await eventually("it is out again", within: .seconds(60)) {
                    try await client.operations(on: "g").status().members.map(\.member.id) == ["first"]
                }
                #expect(
                    try await types(client).filter { $0.hasPrefix("member.") } == [
                        "member.joined", "member.joined", "member.left",
                    ])
                _ = await service.stop()
                await proxy.close()
            }
        }
    }

    @Test func `a member joins, beats without an event, changes with one, and leaves`() async throws {
        try await withService(Self.patient) { service, redis in
            try await withClient(redis) { client in
                let body = #"""
                    "address":"10.0.0.1:7000","zone":"a","weight":2,"priority":-1,\#
                    "capabilities":["ledger"],"metadata":{"k":"v"}
                    """#
                let joined = try await service.request("PUT", Self.path, "{\(body),\(Self.hour)}")
                #expect(joined.status == 200, "\(joined.body)")
                #expect(joined["group"] == "ledger/eu" && joined["member"] == "10.0.0.1:7000")
                #expect(joined["version"] == "1" && joined["ttlMs"] == "3600000" && joined["paceMs"] == "1000")
                let deadline = try #require(joined["deadlineMs"].flatMap { Int($0) })
                #expect(deadline > 0 && deadline <= 3_600_000)
                let session = try #require(joined["session"])

                let member = try #require(try await client.operations(on: "ledger/eu").status().members.first?.member)
                #expect(member.id == "10.0.0.1:7000" && member.session == session)
                #expect(member.address == "10.0.0.1:7000" && member.zone == "a" && member.weight == 2)
                #expect(member.priority == -1 && member.capabilities == ["ledger"] && member.metadata == ["k": "v"])
                #expect(member.lease == .seconds(3600))

                let mine = "\"session\":\"\(session)\""
                let beat = try await service.request("PUT", Self.path, "{\(mine),\(body),\(Self.hour)}")
                #expect(beat.status == 200 && beat["session"] == session && beat["version"] == "1")
                #expect(try await types(client) == ["member.joined"])

                let drained = try await service.request("PUT", Self.path, "{\(mine),\"weight\":0,\(Self.hour)}")
                #expect(drained.status == 200 && drained["session"] == session && drained["version"] == "2")
                #expect(try await types(client) == ["member.joined", "member.updated"])
                #expect(try await client.operations(on: "ledger/eu").status().members.first?.member.isDraining == true)

                let left = try await service.request("DELETE", Self.path, "{\(mine),\"reason\":\"update\"}")
                #expect(left.status == 200 && left["removed"] == "true")
                let again = try await service.request("DELETE", Self.path, "{\(mine)}")
                #expect(again.status == 200 && again["removed"] == "false")
                let event = try #require(try await client.eventPage(after: .start, limit: 100).events.last)
                #expect(event.type == .memberLeft && event.reason == "update" && event.actor == "http/127.0.0.1")

                let late = try await service.request("PUT", Self.path, "{\(mine),\(Self.hour)}")
                #expect(late.status == 409 && late["code"] == "membership.expired" && late["effect"] == "none")
                #expect(try await client.operations(on: "ledger/eu").status().members.isEmpty)
            }
        }
    }

    @Test func `a join replaces whoever has the id, who is told at its next beat and takes nothing back`() async throws
    {
        try await withService(Self.patient) { service, redis in
            try await withClient(redis) { client in
                let first = try #require(try await service.request("PUT", Self.path, "{\(Self.hour)}")["session"])
                let second = try #require(try await service.request("PUT", Self.path, "{\(Self.hour)}")["session"])
                #expect(first != second)
                let beat = #"{"session":"\#(first)","weight":7,\#(Self.hour)}"#
                for _ in 1...2 {
                    let told = try await service.request("PUT", Self.path, beat)
                    #expect(told.status == 409 && told["code"] == "membership.replaced" && told["effect"] == "none")
                }
                let leave = try await service.request("DELETE", Self.path, #"{"session":"\#(first)"}"#)
                #expect(leave.status == 200 && leave["removed"] == "false")
                let status = try await client.operations(on: "ledger/eu").status()
                #expect(status.members.map(\.member.session) == [second] && status.version == 2)
                #expect(status.members.first?.member.weight == 1)
                let alive = try await service.request("PUT", Self.path, #"{"session":"\#(second)",\#(Self.hour)}"#)
                #expect(alive.status == 200 && alive["version"] == "2")
            }
        }
    }

    @Test func `a member whose calls stop is out when its lease ends, and its late beat brings nobody back`()
        async throws
    {
        try await withService(Self.patient) { service, redis in
            try await withClient(redis) { client in
                let joined = try await service.request("PUT", Self.path, #"{"ttlMs":200}"#)
                #expect(joined.status == 200 && joined["paceMs"] == "40")
                let session = try #require(joined["session"])
                // Nobody asks: the service itself looks at the group that has a member by it. (Reading the log is no
                // look.)
                try await eventually("the death is an event", within: .seconds(120)) {
                    try await types(client).contains("member.expired")
                }
                let late = try await service.request("PUT", Self.path, #"{"session":"\#(session)","ttlMs":200}"#)
                #expect(late.status == 409 && late["code"] == "membership.expired", "\(late.body)")
                let gone = try await service.request("GET", "/v1/groups/ledger%2Feu")
                #expect(gone.status == 200 && gone.body.contains(#""members":[]"#))
                #expect(try await types(client).filter { $0 == "member.joined" }.count == 1)
            }
        }
    }

    @Test func `an operator takes out whoever is there, and the event says who did it`() async throws {
        try await withService(Self.patient) { service, redis in
            try await withClient(redis) { client in
                let membership = try await client.group("ledger/eu").join("10.0.0.1:7000", lease: .seconds(3600))
                let wrong = try await service.request("DELETE", Self.path + "?session=other")
                #expect(wrong.status == 200 && wrong["removed"] == "false")
                let removed = try await service.request("DELETE", Self.path + "?actor=ann&reason=ticket%2012")
                #expect(removed.status == 200 && removed["removed"] == "true")
                let event = try #require(
                    try await client.eventPage(after: .start, limit: 100).events.first { $0.type == .memberLeft })
                #expect(event.actor == "http/127.0.0.1 (says ann)" && event.reason == "ticket 12")
                try await eventually("the member is told", within: .seconds(120)) { membership.state == .expired }
            }
        }
    }

    @Test func `two services and the library see one group, and beat for each other's members`() async throws {
        try await withService(Self.patient) { one, redis in
            let two = try await Service.start(["--redis", redis.unixURL] + Self.patient)
            try await withClient(redis) { client in
                let joined = try await one.request("PUT", Self.path, "{\"zone\":\"a\",\(Self.hour)}")
                let session = try #require(joined["session"])
                _ = try await client.group("ledger/eu").join("b", lease: .seconds(3600))
                _ = try await two.request("PUT", "/v1/groups/other/members/x", "{\(Self.hour)}")
                for service in [one, two] {
                    let beat = #"{"session":"\#(session)","zone":"a",\#(Self.hour)}"#
                    #expect(try await service.request("PUT", Self.path, beat).status == 200)
                    var group = try await service.request("GET", "/v1/groups/ledger%2Feu")
                    try await eventually("the group is answered fresh", within: .seconds(60)) {
                        group = try await service.request("GET", "/v1/groups/ledger%2Feu")
                        return group["stale"] == "false"
                    }
                    #expect(group.status == 200 && group["group"] == "ledger/eu" && group["version"] == "2")
                    #expect(
                        group["generation"]?.isEmpty == false && group["ageMs"] == "0" && group["expiryGraceMs"] != nil)
                    #expect(group.body.contains("\"id\":\"10.0.0.1:7000\",\"session\":\"\(session)\""))
                    #expect(group.body.contains("\"id\":\"b\""))
                    let left = try #require(group["remainingMs"].flatMap { Int($0) })
                    #expect(left > 0 && left <= 3_600_000)
                    let list = try await service.request("GET", "/v1/groups")
                    #expect(list.status == 200 && list["stale"] == "false")
                    #expect(
                        list.body.contains(
                            #"[{"group":"ledger/eu","version":2,"members":2},"#
                                + #"{"group":"other","version":1,"members":1}]"#
                        ))
                }
            }
            _ = await two.stop()
        }
    }

    @Test func `when Redis is gone reads are stale, writes are a 503, and nothing is half done`() async throws {
        try await withService(redis: ["--appendonly", "yes", "--appendfsync", "always"], ["--command-timeout", "2s"]) {
            service, redis in
            var joined = try await service.request("PUT", Self.path, "{\(Self.hour)}")
            try await eventually("the join and the list are answered", within: .seconds(120)) {
                if joined.status != 200 { joined = try await service.request("PUT", Self.path, "{\(Self.hour)}") }
                let list = try await service.request("GET", "/v1/groups")
                return joined.status == 200 && list.status == 200
            }
            let session = try #require(joined["session"])
            await redis.kill(SIGKILL)

            let group = try await service.request("GET", "/v1/groups/ledger%2Feu")
            #expect(
                group.status == 200 && group["stale"] == "true" && group["version"] == joined["version"],
                "\(group.body)")
            #expect(group["remainingMs"] == "null" && group["session"] == session)
            let list = try await service.request("GET", "/v1/groups")
            #expect(list.status == 200 && list["stale"] == "true" && list["members"] == "1", "\(list.body)")
            let unknown = try await service.request("GET", "/v1/groups/other")
            #expect(unknown.status == 503 && unknown["code"] == "coordinator.unavailable")
            let beat = #"{"session":"\#(session)","weight":5,\#(Self.hour)}"#
            for (method, path, body) in [
                ("PUT", Self.path, beat), ("PUT", Self.path, "{}"), ("DELETE", Self.path, "{}"),
            ] {
                let refused = try await service.request(method, path, body)
                #expect(refused.status == 503 && refused["code"] == "coordinator.unavailable", "\(refused.body)")
                #expect(refused["retryAfterMs"] != nil)
            }

            try await redis.restart()
            try await eventually("the member's own beat gets through again", within: .seconds(120)) {
                try await service.request("PUT", Self.path, beat).status == 200
            }
        }
    }

    @Test func `when Redis lost its data a beat brings nobody back, and versions go on upwards`() async throws {
        try await withService(Self.patient) { service, redis in
            let joined = try await service.request("PUT", Self.path, "{\(Self.hour)}")
            let session = try #require(joined["session"])
            _ = try await service.request("PUT", Self.path, #"{"session":"\#(session)","weight":3,\#(Self.hour)}"#)
            #expect(try await redis.cli("FLUSHALL") == "OK")
            let beat = try await service.request("PUT", Self.path, #"{"session":"\#(session)",\#(Self.hour)}"#)
            #expect(beat.status == 409 && beat["code"] == "membership.expired", "\(beat.body)")
            let again = try await service.request("PUT", Self.path, "{\(Self.hour)}")
            #expect(again.status == 200 && again["session"] != session)
            let version = try #require(again["version"].flatMap { Int($0) })
            #expect(version > 2)
        }
    }

    @Test func `a group that nobody joined is version 0, and asking leaves nothing behind`() async throws {
        try await withService(Self.patient) { service, redis in
            let empty = try await service.request("GET", "/v1/groups/none")
            #expect(empty.status == 200 && empty["version"] == "0" && empty.body.contains(#""members":[]"#))
            let beat = try await service.request("PUT", "/v1/groups/none/members/m", #"{"session":"s"}"#)
            #expect(beat.status == 409 && beat["code"] == "membership.expired")
            let removed = try await service.request("DELETE", "/v1/groups/none/members/m")
            #expect(removed.status == 200 && removed["removed"] == "false")
            #expect(try await service.request("GET", "/v1/groups").body.contains(#""groups":[]"#))
            #expect(try await redis.cli("DBSIZE") == "0")
        }
    }
}
