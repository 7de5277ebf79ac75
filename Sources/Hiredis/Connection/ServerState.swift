// SPDX-License-Identifier: Apache-2.0

/// What a server says of itself that decides whether it may be used; nil where it does not say, or may not be asked.
package struct ServerState: Sendable, Equatable {
    /// `standalone`, `cluster` or `sentinel`.
    package var mode: String?
    /// `master` or `slave`.
    package var role: String?
    /// The number that commands go by, such as `7.0.15`.
    package var version: String?
    /// Name and number, such as `Valkey 8.1.8`.
    package var software: String? { valkeyVersion.map { "Valkey \($0)" } ?? version.map { "Redis \($0)" } }
    /// Valkey says here what it is, and in `version` which Redis it is like.
    package var valkeyVersion: String?
    /// Names the history of the data: new at each promotion and each start.
    package var replicationID: String?
    /// Of a replica: its primary, by the address that it uses itself.
    package var primaryAddress: RedisConfiguration.Address?
    /// Of a primary.
    package var connectedReplicas: Int?
    /// Of a Sentinel: what it calls the primaries that it watches.
    package var sentinelNames: [String] = []
    package var evictionPolicy: String?
    /// Bytes; 0: none.
    package var memoryLimit: Int64?

    private var primaryHost: String?
    private var primaryPort: Int?

    package init() {}

    /// From the answer to INFO.
    package init(info text: String) {
        Self.eachField(of: text) { self.take($0, $1) }
    }

    package var isReplica: Bool { role == "slave" }
    package var isSentinel: Bool { mode == "sentinel" }
    package var isCluster: Bool { mode == "cluster" }

    /// Sharded channels came with 7.0.
    package var hasShardedChannels: Bool {
        guard let major = version?.prefix(while: { $0 != "." }) else { return false }
        return Int(major).map { $0 >= 7 } ?? false
    }

    mutating func take(_ name: Substring, _ value: Substring) {
        switch name {
        // Valkey calls it so where it does not call itself Redis.
        case "redis_mode", "server_mode": mode = String(value)
        case "role": role = String(value)
        case "redis_version": version = String(value)
        case "valkey_version": valkeyVersion = String(value)
        case "master_replid": replicationID = String(value)
        case "connected_slaves": connectedReplicas = Int(value)
        case "master_host":
            primaryHost = String(value)
            nameThePrimary()
        case "master_port":
            primaryPort = Int(value)
            nameThePrimary()
        case "maxmemory_policy": evictionPolicy = String(value)
        case "maxmemory": memoryLimit = Int64(value)
        default: if name.hasPrefix("master"), name.dropFirst(6).allSatisfy(\.isNumber) { takeSentinelName(value) }
        }
    }

    private mutating func nameThePrimary() {
        if let primaryHost, let primaryPort { primaryAddress = .tcp(host: primaryHost, port: primaryPort) }
    }

    /// `name=mymaster,status=ok,…`
    private mutating func takeSentinelName(_ value: Substring) {
        guard value.hasPrefix("name="), sentinelNames.count < 16 else { return }
        sentinelNames.append(String(value.dropFirst(5).prefix { $0 != "," }))
    }

    static func eachField(of text: String, _ body: (_ name: Substring, _ value: Substring) -> Void) {
        // By bytes: INFO is long, and each new connection asks for it.
        for line in text.utf8.split(whereSeparator: { $0 == 0x0A || $0 == 0x0D }) {
            guard let colon = line.firstIndex(of: UInt8(ascii: ":")) else { continue }
            body(Substring(line[..<colon]), Substring(line[line.index(after: colon)...]))
        }
    }
}
