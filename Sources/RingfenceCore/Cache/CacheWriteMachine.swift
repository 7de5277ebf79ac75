// SPDX-License-Identifier: Apache-2.0
//
// One write of one key: to all its nodes at once, done when enough of them have it.
//
// A node stores what is newer than what it has, so a write that comes twice or late does no harm. A writer whose clock is behind
// is told "there is something newer". Was that written at the same moment, or long ago by a clock that is ahead? Nobody can
// say; to call it done would lose the write in the second case, while the writer believes it. So it is written again, above
// what was met. (2W > N: then a write that was acknowledged is always met.) The price: of two writers at the same moment one
// may be seen, overwritten, and seen again before its call returns.
//
// After the call is done the machine hears the rest, to know who lacks it: those are hinted.

package struct CacheWriteMachine: Sendable {
    package enum Action: Sendable, Equatable {
        case none
        /// Enough nodes have it.
        case done
        /// Write again, as a version above this one.
        case again(above: CacheVersion)
        /// This layout is history: get a newer one and write again. Here is one, if the node had it.
        case outdated([UInt8]?)
        /// Not enough nodes of those that should have it: these are asked too (`sloppy`).
        case handOver([Int])
        /// Enough nodes can not be had. `mayBeApplied`: one or more may have it, or have it yet.
        case failed(mayBeApplied: Bool)
    }

    private enum State: Sendable { case waiting, has(wholeEpoch: Int64), lacks }

    private let copies: [CacheMap.Copies]
    private let writes: Int
    private var states: [Int: State] = [:]
    private var handedOver: [Int] = []
    private var spares: [Int]
    private var isOver = false
    private var mayBeApplied = false

    /// To whom it is sent.
    package let nodes: [Int]

    /// - Parameters:
    ///   - writes: how many of a key's nodes must have it.
    ///   - sloppy: others count in their place, if they are not reached.
    package init(_ map: CacheMap, key: String, writes: Int, sloppy: Bool) {
        copies = map.writers(of: key)
        self.writes = writes
        var nodes: [Int] = []
        for one in copies { for node in one.nodes where !nodes.contains(node) { nodes.append(node) } }
        self.nodes = nodes
        spares = sloppy ? map.hintKeepers(of: key).filter { !nodes.contains($0) } : []
        for node in nodes { states[node] = .waiting }
    }

    /// Whether all have been heard of.
    package var isSettled: Bool {
        states.values.allSatisfy { if case .waiting = $0 { false } else { true } }
    }

    /// Of its nodes those that do not have it, or are not known to.
    package var missing: [Int] {
        nodes.filter { node in if case .has = states[node]! { false } else { true } }
    }

    /// Of those that have it, somebody who can keep a hint.
    package var holders: [Int] {
        states.compactMap { node, state in if case .has = state { node } else { nil } }.sorted()
    }

    package mutating func answered(_ node: Int, _ answer: CacheAnswer) -> Action {
        switch answer.result {
        case .put(let results):
            mayBeApplied = true
            guard let newer = results.first ?? nil else {
                states[node] = .has(wholeEpoch: answer.wholeEpoch)
                return judge()
            }
            // Nothing that its reply could still change.
            states[node] = .lacks
            return over(.again(above: newer))
        case .outdated(let layout):
            states[node] = .lacks
            return over(.outdated(layout))
        default:
            states[node] = .lacks
            return judge()
        }
    }

    package mutating func failed(_ node: Int, _ failure: CacheFailure) -> Action {
        if failure == .unknown { mayBeApplied = true }
        states[node] = .lacks
        return judge()
    }

    private mutating func over(_ action: Action) -> Action {
        guard !isOver else { return .none }
        isOver = true
        return action
    }

    private mutating func judge() -> Action {
        guard !isOver else { return .none }
        func count(_ copies: CacheMap.Copies, _ isCounted: (State, Int64?) -> Bool) -> Int {
            copies.nodes.count { isCounted(states[$0]!, copies.since) }
                + handedOver.count { isCounted(states[$0]!, nil) }
        }
        func has(_ state: State, _ since: Int64?) -> Bool {
            guard case .has(let whole) = state else { return false }
            return since.map { whole >= $0 } ?? true
        }
        func mayHave(_ state: State, _ since: Int64?) -> Bool {
            if case .waiting = state { true } else { has(state, since) }
        }
        if copies.allSatisfy({ count($0, has) >= writes }) { return over(.done) }
        guard !copies.allSatisfy({ count($0, mayHave) >= writes }) else { return .none }
        if !spares.isEmpty {
            handedOver = spares
            spares = []
            for node in handedOver { states[node] = .waiting }
            return .handOver(handedOver)
        }
        // Whoever has not been heard of may have it yet: nobody is told "none" before that is known.
        guard mayBeApplied || isSettled else { return .none }
        return over(.failed(mayBeApplied: mayBeApplied))
    }
}
