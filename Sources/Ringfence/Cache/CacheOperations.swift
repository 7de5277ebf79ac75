// SPDX-License-Identifier: Apache-2.0
//
// One write and one read, performed: the machines decide, here their messages are sent, and their caller is told.
//
// A write's first messages are sent by its caller; those to the rest of its nodes wait for a moment, and go with those of other
// writes to the same node in one message (CacheLate).
//
// A call is over when its machine says so (each message has a deadline, and one that passes is an answer too); the object lives on until every node has been heard of, because what
// the last one says shows who lacks something. Time counts from before the first message. An answer that comes when the time is
// over must not make the call a success, even where nobody looked at the clock in between: what keeps quorums right
// (SweepMachine) rests on it.

import CoreMetrics
import RingfenceCore
import Synchronization

/// A write's success is nil.
private typealias CallerResult = Result<CacheEntry?, RingfenceError>

#if DEBUG
    // A continuation resumed twice crashes only sometimes; debug builds, and so the tests, crash always.
    private typealias CallerContinuation = CheckedContinuation<CallerResult, Never>
    private func withCaller(_ body: (CallerContinuation) -> Void) async -> CallerResult {
        await withCheckedContinuation(body)
    }
#else
    private typealias CallerContinuation = UnsafeContinuation<CallerResult, Never>
    @inline(__always)
    private func withCaller(_ body: (CallerContinuation) -> Void) async -> CallerResult {
        await withUnsafeContinuation(body)
    }
#endif

/// What both share: the caller, who is told once.
private struct Caller: Sendable {
    private var continuation: CallerContinuation?
    let deadline: Nanos

    init(_ continuation: CallerContinuation, timeout: Nanos) {
        self.continuation = continuation
        deadline = Moment.now + timeout
    }

    var isWaiting: Bool { continuation != nil }

    /// To be resumed outside of a lock.
    mutating func take() -> CallerContinuation? {
        defer { continuation = nil }
        return continuation
    }
}

/// What came of the messages of one attempt, for an error.
private struct Outcomes: Sendable {
    private var words: [(node: Int, word: StaticString)] = []

    mutating func note(_ node: Int, _ result: Result<CacheAnswer, CacheFailure>) {
        let word: StaticString =
            switch result {
            case .failure(.notSent): "not connected"
            case .failure(.unknown): "no answer in time"
            case .failure(.refused): "refuses"
            case .success(let answer): answer.wholeEpoch < 0 ? "its data is being completed" : "answers"
            }
        if words.isEmpty { words.reserveCapacity(4) }
        words.append((node, word))
    }

    func text(_ map: CacheMap) -> String {
        words.sorted { $0.node < $1.node }.map { "\(map.ids[$0.node]): \($0.word)" }.joined(separator: "; ")
    }
}

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
        // One that is heard of after its own time is not counted by whoever sent it.
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
        var caller: Caller
        var entry: CacheEntry
        var machine: CacheWriteMachine
        var placement: CachePlacement
        /// A message of an attempt before is not heard.
        var attempt = 0
        /// When this attempt did.
        var began = Moment.now
        var outcomes = Outcomes()
        var mayBeApplied = false
    }

    private let core: CacheCore
    private let key: String
    private let writes: Int
    private let isSloppy: Bool
    private let state: Mutex<State>

    private init(
        _ core: CacheCore, _ key: String, _ entry: CacheEntry, writes: Int, isSloppy: Bool, _ caller: Caller
    ) {
        self.core = core
        self.key = key
        self.writes = writes
        self.isSloppy = isSloppy
        let placement = core.placement
        state = Mutex(
            State(
                caller: caller, entry: entry,
                machine: Self.machine(placement, key, writes: writes, isSloppy: isSloppy), placement: placement))
    }

    private static func machine(
        _ placement: CachePlacement, _ key: String, writes: Int, isSloppy: Bool
    ) -> CacheWriteMachine {
        CacheWriteMachine(placement.map, key: key, writes: writes, sloppy: isSloppy) { node in
            placement.nodes[node].map { $0.isSlow || !$0.isConnected } ?? true
        }
    }

    /// Writes, with a version of its own.
    static func perform(
        _ core: CacheCore, _ key: String, payload: [UInt8]?, ttl: Int64?, writes: Int, isSloppy: Bool
    ) async throws(RingfenceError) {
        let result = await withCaller { continuation in
            let caller = Caller(continuation, timeout: Nanos(saturating: core.options.timeout))
            let life: Int64? = payload == nil ? core.options.life : ttl.map { $0 + core.options.life }
            let entry = CacheEntry(
                version: core.nextVersion(), payload: payload, ttlMilliseconds: ttl, lifeMilliseconds: life)
            CacheWrite(core, key, entry, writes: writes, isSloppy: isSloppy, caller).start()
        }
        _ = try result.get()
    }

    private func start() {
        let (first, hasMore, attempt) = state.withLock {
            ($0.machine.first, $0.machine.first.count < $0.machine.nodes.count, $0.attempt)
        }
        // A key has no node only where all members are drained.
        if first.isEmpty { return fail() }
        send(to: first, attempt)
        if hasMore { core.sendLater(self) }
    }

    private func send(to nodes: [Int], _ attempt: Int) {
        // Places are of the attempt's layout.
        let now = state.withLock { $0.attempt == attempt ? ($0.placement, $0.entry, $0.caller.deadline) : nil }
        guard let (placement, entry, deadline) = now else { return }
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

    /// For whom it was not sent to at once. Who of the first has not answered yet is not waited for by the next ones.
    func rest() -> [CacheLate] {
        let (nodes, awaited, placement, entry, attempt, deadline) = state.withLock {
            // One that joined the others late has hardly been sent yet.
            let awaited = Moment.now - $0.began >= .millisecond ? $0.machine.awaited : []
            return ($0.machine.rest(), awaited, $0.placement, $0.entry, $0.attempt, $0.caller.deadline)
        }
        for node in awaited { placement.nodes[node]?.isSlow = true }
        return nodes.compactMap { node in
            guard let target = placement.nodes[node] else {
                heard(node, .failure(.notSent), attempt)
                return nil
            }
            return CacheLate(
                node: target, stamp: placement.map.stamp, item: CacheItem(key, entry), deadline: deadline
            ) { [self] result in heard(node, result, attempt) }
        }
    }

    private func heard(_ node: Int, _ result: Result<CacheAnswer, CacheFailure>, _ attempt: Int) {
        let (action, continuation, settled) = state.withLock {
            state -> (CacheWriteMachine.Action, CallerContinuation?, State?) in
            guard state.attempt == attempt else { return (.none, nil, nil) }
            if state.caller.isWaiting { state.outcomes.note(node, result) }
            let action =
                switch result {
                case .success(let answer): state.machine.answered(node, answer)
                case .failure(let failure): state.machine.failed(node, failure)
                }
            if case .failure(.unknown) = result { state.mayBeApplied = true }
            if case .success(let answer) = result, case .put = answer.result { state.mayBeApplied = true }
            let isLast = state.machine.isSettled && !state.machine.missing.isEmpty
            switch action {
            case .done where Moment.now <= state.caller.deadline:
                return (action, state.caller.take(), isLast ? state : nil)
            case .done, .failed: return (action, nil, isLast ? state : nil)
            default: return (action, nil, isLast ? state : nil)
            }
        }
        switch action {
        case .none: break
        case .done:
            if let continuation { continuation.resume(returning: .success(nil)) } else { fail() }
        case .failed: fail()
        case .send(let nodes): send(to: nodes, attempt)
        case .again(let above):
            core.metrics.again.increment()
            again { core, state in state.entry.version = core.nextVersion(above: above) }
        case .outdated(let layout):
            core.renew(layout) { [self] in again { _, _ in } }
        }
        // A later attempt hears of its own.
        if let settled { core.hint(key, missing: settled.machine.missing, on: settled.placement) }
    }

    private func again(_ change: (CacheCore, inout State) -> Void) {
        let isGoingOn = state.withLock { state in
            // What was sent and not answered may come there yet.
            if !state.machine.awaited.isEmpty { state.mayBeApplied = true }
            guard state.caller.isWaiting, Moment.now < state.caller.deadline else { return false }
            change(core, &state)
            state.attempt += 1
            state.outcomes = Outcomes()
            state.placement = core.placement
            state.began = Moment.now
            state.machine = Self.machine(state.placement, key, writes: writes, isSloppy: isSloppy)
            return true
        }
        if isGoingOn { start() } else { fail() }
    }

    private func fail() {
        let (continuation, outcomes, mayBeApplied, map) = state.withLock {
            ($0.caller.take(), $0.outcomes, $0.mayBeApplied, $0.placement.map)
        }
        guard let continuation else { return }
        core.metrics.failed.increment()
        continuation.resume(
            returning: .failure(
                RingfenceError(
                    .cacheQuorum, effect: mayBeApplied ? .unknown : .none, isRetriable: true,
                    "writing to the cache '\(core.name)': \(writes) nodes must have it, and fewer do "
                        + "(\(outcomes.text(map)))")))
    }
}

final class CacheRead: Sendable {
    private struct State {
        var caller: Caller
        var machine: CacheReadMachine
        var placement: CachePlacement
        var attempt = 0
        var outcomes = Outcomes()
    }

    private let core: CacheCore
    private let key: String
    private let reads: Int
    private let state: Mutex<State>

    private init(_ core: CacheCore, _ key: String, reads: Int, _ caller: Caller) {
        self.core = core
        self.key = key
        self.reads = reads
        let placement = core.placement
        state = Mutex(
            State(
                caller: caller, machine: CacheReadMachine(placement.map, key: key, reads: reads),
                placement: placement))
    }

    /// The newest entry, removals too; nil: nobody knows of any.
    static func perform(_ core: CacheCore, _ key: String, reads: Int) async throws(RingfenceError) -> CacheEntry? {
        let result = await withCaller { continuation in
            let caller = Caller(continuation, timeout: Nanos(saturating: core.options.timeout))
            CacheRead(core, key, reads: reads, caller).start()
        }
        let entry = try result.get()
        if let entry { core.saw(entry.version) }
        return entry
    }

    private func start() {
        send()
    }

    private func send() {
        let (placement, nodes, attempt, deadline) = state.withLock {
            ($0.placement, $0.machine.nodes, $0.attempt, $0.caller.deadline)
        }
        let left = deadline - Moment.now
        // A key has no node only where all members are drained.
        if nodes.isEmpty { return fail() }
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
        let (action, continuation, settled) = state.withLock {
            state -> (CacheReadMachine.Action, CallerContinuation?, State?) in
            guard state.attempt == attempt else { return (.none, nil, nil) }
            if state.caller.isWaiting { state.outcomes.note(node, result) }
            let action =
                switch result {
                case .success(let answer): state.machine.answered(node, answer)
                case .failure: state.machine.failed(node)
                }
            let settled = state.machine.isSettled ? state : nil
            if case .done = action, Moment.now <= state.caller.deadline {
                return (action, state.caller.take(), settled)
            }
            return (action, nil, settled)
        }
        switch action {
        case .none: break
        case .done(let entry):
            if let continuation { continuation.resume(returning: .success(entry)) } else { fail() }
        case .failed: fail()
        case .outdated(let layout): core.renew(layout) { [self] in again() }
        }
        if let settled { repair(settled) }
    }

    private func again() {
        let isGoingOn = state.withLock { state in
            guard state.caller.isWaiting, Moment.now < state.caller.deadline else { return false }
            state.attempt += 1
            state.outcomes = Outcomes()
            state.placement = core.placement
            state.machine = CacheReadMachine(state.placement.map, key: key, reads: reads)
            return true
        }
        if isGoingOn { send() } else { fail() }
    }

    private func repair(_ state: State) {
        for repair in state.machine.repairs {
            core.metrics.repairs.increment()
            state.placement.nodes[repair.node]?.call(
                .put([CacheItem(key, repair.entry)], notAfter: repair.notAfter),
                stamp: state.placement.map.stamp
            ) { _ in }
        }
    }

    private func fail() {
        let (continuation, outcomes, map) = state.withLock { ($0.caller.take(), $0.outcomes, $0.placement.map) }
        guard let continuation else { return }
        core.metrics.failed.increment()
        continuation.resume(
            returning: .failure(
                RingfenceError(
                    .cacheQuorum, effect: .none, isRetriable: true,
                    "reading from the cache '\(core.name)': \(reads) nodes with complete data must answer, and fewer do "
                        + "(\(outcomes.text(map)))")))
    }
}
