// SPDX-License-Identifier: Apache-2.0
//
// A group's primary over HTTP and on the command line, on a real Redis: candidates that live in other languages, and
// what operators order.
import Logging
import Ringfence
import TestSupport
import Testing

@Suite struct ElectionRouteTests {
    private static let patient = ["--command-timeout", "30s"]

    private func withService(_ body: (RedisServer, Service) async throws -> Void) async throws {
        try await withRedis { redis in
            let service = try await Service.start(["--redis", redis.unixURL] + Self.patient)
            try await body(redis, service)
            _ = await service.stop()
        }
    }

    /// A candidate that says what it is told to say.
    private final class Candidate {
        let id: String
        let service: Service
        var session = ""
        init(_ id: String, _ service: Service) { (self.id, self.service) = (id, service) }

        @discardableResult
        func put(_ more: String = "") async throws -> Answer {
            let session = session.isEmpty ? "" : #","session":"\#(self.session)""#
            let answer = try await service.request(
                "PUT", "/v1/groups/g/members/\(id)", #"{"candidate":true,"ttlMs":2000\#(session)\#(more)}"#)
            if let session = answer["session"] { self.session = session }
            return answer
        }
    }

    @Test func `candidates of any language are elected, hand over, and are refused with all reasons`() async throws {
        try await withService { redis, service in
            let one = Candidate("one", service)
            let two = Candidate("two", service)
            try await one.put(#","address":"10.0.0.1:5432","position":7"#)
            #expect(try await service.request("POST", "/v1/groups/g/switchover", "{}").status == 409)
            var answer = try await one.put(#","position":7"#)
            try await eventually("one is elected") {
                answer = try await one.put(#","position":7"#)
                return answer.body.contains(#""phase":"elected""#)
            }
            #expect(answer.body.contains(#""primary":{"epoch":1,"member":"one""#), "\(answer.body)")
            let ready = #","position":7,"address":"10.0.0.1:5432","claim":{"state":"ready","epoch":1}"#
            #expect(try await one.put(ready).body.contains(#""phase":"ready""#))
            try await two.put(#","position":5,"unfit":"restoring","health":"disk full""#)
            let primary = try await service.request("GET", "/v1/groups/g/primary")
            #expect(primary.status == 200 && primary.body.contains("10.0.0.1:5432"), "\(primary.body)")
            let healthy = try await service.request("GET", "/v1/groups/g/members?state=healthy")
            #expect(healthy.body.contains(#""id":"one""#) && !healthy.body.contains(#""id":"two""#), "\(healthy.body)")

            let refused = try await service.request("POST", "/v1/groups/g/switchover", #"{"to":"two"}"#)
            #expect(refused.status == 409 && refused["code"] == "order.refused", "\(refused.body)")
            #expect(
                refused.body.contains(#""code":"health""#) && refused.body.contains(#""code":"unfit""#)
                    && refused.body.contains("disk full"))
            let plan = try await service.request("GET", "/v1/groups/g/plan")
            #expect(plan.body.contains(#""winner":null"#), "\(plan.body)")

            try await two.put(#","position":5"#)
            async let switched = service.request(
                "POST", "/v1/groups/g/switchover", #"{"to":"two","timeoutMs":60000,"actor":"ann","reason":"t 1"}"#)
            try await eventually("it is asked to hand over") {
                _ = try await two.put(#","position":5"#)
                answer = try await one.put(ready)
                return answer.body.contains(#""phase":"handingOver""#)
            }
            let version = try #require(answer["version"])
            try await one.put(
                #","position":9,"claim":{"state":"readyToHandOver","epoch":1,"position":9,"version":\#(version)}"#)
            #expect(try await two.put(#","position":8"#).body.contains(#""phase":"handingOver""#), "it lacks one")
            #expect(try await two.put(#","position":9"#).body.contains(#""epoch":2,"member":"two""#))
            #expect(try await two.put(#","position":9,"claim":{"state":"ready","epoch":2}"#).status == 200)
            let done = try await switched
            #expect(done.status == 200 && done.body.contains(#""member":"two""#), "\(done.body)")
            let history = try await service.request("GET", "/v1/groups/g/history")
            #expect(
                history.body.contains(#""kind":"switchover""#)
                    && history.body.contains(#""actor":"http/127.0.0.1 (says ann)""#))
            #expect(history.body.contains("t 1"), "\(history.body)")
        }
    }

    @Test func `a group is removed over HTTP when nobody is in it, and refused with the reason before`() async throws {
        try await withService { redis, service in
            let path = "/v1/groups/old%2Fone"
            func remove(_ body: String = "", _ query: String = "") async throws -> Answer {
                try await service.request("DELETE", path + query, body)
            }
            let none = try await remove()
            #expect(none.status == 409 && none.body.contains(#""code":"noGroup""#), "\(none.body)")
            let joined = try await service.request("PUT", path + "/members/m", "{}")
            let session = try #require(joined["session"])
            let refused = try await remove(#"{"actor":"ann"}"#)
            #expect(refused.status == 409 && refused["code"] == "order.refused", "\(refused.body)")
            #expect(refused.body.contains(#""code":"hasMembers""#) && refused.body.contains("somebody is still in it"))
            let bad = try await remove(#"{"force":true}"#)
            #expect(bad.status == 400 && bad.body.contains("force"), "\(bad.body)")
            #expect(try await service.request("DELETE", path + "/members/m?session=" + session).status == 200)
            let misspelt = try await remove("", "?acter=ann")
            #expect(misspelt.status == 400 && misspelt["field"] == "acter", "\(misspelt.body)")
            let done = try await remove("", "?actor=ann&reason=moved")
            #expect(done.status == 200, "\(done.body)")
            #expect(try await !service.request("GET", "/v1/groups").body.contains("old"))
            #expect(try await remove().status == 409)
            let events = try await service.request("GET", "/v1/events?after=0:0&limit=100")
            #expect(events.body.contains("group.removed") && events.body.contains(#""reason":"moved""#))
            #expect(events.body.contains(#"http\/127.0.0.1 (says ann)"#), "\(events.body)")
        }
    }

    @Test func `who finds no place in a lock's line is told so over HTTP`() async throws {
        try await withRedis { redis in
            let service = try await Service.start(["--redis", redis.unixURL, "--max-waiters", "1"] + Self.patient)
            #expect(try await service.request("POST", "/v1/locks/a/acquire", #"{"ttlMs":600000}"#).status == 200)
            let waiting = Task {
                try await service.request("POST", "/v1/locks/a/acquire", #"{"ttlMs":1000,"waitMs":300000}"#)
            }
            try await eventually("one waits") {
                try await redis.cli("ZCARD", "ringfence:{default}:queue:a").contains("1")
            }
            let refused = try await service.request(
                "POST", "/v1/locks/a/acquire", #"{"ttlMs":1000,"waitMs":300000}"#)
            #expect(refused.status == 409 && refused["code"] == "limit.reached", "\(refused.body)")
            #expect(refused["effect"] == "none" && refused.body.contains("limits.waiters"), "\(refused.body)")
            #expect(try await service.request("DELETE", "/v1/locks/a", "{}").status == 200)
            #expect(try await waiting.value.status == 200)
            _ = await service.stop()
        }
    }

    @Test func `operators pause, maintain, set and release over HTTP, and each is an event`() async throws {
        try await withService { redis, service in
            let one = Candidate("one", service)
            try await one.put()
            func order(_ name: String, _ body: String, _ method: String = "POST") async throws -> Answer {
                try await service.request(method, "/v1/groups/g/\(name)", body)
            }
            #expect(try await order("pause", #"{"forMs":60000,"actor":"ann"}"#).status == 200)
            #expect(try await service.request("GET", "/v1/groups/g").body.contains(#""pausedMs":5"#))
            #expect(try await order("resume", "{}").status == 200)
            #expect(try await order("maintenance", #"{"member":"one","on":true}"#).status == 200)
            #expect(try await service.request("GET", "/v1/groups/g").body.contains(#""state":"maintenance""#))
            #expect(try await order("maintenance", #"{"member":"one","on":false}"#).status == 200)
            #expect(try await order("settings", #"{"maxLag":1000,"failback":"manual"}"#).status == 200)
            #expect(try await service.request("GET", "/v1/groups/g").body.contains(#""maxLag":1000"#))
            let open = #"{"state":"open","actor":"ann","reason":"wrong balances"}"#
            #expect(try await order("breaker", open).status == 200)
            #expect(try await service.request("GET", "/v1/groups/g")["breaker"] == "open")
            #expect(try await service.request("GET", "/v1/groups/g/primary")["breaker"] == "open")
            #expect(try await order("breaker", #"{"state":"automatic","reason":"mended"}"#).status == 200)
            #expect(try await service.request("GET", "/v1/groups/g")["breaker"] == "automatic")
            let history = try await service.request("GET", "/v1/groups/g/history")
            #expect(history.body.contains(#""kind":"breaker","#) && history.body.contains("wrong balances"))
            #expect(try await order("acknowledge", "{}").status == 200)
            #expect(try await order("switchover", "{}", "DELETE").status == 200)
            let events = try await service.request("GET", "/v1/events?after=0:0&limit=100")
            for type in ["group.paused", "group.resumed", "member.maintenance", "group.settings", "breaker.forced"] {
                #expect(events.body.contains(type), "\(type)")
            }
        }
    }

    @Test(arguments: [
        ("POST", "switchover", #"{"timeoutMs":5}"#, "timeoutMs"),
        ("POST", "switchover", #"{"target":"x"}"#, "target"),
        ("POST", "failover", "{}", "to"),
        ("POST", "failover", #"{"to":"x"}"#, "acceptsDataLoss"),
        ("POST", "pause", "{}", "forMs"),
        ("POST", "pause", #"{"forMs":10}"#, "forMs"),
        ("POST", "maintenance", #"{"on":true}"#, "member"),
        ("POST", "settings", #"{"rank":"luck"}"#, "rank"),
        ("POST", "settings", #"{"maxLag":-2}"#, "maxLag"),
        ("POST", "breaker", "{}", "state"),
        ("POST", "breaker", #"{"state":"half","reason":"x"}"#, "state"),
        ("POST", "breaker", #"{"state":7,"reason":"x"}"#, "state"),
        ("POST", "breaker", #"{"state":"open"}"#, "reason"),
        ("POST", "breaker", #"{"state":"open","reason":""}"#, "reason"),
        ("POST", "breaker", #"{"state":"open","reason":"x","actor":""}"#, "actor"),
        ("POST", "settings", #"{"breaker":"open"}"#, "breaker"),
        ("PUT", "members/m", #"{"position":5}"#, "position"),
        ("PUT", "members/m", #"{"candidate":true,"position":-1}"#, "position"),
        ("PUT", "members/m", #"{"candidate":true,"claim":{"state":"king","epoch":1}}"#, "state"),
        ("PUT", "members/m", #"{"candidate":true,"claim":{"state":"ready"}}"#, "epoch"),
        (
            "PUT", "members/m", #"{"candidate":true,"claim":{"state":"readyToHandOver","epoch":1,"position":9}}"#,
            "version"
        ),
        ("GET", "members?state=ill", "", "state"),
        ("GET", "history?limit=0", "", "limit"),
    ])
    func `a bad order names its field before anything is done`(
        method: String, path: String, body: String, field: String
    ) async throws {
        try await withService { redis, service in
            let answer = try await service.request(method, "/v1/groups/g/" + path, body)
            #expect(answer.status == 400 && answer.body.contains(field), "\(answer.body)")
            #expect(try await redis.cli("KEYS", "ringfence:*").isEmpty)
        }
    }
}
