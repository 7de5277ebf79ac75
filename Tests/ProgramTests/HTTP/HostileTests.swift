// SPDX-License-Identifier: Apache-2.0
import RingfenceOperations
import TestSupport
import Testing

@Suite struct HostileTests {
    @Test func `what is not plain HTTP/1.1 is refused, and the connection ends`() async throws {
        let post = "POST /v1/locks/x/acquire HTTP/1.1\r\nContent-Type: application/json\r\n"
        let requests: [(String, Int)] = [
            (
                post
                    + "Host: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /livez "
                    + "HTTP/1.1\r\n\r\n",
                400
            ),
            (post + "Host: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ", 400),
            (post + "Host: localhost\r\nContent-Length: -5\r\n\r\n", 400),
            (post + "Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", 400),
            ("GET /livez HTTP/1.1\r\n\r\n", 400),
            ("GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: b\r\n\r\n", 400),
            ("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: a\r\n folded\r\n\r\n", 400),
            ("GET /livez HTTP/1.1\r\nHost: localhost\r\nX Y: a\r\n\r\n", 400),
            ("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: a\u{0}b\r\n\r\n", 400),
            ("\u{1}\u{2}garbage\r\n\r\n", 400),
            ("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: \(String(repeating: "x", count: 65_536))\r\n\r\n", 431),
            (
                "GET /livez HTTP/1.1\r\nHost: localhost\r\n"
                    + (0..<200).map { "X\($0): y\r\n" }.joined() + "\r\n", 431
            ),
            ("GET /\(String(repeating: "u", count: 70_000)) HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        ]
        try await withService { service, redis in
            for (request, status) in requests {
                let connection = try await service.connect()
                try await connection.send(request)
                let answer = try await connection.answer()
                #expect(answer?.status == status, "\(request.prefix(120)): \(answer.map { "\($0)" } ?? "closed")")
                #expect(answer?["code"] != nil, "\(request.prefix(120))")
                try await eventually("the connection ends: \(request.prefix(80))") { connection.isClosed }
                #expect(try await connection.answer() == nil, "a second answer to \(request.prefix(120))")
                connection.close()
            }
            #expect(try await redis.cli("DBSIZE") == "0")
            #expect(try await service.request("GET", "/livez").status == 200)
        }
    }

    @Test func `an endless body is cut off at the limit`() async throws {
        try await withService { service, _ in
            let connection = try await service.connect()
            try await connection.send(
                "POST /v1/locks/x/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    + "Transfer-Encoding: chunked\r\n\r\n")
            let chunk = "4000\r\n" + String(repeating: " ", count: 16_384) + "\r\n"
            for _ in 0..<64 where !connection.isClosed { try? await connection.send(chunk) }
            #expect(try await connection.answer()?.status == 413)
            try await eventually("the connection ends") { connection.isClosed }
        }
    }

    @Test func `a body one byte too long that is here at once is answered, and SIGTERM still ends the service`()
        async throws
    {
        try await withRedis { redis in
            let service = try await Service.start(["--redis", redis.unixURL])
            let head = "POST /v1/locks/x/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            let spaces = String(repeating: " ", count: 65_537)
            for request in [
                head + "Transfer-Encoding: chunked\r\n\r\n10001\r\n\(spaces)\r\n0\r\n\r\n",
                head + "Content-Length: 65537\r\n\r\n\(spaces)",
            ] {
                let connection = try await service.connect()
                try await connection.send(request)
                let answer = try await connection.answer()
                #expect(answer?.status == 413 && answer?["code"] == "body.tooLarge")
                try await eventually("the connection ends") { connection.isClosed }
            }
            let start = ContinuousClock.now
            #expect(await service.stop() == .code(0))
            #expect(ContinuousClock.now - start < .seconds(10))
        }
    }

    @Test func `a slow head and a slow body are given up`() async throws {
        try await withService { service, redis in
            let head = try await service.connect()
            try await head.send("GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            let body = try await service.connect()
            try await body.send(
                "POST /v1/locks/x/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    + "Content-Length: 100\r\n\r\n{")
            let dripping = Task {
                while !head.isClosed || !body.isClosed {
                    if !head.isClosed { try? await head.send("x") }
                    if !body.isClosed { try? await body.send(" ") }
                    try await Task.sleep(for: .milliseconds(200))
                }
            }
            #expect(try await head.answer()?["code"] == "request.timeout")
            #expect(try await body.answer()?.status == 408)
            try await eventually("both connections end") { head.isClosed && body.isClosed }
            dripping.cancel()
            #expect(try await redis.cli("DBSIZE") == "0")
        }
    }

    @Test func `10,000 pipelined requests get 10,000 answers in order`() async throws {
        try await withService { service, _ in
            let connection = try await service.connect()
            let count = 10_000
            let sending = Task {
                var batch = ""
                for index in 0..<count {
                    let method = index.isMultiple(of: 2) ? "GET /livez" : "GET /missing"
                    batch += "\(method) HTTP/1.1\r\nHost: localhost\r\n\r\n"
                    if batch.utf8.count > 60_000 {
                        try await connection.send(batch)
                        batch = ""
                    }
                }
                try await connection.send(batch)
            }
            for index in 0..<count {
                let status = try await connection.answer()?.status
                guard status == (index.isMultiple(of: 2) ? 200 : 404) else {
                    Issue.record("answer \(index) is \(status.map { "\($0)" } ?? "missing")")
                    break
                }
            }
            try await sending.value
        }
    }

    @Test(arguments: [0, 60_000])
    func `300 pipelined acquires in one piece are answered in order`(wait: Int) async throws {
        try await withService { service, redis in
            var token: String?
            if wait > 0 {
                let held = try await service.request("POST", "/v1/locks/l0/acquire", #"{"ttlMs":3600000}"#)
                token = held["token"]
                #expect(token != nil, "\(held.body)")
            }
            let connection = try await service.connect()
            let body = #"{"ttlMs":3600000,"waitMs":\#(wait)}"#
            let requests = (0..<300).map { number in
                "POST /v1/locks/l\(number)/acquire HTTP/1.1\r\nHost: localhost\r\n"
                    + "Content-Type: application/json\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)"
            }
            try await connection.send(requests.joined())
            if let token {
                try await eventually("the first waits") {
                    try await redis.cli("ZCARD", "ringfence:{default}:queue:l0") == "1"
                }
                _ = try await service.request("POST", "/v1/locks/l0/release", #"{"token":"\#(token)"}"#)
            }
            for number in 0..<300 {
                let answer = try await connection.answer()
                guard answer?.status == 200, answer?["name"] == "l\(number)" else {
                    Issue.record("answer \(number): \(answer.map { "\($0)" } ?? "closed")")
                    break
                }
            }
            connection.close()
        }
    }

    @Test func `who hangs up behind more than is read leaves the line`() async throws {
        try await withService { service, redis in
            _ = try await service.request("POST", "/v1/locks/l0/acquire", #"{"ttlMs":3600000}"#)
            let connection = try await service.connect()
            let body = #"{"ttlMs":3600000,"waitMs":60000}"#
            let request =
                "POST /v1/locks/l0/acquire HTTP/1.1\r\nHost: localhost\r\n"
                + "Content-Type: application/json\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)"
            try await connection.send(String(repeating: request, count: 300))
            try await eventually("the first waits") {
                try await redis.cli("ZCARD", "ringfence:{default}:queue:l0") == "1"
            }
            try await connection.closeNow()
            try await eventually("nobody waits") {
                try await redis.cli("ZCARD", "ringfence:{default}:queue:l0") == "0"
            }
        }
    }
}
