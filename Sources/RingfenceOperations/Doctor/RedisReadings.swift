// SPDX-License-Identifier: Apache-2.0
//
// What a Redis says of itself, as plain values, so that judging it is a pure function (Diagnosis.swift). Where INFO and
// CONFIG both know a thing, INFO is used: an operator's ACL allows INFO far more often.

package import Hiredis
package import Ringfence

/// All that was read of one Redis. What may not be asked is nil.
package struct RedisReadings: Sendable {
    /// A replica, as its primary lists it and as it says itself.
    package struct Replica: Sendable, Hashable {
        package var address: String
        package var isOnline: Bool
        /// How long ago it was heard last, by its primary.
        package var lag: Duration?
        /// `replica-priority`; nil when it could not be asked.
        package var priority: Int?
        package var hasAppendOnlyFile: Bool?
        /// How much its clock is ahead of the primary's, and by how much that may be wrong.
        package var clockAhead: Duration?
        package var clockError: Duration = .zero

        package init(address: String, isOnline: Bool = true, priority: Int? = nil) {
            self.address = address
            self.isOnline = isOnline
            self.priority = priority
        }
    }

    /// A Sentinel, as it says itself.
    package struct Sentinel: Sendable, Hashable {
        package var address: String
        package var id: String?
        /// The URL does not name it: another one does.
        package var isNamedByOthers = false
        /// Those do not reach it either.
        package var isDown = false
        /// Why it says nothing of the primary; nil: it does.
        package var failure: String?
        /// Where it says that the primary is, as announced.
        package var primary: String?
        package var epoch: Int64?
        package var downAfter: Duration?
        package var failoverTimeout: Duration?
        /// How many must see the primary down.
        package var quorum: Int?
        /// Why it could not order a failover; nil: it could.
        package var quorumFault: String?

        package init(address: String, primary: String? = nil, epoch: Int64? = nil) {
            (self.address, self.primary, self.epoch) = (address, primary, epoch)
        }
    }

    /// A time in which Redis is known to have answered nobody, from its own records.
    package struct Stall: Sendable, Hashable {
        /// What it was, for people: `fork`, `slow command KEYS`, `latency event aof-fsync-always`.
        package var cause: String
        package var duration: Duration

        package init(_ cause: String, _ duration: Duration) {
            self.cause = cause
            self.duration = duration
        }
    }

    /// The lease of a group's member that has the shortest.
    package struct GroupLease: Sendable, Hashable {
        package var group: String
        package var shortest: Duration

        package init(group: String, shortest: Duration) {
            self.group = group
            self.shortest = shortest
        }
    }

    /// A group whose breaker somebody forced: `open` or `closed`.
    package struct ForcedBreaker: Sendable, Hashable {
        package var group: String
        package var state: BreakerOverride

        package init(group: String, state: BreakerOverride) {
            self.group = group
            self.state = state
        }
    }

    /// The fields of INFO.
    package var info: [String: String]?
    /// What CONFIG GET says.
    package var settings: [String: String]?
    package var replicas: [Replica] = []
    /// Of a URL that names Sentinels: those, and the others that they name.
    package var watchers: [Sentinel] = []
    /// How many Sentinels listen to it; nil: it may not be asked.
    package var sentinels: Int?
    /// A command that Ringfence needs and its user may not give; nil: none was met.
    package var forbidden: String?
    /// Why this user may not listen to the channels of the namespace; nil: it may.
    package var channelForbidden: String?
    /// As whom it was asked.
    package var user: String?
    /// The channels of the namespace, as a rule of an ACL.
    package var channels = "&ringfence:{NAMESPACE}:*"
    /// What the URL names.
    package var place: RedisPlace?
    /// Where the primary was found, by those who know it; nil for a URL that names one server.
    package var foundAt: String?
    /// Of a URL with a name: all the addresses that it has now; empty where it is none.
    package var named: [Named] = []

    /// A server behind a name.
    package struct Named: Sendable, Hashable {
        package var address: String
        /// nil: it could not be asked.
        package var isPrimary: Bool?
        /// Names the server process: two addresses may lead to one.
        package var process: String?

        package init(address: String, isPrimary: Bool?, process: String?) {
            self.address = address
            self.isPrimary = isPrimary
            self.process = process
        }
    }
    /// Where the slot of the namespace is, if it is not here: `MOVED 1234 10.0.0.2:6379`, `CLUSTERDOWN …`.
    package var slotElsewhere: String?
    package var stalls: [Stall] = []
    /// The groups of the namespace that have members.
    package var leases: [GroupLease] = []
    package var forcedBreakers: [ForcedBreaker] = []

    package init(info: [String: String]? = nil, settings: [String: String]? = nil) {
        self.info = info
        self.settings = settings
    }

    /// The lines `name:value` of INFO.
    static func parse(info text: String) -> [String: String] {
        var fields: [String: String] = [:]
        // By bytes: CR LF is one character to Swift.
        for line in text.utf8.split(whereSeparator: { $0 == 0x0A || $0 == 0x0D }) {
            guard line.first != UInt8(ascii: "#"), let colon = line.firstIndex(of: UInt8(ascii: ":")) else { continue }
            fields[String(decoding: line[..<colon], as: UTF8.self)] = String(
                decoding: line[line.index(after: colon)...], as: UTF8.self)
        }
        return fields
    }

    /// The replicas that INFO lists.
    static func replicas(in info: [String: String]) -> [ListedReplica] {
        var replicas: [ListedReplica] = []
        while let line = info["slave\(replicas.count)"] { replicas.append(ListedReplica(line)) }
        return replicas
    }
}

extension RedisReadings {
    /// The number that commands go by.
    package var version: String? { info?["redis_version"] }
    /// Name and number. Valkey says in `redis_version` which Redis it is like.
    package var software: String? {
        info?["valkey_version"].map { "Valkey \($0)" } ?? version.map { "Redis \($0)" }
    }
    package var isCluster: Bool { info?["cluster_enabled"] == "1" }
    /// Of a replica, where it says its primary is.
    package var primary: String? {
        guard let host = info?["master_host"], let port = info?["master_port"] else { return nil }
        return host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }
    package var isSentinel: Bool { (info?["redis_mode"] ?? info?["server_mode"]) == "sentinel" }
    package var isReplica: Bool { info?["role"] == "slave" }
    package var evictionPolicy: String? { info?["maxmemory_policy"] ?? settings?["maxmemory-policy"] }
    /// Bytes; 0: no limit.
    package var memoryLimit: Int64? { (info?["maxmemory"] ?? settings?["maxmemory"]).flatMap { Int64($0) } }
    package var memoryUsed: Int64? { info?["used_memory"].flatMap { Int64($0) } }
    package var hasAppendOnlyFile: Bool? {
        if let enabled = info?["aof_enabled"] { return enabled == "1" }
        return settings?["appendonly"].map { $0 == "yes" }
    }
    /// Something starts it again when it ends: `systemd` or `upstart`; nil: nobody we know of.
    package var supervisor: String? {
        info?["process_supervised"].flatMap { $0 == "no" || $0.isEmpty ? nil : $0 }
    }

    func number(_ setting: String) -> Int? { settings?[setting].flatMap { Int($0) } }
}
