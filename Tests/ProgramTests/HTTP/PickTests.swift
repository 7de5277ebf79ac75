// SPDX-License-Identifier: Apache-2.0
//
// Whom to call, asked over HTTP and on the command line, on a real Redis. How a policy picks is the library's business;
// here it must reach a stranger in the right words, calls must be counted until they end, and what cannot be answered
// must be said.
import NIOCore
import NIOPosix
import Ringfence
import RingfencePlatform
import TestSupport
import Testing

@testable import RingfenceHTTP

@Suite struct PickTests {
    private func withPool(
        _ ids: [String] = ["a", "b"], patience: String = "30s",
        _ body: @Sendable (Service, RedisServer) async throws -> Void
    ) async throws {
        try await withService(["--command-timeout", patience]) { service, redis in
            for (number, id) in ids.enumerated() {
                let fields = #""address":"10.0.0.\#(number):80","zone":"z\#(number)","ttlMs":3600000"#
                let joined = try await service.request("PUT", "/v1/groups/pool/members/\(id)", "{\(fields)}")
                #expect(joined.status == 200, "\(joined.body)")
            }
            // The service sees what it wrote when the answer or the event has come.
            try await eventually("all are seen", within: .seconds(60)) {
                try await service.request("GET", "/v1/groups/pool/ring").body.contains(#""id":"\#(ids.last ?? "")""#)
            }
            try await body(service, redis)
        }
    }

    private func pick(_ service: Service, _ body: String = "{}") async throws -> Answer {
        try await service.request("POST", "/v1/groups/pool/pick", body)
    }

    private func end(_ service: Service, _ call: String, _ outcome: String) async throws -> Answer {
        try await service.request("POST", "/v1/groups/pool/calls/\(call)", #"{"outcome":"\#(outcome)"}"#)
    }

    @Test func `each policy picks, and says whom, where, and of which version`() async throws {
        try await withPool { service, _ in
            let answer = try await service.request("POST", "/v1/groups/pool/pick")
            #expect(
                answer.status == 200 && answer["policy"] == "leastLoaded" && answer["call"] == nil, "\(answer.body)")
            #expect(answer["group"] == "pool" && answer["version"] == "2" && answer["stale"] == "false")
            let member = try #require(answer["member"])
            let number = member == "a" ? 0 : 1
            #expect(answer["address"] == "10.0.0.\(number):80" && answer["zone"] == "z\(number)")
            #expect(answer["weight"] == "1")
            for policy in ["leastLoaded", "peakEWMA", "weighted", "random"] {
                #expect(try await pick(service, #"{"policy":"\#(policy)"}"#)["policy"] == policy)
            }
            var turns: [String?] = []
            for _ in 0..<8 { turns.append(try await pick(service, #"{"policy":"roundRobin"}"#)["member"]) }
            #expect(Set(turns) == ["a", "b"])
            let owner = try await service.request("GET", "/v1/groups/pool/ring?key=account/4711")
            for policy in ["ringHash", "boundedLoad"] {
                let picked = try await pick(service, #"{"policy":"\#(policy)","key":"account/4711"}"#)
                #expect(picked["member"] == owner["owner"], "\(picked.body)")
            }
            for _ in 0..<8 {
                #expect(try await pick(service, #"{"policy":"nearestZone","zone":"z1"}"#)["member"] == "b")
            }
            let nowhere = try await pick(service, #"{"policy":"nearestZone","zone":"moon"}"#)
            #expect(nowhere.status == 200 && nowhere["policy"] == "nearestZone", "all are as near")
            let primary = try await pick(service, #"{"policy":"primaryOnly"}"#)
            #expect(primary.status == 503 && primary["code"] == "balancer.noMember", "\(primary.body)")
        }
    }

    @Test func `a call that is tracked counts until it is reported, and reports teach the balancer`() async throws {
        try await withPool { service, _ in
            let first = try await pick(service, #"{"trackMs":600000}"#)
            let (busy, call) = (try #require(first["member"]), try #require(first["call"]))
            for _ in 0..<8 { #expect(try await pick(service)["member"] != busy, "the other one has fewer calls") }
            let other = try await service.request("PUT", "/v1/groups/else/members/x", #"{"ttlMs":60000}"#)
            #expect(other.status == 200)
            let elsewhere = try await service.request(
                "POST", "/v1/groups/else/calls/\(call)", #"{"outcome":"success"}"#)
            #expect(elsewhere.status == 404 && elsewhere["code"] == "call.notFound")
            let ended = try await end(service, call, "success")
            #expect(ended.status == 200 && ended["member"] == busy && ended["outcome"] == "success", "\(ended.body)")
            let again = try await end(service, call, "failure")
            #expect(again.status == 404 && again["code"] == "call.notFound" && again["effect"] == "none")
            #expect(again["detail"]?.contains("another instance") == true)

            let key = #"{"policy":"ringHash","key":"account/4711","trackMs":600000}"#
            let owner = try #require(try await pick(service, key)["member"])
            for outcome in Array(repeating: "cancelled", count: 8) + Array(repeating: "failure", count: 5) {
                let picked = try await pick(service, key)
                #expect(picked["member"] == owner)
                #expect(try await end(service, try #require(picked["call"]), outcome).status == 200)
            }
            #expect(try await pick(service, key)["member"] != owner, "five failures in a row")
        }
    }

    @Test func `a report that never comes ends the call when its time is over, and is no failure`() async throws {
        try await withPool { service, _ in
            let key = #"{"policy":"ringHash","key":"account/4711","trackMs":1}"#
            let owner = try #require(try await pick(service, key)["member"])
            var call = ""
            for _ in 0..<20 {
                let picked = try await pick(service, key)
                #expect(picked["member"] == owner)
                call = try #require(picked["call"])
            }
            try await eventually("it is over") { try await end(service, call, "failure").status == 404 }
            #expect(try await pick(service, key)["member"] == owner)
        }
    }

    @Test func `a pick whose answer nobody took leaves no call behind`() async throws {
        try await withPool { first, redis in
            let proxy = try await TCPProxy.start(to: redis)
            let service = try await Service.start(
                ["--redis", "redis://127.0.0.1:\(proxy.port)", "--command-timeout", "30s"])
            // What the service asks first, it has asked by then.
            #expect(try await service.request("POST", "/v1/groups/nowhere/pick").status == 503)
            proxy.update { $0.serverToClient.isStalled = true }
            let connection = try await service.connect()
            let before = proxy.bytesToServer
            try await connection.send("POST", "/v1/groups/pool/pick", #"{"trackMs":600000}"#)
            try await eventually("Redis was asked for the group") { proxy.bytesToServer > before + 100 }
            try await connection.reset()
            proxy.update { $0.serverToClient.isStalled = false }
            try await eventually("the call is over", within: .seconds(60)) {
                let page = try await service.request("GET", "/metrics").body
                return page.contains(
                    #"ringfence_balancer_calls_total{group="pool",outcome="cancelled",policy="leastLoaded"} 1"#)
            }
            _ = await service.stop()
            await proxy.close()
        }
    }

    @Test func `so many calls are kept and no more, and one that is not kept is over`() throws {
        let balancer = try Balancer(.leastLoaded, members: [("a", 1, "")])
        let loop = MultiThreadedEventLoopGroup.singleton.any()
        let calls = OutstandingCalls(most: 2)
        func keep() throws -> String? {
            let call = try balancer.begin()
            return calls.keep(call, of: "g", for: 600_000, on: loop)
        }
        func outstanding() -> Int { balancer.state.members[0].outstanding }
        let first = try #require(try keep())
        #expect(calls.hasRoom)
        _ = try #require(try keep())
        #expect(!calls.hasRoom && outstanding() == 2)
        #expect(try keep() == nil && outstanding() == 2)
        #expect(calls.end(first, of: "g", .success)?.id == "a" && calls.hasRoom && outstanding() == 1)
    }

    @Test func `a breaker that failures opened says when it lets calls through again`() async throws {
        try await withPool { service, _ in
            var refused: Answer?
            for _ in 0..<200 where refused == nil {
                let picked = try await pick(service, #"{"trackMs":60000}"#)
                guard picked.status == 200 else {
                    refused = picked
                    break
                }
                let call = try #require(picked["call"])
                _ = try await service.request("POST", "/v1/groups/pool/calls/\(call)", #"{"outcome":"failure"}"#)
            }
            let answer = try #require(refused)
            #expect(answer["code"] == "breaker.open", "\(answer.body)")
            // It is open for 5 s, and the message says how much of that is left.
            let said = answer.body.split(separator: " again in ").last?.prefix { $0.isNumber }
            #expect(answer["retryAfterMs"].flatMap { Int($0) } == said.flatMap { Int($0) }, "\(answer.body)")
            #expect(Int(said ?? "") ?? 0 > 1_000, "\(answer.body)")
        }
    }

    @Test func `a breaker that an operator forced open is a 503 at every instance, until it is let go`() async throws {
        try await withPool { one, redis in
            let two = try await Service.start(["--redis", redis.unixURL, "--command-timeout", "30s"])
            for service in [one, two] { #expect(try await pick(service).status == 200) }
            let open = #"{"state":"open","reason":"wrong balances"}"#
            #expect(try await one.request("POST", "/v1/groups/pool/breaker", open).status == 200)
            for service in [one, two] {
                try await eventually("it refuses", within: .seconds(60)) { try await pick(service).status == 503 }
                let refused = try await pick(service, #"{"trackMs":1000}"#)
                #expect(refused["code"] == "breaker.open" && refused["effect"] == "none", "\(refused.body)")
                #expect(refused.headers["retry-after"] == "1")
            }
            let run = try await Program.run(["pick", "pool", "--redis", redis.unixURL])
            #expect(run.code == 75 && run.output.isEmpty && run.error.contains("forced it open"), "\(run)")
            let let_go = #"{"state":"automatic","reason":"mended"}"#
            #expect(try await two.request("POST", "/v1/groups/pool/breaker", let_go).status == 200)
            for service in [one, two] {
                try await eventually("it goes on", within: .seconds(60)) { try await pick(service).status == 200 }
            }
            _ = await two.stop()
        }
    }

    @Test func `where nobody can be called it is said why, and when Redis is away the last members serve`() async throws
    {
        try await withPool(["a"], patience: "2s") { service, redis in
            let nowhere = try await service.request("POST", "/v1/groups/nowhere/pick", "{}")
            #expect(nowhere.status == 503 && nowhere["code"] == "balancer.noMember", "\(nowhere.body)")
            #expect(nowhere["detail"]?.contains("nobody ever joined") == true)
            await redis.kill(SIGKILL)
            var answer = try await pick(service)
            try await eventually("it is said to be stale", within: .seconds(120)) {
                answer = try await pick(service)
                return answer["stale"] == "true"
            }
            #expect(answer.status == 200 && answer["member"] == "a" && answer["version"] == "1", "\(answer.body)")
            let call = try #require(try await pick(service, #"{"trackMs":60000}"#)["call"])
            #expect(try await end(service, call, "success").status == 200)
            let unknown = try await service.request("POST", "/v1/groups/other/pick", "{}")
            #expect(unknown.status == 503 && unknown["code"] == "coordinator.unavailable")
        }
    }

    @Test(arguments: [
        (#"{"policy":"luck"}"#, "policy"), (#"{"policy":7}"#, "policy"), (#"{"policy":""}"#, "policy"),
        (#"{"policy":"ringHash"}"#, "key"), (#"{"policy":"boundedLoad"}"#, "key"), (#"{"key":7}"#, "key"),
        (#"{"zone":"a"}"#, "zone"), (#"{"policy":"nearestZone"}"#, "zone"),
        (#"{"policy":"nearestZone","zone":""}"#, "zone"),
        (#"{"policy":"nearestZone","zone":7}"#, "zone"),
        (
            #"{"policy":"nearestZone","zone":"\#(String(repeating: "0123456789", count: 7))"}"#,
            "zone"
        ),
        (#"{"trackMs":0}"#, "trackMs"), (#"{"trackMs":600001}"#, "trackMs"), (#"{"trackMs":"10s"}"#, "trackMs"),
        (#"{"trackMs":1.5}"#, "trackMs"), (#"{"member":"a"}"#, "member"), ("[]", "body"),
    ])
    func `a bad pick names its field`(body: String, field: String) async throws {
        try await withService { service, _ in
            let answer = try await pick(service, body)
            #expect(answer.status == 400 && answer["field"] == field, "\(answer.body)")
        }
    }

    @Test func `a bad report names its field, and an id that is none is not found`() async throws {
        try await withService { service, _ in
            for (body, field) in [
                ("{}", "outcome"), (#"{"outcome":"maybe"}"#, "outcome"), (#"{"outcome":true}"#, "outcome"),
                (#"{"result":"success"}"#, "result"), ("", "body"),
            ] {
                let answer = try await service.request("POST", "/v1/groups/g/calls/0123456789abcdef", body)
                #expect(answer.status == 400 && answer["field"] == field, "\(body): \(answer.body)")
            }
            for id in [
                "0123456789abcdef", "0", "+123456789abcdef", "0123456789ABCDEF", "x%20y", "ffffffffffffffffffff",
            ] {
                let answer = try await end(service, id, "success")
                #expect(answer.status == 404 && answer["code"] == "call.notFound", "\(id): \(answer.body)")
            }
            let long = try await end(service, String(repeating: "a", count: 600), "success")
            #expect(long.status == 400 && long["field"] == "call", "\(long.body)")
        }
    }

    @Test func `the command prints addresses, or ids, or JSON, and tells what cannot be`() async throws {
        try await withPool { service, redis in
            func run(_ arguments: String...) async throws -> (code: Int32, output: String, error: String) {
                try await Program.run(["pick"] + arguments + ["--redis", redis.unixURL, "--command-timeout", "30s"])
            }
            let one = try await run("pool", "--policy", "nearestZone", "--zone", "z1")
            #expect(one.code == 0 && one.output == "10.0.0.1:80\n", "\(one)")
            let many = try await run("pool", "--policy", "roundRobin", "--count", "4")
            let lines = many.output.split(separator: "\n").sorted()
            #expect(lines == ["10.0.0.0:80", "10.0.0.0:80", "10.0.0.1:80", "10.0.0.1:80"], "\(many)")
            let json = try await run("pool", "--policy", "ringHash", "--key", "k", "--json")
            #expect(json.output.hasPrefix(#"{"group":"pool","version":2,"stale":false,"#), "\(json)")
            let bare = try await service.request("PUT", "/v1/groups/bare/members/x", #"{"ttlMs":3600000}"#)
            #expect(bare.status == 200)
            #expect(try await run("bare").output == "x\n")
            let none = try await run("nowhere")
            #expect(none.code == 1 && none.error.contains("no group nowhere"), "\(none)")
            let primary = try await run("pool", "--policy", "primaryOnly")
            #expect(primary.code == 75 && primary.error.contains("nobody to call"), "\(primary)")
            let help = try await run("--help")
            #expect(help.code == 0 && help.output.contains("EXAMPLES") && help.output.contains("POLICY"))
        }
    }

    @Test(arguments: [
        (["--policy", "luck"], "policy must be one of"), (["--policy", "ringHash"], "--key"),
        (["--zone", "a"], "--zone"),
        (["--policy", "nearestZone"], "--zone"), (["--count", "0"], "1 to 1000"), (["--count", "1001"], "1 to 1000"),
    ])
    func `a bad option is refused by its name and limit, and nothing is asked of Redis`(
        arguments: [String], says: String
    ) async throws {
        let run = try await Program.run(["pick", "g"] + arguments + ["--redis", "redis://127.0.0.1:1"])
        #expect(run.code == 64 && run.error.contains(says), "\(run)")
    }
}
