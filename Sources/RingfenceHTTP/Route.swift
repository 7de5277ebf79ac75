// SPDX-License-Identifier: Apache-2.0
//
// The routes as one table: method, path, request, answers, handler. The server looks requests up in it and the OpenAPI
// document is made from it, so neither can know a route the other does not.
//
// A lock's or group's name is one path segment, percent-encoded: `payout/2026-11` is `payout%2F2026-11`. It is split
// before it is decoded, so a name can hold anything such a name may hold and never reach another route. (The plural
// routes take names in the body, for clients behind a proxy that rewrites %2F.)
import HTTPTypes
import HummingbirdCore
import NIOCore
import RingfenceCore
import RingfenceOperations

/// An answer.
struct Reply: Sendable {
    var status: HTTPResponse.Status
    var type: String
    var body: ByteBuffer
    /// Beside Content-Type and Content-Length.
    var headers: [HTTPField] = []
    /// Of a failure.
    var code: Problem.Code?
    /// Takes back what the request did, if the answer cannot be delivered.
    var undo: (@Sendable () async -> Void)?
    /// Writes the body piece by piece instead of `body`, for as long as there is anything to write, and ends it.
    var stream: (@Sendable (any ResponseBodyWriter) async throws -> Void)?

    init(_ json: JSONWriter, status: HTTPResponse.Status = .ok, type: String = "application/json") {
        self.status = status
        self.type = type
        self.body = json.bytes
    }

    init(text: String, type: String, status: HTTPResponse.Status = .ok) {
        self.status = status
        self.type = type
        self.body = ByteBuffer(string: text)
    }
}

/// One request on its way through a handler.
struct Exchange: Sendable {
    /// When its head was read: at or after the client sent it.
    let arrived: ContinuousClock.Instant
    /// The values of the path's parameters, decoded.
    var parameters: [(name: String, value: String)] = []
    /// The query, after the question mark.
    var queryText = ""
    /// The parameters of it, all of them the route's own; empty unless it is a route of `/v1/`.
    var query: [String: String] = [:]
    var body = ByteBuffer()
    let channel: any Channel
    var headers = HTTPFields()
    /// The client has gone; known of routes that give something.
    var hangUp: OneShot?
    /// Who gives the order, once it was read.
    var actor: String?
    /// The body was not read to its end, so there can be no other request behind it.
    var leavesBody = false

    /// The value of the path's parameter `{name}`. The route's path must have it.
    subscript(name: String) -> String {
        guard let parameter = parameters.first(where: { $0.name == name }) else {
            preconditionFailure("the route's path has no {\(name)}")
        }
        return parameter.value
    }
}

/// One operation of the service.
struct Route: Sendable {
    /// A type of the OpenAPI document, by its name there; with the fields a body of it may have.
    struct Schema: Sendable {
        var name: String
        var fields: [String]
    }

    let method: HTTPRequest.Method
    /// With `{name}` for a lock's or group's name, and perhaps others behind it: `{member}`, `{call}`. A handler asks
    /// its exchange for them by name.
    let path: String
    /// `operationId`, and the route's name in metrics.
    let operation: String
    let summary: String
    /// Names of the query's parameters, and what each means.
    var query: [(name: String, schema: String, help: String)] = []
    var request: Schema?
    /// Whether a body may be left out.
    var requestIsOptional = false
    /// The schema of the answer; nil: not JSON.
    var response: String?
    /// The answer may also be a stream of server-sent events.
    var streams = false
    /// The answer may also be lines of text.
    var isAlsoText = false
    /// What may go wrong beside what may always.
    var problems: [Problem.Code] = []
    /// Reached without a token even when tokens are set.
    var isOpen = false
    /// What it answers is lost with the answer: who asked is watched until it has been delivered.
    var gives = false
    /// Without a body it orders nothing, whatever its method.
    var isQuestion = false
    let handle: @Sendable (inout Exchange) async throws -> Reply

    /// It is refused without a Content-Type, with a body or without: see Responder.
    var needsType: Bool { (method == .post || method == .put) && !isQuestion }

    /// The names of the parameters, in order.
    var parameters: [String] {
        path.split(separator: "{").dropFirst().map { String($0.prefix { $0 != "}" }) }
    }

    /// The texts around the parameters: one more than there are parameters.
    fileprivate var parts: [[UInt8]] {
        var parts: [[UInt8]] = [[]]
        var isInside = false
        for byte in path.utf8 {
            switch byte {
            case UInt8(ascii: "{"): isInside = true
            case UInt8(ascii: "}"):
                isInside = false
                parts.append([])
            default: if !isInside { parts[parts.count - 1].append(byte) }
            }
        }
        return parts
    }
}

extension Route {
    /// Who gives an order and why, for those that have no body.
    static let orderQuery: [(name: String, schema: String, help: String)] = [
        ("actor", OpenAPI.reference("Actor"), "Who does it, for the event or the audit."),
        ("reason", OpenAPI.reference("Why"), "Why, for the event or the audit."),
    ]

    /// The limits of a name, before anything is sent to Redis.
    static func check(name: String, field: String) throws { try Limits.check(name: name, field: field) }
}

/// Looks routes up.
struct RouteTable: Sendable {
    enum Match {
        /// The route's place in `routes`, and its undecoded parameters.
        case route(Int, [Substring.UTF8View])
        /// The path is known, but not with this method: the methods it has.
        case otherMethods([String])
        case none
    }

    let routes: [Route]
    /// The names of each route's parameters.
    let parameters: [[String]]
    private let patterns: [[[UInt8]]]

    init(_ routes: [Route]) {
        self.routes = routes
        self.parameters = routes.map(\.parameters)
        self.patterns = routes.map(\.parts)
    }

    /// Finds the route of a path without its query. About 15 comparisons of a few bytes: no tree pays here.
    func match(_ method: HTTPRequest.Method, _ path: Substring) -> Match {
        var others: [String] = []
        for (index, pattern) in patterns.enumerated() {
            guard let parameters = Self.parameters(in: path.utf8, pattern) else { continue }
            if routes[index].method == method { return .route(index, parameters) }
            others.append(routes[index].method.rawValue)
        }
        return others.isEmpty ? .none : .otherMethods(others)
    }

    /// The segments that stand for what is in braces; nil when the path is another.
    private static func parameters(in path: Substring.UTF8View, _ pattern: [[UInt8]]) -> [Substring.UTF8View]? {
        guard path.starts(with: pattern[0]) else { return nil }
        var rest = path.dropFirst(pattern[0].count)
        guard pattern.count > 1 else { return rest.isEmpty ? [] : nil }
        var parameters: [Substring.UTF8View] = []
        for part in pattern.dropFirst() {
            let segment = rest.prefix { $0 != UInt8(ascii: "/") }
            rest = rest.dropFirst(segment.count)
            guard rest.starts(with: part) else { return nil }
            rest = rest.dropFirst(part.count)
            parameters.append(segment)
        }
        return rest.isEmpty ? parameters : nil
    }
}

/// Undoes percent-encoding; nil when it is broken or the bytes are not UTF-8.
func percentDecoded(_ text: some Sequence<UInt8>, plusIsSpace: Bool = false) -> String? {
    var bytes: [UInt8] = []
    var iterator = text.makeIterator()
    while let byte = iterator.next() {
        if byte == UInt8(ascii: "%") {
            guard let high = iterator.next().flatMap(hexDigit), let low = iterator.next().flatMap(hexDigit) else {
                return nil
            }
            bytes.append(high << 4 | low)
        } else {
            bytes.append(plusIsSpace && byte == UInt8(ascii: "+") ? UInt8(ascii: " ") : byte)
        }
    }
    return String(validating: bytes, as: UTF8.self)
}

/// The parameters after the question mark; unknown and repeated ones are refused.
/// - Throws: ``Problem``.
func queryParameters(_ query: String, allowed: [String]) throws -> [String: String] {
    var parameters: [String: String] = [:]
    for pair in query.utf8.split(separator: UInt8(ascii: "&")) {
        let name = pair.prefix { $0 != UInt8(ascii: "=") }
        guard let key = percentDecoded(name, plusIsSpace: true),
            let value = percentDecoded(pair.dropFirst(name.count + 1), plusIsSpace: true)
        else { throw Problem(.invalidArgument, "the query is not percent-encoded UTF-8", field: "query") }
        guard allowed.contains(key) else {
            let hint = allowed.isEmpty ? "none are taken here" : "they are \(allowed.joined(separator: ", "))"
            throw Problem(.invalidArgument, "unknown query parameter \(quoted(key)); \(hint)", field: key)
        }
        guard parameters.updateValue(value, forKey: key) == nil else {
            throw Problem(.invalidArgument, "query parameter \(key) is given twice", field: key)
        }
    }
    return parameters
}
