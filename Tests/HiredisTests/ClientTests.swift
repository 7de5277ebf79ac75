// SPDX-License-Identifier: Apache-2.0
import Hiredis
import Logging
import NIOCore
import TestSupport
import Testing

@Suite struct ClientTests {
    @Test func `a thousand concurrent tasks on one connection each get their own answer`() async throws {
        try await withRedis { server async throws in
            for url in [server.url, server.unixURL] {
                try await withClient(url) { client async throws in
                    try await withThrowingTaskGroup(of: Void.self) { group in
                        for task in 0..<1000 {
                            group.addTask {
                                for round in 0..<5 {
                                    let value = "\(task):\(round):" + String(repeating: "x", count: task)
                                    let reply = try await client.call("ECHO", value)
                                    #expect(reply == .string(Array(value.utf8)))
                                }
                            }
                        }
                        for try await _ in group {}
                    }
                    #expect(try await server.cli("INFO", "stats").contains("total_connections_received"))
                    #expect(client.connection?.generation == 1)
                }
            }
        }
    }
}
