// SPDX-License-Identifier: Apache-2.0
//
// Groups of thousands, on a real Redis: what an answer of it costs, and how large it may become.
import Hiredis
import RingfenceCore
import TestSupport
import Testing

@testable import Ringfence

@Suite struct LargeGroupTests {
    /// Members that nobody keeps alive, joined by the bare script, in a few writes.
    private func fill(_ client: RingfenceClient, _ range: Range<Int>, tag: String = "") async throws {
        let scripts = client.hub.scripts
        // A Redis that does not know the script would be sent it by each.
        _ = try await client.runner.run(scripts.watch("g", .none), "looking")
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for id in range {
                tasks.addTask {
                    let record = MemberRecord(
                        id: "member-\(id)", session: "s\(tag)", leaseMilliseconds: 3_600_000,
                        address: "10.0.0.1:\(id)")
                    let call = scripts.join("g", .notAsking, record, .first, .init(seed: 0, pointsPerWeight: 1))
                    let answer = GroupScripts.answer(try await client.runner.run(call, "joining"))
                    #expect(answer?.status == .member && answer?.content == nil)
                }
            }
            for try await _ in tasks {}
        }
    }

    private func sent(_ observer: Observer) async throws -> Int {
        let info = try await observer.send("INFO", "stats").text ?? ""
        let line = info.split(whereSeparator: \.isNewline).first { $0.hasPrefix("total_net_output_bytes:") }
        return try #require(line.flatMap { Int($0.drop { $0 != ":" }.dropFirst()) })
    }

    @Test func `a join into a large group, and its undoing, are answered in few bytes, whatever the caller knows`()
        async throws
    {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                try await fill(client, 0..<2000)
                let record = MemberRecord(id: "late", session: "s", leaseMilliseconds: 3_600_000)
                let scripts = client.hub.scripts
                let stale = GroupKnowledge(version: 3, mark: "other:3")
                let before = try await sent(observer)
                for _ in 0..<20 {
                    _ = try await client.runner.run(
                        scripts.join("g", stale, record, .first, .init(seed: 0, pointsPerWeight: 1)), "joining")
                    _ = try await client.runner.run(
                        scripts.leave("g", .notAsking, id: "late", session: "s", reason: "", actor: ""), "leaving")
                }
                let bytes = try await sent(observer) - before
                #expect(bytes < 40 * 2000, "\(bytes) bytes for 40 calls")
            }
        }
    }

    @Test func `a large group is read by pages, by who looks, who asks, and who comes after it changed`() async throws {
        try await withObservedRedis { server, _ in
            try await withClients(server.unixURL, 2) { clients in
                try await fill(clients[0], 0..<1500)
                let group = try await clients[1].group("g")
                #expect(group.snapshot.members.count == 1500 && group.snapshot.version == 1500)
                #expect(try await clients[1].operations(on: "g").status().members.count == 1500)
                let status = try await group.inspect()
                #expect(status.members.allSatisfy { $0.remaining > .seconds(3000) })
                try await fill(clients[0], 1400..<1700, tag: "2")
                for id in 0..<50 { try await clients[0].operations(on: "g").removeMember("member-\(id)") }
                try await eventually(group, "all is seen") { $0.version == 1850 }
                let seen = group.snapshot
                #expect(seen.members.count == 1650 && seen.member("member-1450")?.session == "s2")
                #expect(seen.member("member-49") == nil)
                #expect(try await clients[0].operations(on: "g").status().members.map(\.member) == seen.members)
            }
        }
    }

    @Test func `what a call did that failed half way is told to who looks later`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let scripts = client.hub.scripts
                func key(_ name: String) -> String { "ringfence:{default}:\(name):g" }
                func run(_ call: ScriptCall) async throws -> GroupAnswer {
                    let reply = try await client.runner.run(call, "calling")
                    guard let answer = GroupScripts.answer(reply) else { throw TestSupportError("\(reply)") }
                    return answer
                }
                func known(_ answer: GroupAnswer) -> GroupKnowledge {
                    GroupKnowledge(version: answer.version, mark: answer.mark)
                }
                try await fill(client, 0..<80)
                let answer = try await run(scripts.watch("g", .notAsking))
                let before = known(answer)
                // Somebody writes what no script wrote: the decision stumbles over it, after the member went.
                try await observer.send("HSET", key("candidates"), "x", "nonsense")
                let leave = scripts.leave("g", .notAsking, id: "member-5", session: "s", reason: "", actor: "")
                await #expect(throws: (any Error).self) { _ = try await run(leave) }
                try await observer.send("HDEL", key("candidates"), "x")
                try await fill(client, 90..<91)
                let page = try #require(try await run(scripts.watch("g", before)).content?.page)
                #expect(page.gone == ["member-5"] || page.from == GroupAnswer.Page.start, "\(page)")
                // An election that was announced is kept, whatever becomes of the list of changes.
                let record = MemberRecord(
                    id: "c", session: "c", leaseMilliseconds: 200, isCandidate: true)
                _ = try await run(
                    scripts.join(
                        "g", .notAsking, record, .first, .init(seed: 0, pointsPerWeight: 1), status: CandidateStatus()))
                try await eventually("it is elected") {
                    _ = try await run(
                        scripts.beat(
                            "g", .none, id: "c", session: "c", leaseMilliseconds: 200, joined: "",
                            status: CandidateStatus()))
                    return try await observer.send("HGET", key("state"), "epoch").text == "1"
                }
                try await observer.send("SET", key("changes"), "nonsense")
                try await eventually("its end is found by a call that fails") {
                    do {
                        _ = try await run(scripts.watch("g", .notAsking))
                        return false
                    } catch { return true }
                }
                #expect(try await observer.send("HGET", key("state"), "epoch").text == "1")
                #expect(try await observer.send("HGET", key("state"), "primary") == .null)
            }
        }
    }

    @Test func `a group and a namespace take as many as their limits say, and the error names the limit`() async throws
    {
        try await withObservedRedis { server, _ in
            try await withClient(server.unixURL) {
                $0.limits = NamespaceLimits(members: 2, groups: 1)
            } _: { client in
                let group = try await client.group("g")
                let first = try await group.join("a")
                let second = try await group.join("b")
                let full = await failure { _ = try await group.join("c") }
                #expect(full?.code == .limitReached && full?.effect == RingfenceError.Effect.none)
                #expect(full?.message.contains("limits.members") == true && full?.message.contains("2") == true)
                // Who is in may come again, and who comes after one left has its place.
                _ = try await group.join("b")
                try await first.leave()
                _ = try await group.join("c")
                let other = await failure { _ = try await client.group("h").join("a") }
                #expect(other?.code == .limitReached && other?.message.contains("limits.groups") == true)
                #expect(await failure { try await group.remove() }?.code == .orderRefused)
                for member in group.snapshot.ids { try await group.removeMember(member) }
                for member in ["b", "c"] { try await group.removeMember(member) }
                try await group.remove(reason: "over")
                #expect(try await client.groupNames() == [])
                _ = try await client.group("h").join("a")
                #expect(try await client.groupNames() == ["h"])
                _ = second
            }
            var configuration = RingfenceConfiguration(url: server.unixURL)
            configuration.limits.members = 20_001
            let error = #expect(throws: RingfenceError.self) { try RingfenceClient(configuration) }
            #expect(error?.message == "limits.members must be 1 to 20000, not 20001")
        }
    }

    @Test func `what undoes a join waits for its one answer, however long Redis takes`() async throws {
        try await withObservedRedis { server, observer in
            try await observer.send("CONFIG", "SET", "slowlog-log-slower-than", "0")
            try await observer.send("CONFIG", "SET", "slowlog-max-len", "1000")
            let proxy = try await TCPProxy.start(to: server)
            try await withClient("redis://127.0.0.1:\(proxy.port)") {
                $0.commandTimeout = .milliseconds(500)
            } _: { client in
                let group = try await client.group("g")
                // Answers come, so that the connection stands, but later than anybody waits for them.
                proxy.update { $0.serverToClient.delay = .milliseconds(700) }
                for id in 0..<6 { #expect(await failure { _ = try await group.join("m\(id)") } != nil) }
                try await eventually("all are undone") {
                    let members = try await observer.send("ZCARD", "ringfence:{default}:leases:g")
                    return try await observer.events("member.joined").count > 0 && members == .integer(0)
                }
                proxy.update { $0.serverToClient.delay = nil }
            }
            let log = try await observer.send("SLOWLOG", "GET", "1000").array ?? []
            let leaves = log.count { entry in
                entry.array?.dropFirst(3).first?.array?.contains { $0.text == "join given up" } == true
            }
            #expect((1...8).contains(leaves), "the undoing of 6 joins was sent \(leaves) times")
            await proxy.close()
        }
    }

    @Test func `of many members of one process few beats ask what is new, and all of it is seen all the same`()
        async throws
    {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let group = try await clients[0].group("g")
                var members: [Membership] = []
                for id in 0..<60 { members.append(try await group.join("m\(id)", lease: .seconds(20))) }
                try await observer.send("CONFIG", "SET", "slowlog-log-slower-than", "0")
                try await observer.send("CONFIG", "SET", "slowlog-max-len", "5000")
                try await observer.send("SLOWLOG", "RESET")
                let other = try await clients[1].group("g")
                for round in 0..<10 {
                    let membership = try await other.join("n\(round)", lease: .seconds(20))
                    try await eventually(group, "the other is seen") { $0.member("n\(round)") != nil }
                    if round % 2 == 0 { try await membership.leave() }
                }
                // Each beat that asks is a call of its own; those that do not are written together.
                func beats() async throws -> (asking: Int, plain: Int) {
                    let log = try await observer.send("SLOWLOG", "GET", "5000").array ?? []
                    var (asking, plain) = (0, 0)
                    for entry in log {
                        guard let words = entry.array?.dropFirst(3).first?.array?.map(\.text), words.count > 24 else {
                            continue
                        }
                        if words[14] == "beat" { asking += 1 }
                        if words[14] == "beats", words[19] == "-" { plain += words[24].flatMap { Int($0) } ?? 0 }
                    }
                    return (asking, plain)
                }
                try await eventually("most beats ask nothing") {
                    let (asking, plain) = try await beats()
                    return plain > 60 && plain > asking
                }
                #expect(members.allSatisfy { $0.state == .member })
                let seen = try await clients[1].operations(on: "g").status().members.count
                #expect(seen == 65)
            }
        }
    }

    @Test func `operators that give up and ask again leave no more answers in Redis than one connection may have`()
        async throws
    {
        try await withObservedRedis { server, observer in
            let proxy = try await TCPProxy.start(to: server)
            try await withClient("redis://127.0.0.1:\(proxy.port)") {
                $0.commandTimeout = .milliseconds(500)
            } _: { client in
                _ = try await client.readiness()
                proxy.update { $0.serverToClient.isStalled = true }
                await withTaskGroup(of: Void.self) { tasks in
                    for _ in 0..<30 {
                        tasks.addTask { #expect(await failure { _ = try await client.audit(limit: 1000) } != nil) }
                        tasks.addTask { #expect(await failure { _ = try await client.locks(limit: 1000) } != nil) }
                    }
                }
                let info = try await observer.send("INFO", "commandstats").text ?? ""
                let calls = info.split(whereSeparator: \.isNewline)
                    .filter { $0.hasPrefix("cmdstat_xrevrange:") || $0.hasPrefix("cmdstat_scan:") }
                    .compactMap { Int($0.drop { $0 != "=" }.dropFirst().prefix { $0 != "," }) }.reduce(0, +)
                #expect((1...4).contains(calls), "\(calls) of 60 calls reached Redis")
                proxy.update { $0.serverToClient.isStalled = false }
                try await eventually("they are answered again") { (try? await client.audit(limit: 1000)) != nil }
            }
            await proxy.close()
        }
    }
}
