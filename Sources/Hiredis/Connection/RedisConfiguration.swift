// SPDX-License-Identifier: Apache-2.0

/// Where a Redis is, who we are to it, and how patient.
package struct RedisConfiguration: Sendable {
    package enum Address: Sendable, Hashable {
        case tcp(host: String, port: Int)
        case unix(path: String)
    }

    /// Files in PEM. The server's certificate and name are always verified.
    package struct TLS: Sendable, Hashable {
        /// Trusted instead of the system's authorities.
        package var authorityFile: String?
        /// Our certificate chain, where the server asks for one; needs `privateKeyFile`.
        package var certificateFile: String?
        package var privateKeyFile: String?
        /// The name (or address) to find in the server's certificate when it is not the host of the URL.
        package var serverName: String?

        package init(
            authorityFile: String? = nil, certificateFile: String? = nil, privateKeyFile: String? = nil,
            serverName: String? = nil
        ) {
            self.authorityFile = authorityFile
            self.certificateFile = certificateFile
            self.privateKeyFile = privateKeyFile
            self.serverName = serverName
        }
    }

    /// How long to wait before the next attempt to connect: full jitter below a doubling ceiling.
    package struct Backoff: Sendable, Hashable {
        package var base: Duration = .milliseconds(10)
        package var cap: Duration = .seconds(1)
        package init() {}

        /// The wait before attempt number `attempt` (0 is the first); `dice` is in 0..<1.
        func delay(attempt: Int, dice: Double) -> Duration {
            let ceiling = min(cap, base * (1 << min(attempt, 20)))
            return ceiling * dice
        }
    }

    /// Whether connections to Sentinels use TLS.
    package enum SentinelTLS: String, Sendable, Hashable, CaseIterable {
        /// As those to Redis do.
        case same
        case on
        case off
    }

    /// What is done while fewer than a majority of the Sentinels that are known answer.
    package enum SentinelMajority: String, Sendable, Hashable, CaseIterable {
        /// Go on with what those say that answer.
        case preferred
        /// Acquire and elect nothing.
        case required
    }

    /// What was configured.
    package var place: RedisPlace
    /// Where connections go: the one server, or the first host of the place until one was found.
    package var address: Address
    /// nil: no TLS.
    package var tls: TLS?
    package var username: String?
    package var password: String?
    /// A file with the password, read anew at each attempt to connect, so that a new password needs no restart.
    package var passwordFile: String?
    package var database = 0
    /// Of all keys that are used: in a Cluster it says where they are.
    package var hashTag = ""
    /// Shown by CLIENT LIST. No spaces.
    package var clientName: String?
    /// Limit for connecting, TLS and the first commands together.
    package var connectTimeout: Duration = .seconds(1)
    /// Deadline of a command that names none.
    package var commandTimeout: Duration = .seconds(2)
    /// Commands (or groups) submitted and not answered yet; more are refused with `overloaded`.
    package var maximumCommandsInFlight = 65_536
    /// The same in bytes.
    package var maximumBytesInFlight = 64 << 20
    /// Of large answers that are on their way (BulkCalls.swift).
    package var maximumAnswerBytesInFlight = 1 << 20
    package var backoff = Backoff()
    /// Until there was a connection, commands fail with the first attempt that fails, and do not wait for another.
    package var failsFast = false
    /// Fails fast also while the server is not ready yet: for who asks many servers what they are.
    package var failsWhileNotReady = false
    /// Shared by the connections that are to be told of as one; nil: each tells of itself.
    package var log: ConnectionLog?
    /// Says where to connect, to all connections of a client, and then only a primary will do; nil: to `address`.
    package var locator: Locator? { didSet { if locator != nil { requiresPrimary = true } } }
    /// What is not a primary of the place's kind is refused by the handshake.
    package var requiresPrimary = false
    /// A connection from which nothing came for this long is probed by PING, and closed if that is not answered in the
    /// same time again. A command that blocks the connection for longer than twice this is taken for a dead connection.
    package var probeInterval: Duration = .seconds(5)

    /// How often a place that was found is looked at again; nil: as often as its kind needs.
    package var watchInterval: Duration?
    /// What the addresses that Sentinels and nodes of a Cluster announce are called here.
    package var addressMap = AddressMap()
    /// Who we are to the Sentinels, apart from who we are to Redis. Without a password they get no AUTH.
    package var sentinelUsername: String?
    package var sentinelPassword: String?
    /// A file with that password, read anew at each attempt to connect.
    package var sentinelPasswordFile: String?
    package var sentinelTLS = SentinelTLS.same
    package var sentinelMajority = SentinelMajority.preferred
    /// The files of TLS as given, also where Redis itself is reached without.
    private var files = TLS()

    package init(address: Address) {
        self.address = address
        place = .server(address)
    }

    /// Reads `redis://[user:password@]host[:6379][/database]` or `unix://[user:password@]/path/to.sock[?db=database]`,
    /// or of several hosts `redis+sentinel://[user:password@]host[:26379],…/NAME[/database]`,
    /// `redis+cluster://[user:password@]host[:6379],…` or
    /// `redis+replicated://[user:password@]host[:6379],…[/database]`. `rediss` instead of `redis` is with TLS; `valkey`
    /// and `valkeys` are other names of `redis` and `rediss`. User and password may be percent-encoded. The password
    /// may be left out (`user@`) where a file holds it.
    ///
    /// Throws `invalidConfiguration`, naming what is wrong but never the password.
    package init(url: String, tls: TLS = TLS(), passwordFile: String? = nil) throws(RedisError) {
        let parts = try RedisURL(url, mayLackPassword: passwordFile != nil)
        if passwordFile != nil, parts.password != nil {
            throw RedisError(
                .invalidConfiguration, effect: .none,
                "there is a password in the Redis URL and a password file: give one")
        }
        self.passwordFile = passwordFile
        place = parts.place
        address = place.hosts[0]
        files = tls
        self.tls = parts.isSecure ? tls : nil
        username = parts.username
        password = parts.password
        database = parts.database
    }

    /// For what looks at one server, whichever it is: a URL that names several would be read as the first of them.
    /// Throws `invalidConfiguration`.
    package func checkOneServer() throws(RedisError) {
        let what: String
        switch place {
        case .server: return
        case .sentinels: what = "Sentinels"
        case .cluster: what = "nodes of a Cluster"
        case .replicated: what = "a list of servers"
        }
        throw RedisError(
            .invalidConfiguration, effect: .none,
            "names \(what), and one server is looked at: give that server's own redis:// or rediss:// address")
    }
}

extension RedisConfiguration {
    /// The connection to the Sentinel at `host`: its own credentials and its own choice of TLS, whose name is the
    /// host's. Everything else is Redis'.
    package func sentinel(at host: Address) -> RedisConfiguration {
        var sentinel = self
        sentinel.place = .server(host)
        sentinel.address = host
        (sentinel.locator, sentinel.requiresPrimary, sentinel.log) = (nil, false, nil)
        sentinel.database = 0
        sentinel.username = sentinelUsername
        sentinel.password = sentinelPassword
        sentinel.passwordFile = sentinelPasswordFile
        switch sentinelTLS {
        case .same: break
        case .on: sentinel.tls = tls ?? files
        case .off: sentinel.tls = nil
        }
        sentinel.tls?.serverName = nil
        return sentinel
    }
}

extension RedisConfiguration: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    /// The URL without user and password.
    package var description: String {
        let scheme = tls == nil ? "redis" : "rediss"
        let hosts = place.hosts.map(\.description).joined(separator: ",")
        switch place {
        case .server:
            if case .unix(let path) = address { return "unix://\(path)?db=\(database)" }
            return "\(scheme)://\(address)/\(database)"
        case .sentinels(_, let name): return "\(scheme)+sentinel://\(hosts)/\(name)/\(database)"
        case .cluster: return "\(scheme)+cluster://\(hosts)"
        case .replicated: return "\(scheme)+replicated://\(hosts)/\(database)"
        }
    }

    package var debugDescription: String { description }
    /// `dump` and test failures print children: none, for the password is one.
    package var customMirror: Mirror { Mirror(self, children: []) }
}
