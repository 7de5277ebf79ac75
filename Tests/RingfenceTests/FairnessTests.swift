// SPDX-License-Identifier: Apache-2.0

import Hiredis
import Ringfence
import TestSupport
import Testing

@Suite struct FairnessTests {
    /// 1 when all got the same, 1/n when one got all.
    private func jain(_ shares: [Int]) -> Double {
        let sum = Double(shares.reduce(0, +))
        return sum * sum / (Double(shares.count) * shares.reduce(0) { $0 + Double($1) * Double($1) })
    }

    @Test func `under steady contention every client and every task gets its share, at two commands a grant`()
        async throws
    {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 4) { clients in
                let (tasks, grants) = (16, 3000)
                let shares = Shared(Array(repeating: Array(repeating: 0, count: tasks), count: clients.count))
                let fences = Shared<[Int64]>([])
                let isOver = Shared(false)
                try await withThrowingTaskGroup { group in
                    for (client, own) in clients.enumerated() {
                        for task in 0..<tasks {
                            group.addTask {
                                while !isOver.value {
                                    try await own.withLock("a", ttl: .seconds(60), wait: .seconds(60)) { lease in
                                        let count = fences.change { fences in
                                            fences.append(lease.fence)
                                            return fences.count
                                        }
                                        if count > grants { return isOver.change { $0 = true } }
                                        shares.change { $0[client][task] += 1 }
                                    }
                                }
                            }
                        }
                    }
                    for try await _ in group {}
                }
                // Each grant after the one before it: the body ran alone, in the order of the fences.
                #expect(zip(fences.value, fences.value.dropFirst()).allSatisfy { $0 < $1 })
                #expect(jain(shares.value.map { $0.reduce(0, +) }) >= 0.99, "\(shares.value.map { $0.reduce(0, +) })")
                #expect(jain(shares.value.flatMap { $0 }) >= 0.98, "\(shares.value)")
                let statistics = try await observer.send("INFO", "commandstats").text ?? ""
                let calls = statistics.split(whereSeparator: \.isNewline).first {
                    $0.hasPrefix("cmdstat_evalsha:calls=")
                }
                let count = calls.flatMap { Int($0.dropFirst(22).prefix { $0 != "," }) } ?? .max
                #expect(count <= fences.value.count * 2, "\(count) calls for \(fences.value.count) grants")
                #expect(try await observer.isClean("a"))
            }
        }
    }

    @Test func `processes get the lock in the order in which they queued up`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 8) { clients in
                let order = Shared<[Int]>([])
                try await withThrowingTaskGroup { group in
                    let first = try await clients[0].acquire("a", ttl: .seconds(60))
                    for number in 1..<clients.count {
                        group.addTask {
                            try await clients[number].withLock("a", ttl: .seconds(60), wait: .seconds(60)) { _ in
                                order.change { $0.append(number) }
                            }
                        }
                        try await eventually {
                            try await observer.send("ZCARD", "ringfence:{default}:queue:a") == .integer(Int64(number))
                        }
                    }
                    try await first.release()
                    for try await _ in group {}
                }
                #expect(order.value == Array(1..<clients.count))
            }
        }
    }

    @Test func `one process does not keep a lock from others for more than its turn`() async throws {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 2) { clients in
                let isOver = Shared(false)
                let passes = Shared(0)
                try await withThrowingTaskGroup { group in
                    let first = try await clients[0].acquire("a", ttl: .seconds(60))
                    // Always somebody waits in the first process.
                    for _ in 0..<8 {
                        group.addTask {
                            while !isOver.value {
                                try await clients[0].withLock("a", ttl: .seconds(60), wait: .seconds(60)) { _ in
                                    passes.change { $0 += 1 }
                                }
                            }
                        }
                    }
                    try await eventually { clients[0].waiterCount == 8 }
                    async let other = clients[1].acquire("a", ttl: .seconds(60), wait: .seconds(60))
                    try await eventually {
                        try await observer.send("ZCARD", "ringfence:{default}:queue:a") == .integer(1)
                    }
                    try await first.release()
                    let lease = try await other
                    isOver.change { $0 = true }
                    #expect(passes.value <= 17)
                    try await lease.release()
                    for try await _ in group {}
                }
            }
        }
    }
}
