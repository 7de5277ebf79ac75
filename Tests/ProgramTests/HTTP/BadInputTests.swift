// SPDX-License-Identifier: Apache-2.0
//
// Bad input: a clear problem that names the field and the limit, and nothing changed. That nothing was even sent is
// seen in Redis' own count of script calls.
import TestSupport
import Testing

@Suite struct BadInputTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var path: String
        var body: String?
        var field: String?
        var mentions: String
        var method = "POST"
        var testDescription: String { "\(method) \(path.prefix(40)) \(body?.prefix(60) ?? "")" }
    }

    static let acquire = "/v1/locks/x/acquire"
    static let cases: [Case] = [
        Case(path: acquire, body: "", field: "body", mentions: "object"),
        Case(path: acquire, body: "[]", field: "body", mentions: "object"),
        Case(path: acquire, body: "{}", field: "ttlMs", mentions: "100 to 86400000"),
        Case(path: acquire, body: #"{"ttlMs":0}"#, field: "ttlMs", mentions: "100 to 86400000"),
        Case(path: acquire, body: #"{"ttlMs":86400001}"#, field: "ttlMs", mentions: "100 to 86400000"),
        Case(path: acquire, body: #"{"ttlMs":1000.5}"#, field: "ttlMs", mentions: "integer"),
        Case(path: acquire, body: #"{"ttlMs":1e4}"#, field: "ttlMs", mentions: "integer"),
        Case(path: acquire, body: #"{"ttlMs":-5}"#, field: "ttlMs", mentions: "100 to 86400000"),
        Case(path: acquire, body: #"{"ttlMs":1e4}"#, field: "ttlMs", mentions: "integer"),
        Case(path: acquire, body: #"{"ttlMs":1000.5}"#, field: "ttlMs", mentions: "integer"),
        Case(path: acquire, body: #"{"ttlMs":99999999999999999999}"#, field: "ttlMs", mentions: "integer"),
        Case(path: acquire, body: #"{"ttlMs":"1000"}"#, field: "ttlMs", mentions: "a string"),
        Case(path: acquire, body: #"{"ttlMs":null}"#, field: "ttlMs", mentions: "null"),
        Case(path: acquire, body: #"{"ttlMs":{"a":1}}"#, field: "ttlMs", mentions: "object"),
        Case(path: acquire, body: #"{"ttlMs":1000,"waitMs":-1}"#, field: "waitMs", mentions: "0 to 300000"),
        Case(path: acquire, body: #"{"ttlMs":1000,"waitMs":300001}"#, field: "waitMs", mentions: "0 to 300000"),
        Case(path: acquire, body: #"{"ttlMs":1000,"owner":""}"#, field: "owner", mentions: "1 to 128"),
        Case(path: acquire, body: #"{"ttlMs":1000,"owner":7}"#, field: "owner", mentions: "string"),
        Case(path: acquire, body: #"{"ttlMs":1000,"owner":"a\nb"}"#, field: "owner", mentions: "control"),
        Case(
            path: acquire, body: #"{"ttlMs":1000,"owner":"\#(String(repeating: "o", count: 129))"}"#, field: "owner",
            mentions: "1 to 128"),
        Case(path: acquire, body: #"{"ttlMs":1000,"ttl":5}"#, field: "ttl", mentions: "unknown field"),
        Case(path: acquire, body: #"{"ttlMs":1000,"token":"t"}"#, field: "token", mentions: "unknown field"),
        Case(path: acquire, body: #"{"ttlMs":1000,"ttlMs":2000}"#, field: "ttlMs", mentions: "twice"),
        Case(path: acquire, body: #"{"ttlMs":1000}}"#, field: nil, mentions: "more after"),
        Case(path: acquire, body: #"{"ttlMs":01000}"#, field: "ttlMs", mentions: "JSON"),
        Case(path: acquire, body: #"{"owner":"\ud800","ttlMs":1000}"#, field: "owner", mentions: "surrogate"),
        Case(path: acquire, body: "{\"ttlMs\":1000", field: nil, mentions: "missing"),
        Case(
            path: acquire, body: String(repeating: "{\"a\":", count: 10_000), field: "a", mentions: "unknown field"),
        Case(path: "/v1/locks//acquire", body: #"{"ttlMs":1000}"#, field: "name", mentions: "1 to 512"),
        Case(
            path: "/v1/locks/\(String(repeating: "n", count: 513))/acquire", body: #"{"ttlMs":1000}"#, field: "name",
            mentions: "1 to 512"),
        Case(path: "/v1/locks/a%00b/acquire", body: #"{"ttlMs":1000}"#, field: "name", mentions: "control"),
        Case(path: "/v1/locks/a%0d%0aSET/acquire", body: #"{"ttlMs":1000}"#, field: "name", mentions: "control"),
        Case(path: "/v1/locks/a%ff/acquire", body: #"{"ttlMs":1000}"#, field: "name", mentions: "UTF-8"),
        Case(path: "/v1/locks/a%2/acquire", body: #"{"ttlMs":1000}"#, field: "name", mentions: "percent"),
        Case(path: "/v1/locks/x/renew", body: #"{"ttlMs":1000}"#, field: "token", mentions: "missing"),
        Case(path: "/v1/locks/x/renew", body: #"{"token":"1:2:3"}"#, field: "ttlMs", mentions: "missing"),
        Case(path: "/v1/locks/x/release", body: #"{"token":["a"]}"#, field: "token", mentions: "array"),
        Case(
            path: "/v1/locks/x/release", body: #"{"token":"\#(String(repeating: "t", count: 513))"}"#, field: "token",
            mentions: "512"),
        Case(path: "/v1/locks/x/release", body: #"{"token":"nonsense"}"#, field: nil, mentions: "token"),
        Case(path: "/v1/locks:acquire", body: #"{"ttlMs":1000}"#, field: "names", mentions: "missing"),
        Case(path: "/v1/locks:acquire", body: #"{"names":[],"ttlMs":1000}"#, field: "names", mentions: "1 to 64"),
        Case(path: "/v1/locks:acquire", body: #"{"names":"a","ttlMs":1000}"#, field: "names", mentions: "array"),
        Case(path: "/v1/locks:acquire", body: #"{"names":["a",1],"ttlMs":1000}"#, field: "names", mentions: "strings"),
        Case(
            path: "/v1/locks:acquire", body: #"{"names":["a","a"],"ttlMs":1000}"#, field: "names", mentions: "different"
        ),
        Case(path: "/v1/locks?limit=0", field: "limit", mentions: "1 to 1000", method: "GET"),
        Case(path: "/v1/locks?limit=x", field: "limit", mentions: "1 to 1000", method: "GET"),
        Case(path: "/v1/locks?page=2", field: "page", mentions: "unknown query", method: "GET"),
        Case(path: "/v1/locks/x/acquire?wait=3", body: #"{"ttlMs":1000}"#, field: "wait", mentions: "unknown query"),
        Case(path: "/v1/locks/x?y=1", field: "y", mentions: "unknown query", method: "GET"),
        Case(path: "/v1/groups/x/pause?reason=x", body: "{}", field: "reason", mentions: "unknown query"),
        Case(path: "/v1/locks?prefix=a&prefix=b", field: "prefix", mentions: "twice", method: "GET"),
        Case(path: "/v1/locks?cursor=zzz", field: "cursor", mentions: "cursor", method: "GET"),
        Case(path: "/v1/audit?limit=1001", field: "limit", mentions: "1 to 1000", method: "GET"),
        Case(path: "/v1/locks/x?actor=", field: "actor", mentions: "1 to 128", method: "DELETE"),
        // Both are looked at, also the one that the other goes before.
        Case(
            path: "/v1/locks/x?reason=%00", body: #"{"reason":"good"}"#, field: "reason", mentions: "control",
            method: "DELETE"),
        Case(
            path: "/v1/groups/g/members/m?session=%20", body: #"{"session":"good"}"#, field: "session", mentions: "A-Z",
            method: "DELETE"),
        Case(path: "/v1/locks?cursor=%2B5", field: "cursor", mentions: "cursor", method: "GET"),
        Case(path: "/v1/locks?limit=%2B5", field: "limit", mentions: "1 to 1000", method: "GET"),
        Case(path: "/v1/groups/g/settings", body: #"{"maxLag":"5"}"#, field: "maxLag", mentions: "integer"),
        Case(path: "/v1/groups/g/settings", body: #"{"zone":5}"#, field: "zone", mentions: "string"),
        Case(path: "/v1/locks/x", body: #"{"why":"?"}"#, field: "why", mentions: "unknown field", method: "DELETE"),
    ]

    @Test func `each bad input is a clear 400, and nothing reaches Redis`() async throws {
        try await withService { service, redis in
            // The service's own start (checks, script loads) is over once it is ready.
            #expect(try await service.request("GET", "/readyz").status == 200)
            try await redis.cli("CONFIG", "RESETSTAT")
            for bad in Self.cases {
                let answer = try await service.request(bad.method, bad.path, bad.body)
                #expect(answer.status == 400, "\(bad.testDescription): \(answer.body)")
                #expect(answer.headers["content-type"] == "application/problem+json")
                #expect(answer["code"] == "argument.invalid", "\(bad.testDescription): \(answer.body)")
                #expect(answer["effect"] == "none")
                #expect(answer["detail"]?.contains(bad.mentions) == true, "\(bad.testDescription): \(answer.body)")
                if let field = bad.field {
                    #expect(answer["field"] == field, "\(bad.testDescription): \(answer.body)")
                }
            }
            #expect(try await redis.cli("DBSIZE") == "0")
            let commands = try await redis.cli("INFO", "commandstats")
            #expect(!commands.contains("evalsha") && !commands.contains("cmdstat_scan"))
        }
    }

    @Test func `a whole number is an integer, with a fraction of zero too`() async throws {
        try await withService { service, _ in
            let answer = try await service.request("POST", Self.acquire, #"{"ttlMs":60000.0}"#)
            #expect(answer.status == 200, "\(answer.body)")
        }
    }

    @Test func `a wrong token, a token of another lock and a renewal after expiry change nothing`() async throws {
        try await withService { service, redis in
            let mine = try await service.request("POST", "/v1/locks/mine/acquire", #"{"ttlMs":30000}"#)
            let other = try await service.request("POST", "/v1/locks/other/acquire", #"{"ttlMs":30000}"#)
            let before = try await redis.cli("GET", "ringfence:{default}:lock:mine")
            let token = try #require(mine["token"])
            let flipped = token.replacing("-1-", with: "-9-")
            for wrong in [try #require(other["token"]), flipped, "1:0-0-0:x"] {
                for (action, more) in [("renew", #","ttlMs":1000"#), ("release", "")] {
                    let answer = try await service.request(
                        "POST", "/v1/locks/mine/\(action)", #"{"token":"\#(wrong)"\#(more)}"#)
                    #expect(
                        [("lock.notHeld", 409), ("argument.invalid", 400)].contains {
                            $0 == (answer["code"] ?? "", answer.status)
                        }, "\(answer.body)")
                    #expect(answer["effect"] == "none")
                    #expect(!answer.body.contains(token))
                }
            }
            #expect(try await redis.cli("GET", "ringfence:{default}:lock:mine") == before)

            let short = try await service.request("POST", "/v1/locks/short/acquire", #"{"ttlMs":100}"#)
            try await eventually("it expired") {
                try await redis.cli("EXISTS", "ringfence:{default}:lock:short") == "0"
            }
            let late = try await service.request(
                "POST", "/v1/locks/short/renew", #"{"token":"\#(try #require(short["token"]))","ttlMs":1000}"#)
            #expect(late.status == 409 && late["code"] == "lock.notHeld")
            #expect(try await redis.cli("EXISTS", "ringfence:{default}:lock:short") == "0")
        }
    }

    @Test func `paths, methods, media types and bodies that do not fit are refused by their own codes`() async throws {
        try await withService { service, redis in
            let lost = try await service.request("GET", "/v1/nothing")
            #expect(lost.status == 404 && lost["code"] == "route.notFound")
            #expect(try await service.request("POST", "/v1/locks/a/b/acquire", "{}").status == 404)
            let method = try await service.request("PUT", "/v1/locks/a", "{}")
            #expect(method.status == 405 && method["code"] == "method.notAllowed")
            #expect(method.headers["allow"] == "GET, DELETE")
            for type in ["text/plain", "application/x-www-form-urlencoded", ""] {
                let media = try await service.request(
                    "POST", "/v1/locks/a/acquire", #"{"ttlMs":1000}"#, headers: ["Content-Type: \(type)"])
                #expect(media.status == 415 && media["code"] == "body.unsupported")
            }
            let charset = try await service.request(
                "POST", "/v1/locks/a/acquire", #"{"ttlMs":1000}"#,
                headers: ["Content-Type: application/json; charset=utf-8"])
            #expect(charset.status == 200)
            let spaces = String(repeating: " ", count: 65_536)
            let large = try await service.request("POST", "/v1/locks/b/acquire", #"{"ttlMs":1000}"# + spaces)
            #expect(
                large.status == 413 && large["code"] == "body.tooLarge" && large["detail"]?.contains("65536") == true)
            let fits = #"{"ttlMs":1000}"#
            let padded = fits + String(repeating: " ", count: 65_536 - fits.utf8.count)
            #expect(try await service.request("POST", "/v1/locks/c/acquire", padded).status == 200)
            #expect(try await redis.cli("EXISTS", "ringfence:{default}:lock:b") == "0")
        }
    }

    @Test func `with a token file, everything but health and the description needs a token`() async throws {
        let directory = try TemporaryDirectory()
        let file = directory.path + "/tokens"
        try writeFile(file, "# the till\ncorrect-horse-battery\n\n  staple-correct-horse  \n")
        try await withService(["--token-file", file]) { service, redis in
            let body = #"{"ttlMs":1000}"#
            let path = "/v1/locks/x/acquire"
            for header in [
                [], ["Authorization: Bearer wrong-horse-battery"], ["Authorization: Bearer correct-horse-batter"],
                ["Authorization: Bearer correct-horse-battery1"], ["Authorization: Bearer "],
                ["Authorization: Basic correct-horse-battery"], ["Authorization: Bearer # the till"],
            ] {
                let answer = try await service.request("POST", path, body, headers: header)
                #expect(answer.status == 401 && answer["code"] == "unauthorized")
                #expect(answer.headers["www-authenticate"]?.hasPrefix("Bearer") == true)
                #expect(!answer.body.contains("horse"))
            }
            for protected in ["/metrics", "/v1/locks", "/v1/audit", "/v1/locks/x", "/nowhere"] {
                #expect(try await service.request("GET", protected).status == 401)
            }
            #expect(try await redis.cli("DBSIZE") == "0")
            for open in ["/livez", "/readyz", "/openapi.json"] {
                #expect(try await service.request("GET", open).status == 200)
            }
            for token in ["correct-horse-battery", "staple-correct-horse"] {
                let answer = try await service.request(
                    "GET", "/v1/locks", headers: ["Authorization: Bearer \(token)"])
                #expect(answer.status == 200)
            }
            #expect(!service.program.error.contains("horse"))
        }
    }
}
