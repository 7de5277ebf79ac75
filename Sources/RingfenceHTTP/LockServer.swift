// SPDX-License-Identifier: Apache-2.0
//
// The HTTP server as a service, with all its routes.
//
// Shutting down, in this order: waits for locks end with 503 and /readyz says no; no connection is accepted any more;
// idle connections close; requests in progress are answered, and their connections close.
import CoreMetrics
package import Logging
import NIOCore
package import Ringfence
package import RingfenceOperations
import RingfencePlatform
import ServiceLifecycle

/// Serves locks over HTTP until graceful shutdown.
package struct LockServer: Service {
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
    private let shuttingDown = OneShot()
    private let groups: GroupCache
    private let picks: PickRoutes

    /// - Parameters:
    ///   - port: 0 takes a free one; `onRunning` is told which.
    ///   - tokens: nil lets in every client that reaches the port.
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
        self.groups = GroupCache(client)
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
            LockRoutes(client: client, shuttingDown: shuttingDown).routes
            + membership.routes
            + ElectionRoutes(client: client, groups: groups, view: membership.view).routes
            + RingRoutes(groups: groups).routes
            + picks.routes
            + EventRoutes(client: client, shuttingDown: shuttingDown, heartbeat: heartbeat).routes
            + HealthRoutes(client: client, shuttingDown: shuttingDown, registry: registry).routes
        return routes + [HealthRoutes.openAPI(of: routes, hasTokens: tokens != nil)]
    }

    /// Accepts connections until graceful shutdown, and then returns once the last is answered.
    package func run() async throws {
        let responder = Responder(
            routes: routes, tokens: tokens, origins: Origins(names: allowedHosts + [host.lowercased()]),
            metrics: registry, logger: logger)
        let listener = HTTPListener(
            host: host, port: port, responder: responder,
            connections: Connections(maximum: connections, metrics: registry, logger: logger),
            admission: Admission(tokens: tokens), deliveryTime: deliveryTime, metrics: registry, logger: logger)
        let watching = tokens.map { tokens in Task { await tokens.watch() } }
        defer { watching?.cancel() }
        do {
            try await withGracefulShutdownHandler {
                try await listener.run(onRunning: onRunning)
            } onGracefulShutdown: { [shuttingDown] in
                shuttingDown.happen()
            }
        } catch let error as IOError {
            let reason = String(cString: strerror(error.errnoCode))
            throw Settings.Failure(
                description: "cannot listen on \(host), port \(port): \(reason). Choose others with --host and --port")
        }
    }
}
