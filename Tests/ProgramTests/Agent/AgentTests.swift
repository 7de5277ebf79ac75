import Logging
import Ringfence
// SPDX-License-Identifier: Apache-2.0
import RingfenceAgent
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

// Each starts several programs, and leases run in real time: one at a time.
@Suite(.serialized) struct AgentTests {
    @discardableResult
    func withClient<Result: Sendable>(
        _ redis: RedisServer, _ body: (RingfenceClient) async throws -> Result
    ) async throws -> Result {
        let client = try RingfenceClient(
            RingfenceConfiguration(url: redis.unixURL), logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        do {
            let result = try await body(client)
            await client.shutdown()
            return result
        } catch {
            await client.shutdown()
            throw error
        }
    }

    @Test
    func `the first is promoted, a standby takes over when its machine dies, and the old one comes back as standby`()
        async throws
    {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            #expect(one.calls == ["prePromote", "onPromote"])
            #expect(one.role == "primary")
            let two = try await TestAgent.start("two", redis)
            try await eventually("two follows one") { two.calls == ["onDemote"] }
            #expect(two.log == ["onDemote 1  one one:1"], "why one was elected was told before two was there")
            #expect(try await two.get("/primary").status == 503)
            try await eventually("two is a fit standby") { try await two.get("/standby").status == 200 }

            await one.kill()
            #expect(one.role == "primary", "a crash of the agent leaves its resource alone")
            try await two.waitUntilPrimary()
            #expect(two.calls == ["onDemote", "prePromote", "onPromote"])
            let json = contents(of: two.file("onPromote.json"))
            #expect(
                json.contains(
                    #""hook":"onPromote","group":"g","member":"two","address":"two:1","role":"primary","epoch":2"#))
            #expect(json.contains(#""previous":"one""#), "\(json)")

            let again = try await TestAgent.start("one", redis, in: one.directory)
            try await eventually("the old primary is demoted") { again.role == "standby" }
            #expect(again.calls.last == "onDemote")
            #expect(again.calls.filter { $0 == "onPromote" }.count == 1)
            await again.stop()
            await two.stop()
        }
    }

    @Test func `a resource that dies gives the role up, fenced first, and its hooks are in the event log`() async throws
    {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            let two = try await TestAgent.start("two", redis)
            try await eventually("two is a fit standby") { try await two.get("/standby").status == 200 }
            one.die()
            try await two.waitUntilPrimary()
            try await eventually("one is brought back by its demotion") { one.calls.last == "onDemote" }
            #expect(one.calls == ["prePromote", "onPromote", "onSuspend", "onDemote"])
            #expect(one.log[2].hasPrefix("onSuspend 1 unhealthy"))
            try await eventually("its hooks are told") {
                let events = try await groupEvents(redis)
                let suspend = events.firstIndex { $0.contains("agent.hook") && $0.contains("onSuspend") }
                return suspend != nil && events.contains { $0.contains("agent.check") && $0.contains("it is dead") }
            }
            let events = try await groupEvents(redis)
            let elected = try #require(
                events.first { $0.contains(#""primary.elected""#) && $0.contains(#""epoch":2"#) })
            #expect(elected.contains(#""reason":"unhealthy""#), "\(elected)")
            await one.stop()
            await two.stop()
        }
    }

    @Test func `a switchover drains the old, hands over at its final position and demotes it`() async throws {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            let two = try await TestAgent.start("two", redis)
            try await eventually("two is a fit standby") { try await two.get("/standby").status == 200 }
            // The last write is only drained, and takes a moment to get across.
            try writeFile(one.file("onHandover.do"), "echo 200 > position; echo position=200\n")
            try await withClient(redis) { client in
                async let done = client.operations(on: "g").switchover(to: "two", timeout: .seconds(30))
                try await eventually("one is drained") { one.calls.last == "onHandover" }
                #expect(try await two.get("/primary").status == 503)
                try two.set(position: 200)
                _ = try await done
            }
            try await two.waitUntilPrimary()
            try await eventually("one follows two") { one.role == "standby" }
            #expect(one.calls == ["prePromote", "onPromote", "onHandover", "onDemote"])
            try await eventually("one is a fit standby") { try await one.get("/standby?lag=0").status == 200 }
            await one.stop()
            await two.stop()
        }
    }

    @Test func `a failover by hand waits for the fence, and no longer`() async throws {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis, lease: "10s", files: ["onSuspend.do": "sleep 0.5"])
            try await one.waitUntilPrimary(.seconds(90))
            let two = try await TestAgent.start("two", redis, lease: "10s")
            try await eventually("two is a fit standby") { try await two.get("/standby").status == 200 }
            let began = ContinuousClock.now
            try await withClient(redis) { client in
                _ = try await client.operations(on: "g").failover(to: "two", acceptsDataLoss: true)
            }
            let took = ContinuousClock.now - began
            #expect(took >= .milliseconds(500))
            #expect(took < .seconds(8), "the lease was not waited for")
            #expect(one.role != "primary")
            try await two.waitUntilPrimary()
            #expect(one.calls.prefix(3) == ["prePromote", "onPromote", "onSuspend"])
            await one.stop()
            await two.stop()
        }
    }

    @Test func `a switchover whose target does not come up to the position is taken back, and the primary resumes`()
        async throws
    {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            let two = try await TestAgent.start("two", redis)
            try await eventually("two is a fit standby") { try await two.get("/standby").status == 200 }
            try writeFile(one.file("onHandover.do"), "echo 200 > position; echo position=200\n")
            try await withClient(redis) { client in
                await #expect(throws: RingfenceError.self) {
                    _ = try await client.operations(on: "g").switchover(to: "two", timeout: .milliseconds(1_500))
                }
            }
            try await one.waitUntilPrimary()
            #expect(one.calls == ["prePromote", "onPromote", "onHandover", "onPromote"])
            #expect(one.log.last == "onPromote 1 resumed one one:1")
            #expect(!two.calls.contains("onPromote"))
            await one.stop()
            await two.stop()
        }
    }

    @Test func `cut off from Redis, a primary suspends itself in time, and is promoted anew when Redis is back`()
        async throws
    {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            kill(redis.pid, SIGSTOP)
            try await eventually("it is fenced") { one.role == "suspended" }
            #expect(try await one.get("/primary").status == 503)
            #expect(try await one.get("/health").status == 200)
            kill(redis.pid, SIGCONT)
            try await one.waitUntilPrimary()
            #expect(one.calls == ["prePromote", "onPromote", "onSuspend", "prePromote", "onPromote"])
            #expect(one.log.last?.hasPrefix("onPromote 1 ") == false, "never under the same epoch")
            await one.stop()
        }
    }

    @Test
    func `where the settings say hold, a primary goes on without Redis by the word of all the others, and only so`()
        async throws
    {
        let file = ["--appendonly", "yes", "--appendfsync", "always"]
        // The others' words must be in between the moment from which Redis counts as away, half a lease, and the end of
        // the lease, and each within a quarter of it. A machine full of tests is too slow for a lease of 1 s: then the
        // role ends, as it should.
        let lease = "4s"
        try await withRedis(file) { redis in
            let one = try await TestAgent.start("one", redis, lease: lease)
            try await one.waitUntilPrimary()
            let others = [
                try await TestAgent.start("two", redis, lease: lease),
                try await TestAgent.start("three", redis, lease: lease),
            ]
            try await withClient(redis) {
                try await $0.operations(on: "g").update(
                    ElectionSettings(onCoordinatorLoss: .failsafe, failsafeLimit: .seconds(24)), actor: "test")
            }
            for other in others {
                try await eventually("\(other.member) stands") { try await other.get("/standby").status == 200 }
            }
            let answer = try await others[0].get("/promise?for=x&session=y&epoch=1&leaseMs=1000", method: "POST")
            #expect(answer.status == 409, "whoever reaches Redis promises nothing: \(answer.body)")
            #expect(try await others[0].get("/promise", method: "POST").status == 400)
            for mark in ["Origin: http://evil.example", "Sec-Fetch-Site: cross-site"] {
                let asked = try await others[0].get("/promise", method: "POST", headers: [mark])
                #expect(asked.status == 403, "no page may ask for a promise")
            }

            await redis.kill(SIGKILL)
            try await eventually("the role outlives its lease") {
                try await one.get("/primary").body.contains(#""failsafe":true"#)
            }
            // As long as it takes to be sure that the role does not go on for another reason: a lease and a half.
            let end = ContinuousClock.now + .seconds(6)
            while ContinuousClock.now < end {
                #expect(try await one.get("/primary").status == 200)
                for other in others { #expect(try await other.get("/primary").status == 503) }
                try await Task.sleep(for: .milliseconds(50))
            }
            try await redis.restart()
            try await eventually("Redis is back") {
                try await !one.get("/primary").body.contains("failsafe")
            }
            // It went on under its epoch, and nobody else was elected.
            #expect(try await one.get("/primary").status == 200)
            #expect(one.calls == ["prePromote", "onPromote"])
            let events = try await groupEvents(redis)
            #expect(events.count { $0.contains("primary.elected") } == 1, "\(events)")

            await redis.kill(SIGKILL)
            try await eventually("the role outlives its lease again") {
                try await one.get("/primary").body.contains(#""failsafe":true"#)
            }
            await others[1].kill()
            try await eventually("without the word of one it ends") { one.calls.last == "onSuspend" }
            #expect(try await one.get("/primary").status == 503)
            #expect(try await others[0].get("/primary").status == 503)
            try await redis.restart()
            // Redis cannot know by now whom that primary knew: somebody else leads when it could not go on any longer.
            try await eventually("somebody is primary again", within: .seconds(90)) {
                for agent in [one, others[0]] where try await agent.get("/primary").status == 200 { return true }
                return false
            }
            await one.stop()
            await others[0].stop()
        }
    }

    @Test func `a role that one missed promise ended is given again soon when Redis and all are back`()
        async throws
    {
        try await withRedis(["--appendonly", "yes", "--appendfsync", "always"]) { redis in
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            let others = [try await TestAgent.start("two", redis), try await TestAgent.start("three", redis)]
            try await withClient(redis) {
                try await $0.operations(on: "g").update(
                    ElectionSettings(onCoordinatorLoss: .failsafe, failsafeLimit: .seconds(3600)), actor: "test")
            }
            for other in others {
                try await eventually("\(other.member) stands") { try await other.get("/standby").status == 200 }
            }
            try await eventually("the primary knows them all, and the settings") {
                let versions = try await redis.cli("HMGET", "ringfence:{default}:state:g", "version", "pKnown")
                let lines = versions.split(separator: "\n")
                return lines.count == 2 && lines[0] == lines[1]
            }
            await redis.kill(SIGKILL)
            try await eventually("the role outlives its lease") {
                try await one.get("/primary").body.contains(#""failsafe":true"#)
            }
            others[1].program.process.signal(SIGSTOP)
            try await eventually("without the word of one it ends") { one.calls.last == "onSuspend" }
            others[1].program.process.signal(SIGCONT)
            try await redis.restart()
            try await eventually("somebody is primary again", within: .seconds(120)) {
                for agent in [one] + others where try await agent.get("/primary").status == 200 { return true }
                return false
            }
            let events = try await groupEvents(redis)
            let elected = events.last { $0.contains("primary.elected") }
            #expect(elected?.contains(#""epoch":18"#) == true && elected?.contains("suspended") == true, "\(events)")
            for agent in [one] + others { await agent.stop() }
        }
    }

    @Test func `frozen while another took over, an agent that wakes suspends its resource and demotes it`() async throws
    {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            let two = try await TestAgent.start("two", redis)
            try await eventually("two is a fit standby") { try await two.get("/standby").status == 200 }
            one.program.process.signal(SIGSTOP)
            try await two.waitUntilPrimary()
            #expect(one.role == "primary", "nobody can fence for it")
            one.program.process.signal(SIGCONT)
            try await eventually("one follows two") { one.role == "standby" }
            #expect(one.calls == ["prePromote", "onPromote", "onSuspend", "onDemote"])
            try await eventually("one is a fit standby again") { try await one.get("/standby?lag=0").status == 200 }
            #expect(try await two.get("/primary").status == 200)
            await one.stop()
            await two.stop()
        }
    }

    @Test func `Redis that loses its data is healed, and no epoch comes twice`() async throws {
        try await withRedis { redis in
            let one = try await TestAgent.start("one", redis)
            try await one.waitUntilPrimary()
            let two = try await TestAgent.start("two", redis)
            try await eventually("two is a fit standby") { try await two.get("/standby").status == 200 }
            await redis.kill(SIGKILL)
            try await redis.restart()
            try await eventually("there is one primary, and it is promoted") {
                let (first, second) = (try await one.get("/primary"), try await two.get("/primary"))
                return (first.status == 200) != (second.status == 200)
            }
            let promotions = (one.log + two.log).filter { $0.hasPrefix("onPromote") }.map {
                $0.split(separator: " ")[1]
            }
            #expect(Set(promotions).count == promotions.count, "\(promotions)")
            await one.stop()
            await two.stop()
        }
    }

    @Test func `without Redis an agent looks and answers, joins when Redis comes, and ends when told to`() async throws
    {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            let port = try freePort()
            try writeFile(
                directory.path + "/agent.json",
                #"{"redis":"\#(redis.unixURL)","group":"g","member":"m","lease":"1s","listen":"127.0.0.1:\#(port)"}"#)
            await redis.kill(SIGKILL)
            let arguments = ["agent", "--config", directory.path + "/agent.json"]
            let waiting = try await Program.start(arguments)
            try await eventually("it answers") { (try? await RawConnection.open(port: port)) != nil }
            waiting.process.signal(SIGTERM)
            #expect(await waiting.process.wait() == .code(0))
            let program = try await Program.start(arguments)
            try await eventually("it says what it waits for") {
                program.error.contains("waiting for redis \(redis.unixURL)")
            }
            try await redis.restart()
            try await eventually("it has joined") { program.output.contains("m is in g") }
            try await eventually("it says that Redis is there") {
                program.error.contains("connected to redis \(redis.unixURL)")
            }
            program.process.signal(SIGTERM)
            #expect(await program.process.wait() == .code(0))
        }
    }
}
