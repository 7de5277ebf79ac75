// SPDX-License-Identifier: Apache-2.0
//
// What orchestrators, scrapers and tools ask. /livez says that the process answers and never looks at Redis: restarting
// the service does not repair Redis. /readyz says whether locks can be had: Redis answers, is no replica, evicts
// nothing and takes our commands. It says no once the service drains, so that a load balancer stops sending before the
// port closes.
import HTTPTypes
import Ringfence
import RingfenceOperations
import Synchronization

struct HealthRoutes: Sendable {
    let client: RingfenceClient
    let shuttingDown: OneShot
    let registry: PrometheusRegistry

    var routes: [Route] {
        [
            Route(
                method: .get, path: "/livez", operation: "live", summary: "Says that the process answers.",
                response: "Health", isOpen: true,
                handle: { _ in
                    var json = JSONWriter(capacity: 24)
                    json.object { $0.field("status", "alive") }
                    return Reply(json)
                }),
            Route(
                method: .get, path: "/readyz", operation: "ready", summary: "Says whether locks can be had.",
                response: "Health",
                problems: [.unavailable, .refused, .overloaded, .shuttingDown] + Problem.Code.ofRedis, isOpen: true,
                handle: { _ in
                    if shuttingDown.hasHappened { throw Problem(.shuttingDown, "the service is shutting down") }
                    do {
                        let roundTrip = try await client.readiness()
                        return Reply(.describing(client.redis, roundTrip: roundTrip))
                    } catch let error as RingfenceError {
                        throw Problem(notReady: error)
                    }
                }),
            Route(
                method: .get, path: "/metrics", operation: "metrics", summary: "Shows metrics as Prometheus text.",
                handle: { _ in Reply(text: registry.text, type: "text/plain; version=0.0.4; charset=utf-8") }),
        ]
    }

    /// The description of `routes` and of itself.
    static func openAPI(of routes: [Route], hasTokens: Bool) -> Route {
        func route(_ handle: @Sendable @escaping (inout Exchange) async throws -> Reply) -> Route {
            Route(
                method: .get, path: "/openapi.json", operation: "openAPI", summary: "Describes this service.",
                response: "Document", isOpen: true, handle: handle)
        }
        let all = routes + [route { _ in throw ConnectionEnded() }]
        let document = Document { Reply(OpenAPI.document(of: all, hasTokens: hasTokens)) }
        return route { _ in document.reply }
    }

    /// Made when it is asked for first: it takes longer than most of a start, and few services are asked.
    private final class Document: Sendable {
        private let made = Mutex<Reply?>(nil)
        private let make: @Sendable () -> Reply

        init(_ make: @escaping @Sendable () -> Reply) { self.make = make }

        var reply: Reply {
            made.withLock { made in
                let reply = made ?? make()
                made = reply
                return reply
            }
        }
    }
}
