// SPDX-License-Identifier: Apache-2.0
//
// A cache on several Redis servers that know nothing of each other: Dynamo's idea (DeCandia et al. 2007) on the groups
// and the ring that are here already. The decisions are in RingfenceCacheCore; cache.lua is what a node does.
//
// What is different from others of its kind, and why:
//  - A node says by itself that it lost data. Quorums are arithmetic on what nodes acknowledged, and a Redis that was
//    flushed, or restarted without its last second, forgot what it acknowledged; here it does not count before it has
//    been completed.
//  - The layout is not the membership. A node that is away for a minute comes back sooner than its data is copied.
//  - A layout changes in joint steps under an epoch that every node knows, so a process that slept meanwhile is
//    refused.
//  - A hint is a key without a value, and does not count as a copy.

import Ringfence
import RingfenceCacheCore
import RingfenceCore

/// Values on several independent Redis servers, of which some may be lost.
///
/// ```swift
/// let cache = try await ringfence.cache("sessions")  // the Redis servers are the members of the group of this name
/// try await cache.set("user/17", bytes, for: .seconds(600))
/// let bytes = try await cache.get("user/17")
/// ```
///
/// Each key has N copies on the nodes of its preference list on the ring, in different zones if there are any. A write
/// waits for W of them, a read for R; the rest get a write a millisecond later.
///
/// What you get with R + W > N, the default, and no sloppy writes: a read sees the latest write that had been
/// acknowledged when it began, even while nodes die, freeze, restart empty, join, and leave, as long as at most W - 1
/// of them lose data at one time. **The last writer wins**, one key at a time: there is no compare-and-set, and no two
/// keys change together. A write that failed may still take effect, now or later. Of two writes at the same moment one
/// may be seen, overwritten, and seen again before its call returns. It is a cache, not a ledger: keep balances in a
/// database.
///
/// Nodes must not evict: with a `maxmemory-policy` other than `noeviction` an acknowledged value may be gone, and a
/// read may find an older one. Give values a time to live, and nodes enough memory.
public final class ReplicatedCache: Sendable {
    let core: CacheCore
    private let worker: Task<Void, Never>
    private let repair: CacheRepairElection

    init(core: CacheCore, repair: CacheRepairElection) {
        self.core = core
        self.repair = repair
        worker = Task { await repair.run() }
    }

    deinit {
        worker.cancel()
        let core = core
        Task { await core.close() }
    }

    /// The cache's name: that of its group.
    public var name: String { core.name }

    // MARK: Values

    /// The value of a key; nil if there is none, it was removed, or its time is over.
    ///
    /// A node that answers with an older value is sent the newest, in the background. The call ends within
    /// ``CacheOptions/timeout`` whether its task is cancelled or not.
    /// - Parameters:
    ///   - key: 1 to 512 bytes of UTF-8 without control characters.
    ///   - reads: how many nodes must answer; nil: the cache's read quorum. With fewer than N - W + 1 a read may miss
    ///     the latest write.
    /// - Throws: `RingfenceError`, effect `none`: `argument.invalid`; `cache.quorum` if too few nodes answer or have
    ///   their data; `client.shutDown`.
    public func get(_ key: String, reads: Int? = nil) async throws -> [UInt8]? {
        let reads = reads ?? core.options.readQuorum
        do throws(InvalidArgument) {
            try Limits.check(key: key)
            try Limits.check(reads, "reads", 1...core.options.replicationFactor)
        } catch { throw RingfenceError(error) }
        try checkOpen()
        return try await CacheRead.perform(core, key, reads: reads)?.payload
    }

    /// Stores a value.
    ///
    /// The call ends within ``CacheOptions/timeout`` whether its task is cancelled or not.
    /// - Parameters:
    ///   - key: 1 to 512 bytes of UTF-8 without control characters.
    ///   - value: up to 1 MiB.
    ///   - ttl: the time to live, 1 ms to 365 days; nil: for ever.
    ///   - writes: how many nodes must have it; nil: the cache's write quorum. With fewer than N - R + 1 reads may miss
    ///     the write.
    ///   - sloppy: other nodes may keep it for those that are not reached, and count. The write succeeds more often,
    ///     and a read may miss it until they are back.
    /// - Throws: `RingfenceError`: `argument.invalid`, effect `none`; `cache.quorum` if too few nodes have it in
    ///   time, with effect `unknown` if one or more may have it; `client.shutDown`.
    public func set(
        _ key: String, _ value: [UInt8], for ttl: Duration? = nil, writes: Int? = nil, sloppy: Bool = false
    ) async throws {
        let milliseconds: Int64?
        do throws(InvalidArgument) {
            try CacheOptions.check(value: value)
            milliseconds = try CacheOptions.milliseconds(ttl)
        } catch { throw RingfenceError(error) }
        try await write(key, value, ttl: milliseconds, writes, sloppy)
    }

    /// Removes a key, whether there is a value or not. As ``set(_:_:for:writes:sloppy:)``.
    public func remove(_ key: String, writes: Int? = nil, sloppy: Bool = false) async throws {
        try await write(key, nil, ttl: nil, writes, sloppy)
    }

    private func write(
        _ key: String, _ payload: [UInt8]?, ttl: Int64?, _ writes: Int?, _ isSloppy: Bool
    ) async throws {
        let writes = writes ?? core.options.writeQuorum
        do throws(InvalidArgument) {
            try Limits.check(key: key)
            try Limits.check(writes, "writes", 1...core.options.replicationFactor)
        } catch { throw RingfenceError(error) }
        try checkOpen()
        try await CacheWrite.perform(core, key, payload: payload, ttl: ttl, writes: writes, isSloppy: isSloppy)
    }

    private func checkOpen() throws {
        guard !core.isClosed, !core.client.isClosed else { throw RingfenceError.shutDown }
    }

    // MARK: Operating

    /// Returns the state of the cache, asking each node now. A node that does not answer within the timeout is `away`.
    public func status() async -> CacheStatus {
        let placement = core.placement
        let layout = placement.map.layout
        let ids = placement.map.ids
        var found: [Int: CacheAnswer] = [:]
        await withTaskGroup(of: (Int, CacheAnswer?).self) { tasks in
            for (place, node) in placement.nodes.enumerated() {
                tasks.addTask {
                    (place, try? await node?.answer(to: .hello(hintedTargets: ids), stamp: layout.stamp).get())
                }
            }
            for await (place, answer) in tasks { found[place] = answer }
        }
        func hints(for place: Int) -> Int {
            found.values.reduce(0) { sum, answer in
                guard case .hello(_, let hints, _) = answer.result, hints.indices.contains(place) else { return sum }
                return sum + Int(hints[place])
            }
        }
        func isDue(_ id: String) -> Int64 {
            layout.target.contains { $0.id.hasSameBytes(as: id) } ? layout.targetSince : layout.membersSince
        }
        let nodes = ids.enumerated().map { place, id in
            let state: CacheStatus.Node.State =
                switch found[place] {
                case nil: .away
                case let answer? where answer.wholeEpoch < isDue(id) || answer.isBehind: .catchingUp
                case _?: .up
                }
            return CacheStatus.Node(
                id: id, address: placement.nodes[place]?.address ?? "", state: state, hints: hints(for: place))
        }
        return CacheStatus(
            name: name, epoch: layout.epoch, isMoving: layout.step != .settled, nodes: nodes,
            progress: repair.progress)
    }

    /// Gives up a node that is gone for good: its copies are made anew on the others now, not only after
    /// ``CacheOptions/replaceAfter``. If you can, set the node's weight to 0 instead and wait: then its data moves away
    /// while it is still there.
    ///
    /// The process that repairs the cache hears of it within seconds, whichever it is.
    /// - Throws: `RingfenceError`: `argument.invalid`, effect `none`, if it is no node of the cache, or is a member
    ///   of the group and so would come again at once; `coordinator.unavailable`. It is safe to repeat.
    public func forget(_ node: String) async throws {
        let layout = core.placement.map.layout
        guard layout.members.contains(where: { $0.id.hasSameBytes(as: node) }) else {
            throw RingfenceError(InvalidArgument("node", "'\(node)' is no node of the cache '\(name)'"))
        }
        guard !core.group.snapshot.members.contains(where: { $0.id.hasSameBytes(as: node) }) else {
            throw RingfenceError(
                InvalidArgument("node", "'\(node)' is a member of the group: take it out first, or set its weight to 0")
            )
        }
        try await repair.forget(node)
    }

    /// Closes the connections to the nodes. Further calls throw `client.shutDown`. Dropping the cache does the same.
    public func close() async {
        worker.cancel()
        await worker.value
        await core.close()
    }
}

/// The state of a cache and its nodes.
public struct CacheStatus: Sendable, Hashable {
    /// A node.
    public struct Node: Sendable, Hashable {
        /// Whether it is read.
        public enum State: String, Sendable, Hashable {
            /// The node has its data.
            case up
            /// The node lost data, missed some or is new, and is being completed: reads avoid it, writes reach it.
            case catchingUp
            /// The node does not answer.
            case away
        }

        /// The node's member id.
        public var id: String
        /// The node's address.
        public var address: String
        /// Whether it is read.
        public var state: State
        /// The number of keys that the others have noted for it.
        public var hints: Int
    }

    /// The cache's name.
    public var name: String
    /// The epoch of its layout, which grows with each step of a change.
    public var epoch: Int64
    /// Whether data moves, because a node came or went.
    public var isMoving: Bool
    /// The nodes, in the order of their ids' bytes.
    public var nodes: [Node]
    /// The progress of a completion, if this process is completing nodes now.
    public var progress: Progress?

    /// The progress of a completion.
    public struct Progress: Sendable, Hashable {
        /// The number of nodes, of ``sources``, whose keys were all gone through.
        public var sourcesDone: Int
        /// The number of nodes whose keys are gone through.
        public var sources: Int
        /// The number of keys gone through so far.
        public var seen: Int64
        /// The number of keys handed over so far.
        public var copied: Int64
    }
}
