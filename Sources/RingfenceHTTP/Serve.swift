// SPDX-License-Identifier: Apache-2.0
//
// The whole of `ringfence serve`: check what could break the promises, start what is needed, serve, end in order.
//
// The order of the end is the reverse of the start: the HTTP server answers what is in progress, then the client gives
// back what it holds, then the embedded Redis writes its last second and goes. All of it within 10 s: what is not done
// after 8 s is cancelled, and after 9.5 s the process ends, whatever hangs. Nothing is lost by that: what a client
// holds is the client's, and the embedded Redis has written each command to its file before it answered.
import CoreMetrics
package import Logging
import NIOPosix
import Ringfence
package import RingfenceOperations
import RingfencePlatform
import ServiceLifecycle
import Synchronization

package enum Serve {
    /// Serves until SIGTERM, SIGINT or SIGQUIT, then drains and returns. SIGHUP reads again what can be read again.
    /// - Parameter announce: gets the lines for the person who started it, once connections are accepted.
    /// - Throws: ``Settings/Failure``, ``EmbeddedRedis/Failure``, `RingfenceError`, or the error of binding the port.
    package static func run(
        _ settings: Settings, logger: Logger, announce: @Sendable @escaping (String) -> Void
    ) async throws {
        Signals.become(.starting)
        let registry = PrometheusRegistry()
        let tokens = try settings.tokenFile.map { try TokenFile($0, metrics: registry, logger: logger) }
        guard tokens != nil || isLoopback(settings.host) else {
            throw Settings.Failure(
                description: """
                    host is \(settings.host), which others can reach, and there is no token-file: without one anybody \
                    could take or free locks. Give --token-file FILE, or --host 127.0.0.1
                    """)
        }
        var settings = settings
        settings.connections = try connections(of: settings, logger)
        MetricsSystem.bootstrap(registry)

        var embedded: EmbeddedRedis?
        if settings.redis == nil {
            guard let directory = settings.stateDirectory else {
                throw Settings.Failure(
                    description: "neither HOME nor XDG_STATE_HOME is set: give --state-dir DIRECTORY")
            }
            embedded = try await EmbeddedRedis.start(directory: directory, logger: logger)
        }
        do {
            try await serve(settings, embedded, tokens, registry, logger, announce)
        } catch {
            await embedded?.stop()
            throw error
        }
        await embedded?.stop()
    }

    private static func serve(
        _ settings: Settings, _ embedded: EmbeddedRedis?, _ tokens: TokenFile?, _ registry: PrometheusRegistry,
        _ logger: Logger, _ announce: @Sendable @escaping (String) -> Void
    ) async throws {
        let url = embedded?.url ?? settings.redis ?? ""
        let configuration = settings.configuration(url: url)
        let client = try RingfenceClient(configuration, logger: logger)
        client.connect()
        let missing: String?
        do {
            missing = embedded == nil ? try await RedisCheck.run(configuration, logger: logger) : nil
        } catch {
            await client.shutdown()
            throw error
        }
        let checking = Task { if missing != nil { await checkLater(client, configuration, logger) } }
        defer { checking.cancel() }
        let shown = Settings.redacted(url) + (embedded == nil ? "" : " (embedded)")
        let server = LockServer(
            client: client, host: settings.host, port: settings.port, tokens: tokens, registry: registry,
            logger: logger, allowedHosts: settings.allowedHosts, connections: settings.connections,
            deliveryTime: settings.deliveryTime, heartbeat: settings.eventHeartbeat
        ) { port in
            announce(announcement(settings.host, port, redis: shown, missing: missing, hasTokens: tokens != nil))
        }
        let isEnding = Atomic<Bool>(false)
        let mark = EndMark { isGraceful in
            isEnding.store(isGraceful, ordering: .relaxed)
            endProcess(in: .milliseconds(9_500), code: isGraceful ? 0 : 1, embedded, logger)
        }
        var services: [any Service] = [client, server, mark]
        if let embedded { services.insert(embedded, at: 0) }
        var group = ServiceGroupConfiguration(
            services: services.map { .init(service: $0) }, logger: quiet)
        group.maximumGracefulShutdownDuration = .seconds(8)
        let running = ServiceGroup(configuration: group)
        let signals = Signals.listen(as: .service)
        let listening = Task {
            for await signal in signals {
                if signal.meaning == .endInOrder {
                    await running.triggerGracefulShutdown()
                } else {
                    reload(tokens, logger)
                }
            }
        }
        defer { listening.cancel() }
        do {
            try await running.run()
        } catch is CancellationError where isEnding.load(ordering: .relaxed) {
            logger.warning("some connections did not end within 8 s and were cut")
        }
        await client.shutdown()
        logger.info("ended")
    }

    private static func announcement(
        _ host: String, _ port: Int, redis: String, missing: String?, hasTokens: Bool
    ) -> String {
        let address = authority(host, port)
        let header = hasTokens ? " -H 'Authorization: Bearer TOKEN'" : ""
        let state =
            missing.map { "listens on http://\(address) and waits for Redis \(redis): \($0)" }
            ?? "serves http://\(address) on Redis \(redis)"
        return """
            ringfence \(state)
            try: curl -s http://\(authority(reachableHost(host), port))/v1/locks/demo/acquire\(header) \
            -H 'Content-Type: application/json' -d '{"ttlMs":10000}'

            """
    }

    /// Looks at the settings of a Redis that was not there at the start, once it is. The client says when that is.
    private static func checkLater(
        _ client: RingfenceClient, _ configuration: RingfenceConfiguration, _ logger: Logger
    ) async {
        while !Task.isCancelled {
            do {
                if client.isConnected, try await RedisCheck.run(configuration, logger: logger) == nil { return }
                try await Task.sleep(for: .milliseconds(500))
            } catch is CancellationError {
                return
            } catch { return logger.error("\(error)") }
        }
    }

    /// What SIGHUP asks for. One call after the other.
    private static func reload(_ tokens: TokenFile?, _ logger: Logger) {
        guard let tokens else { return logger.notice("SIGHUP: there is nothing to read again") }
        tokens.reload(always: true)
    }

    /// The last resort: ends this process and its Redis, unless the process has ended by then.
    private static func endProcess(
        in delay: Duration, code: Int32, _ embedded: EmbeddedRedis?, _ logger: Logger
    ) {
        Task.detached {
            try await Task.sleep(for: delay)
            logger.error("the end hung and was cut short")
            embedded?.kill()
            _exit(code)
        }
    }

    /// The lifecycle library tells each step at info; here only errors count, and those are thrown.
    private static let quiet = Logger(label: "ringfence.lifecycle") { _ in SwiftLogNoOpLogHandler() }

    /// Whether only this host can reach an address.
    static func isLoopback(_ host: String) -> Bool {
        if host == "localhost" || host == "::1" { return true }
        let parts = host.split(separator: ".", omittingEmptySubsequences: false)
        return parts.count == 4 && parts[0] == "127" && parts.allSatisfy { UInt8($0) != nil }
    }

    /// Where this host reaches what listens at `host`: there is nobody at the address that means all of them.
    package static func reachableHost(_ host: String) -> String {
        switch host {
        case "0.0.0.0": "127.0.0.1"
        case "::": "::1"
        default: host
        }
    }

    /// Host and port as they stand in a URL.
    package static func authority(_ host: String, _ port: Int) -> String {
        host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }

    /// Descriptors that are not connections of clients: Redis, files, event loops, and some to spare.
    private static let otherDescriptors = 64

    /// Connections are descriptors, and the usual soft limit of 1024 is for programs that use select(). What is set is
    /// lowered to what there is, for a process without a descriptor left can neither accept nor reach Redis.
    private static func connections(of settings: Settings, _ logger: Logger) throws -> Int {
        let wanted = settings.connections
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return wanted }
        let needed = wanted + Connections.keptBack(of: wanted) + otherDescriptors
        limit.rlim_cur = max(limit.rlim_cur, min(limit.rlim_max, max(65_536, rlim_t(needed))))
        _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0, limit.rlim_cur < needed else {
            return wanted
        }
        // A twentieth, or 8, more than these are kept back.
        let room = Int(limit.rlim_cur) - otherDescriptors
        let possible = min(room - 8, room * 20 / 21)
        guard possible >= 16 else {
            throw Settings.Failure(
                description: "the limit of open files is \(limit.rlim_cur), and serve needs 128 at least: ulimit -n")
        }
        logger.warning(
            "connections is lowered to what the limit of open files leaves",
            metadata: ["connections": "\(possible)", "set": "\(wanted)", "openFiles": "\(limit.rlim_cur)"])
        return possible
    }
}

/// Notes that the end has begun, and whether by request. The last to start, so the first to be told.
private struct EndMark: Service {
    let note: @Sendable (_ isGraceful: Bool) -> Void

    func run() async throws {
        do { try await gracefulShutdown() } catch {
            note(false)
            throw error
        }
        note(true)
    }
}
