// SPDX-License-Identifier: Apache-2.0
import TestSupport
import Testing

@testable import RingfenceHTTP

@Suite struct AccessLogTests {
    static let bearer = "planted-bearer-0123456789"

    private func withTokens<Result: Sendable>(
        _ more: [String], _ body: @Sendable (Service) async throws -> Result
    ) async throws -> Result {
        let directory = try TemporaryDirectory()
        try writeFile(directory.path + "/tokens", Self.bearer + "\n")
        return try await withService(["--token-file", directory.path + "/tokens"] + more) { service, _ in
            try await body(service)
        }
    }

    private func ask(
        _ service: Service, _ method: String, _ path: String, _ body: String? = nil, token: String = bearer
    ) async throws -> Answer {
        try await service.request(method, path, body, headers: ["Authorization: Bearer \(token)"])
    }

    private func lines(_ service: Service) -> [Substring] {
        service.program.error.split(separator: "\n").filter { $0.contains("method=") }
    }

    @Test func `beyond fifty lines a second faults are counted, and the next second says how many`() {
        var budget = AccessLog.Budget(perSecond: 50)
        #expect(
            (0..<60).map { _ in budget.take(second: 7) } == Array(repeating: 0, count: 50)
                + Array(repeating: nil, count: 10))
        #expect(budget.take(second: 8) == 10)
        #expect(budget.take(second: 8) == 0)
    }

    @Test func `at debug each request is a line, with who asked, and no token that was sent or given`() async throws {
        try await withTokens(["--log-level", "debug"]) { service in
            let hold = try await ask(
                service, "POST", "/v1/locks/x/acquire", #"{"ttlMs":60000,"requestId":"planted-request-id-01"}"#)
            let token = try #require(hold["token"])
            _ = try await ask(service, "POST", "/v1/locks/x/renew", #"{"ttlMs":60000,"token":"\#(token)"}"#)
            _ = try await ask(service, "GET", "/v1/locks?prefix=planted-query&token=planted-in-query")
            _ = try await ask(service, "GET", "/planted-path/planted-more?token=planted-in-query")
            _ = try await ask(service, "GET", "/v1/locks/x", token: "planted-wrong-bearer")
            _ = try await ask(service, "PATCH", "/v1/locks/x?token=planted-in-query")
            _ = try await ask(service, "DELETE", "/v1/locks/x?actor=ann&reason=planted-reason")
            _ = try await ask(service, "DELETE", "/v1/locks/x?actor=bob&token=planted-in-query")
            try await eventually("all are there") { lines(service).count == 8 }
            let log = service.program.error
            #expect(!log.contains(token) && !log.contains(token.split(separator: ":")[1]), "\(log)")
            // (Why a lock was taken away is said by the line of that, and meant to be.)
            for planted in ["-bearer", "-request", "-query", "-path", "-more", "-in-query"] {
                #expect(!log.contains("planted" + planted), "\(planted): \(log)")
            }
            let shown = lines(service)
            #expect(shown.allSatisfy { $0.contains("http/127.0.0.1") && $0.contains("ms=") })
            func has(_ words: String...) -> Bool { shown.contains { line in words.allSatisfy { line.contains($0) } } }
            #expect(has("method=POST", "route=/v1/locks/{name}/acquire", "status=200", "ringfence.lock=x"), "\(log)")
            #expect(has("method=GET", "route=/v1/locks", "status=400", "code=argument.invalid"), "\(log)")
            #expect(has("method=GET", "route=none", "status=404"), "\(log)")
            #expect(has("method=GET", "status=401", "code=unauthorized"), "\(log)")
            #expect(has("method=PATCH", "route=none", "status=405"), "\(log)")
            #expect(has("method=DELETE", "status=200", "http/127.0.0.1 (says ann)"), "\(log)")
            #expect(log.contains("lock taken away") && log.contains("ringfence.actor=http/127.0.0.1 (says ann)"))
            let garbage = try await service.connect()
            try await garbage.send("GET /livez?planted-in-query HTTP/1.1\r\n\r\n")
            #expect(try await garbage.answer()?.status == 400)
            try await eventually("it is there") { service.program.error.contains("code=request.malformed") }
            #expect(!service.program.error.contains("planted-in-query"))
        }
    }

    @Test func `at info only what went wrong with an order is a line, and a busy lock is no fault`() async throws {
        try await withTokens([]) { service in
            let hold = #"{"ttlMs":60000}"#
            #expect(try await ask(service, "POST", "/v1/locks/x/acquire", hold).status == 200)
            #expect(try await ask(service, "POST", "/v1/locks/x/acquire", hold).status == 409)
            #expect(try await ask(service, "GET", "/v1/locks?limit=0").status == 400)
            #expect(try await ask(service, "POST", "/v1/groups/g/pick", "{}").status == 503)
            #expect(try await ask(service, "DELETE", "/v1/locks/free?actor=ann").status == 409)
            let pause = #"{"forMs":1000,"actor":"bob"}"#
            #expect(
                try await ask(service, "POST", "/v1/groups/g/pause", pause, token: "wrong-wrong-wrong").status == 401)
            #expect(try await ask(service, "POST", "/v1/groups/g/pause", #"{"forMs":1}"#).status == 400)
            try await eventually("all are there") { lines(service).count == 3 }
            let shown = lines(service)
            #expect(shown[0].contains("status=409") && shown[0].contains("code=lock.notHeld"))
            #expect(shown[0].contains("route=/v1/locks/{name}") && shown[0].contains("says ann"))
            #expect(shown[1].contains("status=401") && shown[1].contains("route=/v1/groups/{name}/pause"))
            #expect(shown[2].contains("status=400") && shown[2].contains("ringfence.group=g"))
            #expect(shown.allSatisfy { $0.contains(" info ") })
        }
    }
}
