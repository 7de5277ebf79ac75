// SPDX-License-Identifier: Apache-2.0
//
// Flags shared by all commands that talk to Redis. Names, help and defaults come from the table of settings.
import ArgumentParser
import Logging
import Ringfence
import RingfenceConsole
import RingfenceOperations
import RingfencePlatform
import Synchronization

/// A duration on the command line: 500ms, 10s, 5m, 2h, 1d. Read by a closure and not as an argument's type, whose
/// failures say nothing of their reason.
struct DurationArgument: Sendable {
    var duration: Duration

    init(_ duration: Duration) { self.duration = duration }

    @Sendable static func parse(_ text: String) throws -> DurationArgument {
        guard let duration = Duration(text: text) else {
            let example = "a duration is written like 500ms, 10s, 5m, 2h or 1d"
            throw ValidationError(example + Duration.missingUnit(text))
        }
        return DurationArgument(duration)
    }
}

extension ArgumentHelp {
    /// The help of a setting.
    static func setting(_ key: SettingKey, _ placeholder: String) -> ArgumentHelp {
        ArgumentHelp("\(key.help) (default: \(key.fallback))", valueName: placeholder)
    }
}

/// How times are shown to people.
struct TimeOptions: ParsableArguments {
    @Flag(name: .customLong("local"), help: "Times in the time zone of this machine, not in UTC.")
    var isLocal = false

    func text(_ milliseconds: Int64) -> String { timeText(milliseconds, isLocal: isLocal) }
}

/// Where Redis is and who we are there.
struct RedisOptions: ParsableArguments {
    @Option(name: .customLong("redis"), help: .setting(.redis, "url"))
    var redis: String?
    @Option(name: .customLong("redis-password-file"), help: .setting(.redisPasswordFile, "file"))
    var redisPasswordFile: String?
    @Option(name: .customLong("redis-ca"), help: .setting(.redisAuthority, "file"))
    var redisAuthority: String?
    @Option(name: .customLong("redis-cert"), help: .setting(.redisCertificate, "file"))
    var redisCertificate: String?
    @Option(name: .customLong("redis-key"), help: .setting(.redisKey, "file"))
    var redisKey: String?
    @Option(name: .customLong("redis-server-name"), help: .setting(.redisServerName, "name"))
    var redisServerName: String?
    @Option(name: .customLong("redis-watch"), help: .setting(.redisWatch, "duration"))
    var redisWatch: String?
    @Option(name: .customLong("redis-address-map"), help: .setting(.redisAddressMap, "rules"))
    var redisAddressMap: String?
    @Option(name: .customLong("sentinel-user"), help: .setting(.sentinelUser, "name"))
    var sentinelUser: String?
    @Option(name: .customLong("sentinel-password-file"), help: .setting(.sentinelPasswordFile, "file"))
    var sentinelPasswordFile: String?
    @Option(name: .customLong("sentinel-tls"), help: .setting(.sentinelTLS, "same|on|off"))
    var sentinelTLS: String?
    @Option(name: .customLong("sentinel-majority"), help: .setting(.sentinelMajority, "required|preferred"))
    var sentinelMajority: String?
    @Option(name: .customLong("namespace"), help: .setting(.namespace, "name"))
    var namespace: String?
    @Option(name: .customLong("owner"), help: .setting(.owner, "label"))
    var owner: String?
    @Option(name: .customLong("command-timeout"), help: .setting(.commandTimeout, "duration"))
    var commandTimeout: String?
    @Option(name: .customLong("state-dir"), help: .setting(.stateDirectory, "directory"))
    var stateDirectory: String?
    @Option(name: .customLong("log-level"), help: .setting(.logLevel, "level"))
    var logLevel: String?
    @Option(name: .customLong("config"), help: "A JSON file of settings; flags and RINGFENCE_* variables win over it.")
    var config: String?

    /// The settings from flags, environment and file.
    /// - Parameter more: flags of the command itself.
    func settings(_ more: [SettingKey: String?] = [:]) throws -> Settings {
        var flags: [String: String] = [:]
        let own: [SettingKey: String?] = [
            .redis: redis, .redisPasswordFile: redisPasswordFile, .redisAuthority: redisAuthority,
            .redisCertificate: redisCertificate, .redisKey: redisKey, .redisServerName: redisServerName,
            .redisWatch: redisWatch, .redisAddressMap: redisAddressMap, .sentinelUser: sentinelUser,
            .sentinelPasswordFile: sentinelPasswordFile, .sentinelTLS: sentinelTLS,
            .sentinelMajority: sentinelMajority,
            .namespace: namespace, .owner: owner, .commandTimeout: commandTimeout, .stateDirectory: stateDirectory,
            .logLevel: logLevel,
        ]
        for (key, value) in own.merging(more, uniquingKeysWith: { $1 }) { flags[key.name] = value }
        return try Settings(flags: flags, environment: Environment.values, file: config)
    }

    /// Runs `body` with a client, and closes it.
    /// - Parameters:
    ///   - isLasting: it goes on for long, so the log says when Redis comes and goes.
    ///   - isQuiet: the log says nothing unless a level is set.
    ///   - waits: a Redis that is away at the start is waited for; else that is an error at once.
    func withClient<Result: Sendable>(
        isLasting: Bool = false, isQuiet: Bool = false, waits: Bool = false,
        _ body: @Sendable (RingfenceClient) async throws -> Result
    ) async throws -> Result {
        let settings = try settings()
        let place = try settings.place()
        place.announce()
        var configuration = settings.configuration(url: place.url)
        configuration.failsFast = !waits
        return try await withRingfenceClient(
            configuration, makeLogger(settings, default: isQuiet ? .critical : isLasting ? .notice : .warning)
        ) { client in
            do { return try await body(client) } catch let error as NoSuchGroup {
                try await error.tell(client)
                throw ExitCode.failure
            }
        }
    }
}

/// What `look` gives, once Redis is there: for what goes on for long, and is told by the log what it waits for.
func waitingForRedis<Result: Sendable>(_ look: @Sendable () async throws -> Result) async throws -> Result {
    while true {
        do { return try await look() } catch let error as RingfenceError
            where error.code == .coordinatorUnavailable && !Task.isCancelled
        {
            try await Task.sleep(for: .milliseconds(500))
        }
    }
}

extension Settings.Place {
    /// The one this command works on.
    static let taken = Mutex<String?>(nil)

    /// Tells the person at the terminal which Redis it is; in a file or a log it would be noise.
    func announce() {
        Self.taken.withLock { $0 = shown }
        if isatty(2) == 1 { say("ringfence: Redis \(shown)\(isFound ? ", of the ringfence serve here" : "")") }
    }
}

/// A logger to standard error, one line a record.
func makeLogger(_ settings: Settings, default level: Logger.Level) -> Logger {
    var logger = Logger(label: "ringfence") { StreamLogHandler.standardError(label: $0) }
    logger.logLevel = settings.logLevel ?? level
    return logger
}
