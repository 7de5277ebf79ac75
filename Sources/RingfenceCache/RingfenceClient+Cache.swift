// SPDX-License-Identifier: Apache-2.0
//
// Opening a cache: find its layout or make the first one, connect to its nodes, and wait in line to repair it.

import Hiredis
public import Ringfence
import RingfenceCacheCore
import RingfenceCore

extension RingfenceClient {
    /// The replicated cache whose nodes are the members of the group of this name, each a Redis server of its own: the
    /// address of a member is `host:port`, or a `redis://`, `rediss://` or `unix://` URL. Let `ringfence agent` join
    /// them.
    ///
    /// The first call for a name makes the cache, as soon as the group has as many members as there are copies. Returns
    /// when enough nodes answer, and after 5 s in any case.
    ///
    /// - Throws: `RingfenceError`, effect `none`: `argument.invalid`; `cache.nodes` if it was never made and the
    ///   group has too few members with an address; `group.policyMismatch` if it was made with other numbers of copies;
    ///   `coordinator.unavailable`.
    public func cache(_ name: String, options: CacheOptions = CacheOptions()) async throws -> ReplicatedCache {
        do { try options.check() } catch { throw RingfenceError(error) }
        let group = try await group(name)
        let layouts = CacheLayouts(client: self, group: name)
        var isNew = false
        var layout = try await layouts.exchange().layout
        if layout == nil {
            try await group.refresh()
            (layout, isNew) = try await first(group, options, layouts)
        }
        guard let layout else {
            throw RingfenceError(.coordinatorRefused, effect: .none, "the cache's layout was not stored")
        }
        guard
            (layout.copies, layout.writes, layout.reads) == (
                options.replicationFactor, options.writeQuorum, options.readQuorum
            )
        else {
            throw RingfenceError(
                .groupPolicyMismatch, effect: .none,
                "the cache '\(name)' was made with N \(layout.copies), W \(layout.writes), R \(layout.reads): "
                    + "ask for those")
        }
        let map: CacheMap
        do { map = try CacheMap(layout) } catch { throw RingfenceError(error) }
        var generator = SystemRandomNumberGenerator()
        let core = CacheCore(
            name: name, options: options, group: group, client: self, layouts: layouts, map: map,
            writer: generator.next())
        let cache = ReplicatedCache(core: core, repair: CacheRepairElection(core, isNew: isNew))
        let end = Moment.now + 5 * .second
        let enough = max(options.writeQuorum, options.readQuorum)
        while Moment.now < end {
            if await cache.status().nodes.count(where: { $0.state == .up }) >= enough { break }
            try await Task.sleep(for: .milliseconds(20))
        }
        return cache
    }

    /// Makes the first layout, unless a node knows one, because the coordinator lost it.
    private func first(
        _ group: Group, _ options: CacheOptions, _ layouts: CacheLayouts
    ) async throws -> (CacheLayout?, isNew: Bool) {
        let members = group.snapshot.members.filter { !$0.address.isEmpty }
        guard members.count(where: { $0.weight > 0 }) >= options.replicationFactor else {
            throw RingfenceError(
                .cacheNodes, effect: .none, isRetriable: true,
                "the group '\(group.name)' has \(members.count) members with an address; a cache of "
                    + "\(options.replicationFactor) copies is made when there are so many")
        }
        let policy = group.ringPolicy
        let fresh = CacheLayout(
            copies: options.replicationFactor, writes: options.writeQuorum, reads: options.readQuorum,
            seed: policy.seed,
            pointsPerWeight: policy.pointsPerWeight,
            members: members.map {
                CacheMember(id: $0.id, zone: $0.zone, weight: $0.weight, address: $0.address)
            }, change: .random(in: 1 ... .max))
        let map: CacheMap
        do { map = try CacheMap(fresh) } catch { throw RingfenceError(error) }
        let core = CacheCore(
            name: group.name, options: options, group: group, client: self, layouts: layouts, map: map, writer: 0)
        var known: [CacheLayout] = []
        var answered = 0
        for node in core.placement.nodes {
            guard let node else { continue }
            let end = Moment.now + .second
            while !node.isConnected, Moment.now < end { try await Task.sleep(for: .milliseconds(5)) }
            guard case .success(let answer) = await node.answer(to: .hello(hintedTargets: []), stamp: .none) else {
                continue
            }
            answered += 1
            if case .hello(let json?, _, _) = answer.result, let layout = CacheLayout(json: json) {
                known.append(layout)
            }
        }
        await core.close()
        if let newest = known.max(by: { $0.epoch < $1.epoch }) {
            return (try await layouts.exchange(newest).layout, false)
        }
        // A node that knows a layout may be among those that do not answer.
        guard answered >= members.count - fresh.tolerance else {
            throw RingfenceError(
                .cacheNodes, effect: .none, isRetriable: true,
                "a cache is made when its nodes answer: \(answered) of \(members.count) do")
        }
        let stored = try await layouts.exchange(fresh).layout
        return (stored, stored == fresh)
    }
}
