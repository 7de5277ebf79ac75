// SPDX-License-Identifier: Apache-2.0
//
// One write and one read, performed: CacheWriteCall and CacheReadCall decide, here their messages are sent, and their
// caller is told.
//
// A write's first messages are sent by its caller; those to the rest of its nodes wait for a moment, and go with those
// of other writes to the same node in one message (CacheLate).
//
// The object lives on until every node has been heard of (each message has a deadline, and one that passes is an answer
// too), because what the last one says shows which nodes lack something.

import CoreMetrics
import Hiredis
import Ringfence
import RingfenceCacheCore
import RingfenceCore
import Synchronization

/// A write's success is nil.
private typealias CallerResult = Result<CacheEntry?, RingfenceError>
private typealias CallerContinuation = TrustedContinuation<CallerResult, Never>

/// What is sent to a node a moment after the write began.
struct CacheLate: Sendable {
    /// How many of them go in one message, and how many bytes of values with another.
    private static let most = 64
    private static let mostBytes = 256 << 10

    let node: CacheNode
    let stamp: CacheStamp
    let item: CacheItem
    let deadline: Nanos
    let heard: @Sendable (Result<CacheAnswer, CacheFailure>) -> Void

    /// One message for each node.
    static func send(_ all: [CacheLate]) {
        var open: [ObjectIdentifier: [CacheLate]] = [:]
        var bytes: [ObjectIdentifier: Int] = [:]
        for one in all {
            let id = ObjectIdentifier(one.node)
            let size = one.item.entry.payload?.count ?? 0
            if let batch = open[id],
                batch.count == most || bytes[id]! + size > mostBytes || batch[0].stamp != one.stamp
            {
                send(together: batch)
                (open[id], bytes[id]) = (nil, nil)
            }
            open[id, default: []].append(one)
            bytes[id, default: 0] += size
        }
        for batch in open.values { send(together: batch) }
    }

    private static func send(together batch: [CacheLate]) {
        // A write that is heard of after its own deadline is not counted by its caller.
        let deadline = batch.map(\.deadline).max() ?? 0
        batch[0].node.put(batch.map(\.item), stamp: batch[0].stamp, deadline: deadline) { result in
            for (index, one) in batch.enumerated() {
                one.heard(
                    result.map { answer in
                        guard case .put(let results) = answer.result else { return answer }
                        var answer = answer
                        answer.result = .put([results[index]])
                        return answer
                    })
            }
        }
    }
}

final class CacheWrite: Sendable {
    private struct State {
        var call: CacheWriteCall
        /// Of the call's attempt.
        var placement: CachePlacement
        var caller: CallerContinuation?
    }

    private let core: CacheCore
    private let key: String
    private let writes: Int
    private let deadline: Nanos
    private let state: Mutex<State>

    private init(
        _ core: CacheCore, _ key: String, _ entry: CacheEntry, writes: Int, isSloppy: Bool, began: Nanos,
        _ caller: CallerContinuation
    ) {
        (self.core, self.key, self.writes) = (core, key, writes)
        deadline = began + Nanos(saturating: core.options.timeout)
        let placement = core.placement
        let call = CacheWriteCall(
            placement.map, key: key, entry: entry, writes: writes, sloppy: isSloppy, deadline: deadline, now: began,
            isSlow: placement.isSlow)
        state = Mutex(State(call: call, placement: placement, caller: caller))
    }

    /// Writes, with a version of its own.
    static func perform(
        _ core: CacheCore, _ key: String, payload: [UInt8]?, ttl: Int64?, writes: Int, isSloppy: Bool
    ) async throws(RingfenceError) {
        let result = await withTrustedContinuation { continuation in
            let began = Moment.now
            let life: Int64? = payload == nil ? core.options.life : ttl.map { $0 + core.options.life }
            let entry = CacheEntry(
                version: core.nextVersion(), payload: payload, ttlMilliseconds: ttl, lifeMilliseconds: life)
            CacheWrite(core, key, entry, writes: writes, isSloppy: isSloppy, began: began, continuation)
                .begin { $0.call.begin() }
        }
        _ = try result.get()
    }

    /// Begins an attempt.
    private func begin(_ attempt: (inout State) -> CacheWriteCall.Action) {
        let (action, hasRest) = state.withLock { (attempt(&$0), $0.call.hasRest) }
        perform(action)
        if hasRest { core.sendLater(self) }
    }

    private func again(_ version: CacheVersion?) {
        let placement = core.placement
        begin { state in
            let action = state.call.again(
                placement.map, version: version, now: Moment.now, isSlow: placement.isSlow)
            if case .send = action { state.placement = placement }
            return action
        }
    }

    private func perform(_ action: CacheWriteCall.Action) {
        switch action {
        case .none: break
        case .send(let nodes, let attempt): send(to: nodes, attempt)
        case .newer(let version):
            core.metrics.again.increment()
            again(core.nextVersion(above: version))
        case .outdated(let layout): core.renew(layout) { [self] in again(nil) }
        case .succeed: state.withLock { $0.caller.take() }?.resume(returning: .success(nil))
        case .fail(let mayBeApplied): fail(mayBeApplied)
        }
    }

    private func send(to nodes: [Int], _ attempt: Int) {
        // Another thread may have begun the next attempt: places are of this one's layout.
        let now = state.withLock { $0.call.isCurrent(attempt) ? ($0.placement, $0.call.entry) : nil }
        guard let (placement, entry) = now else { return }
        for node in nodes {
            guard let target = placement.nodes[node] else {
                heard(node, .failure(.notSent), attempt)
                continue
            }
            target.put([CacheItem(key, entry)], stamp: placement.map.stamp, deadline: deadline) {
                [self] result in heard(node, result, attempt)
            }
        }
    }

    /// The messages for the nodes that were not sent to at once. Later writes do not wait for those of the first nodes
    /// that have not answered yet.
    func rest() -> [CacheLate] {
        let (rest, placement, entry) = state.withLock {
            ($0.call.rest(now: Moment.now), $0.placement, $0.call.entry)
        }
        for node in rest.slow { placement.nodes[node]?.isSlow = true }
        return rest.nodes.compactMap { node in
            guard let target = placement.nodes[node] else {
                heard(node, .failure(.notSent), rest.attempt)
                return nil
            }
            return CacheLate(
                node: target, stamp: placement.map.stamp, item: CacheItem(key, entry), deadline: deadline
            ) { [self] result in heard(node, result, rest.attempt) }
        }
    }

    private func heard(_ node: Int, _ result: Result<CacheAnswer, CacheFailure>, _ attempt: Int) {
        let (step, placement) = state.withLock { state in
            let step = state.call.heard(node, result, attempt: attempt, now: Moment.now)
            return (step, step.missing.isEmpty ? nil : state.placement)
        }
        perform(step.action)
        if let placement { core.hint(key, missing: step.missing, on: placement) }
    }

    private func fail(_ mayBeApplied: Bool) {
        let (caller, outcomes, map) = state.withLock { ($0.caller.take(), $0.call.outcomes, $0.placement.map) }
        core.metrics.failed.increment()
        caller?.resume(
            returning: .failure(
                RingfenceError(
                    .cacheQuorum, effect: mayBeApplied ? .unknown : .none, isRetriable: true,
                    "writing to the cache '\(core.name)': \(writes) nodes must have it, and fewer do "
                        + "(\(outcomes.text(map.ids)))")))
    }
}

final class CacheRead: Sendable {
    private struct State {
        var call: CacheReadCall
        /// Of the call's attempt.
        var placement: CachePlacement
        var caller: CallerContinuation?
    }

    private let core: CacheCore
    private let key: String
    private let reads: Int
    private let deadline: Nanos
    private let state: Mutex<State>

    private init(_ core: CacheCore, _ key: String, reads: Int, _ caller: CallerContinuation) {
        (self.core, self.key, self.reads) = (core, key, reads)
        deadline = Moment.now + Nanos(saturating: core.options.timeout)
        let placement = core.placement
        state = Mutex(
            State(
                call: CacheReadCall(placement.map, key: key, reads: reads, deadline: deadline),
                placement: placement, caller: caller))
    }

    /// The newest entry, removals too; nil: nobody knows of any.
    static func perform(_ core: CacheCore, _ key: String, reads: Int) async throws(RingfenceError) -> CacheEntry? {
        let result = await withTrustedContinuation { continuation in
            CacheRead(core, key, reads: reads, continuation).begin { $0.call.begin() }
        }
        let entry = try result.get()
        if let entry { core.saw(entry.version) }
        return entry
    }

    /// Begins an attempt.
    private func begin(_ attempt: (inout State) -> CacheReadCall.Action) {
        perform(state.withLock { attempt(&$0) })
    }

    private func again() {
        let placement = core.placement
        begin { state in
            let action = state.call.again(placement.map, now: Moment.now)
            if case .send = action { state.placement = placement }
            return action
        }
    }

    private func perform(_ action: CacheReadCall.Action) {
        switch action {
        case .none: break
        case .send(let nodes, let attempt): send(to: nodes, attempt)
        case .outdated(let layout): core.renew(layout) { [self] in again() }
        case .succeed(let entry): state.withLock { $0.caller.take() }?.resume(returning: .success(entry))
        case .fail: fail()
        }
    }

    private func send(to nodes: [Int], _ attempt: Int) {
        guard let placement = state.withLock({ $0.call.isCurrent(attempt) ? $0.placement : nil }) else { return }
        let left = deadline - Moment.now
        for node in nodes {
            guard left > 0, let target = placement.nodes[node] else {
                heard(node, .failure(.notSent), attempt)
                continue
            }
            target.call(.get([key]), stamp: placement.map.stamp, deadline: .nanoseconds(left)) {
                [self] result in heard(node, result, attempt)
            }
        }
    }

    private func heard(_ node: Int, _ result: Result<CacheAnswer, CacheFailure>, _ attempt: Int) {
        let (step, placement) = state.withLock { state in
            let step = state.call.heard(node, result, attempt: attempt, now: Moment.now)
            return (step, step.repairs.isEmpty ? nil : state.placement)
        }
        perform(step.action)
        if let placement { repair(step.repairs, on: placement) }
    }

    private func repair(_ repairs: [CacheReadMachine.Repair], on placement: CachePlacement) {
        for repair in repairs {
            core.metrics.repairs.increment()
            placement.nodes[repair.node]?.call(
                .put([CacheItem(key, repair.entry)], notAfter: repair.notAfter), stamp: placement.map.stamp
            ) { _ in }
        }
    }

    private func fail() {
        let (caller, outcomes, map) = state.withLock { ($0.caller.take(), $0.call.outcomes, $0.placement.map) }
        core.metrics.failed.increment()
        caller?.resume(
            returning: .failure(
                RingfenceError(
                    .cacheQuorum, effect: .none, isRetriable: true,
                    "reading from the cache '\(core.name)': \(reads) nodes with complete data must answer, "
                        + "and fewer do (\(outcomes.text(map.ids)))")))
    }
}
