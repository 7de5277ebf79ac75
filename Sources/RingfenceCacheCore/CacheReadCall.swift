// SPDX-License-Identifier: Apache-2.0
//
// One read as its caller sees it: attempts, each a CacheReadMachine in the layout of its time, until enough nodes have
// answered or the time is over. As with a write (CacheWriteCall), what comes too late is no success.

package import RingfenceCore

package struct CacheReadCall: Sendable {
    package enum Action: Sendable, Equatable {
        case none
        /// Ask these nodes of the map, for this attempt.
        case send([Int], attempt: Int)
        /// Look for a newer layout, then call `again`. Here is one, if the node had it.
        case outdated([UInt8]?)
        /// The newest entry; nil: nobody ever heard of the key.
        case succeed(CacheEntry?)
        case fail
    }

    /// What an answer leads to.
    package struct Step: Sendable, Equatable {
        package var action: Action
        /// All nodes of the attempt have been heard of: who lacks what the others have.
        package var repairs: [CacheReadMachine.Repair] = []
    }

    private let key: String
    private let reads: Int
    private let deadline: Nanos
    private var machine: CacheReadMachine
    private var attempt = 0
    private var isOver = false
    /// What the nodes of this attempt said.
    package private(set) var outcomes = CacheOutcomes()

    package init(_ map: CacheMap, key: String, reads: Int, deadline: Nanos) {
        (self.key, self.reads, self.deadline) = (key, reads, deadline)
        machine = CacheReadMachine(map, key: key, reads: reads)
    }

    /// The messages of the attempt.
    package mutating func begin() -> Action {
        // A key has no node only where all members are drained.
        machine.nodes.isEmpty ? end(.fail) : .send(machine.nodes, attempt: attempt)
    }

    /// Whether a message of this attempt is still to be sent.
    package func isCurrent(_ attempt: Int) -> Bool { attempt == self.attempt }

    /// What came of the message to `node` of an attempt.
    package mutating func heard(
        _ node: Int, _ result: Result<CacheAnswer, CacheFailure>, attempt: Int, now: Nanos
    ) -> Step {
        guard attempt == self.attempt else { return Step(action: .none) }
        if !isOver { outcomes.note(node, result) }
        let decided =
            switch result {
            case .success(let answer): machine.answered(node, answer)
            case .failure: machine.failed(node)
            }
        return Step(action: action(decided, now: now), repairs: machine.isSettled ? machine.repairs : [])
    }

    private mutating func action(_ decided: CacheReadMachine.Action, now: Nanos) -> Action {
        switch decided {
        case .none: .none
        case .outdated(let layout): .outdated(layout)
        case .done(let entry) where now <= deadline: end(.succeed(entry))
        case .done, .failed: end(.fail)
        }
    }

    private mutating func end(_ action: Action) -> Action {
        guard !isOver else { return .none }
        isOver = true
        return action
    }

    /// Begins the next attempt, in the layout that is in force now.
    package mutating func again(_ map: CacheMap, now: Nanos) -> Action {
        guard !isOver else { return .none }
        guard now < deadline else { return end(.fail) }
        attempt += 1
        outcomes = CacheOutcomes()
        machine = CacheReadMachine(map, key: key, reads: reads)
        return begin()
    }
}
