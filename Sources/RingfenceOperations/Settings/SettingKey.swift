// SPDX-License-Identifier: Apache-2.0
//
// The one list of settings. Flag, environment variable, name in the file, help text and check all come from a line of
// this table, so none can be forgotten or drift apart.

/// One setting: its names, type, default and meaning.
package struct SettingKey: Sendable, Hashable {
    /// How a value is written.
    package enum Kind: String, Sendable {
        case text
        /// A text that is no flag: flags are seen by everyone on the machine.
        case secret
        /// A path; relative ones start at the working directory.
        case path
        /// `500ms`, `10s`, `5m`, `2h`, `1d`.
        case duration
        /// 0 to 65535.
        case port
        /// A count.
        case number
        /// One of swift-log's levels.
        case logLevel = "log level"
    }

    /// The name in the file; `--name` is the flag.
    package let name: String
    package let kind: Kind
    /// The default as help shows it.
    package let fallback: String
    package let help: String

    /// The environment variable: `RINGFENCE_` and the name in capitals.
    package var variable: String {
        "RINGFENCE_" + name.uppercased().map { $0 == "-" ? "_" : String($0) }.joined()
    }

    private init(_ name: String, _ kind: Kind, _ fallback: String, _ help: String) {
        self.name = name
        self.kind = kind
        self.fallback = fallback
        self.help = help
    }

    package static let redis = SettingKey(
        "redis", .text, "that of ringfence serve here; for serve: an embedded one",
        "Redis: redis://[user:password@]host[:6379][/database], rediss:// for TLS, or unix:///path/to.sock; "
            + "redis+sentinel://host[:26379],host/NAME, redis+cluster://host,host or redis+replicated://host,host.")
    package static let redisPasswordFile = SettingKey(
        "redis-password-file", .path, "none",
        "File with Redis' password, instead of one in the URL. Read at each attempt to connect.")
    package static let redisAuthority = SettingKey(
        "redis-ca", .path, "the system's", "PEM file of the authorities to trust for rediss://.")
    package static let redisCertificate = SettingKey(
        "redis-cert", .path, "none", "PEM file of the client certificate for rediss://.")
    package static let redisKey = SettingKey(
        "redis-key", .path, "none", "PEM file of the private key of redis-cert.")
    package static let redisServerName = SettingKey(
        "redis-server-name", .text, "the URL's host", "Name (or address) to verify in Redis' certificate.")
    package static let redisWatch = SettingKey(
        "redis-watch", .duration, "1200ms with Sentinels, 1s for a list, 5s for a name, 15s in a Cluster",
        "How often it is looked again where Redis is, a fifth more or less. 100ms to 1h.")
    package static let redisAddressMap = SettingKey(
        "redis-address-map", .text, "none",
        "FROM=TO, separated by commas: what addresses that Sentinels and nodes of a Cluster announce are called here. "
            + "Each is host or host:port.")
    package static let sentinelUser = SettingKey(
        "sentinel-user", .text, "none", "User at the Sentinels; the URL's is Redis'.")
    package static let sentinelPassword = SettingKey(
        "sentinel-password", .secret, "none", "Password at the Sentinels; the URL's is Redis'. Never a flag.")
    package static let sentinelPasswordFile = SettingKey(
        "sentinel-password-file", .path, "none",
        "File with the Sentinels' password. Read at each attempt to connect.")
    package static let sentinelTLS = SettingKey(
        "sentinel-tls", .text, "same", "TLS to the Sentinels: same as to Redis, on or off.")
    package static let sentinelMajority = SettingKey(
        "sentinel-majority", .text, "preferred",
        "required: nothing is acquired while half of the Sentinels or fewer answer. preferred: that is only told.")
    package static let namespace = SettingKey(
        "namespace", .text, "default", "All keys live under ringfence:{namespace}:. 1 to 64 of A-Z a-z 0-9 . _ -.")
    package static let owner = SettingKey(
        "owner", .text, "host/process id", "Who holds, for people: shown by locks, audit and plain GET. 1 to 128 bytes."
    )
    package static let commandTimeout = SettingKey(
        "command-timeout", .duration, "2s", "How long one Redis command may take, connecting included. 10ms to 60s.")
    package static let stateDirectory = SettingKey(
        "state-dir", .path, "~/.local/state/ringfence", "Where the embedded Redis keeps its data and socket.")
    package static let logLevel = SettingKey(
        "log-level", .logLevel, "info for serve and agent, notice for what runs for long, else warning",
        "trace, debug, info, notice, warning, error or critical.")
    package static let host = SettingKey(
        "host", .text, "127.0.0.1", "Address to listen on. Beyond loopback a token file is required.")
    package static let port = SettingKey("port", .port, "7420", "TCP port to listen on; 0 takes a free one.")
    package static let tokenFile = SettingKey(
        "token-file", .path, "none",
        "Bearer tokens, one a line, # comments; read again when it changes. Without it everyone on the host may lock.")
    package static let allowedHost = SettingKey(
        "allowed-host", .text, "none",
        "Names, separated by commas, by which clients call the service, beside localhost, its host and any address.")
    package static let connections = SettingKey(
        "connections", .number, "10000",
        "How many connections may be open; a twentieth more is kept for health "
            + "checks and for clients with a token. 16 to 1000000.")
    package static let deliveryTime = SettingKey(
        "delivery-time", .duration, "250ms",
        "How long behind an answer a reset of its connection takes back the lock or membership it gave. 0ms (never) "
            + "for a proxy that resets and cannot be told from a client. 0ms to 10s.")
    package static let eventHeartbeat = SettingKey(
        "event-heartbeat", .duration, "10s", "How often an idle event stream shows that it lives. 100ms to 5m.")
    package static let eventLength = SettingKey(
        "event-length", .number, "10000", "How many of the newest events Redis keeps, about. 100 to 10000000.")

    /// Settings of every command that talks to Redis.
    package static let client: [SettingKey] = [
        redis, redisPasswordFile, redisAuthority, redisCertificate, redisKey, redisServerName, redisWatch,
        redisAddressMap, sentinelUser, sentinelPassword, sentinelPasswordFile, sentinelTLS, sentinelMajority,
        namespace, owner, commandTimeout, stateDirectory, logLevel,
    ]
    /// All settings, as the file takes them.
    package static let maxMembers = SettingKey(
        "max-members", .number, "20000", "How many members one group may have. 1 to 20000.")
    package static let maxGroups = SettingKey(
        "max-groups", .number, "10000", "How many groups the namespace may have. 1 to 1000000.")
    package static let maxWaiters = SettingKey(
        "max-waiters", .number, "10000", "How many places the line of one lock may have. 1 to 1000000.")
    package static let fenceRetention = SettingKey(
        "fence-retention", .duration, "1d",
        "How long Redis keeps the last fence of a lock that is not taken, some 165 bytes each. Should Redis' clock be "
            + "set back by more than this, fences fall. 1m to 365d.")
    package static let emptyGroups = SettingKey(
        "empty-groups", .duration, "stay",
        "How long nobody must have been in a group until it is removed by itself. 1s to 365d; without it they stay.")

    package static let all =
        client + [
            host, port, tokenFile, allowedHost, connections, deliveryTime, eventHeartbeat, eventLength, maxMembers,
            maxGroups, maxWaiters, fenceRetention, emptyGroups,
        ]
}
