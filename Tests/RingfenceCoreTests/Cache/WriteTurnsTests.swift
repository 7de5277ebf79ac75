// SPDX-License-Identifier: Apache-2.0
import RingfenceCore
import Testing

@testable import RingfenceCacheCore

@Suite struct WriteTurnsTests {
    private typealias Turns = WriteTurns<Int, Int>

    private static func keep(
        _ turns: inout Turns, _ write: Int, ask: Int = 1, bytes: Int = 1, latest: Nanos = 100
    ) {
        let isKept = turns.add(write, ask, bytes: bytes, latest: latest)
        #expect(isKept)
    }

    private static func turns(_ writes: Range<Int>, bytes: Int = 1, latest: Nanos = 100) -> Turns {
        var turns = Turns()
        for write in writes { keep(&turns, write, bytes: bytes, latest: latest) }
        return turns
    }

    @Test func `the first goes at once, and all that come meanwhile go together when its turn is over`() {
        var turns = Self.turns(0..<1)
        #expect(turns.next(now: 0).turn?.writes == [0])
        for write in 1...5 {
            Self.keep(&turns, write)
            #expect(turns.next(now: 0).turn == nil)
        }
        turns.ended()
        #expect(turns.next(now: 0).turn?.writes == [1, 2, 3, 4, 5])
        turns.ended()
        #expect(turns.next(now: 0).turn == nil)
    }

    @Test func `a turn asks for one thing, and nobody overtakes`() {
        var turns = Turns()
        for (write, ask) in [(0, 1), (1, 1), (2, 9), (3, 1)] {
            Self.keep(&turns, write, ask: ask, latest: 100)
        }
        for expected in [([0, 1], 1), ([2], 9), ([3], 1)] {
            let turn = turns.next(now: 0).turn
            #expect(turn?.writes == expected.0 && turn?.ask == expected.1)
            turns.ended()
        }
    }

    @Test func `what waited for too long never leaves, and is told`() {
        var turns = Self.turns(0..<2, latest: 50)
        Self.keep(&turns, 2, latest: 200)
        let (turn, late) = turns.next(now: 51)
        #expect(late == [0, 1] && turn?.writes == [2])
        turns.ended()

        // The process was stopped for a minute: nobody is left to send, and the next one is sent at once.
        Self.keep(&turns, 3, latest: 60)
        #expect(turns.next(now: 60 * .second).late == [3])
        Self.keep(&turns, 4, latest: 61 * .second)
        #expect(turns.next(now: 60 * .second).turn?.writes == [4])
    }

    @Test func `a turn and the line before it have a length`() {
        let large = Turns.turnBytes / 3
        var turns = Self.turns(0..<5, bytes: large)
        #expect(turns.next(now: 0).turn?.writes == [0, 1])
        turns.ended()
        #expect(turns.next(now: 0).turn?.writes == [2, 3])
        turns.ended()

        // One that is longer than a turn goes alone.
        Self.keep(&turns, 9, ask: 1, bytes: 2 * Turns.turnBytes, latest: 100)
        #expect(turns.next(now: 0).turn?.writes == [4])
        turns.ended()
        #expect(turns.next(now: 0).turn?.writes == [9])

        var count = 0
        while turns.add(count, 1, bytes: Turns.turnBytes - Turns.overhead, latest: 100) { count += 1 }
        #expect(count == Turns.waitingBytes / Turns.turnBytes)
        // Those that left make room.
        turns.ended()
        #expect(turns.next(now: 0).turn?.writes == [0])
        Self.keep(&turns, count)
    }
}
