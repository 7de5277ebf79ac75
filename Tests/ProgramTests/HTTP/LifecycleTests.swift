// SPDX-License-Identifier: Apache-2.0
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

@Suite struct LifecycleTests {
    private func waits(_ redis: RedisServer, _ count: Int) async throws {
        try await eventually("\(count) wait in line", within: .seconds(90)) {
            try await redis.cli("ZCARD", "ringfence:{default}:queue:x") == "\(count)"
        }
    }

    @Test(arguments: [false, true])
    func `a client that hangs up while it waits leaves nothing behind`(halfClosed: Bool) async throws {
        try await withService { service, redis in
            let hold = try await service.request("POST", "/v1/locks/x/acquire", #"{"ttlMs":60000}"#)
            let connection = try await service.connect()
            try await connection.send("POST", "/v1/locks/x/acquire", #"{"ttlMs":60000,"waitMs":60000}"#)
            try await waits(redis, 1)
            if halfClosed { connection.closeOutput() } else { connection.close() }
            try await waits(redis, 0)
            let token = try #require(hold["token"])
            _ = try await service.request("POST", "/v1/locks/x/release", #"{"token":"\#(token)"}"#)
            #expect(try await redis.cli("EXISTS", "ringfence:{default}:lock:x") == "0")
        }
    }

    /// 200 waiters, each of which hangs up as `release`, which would grant to it, is sent.
    private func hangUps(
        _ service: Service, _ redis: RedisServer, ttlMs: Int,
        _ hangUpAndRelease: (RawConnection, () async throws -> Void) async throws -> Void
    ) async throws {
        for _ in 0..<200 {
            let hold = try await service.request("POST", "/v1/locks/x/acquire", #"{"ttlMs":60000,"waitMs":60000}"#)
            let token = try #require(hold["token"], "\(hold.body)")
            let connection = try await service.connect()
            try await connection.send("POST", "/v1/locks/x/acquire", #"{"ttlMs":\#(ttlMs),"waitMs":60000}"#)
            try await waits(redis, 1)
            let releasing = try await service.connect()
            try await hangUpAndRelease(connection) {
                try await releasing.send("POST", "/v1/locks/x/release", #"{"token":"\#(token)"}"#)
            }
            #expect(try await releasing.answer()?.status == 200)
            releasing.close()
        }
        try await eventually("the lock is free") {
            try await redis.cli("EXISTS", "ringfence:{default}:lock:x") == "0"
        }
    }

    @Test func `200 clients that hang up before the release leave no lock behind`() async throws {
        try await withService { service, redis in
            // An hour: a lock left behind would stop the next round.
            try await hangUps(service, redis, ttlMs: 3_600_000) { connection, release in
                try await connection.closeNow()
                try await waits(redis, 0)
                try await release()
            }
        }
    }

    @Test func `200 clients that hang up at the release leave the lock no longer than its ttl`() async throws {
        try await withService { service, redis in
            // Which of the two the service sees first is open, and nobody can know whether an answer was read. The next
            // round gets the lock within the ttl.
            try await hangUps(service, redis, ttlMs: 200) { connection, release in
                try await release()
                try await connection.closeNow()
            }
        }
    }

    @Test func `a client that hangs up behind pipelined requests, many or few, is not granted the lock`() async throws {
        try await withService { service, redis in
            for count in [6, 2_000] {
                let hold = try await service.request("POST", "/v1/locks/x/acquire", #"{"ttlMs":3600000}"#)
                let connection = try await service.connect()
                try await connection.send("POST", "/v1/locks/x/acquire", #"{"ttlMs":3600000,"waitMs":60000}"#)
                try await waits(redis, 1)
                let request = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
                try await connection.send(String(repeating: request, count: count))
                connection.close()
                try await waits(redis, 0)
                let token = try #require(hold["token"], "\(hold.body)")
                _ = try await service.request("POST", "/v1/locks/x/release", #"{"token":"\#(token)"}"#)
                #expect(try await redis.cli("EXISTS", "ringfence:{default}:lock:x") == "0")
            }
        }
    }

    @Test func `SIGTERM answers a request half received with 503 after 2 s, and ends`() async throws {
        try await withRedis { redis in
            let service = try await Service.start(["--redis", redis.unixURL])
            let half = try await service.connect()
            // In one piece behind a whole request: once that is answered, the half one is there too.
            try await half.send(
                "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
                    + "POST /v1/locks/y/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    + "Content-Length: 50\r\n\r\n{")
            #expect(try await half.answer()?.status == 200)
            let start = ContinuousClock.now
            service.program.process.signal(SIGTERM)
            #expect(try await half.answer()?["code"] == "service.shuttingDown")
            #expect(await service.program.process.wait() == .code(0))
            #expect(ContinuousClock.now - start < .seconds(8))
            #expect(!service.program.error.contains("unexpectedly"), "\(service.program.error)")
        }
    }

    @Test func `SIGTERM answers waits with 503, finishes, and exits with 0 within 10 s`() async throws {
        let redis = try await RedisServer.start()
        let service = try await Service.start(["--redis", redis.unixURL])
        let hold = try await service.request("POST", "/v1/locks/x/acquire", #"{"ttlMs":60000}"#)
        #expect(hold.status == 200)
        let idle = try await service.connect()
        try await idle.send("GET", "/livez")
        #expect(try await idle.answer()?.status == 200)
        let half = try await service.connect()
        try await half.send("POST /v1/locks/y/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Le")
        var waiting: [RawConnection] = []
        for place in 1...5 {
            // A lock for each: waiters of one process share a place, so only the first of them would show in Redis.
            _ = try await service.request("POST", "/v1/locks/w\(place)/acquire", #"{"ttlMs":60000}"#)
            let connection = try await service.connect()
            try await connection.send("POST", "/v1/locks/w\(place)/acquire", #"{"ttlMs":60000,"waitMs":60000}"#)
            try await eventually("it waits") {
                try await redis.cli("ZCARD", "ringfence:{default}:queue:w\(place)") == "1"
            }
            waiting.append(connection)
        }
        let start = ContinuousClock.now
        service.program.process.signal(SIGTERM)
        for connection in waiting {
            let answer = try await connection.answer()
            #expect(answer?.status == 503 && answer?["code"] == "service.shuttingDown", "\(answer?.body ?? "closed")")
            #expect(answer?["retryAfterMs"] != nil && answer?.headers["retry-after"] != nil)
        }
        #expect(await service.program.process.wait() == .code(0))
        #expect(ContinuousClock.now - start < .seconds(10))
        #expect(idle.isClosed)
        #expect(try await redis.cli("ZCARD", "ringfence:{default}:queue:w1") == "0")
        // What a client holds is the client's: a restart of the service does not take it away.
        #expect(try await redis.cli("EXISTS", "ringfence:{default}:lock:x") == "1")
        await redis.stop()
    }

    @Test func `the embedded Redis keeps locks over a restart and ends with the service`() async throws {
        let state = try TemporaryDirectory()
        let first = try await Service.start(["--state-dir", state.path])
        let hold = try await first.request("POST", "/v1/locks/x/acquire", #"{"ttlMs":3600000,"owner":"night"}"#)
        #expect(hold.status == 200)
        let pid = try #require(Int32(contents(of: state.path + "/redis.pid").filter(\.isNumber)))
        #expect(await first.stop() == .code(0))
        #expect(kill(pid, 0) == -1)

        let second = try await Service.start(["--state-dir", state.path])
        let renewed = try await second.request(
            "POST", "/v1/locks/x/renew", #"{"token":"\#(try #require(hold["token"]))","ttlMs":1000}"#)
        #expect(renewed.status == 200 && renewed["fence"] == hold["fence"])

        // Killed, the service cannot end its Redis: the kernel does, and the next start takes the directory over.
        let orphan = try #require(Int32(contents(of: state.path + "/redis.pid").filter(\.isNumber)))
        second.program.process.signal(SIGKILL)
        _ = await second.program.process.wait()
        let third = try await Service.start(["--state-dir", state.path])
        let orphanState = contents(of: "/proc/\(orphan)/stat")
        #expect(orphanState.isEmpty || orphanState.contains(") Z "))
        #expect(try await third.request("GET", "/readyz").status == 200)

        // Dead by itself, it takes the service with it.
        let last = try #require(Int32(contents(of: state.path + "/redis.pid").filter(\.isNumber)))
        kill(last, SIGKILL)
        #expect(await third.program.process.wait() == .code(69))
        #expect(third.program.error.contains("ended by itself"))
    }

    @Test func `refuses to listen beyond loopback without tokens`() async throws {
        for host in ["0.0.0.0", "::", "10.1.2.3", "example.com", "127.0.0.1.example.com"] {
            let refused = try await Program.run(["serve", "--host", host, "--redis", "redis://127.0.0.1:1"])
            #expect(refused.code == 64 && refused.error.contains("token-file"), "\(refused)")
        }
        let directory = try TemporaryDirectory()
        for (text, says) in [("", "holds no token"), ("short\n", "16 bytes"), ("# only a comment\n", "holds no token")]
        {
            try writeFile(directory.path + "/tokens", text)
            let refused = try await Program.run(
                ["serve", "--host", "0.0.0.0", "--token-file", directory.path + "/tokens"])
            #expect(refused.code == 64 && refused.error.contains(says), "\(refused)")
        }
    }

    @Test func `refuses a Redis that evicts, and warns of one without a file`() async throws {
        try await withRedis(["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]) { redis in
            let refused = try await Program.run(["serve", "--port", "0", "--redis", redis.unixURL])
            #expect(refused.code == 64 && refused.error.contains("noeviction"), "\(refused)")
        }
        try await withService { service, _ in
            #expect(service.program.error.contains("append-only"))
        }
    }

    @Test func `a port in use, a missing redis-server and a wrong URL are said plainly`() async throws {
        try await withService { service, redis in
            let taken = try await Program.run(["serve", "--port", "\(service.port)", "--redis", redis.unixURL])
            #expect(taken.code == 64 && taken.error.contains("--port"), "\(taken)")
        }
        let missing = try await Program.run(["serve", "--port", "0"], environment: ["PATH=/nowhere"])
        #expect(missing.code == 69 && missing.error.contains("apt-get install redis-server"), "\(missing)")
        let wrong = try await Program.run(["locks", "--redis", "http://example.com"])
        #expect(wrong.code == 64 && !wrong.error.contains("Error Domain"), "\(wrong)")
    }
}
