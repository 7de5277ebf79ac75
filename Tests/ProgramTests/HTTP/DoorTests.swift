// SPDX-License-Identifier: Apache-2.0
//
// Who is let in at the door: pages of other origins, names that are not ours, old protocols, those who say nothing,
// tokens that are good no more. And what is done with what the door gave to callers that are gone.
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

@Suite struct DoorTests {
    static let lock = "ringfence:{default}:lock:x"

    // MARK: Web pages

    @Test func `a web page of another origin can order nothing, and programs and pages of our own can`() async throws {
        try await withService { service, redis in
            let orders = [
                ("POST", "/v1/locks/x/acquire", #"{"ttlMs":60000}"#), ("POST", "/v1/groups/g/resume", "{}"),
                ("POST", "/v1/groups/g/switchover", "{}"), ("PUT", "/v1/groups/g/members/m", #"{"ttlMs":60000}"#),
                ("DELETE", "/v1/locks/x", "{}"),
            ]
            let pages = [
                ["Sec-Fetch-Site: cross-site"], ["Sec-Fetch-Site: same-site"], ["Origin: https://evil.example"],
                ["Origin: null"], ["Origin: http://localhost:1"], ["Origin: http://evil.example/localhost"],
                ["Sec-Fetch-Site: cross-site", "Origin: http://localhost"],
            ]
            for (method, path, body) in orders {
                for page in pages {
                    let answer = try await service.request(method, path, body, headers: page)
                    #expect(answer.status == 403 && answer["code"] == "origin.refused", "\(method) \(path) \(page)")
                }
            }
            #expect(try await redis.cli("KEYS", "ringfence:*").isEmpty)
            let own = [[], ["Sec-Fetch-Site: none"], ["Sec-Fetch-Site: same-origin"], ["Origin: http://localhost"]]
            for (number, headers) in own.enumerated() {
                let answer = try await service.request(
                    "POST", "/v1/locks/own\(number)/acquire", #"{"ttlMs":60000}"#, headers: headers)
                #expect(answer.status == 200, "\(headers)")
            }
            let seen = try await service.request("GET", "/v1/groups", headers: ["Sec-Fetch-Site: cross-site"])
            #expect(seen.status == 200 && seen.headers["access-control-allow-origin"] == nil)
        }
    }

    @Test(arguments: ["resume", "acknowledge", "settings", "switchover"])
    func `an order says that it is JSON, with an empty body too`(order: String) async throws {
        try await withService { service, redis in
            for type in [[], ["Content-Type: text/plain"], ["Content-Type: application/x-www-form-urlencoded"]] {
                let answer = try await service.request(
                    "POST", "/v1/groups/g/\(order)", headers: type + ["Content-Length: 0"])
                #expect(answer.status == 415 && answer["code"] == "body.unsupported", "\(type) \(answer.body)")
            }
            #expect(try await redis.cli("KEYS", "ringfence:*").isEmpty)
            let answer = try await service.request(
                "POST", "/v1/groups/g/\(order)", headers: ["Content-Type: application/json", "Content-Length: 0"])
            #expect(answer.status != 415)
        }
    }

    @Test func `a name that is not the service's is answered 421, an address and an allowed name are answered`()
        async throws
    {
        try await withService(["--allowed-host", "Ringfence.pay.internal", "--allowed-host", "rf-2"]) {
            service, redis in
            func ask(_ host: String) async throws -> Answer? {
                let connection = try await service.connect()
                defer { connection.close() }
                try await connection.send(
                    "POST /v1/locks/x/acquire HTTP/1.1\r\nHost: \(host)\r\nContent-Type: application/json\r\n"
                        + "Content-Length: 15\r\n\r\n{\"ttlMs\":60000}")
                return try await connection.answer()
            }
            for host in [
                "evil.example", "evil.example:7420", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost",
            ] {
                let answer = try await ask(host)
                #expect(answer?.status == 421 && answer?["code"] == "host.refused", "\(host)")
            }
            #expect(try await redis.cli("KEYS", "ringfence:*").isEmpty)
            for host in [
                "localhost", "LOCALHOST:7420", "127.0.0.1:80", "[::1]:7420", "10.1.2.3", "ringfence.pay.internal:7420",
                "rf-2",
            ] {
                let answer = try await ask(host)
                #expect(answer.map { [200, 409].contains($0.status) } == true, "\(host)")
            }
        }
    }

    @Test func `no answer is kept or guessed at by a browser`() async throws {
        try await withService { service, _ in
            for path in ["/livez", "/metrics", "/missing", "/v1/groups", "/openapi.json"] {
                let answer = try await service.request("GET", path)
                #expect(answer.headers["cache-control"] == "no-store", "\(path)")
                #expect(answer.headers["x-content-type-options"] == "nosniff", "\(path)")
            }
            let connection = try await service.connect()
            try await connection.send("garbage\r\n\r\n")
            let answer = try await connection.answer()
            #expect(answer?.status == 400 && answer?.headers["x-content-type-options"] == "nosniff")
        }
    }

    // MARK: HTTP/1.0

    @Test(arguments: ["", "Host: localhost\r\n", "Connection: keep-alive\r\n"])
    func `HTTP 1.0 is answered with or without Host, without chunks, and closed`(headers: String) async throws {
        try await withService { service, _ in
            let connection = try await service.connect()
            try await connection.send("GET /livez HTTP/1.0\r\n\(headers)\r\n")
            let answer = try await connection.answer()
            #expect(answer?.status == 200 && answer?.body == #"{"status":"alive"}"#)
            #expect(answer?.headers["connection"] == "close")
            try await eventually("it is closed") { connection.isClosed }
            let stream = try await service.connect()
            try await stream.send("GET /v1/events HTTP/1.0\r\n\(headers)Accept: text/event-stream\r\n\r\n")
            let head = try await stream.answer()
            #expect(head?.status == 200 && head?.headers["transfer-encoding"] == nil, "\(String(describing: head))")
            stream.close()
        }
    }

    // MARK: Too many connections

    @Test func `silent connections end after 5 s, and shut nobody out before`() async throws {
        let directory = try TemporaryDirectory()
        try writeFile(directory.path + "/tokens", "0123456789abcdef0123\n")
        try await withService(["--connections", "16", "--token-file", directory.path + "/tokens"]) { service, _ in
            let token = ["Authorization: Bearer 0123456789abcdef0123"]
            var silent: [RawConnection] = []
            for _ in 0..<100 { silent.append(try await service.connect()) }
            for _ in 0..<20 {
                #expect(try await service.request("GET", "/livez").status == 200)
                #expect(try await service.request("GET", "/v1/groups", headers: token).status == 200)
            }
            #expect(service.program.error.contains("all connections are taken"), "\(service.program.error)")
            try await eventually("all silent ones are closed", within: .seconds(30)) {
                silent.allSatisfy(\.isClosed)
            }
            let page = try await service.request("GET", "/metrics", headers: token).body
            #expect(page.contains(#"ringfence_http_connections_ended_total{reason="displaced"}"#))
            #expect(page.contains("ringfence_http_connections_maximum 16"))
        }
    }

    @Test func `where all connections are in use, health and clients with a token are answered, others are not`()
        async throws
    {
        let directory = try TemporaryDirectory()
        try writeFile(directory.path + "/tokens", "0123456789abcdef0123\n")
        try await withService(["--connections", "16", "--token-file", directory.path + "/tokens"]) { service, redis in
            let token = ["Authorization: Bearer 0123456789abcdef0123"]
            var streams: [RawConnection] = []
            for _ in 0..<16 {
                let stream = try await service.connect()
                try await stream.send("GET", "/v1/groups", headers: token)
                #expect(try await stream.answer()?.status == 200)
                try await stream.send("GET", "/v1/events?wait=60000", headers: token)
                streams.append(stream)
            }
            try await eventually("all are in use") {
                try await service.request("GET", "/openapi.json")["code"] == "service.full"
            }
            #expect(try await service.request("GET", "/livez").status == 200)
            #expect(try await service.request("GET", "/readyz").status == 200)
            #expect(try await service.request("GET", "/v1/groups", headers: token).status == 200)
            #expect(try await service.request("GET", "/v1/groups").status == 503)
            #expect(streams.allSatisfy { !$0.isClosed })
        }
    }

    @Test func `without descriptors the service tries to accept once a second, says so once, and goes on afterwards`()
        async throws
    {
        try await withService { service, _ in
            // Taken before there are none left.
            let watch = try await service.connect()
            func failures() async throws -> Int {
                try await watch.send("GET", "/metrics")
                let page = try #require(try await watch.answer()).body
                let line = page.split(separator: "\n").first { $0.hasPrefix("ringfence_http_accept_failures_total ") }
                return line.flatMap { Double($0.dropFirst(37)) }.map { Int($0) } ?? 0
            }
            #expect(try await failures() == 0)
            let pid = service.program.process.pid
            let used = (0..<1024).count { access("/proc/\(pid)/fd/\($0)", F_OK) == 0 }
            _ = try await output(of: "prlimit", ["--pid", "\(pid)", "--nofile=\(used + 8)"])
            var silent: [RawConnection] = []
            for _ in 0..<30 { silent.append(try await service.connect()) }
            try await eventually("it cannot accept", within: .seconds(60)) { try await failures() > 0 }
            let (before, start) = (try await failures(), ContinuousClock.now)
            try await eventually("it has tried again", within: .seconds(60)) { try await failures() >= before + 3 }
            let tries = try await failures() - before
            // A loop that tries whenever the socket is readable tries some ten thousand times a second.
            #expect(Duration.seconds(tries) < start.duration(to: .now) * 4 + .seconds(4), "\(tries) tries")
            for connection in silent { connection.close() }
            try await eventually("it accepts again", within: .seconds(60)) {
                try await service.request("GET", "/livez").status == 200
            }
            let said = service.program.error.split(separator: "connections cannot be accepted").count - 1
            #expect(said == 1, "\(service.program.error)")
        }
    }

    // MARK: Tokens

    @Test(arguments: [true, false])
    func `a token that left the file is refused, and a bad new file changes nothing and says so`(bySignal: Bool)
        async throws
    {
        let directory = try TemporaryDirectory()
        let file = directory.path + "/tokens"
        try writeFile(file, "the-first-token-of-all\n")
        try await withService(["--token-file", file]) { service, _ in
            func status(_ token: String) async throws -> Int {
                try await service.request("GET", "/v1/groups", headers: ["Authorization: Bearer \(token)"]).status
            }
            #expect(try await status("the-first-token-of-all") == 200)
            try writeFile(file, "short\n")
            if bySignal { service.program.process.signal(SIGHUP) }
            try await eventually("it says so") { service.program.error.contains("stay in force") }
            #expect(try await status("the-first-token-of-all") == 200)
            #expect(try await service.request("GET", "/readyz").status == 200)
            try writeFile(file, "the-second-token-of-all\n")
            if bySignal { service.program.process.signal(SIGHUP) }
            try await eventually("the new one is good") { try await status("the-second-token-of-all") == 200 }
            #expect(try await status("the-first-token-of-all") == 401)
            let page = try await service.request(
                "GET", "/metrics", headers: ["Authorization: Bearer the-second-token-of-all"])
            #expect(page.body.contains("ringfence_token_file_failures_total"))
        }
    }

    @Test func `a token that leaves the file takes its streams, long polls and waits with it, and no others`()
        async throws
    {
        let directory = try TemporaryDirectory()
        let file = directory.path + "/tokens"
        let (leaving, staying) = ("the-first-token-of-all", "the-second-token-of-all")
        try writeFile(file, "\(leaving)\n\(staying)\n")
        try await withService(["--token-file", file]) { service, redis in
            func begin(_ token: String) async throws -> [RawConnection] {
                let header = ["Authorization: Bearer \(token)"]
                let stream = try await service.connect()
                try await stream.send("GET", "/v1/events", headers: header + ["Accept: text/event-stream"])
                #expect(try await stream.answer()?.status == 200)
                let poll = try await service.connect()
                try await poll.send("GET", "/v1/events?wait=60000", headers: header)
                let wait = try await service.connect()
                try await wait.send(
                    "POST", "/v1/locks/\(token)/acquire", #"{"ttlMs":60000,"waitMs":60000}"#, headers: header)
                try await eventually("it waits") {
                    try await redis.cli("ZCARD", "ringfence:{default}:queue:\(token)") == "1"
                }
                return [stream, poll, wait]
            }
            for token in [leaving, staying] {
                let held = try await service.request(
                    "POST", "/v1/locks/\(token)/acquire", #"{"ttlMs":60000}"#,
                    headers: ["Authorization: Bearer \(staying)"])
                #expect(held.status == 200)
            }
            let (ending, going) = (try await begin(leaving), try await begin(staying))
            try writeFile(file, "\(staying)\n")
            service.program.process.signal(SIGHUP)
            try await eventually("those of the token that left are ended") { ending.allSatisfy(\.isClosed) }
            try await eventually("its wait left the line") {
                try await redis.cli("ZCARD", "ringfence:{default}:queue:\(leaving)") == "0"
            }
            #expect(going.allSatisfy { !$0.isClosed })
            #expect(try await redis.cli("ZCARD", "ringfence:{default}:queue:\(staying)") == "1")
        }
    }

    @Test func `what a caller says it is stands in the audit as said, behind where it came from`() async throws {
        try await withService { service, _ in
            for name in ["the-ceo", String(repeating: "é", count: 64)] {
                _ = try await service.request("POST", "/v1/locks/x/acquire", #"{"ttlMs":60000}"#)
                let forced = try await service.request("DELETE", "/v1/locks/x", #"{"actor":"\#(name)"}"#)
                #expect(forced.status == 200, "\(forced.body)")
                let audit = try await service.request("GET", "/v1/audit?limit=1")
                #expect(audit.body.contains("http/127.0.0.1 (says \(name.prefix(7))"), "\(audit.body)")
                #expect(!audit.body.contains(#""\#(name)""#))
                #expect(audit["ownerProven"] == "false", "a holder is what it calls itself: \(audit.body)")
            }
        }
    }
}
