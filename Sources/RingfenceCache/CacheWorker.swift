// SPDX-License-Identifier: Apache-2.0
//
// Stands in line to tend a cache. Every process that has it open does, and a lock lets one.
//
// The lock only keeps two from getting in each other's way: no promise rests on it (StewardMachine). So where the
// coordinator is away, whoever tends the cache goes on, until it notices another one. Nobody else can get the lock
// then; and nodes that nobody renews the word of would stop to count, just when the cache is needed most.

import Ringfence
import RingfenceCacheCore
import RingfenceCore
import Synchronization

final class CacheWorker: Sendable {
    /// How often who tends the cache looks for a newer layout, and for whom it was told is gone.
    private static let lookEvery: Duration = .seconds(2)

    private let core: CacheCore
    private let steward = Mutex<CacheSteward?>(nil)
    private let isNew: Bool

    init(_ core: CacheCore, isNew: Bool) {
        self.core = core
        self.isNew = isNew
    }

    var progress: CacheStatus.Progress? {
        steward.withLock { $0 }?.progress.map {
            .init(sourcesDone: $0.sourcesDone, sources: $0.sources, seen: $0.seen, copied: $0.copied)
        }
    }

    /// A member is gone for good: the one that tends the cache looks at once if it is here, and hears of it soon
    /// elsewhere.
    func forget(_ id: String) async throws {
        try await core.forget(id)
        steward.withLock { $0 }?.forget(id)
    }

    func run() async {
        var isNew = isNew
        while !Task.isCancelled, !core.client.isClosed {
            core.follow()
            if let lease = try? await tryAcquire() {
                let steward = CacheSteward(core, nonce: core.client.uniqueText(), isNew: isNew)
                isNew = false
                self.steward.withLock { $0 = steward }
                steward.start()
                let last = await tend(steward, lease)
                steward.stop()
                self.steward.withLock { $0 = nil }
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

    /// Until somebody else has the lock, or does it without. - Returns: the lease it had last.
    private func tend(_ steward: CacheSteward, _ first: Lease) async -> Lease {
        var lease = first
        var nextLook = ContinuousClock.now
        while !Task.isCancelled, !core.client.isClosed {
            if (try? lease.check()) == nil {
                do {
                    guard let again = try await tryAcquire() else { return lease }
                    lease = again
                } catch {
                    // It may be away for this process only.
                    if steward.isContested { return lease }
                }
            }
            if ContinuousClock.now >= nextLook {
                nextLook = ContinuousClock.now + Self.lookEvery
                for id in (try? await core.lookAround()) ?? [] { steward.forget(id) }
            }
            try? await Task.sleep(for: .milliseconds(200))
        }
        return lease
    }
}
