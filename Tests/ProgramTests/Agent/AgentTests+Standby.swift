// SPDX-License-Identifier: Apache-2.0
//
// Agents that do not lead, that are ill, and what they answer.
import Ringfence
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

extension AgentTests {
    @Test func `who does not stand is never promoted, but follows`() async throws {
        try await withRedis { redis in
            let watcher = try await TestAgent.start("watcher", redis, #""candidate":false,"#)
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            try await eventually("it follows") { watcher.calls == ["onDemote"] }
            await one.kill()
            try await eventually("nobody is primary") {
                try await redis.cli("HGET", "ringfence:{default}:state:g", "primary") == ""
            }
            #expect(watcher.calls == ["onDemote"])
            await watcher.stop()
        }
    }

    @Test func `a primary without the standbys that are asked for is suspended, and goes on when one is there`()
        async throws
    {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            try await withClient(redis) { client in
                try await client.operations(on: "g").update(
                    ElectionSettings(minStandbys: 1, shortfallAction: .suspendWrites))
            }
            try await eventually("it is suspended") { one.role == "suspended" }
            #expect(one.log.last?.hasPrefix("onSuspend 1 standbys") == true)
            #expect(try await one.get("/primary").status == 503)
            let two = try await TestAgent.start("two", redis)
            try await one.waitUntilPrimary()
            #expect(one.log.last?.hasPrefix("onPromote 1 resumed") == true)
            await one.stop()
            await two.stop()
        }
    }

    @Test func `who refuses is not promoted, and another is`() async throws {
        try await withRedis { redis in
            let one = try await TestAgent.start(
                "one", redis, #""priority":10,"#, files: ["prePromote.do": "echo not today; exit 3"])
            let two = try await TestAgent.start("two", redis)
            try await two.waitUntilPrimary()
            #expect(!one.calls.contains("onPromote"))
            #expect(!one.calls.contains("onSuspend"), "nothing was done to it")
            try await eventually("the refusal is told") {
                try await groupEvents(redis).contains { $0.contains("agent.hook") && $0.contains("not today") }
            }
            await one.stop()
            await two.stop()
        }
    }

    @Test func `a promotion that hangs is ended with all it started, fenced, and another is elected`() async throws {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis, #""priority":10,"#, files: ["onPromote.do": "sleep 600"])
            try await eventually("one is being promoted") { one.calls.last == "onPromote" }
            let two = try await TestAgent.start("two", redis)
            // Its role ends when Redis cannot be reached: the promotion is stopped for the fence at once.
            kill(redis.pid, SIGSTOP)
            try await eventually("the promotion is cut short by the fence") { one.calls.last == "onSuspend" }
            kill(redis.pid, SIGCONT)
            unlink(one.file("onPromote.do"))
            try await eventually("somebody is primary") {
                let (first, second) = (try await one.get("/primary"), try await two.get("/primary"))
                return first.status == 200 || second.status == 200
            }
            await one.stop()
            await two.stop()
        }
    }

    @Test func `stopped by SIGTERM, a primary is fenced, gives its role up and leaves`() async throws {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            let two = try await TestAgent.start("two", redis)
            try await eventually("two is a fit standby") { try await two.get("/standby").status == 200 }
            #expect(await one.stop() == .code(0), "\(one.program.error)")
            #expect(one.calls == ["prePromote", "onPromote", "onSuspend"])
            try await two.waitUntilPrimary()
            let events = try await groupEvents(redis)
            #expect(events.contains { $0.contains("member.left") && $0.contains(#""member":"one""#) })
            await two.stop()
        }
    }

    @Test func `a standby that is ill is not elected, and says why`() async throws {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            let two = try await TestAgent.start(
                "two", redis, files: ["onDemote.do": "if [ -e broken ]; then echo no disk; exit 1; fi"])
            try await eventually("two is a fit standby") { try await two.get("/standby").status == 200 }
            try writeFile(two.file("broken"), "")
            two.die()
            try await eventually("two is ill") { try await two.get("/health").status == 503 }
            #expect(try await two.get("/standby").status == 503)
            try await withClient(redis) { client in
                try await eventually("Redis knows") {
                    let plan = try await client.operations(on: "g").plan()
                    return plan.candidates.first { $0.id == "two" }?.reasons.contains {
                        $0.detail.contains("it is dead")
                    } == true
                }
            }
            await one.kill()
            try await Task.sleep(for: .seconds(2))
            #expect(!two.calls.contains("onPromote"))
            try writeFile(two.file("alive"), "")
            try await two.waitUntilPrimary()
            await two.stop()
        }
    }

    @Test func `a standby that dies is brought up by its agent, with somebody to follow or without`() async throws {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            let two = try await TestAgent.start("two", redis)
            try await eventually("two follows one") {
                let seen = try await two.get("/standby")
                return two.calls == ["onDemote"] && seen.status == 200 && seen["hook"] == nil
            }
            two.die()
            try await eventually("two is brought up") { two.calls.count > 1 }
            try await eventually("two is a fit standby again: \(two.log) \(two.program.error)") {
                try await two.get("/standby").status == 200
            }
            #expect(Set(two.calls) == ["onDemote"])
            await one.kill()
            await two.kill()
            two.die()
            try await eventually("nobody is left") {
                // Whoever looks takes out who is dead.
                _ = try await Program.run(["group", "g", "--redis", redis.unixURL])
                return try await redis.cli("ZCARD", "ringfence:{default}:leases:g") == "0"
            }
            let again = try await TestAgent.start("two", redis, in: two.directory)
            try await again.waitUntilPrimary()
            #expect(again.log.contains { $0.hasPrefix("onDemote 0 vacant") }, "\(again.log)")
            await again.stop()
        }
    }

    @Test func `endpoints answer HEAD and OPTIONS, and refuse what they do not know`() async throws {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            #expect(try await one.get("/primary", method: "OPTIONS").status == 200)
            #expect(try await one.get("/primary", method: "HEAD").status == 200)
            #expect(try await one.get("/standby").status == 503)
            #expect(try await one.get("/standby?lag=1MB").status == 503)
            #expect(try await one.get("/standby?lag=much").status == 400)
            #expect(try await one.get("/nothing").status == 404)
            #expect(try await one.get("/primary", method: "POST").status == 405)
            let answer = try await one.get("/primary")
            #expect(
                answer["role"] == "primary" && answer["epoch"] == "1" && answer["position"] == "100", "\(answer.body)")
            await one.stop()
        }
    }

    @Test func `endpoints are asked by any name and by HTTP 1.0, and keep the limits of the service`() async throws {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            for (request, status) in [
                ("GET /primary HTTP/1.0\r\n\r\n", 200),
                ("GET /primary HTTP/1.1\r\nHost: db-1.example\r\n\r\n", 200),
                ("OPTIONS /primary HTTP/1.0\r\n\r\n", 200),
                ("GET /primary HTTP/1.1\r\nHost: db\r\nX: \(String(repeating: "x", count: 65_536))\r\n\r\n", 431),
                ("GET /primary HTTP/1.1\r\nHost: db\r\nContent-Length: 4\r\n\r\nbody", 400),
            ] {
                let connection = try await RawConnection.open(port: one.port)
                try await connection.send(request)
                #expect(try await connection.answer()?.status == status, "\(request.prefix(60))")
                connection.close()
            }
            await one.stop()
        }
    }

    @Test func `onEvent gets every event as JSON and holds nothing up`() async throws {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis, files: ["onEvent.do": "sleep 0.2"])
            try await one.waitUntilPrimary()
            let two = try await TestAgent.start("two", redis)
            try await eventually("something is told") {
                contents(of: one.file("log")).contains("onEvent")
                    && contents(of: one.file("onEvent.json")).contains(#""type":"#)
            }
            await one.stop()
            await two.stop()
        }
    }

    @Test func `a second agent under the same id ends the first, which suspends its resource`() async throws {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            let other = try await TestAgent.start("one", redis)
            let exit = await one.program.process.wait()
            #expect(exit != .code(0))
            #expect(one.program.error.contains("another process joined the group g as one"), "\(one.program.error)")
            #expect(one.calls.last == "onSuspend")
            try await other.waitUntilPrimary()
            await other.stop()
        }
    }

    @Test func `check says whether a file is in order, without running anything`() async throws {
        let directory = try TemporaryDirectory()
        let file = directory.path + "/agent.json"
        try writeFile(file, #"{"group":"g","member":"m","hooks":{"onSuspend":{"command":["/bin/true"]}}}"#)
        let good = try await Program.run(["agent", "--config", file, "--check"])
        #expect(
            good.code == 0 && good.output.contains("in order: m of g") && good.output.contains("no checks"), "\(good)")
        try writeFile(file, #"{"group":"g","member":"m","hooks":{"onSuspend":{"command":["/no/such"]}}}"#)
        let bad = try await Program.run(["agent", "--config", file, "--check"])
        #expect(bad.code == 64 && bad.error.contains("hooks.onSuspend.command"), "\(bad)")
    }
}
