// SPDX-License-Identifier: Apache-2.0
//
// One write as its caller sees it: attempts, one after the other, each a CacheWriteMachine in the layout of its time,
// until enough nodes have it or the time is over.
//
// An attempt ends early where a node knows something newer: then the same is written above that, or in another layout.
// What an abandoned attempt has sent may still be stored. Its answers are not heard any more, so from there on the
// caller is never told that nothing was done.
//
// Time counts from before the first message. An answer that comes when the time is over must not make the call a
// success, even where nobody looked at the clock in between: what keeps quorums right (SweepMachine) rests on it.

package import RingfenceCore

package struct CacheWriteCall: Sendable {
    package enum Action: Sendable, Equatable {
        case none
        /// Send `entry` to these nodes of `map`, for this attempt.
        case send([Int], attempt: Int)
        /// Call `again`, with a version above this one.
        case newer(than: CacheVersion)
        /// Look for a newer layout, then call `again`. Here is one, if the node had it.
        case outdated([UInt8]?)
        case succeed
        /// `mayBeApplied`: one or more nodes may have it, or have it yet.
        case fail(mayBeApplied: Bool)
    }

    /// What an answer leads to.
    package struct Step: Sendable, Equatable {
        package var action: Action
        /// All nodes of the attempt have been heard of, and these lack it, while others have it.
        package var missing: [Int] = []
    }

    /// From when on a node that has not answered is not waited for by the next writes.
    package static let patience: Nanos = .millisecond

    private let key: String
    private let writes: Int
    private let isSloppy: Bool
    private let deadline: Nanos
    private var machine: CacheWriteMachine
    private var attempt = 0
    private var began: Nanos
    private var isOver = false
    private var mayBeApplied = false
    /// What is written.
    package private(set) var entry: CacheEntry
    /// What the nodes of this attempt said.
    package private(set) var outcomes = CacheOutcomes()

    /// - Parameters: as of `CacheWriteMachine`.
    package init(
        _ map: CacheMap, key: String, entry: CacheEntry, writes: Int, sloppy: Bool, deadline: Nanos, now: Nanos,
        isSlow: (Int) -> Bool = { _ in false }
    ) {
        (self.key, self.entry, self.writes, isSloppy, self.deadline) = (key, entry, writes, sloppy, deadline)
        machine = CacheWriteMachine(map, key: key, writes: writes, sloppy: sloppy, isSlow: isSlow)
        began = now
    }

    /// The first messages of the attempt.
    package mutating func begin() -> Action {
        // A key has no node only where all members are drained.
        machine.first.isEmpty
            ? end(.fail(mayBeApplied: mayBeApplied)) : .send(machine.first, attempt: attempt)
    }

    /// Whether nodes are left for `rest`.
    package var hasRest: Bool { !isOver && machine.first.count < machine.nodes.count }

    /// A moment has passed.
    /// - Returns: the other nodes that it is to be sent to, and which of the first are slow.
    package mutating func rest(now: Nanos) -> (nodes: [Int], attempt: Int, slow: [Int]) {
        // One that joined the others late has hardly been sent yet.
        let slow = now - began >= Self.patience ? machine.awaited : []
        return (machine.rest(), attempt, slow)
    }

    /// Whether a message of this attempt is still to be sent.
    package func isCurrent(_ attempt: Int) -> Bool { attempt == self.attempt }

    /// What came of the message to `node` of an attempt.
    package mutating func heard(
        _ node: Int, _ result: Result<CacheAnswer, CacheFailure>, attempt: Int, now: Nanos
    ) -> Step {
        guard attempt == self.attempt else { return Step(action: .none) }
        if !isOver { outcomes.note(node, result) }
        let decided: CacheWriteMachine.Action
        switch result {
        case .success(let answer):
            if case .put = answer.result { mayBeApplied = true }
            decided = machine.answered(node, answer)
        case .failure(let failure):
            if failure == .unknown { mayBeApplied = true }
            decided = machine.failed(node, failure)
        }
        let missing = machine.isSettled && !machine.holders.isEmpty ? machine.missing : []
        return Step(action: action(decided, now: now), missing: missing)
    }

    private mutating func action(_ decided: CacheWriteMachine.Action, now: Nanos) -> Action {
        switch decided {
        case .none: .none
        case .send(let nodes): .send(nodes, attempt: attempt)
        case .again(let newer): .newer(than: newer)
        case .outdated(let layout): .outdated(layout)
        case .done where now <= deadline: end(.succeed)
        case .done, .failed: end(.fail(mayBeApplied: mayBeApplied))
        }
    }

    private mutating func end(_ action: Action) -> Action {
        guard !isOver else { return .none }
        isOver = true
        return action
    }

    /// Begins the next attempt, in the layout that is in force now.
    ///
    /// - Parameter version: nil: the same.
    package mutating func again(
        _ map: CacheMap, version: CacheVersion? = nil, now: Nanos, isSlow: (Int) -> Bool = { _ in false }
    ) -> Action {
        // What was sent and not answered may be stored yet.
        if !machine.awaited.isEmpty { mayBeApplied = true }
        guard !isOver else { return .none }
        guard now < deadline else { return end(.fail(mayBeApplied: mayBeApplied)) }
        if let version { entry.version = version }
        attempt += 1
        began = now
        outcomes = CacheOutcomes()
        machine = CacheWriteMachine(map, key: key, writes: writes, sloppy: isSloppy, isSlow: isSlow)
        return begin()
    }
}

/// What came of the messages of one attempt, for an error.
package struct CacheOutcomes: Sendable {
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

    /// `ids`: of the attempt's map.
    package func text(_ ids: [String]) -> String {
        words.sorted { $0.node < $1.node }.map { "\(ids[$0.node]): \($0.word)" }.joined(separator: "; ")
    }
}
