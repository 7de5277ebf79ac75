// SPDX-License-Identifier: Apache-2.0
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

@Suite struct ReadinessTests {
    private func ready(_ service: Service) async throws -> Answer { try await service.request("GET", "/readyz") }

    @Test func `readyz names the Redis that is used`() async throws {
        try await withService { service, redis in
            try await withRedis(["--replicaof", "127.0.0.1", "\(redis.port)"]) { _ in
                try await eventually("it has a replica") { try await ready(service)["replicas"] == "1" }
                let answer = try await ready(service)
                #expect(answer.status == 200 && answer["status"] == "ready" && answer["kind"] == "single")
                #expect(answer["primary"] == redis.socketPath && answer["generation"] == "1", "\(answer.body)")
                let version = try await redis.cli("INFO", "server")
                let name = version.contains("valkey_version") ? "Valkey " : "Redis "
                #expect(answer["software"]?.hasPrefix(name) == true, "\(answer.body)")
                #expect(answer["sinceMs"].flatMap { Int($0) } != nil && !answer.body.contains("faults"))
            }
        }
    }

    @Test func `readyz says by a code why locks cannot be had, and by a sentence what to do`() async throws {
        try await withService(redis: [], ["--command-timeout", "500ms"]) { service, redis in
            try await redis.cli("CONFIG", "SET", "min-replicas-to-write", "1")
            try await eventually("it is not ready") { try await ready(service)["code"] == "redis.notReady" }
            try await redis.cli("CONFIG", "SET", "min-replicas-to-write", "0")
            try await eventually("it is ready") { try await ready(service).status == 200 }
            try await redis.cli("REPLICAOF", "127.0.0.1", "1")
            try await eventually("it is a replica") {
                let answer = try await ready(service)
                guard answer["code"] == "redis.isReplica" else { return false }
                #expect(answer.status == 503 && answer["title"] == "This Redis is a replica", "\(answer.body)")
                #expect(answer["detail"]?.contains("primary") == true, "\(answer.body)")
                return true
            }
            try await redis.cli("REPLICAOF", "NO", "ONE")
            try await eventually("it is ready again") { try await ready(service).status == 200 }
        }
    }

    /// What the article on the data model says, word for word, for a password of the test's.
    private static func documentedUser() throws -> [String] {
        let article = contents(of: repositoryRoot + "Sources/Ringfence/Ringfence.docc/DataModel.md")
        let block = try #require(article.components(between: "```\nACL SETUSER", and: "```"))
        return ("ACL SETUSER" + block.replacing(">PASSWORD", with: ">secret")).split(whereSeparator: \.isWhitespace)
            .map(String.init)
    }

    private func withUser(
        _ change: [String], _ body: @Sendable (Service, RedisServer, String) async throws -> Void
    ) async throws {
        try await withRedis { redis in
            let words = try Self.documentedUser()
            #expect(try await redisCLI(["-s", redis.socketPath] + words) == "OK")
            if !change.isEmpty {
                #expect(try await redisCLI(["-s", redis.socketPath, "ACL", "SETUSER", "ringfence"] + change) == "OK")
            }
            let url = "redis://ringfence:secret@127.0.0.1:\(redis.port)"
            let service = try await Service.start(["--redis", url, "--namespace", "payments"])
            do { try await body(service, redis, url) } catch {
                _ = await service.stop()
                throw TestSupportError("\(error)\nthe service said: \(service.program.error)")
            }
            _ = await service.stop()
        }
    }

    private func doctor(_ url: String) async throws -> String {
        try await Program.run(
            ["doctor", "--seconds", "1", "--redis", url, "--namespace", "payments", "--json"]
        ).output
    }

    @Test func `the documented user may do all that is needed`() async throws {
        try await withUser([]) { service, redis, url in
            let answer = try await ready(service)
            #expect(answer.status == 200 && !answer.body.contains("faults"), "\(answer.body)")
            let held = try await service.request("POST", "/v1/locks/job/acquire", #"{"ttlMs":60000}"#)
            let token = try #require(held["token"])
            async let next = service.request("POST", "/v1/locks/job/acquire", #"{"ttlMs":60000,"waitMs":30000}"#)
            try await eventually("one waits") {
                try await redis.cli("ZCARD", "ringfence:{payments}:queue:job") == "1"
            }
            #expect(
                try await service.request("POST", "/v1/locks/job/release", #"{"token":"\#(token)"}"#).status == 200)
            #expect(try await next.status == 200)
            let joined = try await service.request("PUT", "/v1/groups/g/members/one", #"{"ttlMs":60000}"#)
            #expect(joined.status == 200, "\(joined.body)")
            #expect(try await service.request("GET", "/v1/events?limit=10").body.contains("member.joined"))
            #expect(try await service.request("GET", "/v1/locks").body.contains("job"))
            let report = try await doctor(url)
            #expect(!report.contains("orbidden\"") || !report.contains("problem"), "\(report)")
            #expect(!service.program.error.contains("may not"), "\(service.program.error)")
        }
    }

    @Test func `a user without channels is told of once, with the order that mends it`() async throws {
        try await withUser(["resetchannels"]) { service, redis, url in
            _ = try await service.request("POST", "/v1/locks/job/acquire", #"{"ttlMs":60000,"waitMs":1000}"#)
            try await eventually("it is told") {
                let answer = try await ready(service)
                return answer.status == 200 && answer.body.contains(#""code":"redis.channelForbidden""#)
            }
            let answer = try await ready(service)
            #expect(answer.body.contains("ACL SETUSER ringfence &ringfence:{payments}:*"), "\(answer.body)")
            // From the client; `serve` has said at its start what the doctor says.
            let said = "the user ringfence of Redis may not"
            try await eventually("the log has it") { service.program.error.contains(said) }
            #expect(service.program.error.split(separator: said).count == 2, "\(service.program.error)")
            #expect(!service.program.error.contains("connecting again"), "\(service.program.error)")
            #expect(try await doctor(url).contains("redis.channelForbidden"))
        }
    }

    @Test func `a list of locks fails where it cannot be known, and says what to give`() async throws {
        func locks(_ url: String) async throws -> (code: Int32, output: String, error: String) {
            try await Program.run(["locks", "--redis", url, "--command-timeout", "500ms"])
        }
        try await withRedis(["--cluster-enabled", "yes"]) { node in
            let single = try await locks(node.url)
            #expect(single.code == 69 && single.error.contains("redis+cluster://"), "\(single)")
            // It has no slots, so nobody knows.
            let cluster = try await locks("redis+cluster://127.0.0.1:\(node.port)")
            #expect(cluster.code == 69 && !cluster.output.contains("no lock"), "\(cluster)")
        }
        try await withRedis { primary in
            try await withRedis(["--replicaof", "127.0.0.1", "\(primary.port)"]) { replica in
                try await eventually("it follows") { try await primary.cli("WAIT", "1", "10") == "1" }
                let answer = try await locks(replica.url)
                #expect(answer.code == 69 && answer.error.contains("is a replica of"), "\(answer)")
            }
        }
    }

    @Test func `a user who may not run what locks need is told so`() async throws {
        try await withUser(["-time"]) { service, _, _ in
            let answer = try await ready(service)
            #expect(answer.status == 503 && answer["code"] == "redis.forbidden", "\(answer.body)")
            #expect(!answer.body.contains("user_script"), "\(answer.body)")
        }
    }
}

extension String {
    fileprivate func components(between start: String, and end: String) -> String? {
        guard let from = firstRange(of: start)?.upperBound else { return nil }
        return self[from...].firstRange(of: end).map { String(self[from..<$0.lowerBound]) }
    }
}
