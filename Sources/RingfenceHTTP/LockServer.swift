// SPDX-License-Identifier: Apache-2.0
//
// The HTTP server as a service: Hummingbird's accept loop, connection handling and quiescing, our routes.
//
// One connection's work runs on its event loop's thread (a task executor), from the first byte to the last, so that no
// request is handed to the cooperative pool and back. Nothing here blocks, so nothing else is delayed by that.
//
// Shutting down, in this order: waits for locks end with 503 and /readyz says no; no connection is accepted any more;
// idle connections close; requests in progress are answered, and their connections close.
import CoreMetrics
import HummingbirdCore
package import Logging
import NIOCore
import NIOPosix
package import Ringfence
package import RingfenceOperations
import ServiceLifecycle
import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Serves locks over HTTP until graceful shutdown.
package struct LockServer: Service {
    static let idleTimeout: TimeAmount = .seconds(60)

    let client: RingfenceClient
    let host: String
    let port: Int
    let tokens: TokenFile?
    let allowedHosts: [String]
    let connections: Int
    let registry: PrometheusRegistry
    let logger: Logger
    /// How often an idle stream of events shows that it lives.
    let deliveryTime: Duration
    let heartbeat: Duration
    let onRunning: @Sendable (Int) -> Void
    private let draining = OneShot()
    private let groups: GroupShelf
    private let picks: PickRoutes

    /// - Parameters:
    ///   - port: 0 takes a free one; `onRunning` is told which.
    ///   - tokens: nil lets everyone in who reaches the port.
    ///   - allowedHosts: names of the service beside `localhost` and `host`.
    ///   - connections: how many may be open.
    ///   - onRunning: called once connections are accepted.
    package init(
        client: RingfenceClient, host: String, port: Int, tokens: TokenFile?, registry: PrometheusRegistry,
        logger: Logger, allowedHosts: [String] = [], connections: Int = 10_000,
        deliveryTime: Duration = .zero, heartbeat: Duration = .seconds(10),
        onRunning: @Sendable @escaping (_ port: Int) -> Void
    ) {
        self.client = client
        self.groups = GroupShelf(client)
        self.picks = PickRoutes(groups: groups)
        self.host = host
        self.port = port
        self.tokens = tokens
        self.allowedHosts = allowedHosts
        self.connections = connections
        self.registry = registry
        self.logger = logger
        self.deliveryTime = deliveryTime
        self.heartbeat = heartbeat
        self.onRunning = onRunning
    }

    /// All routes of the service.
    var routes: [Route] {
        let membership = GroupRoutes(client: client, groups: groups)
        let routes =
            LockRoutes(client: client, draining: draining).routes
            + membership.routes
            + ElectionRoutes(client: client, groups: groups, view: membership.view).routes
            + RingRoutes(groups: groups).routes
            + picks.routes
            + EventRoutes(client: client, draining: draining, heartbeat: heartbeat).routes
            + HealthRoutes(client: client, draining: draining, registry: registry).routes
        return routes + [HealthRoutes.openAPI(of: routes)]
    }

    /// Accepts connections until graceful shutdown, and then returns once the last is answered.
    package func run() async throws {
        let responder = Responder(
            routes: routes, tokens: tokens, origins: Origins(names: allowedHosts + [host.lowercased()]),
            metrics: registry, logger: logger)
        let connections = Connections(maximum: connections, metrics: registry, logger: logger)
        let admission = Admission(tokens: tokens)
        let deliveryTime = deliveryTime
        let server = HTTPServerBuilder { responder in
            LoopBoundChannel(
                connections: connections,
                base: HTTP1Channel(
                    responder: responder,
                    configuration: .init(
                        additionalChannelHandlers: [
                            ConnectionGuard(admission: admission, deliveryTime: deliveryTime)
                        ],
                        idleTimeout: Self.idleTimeout,
                        httpDecoderConfiguration: .init(
                            maxHeaderFieldSize: 16_384, maxHeaderListSize: 16_384, maxHeaderFieldCount: 100))))
        }
        let service = try server.buildServer(
            configuration: .init(
                address: .hostname(host, port: port), backlog: 1_024),
            eventLoopGroup: MultiThreadedEventLoopGroup.singleton, logger: Self.quiet,
            responder: responder.respond,
            onServerRunning: { [onRunning, port, registry, logger] channel in
                let pause = AcceptPause(metrics: registry, logger: logger)
                try? await channel.pipeline.addHandler(pause, position: .first).get()
                onRunning(channel.localAddress?.port ?? port)
            })
        let watching = tokens.map { tokens in Task { await tokens.watch() } }
        defer { watching?.cancel() }
        do {
            try await withGracefulShutdownHandler {
                try await service.run()
            } onGracefulShutdown: { [draining] in
                draining.happen()
            }
        } catch let error as IOError {
            let reason = String(cString: strerror(error.errnoCode))
            throw Settings.Failure(
                description: "cannot listen on \(host), port \(port): \(reason). Choose others with --host and --port")
        }
    }

    /// Hummingbird logs each closed connection; what matters of that is in our metrics.
    private static let quiet = Logger(label: "ringfence.http") { _ in SwiftLogNoOpLogHandler() }
}

/// Runs each connection of `base` on that connection's event loop.
private struct LoopBoundChannel<Base: ServerChildChannel>: ServerChildChannel {
    let connections: Connections
    let base: Base

    func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Base.Value> {
        guard let seat = connections.admit(channel) else {
            channel.close(promise: nil)
            return channel.eventLoop.makeFailedFuture(ConnectionEnded())
        }
        return base.setup(channel: channel, logger: logger).flatMapThrowing { value in
            try channel.pipeline.syncOperations.handler(type: ConnectionGuard.self).sit(seat)
            return value
        }
    }

    func handle(value: Base.Value, logger: Logger) async {
        await withTaskExecutorPreference(LoopExecutor.of(value.channel.eventLoop)) {
            await base.handle(value: value, logger: logger)
        }
    }
}

/// An event loop as a task executor.
private final class LoopExecutor: TaskExecutor {
    private static let all = Mutex<[ObjectIdentifier: LoopExecutor]>([:])
    private let loop: any EventLoop

    private init(_ loop: any EventLoop) { self.loop = loop }

    static func of(_ loop: any EventLoop) -> LoopExecutor {
        all.withLock { all in
            if let known = all[ObjectIdentifier(loop)] { return known }
            let made = LoopExecutor(loop)
            all[ObjectIdentifier(loop)] = made
            return made
        }
    }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        loop.execute { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
    }
}
