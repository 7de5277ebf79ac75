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
// There is no middleware: between socket and handler lie one table lookup, one comparison, two counters and a look at
// the level of the log.
import CoreMetrics
import HTTPTypes
import HummingbirdCore
import Logging
import NIOCore
import RingfenceCore

/// Answers the requests of all connections.
struct Responder: Sendable {
    private let table: RouteTable
    private let tokens: TokenFile?
    private let origins: Origins
    /// Told to a client that asks for an unknown path.
    private let hint: String
    private let logger: Logger
    private let log: AccessLog
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
        self.log = AccessLog(logger)
        self.metrics = routes.map { RouteMetrics($0.operation, factory) }
        self.unmatched = RouteMetrics("none", factory)
    }

    @Sendable func respond(
        to request: Request, _ writer: consuming ResponseWriter, _ channel: any Channel
    ) async throws {
        var exchange = Exchange(arrived: .now, channel: channel)
        exchange.headers = request.headers
        // Until it is asked for, its body does not come.
        exchange.leavesBody = Self.awaitsContinue(request.headers)
        let target = request.head.path ?? ""
        let path = target[..<(target.utf8.firstIndex(of: UInt8(ascii: "?")) ?? target.endIndex)]
        let isHead = request.method == .head
        let refusal = origins.refusal(of: request.head)
        let match = refusal == nil ? table.match(isHead ? .get : request.method, path) : .none
        var watch: TokenFile.Watch?
        defer { if let watch { tokens?.forget(watch) } }
        var metrics = unmatched
        var route: Route?
        let reply: Reply
        switch match {
        case _ where refusal != nil: reply = (refusal ?? Self.unauthorized).reply
        case .route(let index, let segments):
            metrics = self.metrics[index]
            let found = table.routes[index]
            route = found
            if found.gives || found.streams, let tokens {
                // It may wait for minutes. If its token leaves the file meanwhile, it ends with its connection.
                watch = tokens.watch(request.headers[.authorization]) { channel.close(promise: nil) }
            }
            do {
                exchange.queryText = String(target[path.endIndex...].dropFirst())
                let names = table.parameters[index]
                reply = try await handle(
                    found, names, segments, request, isAuthorized: watch != nil, writer, &exchange)
            } catch let error as ConnectionEnded {
                log.hungUp(request.method, route, exchange)
                throw error
            } catch {
                reply = answer(error, found.operation)
            }
        case .otherMethods(let methods):
            var problem = Problem(.methodNotAllowed, "\(path) takes \(methods.joined(separator: ", "))")
            problem.headers = [HTTPField(name: .allow, value: methods.joined(separator: ", "))]
            reply = isAuthorized(request) ? problem.reply : Self.unauthorized.reply
        case .none:
            reply = isAuthorized(request) ? Problem(.routeNotFound, hint).reply : Self.unauthorized.reply
        }
        metrics.record(reply.status, since: exchange.arrived)
        log.answered(request.method, route, exchange, reply)
        if exchange.leavesBody {
            await ConnectionGuard.refuse(reply, channel)
            throw ConnectionEnded()
        }
        if let undo = reply.undo,
            try await !ConnectionGuard.give(undo, isForwarded: Self.isForwarded(request.headers), on: channel)
        {
            await undo()
            log.hungUp(request.method, route, exchange)
            throw ConnectionEnded()
        }
        try await Self.write(reply, isHead: isHead, writer)
    }

    private static let unauthorized = Problem(.unauthorized, "send Authorization: Bearer and a token of the token file")

    private func isAuthorized(_ request: Request) -> Bool {
        tokens?.accept(request.headers[.authorization]) ?? true
    }

    private func handle(
        _ route: Route, _ names: [String], _ segments: [Substring.UTF8View], _ request: Request, isAuthorized: Bool,
        _ writer: borrowing ResponseWriter, _ exchange: inout Exchange
    ) async throws -> Reply {
        guard route.isOpen || isAuthorized || self.isAuthorized(request) else { throw Self.unauthorized }
        exchange.parameters = try zip(names, segments).map { ($0, try Self.decoded($1, $0)) }
        if !exchange.queryText.isEmpty, route.path.hasPrefix("/v1/") {
            exchange.query = try queryParameters(exchange.queryText, allowed: route.query.map(\.name))
        }
        // What asks for health may carry whatever it likes.
        if route.path.hasPrefix("/v1/") { try Self.checkEncoding(request.headers) }
        // Of what a web page may send to another origin unasked, this type is never a part. (A browser asks before it
        // sends DELETE, and is never answered yes.)
        if route.needsType { try Self.checkType(request.headers) }
        try await readBody(of: request, writer, &exchange)
        if exchange.body.readableBytes > 0 {
            guard route.request != nil else { throw Problem(.invalidArgument, "no body is taken here", field: "body") }
            if !route.needsType { try Self.checkType(request.headers) }
        }
        if route.gives { exchange.hangUp = try await ConnectionGuard.wait(on: exchange.channel) }
        return try await route.handle(&exchange)
    }

    private static func decoded(_ segment: Substring.UTF8View, _ field: String) throws -> String {
        let isPlain = !segment.contains(UInt8(ascii: "%"))
        guard let decoded = isPlain ? String(Substring(segment)) : percentDecoded(segment) else {
            throw Problem(.invalidArgument, "\(field) must be percent-encoded UTF-8", field: field)
        }
        try Route.check(name: decoded, field: field)
        return decoded
    }

    /// Reads the body, or says with 413 as soon as it is known that it is too long.
    private func readBody(
        of request: Request, _ writer: borrowing ResponseWriter, _ exchange: inout Exchange
    ) async throws {
        let tooLarge = Problem(.bodyTooLarge, "a body may have \(bodyBytesMaximum) bytes", field: "body")
        if let length = request.headers[.contentLength].flatMap({ Int($0) }), length > bodyBytesMaximum {
            exchange.leavesBody = true
            throw tooLarge
        }
        if exchange.leavesBody {
            try await writer.writeInformationalHead(HTTPResponse(status: .continue))
            exchange.leavesBody = false
        }
        for try await var part in request.body {
            guard exchange.body.readableBytes + part.readableBytes <= bodyBytesMaximum else {
                exchange.leavesBody = true
                throw tooLarge
            }
            if exchange.body.readableBytes == 0 { exchange.body = part } else { exchange.body.writeBuffer(&part) }
        }
    }

    /// Whether the client holds its body back until it is told to go on.
    private static func awaitsContinue(_ headers: HTTPFields) -> Bool {
        guard let expected = headers[.expect], expected.lowercased() == "100-continue" else { return false }
        return headers.contains(.transferEncoding) || headers[.contentLength].map { $0 != "0" } ?? false
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

    private static func checkType(_ headers: HTTPFields) throws {
        if let type = headers[.contentType] {
            if type == "application/json" { return }
            let essence = type.prefix { $0 != ";" }
            if essence.lowercased().filter({ $0 != " " }) == "application/json" { return }
        }
        throw Problem(.unsupportedMedia, "send Content-Type: application/json", field: "Content-Type")
    }

    private static func checkEncoding(_ headers: HTTPFields) throws {
        guard let encodings = headers[.contentEncoding] else { return }
        let isPlain = encodings.split(separator: ",").allSatisfy { encoding in
            encoding.filter { $0 != " " }.lowercased() == "identity"
        }
        guard !isPlain else { return }
        var problem = Problem(
            .unsupportedMedia, "Content-Encoding \(quoted(encodings)) is not understood: send the body as it is",
            field: "Content-Encoding")
        problem.headers = [HTTPField(name: .acceptEncoding, value: "identity")]
        throw problem
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
