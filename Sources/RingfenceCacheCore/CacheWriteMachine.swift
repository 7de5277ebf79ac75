// SPDX-License-Identifier: Apache-2.0
//
// One write of one key: to as many of its nodes as are needed at once, to the others a moment later, done when enough
// have it.
//
// Why not to all at once: the others' share of the work would be done while the caller waits, and it shrinks the more
// writes go to a node in one message. The others are sent the write as soon as one of the first fails, or after a
// moment in any case, answered or not; so a node that hangs costs a write that moment and no more, and the next writes
// begin with the others. While the layout moves two quorums are needed, and all nodes are among the first.
//
// A node stores what is newer than what it has, so a write that comes twice or late does no harm. A writer whose clock
// is behind is told "there is something newer". Was that written at the same moment, or long ago by a clock that is
// ahead? Nobody can say; calling it done would lose the write in the second case, while the writer believes in it. So
// it is written again, with a version above the one met. (2W > N: then a write that was acknowledged is always met.)
// The price: of two writers at the same moment one may be seen, overwritten, and seen again before its call returns.
//
// After the call is done the machine hears the rest, to know which nodes lack it: those are hinted.

package struct CacheWriteMachine: Sendable {
    package enum Action: Sendable, Equatable {
        case none
        /// Enough nodes have it.
        case done
        /// Write again, as a version above this one.
        case again(above: CacheVersion)
        /// This layout is history: get a newer one and write again. Here is one, if the node had it.
        case outdated([UInt8]?)
        /// These are to be sent to as well, now.
        case send([Int])
        /// Enough nodes can not be had. `mayBeApplied`: one or more may have it, or have it yet.
        case failed(mayBeApplied: Bool)
    }

    /// `apart`: it is none of the key's nodes.
    private enum State: Sendable { case apart, unsent, waiting, has(wholeEpoch: Int64), lacks }

    private let copies: [CacheMap.Copies]
    private let epoch: Int64
    private let writes: Int
    private var otherChange: [UInt8]?
    /// By place in the map's `ids`.
    private var states: [State]
    private var handedOver: [Int] = []
    private var spares: [Int]
    private var isOver = false
    private var isRepeated = false
    private var mayBeApplied = false

    /// All nodes that are to have it, and those of them that it is sent to at once.
    package let nodes: [Int]
    package let first: [Int]

    /// - Parameters:
    ///   - writes: how many of a key's nodes must have it.
    ///   - sloppy: others count in their place, if they are not reached.
    ///   - isSlow: whether a node is better not waited for.
    package init(_ map: CacheMap, key: String, writes: Int, sloppy: Bool, isSlow: (Int) -> Bool = { _ in false }) {
        copies = map.writers(of: key)
        epoch = map.stamp.epoch
        self.writes = writes
        var nodes = copies[0].nodes
        for one in copies.dropFirst() { for node in one.nodes where !nodes.contains(node) { nodes.append(node) } }
        self.nodes = nodes
        spares = sloppy ? map.hintKeepers(of: key).filter { !nodes.contains($0) } : []
        if copies.count == 1 {
            let slow = nodes.filter(isSlow)
            first = Array((slow.isEmpty ? nodes : nodes.filter { !slow.contains($0) } + slow).prefix(writes))
        } else {
            first = nodes
        }
        states = Array(repeating: .apart, count: map.ids.count)
        for node in nodes { states[node] = first.contains(node) ? .waiting : .unsent }
    }

    /// Whether all have been heard of.
    package var isSettled: Bool {
        states.allSatisfy { state in
            switch state {
            case .unsent, .waiting: false
            case .apart, .has, .lacks: true
            }
        }
    }

    /// The nodes it was sent to that have not answered.
    package var awaited: [Int] { nodes.filter { if case .waiting = states[$0] { true } else { false } } }

    /// Time has come to send to those that it was not sent to yet: these.
    package mutating func rest() -> [Int] {
        // It is written again, to all of them.
        guard !isRepeated else { return [] }
        let rest = nodes.filter { if case .unsent = states[$0] { true } else { false } }
        for node in rest { states[node] = .waiting }
        return rest
    }

    /// Of its nodes those that do not have it, or are not known to.
    package var missing: [Int] {
        nodes.filter { node in if case .has = states[node] { false } else { true } }
    }

    /// Of those that have it, somebody who can keep a hint.
    package var holders: [Int] {
        states.indices.filter { if case .has = states[$0] { true } else { false } }
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
            return repeated(.again(above: newer))
        case .outdated(let json):
            states[node] = .lacks
            if let json, CacheLayout(json: json)?.epoch == epoch {
                // It was told of another change under this epoch, and nearly all of this one, or it is the other way
                // round: so the rest is asked first.
                otherChange = json
                return judge()
            }
            return repeated(.outdated(json))
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

    private mutating func repeated(_ action: Action) -> Action {
        guard !isOver else { return .none }
        isRepeated = true
        return over(action)
    }

    private mutating func over(_ action: Action) -> Action {
        guard !isOver else { return .none }
        isOver = true
        return action
    }

    private mutating func judge() -> Action {
        guard !isOver else { return .none }
        func count(_ copies: CacheMap.Copies, _ isCounted: (State, Int64?) -> Bool) -> Int {
            copies.nodes.count { isCounted(states[$0], copies.since) }
                + handedOver.count { isCounted(states[$0], nil) }
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
        // One of the first does not count: the others are needed.
        let rest = rest()
        if !rest.isEmpty { return .send(rest) }
        if !spares.isEmpty {
            handedOver = spares
            spares = []
            for node in handedOver { states[node] = .waiting }
            return .send(handedOver)
        }
        // A node that has not been heard of may have it yet: the caller is not told "none" before that is known.
        guard mayBeApplied || isSettled else { return .none }
        if let otherChange { return repeated(.outdated(otherChange)) }
        return over(.failed(mayBeApplied: mayBeApplied))
    }
}
