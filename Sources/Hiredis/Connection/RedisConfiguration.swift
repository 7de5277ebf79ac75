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

    package var address: Address
    /// nil: no TLS.
    package var tls: TLS?
    package var username: String?
    package var password: String?
    /// A file with the password, read anew at each attempt to connect, so that a new password needs no restart.
    package var passwordFile: String?
    package var database = 0
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
    /// Shared by the connections that are to be told of as one; nil: each tells of itself.
    package var log: ConnectionLog?
    /// A connection from which nothing came for this long is probed by PING, and closed if that is not answered in the
    /// same time again. A command that blocks the connection for longer than twice this is taken for a dead connection.
    package var probeInterval: Duration = .seconds(5)

    package init(address: Address) { self.address = address }

    /// Reads `redis://[user:password@]host[:6379][/database]`, `rediss://…` for TLS, or
    /// `unix://[user:password@]/path/to.sock[?db=database]`. User and password may be percent-encoded. The password may
    /// be left out (`user@`) where a file holds it.
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
        address = parts.address
        self.tls = parts.isSecure ? tls : nil
        username = parts.username
        password = parts.password
        database = parts.database
    }
}

extension RedisConfiguration: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    /// The URL without user and password.
    package var description: String {
        switch address {
        case .tcp: return "\(tls == nil ? "redis" : "rediss")://\(address)/\(database)"
        case .unix(let path): return "unix://\(path)?db=\(database)"
        }
    }

    package var debugDescription: String { description }
    /// `dump` and test failures print children: none, for the password is one.
    package var customMirror: Mirror { Mirror(self, children: []) }
}
