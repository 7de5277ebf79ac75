// SPDX-License-Identifier: Apache-2.0
import RingfencePlatform

/// Where Redis is and how a ``RingfenceClient`` behaves. Every field has a working default but the address.
public struct RingfenceConfiguration: Sendable {
    /// TLS material for `rediss://`; the server's certificate and name are always verified.
    public struct TLS: Sendable, Hashable {
        /// A PEM file with the authorities to trust instead of the system's.
        public var authorityFile: String?
        /// A PEM file with this client's certificate chain, where the server asks for one.
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

    /// `redis://[user:password@]host[:6379][/database]`, `rediss://…` for TLS, or `unix:///path/to.sock[?db=0]`.
    public var url: String
    /// TLS material; used with `rediss://` only.
    public var tls: TLS
    /// A file that holds the password and nothing else, instead of a password in the URL. It is read at each attempt to
    /// connect, so a new password needs no restart.
    public var passwordFile: String?
    /// All keys live under `ringfence:{namespace}:`. 1 to 64 of `A-Z a-z 0-9 . _ -`.
    public var namespace: String
    /// Who holds, for people: shown by `inspect`, in the audit and in plain `GET`. 1 to 128 bytes, no control or format
    /// characters.
    public var owner: String
    /// How long one command may take, connecting included, before it fails with effect `none` or `unknown`.
    public var commandTimeout: Duration
    /// How long one attempt to connect may take.
    public var connectTimeout: Duration
    /// How many commands may wait for Redis at once before further ones are refused.
    public var maximumCommandsInFlight: Int
    /// How many of the newest grants and releases the audit stream keeps (about); 0 turns the audit off.
    public var auditLength: Int
    /// How many of the newest events the event log keeps (about), 100 to 10,000,000. All clients of a namespace should
    /// agree.
    public var eventLength: Int
    /// How much a namespace may hold. All clients of a namespace should agree.
    public var limits = NamespaceLimits()
    /// Whether a Redis that may delete held locks (its eviction policy) gets no locks from this client. The service and
    /// the command line refuse; else it is an error in the log and a metric.
    package var refusesEviction = false
    /// Until there was a connection, calls fail with the first attempt that fails: for whoever has a person waiting.
    package var failsFast = false
    /// Another text of group.lua than the product's: for tests that prove that a part of it is needed.
    package var groupScript: String?

    /// A configuration for the Redis at `url`. `owner` defaults to `host/process-id`.
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

/// How much a namespace may hold: what would make it larger is refused with `limit.reached`, naming the limit.
public struct NamespaceLimits: Sendable, Hashable {
    /// Members of one group, 1 to 20,000: the size up to which locks beside it were measured.
    public var members: Int
    /// Groups, 1 to 1,000,000.
    public var groups: Int
    /// Places in the line of one lock, 1 to 1,000,000. A process has one for all that wait in it for the same names,
    /// and one for each that waits over HTTP. Whoever has a place keeps it.
    public var waiters: Int
    /// How long nobody must have been in a group until it is removed by itself, 1 s to 365 days; nil: it stays. By
    /// itself goes what ``Group/remove(actor:reason:)`` would remove, if nothing is to be kept: no
    /// pause, hold, maintenance, forced breaker or order. A client with this setting looks each minute, and Redis'
    /// clock decides.
    ///
    /// It is nil by default, for what goes are settings that somebody chose, `onCoordinatorLoss` among them.
    public var emptyGroups: Duration?
    /// What may be set.
    package static let memberRange = 1...20_000
    package static let groupRange = 1...1_000_000
    package static let waiterRange = 1...1_000_000
    package static let emptyGroupRange = Duration.seconds(1)...(.seconds(365 * 86_400))

    /// The defaults are 20,000 members in a group, 10,000 groups, 10,000 places in a line, and that empty groups stay.
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
