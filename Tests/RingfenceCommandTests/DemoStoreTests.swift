// SPDX-License-Identifier: Apache-2.0
import Logging
import Ringfence
import TestSupport
import Testing

@testable import RingfenceCommand

/// The demo's bank and the C reference, on a real Redis.
@Suite struct DemoStoreTests {
    private static let transfer = Transfer(id: "t-1", from: "a", to: "b", amount: 100)

    /// A store with one transfer between two accounts of 100,000, and a client for its locks.
    private func withStore(_ body: (DemoStore, RingfenceClient) async throws -> Void) async throws {
        try await withRedis { redis in
            let logger = Logger(label: "test")
            let configuration = try DemoStore.configuration(url: redis.unixURL, run: "test", environment: [:])
            let store = try DemoStore(configuration, run: "test", logger: logger)
            let locks = try RingfenceClient(configuration)
            let line = "{\"id\":\"t-1\",\"from\":\"a\",\"to\":\"b\",\"amount\":100}"
            try await store.open(try TransferFile(contents: line.utf8), opening: 100_000)
            try await body(store, locks)
            await locks.shutdown()
            await store.close()
        }
    }

    @Test func `a write under an overtaken lease is refused and changes nothing`() async throws {
        try await withStore { store, locks in
            let transfer = Self.transfer
            let late = try await locks.acquire(
                ["a", "b"], ttl: .milliseconds(100), options: LockOptions(renews: false))
            #expect(try await store.read(transfer, late) == .balances(from: 100_000, to: 100_000))

            // Waits until Redis has let the late one's lock expire.
            let fresh = try await locks.acquire(["a", "b"], wait: .seconds(10))
            #expect(fresh.fence > late.fence)
            #expect(try await store.read(transfer, fresh) == .balances(from: 100_000, to: 100_000))

            // The fresh one has only read so far: refused all the same, because its read recorded its fence.
            #expect(try await store.write(transfer, late, from: 99_900, to: 100_100, worker: "late") == .stale)
            #expect(try await store.balances(["a", "b"]) == ["a": 100_000, "b": 100_000])
            #expect(try await store.journal() == [])

            #expect(try await store.write(transfer, fresh, from: 99_900, to: 100_100, worker: "w") == .written)
            #expect(try await store.write(transfer, late, from: 1, to: 1, worker: "late") == .stale)
            #expect(try await store.read(transfer, late) == .stale)
            #expect(try await store.balances(["a", "b"]) == ["a": 99_900, "b": 100_100])
            #expect(try await store.journal() == ["t-1"])
            #expect(try await store.refusedWrites() == ["late t-1", "late t-1"])
            try await fresh.release()
        }
    }

    @Test func `a write that is repeated because its answer was lost is applied once`() async throws {
        try await withStore { store, locks in
            let lease = try await locks.acquire(["a", "b"])
            #expect(try await store.write(Self.transfer, lease, from: 99_900, to: 100_100, worker: "w") == .written)
            #expect(try await store.write(Self.transfer, lease, from: 99_900, to: 100_100, worker: "w") == .applied)
            #expect(try await store.read(Self.transfer, lease) == .applied)
            #expect(try await store.appliedCount() == 1)
            #expect(try await store.journal() == ["t-1"])
            try await lease.release()
        }
    }

    @Test func `what is on the list of a dead worker is delivered again`() async throws {
        try await withStore { store, _ in
            #expect(try await store.take("w1.0", mayHold: false) == Self.transfer)
            #expect(try await store.take("w2.0", mayHold: false) == nil)
            // The same lane after a lost answer finds its own work.
            #expect(try await store.take("w1.0", mayHold: true) == Self.transfer)
            #expect(try await store.redeliver("w1.0") == 1)
            #expect(try await store.take("w2.0", mayHold: false) == Self.transfer)
            try await store.finish(Self.transfer, "w2.0")
            #expect(try await store.redeliver("w2.0") == 0)
        }
    }
}
