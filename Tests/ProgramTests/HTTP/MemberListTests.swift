// SPDX-License-Identifier: Apache-2.0
//
// What a proxy's server list is made from: which members, in which words, and what is said when Redis is away.
import RingfencePlatform
import TestSupport
import Testing

@testable import RingfenceHTTP

@Suite struct MemberListTests {
    private static let path = "/v1/groups/pool/members"

    /// One that is well, one whose check fails, one that drains, one in maintenance, and one with odd fields.
    private func withPool(
        patience: String = "30s", _ body: @Sendable (Service, RedisServer) async throws -> Void
    ) async throws {
        try await withService(["--command-timeout", patience]) { service, redis in
            for (id, fields) in [
                ("a", #""address":"10.0.0.1:80","weight":3,"zone":"z1""#),
                ("b", #""address":"10.0.0.2:80","health":"no answer""#),
                ("c", #""address":"10.0.0.3:80","weight":0"#),
                ("d", #""address":"10.0.0.4:80","candidate":true"#), ("e%20f", #""zone":"50%","address":"host""#),
            ] {
                let joined = try await service.request("PUT", "\(Self.path)/\(id)", "{\(fields),\"ttlMs\":3600000}")
                #expect(joined.status == 200, "\(joined.body)")
            }
            let order = #"{"member":"d","on":true}"#
            #expect(try await service.request("POST", "/v1/groups/pool/maintenance", order).status == 200)
            try await body(service, redis)
        }
    }

    private func ids(_ answer: Answer) -> [String] {
        answer.body.split(separator: #"{"id":""#).dropFirst().map { String($0.prefix { $0 != "\"" }) }
    }

    @Test func `members are listed by state, as JSON and as lines that split at blanks`() async throws {
        try await withPool { service, _ in
            let states = [
                "": ["a", "b", "c", "d", "e f"], "?state=all": ["a", "b", "c", "d", "e f"],
                "?state=healthy": ["a", "d", "e f"], "?state=unhealthy": ["b", "c"], "?state=draining": ["c"],
                "?state=failing": ["b"], "?state=maintenance": ["d"], "?state=lost": [],
            ]
            for (query, expected) in states {
                let answer = try await service.request("GET", Self.path + query)
                #expect(answer.status == 200 && ids(answer) == expected, "\(query) \(answer.body)")
                #expect(answer["stale"] == "false" && answer["ageMs"] == "0" && answer["breaker"] == "automatic")
            }
            let text = try await service.request("GET", Self.path + "?state=healthy&format=text")
            #expect(text.status == 200 && text.headers["content-type"] == "text/plain; charset=utf-8")
            #expect(text.body == "a 10.0.0.1:80 3 z1\nd 10.0.0.4:80 1 -\ne%20f host 1 50%25\n")
            #expect(text.headers["ringfence-stale"] == "false" && text.headers["ringfence-age-ms"] == "0")
            #expect(text.headers["ringfence-version"] == "6" && text.headers["ringfence-breaker"] == "automatic")
            let none = try await service.request("GET", "/v1/groups/nowhere/members?format=text")
            #expect(none.status == 200 && none.body.isEmpty && none.headers["ringfence-version"] == "0")
        }
    }

    @Test func `when Redis is away the last list serves, and says that it is old`() async throws {
        try await withPool(patience: "2s") { service, redis in
            _ = try await service.request("GET", Self.path)
            await redis.kill(SIGKILL)
            var text = try await service.request("GET", Self.path + "?state=healthy&format=text")
            try await eventually("it is said to be stale", within: .seconds(120)) {
                text = try await service.request("GET", Self.path + "?state=healthy&format=text")
                return text.headers["ringfence-stale"] == "true"
            }
            #expect(text.status == 200 && text.body.split(separator: "\n").count == 3, "\(text.body)")
            let age = text.headers["ringfence-age-ms"].flatMap { Int($0) } ?? 0
            #expect(age > 0, "\(text.headers)")
            let json = try await service.request("GET", Self.path + "?state=unhealthy")
            #expect(json["stale"] == "true" && ids(json) == ["b", "c"], "\(json.body)")
            let unknown = try await service.request("GET", "/v1/groups/other/members?format=text")
            #expect(unknown.status == 503 && unknown["code"] == "coordinator.unavailable")
        }
    }

    @Test(arguments: [
        ("?state=ill", "state"), ("?state=", "state"), ("?format=xml", "format"), ("?zone=a", "zone"),
        ("?state=all&state=all", "state"),
    ])
    func `a bad question names its field`(query: String, field: String) async throws {
        try await withService { service, _ in
            let answer = try await service.request("GET", Self.path + query)
            #expect(answer.status == 400 && answer["field"] == field, "\(answer.body)")
        }
    }

    @Test(arguments: [
        ("", "-"), ("-", "%2D"), ("a b", "a%20b"), ("100%", "100%25"), ("\u{A0}x\u{2028}", "%C2%A0x%E2%80%A8"),
        ("\u{FC}/-", "\u{FC}/-"),
    ])
    func `a field of a line is never empty and never splits`(text: String, field: String) {
        #expect(MemberList.field(text) == field)
    }
}
