// SPDX-License-Identifier: Apache-2.0
//
// A group's ring as the command line and the HTTP service show it, of real members on a real Redis. That rings are
// right is the library's business; here each answer is held against the library's own.
import Logging
import Ringfence
import RingfencePlatform
import TestSupport
import Testing

@Suite struct RingTests {
    static let members: [(id: String, zone: String, weight: Int)] = [
        ("10.0.0.1:7000", "a", 1), ("10.0.0.2:7000", "b", 2), ("10.0.0.3:7000", "c", 1), ("10.0.0.4:7000", "a", 0),
    ]

    /// What the group's ring must be.
    static let ring: HashRing? = try? HashRing(
        members.map { .init(id: $0.id, zone: $0.zone, weight: $0.weight) }, seed: 7, pointsPerWeight: 32)

    /// Runs `body` while the members are in group `ledger/eu`.
    private func withMembers<Result: Sendable>(
        _ redis: RedisServer, _ body: @Sendable (HashRing) async throws -> Result
    ) async throws -> Result {
        var logger = Logger(label: "ring")
        logger.logLevel = .critical
        let client = try RingfenceClient(.init(url: redis.unixURL, commandTimeout: .seconds(10)), logger: logger)
        do {
            let group = try await client.group("ledger/eu", options: .init(seed: 7, pointsPerWeight: 32))
            for member in Self.members {
                _ = try await group.join(member.id, zone: member.zone, weight: member.weight, lease: .seconds(3600))
            }
            let result = try await body(try #require(Self.ring))
            await client.shutdown()
            return result
        } catch {
            await client.shutdown()
            throw error
        }
    }

    // MARK: HTTP

    @Test func `the ring, a key's owner and a plan over HTTP are the library's`() async throws {
        try await withService { service, redis in
            try await withMembers(redis) { ring in
                let path = "/v1/groups/ledger%2Feu/ring"
                let shown = try await service.request("GET", path)
                #expect(shown.status == 200)
                #expect(shown["group"] == "ledger/eu" && shown["version"] == "4" && shown["stale"] == "false")
                #expect(shown["digest"] == "\(ring.digest)")
                #expect(
                    shown["seed"] == "0000000000000007" && shown["pointsPerWeight"] == "32" && shown["points"] == "128")
                for member in Self.members { #expect(shown.body.contains("\"id\":\"\(member.id)\"")) }

                for key in ["account/4711", "", "a&b=c"] {
                    let encoded = key.utf8.map { "%" + ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
                    let owner = try await service.request("GET", "\(path)?key=\(encoded)&count=2")
                    let list = ring.preferenceList(for: key, count: 2).map { "\"\($0)\"" }.joined(separator: ",")
                    #expect(owner.status == 200 && owner["owner"] == ring.owner(of: key))
                    #expect(owner.body.contains("\"preference\":[\(list)]"))
                }
                let number = try await service.request("GET", "\(path)?number=18446744073709551615")
                #expect(number["owner"] == ring.owner(of: UInt64.max))

                let joining = [HashRing.Member(id: "10.0.0.2:7000", zone: "b", weight: 1), .init(id: "new", zone: "d")]
                let plan = try ring.plan(joining: joining, leaving: ["10.0.0.1:7000"])
                let body = #"""
                    {"joining":{"10.0.0.2:7000":{"weight":1},"new":{"zone":"d"}},\#
                    "leaving":["10.0.0.1:7000"],"ranges":true}
                    """#
                let planned = try await service.request("POST", path + "/plan", body)
                #expect(planned.status == 200)
                #expect(planned["positions"] == String(plan.positions))
                #expect(planned["ranges"] == String(plan.moves.count))
                let next = try ring.applying(joining: joining, leaving: ["10.0.0.1:7000"])
                #expect(planned["digestAfter"] == "\(next.digest)")
                #expect(planned.body.split(separator: #""after":"#).count - 1 == plan.moves.count)
                let short = try await service.request("POST", path + "/plan", #"{"leaving":["10.0.0.1:7000"]}"#)
                #expect(short.status == 200 && !short.body.contains("moves"))
            }
        }
    }

    @Test func `when Redis is gone the last ring serves, marked stale with its age, and an unknown group is a 503`()
        async throws
    {
        try await withService { service, redis in
            try await withMembers(redis) { ring in
                let path = "/v1/groups/ledger%2Feu/ring"
                #expect(try await service.request("GET", path)["stale"] == "false")
                await redis.kill(SIGKILL)
                var answer = try await service.request("GET", path + "?key=account/4711")
                try await eventually("the answer says that it is stale", within: .seconds(120)) {
                    answer = try await service.request("GET", path + "?key=account/4711")
                    return answer["stale"] == "true"
                }
                #expect(answer.status == 200)
                #expect(answer["owner"] == ring.owner(of: "account/4711"))
                #expect(answer["digest"] == "\(ring.digest)")
                let age = try #require(answer["ageMs"].flatMap { Int($0) })
                #expect(age > 0)
                let plan = try await service.request("POST", path + "/plan", #"{"leaving":["10.0.0.1:7000"]}"#)
                #expect(plan.status == 200 && plan["stale"] == "true")
                let unknown = try await service.request("GET", "/v1/groups/other/ring")
                #expect(unknown.status == 503 && unknown["code"] == "coordinator.unavailable")
            }
        }
    }

    @Test func `what no ring can answer is refused with the field's name`() async throws {
        try await withService { service, _ in
            func field(_ method: String, _ path: String, _ body: String? = nil) async throws -> String? {
                let answer = try await service.request(method, "/v1/groups/g/ring" + path, body)
                #expect(answer.status == 400 && answer["code"] == "argument.invalid", "\(path) \(body ?? "")")
                return answer["field"]
            }
            #expect(try await service.request("GET", "/v1/groups/g/ring?count=3").status == 200, "as by default")
            #expect(try await field("GET", "?count=0") == "count")
            #expect(try await field("GET", "?key=a&count=%2B3") == "count")
            #expect(try await field("GET", "?key=a&count=0") == "count")
            #expect(try await field("GET", "?key=a&count=1001") == "count")
            #expect(try await field("GET", "?key=a&number=1") == "number")
            #expect(try await field("GET", "?number=18446744073709551616") == "number")
            #expect(try await field("GET", "?number=-1") == "number")
            #expect(try await field("GET", "?member=a") == "member")
            #expect(try await field("POST", "/plan", "") == "body")
            #expect(try await field("POST", "/plan", #"{"joining":["a"]}"#) == "joining")
            #expect(try await field("POST", "/plan", #"{"joining":{"a":1}}"#) == "joining")
            #expect(try await field("POST", "/plan", #"{"joining":{"a":{"weight":1001}}}"#) == "weight")
            #expect(try await field("POST", "/plan", #"{"joining":{"a":{"wieght":1}}}"#) == "wieght")
            #expect(try await field("POST", "/plan", #"{"joining":{"a":{"zone":1}}}"#) == "zone")
            #expect(try await field("POST", "/plan", #"{"leaving":"a"}"#) == "leaving")
            #expect(try await field("POST", "/plan", #"{"ranges":"yes"}"#) == "ranges")
            #expect(try await field("POST", "/plan", #"{"join":{}}"#) == "join")
            let stranger = try await service.request("POST", "/v1/groups/g/ring/plan", #"{"leaving":["nobody"]}"#)
            #expect(stranger.status == 404 && stranger["code"] == "member.notFound" && stranger.body.contains("nobody"))
            #expect(try await field("POST", "/plan", #"{"joining":{"a\u200b":{}}}"#) == "joining", "it could not join")
        }
    }

    @Test func `a group that never had a member has an empty ring, and its first member is seen later`() async throws {
        try await withService { service, redis in
            let path = "/v1/groups/ledger%2Feu/ring"
            let empty = try await service.request("GET", path + "?key=a")
            #expect(empty.status == 200 && empty["version"] == "0" && empty["owner"] == "null")
            let first = try await service.request("POST", path + "/plan", #"{"joining":{"first":{}}}"#)
            #expect(first["share"] == "1.0" && first["giver"] == "null" && first["taker"] == "first")
            try await withMembers(redis) { ring in
                try await eventually("the members are seen") {
                    try await service.request("GET", path)["digest"] == "\(ring.digest)"
                }
            }
        }
    }

    // MARK: Command line

    @Test func `the command line shows shares, owners and a plan, as text and as JSON`() async throws {
        try await withRedis { redis in
            try await withMembers(redis) { ring in
                func run(_ action: String?, _ arguments: String...) async throws -> String {
                    let named = ["ring"] + (action.map { [$0] } ?? []) + ["ledger/eu"]
                    let run = try await Program.run(named + arguments + ["--redis", redis.unixURL])
                    #expect(run.code == 0, "\(run)")
                    return run.output
                }
                let shares = try await run(nil)
                #expect(shares.hasPrefix("ledger/eu: 4 members, 128 points, version 4, digest \(ring.digest)\n"))
                #expect(shares.split(separator: "\n").count == 6)
                #expect(shares.contains("###"))
                #expect(shares.contains("drained"))
                #expect(try await run(nil, "--json").contains("\"digest\":\"\(ring.digest)\""))

                let owners = try await run("owner", "account/4711", "account/4712")
                #expect(owners.contains("account/4711  \(ring.owner(of: "account/4711") ?? "")\n"))
                #expect(owners.contains("account/4712  \(ring.owner(of: "account/4712") ?? "")\n"))
                let list = ring.preferenceList(for: 4711 as UInt64, count: 3).joined(separator: " ")
                #expect(try await run("owner", "4711", "--numbers", "--count", "3").contains("4711  \(list)\n"))
                let lines = try await run("owner", "a", "b", "--json").split(separator: "\n")
                #expect(lines.count == 2 && lines[1].contains(#""key":"b""#))

                let plan = try ring.plan(
                    joining: [.init(id: "10.0.0.2:7000", zone: "b", weight: 3)], leaving: ["10.0.0.1:7000"])
                let change = ["--join", #"10.0.0.2\:7000:3"#, "--leave", "10.0.0.1:7000"]
                let planned = try await run("plan", change[0], change[1], change[2], change[3])
                #expect(planned.contains(" of all keys would move, in \(plan.moves.count) ranges\n"))
                for flow in plan.flows { #expect(planned.contains("\(flow.giver ?? "")  \(flow.taker ?? "")  ")) }
                let json = try await run("plan", change[0], change[1], change[2], change[3], "--json", "--ranges")
                #expect(json.contains("\"positions\":\"\(plan.positions)\""))
                #expect(json.split(separator: #""after":"#).count - 1 == plan.moves.count)
            }
        }
    }

    @Test(arguments: [
        (["owner"], "<keys>"), (["plan"], "plan needs --join or --leave"),
        (["plan", "x", "--leave", "a"], "x"), (["show", "--join", "a"], "Unknown option '--join'"),
        (["plan", "--leave", "a", "--ranges"], "--ranges belongs to --json"),
        (["owner", "a", "--count", "0"], "1 to 1000"),
        (["owner", "a", "--numbers"], "not an unsigned 64-bit number"),
        (["show", "owner"], "before the name: ringfence ring owner ledger"),
        (["plam", "--leave", "a"], "no action plam; did you mean plan? The actions are: show, owner, plan"),
    ])
    func `a wrong command line is refused before Redis is asked`(arguments: [String], says: String) async throws {
        let line = ["ring", arguments[0], "ledger"] + arguments.dropFirst() + ["--redis", "redis://127.0.0.1:1"]
        let run = try await Program.run(line)
        #expect(run.code == 64, "\(run)")
        #expect(run.error.contains(says), "\(run)")
    }

    @Test func `a member that is none cannot leave in a plan, and the message says who`() async throws {
        try await withRedis { redis in
            let client = try RingfenceClient(.init(url: redis.unixURL, commandTimeout: .seconds(30)))
            do { _ = try await client.group("g").join("m", lease: .seconds(3600)) } catch {
                await client.shutdown()
                throw error
            }
            let run = try await Program.run(["ring", "plan", "g", "--leave", "nobody", "--redis", redis.unixURL])
            #expect(run.code == 64 && run.error.contains("\"nobody\" is none"), "\(run)")
            let away = try await Program.run(["ring", "g", "--redis", "redis://127.0.0.1:1"])
            #expect(away.code == 69, "\(away)")
            await client.shutdown()
        }
    }
}
