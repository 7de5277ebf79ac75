// SPDX-License-Identifier: Apache-2.0
//
// Where a setting comes from: a flag, else RINGFENCE_* in the environment, else the JSON file named by --config or
// RINGFENCE_CONFIG, else its default. Everything is read once, at the start, and a bad value ends the start with its
// name and its place: a lock service that ran on a misread setting would be found out in the worst hour.
//
// Passwords belong in the environment or the file; a flag is visible to everyone in the list of processes.
import Hiredis
package import Logging
package import Ringfence
import RingfenceCore
import RingfencePlatform

/// All settings, checked.
package struct Settings: Sendable {
    /// Redis' URL; nil: none was given.
    package var redis: String?
    package var redisPasswordFile: String?
    package var tls = RingfenceConfiguration.TLS()
    package var sentinel = RingfenceConfiguration.Sentinels()
    package var redisWatch: Duration?
    package var redisAddressMap: String?
    package var namespace = "default"
    package var owner: String?
    package var commandTimeout: Duration = .seconds(2)
    /// nil: neither given nor known from XDG_STATE_HOME or HOME.
    package var stateDirectory: String?
    /// nil: the command's own default.
    package var logLevel: Logger.Level?
    package var host = "127.0.0.1"
    package var port = 7420
    package var tokenFile: String?
    package var allowedHosts: [String] = []
    package var connections = 10_000
    package var deliveryTime: Duration = .milliseconds(250)
    package var eventHeartbeat: Duration = .seconds(10)
    package var eventLength = 10_000
    package var limits = NamespaceLimits()
    package var fenceRetention = RingfenceConfiguration.defaultFenceRetention

    /// A setting that cannot be used; the text names it, its place and what is allowed.
    package struct Failure: Error, Sendable, CustomStringConvertible {
        package var description: String
        package init(description: String) { self.description = description }
    }

    /// The defaults alone.
    package init() {}

    /// Merges the three sources.
    /// - Parameters:
    ///   - flags: by setting name; absent ones were not given.
    ///   - environment: all variables of the process.
    ///   - file: the path given with `--config`, which wins over `RINGFENCE_CONFIG`.
    /// - Throws: ``Failure``.
    package init(flags: [String: String], environment: [String: String], file: String?) throws {
        let environment = Self.withoutServiceLinks(environment)
        try Self.checkVariables(environment)
        let path = file ?? environment["RINGFENCE_CONFIG"].flatMap { $0.isEmpty ? nil : $0 }
        let object = try path.map { try Self.read(try Self.absolute($0, "the file of settings")) }
        stateDirectory = EmbeddedRedis.defaultDirectory(environment)
        for key in SettingKey.all {
            if let text = flags[key.name], key.kind != .secret {
                try set(key, text, "--\(key.name)")
            } else if let text = environment[key.variable], !text.isEmpty {
                try set(key, text, key.variable)
            } else if let value = object?[key.name] {
                let place = "\(key.name) in \(path ?? "")"
                switch (value, key.kind) {
                case (.integer(let number), .port), (.integer(let number), .number):
                    try set(key, String(number), place)
                case (_, .port), (_, .number):
                    throw Failure(description: "\(place) must be an integer, not \(value.kind)")
                case (.string(let text), _): try set(key, text, place)
                default:
                    throw Failure(description: "\(place) must be a string (\(key.kind.rawValue)), not \(value.kind)")
                }
            }
        }
        try checkCertificate()
    }

    /// A client certificate is two files.
    /// - Throws: ``Failure`` if one of them is missing.
    package func checkCertificate() throws {
        switch (tls.certificateFile, tls.privateKeyFile) {
        case (nil, _?): throw Failure(description: "redis-key is given without redis-cert, the certificate of that key")
        case (_?, nil): throw Failure(description: "redis-cert is given without redis-key, its private key")
        default: break
        }
    }

    private mutating func set(_ key: SettingKey, _ text: String, _ place: String) throws {
        guard !text.isEmpty else { throw Failure(description: "\(place) is empty") }
        // A path goes into URLs and to other processes, where a relative one would mean something else or nothing.
        let text = key.kind == .path ? try Self.absolute(text, place) : text
        switch key {
        case .redis: redis = text
        case .redisPasswordFile: redisPasswordFile = text
        case .redisAuthority: tls.authorityFile = text
        case .redisCertificate: tls.certificateFile = text
        case .redisKey: tls.privateKeyFile = text
        case .redisServerName: tls.serverName = text
        case .redisWatch:
            let range = RingfenceConfiguration.watchRange
            redisWatch = try Self.duration(text, place, range, "100ms to 1h, written like 500ms or 5s")
        case .redisAddressMap: redisAddressMap = try Self.addressMap(text, place)
        case .sentinelUser: sentinel.username = text
        case .sentinelPassword: sentinel.password = text
        case .sentinelPasswordFile: sentinel.passwordFile = text
        case .sentinelTLS: sentinel.tls = try Self.choice(text, place)
        case .sentinelMajority: sentinel.majority = try Self.choice(text, place)
        case .namespace: namespace = text
        case .owner: owner = text
        case .stateDirectory: stateDirectory = text
        case .host: host = text
        case .tokenFile: tokenFile = text
        case .commandTimeout:
            let range: ClosedRange<Duration> = .milliseconds(10)...(.seconds(60))
            commandTimeout = try Self.duration(text, place, range, "10ms to 60s, written like 500ms or 2s")
        case .allowedHost: allowedHosts = try Self.hosts(text, place)
        case .connections: connections = try Self.number(text, place, 16...1_000_000)
        case .deliveryTime:
            let range: ClosedRange<Duration> = .zero...(.seconds(10))
            deliveryTime = try Self.duration(text, place, range, "0ms to 10s, written like 0ms or 250ms")
        case .eventHeartbeat:
            let range: ClosedRange<Duration> = .milliseconds(100)...(.seconds(300))
            eventHeartbeat = try Self.duration(text, place, range, "100ms to 5m, written like 500ms or 10s")
        case .eventLength: eventLength = try Self.number(text, place, Limits.eventLength)
        case .maxMembers: limits.members = try Self.number(text, place, NamespaceLimits.memberRange)
        case .maxGroups: limits.groups = try Self.number(text, place, NamespaceLimits.groupRange)
        case .maxWaiters: limits.waiters = try Self.number(text, place, NamespaceLimits.waiterRange)
        case .fenceRetention:
            let range = RingfenceConfiguration.fenceRetentionRange
            fenceRetention = try Self.duration(text, place, range, "1m to 365d, written like 12h or 7d")
        case .emptyGroups:
            let range = NamespaceLimits.emptyGroupRange
            limits.emptyGroups = try Self.duration(text, place, range, "1s to 365d, written like 12h or 30d")
        case .port: port = try Self.number(text, place, 0...65_535)
        case .logLevel:
            guard let level = Logger.Level(rawValue: text.lowercased()) else {
                let levels = Logger.Level.allCases.map(\.rawValue).joined(separator: ", ")
                throw Failure(description: "\(place) must be one of \(levels), not \(quoted(text))")
            }
            logLevel = level
        default: preconditionFailure("setting \(key.name) is in the table but set nowhere")
        }
    }

    /// - Parameter words: the range and examples, for people.
    private static func duration(
        _ text: String, _ place: String, _ range: ClosedRange<Duration>, _ words: String
    ) throws -> Duration {
        guard let duration = Duration(text: text), range.contains(duration) else {
            throw Failure(description: "\(place) must be \(words), not \(quoted(text))" + Duration.missingUnit(text))
        }
        return duration
    }

    private static func choice<Choice: RawRepresentable & CaseIterable>(
        _ text: String, _ place: String
    ) throws -> Choice where Choice.RawValue == String {
        if let choice = Choice(rawValue: text.lowercased()) { return choice }
        let words = Choice.allCases.map(\.rawValue).joined(separator: ", ")
        throw Failure(description: "\(place) must be one of \(words), not \(quoted(text))")
    }

    private static func addressMap(_ text: String, _ place: String) throws -> String {
        do { _ = try AddressMap(text) } catch { throw Failure(description: "\(place): \(error.message)") }
        return text
    }

    private static func hosts(_ text: String, _ place: String) throws -> [String] {
        let hosts = text.split(separator: ",", omittingEmptySubsequences: false).map {
            String($0.filter { $0 != " " }).lowercased()
        }
        // A name with a port, a scheme or a wildcard would match nothing, and that would be found out by refusals.
        let allowed = Set("abcdefghijklmnopqrstuvwxyz0123456789.-_")
        for name in hosts where name.isEmpty || name.utf8.count > 253 || !name.allSatisfy(allowed.contains) {
            throw Failure(
                description: "\(place) must be host names without port, separated by commas, not \(quoted(text))")
        }
        return hosts
    }

    private static func number(_ text: String, _ place: String, _ range: ClosedRange<Int>) throws -> Int {
        guard let number = Int(text), range.contains(number) else {
            throw Failure(
                description: "\(place) must be \(range.lowerBound) to \(range.upperBound), not \(quoted(text))")
        }
        return number
    }

    /// `~` is the home folder: in a file, or behind `--flag=`, no shell has replaced it.
    package static func absolute(_ path: String, _ place: String) throws -> String {
        if path.hasPrefix("/") { return path }
        if path == "~" || path.hasPrefix("~/") {
            guard let home = Environment.values["HOME"], home.hasPrefix("/") else {
                throw Failure(description: "\(place) begins with ~, and HOME is not set")
            }
            return home + path.dropFirst()
        }
        guard let directory = getcwd(nil, 0) else {
            throw Failure(description: "\(place) is relative, and there is no working directory")
        }
        defer { free(directory) }
        return String(cString: directory) + "/" + path
    }

    private static func read(_ path: String) throws -> JSONObject {
        let bytes = try readFile(path, limit: 65_536)
        do {
            return try JSONObject(bytes, allowed: SettingKey.all.map(\.name))
        } catch let error {
            let before = bytes.prefix(error.offset)
            let line = before.count { $0 == 0x0A } + 1
            throw Failure(description: "\(path), line \(line): \(error.message)")
        }
    }

    /// The configuration of a client for `url`.
    package func configuration(url: String) -> RingfenceConfiguration {
        var configuration = RingfenceConfiguration(
            url: url, tls: tls, namespace: namespace, owner: owner, commandTimeout: commandTimeout,
            connectTimeout: min(commandTimeout, .seconds(1)), eventLength: eventLength)
        configuration.limits = limits
        configuration.fenceRetention = fenceRetention
        configuration.passwordFile = redisPasswordFile
        configuration.sentinel = sentinel
        configuration.watchInterval = redisWatch
        configuration.addressMap = redisAddressMap
        configuration.refusesEviction = true
        return configuration
    }

    /// Which Redis a command works on.
    package struct Place: Sendable, Hashable {
        package var url: String
        /// Nobody named it: it is that of a `ringfence serve` with the same state directory.
        package var isFound: Bool

        /// For people and for JSON: without its password.
        package var shown: String { Settings.redacted(url) }
    }

    /// The Redis of a command that starts none itself: the one that is named, else that of a `ringfence serve` with
    /// this state directory. There is no third: two commands that each chose another would both hold the same lock.
    /// - Throws: ``Failure`` if there is neither.
    package func place() throws -> Place {
        if let redis { return Place(url: redis, isFound: false) }
        let how = "Name one with --redis URL, RINGFENCE_REDIS or \"redis\" in the file of settings"
        guard let stateDirectory else {
            throw Failure(description: "no Redis is named, and without HOME no ringfence serve is found. \(how)")
        }
        let socket = stateDirectory + "/redis.sock"
        guard access(socket, F_OK) == 0 else {
            throw Failure(
                description: """
                    no Redis is named, and no ringfence serve runs with this state directory (there is no \(socket)). \
                    \(how), or start ringfence serve
                    """)
        }
        guard access(socket, R_OK | W_OK) == 0 else {
            throw Failure(description: "no Redis is named, and \(socket) is not ours to use. \(how)")
        }
        return Place(url: "unix://\(socket)", isFound: true)
    }

    /// `url` without its password, for people.
    package static func redacted(_ url: String) -> String {
        guard let scheme = url.firstRange(of: "://"), let at = url.lastIndex(of: "@"), at >= scheme.upperBound else {
            return url
        }
        let user = url[scheme.upperBound..<at].prefix { $0 != ":" }
        return "\(url[..<scheme.upperBound])\(user)\(user.isEmpty ? "" : ":")***\(url[at...])"
    }
}

/// Reads a small file whole; a longer one than `limit` bytes is refused.
/// - Throws: ``Settings/Failure``.
package func readFile(_ path: String, limit: Int) throws -> [UInt8] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else {
        let number = errno
        // In a container the user here is often not the one who owns the file.
        let remedy = number == EACCES ? ". This process is user \(geteuid()): chown \(geteuid()) the file" : ""
        throw Settings.Failure(description: "cannot read \(path): \(String(cString: strerror(number)))\(remedy)")
    }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 16_384)
    while true {
        let count = read(descriptor, &chunk, chunk.count)
        if count < 0, errno == EINTR { continue }
        guard count >= 0 else {
            throw Settings.Failure(description: "cannot read \(path): \(String(cString: strerror(errno)))")
        }
        if count == 0 { return bytes }
        bytes += chunk[..<count]
        guard bytes.count <= limit else {
            throw Settings.Failure(description: "\(path) is longer than \(limit) bytes")
        }
    }
}
