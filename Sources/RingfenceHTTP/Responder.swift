// SPDX-License-Identifier: Apache-2.0
//
// From a request to its answer: find the route, check the token, read the body, call the handler, write.
//
// Threats to this service, and what stands in their way:
//   - any client that reaches the port: it is loopback unless a token file is given; tokens are compared in constant
//     time;
//   - a web page of another origin, which a browser on this host or with a way to it lets send requests: Origins.swift;
//   - a client with a token against another client: a hold's own token, 128 random bits, is needed to renew or release
//     it; it is taken from and given in bodies only, so it is in no access log, and it is never logged here. Taking a
//     lock away by force needs no such token and is recorded: give bearer tokens only to clients that may do that;
//   - oversized, slow, malformed or endless input: ConnectionGuard and the limits below. Nothing is read twice, nothing
//     recurses, no pattern is compiled from input;
//   - names that mean something to Redis: they travel as arguments, never as part of a command's text;
//   - TLS is not spoken here: beyond loopback, put a proxy or a mesh in front that does.
//
// There is no middleware: between socket and handler lie one table lookup, one comparison and two counters.
import CoreMetrics
import HTTPTypes
import HummingbirdCore
import Logging
import NIOCore

/// Answers the requests of all connections.
struct Responder: Sendable {
    private let table: RouteTable
    private let tokens: TokenFile?
    private let origins: Origins
    /// Told to a client that asks for an unknown path.
    private let hint: String
    private let logger: Logger
    private let metrics: [RouteMetrics]
    private let unmatched: RouteMetrics

    init(
        routes: [Route], tokens: TokenFile?, origins: Origins = Origins(names: []),
        hint: String = "a slash in a name is %2F in the path; the routes are in /openapi.json",
        metrics factory: any MetricsFactory, logger: Logger
    ) {
        self.origins = origins
        self.hint = hint
        self.table = RouteTable(routes)
        self.tokens = tokens
        self.logger = logger
        self.metrics = routes.map { RouteMetrics($0.operation, factory) }
        self.unmatched = RouteMetrics("none", factory)
    }

    @Sendable func respond(
        to request: Request, _ writer: consuming ResponseWriter, _ channel: any Channel
    ) async throws {
        let arrived = ContinuousClock.now
        let target = request.head.path ?? ""
        let path = target.prefix { $0 != "?" }
        let isHead = request.method == .head
        let refusal = origins.refusal(of: request.head)
        let match = refusal == nil ? table.match(isHead ? .get : request.method, path) : .none
        var watch: TokenFile.Watch?
        defer { if let watch { tokens?.forget(watch) } }
        var metrics = unmatched
        let reply: Reply
        switch match {
        case _ where refusal != nil: reply = (refusal ?? Self.unauthorized).reply
        case .route(let index, let segments):
            metrics = self.metrics[index]
            var exchange = Exchange(arrived: arrived, channel: channel)
            exchange.headers = request.headers
            let route = table.routes[index]
            if route.gives || route.streams, let tokens {
                // It may wait for minutes. If its token leaves the file meanwhile, it ends with its connection.
                watch = tokens.watch(request.headers[.authorization]) { channel.close(promise: nil) }
            }
            do {
                let query = String(target[path.endIndex...].dropFirst())
                let names = table.parameters[index]
                reply = try await handle(route, names, segments, query, request, isAuthorized: watch != nil, &exchange)
            } catch let error as ConnectionEnded {
                throw error
            } catch {
                reply = answer(error, route.operation)
            }
        case .otherMethods(let methods):
            var problem = Problem(.methodNotAllowed, "\(path) takes \(methods.joined(separator: ", "))")
            problem.allow = methods.joined(separator: ", ")
            reply = isAuthorized(request) ? problem.reply : Self.unauthorized.reply
        case .none:
            reply = isAuthorized(request) ? Problem(.routeNotFound, hint).reply : Self.unauthorized.reply
        }
        metrics.record(reply.status, since: arrived)
        if let undo = reply.undo {
            let isForwarded = Self.isForwarded(request.headers)
            if try await !ConnectionGuard.give(undo, isForwarded: isForwarded, on: channel) {
                await undo()
                throw ConnectionEnded()
            }
        }
        try await Self.write(reply, isHead: isHead, writer)
    }

    private static let unauthorized = Problem(.unauthorized, "send Authorization: Bearer and a token of the token file")

    private func isAuthorized(_ request: Request) -> Bool {
        tokens?.accept(request.headers[.authorization]) ?? true
    }

    private func handle(
        _ route: Route, _ names: [String], _ segments: [Substring.UTF8View], _ query: String, _ request: Request,
        isAuthorized: Bool,
        _ exchange: inout Exchange
    ) async throws -> Reply {
        guard route.isOpen || isAuthorized || self.isAuthorized(request) else { throw Self.unauthorized }
        exchange.parameters = try zip(names, segments).map { ($0, try Self.decoded($1, $0)) }
        exchange.queryText = query
        // What asks for health may carry whatever it likes.
        if !query.isEmpty, route.path.hasPrefix("/v1/") {
            exchange.query = try queryParameters(query, allowed: route.query.map(\.name))
        }
        exchange.body = try await body(of: request, exchange.channel)
        if exchange.body.readableBytes > 0 {
            guard route.request != nil else { throw Problem(.invalidArgument, "no body is taken here", field: "body") }
        }
        // Of what a web page may send to another origin unasked, this type is never a part. (A browser asks before it
        // sends DELETE, and is never answered yes.)
        let isOrder = request.method == .post || request.method == .put
        if exchange.body.readableBytes > 0 || (isOrder && !route.isQuestion) {
            guard Self.isJSON(request.headers[.contentType]) else {
                throw Problem(.unsupportedMedia, "send Content-Type: application/json", field: "Content-Type")
            }
        }
        if route.gives { exchange.hangUp = try await ConnectionGuard.wait(on: exchange.channel) }
        return try await route.handle(&exchange)
    }

    private static func decoded(_ segment: Substring.UTF8View, _ field: String) throws -> String {
        guard let decoded = percentDecoded(segment) else {
            throw Problem(.invalidArgument, "\(field) must be percent-encoded UTF-8", field: field)
        }
        try Route.check(name: decoded, field: field)
        return decoded
    }

    /// Reads the body, or ends the connection with 413 as soon as it is known to be too long.
    private func body(of request: Request, _ channel: any Channel) async throws -> ByteBuffer {
        let tooLarge = Problem(.bodyTooLarge, "a body may have \(bodyBytesMaximum) bytes", field: "body")
        if let length = request.headers[.contentLength].flatMap({ Int($0) }), length > bodyBytesMaximum {
            await ConnectionGuard.refuse(tooLarge, channel)
            throw ConnectionEnded()
        }
        var body = ByteBuffer()
        for try await var part in request.body {
            guard body.readableBytes + part.readableBytes <= bodyBytesMaximum else {
                await ConnectionGuard.refuse(tooLarge, channel)
                throw ConnectionEnded()
            }
            if body.readableBytes == 0 { body = part } else { body.writeBuffer(&part) }
        }
        return body
    }

    private func answer(_ error: any Error, _ operation: String) -> Reply {
        let problem = Problem(error)
        if problem.code == .internal {
            logger.error("a request failed unexpectedly", metadata: ["route": "\(operation)", "error": "\(error)"])
        } else if problem.code.status == 503 {
            logger.debug("a request was not served", metadata: ["route": "\(operation)", "error": "\(error)"])
        }
        return problem.reply
    }

    /// Whether a proxy passes this on: it says so, or it writes the names of fields in small letters, as HAProxy and
    /// Envoy do and few clients of HTTP/1.1. (A client that does has its resets taken for a proxy's, which is late but
    /// safe.)
    private static func isForwarded(_ headers: HTTPFields) -> Bool {
        forwarding.contains { headers.contains($0) } || headers.contains { $0.name.rawName == "content-type" }
    }
    private static let forwarding = ["X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "Via"].map {
        HTTPField.Name($0)!
    }

    private static func isJSON(_ type: String?) -> Bool {
        guard let type else { return false }
        let essence = type.prefix { $0 != ";" }
        return essence == "application/json" || essence.lowercased().filter { $0 != " " } == "application/json"
    }

    /// What a browser must not do with any answer: keep it, or take it for what it is not.
    static let common: HTTPFields = [.cacheControl: "no-store", .xContentTypeOptions: "nosniff"]

    private static func write(_ reply: Reply, isHead: Bool, _ writer: consuming ResponseWriter) async throws {
        var head = HTTPResponse(status: reply.status)
        head.headerFields = common
        head.headerFields.append(HTTPField(name: .contentType, value: reply.type))
        for field in reply.headers { head.headerFields.append(field) }
        if let stream = reply.stream, !isHead {
            return try await stream(try await writer.writeHead(head))
        }
        head.headerFields.append(HTTPField(name: .contentLength, value: String(reply.body.readableBytes)))
        if isHead {
            try await writer.writeResponse(head)
        } else {
            try await writer.write(response: head, body: ResponseBody(byteBuffer: reply.body))
        }
    }
}

/// The connection is closed, or about to be: there is nobody to answer.
struct ConnectionEnded: Error {}

/// Requests and their time, by route and class of status: a bounded number of series, whatever clients send.
private struct RouteMetrics: Sendable {
    private let byClass: [Counter]
    private let time: Timer

    init(_ route: String, _ factory: any MetricsFactory) {
        byClass = (1...5).map {
            Counter(
                label: "ringfence_http_requests_total", dimensions: [("route", route), ("status", "\($0)xx")],
                factory: factory)
        }
        time = Timer(label: "ringfence_http_request_seconds", dimensions: [("route", route)], factory: factory)
    }

    func record(_ status: HTTPResponse.Status, since start: ContinuousClock.Instant) {
        byClass[max(1, min(5, status.code / 100)) - 1].increment()
        let (seconds, attoseconds) = (ContinuousClock.now - start).components
        time.recordNanoseconds(seconds * 1_000_000_000 + attoseconds / 1_000_000_000)
    }
}
