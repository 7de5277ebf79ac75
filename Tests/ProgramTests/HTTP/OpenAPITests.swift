// SPDX-License-Identifier: Apache-2.0
import HTTPTypes
import Logging
import Ringfence
import RingfenceCore
import RingfenceOperations
import TestSupport
import Testing

@testable import RingfenceHTTP

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

@Suite struct OpenAPITests {
    struct Document: Decodable {
        struct Operation: Decodable {
            struct Parameter: Decodable { var name: String }
            struct Answer: Decodable { var description: String }
            struct Body: Decodable { var required: Bool }
            var requestBody: Body?
            var security: [[String: [String]]]
            var operationId: String
            var parameters: [Parameter]
            var responses: [String: Answer]
        }
        struct Components: Decodable {
            struct Schema: Decodable {
                var additionalProperties: Bool?
                var properties: [String: Reference]?
            }
            struct Reference: Decodable {}
            var schemas: [String: Schema]
        }
        var openapi: String
        var paths: [String: [String: Operation]]
        var components: Components
    }

    private func server() throws -> LockServer {
        let client = try RingfenceClient(.init(url: "redis://127.0.0.1:1"), logger: Logger(label: "test"))
        return LockServer(
            client: client, host: "127.0.0.1", port: 0, tokens: nil, registry: PrometheusRegistry(),
            logger: Logger(label: "test"), onRunning: { _ in })
    }

    @Test func `the document has exactly the server's routes, and every reference resolves`() throws {
        let routes = try server().routes
        let text = OpenAPI.document(of: routes, hasTokens: true).text
        let document = try JSONDecoder().decode(Document.self, from: Data(text.utf8))
        var described: Set<String> = []
        for (path, operations) in document.paths {
            for (method, operation) in operations {
                described.insert("\(method.uppercased()) \(path) \(operation.operationId)")
                #expect(operation.parameters.contains { $0.name == "name" } == path.contains("{name}"))
                #expect(operation.responses["200"] != nil && operation.responses["400"] != nil)
            }
        }
        #expect(described == Set(routes.map { "\($0.method.rawValue) \($0.path) \($0.operation)" }))
        #expect(Set(routes.map(\.operation)).count == routes.count)
        for reference in text.split(separator: "#/components/schemas/").dropFirst() {
            let name = String(reference.prefix { $0 != "\"" })
            #expect(document.components.schemas[name] != nil, "\(name)")
        }
        for route in routes {
            guard let request = route.request else { continue }
            let schema = document.components.schemas[request.name]
            #expect(schema?.additionalProperties == false)
            #expect(schema?.properties.map { Set($0.keys) } == Set(request.fields))
        }
    }

    @Test func `the pattern of texts refuses the characters that the service refuses`() throws {
        // The class as ranges: members stand for themselves or are \\uXXXX (twice escaped, for JSON).
        var ranges: [ClosedRange<UInt32>] = []
        var rest = OpenAPI.unseen.unicodeScalars[...]
        func next() throws -> UInt32 {
            let first = rest.removeFirst()
            guard first == "\\" else { return first.value }
            rest.removeFirst(2)
            defer { rest.removeFirst(4) }
            return try #require(UInt32(String(String.UnicodeScalarView(rest.prefix(4))), radix: 16))
        }
        while !rest.isEmpty {
            let low = try next()
            guard rest.first == "-" else {
                ranges.append(low...low)
                continue
            }
            rest.removeFirst()
            ranges.append(low...(try next()))
        }
        var wrong: [UInt32] = []
        for value: UInt32 in 0...0x10FFFF {
            guard let scalar = Unicode.Scalar(value) else { continue }
            if ranges.contains(where: { $0.contains(value) }) != scalar.isUnseen { wrong.append(value) }
        }
        #expect(wrong.isEmpty, "\(wrong.prefix(10))")
    }

    @Test func `a body is required where an order would be refused without one, and a token where there is one`() throws
    {
        func operation(_ path: String, _ method: String, hasTokens: Bool = true) throws -> Document.Operation {
            let text = OpenAPI.document(of: try server().routes, hasTokens: hasTokens).text
            let document = try JSONDecoder().decode(Document.self, from: Data(text.utf8))
            return try #require(document.paths[path]?[method])
        }
        for order in ["failover", "pause", "maintenance", "breaker", "resume", "switchover"] {
            #expect(try operation("/v1/groups/{name}/\(order)", "post").requestBody?.required == true, "\(order)")
        }
        #expect(try operation("/v1/groups/{name}/pick", "post").requestBody?.required == false)
        #expect(try operation("/v1/locks/{name}", "delete").requestBody?.required == false)
        let lock = "/v1/locks/{name}"
        #expect(try operation(lock, "get").security.map(\.keys.first) == ["token"])
        #expect(try operation(lock, "get", hasTokens: false).security.isEmpty)
        #expect(try operation("/livez", "get").security.isEmpty)
    }

    @Test func `the served document is the one of the table`() async throws {
        try await withService { service, _ in
            let answer = try await service.request("GET", "/openapi.json")
            let document = try JSONDecoder().decode(Document.self, from: Data(answer.body.utf8))
            #expect(document.paths["/openapi.json"]?["get"]?.operationId == "openAPI")
            #expect(document.paths["/v1/locks/{name}/acquire"]?["post"] != nil)
        }
    }
}
