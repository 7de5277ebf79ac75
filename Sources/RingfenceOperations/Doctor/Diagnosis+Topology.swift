// SPDX-License-Identifier: Apache-2.0
//
// What a Redis is among others: a replica, a node of a Cluster, one of several behind a name; and which URL follows it.
import Hiredis
import Ringfence
import RingfenceCore

extension Diagnosis {
    static func topology(_ readings: RedisReadings) -> [Finding] {
        replica(readings) + cluster(readings) + names(readings) + channels(readings) + successors(readings)
            + watchers(readings)
    }

    private static func replica(_ readings: RedisReadings) -> [Finding] {
        guard readings.isReplica else { return [] }
        let primary = readings.primary
        return [
            Finding(
                .problem, "redis.isReplica",
                "this is a replica\(primary.map { " of \($0)" } ?? ""): it takes no writes, or loses those it takes, "
                    + "so nothing here can be locked",
                remedy:
                    "give its primary\(primary.map { ", which it says is \($0)," } ?? ""), or an address that always "
                    + "leads to it: redis+sentinel://…/NAME where Sentinels watch it, redis+replicated:// with all "
                    + "servers where none do")
        ]
    }

    private static func cluster(_ readings: RedisReadings) -> [Finding] {
        var findings: [Finding] = []
        let isAskedForAsCluster = readings.place?.isCluster ?? false
        if let elsewhere = readings.slotElsewhere {
            let isMoving = elsewhere.contains("being moved")
            findings.append(
                Finding(
                    .problem, isMoving ? "cluster.slotMigrating" : "redis.wrongNode",
                    isMoving
                        ? "the slot of the namespace is on its way: \(elsewhere)"
                        : "this node of a Cluster does not serve the slot of the namespace: \(elsewhere)",
                    remedy: isAskedForAsCluster
                        ? "wait, and look again; if it lasts: redis-cli --cluster check, then fix"
                        : "give the URL as redis+cluster://, which follows the slot"))
        }
        guard readings.isCluster else { return findings }
        if !isAskedForAsCluster {
            findings.append(
                Finding(
                    .problem, "redis.cluster",
                    "this is a node of a Cluster, and the URL names a single server: clients refuse it, for they would "
                        + "not follow the slot of the namespace when it moves",
                    remedy: "give the URL as redis+cluster://, with this node and others"))
        }
        if readings.settings?["cluster-require-full-coverage"] == "yes" {
            findings.append(
                Finding(
                    .note, "cluster.fullCoverage",
                    "cluster-require-full-coverage is yes: when any shard is down, all nodes refuse all calls, also "
                        + "those of this namespace",
                    remedy: "CONFIG SET cluster-require-full-coverage no on all nodes, if the others should go on"))
        }
        if !readings.isReplica, readings.info != nil, readings.replicas.isEmpty {
            findings.append(
                Finding(
                    .warning, "cluster.noReplica",
                    "the owner of the namespace's slot has no replica: when it dies, nobody serves the slot until it "
                        + "is back", remedy: "add one: redis-cli --cluster add-node … --cluster-slave"))
        }
        return findings
    }

    /// What a failover to one of the replicas would bring.
    private static func successors(_ readings: RedisReadings) -> [Finding] {
        var findings: [Finding] = []
        let skewed = readings.replicas.filter { replica in
            replica.clockAhead.map { $0.magnitude - replica.clockError > .milliseconds(100) } ?? false
        }
        if !skewed.isEmpty {
            let list = skewed.map { replica in
                let ahead = replica.clockAhead ?? .zero
                return
                    "\(replica.address) \(millisecondsText(ahead.magnitude)) \(ahead < .zero ? "behind" : "ahead")"
            }
            findings.append(
                Finding(
                    .warning, "clock.serversSkewed",
                    "clocks of replicas are not the primary's (\(list.joined(separator: ", "))): promoted, one that is "
                        + "ahead takes that off every lease, and one that is behind may give lower fences",
                    remedy: "look at NTP on all machines of Redis; with chrony see the article Operating"))
        }
        // By default a primary with min-replicas-to-write counts them no more then.
        let late = readings.replicas.filter { $0.isOnline && $0.lag ?? .zero > .seconds(10) }
        if !late.isEmpty {
            let list = late.map { "\($0.address) \(($0.lag ?? .zero).shortText)" }
            findings.append(
                Finding(
                    .warning, "redis.replicaLags",
                    "the primary has not heard from replicas for long (\(list.joined(separator: ", "))): promoted, one "
                        + "of them lacks what was granted since",
                    remedy: "look at their logs, and at the network between"))
        }
        let forgetful = readings.replicas.filter { $0.hasAppendOnlyFile == false }
        if readings.hasAppendOnlyFile == true, !forgetful.isEmpty {
            findings.append(
                Finding(
                    .warning, "redis.replicaForgets",
                    "\(forgetful.map(\.address).joined(separator: ", ")) keeps no append-only file, and the primary "
                        + "does: promoted and then restarted, it has lost its data",
                    remedy: "CONFIG SET appendonly yes, also in its redis.conf"))
        }
        return findings
    }

    private static func names(_ readings: RedisReadings) -> [Finding] {
        guard readings.named.count > 1 else { return [] }
        let primaries = readings.named.filter { $0.isPrimary == true }
        if Set(primaries.map { $0.process ?? $0.address }).count > 1 {
            return [
                Finding(
                    .problem, "name.severalPrimaries",
                    "the name leads to several primaries (\(primaries.map(\.address).joined(separator: ", "))): each "
                        + "client uses one of them, so a lock can be held at each",
                    remedy: "let the name lead to one primary; for the nodes of a Cluster give redis+cluster://")
            ]
        }
        return [
            Finding(
                .note, "name.severalAddresses",
                "the name has several addresses (\(readings.named.map(\.address).joined(separator: ", "))): each is "
                    + "tried, and the one that is primary is used")
        ]
    }

    private static func channels(_ readings: RedisReadings) -> [Finding] {
        guard let refusal = readings.channelForbidden else { return [] }
        return [
            Finding(
                .problem, "redis.channelForbidden",
                "this user may not subscribe to the channels of the namespace (\(refusal)): waiters are not told of "
                    + "their grants, and get them up to a second late; so are events",
                remedy: "ACL SETUSER \(readings.user ?? "…") \(readings.channels) (Redis 7 gives a new user no channel)"
            )
        ]
    }
}
