// SPDX-License-Identifier: Apache-2.0
import RingfencePlatform

/// Where Redis is and how a ``RingfenceClient`` behaves. Every field has a default. The fields are checked when a
/// client is made: ``RingfenceClient/init(_:logger:)``.
public struct RingfenceConfiguration: Sendable {
    /// TLS material for `rediss://`; the server's certificate and name are always verified. The files are read at each
    /// attempt to connect, so new ones need no restart. While one cannot be used, calls fail with `argument.invalid`.
    public struct TLS: Sendable, Hashable {
        /// A PEM file with the authorities to trust instead of the system's; nil: the system's.
        public var authorityFile: String?
        /// A PEM file with this client's certificate chain, where the server asks for one; it needs `privateKeyFile`.
        public var certificateFile: String?
        /// A PEM file with the private key of `certificateFile`.
        public var privateKeyFile: String?
        /// The name (or the address) to verify in the server's certificate, when it is not the host of the URL. A name
        /// is held against the certificate's names only, an address against its addresses only.
        public var serverName: String?

        /// TLS with the system's authorities and no client certificate, unless given.
        public init(
            authorityFile: String? = nil, certificateFile: String? = nil, privateKeyFile: String? = nil,
            serverName: String? = nil
        ) {
            self.authorityFile = authorityFile
            self.certificateFile = certificateFile
            self.privateKeyFile = privateKeyFile
            self.serverName = serverName
        }
    }

    /// What Sentinels need beside Redis; used with `redis+sentinel://` only. The files of ``TLS`` serve both, and the
    /// name that is verified is the host of the Sentinel.
    public struct Sentinels: Sendable, Hashable {
        /// Whether the Sentinels are reached by TLS.
        public enum TLSUse: String, Sendable, Hashable, CaseIterable {
            /// As Redis is: with `rediss+sentinel://`.
            case same
            /// Always.
            case on
            /// Never.
            case off
        }

        /// What is done while half of the Sentinels or fewer answer.
        public enum Majority: String, Sendable, Hashable, CaseIterable {
            /// What the others say is believed, if it is not older than what was known.
            case preferred
            /// Calls that acquire fail with `coordinator.unavailable`, and no other server is gone to; what is held is
            /// renewed. It begins two watch intervals and a half second after the last answer of a majority.
            case required
        }

        /// The user at the Sentinels; nil: their default user. It needs a password.
        public var username: String?
        /// The password at the Sentinels; nil: no AUTH is sent to them. Those of the URL are Redis'.
        public var password: String?
        /// A file that holds that password, as ``RingfenceConfiguration/passwordFile`` holds Redis'; nil: none. To give
        /// both is refused.
        public var passwordFile: String?
        /// Whether they are reached by TLS; default ``TLSUse/same``.
        public var tls: TLSUse
        /// Whether a majority of them has to answer; default ``Majority/preferred``.
        public var majority: Majority

        /// No credentials, TLS as Redis has it, a majority preferred, unless given.
        public init(
            username: String? = nil, password: String? = nil, passwordFile: String? = nil, tls: TLSUse = .same,
            majority: Majority = .preferred
        ) {
            self.username = username
            self.password = password
            self.passwordFile = passwordFile
            self.tls = tls
            self.majority = majority
        }
    }

    /// The address of Redis. Default `redis://127.0.0.1:6379`. One of
    ///
    /// - `redis://[user:password@]host[:6379][/database]`: one server, or a name that leads to it,
    /// - `unix://[user:password@]/path/to.sock[?db=database]`,
    /// - `redis+sentinel://[user:password@]host[:26379],…/NAME[/database]`: what the Sentinels call NAME; one of them
    ///   is enough, the others are found; user and password are those of Redis,
    /// - `redis+cluster://[user:password@]host[:6379],…`: nodes of a Cluster, or its configuration endpoint,
    /// - `redis+replicated://[user:password@]host[:6379],…[/database]`: whichever of these is the primary,
    ///
    /// with `rediss` instead of `redis` for TLS. `valkey://` and `valkeys://` are `redis://` and `rediss://`. 1 to 32
    /// hosts, an IPv6 address in brackets. The database, 0 to 16383, is 0 unless given. User, password and path may be
    /// percent-encoded. Without a user it is `:password@`; `user@` alone goes with ``passwordFile``.
    public var url: String
    /// How often it is looked again where Redis is, a fifth more or less, 100 ms to one hour; nil: every 1.2 s with
    /// Sentinels, 1 s with a list, 5 s for a name and 15 s in a Cluster. An address that is no name is not looked at.
    public var watchInterval: Duration?
    /// What the addresses that Sentinels and nodes of a Cluster announce are called here, as behind NAT: `FROM=TO`,
    /// separated by commas, each side `host` or `host:port`; nil: they are used as they are. A rule for a port goes
    /// before one for its host, and a TO without a port keeps the port.
    public var addressMap: String?
    /// What the Sentinels need beside Redis.
    public var sentinel = Sentinels()
    /// The TLS material; used with `rediss://` only.
    public var tls: TLS
    /// What may be set.
    package static let watchRange: ClosedRange<Duration> = .milliseconds(100)...(.seconds(3600))
    /// A file that holds the password and nothing else, up to 4096 bytes, instead of a password in the URL; nil: none.
    /// One line end behind it is ignored. It is read at each attempt to connect, so a new password needs no restart.
    /// While it cannot be read, calls fail with `argument.invalid`. To give both passwords is refused.
    public var passwordFile: String?
    /// The namespace: all keys live under `ringfence:{namespace}:`. 1 to 64 of `A-Z a-z 0-9 . _ -`; default `default`.
    public var namespace: String
    /// The name of the holder, for people: shown by `inspect`, in the audit and in plain `GET`. 1 to 128 bytes of UTF-8
    /// without control or format characters; default `host/process-id`.
    public var owner: String
    /// How long one command may take, connecting included, before it fails with effect `none` or `unknown`. 1 ms to one
    /// hour; default 2 s. An acquire that waits is bounded by its `wait` instead, and repeats commands until then.
    public var commandTimeout: Duration
    /// How long one attempt to connect may take, with TLS and the first commands. 1 ms to one hour; default 1 s.
    public var connectTimeout: Duration
    /// How many commands may wait for Redis at once on one connection before further ones are refused with
    /// `coordinator.overloaded`. 1 to 10,000,000; default 65,536. Commands of more than 64 MiB together are refused
    /// too.
    public var maximumCommandsInFlight: Int
    /// About how many of the newest entries the audit keeps: ``AuditRecord``. 0 to 100,000,000; 0 turns it off; default
    /// 10,000. All clients of a namespace should agree.
    public var auditLength: Int
    /// About how many of the newest events the event log keeps. 100 to 10,000,000; default 10,000. All clients of a
    /// namespace should agree.
    public var eventLength: Int
    /// How long Redis keeps the last fence of a lock behind its last grant, 1 minute to 365 days; 24 hours by default.
    /// It costs some 165 bytes for each name, as long.
    ///
    /// A fence is Redis' clock in microseconds, or one more than the last if that is not smaller. So once the last one
    /// is forgotten, the next is still larger, unless that clock was set back by more than this time (or a replica took
    /// over whose clock is that far behind): then fences begin again below those that guards have seen, and are refused
    /// until the clock has caught up. All clients of a namespace should agree.
    public var fenceRetention = Self.defaultFenceRetention
    package static let defaultFenceRetention: Duration = .seconds(86_400)
    /// What may be set.
    package static let fenceRetentionRange: ClosedRange<Duration> = .seconds(60)...(.seconds(365 * 86_400))
    /// How much a namespace may hold. All clients of a namespace should agree.
    public var limits = NamespaceLimits()
    /// Whether a Redis that may delete held locks (its eviction policy) gets no locks from this client. The service and
    /// the command line refuse; else it is an error in the log and a metric.
    package var refusesEviction = false
    /// Until there was a connection, calls fail with the first attempt that fails: for whoever has a person waiting.
    package var failsFast = false
    /// Another text of group.lua than the product's: for tests that prove that a part of it is needed.
    package var groupScript: String?

    /// A configuration for the Redis at `url`. Nothing is checked yet. `owner`: nil for `host/process-id`.
    public init(
        url: String = "redis://127.0.0.1:6379",
        tls: TLS = TLS(),
        namespace: String = "default",
        owner: String? = nil,
        commandTimeout: Duration = .seconds(2),
        connectTimeout: Duration = .seconds(1),
        maximumCommandsInFlight: Int = 65_536,
        auditLength: Int = 10_000,
        eventLength: Int = 10_000
    ) {
        self.url = url
        self.tls = tls
        self.namespace = namespace
        self.owner = owner ?? Self.defaultOwner
        self.commandTimeout = commandTimeout
        self.connectTimeout = connectTimeout
        self.maximumCommandsInFlight = maximumCommandsInFlight
        self.auditLength = auditLength
        self.eventLength = eventLength
    }

    /// `host/process-id`, cut to the limit of an owner.
    static var defaultOwner: String {
        var buffer = [CChar](repeating: 0, count: 256)
        let host = gethostname(&buffer, 255) == 0 ? buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) } : []
        let name = host.isEmpty ? "host" : String(decoding: host.prefix(100), as: UTF8.self)
        return "\(name)/\(getpid())"
    }
}

/// The limits of what a namespace may hold. What would exceed one is refused with `limit.reached`, naming the limit.
/// The client that adds something applies its own limits.
public struct NamespaceLimits: Sendable, Hashable {
    /// The number of members of one group, 1 to 20,000: the size up to which locks beside it were measured. Default
    /// 20,000.
    public var members: Int
    /// The number of groups, 1 to 1,000,000. Default 10,000.
    public var groups: Int
    /// The number of places in the line of one lock, 1 to 1,000,000. Default 10,000. A client has one place for all its
    /// waiters for the same names with the same durability, and one for each wait of
    /// ``RingfenceClient/acquireGrant(_:owner:ttl:wait:durability:)`` (so for each over HTTP). A waiter that has a
    /// place keeps it.
    public var waiters: Int
    /// How long a group must have been empty before it is removed automatically, 1 s to 365 days. Default nil: it
    /// stays.
    ///
    /// It is removed as by ``Group/remove(actor:reason:)``, unless something is to be kept: a pause, a brake, a
    /// maintenance, a forced breaker or an order. A client with this setting looks at all groups at least once a
    /// minute. The time begins with the look that finds the group empty, by Redis' clock, and again after each join.
    ///
    /// It is off by default because what goes are settings that somebody chose, `onCoordinatorLoss` among them.
    public var emptyGroups: Duration?
    /// What may be set.
    package static let memberRange = 1...20_000
    package static let groupRange = 1...1_000_000
    package static let waiterRange = 1...1_000_000
    package static let emptyGroupRange = Duration.seconds(1)...(.seconds(365 * 86_400))

    /// Limits. The defaults are 20,000 members in a group, 10,000 groups and 10,000 places in a line; empty groups
    /// stay.
    public init(members: Int = 20_000, groups: Int = 10_000, waiters: Int = 10_000, emptyGroups: Duration? = nil) {
        self.members = members
        self.groups = groups
        self.waiters = waiters
        self.emptyGroups = emptyGroups
    }
}

extension RingfenceConfiguration: CustomStringConvertible, CustomReflectable {
    /// Namespace and owner; not the URL, which may hold a password.
    public var description: String { "RingfenceConfiguration(namespace \(namespace) owner \(owner))" }
    /// Nothing beyond the description.
    public var customMirror: Mirror { Mirror(self, children: [:]) }
}
