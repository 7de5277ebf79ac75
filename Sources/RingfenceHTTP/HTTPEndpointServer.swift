// SPDX-License-Identifier: Apache-2.0
//
// The server of the service for what is not the service: an agent's endpoints, which load balancers ask. All that is
// said of a connection and a request in ConnectionGuard and Responder holds for them, with three differences: there
// are no tokens; a balancer may call the agent by any name, for an answer to GET tells nothing that a page could use;
// and an order is refused if it shows any sign of a browser, also of the same origin.
import CoreMetrics
import HTTPTypes
package import Logging
package import RingfenceOperations

/// Serves endpoints.
package struct HTTPEndpointServer: EndpointServer {
    private static let connections = 1_024

    private struct Served: ServedEndpoints {
        let port: Int
        let running: Task<Void, Never>

        func close() async {
            running.cancel()
            await running.value
        }
    }

    package init() {}

    package func serve(
        _ endpoints: [HTTPEndpoint], host: String, port: Int, logger: Logger
    ) async throws -> any ServedEndpoints {
        let metrics = NOOPMetricsHandler.instance
        let listener = HTTPListener(
            host: host, port: port,
            responder: Responder(
                routes: endpoints.flatMap(Self.routes), tokens: nil, origins: .any,
                hint: "there are \(endpoints.map(\.path).joined(separator: ", "))", metrics: metrics, logger: logger),
            connections: Connections(maximum: Self.connections, metrics: metrics, logger: logger),
            admission: Admission(tokens: nil), metrics: metrics, logger: logger)
        let (ports, listening) = AsyncThrowingStream<Int, any Error>.makeStream()
        // Detached, so that a graceful shutdown does not end it: an agent that hands over is asked to its last moment.
        let running = Task.detached {
            do {
                try await listener.run { listening.yield($0) }
                listening.finish()
            } catch { listening.finish(throwing: error) }
        }
        for try await port in ports { return Served(port: port, running: running) }
        throw CancellationError()
    }

    private static func routes(of endpoint: HTTPEndpoint) -> [Route] {
        let methods: [HTTPRequest.Method] = endpoint.isOrder ? [.post] : [.get, .options]
        return methods.map { method in
            Route(
                method: method, path: endpoint.path, operation: String(endpoint.path.dropFirst()), summary: "",
                isOpen: true, isQuestion: true,
                handle: { exchange in
                    let isFromPage = exchange.headers.contains(.origin) || exchange.headers.contains(.secFetchSite)
                    if endpoint.isOrder, isFromPage { throw Problem(.originRefused, "no web page may ask for this") }
                    let answer = await endpoint.answer(exchange.queryText)
                    return Reply(text: answer.body, type: "application/json", status: .init(code: answer.status))
                })
        }
    }
}
