// SPDX-License-Identifier: Apache-2.0
//
// What an operator sees and orders on the command line, with real candidates on a real Redis.
import Logging
import Ringfence
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

@Suite struct GroupOrderTests {
    private struct Run: Sendable { var code: Int32, output: String, error: String }

    /// A group `db` of candidates that do at once what they are told.
    private struct Stage: Sendable {
        let redis: RedisServer
        let client: RingfenceClient

        func run(_ arguments: String...) async throws -> Run {
            let run = try await Program.run(arguments + ["--redis", redis.unixURL, "--command-timeout", "30s"])
            return Run(code: run.code, output: run.output, error: run.error)
        }

        func primary() async throws -> PrimaryStatus { try await client.operations(on: "db").status().primary }

        func becomes(_ member: String) async throws {
            try await eventually("\(member) is ready", within: .seconds(60)) {
                let primary = try await primary()
                return primary.member == member && primary.phase == .ready
            }
        }

        /// A candidate that promotes and stops at once.
        func stand(_ id: String, priority: Int = 0) async throws -> Membership {
            let membership = try await client.group("db").join(
                id, address: "10.0.0.1:5432", zone: "a", priority: priority, lease: .seconds(10))
            let candidacy = try await membership.campaign()
            Task {
                for await role in candidacy.roles {
                    switch role {
                    case .elected(let epoch): candidacy.ready(epoch)
                    case .handingOver(let epoch): candidacy.readyToHandOver(epoch, position: nil)
                    default: break
                    }
                }
            }
            return membership
        }
    }

    private func withStage(_ body: @Sendable (Stage) async throws -> Void) async throws {
        try await withRedis { redis in
            let client = try RingfenceClient(
                .init(url: redis.unixURL, commandTimeout: .seconds(30)),
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
            do {
                try await body(Stage(redis: redis, client: client))
                await client.shutdown()
            } catch {
                await client.shutdown()
                throw error
            }
        }
    }

    @Test func `a group is shown with its primary, who would be next, and each member's state`() async throws {
        try await withStage { stage in
            let one = try await stage.stand("one", priority: 1)
            let two = try await stage.stand("two")
            _ = try await stage.client.group("db").join("other", lease: .seconds(10))
            try await stage.becomes("one")
            let shown = try await stage.run("group", "db")
            #expect(shown.code == 0 && shown.output.contains("\nprimary: one, epoch 1, ready for "), "\(shown)")
            #expect(shown.output.contains("if it died now: two in <= "), "\(shown)")
            let rows = shown.output.split(separator: "\n").map { $0.split(separator: " ").map { String($0) } }
            #expect(rows.contains { $0.prefix(4) == ["one", "primary", "a", "healthy"] }, "\(shown)")
            #expect(rows.contains { $0.prefix(3) == ["other", "member", "healthy"] }, "\(shown)")
            #expect(rows.contains { $0.prefix(4) == ["two", "standby", "a", "healthy"] }, "\(shown)")
            let groups = try await stage.run("groups")
            #expect(groups.output.contains("one      1      ready"), "\(groups)")
            let json = try await stage.run("groups", "--json")
            #expect(json.output.contains(#""primary":{"epoch":1,"member":"one""#), "\(json)")

            try await two.update(health: "connection refused")
            let plan = try await stage.run("group", "plan", "db")
            #expect(plan.code == 0 && plan.output.contains("if it died now: nobody"), "\(plan)")
            #expect(plan.output.contains("fails its check (connection refused)"), "\(plan)")
            let failing = try await stage.run("group", "db", "--json")
            #expect(failing.output.contains(#""state":"failing""#) && failing.output.contains(#""winner":null"#))
            #expect(try await stage.run("group", "db").output.contains("connection refused"))
            try await one.leave()
            try await two.leave()
        }
    }

    @Test func `a switchover is ordered, told in the history and refused with every reason`() async throws {
        try await withStage { stage in
            let one = try await stage.stand("one", priority: 1)
            let two = try await stage.stand("two")
            try await stage.becomes("one")
            let done = try await stage.run(
                "group", "switchover", "db", "--to", "two", "--actor", "ann", "--reason", "kernel")
            #expect(done.code == 0 && done.output == "two is primary, epoch 2\n", "\(done)")
            let maintained = try await stage.run("group", "maintenance", "db", "one", "on")
            #expect(maintained.code == 0 && maintained.output == "one is in maintenance\n", "\(maintained)")
            let refused = try await stage.run("group", "switchover", "db", "--to", "one", "--json")
            #expect(refused.code == 2 && refused.error.contains("'one' is in maintenance"), "\(refused)")
            let unknown = try await stage.run("group", "switchover", "db", "--to", "zzz")
            #expect(unknown.code == 2 && unknown.error.contains("'zzz'"), "\(unknown)")
            #expect(try await stage.primary().epoch == 2)
            #expect(try await stage.run("group", "maintenance", "db", "one", "off").code == 0)
            let back = try await stage.run(
                "group", "failover", "db", "--to", "one", "--accept-data-loss", "--reason", "by force", "--json")
            #expect(back.code == 0 && back.output.contains(#""outcome":"ready""#), "\(back)")
            #expect(back.output.contains(#""epoch":3,"member":"one""#), "\(back)")
            let history = try await stage.run("group", "history", "db")
            let lines = history.output.split(separator: "\n").filter { !$0.contains("maintenance") }
            try #require(lines.count == 4, "\(history)")
            #expect(lines[0].hasPrefix("AT ") && lines[1].contains("first"), "\(history)")
            #expect(lines[2].contains("switchover") && lines[2].contains("one") && lines[2].contains("kernel"))
            #expect(lines[2].contains("ann") && lines[3].contains("failoverByHand"), "\(history)")
            #expect(lines[3].contains("by force"), "\(history)")
            let json = try await stage.run("group", "history", "db", "--limit", "1", "--json")
            #expect(json.output.contains(#""kind":"failoverByHand""#) && json.output.contains(#""promoteMs":"#))
            try await one.leave()
            try await two.leave()
        }
    }

    @Test func `a pause, an acknowledgement and settings are taken, shown and told`() async throws {
        try await withStage { stage in
            let one = try await stage.stand("one")
            try await stage.becomes("one")
            let paused = try await stage.run("group", "pause", "db", "--for", "10m", "--actor", "ann")
            #expect(paused.code == 0 && paused.output.hasPrefix("paused for 10 m"), "\(paused)")
            #expect(try await stage.run("group", "db").output.contains("paused for another 9 m"))
            #expect(try await stage.run("group", "resume", "db").output == "resumed\n")
            #expect(try await stage.run("group", "acknowledge", "db", "--json").output.contains("acknowledged"))
            let open = try await stage.run(
                "group", "breaker", "db", "open", "--actor", "ann", "--reason", "wrong balances")
            #expect(open.code == 0 && open.output == "breaker open: nobody calls a member of db\n", "\(open)")
            #expect(try await stage.run("group", "db").output.contains("breaker forced open: nobody calls"))
            let doctor = try await stage.run("doctor", "--seconds", "1", "--json")
            #expect(doctor.output.contains(#""code":"breaker.forced""#), "\(doctor)")
            let closed = try await stage.run("group", "breaker", "db", "closed", "--reason", "drill", "--json")
            #expect(closed.code == 0 && closed.output.contains(#""outcome":"closed""#), "\(closed)")
            #expect(try await stage.run("group", "db").output.contains("breaker forced closed"))
            #expect(try await stage.run("group", "breaker", "db", "automatic", "--reason", "over").code == 0)
            #expect(try await !stage.run("group", "db").output.contains("breaker"))
            let history = try await stage.run("group", "history", "db")
            #expect(history.output.contains("wrong balances: open") && history.output.contains("ann"), "\(history)")
            let empty = try await stage.run("group", "settings", "db")
            #expect(empty.code == 0 && empty.output.contains("16777216  (default)"), "\(empty)")
            let set = try await stage.run("group", "settings", "db", "--set", "maxLag=5", "--set", "rank=priority")
            #expect(set.code == 0 && set.output.contains("maxLag") && set.output.contains("priority"), "\(set)")
            let json = try await stage.run("group", "settings", "db", "--json")
            #expect(json.output.hasPrefix("{\"rank\":\"priority\",\"maxLag\":5,\"lagStep\":1,"), "\(json)")
            try await one.leave()
        }
    }

    @Test func `watch shows how it is and then each event as it comes, until Ctrl-C`() async throws {
        try await withStage { stage in
            let one = try await stage.stand("one", priority: 1)
            let two = try await stage.stand("two")
            try await stage.becomes("one")
            let watch = try await Program.start(["group", "watch", "db", "--redis", stage.redis.unixURL])
            try await eventually("it shows the group", within: .seconds(60)) {
                watch.output.contains("primary: one, epoch 1")
            }
            _ = try await stage.client.operations(on: "db").switchover(to: "two", actor: "ann", reason: "kernel")
            try await eventually("it shows the new primary", within: .seconds(60)) {
                watch.output.contains("primary.ready      two")
            }
            watch.process.signal(SIGINT)
            #expect(await watch.process.wait() == .code(0))
            let lines = watch.output.split(separator: "\n")
            #expect(lines.contains { $0.contains("switchover.started") && $0.contains("by ann") }, "\(watch.output)")
            #expect(lines.contains { $0.contains("primary.elected    two  (epoch 2, after one") }, "\(watch.output)")
            #expect(watch.error.contains("go on with ringfence events --follow --group db"), "\(watch.error)")
            try await one.leave()
            try await two.leave()
        }
    }

    @Test(arguments: [
        (["switchover", "--timeout", "5ms"], "10ms to 1h"), (["switchover", "--to", "a", "--abort"], "--abort"),
        (["failover", "--to", "a"], "--accept-data-loss"), (["failover", "--accept-data-loss"], "--to"),
        (["pause"], "--for"), (["pause", "--for", "10ms"], "1s to 30d"), (["pause", "--for", "10"], "--for"),
        (["maintenance", "a"], "state"), (["maintenance", "a", "maybe"], "maybe"),
        (["history", "--limit", "0"], "1 to 1000"),
        (["settings", "--set", "maxLag"], "NAME=VALUE"), (["settings", "--set", "maxLag=-2"], "maxLag"),
        (["settings", "--set", "luck=1"], "is no setting"), (["settings", "--set", "rank=luck"], "data, priority"),
        (["settings", "--set", "rank=data", "--set", "rank=data"], "twice"),
        (["swichover"], "no action swichover; did you mean switchover? The actions are: show, plan,"),
        (["swichover", "--to", "a"], "did you mean switchover?"), (["show", "--to", "a"], "Unknown option '--to'"),
        (["resume", "--actor", ""], "1 to 128"), (["breaker", "half", "--reason", "x"], "half"),
        (["breaker", "open"], "--reason"), (["breaker", "--reason", "x"], "state"),
    ])
    func `a bad order is refused by its option and limit, and nothing is asked of Redis`(
        arguments: [String], says: String
    ) async throws {
        let line = ["group", arguments[0], "g"] + arguments.dropFirst() + ["--redis", "redis://127.0.0.1:1"]
        let run = try await Program.run(line)
        #expect(run.code == 64 && run.error.contains(says), "\(run)")
    }

    @Test func `a group is removed on the command line when nobody is in it, and refused with the reason before`()
        async throws
    {
        try await withStage { stage in
            let member = try await stage.client.group("old/one").join("m", lease: .seconds(10))
            let refused = try await stage.run("group", "remove", "old/one")
            #expect(refused.code == 2 && refused.error.contains("somebody is still in it (1)"), "\(refused)")
            try await member.leave()
            let done = try await stage.run("group", "remove", "old/one", "--actor", "ann", "--reason", "moved")
            #expect(done.code == 0 && done.output.contains("removed"), "\(done)")
            #expect(try await stage.client.groupNames().isEmpty)
            let again = try await stage.run("group", "remove", "old/one", "--json")
            #expect(again.code == 2 && again.error.contains("there is no such group"), "\(again)")
            let events = try await stage.run("events", "--json", "--after", "0:0")
            let event = events.output.split(separator: "\n").first { $0.contains("group.removed") }
            #expect(event?.contains("moved") == true && event?.contains("ann") == true, "\(events)")
            let help = try await Program.run(["group", "remove", "g", "--help"])
            #expect(help.code == 0 && help.output.contains("EXAMPLES"))
        }
    }

    @Test func `a group of any name is shown, also one named like an action, and no group is said so`() async throws {
        try await withStage { stage in
            let member = try await stage.client.group("plan").join("m", lease: .seconds(10))
            #expect(try await stage.run("group", "show", "plan").output.hasPrefix("plan: 1 member, version 1"))
            let plan = try await stage.run("group", "plan", "plan")
            #expect(plan.code == 0 && plan.output.contains("nobody stands for primary"), "\(plan)")
            let behind = try await stage.run("group", "plan", "show")
            #expect(behind.code == 1 && behind.error.contains("no group show"), "\(behind)")
            let turned = try await stage.run("group", "ledger", "switchover", "--to", "m")
            #expect(
                turned.code == 64 && turned.error.contains("before the name: ringfence group switchover ledger"),
                "\(turned)")
            for action in [["plan"], ["settings"], []] {
                let none = try await Program.run(["group"] + action + ["nowhere", "--redis", stage.redis.unixURL])
                #expect(none.code == 1 && none.error.contains("no group nowhere"), "\(none)")
            }
            let order = try await stage.run("group", "pause", "nowhere", "--for", "1m")
            #expect(order.code == 2 && order.error.contains("there is no such group"), "\(order)")
            for action in [
                "plan", "history", "switchover", "failover", "pause", "maintenance", "settings", "watch", "breaker",
            ] {
                let help = try await Program.run(["group", action, "--help"])
                #expect(help.code == 0 && help.output.contains("EXAMPLES"), "\(action)")
            }
            try await member.leave()
        }
    }
}
