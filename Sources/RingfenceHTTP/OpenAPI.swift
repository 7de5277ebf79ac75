// SPDX-License-Identifier: Apache-2.0
//
// The OpenAPI 3.1 document, made from the table of routes: what is served is what is described. Only what no table can
// say is written out, in openapi.json: the document without its paths, with each schema once, and `{plain}` for the
// pattern of a text that people see.
//
// Limits of texts are in bytes, which JSON Schema cannot count: `maxLength` has the same number of characters, so a
// text that is longer in bytes only is still refused.
import HTTPTypes
import RingfenceOperations

enum OpenAPI {
    /// What any request may meet, whatever its route.
    static let commonProblems: [Problem.Code] = [
        .invalidArgument, .badRequest, .timeout, .bodyTooLarge, .headersTooLarge, .hostRefused, .full,
    ]
    /// What a request that reads or changes locks may meet as well.
    static let redisProblems: [Problem.Code] = [.internal, .overloaded, .unavailable, .refused, .shuttingDown]

    /// Control and format characters, and separators of lines and paragraphs, as a class of a regular expression in
    /// JSON: those that ``Unicode/Scalar/isUnseen`` is true for. Those above U+FFFF stand for themselves, for the
    /// dialects have no common way to write them.
    static let unseen =
        #"\\u0000-\\u001f\\u007f-\\u009f\\u00ad\\u0600-\\u0605\\u061c\\u06dd\\u070f\\u0890-\\u0891"#
        + #"\\u08e2\\u180e\\u200b-\\u200f\\u202a-\\u202e\\u2028-\\u2029\\u2060-\\u2064"#
        + #"\\u2066-\\u206f\\ufeff\\ufff9-\\ufffb"#
        + "\u{110BD}\u{110CD}\u{13430}-\u{1343F}\u{1BCA0}-\u{1BCA3}\u{1D173}-\u{1D17A}\u{E0001}"
        + "\u{E0020}-\u{E007F}"

    /// - Parameter hasTokens: the service asks for one of its tokens.
    static func document(of routes: [Route], hasTokens: Bool) -> JSONWriter {
        var json = JSONWriter(capacity: 16_384)
        json.object { json in
            var paths: [String] = []
            for route in routes where !paths.contains(route.path) { paths.append(route.path) }
            for path in paths {
                json.key(path)
                json.object { json in
                    for route in routes where route.path == path { describe(route, hasTokens, &json) }
                }
            }
        }
        var whole = JSONWriter(capacity: 65_536)
        whole.raw(
            compact(PackageResources.openapi_json)
                .replacing("{plain}", with: "^[^\(unseen)]*$")
                .replacing(#""paths":{}"#, with: #""paths":"# + json.text, maxReplacements: 1))
        return whole
    }

    /// JSON without the blanks that are there for readers.
    private static func compact(_ json: [UInt8]) -> String {
        var isText = false
        var isEscaped = false
        let bytes = json.filter { byte in
            guard isText else {
                isText = byte == UInt8(ascii: "\"")
                return byte > UInt8(ascii: " ")
            }
            if isEscaped {
                isEscaped = false
            } else {
                isEscaped = byte == UInt8(ascii: "\\")
                isText = byte != UInt8(ascii: "\"")
            }
            return true
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func describe(_ route: Route, _ hasTokens: Bool, _ json: inout JSONWriter) {
        json.key(route.method.rawValue.lowercased())
        json.object { json in
            json.field("operationId", route.operation)
            json.field("summary", route.summary)
            json.key("security")
            json.raw(route.isOpen || !hasTokens ? "[]" : #"[{"token":[]}]"#)
            json.key("parameters")
            json.array(parameters(of: route)) { json, parameter in describe(parameter, &json) }
            if let request = route.request {
                json.key("requestBody")
                json.object { json in
                    json.field("required", route.needsType || !route.requestIsOptional)
                    content("application/json", request.name, &json)
                }
            }
            json.key("responses")
            json.object { json in answers(of: route, &json) }
        }
    }

    private struct Parameter {
        var name: String
        var isInPath: Bool
        var schema: String
        var help: String
    }

    private static func parameters(of route: Route) -> [Parameter] {
        let name = Parameter(
            name: "name", isInPath: true, schema: reference("Name"),
            help: (route.path.hasPrefix("/v1/groups") ? "The group's" : "The lock's")
                + " name, percent-encoded: a slash in it is %2F.")
        let member = Parameter(
            name: "member", isInPath: true, schema: reference("Name"),
            help: "The member's id, percent-encoded: a slash in it is %2F.")
        let call = Parameter(
            name: "call", isInPath: true, schema: #"{"type":"string","pattern":"^[0-9a-f]{16}$"}"#,
            help: "The id of the call, from the answer to the pick.")
        let query = route.query.map { Parameter(name: $0.name, isInPath: false, schema: $0.schema, help: $0.help) }
        return route.parameters.map { $0 == "member" ? member : $0 == "call" ? call : name } + query
    }

    private static func describe(_ parameter: Parameter, _ json: inout JSONWriter) {
        json.object { json in
            json.field("name", parameter.name)
            json.field("in", parameter.isInPath ? "path" : "query")
            json.field("required", parameter.isInPath)
            json.field("description", parameter.help)
            json.key("schema")
            json.raw(parameter.schema)
        }
    }

    private static func answers(of route: Route, _ json: inout JSONWriter) {
        json.key("200")
        json.object { json in
            json.field("description", "Done")
            json.key("content")
            json.object { json in
                media(route.response == nil ? "text/plain" : "application/json", route.response ?? "Text", &json)
                if route.streams { media("text/event-stream", "Text", &json) }
                if route.isAlsoText { media("text/plain", "Text", &json) }
            }
        }
        var codes = route.problems + commonProblems
        if !route.isOpen { codes += [.unauthorized] + redisProblems }
        if route.method != .get { codes.append(.originRefused) }
        if route.request != nil { codes.append(.unsupportedMedia) }
        var statuses: [Int] = []
        for code in codes where !statuses.contains(code.status) { statuses.append(code.status) }
        for status in statuses.sorted() {
            json.key("\(status)")
            json.object { json in
                let names = codes.filter { $0.status == status }.map(\.name)
                json.field("description", names.joined(separator: ", "))
                content("application/problem+json", "Problem", &json)
            }
        }
    }

    private static func content(_ type: String, _ schema: String, _ json: inout JSONWriter) {
        json.key("content")
        json.object { media(type, schema, &$0) }
    }

    private static func media(_ type: String, _ schema: String, _ json: inout JSONWriter) {
        json.key(type)
        json.object { json in
            json.key("schema")
            json.raw(reference(schema))
        }
    }

    /// A schema of openapi.json, by its name there.
    static func reference(_ name: String) -> String { ##"{"$ref":"#/components/schemas/\##(name)"}"## }
}
