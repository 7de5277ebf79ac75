// SPDX-License-Identifier: Apache-2.0
//
// Examines a Redis, and writes nothing to it. What its user may not ask is left out of the readings, for a missing
// permission must not hide the rest.
import Hiredis
package import Logging
package import Ringfence
import RingfencePlatform
import Synchronization

/// A look at one Redis, on a connection of its own.
package struct Examination: Sendable {
    /// How long after an answer the next question comes.
    static let interval: Duration = .milliseconds(2)
    /// Beyond this a question is given up. Longer than any stall that a Redis should survive.
    static let patience: Duration = .seconds(30)
    /// Commands of the last week count, older ones were another time.
    static let memory: Int64 = 7 * 86_400

    let client: RedisClient
    var configuration: RedisConfiguration
    private let namespace: String
    let logger: Logger

    private init(_ configuration: RingfenceConfiguration, _ logger: Logger) throws {
        do {
            self.configuration = try configuration.redisConfiguration()
        } catch { throw Settings.Failure(description: "redis: \(error.message)") }
        var redis = self.configuration
        // A stall is what is looked for, no reason to hang up.
        redis.probeInterval = Self.patience
        // One server is looked at whatever it is, to say what is wrong with it. Of several the primary is.
        if case .server = redis.place {
        } else {
            redis.hashTag = configuration.namespace
            redis.locator = Locator(redis, logger: logger)
            self.configuration.locator = redis.locator
        }
        client = RedisClient(redis, logger: logger)
        namespace = configuration.namespace
        self.logger = logger
    }

    /// Runs `body` with a connection of its own, and closes it.
    /// - Throws: ``Settings/Failure`` for a URL that cannot be right, and what `body` throws.
    package static func with<Result: Sendable>(
        _ configuration: RingfenceConfiguration, logger: Logger,
        _ body: (Examination) async throws -> Result
    ) async throws -> Result {
        let examination = try Examination(configuration, logger)
        do {
            let result = try await body(examination)
            await examination.client.close()
            return result
        } catch {
            await examination.client.close()
            throw error
        }
    }

    // MARK: Settings and state

    /// What the settings of a Redis are: a few questions, and none to its replicas.
    package func settings() async throws -> RedisReadings {
        async let channelForbidden = channelForbidden()
        var readings = RedisReadings(info: try await info(client), settings: try await config())
        readings.channelForbidden = await channelForbidden
        (readings.forbidden, readings.slotElsewhere) = try await forbidden(
            isDeaf: readings.channelForbidden != nil)
        (readings.user, readings.channels) = (configuration.username ?? "default", "&\(prefix)*")
        readings.place = configuration.place
        readings.foundAt = configuration.locator.flatMap { $0.status.address.map { "\($0)" } }
        return readings
    }

    /// All that can be known without measuring.
    package func readings() async throws -> RedisReadings {
        var readings = try await settings()
        readings.sentinels = try await sentinels()
        readings.watchers = await watchers()
        readings.stalls = try await stalls(readings.info)
        let groups = try await groups()
        readings.leases = try await leases(groups)
        readings.forcedBreakers = try await forcedBreakers(groups)
        if let info = readings.info, !readings.isReplica {
            readings.replicas = await replicas(RedisReadings.replicas(in: info))
        }
        readings.named = await named()
        return readings
    }

    func info(_ client: RedisClient) async throws -> [String: String]? {
        try await ask(client, "INFO")?.text.map { RedisReadings.parse(info: $0) }
    }

    private static let names = [
        "maxmemory-policy", "maxmemory", "appendonly", "appendfsync", "save", "stop-writes-on-bgsave-error",
        "min-replicas-to-write", "maxclients", "latency-monitor-threshold", "cluster-require-full-coverage",
    ]

    private func config() async throws -> [String: String]? {
        // A call for each: several patterns in one call are new in Redis 7.
        let replies = try await client.pipeline(count: Self.names.count) { writer in
            for name in Self.names { writer.command(["CONFIG", "GET", name]) }
        }
        guard let first = replies.first, first.error == nil else { return nil }
        var settings: [String: String] = [:]
        for (name, reply) in zip(Self.names, replies) {
            if let pair = reply.array, pair.count == 2 { settings[name] = pair[1].text }
        }
        return settings
    }

    /// What Ringfence cannot do without and its user may not do; and where the slot of the namespace is, if not here.
    /// None of it is done.
    private func forbidden(isDeaf: Bool) async throws -> (forbidden: String?, slotElsewhere: String?) {
        var elsewhere: String?
        let key = "ringfence:{\(namespace)}:log"
        let questions: [(String, [String])] = [
            ("run scripts (EVALSHA)", ["EVALSHA", String(repeating: "0", count: 40), "1", key]),
            ("read the keys of ringfence:{\(namespace)}:*", ["HGET", key, "generation"]),
            ("subscribe", ["PUBSUB", "NUMSUB", "ringfence:{\(namespace)}:events"]),
        ]
        for (what, words) in questions {
            do { _ = try await send(client, words) } catch let error as RedisError where error.isNoPermission {
                return (what, elsewhere)
            } catch let error as RedisError where error.isAnswer {
                // NOSCRIPT: it may.
                if let server = error.server, [.moved, .ask, .clusterDown].contains(server.prefix) {
                    elsewhere = elsewhere ?? server.words
                }
            }
        }
        return (try await missingRights(isDeaf: isDeaf), elsewhere)
    }

    /// Subscribes once, on a connection of its own. Elsewhere it is found by listening, and nothing then says why it is
    /// so quiet.
    private func channelForbidden() async -> String? {
        let outcome = OneShot()
        let refusal = Mutex<String?>(nil)
        let subscriber = RedisSubscriber(
            configuration, channels: ["ringfence:{\(namespace)}:doctor"], logger: logger
        ) { event in
            if case .refused(let error) = event { refusal.withLock { $0 = error.message } }
            if case .message = event { return }
            outcome.happen()
        }
        subscriber.start()
        let timer = Task {
            try await Task.sleep(for: .seconds(2))
            outcome.happen()
        }
        await withTaskCancellationHandler {
            await outcome.wait()
        } onCancel: {
            outcome.happen()
        }
        timer.cancel()
        await subscriber.close()
        return refusal.withLock { $0 }
    }

    /// `isDeaf`: that it has no right on the channels is told already.
    private func missingRights(isDeaf: Bool) async throws -> String? {
        func isOfChannels(_ command: String) -> Bool {
            command.hasSuffix("PUBLISH") || command.hasSuffix("SUBSCRIBE")
        }
        do {
            let missing = try await Rights.missing(on: client, namespace: namespace)
                .filter { !isDeaf || !isOfChannels($0) }
            if missing.isEmpty { return nil }
            let channels = missing.contains(where: isOfChannels)
            return "give \(missing.joined(separator: ", ")) on the keys\(channels ? " and channels" : "") "
                + "ringfence:{\(namespace)}:*\(channels ? " (Redis 7 gives a new user no channel)" : "")"
        } catch let error as RedisError where error.isAnswer {
            return nil
        }
    }

    /// Each Sentinel that watches a Redis listens to this channel of it, on one connection.
    private func sentinels() async throws -> Int? {
        guard let reply = try await ask(client, "PUBSUB", "NUMSUB", "__sentinel__:hello")?.array, reply.count == 2
        else {
            return nil
        }
        return reply[1].int.map { Int($0) }
    }

    /// What Redis itself recorded of times in which it answered nobody.
    private func stalls(_ info: [String: String]?) async throws -> [RedisReadings.Stall] {
        var stalls: [RedisReadings.Stall] = []
        if let fork = info?["latest_fork_usec"].flatMap({ Int64($0) }), fork > 0 {
            stalls.append(.init("the last fork, for a snapshot or a rewrite", .microseconds(fork)))
        }
        let now = try await serverTime() / 1_000_000_000
        // id, when (s), µs, the command and its arguments, …: the arguments may be secrets.
        let slow = (try await ask(client, "SLOWLOG", "GET", "128"))?.array ?? []
        let commands = slow.compactMap { entry -> RedisReadings.Stall? in
            guard let fields = entry.array, fields.count >= 4, let at = fields[1].int, at > now - Self.memory,
                let duration = fields[2].int, let command = fields[3].array?.first?.text
            else { return nil }
            return .init("a slow command, \(command.uppercased().prefix(32))", .microseconds(duration))
        }
        if let worst = commands.max(by: { $0.duration < $1.duration }) { stalls.append(worst) }
        // event, when (s), its latest ms, its worst ms. Commands are in the slowlog, more exactly.
        for event in (try await ask(client, "LATENCY", "LATEST"))?.array ?? [] {
            guard let fields = event.array, fields.count >= 4, let name = fields[0].text, let at = fields[1].int,
                at > now - Self.memory, let worst = fields[3].int, name != "command", name != "fast-command"
            else { continue }
            stalls.append(.init("the latency event \(name)", .milliseconds(worst)))
        }
        return stalls
    }

    /// Up to a thousand.
    private func groups() async throws -> [String] {
        (try await ask(client, "SRANDMEMBER", prefix + "groups", "1000"))?.array?.compactMap(\.text).sorted() ?? []
    }

    private func leases(_ groups: [String]) async throws -> [RedisReadings.GroupLease] {
        var leases: [RedisReadings.GroupLease] = []
        for name in groups {
            guard let shortest = try await ask(client, "HGET", prefix + "state:" + name, "shortest")?.int, shortest > 0
            else { continue }
            leases.append(.init(group: name, shortest: .milliseconds(shortest)))
        }
        return leases
    }

    private func forcedBreakers(_ groups: [String]) async throws -> [RedisReadings.ForcedBreaker] {
        var forced: [RedisReadings.ForcedBreaker] = []
        for name in groups {
            let text = try await ask(client, "HGET", prefix + "policy:" + name, "breaker")?.text
            guard let state = text.flatMap({ BreakerOverride(rawValue: $0) }), state != .automatic else { continue }
            forced.append(.init(group: name, state: state))
        }
        return forced
    }

    private var prefix: String { "ringfence:{\(namespace)}:" }

    // MARK: Measuring

    /// Asks Redis for the time, again and again.
    /// - Parameter progress: is told about once a second what part is done, 0 to 1.
    /// - Throws: `RedisError` when not one question was answered, or one is not permitted.
    package func measure(
        for duration: Duration, progress: @Sendable (Double) -> Void = { _ in }
    ) async throws -> Measurement {
        var probes: [Probe] = []
        var failures = 0
        var silentSince: Int64?
        var toldAt = 0
        let start = ContinuousClock.now
        let end = start + duration
        func now() -> Int64 { Int64((ContinuousClock.now - start) / .nanoseconds(1)) }
        var dueAt: Int64 = 0
        while true {
            let wall = Self.wallOffset(now)
            let sentAt = now()
            do {
                let server = try await serverTime()
                probes.append(
                    Probe(
                        sentAt: sentAt, receivedAt: now(), wallOffset: wall, server: server, dueAt: dueAt,
                        silentSince: silentSince))
                silentSince = nil
            } catch let error as RedisError {
                if error.code == .server || error.code == .cancelled || error.code == .invalidConfiguration {
                    throw error
                }
                failures += 1
                silentSince = silentSince ?? sentAt
                if ContinuousClock.now >= end, probes.isEmpty { throw error }
            }
            // Only an answer ends it: a silence that began must be measured to its end.
            if ContinuousClock.now >= end, silentSince == nil || ContinuousClock.now >= end + Self.patience { break }
            let second = Int((ContinuousClock.now - start) / .seconds(1))
            if second > toldAt {
                toldAt = second
                progress(min(1, (ContinuousClock.now - start) / duration))
            }
            dueAt = now() + Int64(Self.interval / .nanoseconds(1))
            try await Task.sleep(for: Self.interval, tolerance: .zero)
        }
        return Measurement(probes, failures: failures, silent: silentSince.map { now() - $0 } ?? 0)
    }

    /// Redis' clock in nanoseconds since 1970.
    func serverTime(_ other: RedisClient? = nil, within patience: Duration = patience) async throws -> Int64 {
        let reply = try await (other ?? client).send(deadline: patience) { writer in
            writer.begin(1)
            writer.argument("TIME")
        }
        guard let parts = reply.array, parts.count == 2, let seconds = parts[0].int, let microseconds = parts[1].int
        else { throw RedisError(.protocolViolation, effect: .none, "TIME did not answer two numbers") }
        return (seconds * 1_000_000 + microseconds) * 1_000
    }

    /// The wall clock less the monotonic one. Read again when the process was interrupted between the two.
    private static func wallOffset(_ monotonic: () -> Int64) -> Int64 {
        var best = (span: Int64.max, offset: Int64(0))
        for _ in 0..<5 {
            let before = monotonic()
            let wall = wallClockNanoseconds()
            let span = monotonic() - before
            if span < best.span {
                best = (span, wall - before - span / 2)
            }
            if span < 100_000 { break }
        }
        return best.offset
    }

    // MARK: Asking

    /// nil when it is not permitted, or not known to this Redis.
    private func ask(_ client: RedisClient, _ words: String...) async throws -> RedisReply? {
        do { return try await send(client, words) } catch let error as RedisError where error.isAnswer {
            return nil
        }
    }

    private func send(_ client: RedisClient, _ words: [String]) async throws -> RedisReply {
        try await client.send { $0.command(words) }
    }
}

extension RedisError {
    /// The command was answered, and not the connection refused.
    fileprivate var isAnswer: Bool { code == .server && fault == nil }
    fileprivate var isNoPermission: Bool { isAnswer && server?.prefix == .noPermission }
}
