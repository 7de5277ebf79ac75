// SPDX-License-Identifier: Apache-2.0
//
// Callers that are gone before they have read their answer.
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

extension DoorTests {
    /// Waits until the service has ended all connections but the one that asks.
    private func allAreGone(_ service: Service) async throws {
        try await eventually("all connections are ended", within: .seconds(60)) {
            try await service.request("GET", "/metrics").body.contains("ringfence_http_connections 1.0\n")
        }
    }

    /// For a machine that is busy.
    private static let watchful = ["--delivery-time", "10s"]

    @Test func `a lock acquired without waiting by a caller that is gone is free again`() async throws {
        try await withService(Self.watchful) { service, redis in
            for _ in 0..<40 {
                let client = try DeafClient(port: service.port)
                client.send("POST", "/v1/locks/x/acquire", #"{"ttlMs":3600000}"#)
                client.hangUp()
            }
            try await allAreGone(service)
            try await eventually("nobody holds it", within: .seconds(60)) {
                try await redis.cli("EXISTS", Self.lock) == "0"
            }
        }
    }

    @Test func `a caller that closes a moment after it was granted the lock, without reading, has not got it`()
        async throws
    {
        try await withService(Self.watchful) { service, redis in
            for round in 0..<40 {
                let hold = try await service.request(
                    "POST", "/v1/locks/x/acquire", #"{"ttlMs":3600000,"waitMs":60000}"#)
                let token = try #require(hold["token"], "\(round): \(hold.body)")
                let client = try DeafClient(port: service.port)
                client.send("POST", "/v1/locks/x/acquire", #"{"ttlMs":3600000,"waitMs":60000}"#)
                try await eventually("it waits") {
                    try await redis.cli("ZCARD", "ringfence:{default}:queue:x") == "1"
                }
                let released = try await service.request("POST", "/v1/locks/x/release", #"{"token":"\#(token)"}"#)
                #expect(released.status == 200)
                client.hangUp()
            }
            try await eventually("nobody holds it", within: .seconds(60)) {
                try await redis.cli("EXISTS", Self.lock) == "0"
            }
        }
    }

    @Test func `a caller that read its answer and closes keeps its lock`() async throws {
        // A connection that its client ends in order is kept for so long.
        try await withService(["--delivery-time", "250ms"]) { service, redis in
            let connection = try await service.connect()
            try await connection.send("POST", "/v1/locks/x/acquire", #"{"ttlMs":3600000}"#)
            #expect(try await connection.answer()?.status == 200)
            try await connection.closeNow()
            try await allAreGone(service)
            #expect(try await redis.cli("EXISTS", Self.lock) == "1")
        }
    }

    @Test func `a reset with another answer behind the grant's takes nothing back, for it may be about that one`()
        async throws
    {
        try await withService(Self.watchful) { service, redis in
            let client = try DeafClient(port: service.port)
            client.send("POST", "/v1/locks/x/acquire", #"{"ttlMs":3600000}"#)
            client.send("POST", "/v1/locks/x/renew", #"{"token":"1:a-1-b:c","ttlMs":1000}"#)
            client.send("POST", "/v1/locks/x/renew", #"{"token":"1:a-1-b:c","ttlMs":1000}"#)
            // The grant's answer is behind us when the second of these was looked at.
            try await eventually("all are answered", within: .seconds(60)) {
                let metrics = try await service.request("GET", "/metrics").body
                return metrics.contains(#"ringfence_http_requests_total{route="renewLock",status="4xx"} 2"#)
            }
            client.hangUp()
            try await allAreGone(service)
            _ = try await service.request("GET", "/v1/locks/x")
            #expect(try await redis.cli("EXISTS", Self.lock) == "1")
        }
    }

    /// Proxies end their connections to servers with a reset, right behind an answer that they passed on.
    @Test(arguments: [("", []), ("", watchful), ("option forwardfor", watchful)])
    func `50 locks acquired through an HAProxy that does not reuse connections stay held`(
        option: String, arguments: [String]
    ) async throws {
        try await withService(arguments) { service, redis in
            let directory = try TemporaryDirectory()
            let port = try freePort()
            try writeFile(
                directory.path + "/haproxy.cfg",
                """
                defaults
                    mode http
                    timeout connect 60s
                    timeout client 60s
                    timeout server 60s
                    \(option)
                frontend front
                    bind 127.0.0.1:\(port)
                    default_backend back
                backend back
                    http-reuse never
                    server one 127.0.0.1:\(service.port)

                """)
            let path = Environment.values["PATH"] ?? "/usr/bin:/bin"
            let proxy = try await Program.start(
                program: "haproxy", ["-db", "-f", directory.path + "/haproxy.cfg"],
                environment: ["PATH=\(path):/usr/sbin:/sbin"], in: directory)
            try await eventually("HAProxy listens") {
                guard proxy.process.isRunning else { throw TestSupportError(proxy.output + proxy.error) }
                return (try? await RawConnection.open(port: port).close()) != nil
            }
            for number in 0..<50 {
                let connection = try await RawConnection.open(port: port)
                try await connection.send("POST", "/v1/locks/\(number)/acquire", #"{"ttlMs":3600000}"#)
                #expect(try await connection.answer()?.status == 200)
                try await connection.closeNow()
            }
            try await allAreGone(service)
            // What would be given back by now is on its way; behind it, on the same connection to Redis, this is not.
            _ = try await service.request("GET", "/v1/locks/0")
            for number in 0..<50 {
                #expect(try await redis.cli("EXISTS", "ringfence:{default}:lock:\(number)") == "1", "\(number)")
            }
            proxy.process.signal(SIGTERM)
            _ = await proxy.process.wait()
        }
    }

    @Test func `a repeated acquire with its requestId finds its own grant, and nobody else's`() async throws {
        try await withService { service, redis in
            let body = #"{"ttlMs":60000,"requestId":"c29tZXRoaW5nIHJhbmRvbQ"}"#
            let first = try await service.request("POST", "/v1/locks/x/acquire", body)
            let again = try await service.request("POST", "/v1/locks/x/acquire", body)
            #expect(first.status == 200 && again.status == 200, "\(again.body)")
            #expect(first["fence"] == again["fence"] && first["token"] == again["token"])
            let other = #"{"ttlMs":60000,"requestId":"YW5vdGhlciByYW5kb20g"}"#
            #expect(try await service.request("POST", "/v1/locks/x/acquire", other).status == 409)
            #expect(try await service.request("POST", "/v1/locks/y/acquire", body)["fence"] != first["fence"])
            let token = try #require(first["token"])
            _ = try await service.request("POST", "/v1/locks/x/release", #"{"token":"\#(token)"}"#)
            let next = try await service.request("POST", "/v1/locks/x/acquire", body)
            #expect(next.status == 200 && next["fence"] != first["fence"])
            // One of the two that may know of it hangs up unheard: the other keeps it.
            let deaf = try DeafClient(port: service.port)
            deaf.send("POST", "/v1/locks/x/acquire", body)
            deaf.hangUp()
            try await allAreGone(service)
            #expect(try await service.request("GET", "/v1/locks/x").body.contains(try #require(next["fence"])))
            let short = try await service.request(
                "POST", "/v1/locks/x/acquire", #"{"ttlMs":60000,"requestId":"short"}"#)
            #expect(short.status == 400 && short["field"] == "requestId")
        }
    }
}
