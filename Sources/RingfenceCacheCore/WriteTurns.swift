// SPDX-License-Identifier: Apache-2.0
//
// Writes that replicas must confirm go in batches (turns): those that come while one WAIT is out leave together when it
// is answered, with one WAIT behind them all. That is the group commit of databases, and for the same reason. WAIT
// blocks its connection, so with one behind each write only a single write would get through in each round trip to the
// replicas; and with a frozen replica each caller would wait for the sum of all before it, and be told "no answer" of a
// write that is done later.
//
// Not a connection for each write: the primary has a limit of them, and thousands of blocked clients are what it copes
// with worst.

package import RingfenceCore

/// The writes that wait for their turn at one server. `Ask`: what replicas must confirm; one WAIT can only ask for one
/// thing.
package struct WriteTurns<Write: Sendable, Ask: Equatable & Sendable>: Sendable {
    private struct Waiting {
        var write: Write
        var ask: Ask
        var bytes: Int
        var latest: Nanos
    }

    /// Writes that leave together.
    package struct Turn: Sendable {
        package var writes: [Write]
        package var ask: Ask
    }

    /// A write costs something beside its bytes.
    static var overhead: Int { 128 }
    /// What leaves together is this long, or one write.
    static var turnBytes: Int { 1 << 20 }
    /// More are not kept.
    static var waitingBytes: Int { 64 << 20 }

    private var waiting: [Waiting] = []
    private var bytesWaiting = 0
    private var isOut = false

    package init() {}

    /// - Parameter latest: what has not left by then never does: nothing is written late, also when the process was
    ///   stopped.
    /// - Returns: false if too many wait already: it is not kept.
    package mutating func add(_ write: Write, _ ask: Ask, bytes: Int, latest: Nanos) -> Bool {
        let bytes = bytes + Self.overhead
        guard bytesWaiting + bytes <= Self.waitingBytes else { return false }
        bytesWaiting += bytes
        waiting.append(Waiting(write: write, ask: ask, bytes: bytes, latest: latest))
        return true
    }

    /// The turn that leaves now, if none is out; and the writes that came too late for one. In the order in which they
    /// came.
    package mutating func next(now: Nanos) -> (turn: Turn?, late: [Write]) {
        guard !isOut else { return (nil, []) }
        var (turn, late): (Turn?, [Write]) = (nil, [])
        var (count, bytes) = (0, 0)
        for one in waiting {
            if one.latest < now {
                late.append(one.write)
            } else if turn == nil {
                turn = Turn(writes: [one.write], ask: one.ask)
                bytes = one.bytes
            } else if one.ask == turn?.ask, bytes + one.bytes <= Self.turnBytes {
                turn?.writes.append(one.write)
                bytes += one.bytes
            } else {
                break
            }
            count += 1
            bytesWaiting -= one.bytes
        }
        waiting.removeFirst(count)
        isOut = turn != nil
        return (turn, late)
    }

    /// The turn that was out is answered, or given up.
    package mutating func ended() { isOut = false }
}
