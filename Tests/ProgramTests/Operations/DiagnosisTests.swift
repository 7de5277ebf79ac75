// SPDX-License-Identifier: Apache-2.0
//
// What the doctor thinks of readings: pure, so every misconfiguration can be put to it without making one.
import Hiredis
import Ringfence
import Testing

@testable import RingfenceOperations

@Suite struct DiagnosisTests {
    /// A Redis that nothing is to be said of.
    private static func sound(
        info: [String: String] = [:], settings: [String: String] = [:]
    ) -> RedisReadings {
        RedisReadings(
            info: [
                "redis_version": "7.0.15", "role": "master", "maxmemory_policy": "noeviction", "maxmemory": "0",
                "aof_enabled": "1", "aof_last_write_status": "ok", "rdb_last_bgsave_status": "ok",
                "process_supervised": "no", "loading": "0", "cluster_enabled": "0", "connected_clients": "3",
                "maxclients": "10000",
            ].merging(info) { $1 },
            settings: [
                "appendfsync": "always", "save": "", "min-replicas-to-write": "1", "latency-monitor-threshold": "20",
            ].merging(settings) { $1 })
    }

    struct Case: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var readings: RedisReadings
        var expected: [String]

        init(_ name: String, _ expected: [String], _ readings: RedisReadings) {
            (testDescription, self.expected, self.readings) = (name, expected, readings)
        }
    }

    private static func with(_ change: (inout RedisReadings) -> Void) -> RedisReadings {
        var readings = sound()
        change(&readings)
        return readings
    }

    private static let replicas: [RedisReadings.Replica] = [
        .init(address: "10.0.0.2:6379", priority: 100), .init(address: "10.0.0.3:6379", priority: 100),
    ]

    private static let watchers = (1...3).map { number in
        RedisReadings.Sentinel(address: "10.0.0.\(number):26379", primary: "10.0.0.1:6379", epoch: 4)
    }

    private static func cluster(_ readings: inout RedisReadings) {
        readings.info?["cluster_enabled"] = "1"
        readings.place = .cluster([.tcp(host: "10.0.0.1", port: 6379)])
        readings.replicas = replicas
    }

    private static let cases: [Case] = [
        Case("a Sentinel", ["problem redis.isSentinel"], sound(info: ["redis_mode": "sentinel"])),
        Case(
            "a node without the slot", ["problem redis.wrongNode"],
            with { $0.slotElsewhere = "MOVED 5061 10.0.0.2:6379" }),
        Case("a sound one", [], sound()),
        Case("too old", ["problem redis.tooOld"], sound(info: ["redis_version": "6.0.16"])),
        Case("just new enough", [], sound(info: ["redis_version": "6.2.0"])),
        Case("a version nobody can read", ["problem redis.tooOld"], sound(info: ["redis_version": "?"])),
        Case(
            "evicts", ["problem redis.evicts"], sound(info: ["maxmemory_policy": "allkeys-lru", "maxmemory": "1000"])),
        Case(
            "evicts only what expires, and locks do", ["problem redis.evicts"],
            sound(info: ["maxmemory_policy": "volatile-ttl", "maxmemory": "1000"])),
        Case("would evict", ["warning redis.wouldEvict"], sound(info: ["maxmemory_policy": "allkeys-lru"])),
        Case("nearly full", ["warning redis.full"], sound(info: ["maxmemory": "1000", "used_memory": "950"])),
        Case("full", ["problem redis.full"], sound(info: ["maxmemory": "1000", "used_memory": "1001"])),
        Case("no file", ["warning redis.forgets"], sound(info: ["aof_enabled": "0"])),
        Case(
            "no file, and restarted by itself", ["problem redis.forgets"],
            sound(info: ["aof_enabled": "0", "process_supervised": "systemd"])),
        Case("never syncs", ["warning redis.neverSyncs"], sound(settings: ["appendfsync": "no"])),
        Case("syncs each second", ["note redis.syncsEachSecond"], sound(settings: ["appendfsync": "everysec"])),
        Case("cannot append", ["problem redis.cannotAppend"], sound(info: ["aof_last_write_status": "err"])),
        Case(
            "cannot save", ["problem redis.cannotSave"],
            sound(info: ["rdb_last_bgsave_status": "err"], settings: ["save": "3600 1"])),
        Case(
            "cannot save, and says nothing of it", [],
            sound(
                info: ["rdb_last_bgsave_status": "err"],
                settings: ["save": "3600 1", "stop-writes-on-bgsave-error": "no"])),
        Case("a replica", ["problem redis.isReplica"], sound(info: ["role": "slave"])),
        Case(
            "a node of a Cluster by a URL for one server", ["problem redis.cluster", "warning cluster.noReplica"],
            sound(info: ["cluster_enabled": "1"])),
        Case("a sound Cluster", [], with(cluster)),
        Case(
            "a Cluster that one dead shard stops", ["note cluster.fullCoverage"],
            with {
                cluster(&$0)
                $0.settings?["cluster-require-full-coverage"] = "yes"
            }),
        Case(
            "a slot that is being moved", ["problem cluster.slotMigrating"],
            with {
                cluster(&$0)
                $0.slotElsewhere = "the slot is being moved to another node of the Cluster"
            }),
        Case(
            "two primaries behind a name", ["problem name.severalPrimaries"],
            with {
                $0.named = [
                    .init(address: "10.0.0.1:6379", isPrimary: true, process: "a"),
                    .init(address: "10.0.0.2:6379", isPrimary: true, process: "b"),
                ]
            }),
        Case(
            "a primary and a replica behind a name", ["note name.severalAddresses"],
            with {
                $0.named = [
                    .init(address: "10.0.0.1:6379", isPrimary: true, process: "a"),
                    .init(address: "[fe80::1]:6379", isPrimary: true, process: "a"),
                    .init(address: "10.0.0.2:6379", isPrimary: false, process: "b"),
                ]
            }),
        Case(
            "a replica whose clock is ahead", ["warning clock.serversSkewed"],
            with {
                $0.replicas = replicas
                $0.replicas[0].clockAhead = .seconds(-2)
                $0.replicas[1].clockAhead = .milliseconds(150)
                $0.replicas[1].clockError = .milliseconds(60)
            }),
        Case(
            "a replica that its primary does not hear", ["warning redis.replicaLags"],
            with {
                $0.replicas = replicas
                $0.replicas[0].lag = .seconds(1)
                $0.replicas[1].lag = .seconds(40)
            }),
        Case(
            "a replica without a file", ["warning redis.replicaForgets"],
            with {
                $0.replicas = replicas
                $0.replicas[1].hasAppendOnlyFile = false
            }),
        Case("no channels", ["problem redis.channelForbidden"], with { $0.channelForbidden = "NOPERM" }),
        Case("loading", ["problem redis.loading"], sound(info: ["loading": "1"])),
        Case("clients", ["warning redis.clients"], sound(info: ["connected_clients": "95", "maxclients": "100"])),
        Case("no memory of stalls", ["note redis.keepsNoStalls"], sound(settings: ["latency-monitor-threshold": "0"])),
        Case("no INFO", ["warning redis.infoForbidden"], with { $0.info = nil }),
        Case("no CONFIG", ["note redis.configForbidden"], with { $0.settings = nil }),
        Case("no scripts", ["problem redis.forbidden"], with { $0.forbidden = "run scripts (EVALSHA)" }),
        Case("sound replicas", [], with { $0.replicas = replicas }),
        Case(
            "writes alone", ["warning redis.writesAlone"],
            with {
                $0.replicas = replicas
                $0.settings?["min-replicas-to-write"] = "0"
            }),
        Case(
            "unequal replicas", ["warning redis.replicaPriority"],
            with {
                $0.replicas = replicas
                $0.replicas[0].priority = 10
            }),
        Case(
            "a replica that nobody could ask", ["note redis.replicaUnknown"],
            with {
                $0.replicas = replicas
                $0.replicas[0].priority = nil
            }),
        Case(
            "a replica that is being filled", ["warning redis.replicaBehind"],
            with {
                $0.replicas = replicas
                $0.replicas[1].isOnline = false
            }),
        Case(
            "replicas that are never promoted", ["warning redis.neverPromoted"],
            with { $0.replicas = [.init(address: "10.0.0.2:6379", priority: 0)] }),
        Case("Sentinels that agree", [], with { $0.watchers = watchers }),
        Case(
            "a Sentinel that is behind", ["problem sentinel.disagrees"],
            with {
                $0.watchers = watchers
                ($0.watchers[1].primary, $0.watchers[1].epoch) = ("10.0.0.9:6379", 3)
            }),
        Case(
            "a Sentinel of the URL that is down, and one that others name by a name of theirs",
            ["warning sentinel.unreachable", "warning sentinel.announcesUnreachable"],
            with {
                $0.watchers = watchers
                $0.watchers[0].failure = "connection refused"
                ($0.watchers[2].failure, $0.watchers[2].isNamedByOthers) = ("the name redis-3 is not found", true)
            }),
        Case(
            "Sentinels without a quorum", ["problem sentinel.noQuorum"],
            with {
                $0.watchers = watchers
                $0.watchers[0].quorumFault = "NOQUORUM 1 usable Sentinels."
            }),
        Case(
            "Sentinels that wait longer than a lease lasts", ["note sentinel.slow"],
            with {
                $0.watchers = watchers
                for number in 0..<3 { $0.watchers[number].downAfter = .seconds(30) }
                $0.leases = [.init(group: "g", shortest: .seconds(10))]
            }),
        Case(
            "Sentinels of which one was told another quorum", ["warning sentinel.settingsDiffer"],
            with {
                $0.watchers = watchers
                for number in 0..<3 { $0.watchers[number].quorum = number == 1 ? 3 : 2 }
            }),
        Case("three Sentinels", ["note redis.sentinels"], with { $0.sentinels = 3 }),
        Case("two Sentinels", ["warning redis.fewSentinels", "note redis.sentinels"], with { $0.sentinels = 2 }),
        Case(
            "all at once: the worst first",
            ["problem redis.evicts", "warning redis.forgets", "note redis.keepsNoStalls"],
            sound(
                info: ["maxmemory_policy": "allkeys-lru", "maxmemory": "1000", "aof_enabled": "0"],
                settings: ["latency-monitor-threshold": "0"])),
        Case(
            "CONFIG alone tells of eviction and file too",
            [
                "problem redis.evicts", "warning redis.infoForbidden", "warning redis.forgets",
            ],
            with {
                $0.info = nil
                $0.settings = ["maxmemory-policy": "allkeys-lfu", "maxmemory": "7", "appendonly": "no"]
            }),
    ]

    @Test(arguments: cases) func `each misconfiguration is found, and nothing else`(_ example: Case) {
        let findings = Diagnosis.findings(example.readings)
        #expect(findings.map { "\($0.severity.rawValue) \($0.code)" } == example.expected)
        for finding in findings where finding.severity != .note && finding.code != "redis.replicaBehind" {
            #expect(!finding.remedy.isEmpty, "\(finding.code) says what to do")
        }
    }

    @Test func `what cannot be asked at all is said, and nothing is made up`() {
        #expect(Diagnosis.findings(RedisReadings()).map(\.code) == ["redis.infoForbidden", "redis.configForbidden"])
    }

    @Test func `INFO is read with either line end, and its list of replicas`() {
        let text =
            "# Server\r\nredis_version:7.0.15\r\n\r\n# Replication\r\nrole:master\r\n"
            + "slave0:ip=10.0.0.2,port=6380,state=online,offset=14,lag=0\r\nslave1:ip=::1,port=1,state=wait_bgsave\n"
        let info = RedisReadings.parse(info: text)
        #expect(info["redis_version"] == "7.0.15" && info["role"] == "master" && info["# Server"] == nil)
        let replicas = RedisReadings.replicas(in: info)
        #expect(replicas.map(\.host) == ["10.0.0.2", "::1"] && replicas.map(\.port) == [6380, 1])
        #expect(replicas.map(\.isOnline) == [true, false])
    }
}

@Suite struct MeasurementTests {
    private static let millisecond: Int64 = 1_000_000
    private static let noon: Int64 = 1_795_000_000_000_000_000

    /// Probes 10 ms apart that take 1 ms each, on clocks that agree.
    private func probes(
        _ count: Int = 100, roundTrip: (Int) -> Int64 = { _ in 1 }, ahead: (Int) -> Int64 = { _ in 0 },
        wall: (Int) -> Int64 = { _ in 0 }
    ) -> [Probe] {
        var at: Int64 = 0
        return (0..<count).map { index in
            let trip = roundTrip(index) * Self.millisecond
            defer { at += trip + 9 * Self.millisecond }
            return Probe(
                sentAt: at, receivedAt: at + trip, wallOffset: Self.noon + wall(index),
                server: Self.noon + at + trip / 2 + ahead(index))
        }
    }

    @Test func `round trips, the longest silence and pauses are what they were`() {
        let quiet = Measurement(probes(roundTrip: { $0 == 50 ? 300 : $0 < 2 ? 5 : 1 }))
        #expect(quiet.roundTrips.count == 100 && quiet.roundTrips.p50 == .milliseconds(1))
        #expect(quiet.roundTrips.p99 == .milliseconds(300) && quiet.roundTrips.longest == .milliseconds(300))
        #expect(quiet.silence == .milliseconds(300) && quiet.pause == .zero && quiet.failures == 0)

        var broken = probes()
        broken[40].silentSince = broken[40].sentAt - 700 * Self.millisecond
        broken[70].dueAt -= 90 * Self.millisecond
        let away = Measurement(broken, failures: 3)
        #expect(away.silence == .milliseconds(701) && away.pause == .milliseconds(90))
        #expect(away.roundTrips.longest == .milliseconds(1))
    }

    @Test func `a clock that agrees, one that is ahead, one that drifts and one that is set are told apart`() {
        let sound = ClockReading(probes())
        #expect(sound.skew == .zero && sound.driftPPM == 0 && sound.steps.isEmpty)
        #expect(sound.skewError == .microseconds(500))
        let ahead = ClockReading(probes(ahead: { _ in -5_000 * Self.millisecond }))
        #expect(ahead.skew == .seconds(-5) && ahead.driftPPM == 0 && ahead.steps.isEmpty)
        // 10 ms apart: 0.2 ms each is 2 %.
        let fast = ClockReading(probes(1_000, ahead: { Int64($0) * 200_000 }))
        #expect(fast.driftPPM > 19_000 && fast.driftPPM < 21_000 && fast.steps.isEmpty)
        let set = ClockReading(probes(ahead: { $0 < 60 ? 0 : 250 * Self.millisecond }))
        #expect(set.steps == [.init(isServers: true, by: .milliseconds(250))] && set.driftPPM == 0)
        #expect(set.skew == .milliseconds(250))
        let own = ClockReading(probes(wall: { $0 < 60 ? 0 : 250 * Self.millisecond }))
        #expect(own.steps == [.init(isServers: false, by: .milliseconds(250))] && own.skew == .milliseconds(-250))
    }

    /// chrony's own 8.33 %, for one and a half seconds of twenty: on the average of the run it is less than 1 %.
    private static func corrected(_ index: Int) -> Int64 { Int64(min(max(index - 800, 0), 150)) * 833_333 }

    @Test func `a clock that is corrected for a part of the run is measured in that part`() {
        let reading = ClockReading(probes(2_000, ahead: Self.corrected))
        #expect(reading.driftPPM < 10_000 && reading.steps.isEmpty)
        #expect(reading.fastestPPM > 80_000 && reading.fastestPPM < 86_000)
        let slowed = ClockReading(probes(2_000, ahead: { -Self.corrected($0) }))
        #expect(slowed.fastestPPM < -80_000)
        let sound = ClockReading(probes(2_000))
        #expect(abs(sound.fastestPPM) <= sound.fastestErrorPPM)
    }

    @Test func `an answer that was long on its way is no step of a clock`() {
        // The server read its clock at the very beginning of each slow trip.
        var slow = probes(roundTrip: { $0 % 7 == 3 ? 400 : 1 })
        for index in slow.indices where slow[index].roundTrip > 100 * Self.millisecond {
            slow[index].server -= slow[index].roundTrip / 2
        }
        let reading = ClockReading(slow)
        #expect(reading.steps.isEmpty && reading.skew == .zero)
    }

    @Test func `one probe is enough to say what can be said`() {
        let one = Measurement(probes(1))
        #expect(one.roundTrips.p99 == .milliseconds(1) && one.clock.driftErrorPPM >= 1e6)
        let findings = Diagnosis.findings(one, LeaseAdvice(one, []), RedisReadings())
        #expect(findings.isEmpty)
    }

    @Test func `the smallest safe lease is five times the worst silence that is known of`() {
        func advice(_ silence: Int64, _ stalls: [RedisReadings.Stall] = []) -> LeaseAdvice {
            LeaseAdvice(Measurement(probes(roundTrip: { $0 == 50 ? silence : 1 })), stalls)
        }
        #expect(advice(1).smallest == .milliseconds(200))
        #expect(advice(40).smallest == .milliseconds(200))
        #expect(advice(41).smallest == .milliseconds(300))
        #expect(advice(200).smallest == .seconds(1))
        #expect(advice(201).smallest == .milliseconds(1_500))
        #expect(advice(2_001).smallest == .seconds(11))
        let fork = advice(20, [.init("fork", .milliseconds(99)), .init("slow", .milliseconds(7))])
        #expect(fork.smallest == .milliseconds(500) && fork.silence == .milliseconds(100) && fork.cause == "fork")
        #expect(advice(20, [.init("slow", .milliseconds(7))]).cause.contains("slowest answer"))
    }

    @Test func `a lease that is too short is a warning, whoever wants it`() {
        let measurement = Measurement(probes(roundTrip: { $0 == 50 ? 700 : 1 }))
        let advice = LeaseAdvice(measurement, [])
        var readings = RedisReadings()
        func codes(_ lease: Duration? = nil) -> [String] {
            Diagnosis.findings(measurement, advice, readings, lease: lease).map(\.code)
        }
        #expect(advice.smallest == .milliseconds(3_500))
        #expect(codes() == ["lease.defaultTooShort"])
        #expect(codes(.seconds(1)) == ["lease.tooShort"])
        #expect(codes(.seconds(4)) == [])
        readings.leases = [.init(group: "a", shortest: .seconds(1)), .init(group: "b", shortest: .seconds(10))]
        #expect(codes(.seconds(4)) == ["lease.groupTooShort"])
    }

    @Test func `a breaker that somebody forced is a warning that says how to end it`() {
        var readings = RedisReadings()
        readings.forcedBreakers = [.init(group: "a", state: .open), .init(group: "b", state: .closed)]
        let findings = Diagnosis.findings(readings).filter { $0.code == "breaker.forced" }
        #expect(findings.map(\.severity) == [.warning, .warning])
        #expect(findings[0].detail.contains("group a is forced open: nobody calls"))
        #expect(findings[1].detail.contains("group b is forced closed"))
        #expect(findings[1].remedy.contains("ringfence group breaker b automatic"))
    }

    @Test func `a bad clock is told by how bad it is`() {
        func codes(_ probes: [Probe]) -> [String] {
            let measurement = Measurement(probes)
            return Diagnosis.findings(measurement, LeaseAdvice(measurement, []), RedisReadings())
                .map { "\($0.severity.rawValue) \($0.code)" }
        }
        #expect(codes(probes()) == [])
        #expect(codes(probes(ahead: { _ in 999 * Self.millisecond })) == [])
        #expect(codes(probes(ahead: { _ in -2_000 * Self.millisecond })) == ["warning clock.skewed"])
        #expect(codes(probes(1_000, ahead: { Int64($0) * 50_000 })) == ["warning clock.drifts"])
        #expect(codes(probes(1_000, ahead: { Int64($0) * 200_000 })).contains("problem clock.drifts"))
        #expect(codes(probes(2_000, ahead: Self.corrected)).contains("problem clock.drifts"))
        #expect(codes(probes(ahead: { $0 < 60 ? 0 : 250 * Self.millisecond })) == ["warning clock.stepped"])
        #expect(codes(probes(wall: { $0 < 60 ? 0 : 250 * Self.millisecond })) == ["note clock.stepped"])
    }

    @Test func `durations read well`() {
        #expect(millisecondsText(.microseconds(84)) == "0.08 ms")
        #expect(millisecondsText(.microseconds(9_994)) == "9.99 ms")
        #expect(millisecondsText(.milliseconds(271)) == "271 ms")
        #expect(millisecondsText(.milliseconds(3_480)) == "3.4 s")
        #expect(millisecondsText(.microseconds(-120)) == "-0.12 ms")
    }
}
