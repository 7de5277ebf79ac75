// SPDX-License-Identifier: Apache-2.0
//
// One write and one read, performed: the machines decide, here their messages are sent, and their caller is told.
//
// A call is over when its machine says so (each message has a deadline, and one that passes is an answer too); the object lives on until every node has been heard of, because what
// the last one says shows who lacks something. Time counts from before the first message. An answer that comes when the time is
// over must not make the call a success, even where nobody looked at the clock in between: what keeps quorums right
// (SweepMachine) rests on it.

import CoreMetrics
import RingfenceCore
import Synchronization

/// What both share: the caller, who is told once.
private struct Caller<Value: Sendable>: Sendable {
    private var continuation: CheckedContinuation<Result<Value, RingfenceError>, Never>?
    let deadline: Nanos

    init(_ continuation: CheckedContinuation<Result<Value, RingfenceError>, Never>, timeout: Nanos) {
        self.continuation = continuation
        deadline = Moment.now + timeout
    }

    var isWaiting: Bool { continuation != nil }

    /// To be resumed outside of a lock.
    mutating func take() -> CheckedContinuation<Result<Value, RingfenceError>, Never>? {
        defer { continuation = nil }
        return continuation
    }
}

/// Why a node did not count, for a message.
private enum NodeWord {
    static func word(_ result: Result<CacheAnswer, CacheFailure>) -> String {
        switch result {
        case .failure(.notSent): "not connected"
        case .failure(.unknown): "no answer in time"
        case .failure(.refused): "refuses"
        case .success(let answer): answer.wholeEpoch < 0 ? "its data is being completed" : "answers"
        }
    }

    static func words(_ words: [Int: String], _ map: CacheMap) -> String {
        words.sorted { $0.key < $1.key }.map { "\(map.ids[$0.key]): \($0.value)" }.joined(separator: "; ")
    }
}

final class CacheWrite: Sendable {
    private struct State {
        var caller: Caller<Void>
        var entry: CacheEntry
        var machine: CacheWriteMachine
        var placement: CachePlacement
        /// A message of an attempt before is not heard.
        var attempt = 0
        var words: [Int: String] = [:]
        var mayBeApplied = false
    }

    private let core: CacheCore
    private let key: String
    private let writes: Int
    private let isSloppy: Bool
    private let state: Mutex<State>

    private init(
        _ core: CacheCore, _ key: String, _ entry: CacheEntry, writes: Int, isSloppy: Bool, _ caller: Caller<Void>
    ) {
        self.core = core
        self.key = key
        self.writes = writes
        self.isSloppy = isSloppy
        let placement = core.placement
        state = Mutex(
            State(
                caller: caller, entry: entry,
                machine: CacheWriteMachine(placement.map, key: key, writes: writes, sloppy: isSloppy),
                placement: placement))
    }

    /// Writes, with a version of its own.
    static func perform(
        _ core: CacheCore, _ key: String, payload: [UInt8]?, ttl: Int64?, writes: Int, isSloppy: Bool
    ) async throws(RingfenceError) {
        let result = await withCheckedContinuation { continuation in
            let caller = Caller<Void>(continuation, timeout: Nanos(saturating: core.options.timeout))
            let life: Int64? = payload == nil ? core.options.life : ttl.map { $0 + core.options.life }
            let entry = CacheEntry(
                version: core.nextVersion(), payload: payload, ttlMilliseconds: ttl, lifeMilliseconds: life)
            CacheWrite(core, key, entry, writes: writes, isSloppy: isSloppy, caller).start()
        }
        try result.get()
    }

    private func start() {
        send(to: state.withLock { $0.machine.nodes })
    }

    private func send(to nodes: [Int]) {
        let (placement, entry, attempt, deadline) = state.withLock {
            ($0.placement, $0.entry, $0.attempt, $0.caller.deadline)
        }
        let left = deadline - Moment.now
        let call = CacheCall.put([CacheItem(key, entry)], notAfter: nil)
        for node in nodes {
            guard left > 0, let target = placement.nodes[node] else {
                heard(node, .failure(.notSent), attempt)
                continue
            }
            target.call(call, epoch: placement.map.layout.epoch, deadline: .nanoseconds(left)) { [self] result in
                heard(node, result, attempt)
            }
        }
    }

    private func heard(_ node: Int, _ result: Result<CacheAnswer, CacheFailure>, _ attempt: Int) {
        let (action, continuation, settled) = state.withLock {
            state -> (
                CacheWriteMachine.Action, CheckedContinuation<Result<Void, RingfenceError>, Never>?, State?
            ) in
            guard state.attempt == attempt else { return (.none, nil, nil) }
            if state.caller.isWaiting { state.words[node] = NodeWord.word(result) }
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
            if let continuation { continuation.resume(returning: .success(())) } else { fail() }
        case .failed: fail()
        case .handOver(let nodes): send(to: nodes)
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
        let nodes = state.withLock { state -> [Int]? in
            guard state.caller.isWaiting, Moment.now < state.caller.deadline else { return nil }
            change(core, &state)
            state.attempt += 1
            state.words = [:]
            state.placement = core.placement
            state.machine = CacheWriteMachine(state.placement.map, key: key, writes: writes, sloppy: isSloppy)
            return state.machine.nodes
        }
        if let nodes { send(to: nodes) } else { fail() }
    }

    private func fail() {
        let (continuation, words, mayBeApplied, map) = state.withLock {
            ($0.caller.take(), $0.words, $0.mayBeApplied, $0.placement.map)
        }
        guard let continuation else { return }
        core.metrics.failed.increment()
        continuation.resume(
            returning: .failure(
                RingfenceError(
                    .cacheQuorum, effect: mayBeApplied ? .unknown : .none, isRetriable: true,
                    "writing to the cache '\(core.name)': \(writes) nodes must have it, and fewer do "
                        + "(\(NodeWord.words(words, map)))")))
    }
}

final class CacheRead: Sendable {
    private struct State {
        var caller: Caller<CacheEntry?>
        var machine: CacheReadMachine
        var placement: CachePlacement
        var attempt = 0
        var words: [Int: String] = [:]
    }

    private let core: CacheCore
    private let key: String
    private let reads: Int
    private let state: Mutex<State>

    private init(_ core: CacheCore, _ key: String, reads: Int, _ caller: Caller<CacheEntry?>) {
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
        let result = await withCheckedContinuation { continuation in
            let caller = Caller<CacheEntry?>(continuation, timeout: Nanos(saturating: core.options.timeout))
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
            target.call(.get([key]), epoch: placement.map.layout.epoch, deadline: .nanoseconds(left)) {
                [self] result in heard(node, result, attempt)
            }
        }
    }

    private func heard(_ node: Int, _ result: Result<CacheAnswer, CacheFailure>, _ attempt: Int) {
        let (action, continuation, settled) = state.withLock {
            state -> (
                CacheReadMachine.Action, CheckedContinuation<Result<CacheEntry?, RingfenceError>, Never>?, State?
            ) in
            guard state.attempt == attempt else { return (.none, nil, nil) }
            if state.caller.isWaiting { state.words[node] = NodeWord.word(result) }
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
            state.words = [:]
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
                epoch: state.placement.map.layout.epoch
            ) { _ in }
        }
    }

    private func fail() {
        let (continuation, words, map) = state.withLock { ($0.caller.take(), $0.words, $0.placement.map) }
        guard let continuation else { return }
        core.metrics.failed.increment()
        continuation.resume(
            returning: .failure(
                RingfenceError(
                    .cacheQuorum, effect: .none, isRetriable: true,
                    "reading from the cache '\(core.name)': \(reads) nodes with complete data must answer, and fewer do "
                        + "(\(NodeWord.words(words, map)))")))
    }
}
