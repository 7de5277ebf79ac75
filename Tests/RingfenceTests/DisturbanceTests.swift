// SPDX-License-Identifier: Apache-2.0
//
// What an operator or a deployment does to a Redis in use: scripts flushed, connections killed. Callers must not
// notice.

import Hiredis
import Ringfence
import TestSupport
import Testing

@Suite struct DisturbanceTests {
    /// Two clients with eight tasks each work on three locks, while `disturb` goes on; every body runs alone.
    private func work(
        rounds: Int, _ disturb: @escaping @Sendable (Observer, Int) async throws -> Void
    ) async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.url) { one in
                try await withClient(server.url) { two in
                    let inside = Shared([0, 0, 0])
                    let done = Shared(0)
                    let fences = Shared<[[Int64]]>([[], [], []])
                    try await withThrowingTaskGroup { group in
                        for task in 0..<16 {
                            let client = task % 2 == 0 ? one : two
                            group.addTask {
                                for round in 0..<rounds {
                                    let index = (task + round) % 3
                                    try await client.withLock("lock \(index)", ttl: .seconds(60), wait: .seconds(60)) {
                                        lease in
                                        #expect(
                                            inside.change {
                                                $0[index] += 1; return $0[index]
                                            } == 1)
                                        fences.change { $0[index].append(lease.fence) }
                                        await Task.yield()
                                        inside.change { $0[index] -= 1 }
                                    }
                                }
                                done.change { $0 += 1 }
                            }
                        }
                        group.addTask {
                            var number = 0
                            while done.value < 16 {
                                try await disturb(observer, number)
                                number += 1
                            }
                        }
                        for try await _ in group {}
                    }
                    for list in fences.value { #expect(zip(list, list.dropFirst()).allSatisfy { $0 < $1 }) }
                    try await eventually("nothing left") { try await server.remains() == [] }
                }
            }
        }
    }

    @Test func `scripts flushed all the time are loaded again unseen`() async throws {
        try await work(rounds: 20) { observer, _ in
            try await observer.send("SCRIPT", "FLUSH", "SYNC")
            try await Task.sleep(for: .milliseconds(1))
        }
    }

    @Test func `command connections killed again and again cost no lock and leave none`() async throws {
        try await work(rounds: 8) { observer, _ in
            try await observer.send("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            try await Task.sleep(for: .milliseconds(25))
        }
    }

    @Test func `inboxes killed again and again cost no waiter its turn`() async throws {
        try await work(rounds: 8) { observer, _ in
            try await observer.send("CLIENT", "KILL", "TYPE", "pubsub")
            try await Task.sleep(for: .milliseconds(15))
        }
    }

    @Test(arguments: ["normal", "pubsub"])
    func `waiters whose connection was killed are served in order`(_ type: String) async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.url) { holder in
                let first = try await holder.acquire("a", ttl: .seconds(60))
                let order = Shared<[Int]>([])
                try await withClients(server.url, 4) { clients in
                    try await withThrowingTaskGroup { group in
                        for (number, client) in clients.enumerated() {
                            group.addTask {
                                try await client.withLock("a", ttl: .seconds(60), wait: .seconds(60)) { _ in
                                    order.change { $0.append(number) }
                                }
                            }
                            try await eventually {
                                try await observer.send("ZCARD", "ringfence:{default}:queue:a")
                                    == .integer(Int64(number + 1))
                            }
                        }
                        try await observer.send("CLIENT", "KILL", "TYPE", type, "SKIPME", "yes")
                        // All inboxes are heard again: nobody is dropped for want of one.
                        try await eventually("subscribed again") {
                            try await observer.send("PUBSUB", "CHANNELS").array?.count == 5
                        }
                        try await first.release()
                        for try await _ in group {}
                    }
                }
                #expect(order.value == [0, 1, 2, 3])
                #expect(try await observer.isClean("a"))
            }
        }
    }
}
