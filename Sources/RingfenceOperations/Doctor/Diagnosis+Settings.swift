// SPDX-License-Identifier: Apache-2.0
//
// What Redis' settings and its state say: what it is, whom it obeys, what it forgets.
import Ringfence
import RingfenceCore

extension Diagnosis {
    static func ofState(_ readings: RedisReadings) -> [Finding] {
        identity(readings) + topology(readings) + permissions(readings) + memory(readings) + persistence(readings)
            + replication(readings) + sentinels(readings) + records(readings) + breakers(readings)
    }

    private static func identity(_ readings: RedisReadings) -> [Finding] {
        var findings: [Finding] = []
        if let version = readings.version {
            let parts = version.split(separator: ".").map { Int($0) ?? 0 } + [0, 0]
            if (parts[0], parts[1]) < (6, 2) {
                findings.append(
                    Finding(
                        .problem, "redis.tooOld", "this is Redis \(version): Ringfence needs 6.2 or later",
                        remedy: "update Redis"))
            }
        }
        if readings.isSentinel {
            findings.append(
                Finding(
                    .problem, "redis.isSentinel", "this is a Sentinel: it holds no data, so nothing here can be locked",
                    remedy: "give the address of the primary that it watches: SENTINEL GET-MASTER-ADDR-BY-NAME NAME"))
        }
        if readings.info?["loading"] == "1" {
            findings.append(
                Finding(
                    .problem, "redis.loading", "Redis is still loading its data and answers nothing else",
                    remedy: "wait, and look again"))
        }
        return findings
    }

    private static func permissions(_ readings: RedisReadings) -> [Finding] {
        var findings: [Finding] = []
        if let forbidden = readings.forbidden {
            findings.append(
                Finding(
                    .problem, "redis.forbidden", "this user may not \(forbidden): Ringfence cannot work as promised",
                    remedy: "give it the permissions of the article Data model"))
        }
        if readings.info == nil {
            findings.append(
                Finding(
                    .warning, "redis.infoForbidden",
                    "this user may not call INFO: the event log cannot tell a Redis that lost its data from one that "
                        + "did not, and much of this check is blind",
                    remedy: "ACL SETUSER … +info"))
        }
        if readings.settings == nil {
            findings.append(
                Finding(
                    .note, "redis.configForbidden",
                    "this user may not call CONFIG GET: appendfsync, min-replicas-to-write and others are not checked",
                    remedy: "check them with a user that may: --redis redis://admin@…"))
        }
        return findings
    }

    private static func memory(_ readings: RedisReadings) -> [Finding] {
        var findings: [Finding] = []
        let limit = readings.memoryLimit ?? 0
        if let policy = readings.evictionPolicy, policy != "noeviction" {
            let remedy = "CONFIG SET maxmemory-policy noeviction, also in redis.conf; or use another Redis"
            if limit > 0 {
                findings.append(
                    Finding(
                        .problem, "redis.evicts",
                        "this Redis has maxmemory-policy \(policy): when its memory runs short it deletes held locks "
                            + "and members", remedy: remedy))
            } else {
                findings.append(
                    Finding(
                        .warning, "redis.wouldEvict",
                        "this Redis has maxmemory-policy \(policy): it would delete held locks and members if it had a "
                            + "maxmemory", remedy: remedy))
            }
        } else if limit > 0, let used = readings.memoryUsed, used > limit / 10 * 9 {
            findings.append(
                Finding(
                    used >= limit ? .problem : .warning, "redis.full",
                    "\(mebibytes(used)) of \(mebibytes(limit)) are used: a full Redis refuses locks, joins and beats",
                    remedy: "raise maxmemory, or find out what fills it (redis-cli --bigkeys)"))
        }
        if let clients = readings.info?["connected_clients"].flatMap({ Int($0) }),
            let most = (readings.info?["maxclients"] ?? readings.settings?["maxclients"]).flatMap({ Int($0) }),
            most > 0,
            clients > most / 10 * 9
        {
            findings.append(
                Finding(
                    .warning, "redis.clients",
                    "\(clients) of \(most) connections are used: one more, and a process that restarts cannot come "
                        + "back",
                    remedy: "raise maxclients, or find who keeps connections (CLIENT LIST)"))
        }
        return findings
    }

    private static func persistence(_ readings: RedisReadings) -> [Finding] {
        var findings: [Finding] = []
        let info = readings.info ?? [:]
        if readings.hasAppendOnlyFile == false {
            let save = readings.settings?["save"]
            let lost = save == "" ? "everything" : "what came after its last snapshot"
            let risk =
                "this Redis keeps no append-only file: if it restarts, it has lost \(lost), so locks are free at once, "
                + "their fences forgotten, and groups empty until their members have beaten anew"
            let remedy = "CONFIG SET appendonly yes, also in redis.conf"
            if let supervisor = readings.supervisor {
                findings.append(
                    Finding(
                        .problem, "redis.forgets", risk + "; and \(supervisor) restarts it by itself", remedy: remedy))
            } else {
                findings.append(
                    Finding(
                        .warning, "redis.forgets", risk,
                        remedy: remedy + "; or make sure that nothing restarts it within the longest lease"))
            }
        } else if readings.hasAppendOnlyFile == true {
            switch readings.settings?["appendfsync"] {
            case "no":
                findings.append(
                    Finding(
                        .warning, "redis.neverSyncs",
                        "appendfsync is no: a machine that crashes loses about 30 s of locks and elections",
                        remedy: "CONFIG SET appendfsync everysec, also in redis.conf"))
            case "everysec":
                findings.append(
                    Finding(
                        .note, "redis.syncsEachSecond",
                        "appendfsync is everysec: a machine that crashes, not only Redis, loses up to two seconds"))
            default: break
            }
            if let status = info["aof_last_write_status"], status != "ok" {
                findings.append(
                    Finding(
                        .problem, "redis.cannotAppend",
                        "the last write of the append-only file failed: Redis refuses all writes until it succeeds",
                        remedy: "look at Redis' log and its disk"))
            }
        }
        if info["rdb_last_bgsave_status"] == "err", readings.settings?["stop-writes-on-bgsave-error"] != "no",
            readings.settings?["save"] != ""
        {
            findings.append(
                Finding(
                    .problem, "redis.cannotSave",
                    "the last snapshot failed: Redis refuses all writes until one succeeds",
                    remedy: "look at Redis' log and its disk; or CONFIG SET stop-writes-on-bgsave-error no"))
        }
        return findings
    }

    private static func replication(_ readings: RedisReadings) -> [Finding] {
        var findings: [Finding] = []
        if !readings.replicas.isEmpty {
            let fewest = readings.number("min-replicas-to-write") ?? readings.number("min-slaves-to-write")
            if fewest == 0 {
                findings.append(
                    Finding(
                        .warning, "redis.writesAlone",
                        "min-replicas-to-write is 0 with \(readings.replicas.count) replicas: a primary that is cut "
                            + "off goes on granting what the promoted replica grants as well",
                        remedy: "CONFIG SET min-replicas-to-write 1 and min-replicas-max-lag 10, also in redis.conf"))
            }
            let priorities = Set(readings.replicas.compactMap(\.priority))
            if priorities.count > 1 {
                let list = readings.replicas.map { "\($0.address) \($0.priority.map { "\($0)" } ?? "?")" }
                findings.append(
                    Finding(
                        .warning, "redis.replicaPriority",
                        "replica-priority differs (\(list.joined(separator: ", "))): Sentinel promotes by it before it "
                            + "looks who has the newest data",
                        remedy: "set the same replica-priority on all replicas that may be promoted"))
            } else if priorities == [0] {
                findings.append(
                    Finding(
                        .warning, "redis.neverPromoted",
                        "replica-priority is 0 on all replicas: none is ever promoted", remedy: "set it to 100"))
            }
            let unknown = readings.replicas.filter { $0.priority == nil }.map(\.address)
            if !unknown.isEmpty {
                findings.append(
                    Finding(
                        .note, "redis.replicaUnknown",
                        "could not ask \(unknown.joined(separator: ", ")): its replica-priority is not checked"))
            }
            let away = readings.replicas.filter { !$0.isOnline }.map(\.address)
            if !away.isEmpty {
                findings.append(
                    Finding(
                        .warning, "redis.replicaBehind",
                        "\(away.joined(separator: ", ")) is still being filled: promoted now, it would lose nearly "
                            + "everything"
                    ))
            }
        }
        return findings
    }

    private static func sentinels(_ readings: RedisReadings) -> [Finding] {
        guard let sentinels = readings.sentinels, sentinels > 0 else { return [] }
        var findings: [Finding] = []
        findings.append(
            Finding(
                .note, "redis.sentinels",
                "\(sentinels) Sentinel\(sentinels == 1 ? "" : "s") can promote a replica: replication is "
                    + "asynchronous, so a failover may lose the last grants and beats. Fences stay above those "
                    + "before if clocks agree")
        )
        if sentinels < 3 {
            findings.append(
                Finding(
                    .warning, "redis.fewSentinels",
                    "\(sentinels) Sentinel\(sentinels == 1 ? "" : "s"): when one machine is lost there may be no "
                        + "majority to promote anybody", remedy: "run three, on three machines"))
        }
        return findings
    }

    private static func records(_ readings: RedisReadings) -> [Finding] {
        guard readings.number("latency-monitor-threshold") == 0 else { return [] }
        return [
            Finding(
                .note, "redis.keepsNoStalls",
                "Redis does not record its stalls: what happened before is not known here",
                remedy: "CONFIG SET latency-monitor-threshold 20, also in redis.conf")
        ]
    }

    /// Ordered in an emergency, and forgotten after it.
    private static func breakers(_ readings: RedisReadings) -> [Finding] {
        readings.forcedBreakers.map { forced in
            let what =
                forced.state == .open
                ? "nobody calls its members" : "its members are called, however many calls fail"
            return Finding(
                .warning, "breaker.forced",
                "the breaker of the group \(forced.group) is forced \(forced.state.rawValue): \(what)",
                remedy: "ringfence group history \(forced.group) says who ordered it and why; when that is over: "
                    + "ringfence group breaker \(forced.group) automatic --reason …")
        }
    }

    private static func mebibytes(_ bytes: Int64) -> String { "\(bytes / 1_048_576) MiB" }
}
