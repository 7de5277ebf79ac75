// SPDX-License-Identifier: Apache-2.0

import Hiredis
import Ringfence
import TestSupport
import Testing

@Suite struct OperatorTests {
    // MARK: Force

    @Test func `a holder whose lock is taken away is told at once`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                // Far longer than this test may take: no renewal will tell it.
                let lease = try #require(try await clients[0].tryAcquire("a", ttl: .seconds(3600)))
                try await eventually("the inbox is heard") {
                    try await observer.send("PUBSUB", "CHANNELS").array?.isEmpty == false
                }
                let forced = try #require(try await clients[1].forceRelease("a", actor: "ops", reason: "stuck"))
                #expect(forced.previous.fence == lease.fence)
                #expect(forced.previous.id == lease.id)
                #expect(forced.previous.owner == lease.owner)
                #expect(forced.fence > lease.fence)
                try await eventually { !lease.isHeld }
                let error = await failure { try await lease.release() }
                #expect(error?.code == .leaseLost)
                #expect(error?.message.contains("force") == true)
                let next = try #require(try await clients[1].tryAcquire("a"))
                #expect(next.fence > forced.fence)
                try await next.release()
            }
        }
    }

    @Test func `taken away by force, a lock goes to who waits first, and the body under it is cancelled`() async throws
    {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 3) { clients in
                let isRunning = Shared(false)
                async let body = failure {
                    try await clients[0].withLock("a", ttl: .seconds(3600)) { _ in
                        isRunning.change { $0 = true }
                        try await Task.sleep(for: .seconds(3600))
                    }
                }
                try await eventually { isRunning.value }
                async let waiting = clients[1].acquire("a", ttl: .seconds(60), wait: .seconds(60))
                try await eventually { try await clients[2].inspect("a").queueLength == 1 }
                let forced = try #require(
                    try await clients[2].forceRelease("a", actor: "ops/anna", reason: "deploy 12"))
                #expect(await body?.code == .leaseLost)
                let lease = try await waiting
                #expect(lease.fence > forced.fence)
                let record = try #require(try await clients[2].audit().first { $0.action == "force" })
                #expect(record.names == ["a"])
                #expect(record.fence == forced.previous.fence)
                #expect(record.reason == "ops/anna: deploy 12")
                try await lease.release()
                #expect(try await observer.isClean("a"))
            }
        }
    }

    @Test func `force on a free lock changes nothing`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let forced = try await client.forceRelease("a", actor: "ops")
                #expect(forced == nil)
                #expect(try await observer.send("DBSIZE") == .integer(0))
            }
        }
    }

    @Test func `force on one of several names ends the whole lease, and frees the rest with its body`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let isRunning = Shared(false)
                async let body = failure {
                    try await clients[0].withLock(["a", "b", "c"], ttl: .seconds(3600)) { _ in
                        isRunning.change { $0 = true }
                        try await Task.sleep(for: .seconds(3600))
                    }
                }
                try await eventually { isRunning.value }
                async let waiting = clients[1].acquire(["b", "c"], ttl: .seconds(60), wait: .seconds(60))
                try await eventually { try await clients[1].inspect("b").queueLength == 1 }
                _ = try #require(try await clients[1].forceRelease("b", actor: "ops"))
                #expect(await body?.code == .leaseLost)
                try await waiting.release()
                try await eventually { try await server.remains() == [] }
            }
        }
    }

    // MARK: Inspect and list

    @Test func `inspect shows the holder, the time left, and who waits in order and for how long`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 4) { clients in
                let free = try await clients[0].inspect("a")
                #expect(free.holder == nil && free.lastFence == nil && free.queue.isEmpty && free.queueLength == 0)
                let lease = try await clients[0].acquire("a", ttl: .seconds(60))
                try await withThrowingTaskGroup { group in
                    for number in 1...3 {
                        group.addTask {
                            try await clients[number].withLock(["a", "z\(number)"], wait: .seconds(60)) { _ in }
                        }
                        try await eventually { try await clients[0].inspect("a").queueLength == number }
                    }
                    let status = try await clients[0].inspect("a")
                    #expect(status.holder?.owner == "client 0")
                    #expect(status.holder?.id == lease.id)
                    #expect(status.holder?.fence == lease.fence)
                    #expect(status.lastFence == lease.fence)
                    #expect(status.holder.map { $0.remaining > .seconds(30) && $0.remaining <= .seconds(61) } == true)
                    #expect(status.queue.map { $0.owner } == ["client 1", "client 2", "client 3"])
                    #expect(status.queue.map { $0.names } == [["a", "z1"], ["a", "z2"], ["a", "z3"]])
                    let waits = status.queue.map { $0.waiting }
                    #expect(waits == waits.sorted(by: >))
                    #expect(waits.allSatisfy { $0 >= .zero && $0 < .seconds(60) })
                    #expect(try await clients[0].inspect("z2").queueLength == 1)
                    try await lease.release()
                    for try await _ in group {}
                }
                #expect(try await server.remains() == [])
            }
        }
    }

    @Test func `all of 1,500 locks are listed, page by page, by prefix`() async throws {
        try await withObservedRedis { server, _ in
            try await withClient(server.unixURL) { client in
                var leases: [Lease] = []
                var names: Set<String> = []
                for batch in 0..<30 {
                    let some = (0..<50).map { "batch/\(batch)/\($0)" }
                    names.formUnion(some)
                    leases.append(try await client.acquire(some, ttl: .seconds(600)))
                }
                leases.append(try await client.acquire("other", ttl: .seconds(600)))
                var (seen, cursor, pages) = (Set<String>(), String?.none, 0)
                repeat {
                    let page = try await client.locks(prefix: "batch/", cursor: cursor)
                    for lock in page.locks {
                        #expect(lock.owner == leases[0].owner)
                        seen.insert(lock.name)
                    }
                    (cursor, pages) = (page.next, pages + 1)
                } while cursor != nil
                #expect(seen == names)
                #expect(pages > 10)
                #expect(
                    try await client.locks(prefix: "batch/7/", limit: 1000).locks.allSatisfy {
                        $0.name.hasPrefix("batch/7/")
                    })
                for lease in leases { try await lease.release() }
                let empty = try await client.locks(limit: 1000)
                #expect(empty.locks.isEmpty)
            }
        }
    }

    @Test(arguments: ["*", "?", "[a]", "\\", "^", "a*b", "[^x]", "{default}", "é", "a\\*"])
    func `a prefix stands for itself, whatever Redis' patterns make of it`(_ prefix: String) async throws {
        try await withObservedRedis { server, _ in
            try await withClient(server.unixURL) { client in
                let lease = try await client.acquire(
                    [prefix, prefix + "/1", "x" + prefix, "aab", "b"], ttl: .seconds(60))
                var (seen, cursor) = ([String](), String?.none)
                repeat {
                    let page = try await client.locks(prefix: prefix, cursor: cursor)
                    seen += page.locks.map { $0.name }
                    cursor = page.next
                } while cursor != nil
                #expect(Set(seen) == [prefix, prefix + "/1"])
                try await lease.release()
            }
        }
    }

    // MARK: Audit

    @Test func `the audit tells who had what, under which fence, how long and after what wait`() async throws {
        try await withObservedRedis { server, _ in
            try await withClients(server.unixURL, 2) { clients in
                let first = try await clients[0].acquire(["a", "b"], ttl: .seconds(60))
                async let waiting = clients[1].acquire("b", ttl: .seconds(60), wait: .seconds(60))
                try await eventually { try await clients[0].inspect("b").queueLength == 1 }
                try await first.release()
                let second = try await waiting
                try await second.release()
                let records = try await clients[0].audit()
                #expect(records.map { $0.action } == ["release", "grant", "release", "grant"])
                #expect(records.map { $0.names } == [["b"], ["b"], ["a", "b"], ["a", "b"]])
                #expect(records.map { $0.owner } == ["client 1", "client 1", "client 0", "client 0"])
                #expect(records.map { $0.fence } == [second.fence, second.fence, first.fence, first.fence])
                #expect(records.map { $0.held == nil } == [false, true, false, true])
                #expect(records.map { $0.waited != nil } == [false, true, false, false])
                #expect(try await clients[0].audit(limit: 1).count == 1)
            }
        }
    }

    @Test func `the audit is bounded, and off at 0`() async throws {
        for length in [0, 100] {
            try await withObservedRedis { server, observer in
                try await withClient(server.unixURL, { $0.auditLength = length }) { client in
                    for _ in 0..<300 { try await client.withLock("a") { _ in } }
                    guard case .integer(let count) = try await observer.send("XLEN", "ringfence:{default}:audit") else {
                        throw TestSupportError("XLEN")
                    }
                    // Redis trims by whole nodes of 100 entries.
                    #expect(count >= length && count <= length * 2)
                    #expect(try await client.audit(limit: 1000).count == count)
                }
            }
        }
    }

    @Test func `an audit that cannot be written stands in nobody's way`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                try await observer.send("SET", "ringfence:{default}:audit", "of another type")
                try await client.withLock("a") { _ in }
                #expect(try await observer.isClean("a"))
            }
        }
    }
}
