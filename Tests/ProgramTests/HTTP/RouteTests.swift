import TestSupport
// SPDX-License-Identifier: Apache-2.0
import Testing

@Suite struct RouteTests {
    @Test func `a lock is acquired, renewed, seen and released over HTTP`() async throws {
        try await withService { service, _ in
            let hold = try await service.request(
                "POST", "/v1/locks/payout/acquire", #"{"owner":"worker-1","ttlMs":10000}"#)
            #expect(hold.status == 200)
            #expect(hold["name"] == "payout" && hold["owner"] == "worker-1")
            let fence = try #require(hold["fence"].flatMap { Int64($0) })
            let token = try #require(hold["token"])
            let deadline = try #require(hold["deadlineMs"].flatMap { Int($0) })
            #expect((1...10_000).contains(deadline))

            let renewed = try await service.request(
                "POST", "/v1/locks/payout/renew", #"{"token":"\#(token)","ttlMs":60000}"#)
            #expect(renewed.status == 200 && renewed["fence"] == String(fence))
            #expect(try #require(renewed["deadlineMs"].flatMap { Int($0) }) > 10_000)

            let seen = try await service.request("GET", "/v1/locks/payout")
            #expect(seen.status == 200 && seen["owner"] == "worker-1" && seen["fence"] == String(fence))
            #expect(!seen.body.contains(token))
            let listed = try await service.request("GET", "/v1/locks?prefix=pay&limit=1000")
            #expect(listed.status == 200 && listed["name"] == "payout" && listed["next"] == "null")
            #expect(!listed.body.contains(token))
            #expect(try await service.request("GET", "/v1/locks?prefix=other").body == #"{"locks":[],"next":null}"#)

            let released = try await service.request(
                "POST", "/v1/locks/payout/release", #"{"token":"\#(token)"}"#)
            #expect(released.status == 200 && released["released"] == "true")
            let again = try await service.request("POST", "/v1/locks/payout/acquire", #"{"ttlMs":1000}"#)
            #expect(try #require(again["fence"].flatMap { Int64($0) }) > fence)
            #expect(again["owner"] == "http/127.0.0.1")

            let audit = try await service.request("GET", "/v1/audit?limit=10")
            #expect(audit.status == 200 && audit["action"] == "grant" && audit.body.contains(#""action":"release""#))
        }
    }

    @Test func `several locks are acquired all or none, with one fence`() async throws {
        try await withService { service, _ in
            let hold = try await service.request(
                "POST", "/v1/locks:acquire", #"{"names":["b","a"],"ttlMs":10000,"owner":"x"}"#)
            #expect(hold.status == 200)
            let token = try #require(hold["token"])
            let busy = try await service.request(
                "POST", "/v1/locks:acquire", #"{"names":["c","a"],"ttlMs":10000,"owner":"y"}"#)
            #expect(busy.status == 409 && busy["code"] == "lock.busy" && busy["name"] == "a")
            #expect(try await service.request("GET", "/v1/locks/c")["holder"] == "null")
            let names = #""names":["a","b"],"token":"\#(token)""#
            #expect(try await service.request("POST", "/v1/locks:renew", "{\(names),\"ttlMs\":5000}").status == 200)
            #expect(try await service.request("POST", "/v1/locks:release", "{\(names)}").status == 200)
            #expect(try await service.request("GET", "/v1/locks/b")["holder"] == "null")
        }
    }

    @Test func `a held lock answers 409 with its holder and when to ask again`() async throws {
        try await withService { service, _ in
            _ = try await service.request("POST", "/v1/locks/x/acquire", #"{"owner":"first","ttlMs":30000}"#)
            let busy = try await service.request("POST", "/v1/locks/x/acquire", #"{"owner":"second","ttlMs":1000}"#)
            #expect(busy.status == 409)
            #expect(busy.headers["content-type"] == "application/problem+json")
            #expect(busy["code"] == "lock.busy" && busy["effect"] == "none" && busy["owner"] == "first")
            #expect(try #require(busy["remainingMs"].flatMap { Int($0) }) > 20_000)
            #expect(busy["retryAfterMs"] == "1000" && busy.headers["retry-after"] == "1")
            #expect(busy["detail"]?.hasPrefix("'x' is not free: 'first' holds it for up to ") == true, "\(busy.body)")
        }
    }

    @Test func `who waited in vain is told who holds the lock, and not that others wait for it`() async throws {
        try await withService { service, _ in
            _ = try await service.request("POST", "/v1/locks/x/acquire", #"{"owner":"first","ttlMs":60000}"#)
            // The first that waits asks before it stands in line; those after it stand in line at once.
            for _ in 1...2 {
                let busy = try await service.request("POST", "/v1/locks/x/acquire", #"{"ttlMs":1000,"waitMs":100}"#)
                #expect(busy.status == 409 && busy["owner"] == "first")
                #expect(busy["detail"]?.contains("'first' holds it for up to ") == true, "\(busy.body)")
                #expect(!busy.body.contains("others"), "\(busy.body)")
            }
        }
    }

    @Test func `a wait is granted in line, and its deadline counts from the sending`() async throws {
        try await withService { service, redis in
            let first = try await service.request("POST", "/v1/locks/x/acquire", #"{"ttlMs":30000}"#)
            let connection = try await service.connect()
            let sent = ContinuousClock.now
            try await connection.send("POST", "/v1/locks/x/acquire", #"{"ttlMs":20000,"waitMs":60000}"#)
            try await eventually("it waits in line") {
                try await redis.cli("ZCARD", "ringfence:{default}:queue:x") == "1"
            }
            _ = try await service.request(
                "POST", "/v1/locks/x/release", #"{"token":"\#(try #require(first["token"]))"}"#)
            let second = try #require(try await connection.answer())
            let elapsed = ContinuousClock.now - sent
            #expect(second.status == 200)
            let deadline = Duration.milliseconds(try #require(second["deadlineMs"].flatMap { Int($0) }))
            // What Redis still keeps, from now, is never less than what the holder was told it may rely on.
            let left = Duration.milliseconds(
                try #require(Int(try await redis.cli("PTTL", "ringfence:{default}:lock:x"))))
            #expect(deadline - elapsed <= left)
            #expect(deadline > .seconds(18))
            // The connection is as good as before.
            try await connection.send("GET", "/livez")
            #expect(try await connection.answer()?.status == 200)
        }
    }

    @Test(arguments: ["a/b", "zürich/π", "100%", "a b", "x:acquire", "..", "?q=1#f", "acquire", "{tag}", "*"])
    func `any UTF-8 name works percent-encoded`(name: String) async throws {
        try await withService { service, redis in
            let encoded = name.utf8.map { byte in
                let digits = String(byte, radix: 16, uppercase: true)
                return "%" + (digits.count == 1 ? "0" : "") + digits
            }.joined()
            let hold = try await service.request("POST", "/v1/locks/\(encoded)/acquire", #"{"ttlMs":10000}"#)
            #expect(hold.status == 200)
            #expect(try await redis.cli("EXISTS", "ringfence:{default}:lock:" + name) == "1")
            #expect(try await service.request("GET", "/v1/locks/\(encoded)")["owner"] == "http/127.0.0.1")
        }
    }

    @Test func `a forced release is recorded with its actor and reason, and raises the fence`() async throws {
        try await withService { service, _ in
            let hold = try await service.request("POST", "/v1/locks/x/acquire", #"{"ttlMs":30000,"owner":"stuck"}"#)
            let forced = try await service.request("DELETE", "/v1/locks/x?actor=ops+anna&reason=ticket%204711")
            #expect(forced.status == 200 && forced["owner"] == "stuck")
            #expect(forced.body.contains(#""fence""#))
            let audit = try await service.request("GET", "/v1/audit?limit=1")
            #expect(
                audit["action"] == "force" && audit.body.contains("http/127.0.0.1 (says ops anna)")
                    && audit.body.contains("ticket 4711"))
            let late = try await service.request(
                "POST", "/v1/locks/x/renew", #"{"token":"\#(try #require(hold["token"]))","ttlMs":1000}"#)
            #expect(late.status == 409 && late["code"] == "lock.notHeld")
            let nobody = try await service.request("DELETE", "/v1/locks/x", #"{"actor":"ops"}"#)
            #expect(nobody.status == 409 && nobody["code"] == "lock.notHeld")
            let next = try await service.request("POST", "/v1/locks/x/acquire", #"{"ttlMs":1000}"#)
            #expect(
                try #require(next["fence"].flatMap { Int64($0) }) > #require(hold["fence"].flatMap { Int64($0) }))
        }
    }

    @Test func `health, metrics and the description answer; HEAD has no body`() async throws {
        try await withService { service, redis in
            #expect(try await service.request("GET", "/livez").body == #"{"status":"alive"}"#)
            #expect(try await service.request("GET", "/readyz")["status"] == "ready")
            #expect(try await service.request("GET", "/openapi.json")["openapi"] == "3.1.0")
            let connection = try await service.connect()
            try await connection.send("HEAD", "/livez")
            #expect(try await connection.answer(isHead: true)?.status == 200)
            try await connection.send("GET", "/livez")
            #expect(try await connection.answer()?.body == #"{"status":"alive"}"#)

            await redis.kill(9)
            #expect(try await service.request("GET", "/livez").status == 200)
            let ready = try await service.request("GET", "/readyz")
            #expect(ready.status == 503 && ready["code"] == "coordinator.unavailable")
            let acquire = try await service.request("POST", "/v1/locks/x/acquire", #"{"ttlMs":1000}"#)
            #expect(acquire.status == 503 && acquire["code"] == "coordinator.unavailable")
            #expect(acquire["retryAfterMs"] != nil && acquire.headers["retry-after"] != nil)
            try await redis.restart()
            try await eventually("the service is back") {
                try await service.request("POST", "/v1/locks/x/acquire", #"{"ttlMs":1000}"#).status == 200
            }
        }
    }

    @Test func `the metrics page is Prometheus text and counts requests`() async throws {
        try await withService { service, _ in
            for _ in 0..<3 { _ = try await service.request("POST", "/v1/locks/m/acquire", #"{"ttlMs":1000}"#) }
            let page = try await service.request("GET", "/metrics")
            #expect(page.headers["content-type"]?.hasPrefix("text/plain; version=0.0.4") == true)
            var types: [String: String] = [:]
            for line in page.body.split(separator: "\n") {
                let words = line.split(separator: " ")
                if line.hasPrefix("# TYPE ") {
                    #expect(types.updateValue(String(words[3]), forKey: String(words[2])) == nil)
                    continue
                }
                #expect(words.count == 2 && Double(words[1]) != nil, "\(line)")
                let name = line.prefix { $0 != "{" && $0 != " " }
                let family =
                    types.keys.contains(String(name)) ? String(name) : String(name[..<name.lastIndex(of: "_")!])
                #expect(types[family] != nil, "\(line)")
            }
            let prefix = #"ringfence_http_requests_total{route="acquireLock",status=""#
            #expect(page.body.contains(prefix + #"2xx"} 1"#))
            #expect(page.body.contains(prefix + #"4xx"} 2"#))
            #expect(page.body.contains("ringfence_lock_grants_total 1"))
        }
    }
}
