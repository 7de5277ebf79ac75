// SPDX-License-Identifier: Apache-2.0
//
// The election of the process that repairs a cache. Every process that has the cache open waits for one lock.
//
// The lock only keeps two from getting in each other's way: no promise rests on it (RepairMachine). So where the
// coordinator is away, the process that repairs the cache goes on, until it notices another one. Nobody else can get
// the lock then; and nodes that are not completed anew would stop counting, just when the cache is needed most.

import Ringfence
import RingfenceCacheCore
import RingfenceCore
import Synchronization

final class CacheRepairElection: Sendable {
    /// How often the process that repairs the cache looks for a newer layout, and for members reported as gone.
    private static let lookEvery: Duration = .seconds(2)

    private let core: CacheCore
    private let repair = Mutex<CacheRepair?>(nil)
    private let isNew: Bool

    init(_ core: CacheCore, isNew: Bool) {
        self.core = core
        self.isNew = isNew
    }

    var progress: CacheStatus.Progress? {
        repair.withLock { $0 }?.progress.map {
            .init(sourcesDone: $0.sourcesDone, sources: $0.sources, seen: $0.seen, copied: $0.copied)
        }
    }

    /// A member is gone for good: the repair looks at once if it runs here, and hears of it soon if it runs elsewhere.
    func forget(_ id: String) async throws {
        try await core.forget(id)
        repair.withLock { $0 }?.forget(id)
    }

    func run() async {
        var isNew = isNew
        while !Task.isCancelled, !core.client.isClosed {
            core.follow()
            if let lease = try? await tryAcquire() {
                let repair = CacheRepair(core, nonce: core.client.uniqueText(), isNew: isNew)
                isNew = false
                self.repair.withLock { $0 = repair }
                repair.start()
                let last = await tend(repair, lease)
                repair.stop()
                self.repair.withLock { $0 = nil }
                try? await last.release()
            } else {
                try? await Task.sleep(for: .milliseconds(Int.random(in: 500...1500)))
            }
        }
    }

    private func tryAcquire() async throws -> Lease? {
        try await core.client.tryAcquire(
            "cache/\(core.name)", ttl: .seconds(5), options: .init(maximumHold: .seconds(30 * 86_400)))
    }

    /// Repairs until another process has the lock, or repairs without it.
    /// - Returns: the lease it had last.
    private func tend(_ repair: CacheRepair, _ first: Lease) async -> Lease {
        var lease = first
        var nextLook = ContinuousClock.now
        while !Task.isCancelled, !core.client.isClosed {
            if (try? lease.check()) == nil {
                do {
                    guard let again = try await tryAcquire() else { return lease }
                    lease = again
                } catch {
                    // It may be away for this process only.
                    if repair.isContested { return lease }
                }
            }
            if ContinuousClock.now >= nextLook {
                nextLook = ContinuousClock.now + Self.lookEvery
                for id in (try? await core.refreshLayout()) ?? [] { repair.forget(id) }
            }
            try? await Task.sleep(for: .milliseconds(200))
        }
        return lease
    }
}
