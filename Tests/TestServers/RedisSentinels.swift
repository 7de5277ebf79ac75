// SPDX-License-Identifier: Apache-2.0
//
// A primary, its replicas and the Sentinels that watch them: real processes on loopback, for one test.
//
// The Sentinels know one another and the replicas from their configuration files, so they are complete at once instead
// of after the seconds in which they would find out.
import RingfencePlatform

/// Starts servers and Sentinels, runs `body` with them, and stops all.
package func withSentinels<Result>(
    _ options: RedisSentinels.Options = .init(), isolation: isolated (any Actor)? = #isolation,
    _ body: (RedisSentinels) async throws -> sending Result
) async throws -> sending Result {
    let sentinels = try await RedisSentinels.start(options)
    do {
        let result = try await body(sentinels)
        await sentinels.stop()
        return result
    } catch {
        await sentinels.stop()
        throw error
    }
}

/// A primary with replicas under Sentinels.
package final class RedisSentinels: Sendable {
    package struct Options: Sendable {
        package var replicas = 1
        package var sentinels = 3
        /// How many of them must see the primary down.
        package var quorum = 2
        /// What the Sentinels call the primary.
        package var name = "main"
        /// Of Redis.
        package var password: String?
        /// Of the Sentinels.
        package var sentinelPassword: String?
        /// Redis and Sentinels speak TLS; Redis' plain port is open too, and nobody is told of it.
        package var certificates: TestCertificates?
        /// More arguments of each Redis.
        package var arguments: [String] = []
        /// More lines in the file of each Sentinel.
        package var lines: [String] = []
        package var downAfterMilliseconds = 500
        package init() {}
    }

    package let options: Options
    /// The first was the primary at the start.
    package let servers: [RedisServer]
    package let sentinels: [RedisServer]

    /// Of the Sentinels' configuration.
    private let files: TemporaryDirectory

    private init(options: Options, servers: [RedisServer], sentinels: [RedisServer], files: TemporaryDirectory) {
        self.options = options
        self.files = files
        self.servers = servers
        self.sentinels = sentinels
    }

    /// `redis+sentinel://` with the Sentinels at `indices`; nil: all.
    package func url(_ indices: [Int]? = nil) -> String {
        let hosts = (indices ?? Array(sentinels.indices)).map { index in
            options.certificates == nil
                ? "127.0.0.1:\(sentinels[index].port)" : "localhost:\(sentinels[index].tlsPort)"
        }
        let credentials = options.password.map { ":\($0)@" } ?? ""
        let scheme = options.certificates == nil ? "redis" : "rediss"
        return "\(scheme)+sentinel://\(credentials)\(hosts.joined(separator: ","))/\(options.name)"
    }

    // MARK: the start

    fileprivate static func start(_ options: Options) async throws -> RedisSentinels {
        let tls = options.certificates.map { RedisServer.TLS(certificates: $0) }
        var servers: [RedisServer] = []
        var sentinels: [RedisServer] = []
        do {
            for index in 0...options.replicas {
                let following = index == 0 ? [] : ["--replicaof", "127.0.0.1", "\(servers[0].announcedPort)"]
                servers.append(
                    try await RedisServer.start(serverArguments(options) + following + options.arguments, tls: tls))
            }
            let files = try TemporaryDirectory()
            sentinels = try await startSentinels(options, servers, files, tls)
            let all = RedisSentinels(options: options, servers: servers, sentinels: sentinels, files: files)
            try await all.waitUntilComplete()
            return all
        } catch {
            for server in servers + sentinels { await server.stop() }
            throw error
        }
    }

    private static func serverArguments(_ options: Options) -> [String] {
        var arguments: [String] = []
        if let password = options.password { arguments += ["--requirepass", password, "--masterauth", password] }
        if options.certificates != nil { arguments += ["--tls-replication", "yes"] }
        return arguments
    }

    /// Two lives each: what their files say of one another is known only once all have a port.
    private static func startSentinels(
        _ options: Options, _ servers: [RedisServer], _ files: TemporaryDirectory, _ tls: RedisServer.TLS?
    ) async throws -> [RedisServer] {
        var sentinels: [RedisServer] = []
        do {
            for index in 0..<options.sentinels {
                try writeFile(file(index, files), "")
                let arguments = options.certificates == nil ? [] : ["--tls-replication", "yes"]
                sentinels.append(
                    try await RedisServer.start(arguments, tls: tls, under: command(file(index, files))))
            }
            for index in sentinels.indices {
                await sentinels[index].stop()
                try writeFile(file(index, files), configuration(index, options, servers, sentinels))
                try await sentinels[index].restart()
            }
            return sentinels
        } catch {
            for sentinel in sentinels { await sentinel.stop() }
            throw error
        }
    }

    private static func file(_ index: Int, _ files: TemporaryDirectory) -> String { "\(files.path)/\(index).conf" }

    /// `redis-server` and its arguments follow: the file has to stand before them.
    private static func command(_ file: String) -> [String] {
        ["sh", "-c", #"shift; exec redis-server "$0" --sentinel "$@""#, file]
    }

    private static func configuration(
        _ index: Int, _ options: Options, _ servers: [RedisServer], _ sentinels: [RedisServer]
    ) -> String {
        let name = options.name
        func id(_ index: Int) -> String { String(repeating: "0", count: 39) + "\(index)" }
        var lines = [
            "sentinel myid \(id(index))",
            "sentinel monitor \(name) 127.0.0.1 \(servers[0].announcedPort) \(options.quorum)",
            "sentinel down-after-milliseconds \(name) \(options.downAfterMilliseconds)",
            "sentinel failover-timeout \(name) 3000",
        ]
        if let password = options.password { lines.append("sentinel auth-pass \(name) \(password)") }
        if let password = options.sentinelPassword {
            lines += ["requirepass \(password)", "sentinel sentinel-pass \(password)"]
        }
        for replica in servers.dropFirst() {
            lines.append("sentinel known-replica \(name) 127.0.0.1 \(replica.announcedPort)")
        }
        for other in sentinels.indices where other != index {
            lines.append("sentinel known-sentinel \(name) 127.0.0.1 \(sentinels[other].announcedPort) \(id(other))")
        }
        return (lines + options.lines).joined(separator: "\n") + "\n"
    }

    /// All replicas are in step, and every Sentinel has seen all.
    package func waitUntilComplete() async throws {
        try await eventually("the Sentinels have seen everybody", within: .seconds(60), every: .milliseconds(20)) {
            for index in sentinels.indices {
                let row = try await row(at: index)
                // Before the first INFO, a replica has no priority that would let it be promoted.
                guard row["num-slaves"] == "\(options.replicas)", row["flags"] == "master",
                    row["num-other-sentinels"] == "\(options.sentinels - 1)",
                    try await ask(index, "SENTINEL", "CKQUORUM", options.name).hasPrefix("OK")
                else { return false }
                let replicas = try await ask(index, "SENTINEL", "REPLICAS", options.name)
                guard !replicas.contains("s_down"), !replicas.contains("disconnected"), !replicas.contains("\nerr\n")
                else { return false }
            }
            return true
        }
    }

    fileprivate func stop() async {
        for server in sentinels + servers { await server.stop() }
    }

    // MARK: looks

    /// What redis-cli prints for a command to the Sentinel at `index`.
    @discardableResult
    package func ask(_ index: Int, _ words: String...) async throws -> String {
        let password = options.sentinelPassword.map { ["--no-auth-warning", "-a", $0] } ?? []
        return try await redisCLI(["-s", sentinels[index].socketPath] + password + words)
    }

    /// What redis-cli prints for a command to a Redis.
    @discardableResult
    package func tell(_ server: RedisServer, _ words: String...) async throws -> String {
        let password = options.password.map { ["--no-auth-warning", "-a", $0] } ?? []
        return try await redisCLI(["-s", server.socketPath] + password + words)
    }

    /// What SENTINEL MASTER says.
    package func row(at index: Int) async throws -> [String: String] {
        let lines = try await ask(index, "SENTINEL", "MASTER", options.name).split(
            separator: "\n", omittingEmptySubsequences: false)
        var row: [String: String] = [:]
        for index in stride(from: 0, to: lines.count - 1, by: 2) {
            row[String(lines[index])] = String(lines[index + 1])
        }
        return row
    }

    /// The server that the Sentinel at `index` takes for the primary.
    package func primary(of index: Int = 0) async throws -> RedisServer {
        let words = try await ask(index, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", options.name).split(separator: "\n")
        guard words.count == 2, let server = servers.first(where: { "\($0.announcedPort)" == words[1] }) else {
            throw TestSupportError("the Sentinel names \(words)")
        }
        return server
    }

    /// Waits until the Sentinels at `indices` (all, if nil) name one primary that is not `old` and says that it is one.
    @discardableResult
    package func promotion(after old: RedisServer, at indices: [Int]? = nil) async throws -> RedisServer {
        let indices = indices ?? Array(sentinels.indices)
        var promoted = old
        try await eventually("another primary", within: .seconds(60), every: .milliseconds(20)) {
            var named: [RedisServer] = []
            for index in indices { named.append(try await primary(of: index)) }
            promoted = named[0]
            guard promoted !== old, named.allSatisfy({ $0 === promoted }) else { return false }
            return try await tell(promoted, "ROLE").hasPrefix("master")
        }
        return promoted
    }

    /// Orders a failover, as before a maintenance.
    package func failover(at index: Int = 0) async throws {
        try await ask(index, "SENTINEL", "FAILOVER", options.name)
    }
}

extension RedisServer {
    /// What others are told.
    fileprivate var announcedPort: Int { tlsPort == 0 ? port : tlsPort }
}
