// SPDX-License-Identifier: Apache-2.0
//
// How a body comes: held back until it is asked for (Expect: 100-continue), and encoded.
import TestSupport
import Testing

@Suite struct BodyTests {
    private static let body = #"{"ttlMs":60000}"#

    private func head(_ more: [String], version: String = "1.1", length: Int = body.utf8.count) -> String {
        (["POST /v1/locks/x/acquire HTTP/\(version)", "Host: localhost", "Content-Length: \(length)"] + more)
            .joined(separator: "\r\n") + "\r\n\r\n"
    }

    private static let json = "Content-Type: application/json"
    private static let expects = "Expect: 100-continue"

    @Test func `a body that is held back is asked for, and the connection goes on behind the answer`() async throws {
        try await withService { service, _ in
            let connection = try await service.connect()
            for round in 1...2 {
                try await connection.send(head([Self.json, Self.expects]))
                #expect(try await connection.answer()?.status == 100)
                try await connection.send(Self.body)
                #expect(try await connection.answer()?.status == (round == 1 ? 200 : 409))
            }
            try await connection.send(
                "POST /v1/locks/y/acquire HTTP/1.1\r\nHost: localhost\r\n\(Self.json)\r\n\(Self.expects)\r\n"
                    + "Transfer-Encoding: chunked\r\n\r\n")
            #expect(try await connection.answer()?.status == 100)
            try await connection.send("f\r\n\(Self.body)\r\n0\r\n\r\n")
            #expect(try await connection.answer()?.status == 200)
            // Nothing is held back: nothing is asked for.
            try await connection.send("GET", "/livez", headers: [Self.expects])
            #expect(try await connection.answer()?.status == 200)
            connection.close()
        }
    }

    @Test func `a body that is refused is not asked for, and the connection ends behind the answer`() async throws {
        let directory = try TemporaryDirectory()
        try writeFile(directory.path + "/tokens", "0123456789abcdef0123\n")
        try await withService(["--token-file", directory.path + "/tokens"]) { service, _ in
            let token = "Authorization: Bearer 0123456789abcdef0123"
            let refused: [([String], Int, Int)] = [
                ([Self.json], 15, 401), ([token, "Content-Type: text/plain"], 15, 415),
                ([token, Self.json, "Content-Encoding: gzip"], 15, 415), ([token, Self.json], 65_537, 413),
            ]
            for (headers, length, status) in refused {
                let connection = try await service.connect()
                try await connection.send(head(headers + [Self.expects], length: length))
                let answer = try await connection.answer()
                #expect(answer?.status == status && answer?.headers["connection"] == "close", "\(headers)")
                #expect(status != 401 || answer?.headers["www-authenticate"] != nil)
                try await eventually("the connection ends") { connection.isClosed }
            }
        }
    }

    @Test func `a client of HTTP/1.0 is told nothing before the answer`() async throws {
        try await withService { service, _ in
            let connection = try await service.connect()
            try await connection.send(head([Self.json, Self.expects], version: "1.0") + Self.body)
            #expect(try await connection.answer()?.status == 200)
        }
    }

    @Test func `an encoding that is not understood is refused by its name, and none at all is taken`() async throws {
        try await withService { service, _ in
            for encoding in ["gzip", "br", "identity, gzip", "nonsense"] {
                let answer = try await service.request(
                    "POST", "/v1/locks/x/acquire", Self.body, headers: ["Content-Encoding: \(encoding)"])
                #expect(answer.status == 415 && answer["code"] == "body.unsupported", "\(answer)")
                #expect(answer["field"] == "Content-Encoding" && answer.body.contains(encoding), "\(answer)")
                #expect(answer.headers["accept-encoding"] == "identity")
            }
            let answer = try await service.request(
                "POST", "/v1/locks/x/acquire", Self.body, headers: ["Content-Encoding: Identity"])
            #expect(answer.status == 200)
        }
    }
}
