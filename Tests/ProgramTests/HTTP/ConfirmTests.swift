// SPDX-License-Identifier: Apache-2.0
import RingfencePlatform
import TestSupport
import Testing

@Suite struct ConfirmTests {
    private static let lockKey = "ringfence:{default}:lock:job"

    /// A service whose Redis has a replica in step.
    private func withReplica(_ body: @Sendable (Service, RedisServer, RedisServer) async throws -> Void) async throws {
        try await withService { service, primary in
            try await withRedis(["--replicaof", "127.0.0.1", "\(primary.port)"]) { replica in
                try await eventually("in step") { try await primary.cli("WAIT", "1", "10") == "1" }
                try await body(service, primary, replica)
            }
        }
    }

    private func acquire(_ service: Service, _ confirm: String, ttl: Int = 60_000) async throws -> Answer {
        try await service.request(
            "POST", "/v1/locks/job/acquire", #"{"ttlMs":\#(ttl),"waitMs":20000,"confirm":\#(confirm)}"#)
    }

    @Test(arguments: ["1", #""all""#])
    func `a confirmed hold is on the replica, and is renewed and released as any other`(replicas: String) async throws {
        try await withReplica { service, _, replica in
            let hold = try await acquire(service, #"{"replicas":\#(replicas),"withinMs":3000}"#)
            try #require(hold.status == 200, "\(hold.body)")
            let token = try #require(hold["token"])
            #expect(try await replica.cli("GET", Self.lockKey) == token)
            let renewed = try await service.request(
                "POST", "/v1/locks/job/renew", #"{"token":"\#(token)","ttlMs":60000}"#)
            #expect(renewed.status == 200)
            let released = try await service.request("POST", "/v1/locks/job/release", #"{"token":"\#(token)"}"#)
            #expect(released.status == 200)
            let both = try await service.request(
                "POST", "/v1/locks:acquire",
                #"{"names":["a","b"],"ttlMs":60000,"confirm":{"replicas":\#(replicas),"withinMs":3000}}"#)
            #expect(both.status == 200, "\(both.body)")
        }
    }

    @Test func `with its replica frozen a confirmed hold answers 409 and is given back, and others go on`()
        async throws
    {
        try await withReplica { service, primary, replica in
            await replica.kill(SIGSTOP)
            for replicas in ["1", #""all""#] {
                let refused = try await acquire(service, #"{"replicas":\#(replicas),"withinMs":100}"#)
                #expect(refused.status == 409 && refused["code"] == "lock.notConfirmed", "\(refused.body)")
                #expect(refused["effect"] == "none" && refused["retryAfterMs"] == "1000")
                #expect(refused["detail"]?.contains("0 of 1") == true, "\(refused.body)")
                try await eventually("given back") { try await primary.cli("EXISTS", Self.lockKey) == "0" }
            }
            let plain = try await service.request("POST", "/v1/locks/job/acquire", #"{"ttlMs":60000}"#)
            #expect(plain.status == 200)
            await replica.kill(SIGCONT)
        }
    }

    @Test func `a confirmation that cannot be meant is refused with its field`() async throws {
        try await withService { service, _ in
            for (confirm, field) in [
                ("1", "confirm"), ("{}", "withinMs"), (#"{"withinMs":100}"#, "replicas"),
                (#"{"replicas":0,"withinMs":100}"#, "replicas"), (#"{"replicas":"most","withinMs":100}"#, "replicas"),
                (#"{"replicas":1,"withinMs":334}"#, "withinMs"), (#"{"replicas":1,"withinMs":100,"more":1}"#, "more"),
            ] {
                let refused = try await acquire(service, confirm, ttl: 1_000)
                #expect(refused.status == 400 && refused["field"] == field, "\(confirm): \(refused.body)")
                let isMissing = confirm.hasPrefix("{") && !confirm.contains(field)
                #expect(refused.body.contains("is missing") == isMissing, "\(confirm): \(refused.body)")
            }
        }
    }

    @Test func `ringfence lock runs its command only when enough replicas have the lock`() async throws {
        try await withReplica { _, primary, replica in
            func lock(_ more: String...) async throws -> (code: Int32, output: String, error: String) {
                try await Program.run(["lock", "job", "--redis", primary.unixURL] + more + ["--", "echo", "ran"])
            }
            let all = try await lock("--confirm", "all", "--confirm-within", "3s")
            #expect(all.code == 0 && all.output == "ran\n", "\(all)")
            let two = try await lock("--confirm", "2")
            #expect(two.code == 75 && two.output.isEmpty && two.error.contains("1 of 2"), "\(two)")
            await replica.kill(SIGSTOP)
            let frozen = try await lock("--confirm", "all")
            #expect(frozen.code == 75 && frozen.output.isEmpty && frozen.error.contains("0 of 1"), "\(frozen)")
            await replica.kill(SIGCONT)
            for wrong in [["--confirm", "0"], ["--confirm", "some"], ["--confirm-within", "1s"]] {
                let refused = try await Program.run(
                    ["lock", "job", "--redis", primary.unixURL] + wrong + ["--", "echo", "ran"])
                #expect(refused.code == 64, "\(refused)")
            }
        }
    }

    @Test func `a Redis that refuses for now is told by a title of its own, and never by a script's digest`()
        async throws
    {
        try await withService(redis: [], ["--command-timeout", "300ms"]) { service, redis in
            try await redis.cli("CONFIG", "SET", "min-replicas-to-write", "1")
            let refused = try await service.request("POST", "/v1/locks/job/acquire", #"{"ttlMs":60000}"#)
            #expect(refused.status == 503 && refused["code"] == "coordinator.unavailable", "\(refused.body)")
            #expect(refused["title"] == "Redis has too few replicas" && refused["effect"] == "none")
            #expect(refused["detail"]?.contains("min-replicas-to-write") == true)
            #expect(!refused.body.contains("user_script") && !refused.body.contains("NOREPLICAS"))
            let metrics = try await service.request("GET", "/metrics").body
            #expect(metrics.contains(#"ringfence_redis_refusals_total{prefix="NOREPLICAS"}"#), "\(metrics)")
            #expect(metrics.contains("ringfence_redis_generation 1"), "\(metrics)")
        }
    }
}
