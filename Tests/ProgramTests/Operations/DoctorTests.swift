// SPDX-License-Identifier: Apache-2.0
//
// The doctor, as users run it, beside real servers that are set up badly.
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

@Suite struct DoctorTests {
    private static let file = ["--appendonly", "yes", "--appendfsync", "always", "--latency-monitor-threshold", "20"]

    private func doctor(
        _ url: String, _ more: String...
    ) async throws -> (code: Int32, output: String, error: String) {
        try await Program.run(["doctor", "--seconds", "1", "--redis", url] + more)
    }

    /// The codes of a report's findings, but for what a busy test machine adds.
    private func codes(_ json: String) -> Set<String> {
        var codes: Set<String> = []
        for part in json.split(separator: "\"code\":\"").dropFirst() {
            codes.insert(String(part.prefix { $0 != "\"" }))
        }
        return codes.filter { !$0.hasPrefix("lease.") }
    }

    /// How often Redis was asked for the time.
    private func questions(_ redis: RedisServer) async throws -> Int {
        let stats = try await redis.cli("INFO", "commandstats")
        let digits = stats.split(separator: "cmdstat_time:calls=").dropFirst().first?.prefix { $0.isNumber }
        return digits.flatMap { Int($0) } ?? 0
    }

    /// Returns once a doctor is well under way.
    private func measures(_ redis: RedisServer, after before: Int) async throws {
        try await eventually("it measures") { try await questions(redis) > before + 50 }
    }

    @Test func `a sound Redis is fine, and nothing is written to it`() async throws {
        try await withRedis(Self.file) { redis in
            // A fork's or a write's stall of a busy machine is only a warning about leases.
            let run = try await doctor(redis.unixURL, "--json")
            #expect(run.code == 0 || run.output.contains("lease.defaultTooShort"), "\(run)")
            #expect(codes(run.output).isEmpty, "\(run)")
            #expect(run.output.hasPrefix(#"{"redis":"unix:///"#) && run.output.contains(#""version":""#))
            #expect(run.output.contains(#""smallestMs":"#) && run.error.isEmpty, "\(run)")
            let text = try await doctor(redis.unixURL)
            #expect(text.output.contains("smallest safe") && text.output.contains("round trips"), "\(text)")
            #expect(text.error.contains("measuring unix:///"))
            #expect(try await redis.cli("DBSIZE") == "0")
            #expect(try await redis.cli("INFO", "replication").contains("master_repl_offset:0"))
        }
    }

    @Test func `eviction is a problem, no file a warning, and both say what to do`() async throws {
        try await withRedis(["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]) { redis in
            let run = try await doctor(redis.unixURL)
            #expect(run.code == 2, "\(run)")
            #expect(run.output.contains("PROBLEM") && run.output.contains("maxmemory-policy noeviction"), "\(run)")
            #expect(run.output.contains("CONFIG SET appendonly yes"), "\(run)")
            #expect(run.output.contains("1 problem, "), "\(run)")
        }
        try await withRedis { redis in
            let run = try await doctor(redis.unixURL, "--json")
            #expect(run.code == 1 && run.output.contains(#""verdict":"warning""#), "\(run)")
            #expect(codes(run.output) == ["redis.forgets", "redis.keepsNoStalls"], "\(run)")
        }
    }

    @Test func `replicas of unequal priority and a primary that writes alone are found; a replica is refused`()
        async throws
    {
        try await withRedis(Self.file) { primary in
            func replica(_ priority: String) async throws -> RedisServer {
                try await RedisServer.start(
                    Self.file + ["--replicaof", "127.0.0.1", "\(primary.port)", "--replica-priority", priority])
            }
            let (one, two) = (try await replica("100"), try await replica("10"))
            try await eventually("both replicas are online") {
                let info = try await primary.cli("INFO", "replication")
                return info.split(separator: "state=online").count == 3
            }
            let run = try await doctor(primary.url, "--json")
            #expect(run.code == 1, "\(run)")
            #expect(codes(run.output) == ["redis.replicaPriority", "redis.writesAlone"], "\(run)")
            #expect(
                run.output.contains("\"address\":\"127.0.0.1:\(two.port)\",\"online\":true,\"priority\":10"), "\(run)")
            let wrong = try await doctor(one.url, "--json")
            #expect(wrong.code == 2 && codes(wrong.output).contains("redis.isReplica"), "\(wrong)")
            await one.stop()
            await two.stop()
        }
    }

    @Test func `each Sentinel is asked, and one that is down and a lost quorum are told`() async throws {
        var options = RedisSentinels.Options()
        // On a busy machine they must not lose sight of one another.
        options.downAfterMilliseconds = 5000
        try await withSentinels(options) { sentinels in
            let sound = try await doctor(sentinels.url([0]), "--json")
            #expect(codes(sound.output).isDisjoint(with: Self.sentinelCodes), "\(sound)")
            // Who may not ask for the quorum is told nothing of it.
            try await sentinels.ask(0, "ACL", "SETUSER", "default", "-sentinel|ckquorum")
            let unasked = try await doctor(sentinels.url([0]), "--json")
            #expect(codes(unasked.output).isDisjoint(with: Self.sentinelCodes), "\(unasked)")
            try await sentinels.ask(0, "ACL", "SETUSER", "default", "+sentinel|ckquorum")
            try await sentinels.ask(1, "SENTINEL", "SET", "main", "failover-timeout", "90000")
            let unlike = try await doctor(sentinels.url([0]), "--json")
            #expect(codes(unlike.output).contains("sentinel.settingsDiffer"), "\(unlike)")
            // Of the URL, and of those that the first names.
            await sentinels.sentinels[1].kill(SIGKILL)
            try await eventually("the first has noticed", within: .seconds(60)) {
                try await sentinels.ask(0, "SENTINEL", "SENTINELS", "main").contains("disconnected")
            }
            for url in [sentinels.url([0, 1]), sentinels.url([0])] {
                let found = try await doctor(url, "--json")
                let told = codes(found.output).intersection(Self.sentinelCodes)
                #expect(told == ["sentinel.unreachable"], "once, whoever names it: \(found)")
            }
            await sentinels.sentinels[2].kill(SIGKILL)
            try await eventually("the first has noticed", within: .seconds(60)) {
                try await sentinels.ask(0, "SENTINEL", "CKQUORUM", "main").hasPrefix("NOQUORUM")
            }
            let alone = try await doctor(sentinels.url([0]), "--json")
            #expect(codes(alone.output).contains("sentinel.noQuorum"), "\(alone)")
        }
    }

    private static let sentinelCodes: Set = [
        "sentinel.unreachable", "sentinel.announcesUnreachable", "sentinel.disagrees", "sentinel.noQuorum",
    ]

    @Test func `a stall while it looks lengthens the lease it advises`() async throws {
        try await withRedis(Self.file) { redis in
            let program = try await Program.start(["doctor", "--seconds", "3", "--redis", redis.url, "--json"])
            try await measures(redis, after: 0)
            await redis.kill(SIGSTOP)
            // The stall itself.
            try await Task.sleep(for: .milliseconds(700))
            await redis.kill(SIGCONT)
            let code = await program.process.wait().shellCode
            #expect(code == 1, "\(program.output)")
            #expect(program.output.contains("lease.defaultTooShort"), "\(program.output)")
            let digits = program.output.split(separator: #""smallestMs":"#).last?.prefix { $0.isNumber }
            #expect(digits.flatMap { Int($0) } ?? 0 >= 3_500, "\(program.output)")
        }
    }

    @Test func `a slow command of before counts, by its name alone`() async throws {
        try await withRedis(Self.file + ["--enable-debug-command", "yes"]) { redis in
            _ = try await redis.cli("DEBUG", "SLEEP", "0.31")
            let run = try await doctor(redis.unixURL, "--lease", "1s", "--json")
            #expect(run.code == 1 && run.output.contains("lease.tooShort"), "\(run)")
            #expect(run.output.contains("a slow command, DEBUG") && !run.output.contains("0.31\""), "\(run)")
        }
    }

    @Test func `a clock that is ahead and one that is set are told`() async throws {
        let shim = try await ClockShim()
        try await withRedis(Self.file, under: shim.command) { redis in
            try shim.set(milliseconds: 5_000)
            let ahead = try await doctor(redis.unixURL, "--json")
            #expect(ahead.code == 1 && codes(ahead.output) == ["clock.skewed"], "\(ahead)")
            let before = try await questions(redis)
            let program = try await Program.start(["doctor", "--seconds", "3", "--redis", redis.url, "--json"])
            try await measures(redis, after: before)
            try shim.set(milliseconds: 0)
            _ = await program.process.wait()
            #expect(codes(program.output) == ["clock.stepped"], "\(program.output)")
        }
    }

    @Test func `what a user may not do is said as what it means`() async throws {
        try await withRedis(Self.file) { redis in
            let keys = "~ringfence:{default}:* &ringfence:{default}:*"
            func user(_ name: String, _ rules: String) async throws -> String {
                let words = ["-s", redis.socketPath, "ACL", "SETUSER", name, "on", ">secret-of-the-test"]
                try await redisCLI(words + (keys + " " + rules).split(separator: " ").map { String($0) })
                return "redis://\(name):secret-of-the-test@127.0.0.1:\(redis.port)"
            }
            let documented = try await user(
                "documented",
                "-@all +@read +@write +@pubsub -@dangerous +eval +evalsha +time +ping +select +wait +info "
                    + "+client|setname +client|id +client|kill")
            let run = try await doctor(documented, "--json")
            #expect(run.code == 0 || run.output.contains("lease.defaultTooShort"), "\(run)")
            #expect(codes(run.output) == ["redis.configForbidden"], "\(run)")
            #expect(!run.output.contains("secret") && !run.error.contains("secret"), "\(run)")
            let blind = try await doctor(user("blind", "+@all -info -config"), "--json")
            #expect(blind.code == 1, "\(blind)")
            #expect(codes(blind.output) == ["redis.infoForbidden", "redis.configForbidden"], "\(blind)")
            let mute = try await doctor(user("mute", "+@all -evalsha -eval"), "--json")
            #expect(mute.code == 2 && codes(mute.output) == ["redis.forbidden"], "\(mute)")
            #expect(mute.output.contains("EVALSHA"))
            let deaf = try await doctor(user("deaf", "+@all resetchannels"), "--json")
            #expect(deaf.code == 2 && codes(deaf.output) == ["redis.channelForbidden"], "\(deaf)")
            #expect(deaf.output.contains("ACL SETUSER deaf &ringfence:{default}:*"), "\(deaf)")
            let serving = try await Program.start([
                "serve", "--port", "0", "--redis", user("deaf", "+@all resetchannels"),
            ])
            try await eventually("serve says it at its start") { serving.error.contains("ACL SETUSER deaf &") }
            serving.process.signal(SIGTERM)
            _ = await serving.process.wait()
        }
    }

    @Test func `a group whose lease is shorter than what is safe is named`() async throws {
        try await withRedis(Self.file + ["--enable-debug-command", "yes"]) { redis in
            let service = try await Service.start(["--redis", redis.unixURL])
            for (group, lease) in [("short", 10_000), ("long", 3_600_000)] {
                let joined = try await service.request(
                    "PUT", "/v1/groups/\(group)/members/m", "{\"ttlMs\":\(lease)}")
                #expect(joined.status == 200)
            }
            // No look at the group takes the member out meanwhile: its service is stopped.
            service.program.process.signal(SIGKILL)
            _ = await service.program.process.wait()
            _ = try await redis.cli("DEBUG", "SLEEP", "2.1")
            let run = try await doctor(redis.unixURL, "--json")
            #expect(
                run.output.contains("the group short has a member") && !run.output.contains("the group long"), "\(run)")
        }
    }

    @Test func `bad usage and no Redis have their own codes`() async throws {
        for (arguments, says) in [
            (["--seconds", "0"], "1 to 3600"), (["--seconds", "3601"], "1 to 3600"),
            (["--lease", "100ms"], "200ms to 1h"),
            (["--lease", "5"], "--lease"), (["now"], "now"),
        ] {
            let run = try await Program.run(["doctor", "--redis", "redis://127.0.0.1:1"] + arguments)
            #expect(run.code == 64 && run.error.contains(says), "\(run)")
        }
        let away = try await doctor("redis://127.0.0.1:1", "--command-timeout", "200ms")
        #expect(away.code == 69 && away.error.contains("ringfence: ") && away.output.isEmpty, "\(away)")
        let help = try await Program.run(["doctor", "--help"])
        #expect(help.code == 0 && help.output.contains("EXIT CODES") && help.output.contains("smallest safe lease"))
    }
}
