// SPDX-License-Identifier: Apache-2.0
//
// A lease that nobody keeps guards nothing. The scoped way cannot forget it, and the log says where it was forgotten.
import Logging
import Ringfence
import RingfenceCore
import TestSupport
import Testing

@Suite struct ForgottenLeaseTests {
    @Test func `withLockIfFree holds the lock until its body ends, and runs no body while others hold it`() async throws
    {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let result = try await clients[0].withLockIfFree("a") { lease in
                    #expect(try await clients[1].inspect("a").holder?.fence == lease.fence)
                    let other: Int? = try await clients[1].withLockIfFree("a") { _ in 2 }
                    #expect(other == nil)
                    let both: Int? = try await clients[1].withLockIfFree(["b", "a"]) { _ in 3 }
                    #expect(both == nil)
                    return 1
                }
                #expect(result == 1)
                #expect(try await observer.isClean("a"))
                #expect(try await clients[1].withLockIfFree(["b", "a"]) { _ in 4 } == 4)
                await #expect(throws: Oops.self) { try await clients[1].withLockIfFree("a") { _ in throw Oops() } }
                #expect(try await observer.isClean("a"))
            }
        }
    }

    private struct Oops: Error {}

    @Test func `a lease let go by its last copy is warned of with its place in the code, once a place`() async throws {
        try await withRedis { server in
            let log = Shared<[String]>([])
            let logger = Logger(label: "test") { _ in Recorder(log: log) }
            let client = try RingfenceClient(.init(url: server.unixURL, commandTimeout: .seconds(30)), logger: logger)
            for _ in 0..<3 {
                try await eventually("free") { try await client.tryAcquire("a", fileID: "App/X.swift", line: 7) != nil }
            }
            let line = #line + 1
            if try await client.tryAcquire("b") != nil {}
            let kept = try await client.acquire("c")
            try await kept.release()
            try await client.withLock("d") { _ in }
            _ = try await client.withLockIfFree("e") { _ in }
            try await eventually("warned") { log.value.count == 2 }
            await client.shutdown()
            #expect(log.value.count == 2, "\(log.value)")
            #expect(log.value.first?.contains("App/X.swift:7") == true)
            #expect(log.value.last?.contains("ForgottenLeaseTests.swift:\(line)") == true)
        }
    }

    private struct Recorder: LogHandler {
        let log: Shared<[String]>
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.warning
        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }
        func log(event: LogEvent) {
            guard event.message.description.contains("went away unreleased") else { return }
            log.change { $0.append("\(event.metadata ?? [:])") }
        }
    }
}
