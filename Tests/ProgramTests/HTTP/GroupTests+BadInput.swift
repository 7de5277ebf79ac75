// SPDX-License-Identifier: Apache-2.0
//
// What the routes of groups refuse.
import Ringfence
import TestSupport
import Testing

extension GroupTests {
    struct Bad: Sendable {
        var body: String
        var field: String
        var mentions: String
        init(_ body: String, _ field: String, _ mentions: String) {
            (self.body, self.field, self.mentions) = (body, field, mentions)
        }
    }

    static func long(_ count: Int) -> String { String(repeating: "x", count: count) }
    private static let puts: [Bad] = [
        Bad("", "body", "object"), Bad("[]", "body", "object"),
        Bad(#"{"ttlMs":199}"#, "ttlMs", "200 to 3600000"), Bad(#"{"ttlMs":3600001}"#, "ttlMs", "200 to 3600000"),
        Bad(#"{"ttlMs":1e3}"#, "ttlMs", "integer"), Bad(#"{"ttlMs":"3000"}"#, "ttlMs", "string"),
        Bad(#"{"ttl":3000}"#, "ttl", "unknown field"), Bad(#"{"weight":1,"weight":2}"#, "weight", "twice"),
        Bad(#"{"session":""}"#, "session", "1 to 64"), Bad(#"{"session":"a b"}"#, "session", "1 to 64"),
        Bad(#"{"session":"\#(long(65))"}"#, "session", "1 to 64"), Bad(#"{"session":7}"#, "session", "string"),
        Bad(#"{"address":"\#(long(513))"}"#, "address", "0 to 512"), Bad(#"{"address":null}"#, "address", "null"),
        Bad(#"{"address":"a\nb"}"#, "address", "control"),
        Bad(#"{"address":"h' port='1"}"#, "address", "must be HOST:PORT"),
        Bad(#"{"address":"h;DROP:1"}"#, "address", "must be HOST:PORT"), Bad(#"{"zone":"a\u202eb"}"#, "zone", "format"),
        Bad(#"{"zone":"\#(long(65))"}"#, "zone", "0 to 64"),
        Bad(#"{"weight":-1}"#, "weight", "0 to 1000"), Bad(#"{"weight":1001}"#, "weight", "0 to 1000"),
        Bad(#"{"weight":0.5}"#, "weight", "integer"), Bad(#"{"priority":1001}"#, "priority", "-1000 to 1000"),
        Bad(#"{"capabilities":"a"}"#, "capabilities", "array"),
        Bad(#"{"capabilities":[""]}"#, "capabilities", "1 to 64"),
        Bad(
            "{\"capabilities\":[\((1...17).map { "\"\($0)\"" }.joined(separator: ","))]}", "capabilities",
            "at most 16"),
        Bad(#"{"metadata":["a"]}"#, "metadata", "object of strings"),
        Bad(#"{"metadata":{"a":1}}"#, "metadata", "object of strings"),
        Bad(#"{"metadata":{"a":{"b":"c"}}}"#, "a", "object"),
        Bad(#"{"metadata":{"":"v"}}"#, "metadata", "1 to 64"),
        Bad(#"{"metadata":{"k":"\#(long(1025))"}}"#, "metadata", "0 to 1024"),
        Bad(
            "{\"metadata\":{\((1...33).map { "\"\($0)\":\"\"" }.joined(separator: ","))}}", "metadata", "at most 32"),
        Bad(
            "{\"metadata\":{\((1...8).map { "\"\($0)\":\"\(long(1024))\"" }.joined(separator: ","))}}", "metadata",
            "8192"),
    ]

    @Test func `each bad input is a clear 400, and nothing reaches Redis`() async throws {
        try await withService(Self.patient) { service, redis in
            #expect(try await service.request("GET", "/readyz").status == 200)
            try await redis.cli("CONFIG", "RESETSTAT")
            func expect(
                _ method: String, _ path: String, _ body: String?, _ field: String, _ mentions: String
            ) async throws {
                let answer = try await service.request(method, path, body)
                let says = Comment(rawValue: "\(method) \(path.prefix(60)) \(body?.prefix(60) ?? ""): \(answer.body)")
                #expect(answer.status == 400 && answer["code"] == "argument.invalid", says)
                #expect(answer["field"] == field && answer["effect"] == "none", says)
                #expect(answer["detail"]?.contains(mentions) == true, says)
            }
            for bad in Self.puts { try await expect("PUT", Self.path, bad.body, bad.field, bad.mentions) }
            for method in ["PUT", "DELETE"] {
                try await expect(method, "/v1/groups//members/m", "{}", "name", "1 to 512")
                try await expect(method, "/v1/groups/g/members/", "{}", "member", "1 to 512")
                try await expect(method, "/v1/groups/g/members/\(Self.long(513))", "{}", "member", "1 to 512")
                try await expect(method, "/v1/groups/g/members/a%00b", "{}", "member", "control")
                try await expect(method, "/v1/groups/g/members/a%ff", "{}", "member", "UTF-8")
                try await expect(method, "/v1/groups/a%0ab/members/m", "{}", "name", "control")
            }
            try await expect("DELETE", Self.path, #"{"session":"a b"}"#, "session", "1 to 64")
            try await expect("DELETE", Self.path, #"{"why":"?"}"#, "why", "unknown field")
            try await expect("DELETE", Self.path, #"{"actor":""}"#, "actor", "1 to 128")
            try await expect("DELETE", Self.path + "?reason=\(Self.long(513))", nil, "reason", "0 to 512")
            try await expect("DELETE", Self.path + "?token=a", nil, "token", "unknown query")
            try await expect("GET", "/v1/groups/\(Self.long(513))", nil, "name", "1 to 512")
            let deeper = try await service.request("PUT", "/v1/groups/g/members/m/x", "{}")
            #expect(deeper.status == 404)
            let other = try await service.request("GET", Self.path)
            #expect(other.status == 405 && other.headers["allow"] == "PUT, DELETE")
            #expect(try await redis.cli("DBSIZE") == "0")
            #expect(try await !redis.cli("INFO", "commandstats").contains("evalsha"))
        }
    }
}
