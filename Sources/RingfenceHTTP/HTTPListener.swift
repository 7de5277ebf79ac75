// SPDX-License-Identifier: Apache-2.0
//
// A server at work: Hummingbird's accept loop, connection handling and quiescing, with our guard of each connection and
// our limits.
//
// One connection's work runs on its event loop's thread (a task executor), from the first byte to the last, so that no
// request is handed to the cooperative pool and back. Nothing here blocks, so nothing else is delayed by that.
import CoreMetrics
import HummingbirdCore
import Logging
import NIOCore
import NIOPosix
import Ringfence
import ServiceLifecycle

/// Accepts connections and has their requests answered.
struct HTTPListener: Sendable {
    static let idleTimeout: TimeAmount = .seconds(60)

    let host: String
    let port: Int
    let responder: Responder
    let connections: Connections
    let admission: Admission
    var deliveryTime: Duration = .zero
    let metrics: any MetricsFactory
    let logger: Logger

    /// Until graceful shutdown, and then until the last request is answered; or until the task is cancelled.
    /// - Parameter onRunning: called with the port once connections are accepted.
    func run(onRunning: @Sendable @escaping (_ port: Int) -> Void) async throws {
        let log = AccessLog(logger)
        let server = HTTPServerBuilder { [self] responder in
            LoopBoundChannel(
                connections: connections,
                base: HTTP1Channel(
                    responder: responder,
                    configuration: .init(
                        additionalChannelHandlers: [
                            ConnectionGuard(admission: admission, deliveryTime: deliveryTime, log: log)
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
            onServerRunning: { [port, metrics, logger] channel in
                let pause = AcceptPause(metrics: metrics, logger: logger)
                try? await channel.pipeline.addHandler(pause, position: .first).get()
                onRunning(channel.localAddress?.port ?? port)
            })
        try await service.run()
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
        await withTaskExecutorPreference(LoopExecutor(value.channel.eventLoop)) {
            await base.handle(value: value, logger: logger)
        }
    }
}
