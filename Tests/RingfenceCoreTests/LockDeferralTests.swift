// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import RingfenceCore

/// A lock machine whose Redis refuses for now: nothing was done, and a moment later it may be.
@Suite struct LockDeferralTests {
    typealias Action = LockMachine.Action

    private struct Bench {
        var line = LockLine(isRemote: false)
        var now: Nanos = 0
        var nonces = 0
        var machine: LockMachine { line.machine }

        mutating func take(_ event: LockMachine.Event) -> [Action] {
            var ended: (LockMachine.Ticket, LockLine.Ending)?
            switch event {
            // A refusal for now comes before anything is done.
            case .deferred(let ticket, _, _): ended = (ticket, .init(event, isUndone: true))
            case .granted(let ticket, _), .failed(let ticket, _), .released(let ticket):
                ended = (ticket, .init(event, isUndone: false))
            default: break
            }
            let turn = line.turn(
                event, ended: ended, now: now, inboxHeard: true,
                makeNonce: {
                    nonces += 1
                    return "n\(nonces)"
                }, takeBack: { _ in false }, isUnsent: { _ in false })
            return turn?.actions ?? []
        }

        mutating func wait(_ id: UInt64, waits: Bool = true, giveUpAt: Nanos = .never) -> [Action] {
            take(.wait(.init(id: id, terms: one, giveUpAt: giveUpAt, waits: waits)))
        }

        mutating func postpone(_ ticket: LockMachine.Ticket) -> [Action] {
            take(.deferred(ticket, pause: 200 * .millisecond, patience: second))
        }

        /// To when it wants to do something.
        mutating func tick() -> [Action] {
            now = machine.wakeAt
            return take(.tick)
        }
    }

    private static let one = LockTerms(owner: "one", ttl: 3 * .second)
    private static let second = Nanos.second

    private func value(_ fence: Int64, _ nonce: String) -> LockValue {
        LockValue(fence: fence, nonce: nonce, owner: "one")
    }

    @Test func `who does not wait is asked for again, at first soon, until its patience is over`() {
        var bench = Bench()
        #expect(bench.wait(1, waits: false) == [.ask(1, nonce: "n1", Self.one, queue: .none)])
        #expect(bench.postpone(1) == [])
        #expect(bench.tick() == [.ask(2, nonce: "n1", Self.one, queue: .none)])
        #expect(bench.now <= 5 * .millisecond)
        #expect(bench.postpone(2) == [])
        let before = bench.now
        #expect(bench.tick() == [.ask(3, nonce: "n1", Self.one, queue: .none)])
        #expect(bench.now - before == 200 * .millisecond)
        #expect(
            bench.take(.granted(3, fence: 7))
                == [.deliver(1, .init(value: value(7, "n1"), terms: Self.one, sentAt: bench.now))])
    }

    @Test func `when its patience is over it is refused, and nothing of it is left to be undone`() {
        var bench = Bench()
        _ = bench.wait(1, waits: false)
        var ticket: LockMachine.Ticket = 1
        var last = bench.postpone(ticket)
        while last.isEmpty, case .ask(let next, _, _, _) = bench.tick().first {
            ticket = next
            last = bench.postpone(ticket)
        }
        // Not asked once more, where the answer would not be waited for.
        #expect(last == [.refuse(1, .failed)])
        #expect((700 * .millisecond...950 * .millisecond).contains(bench.now))
        #expect(bench.machine.isIdle)
    }

    @Test func `one that is asked for again and not answered is refused in its time, and withdrawn`() {
        var bench = Bench()
        _ = bench.wait(1, waits: false)
        _ = bench.postpone(1)
        #expect(bench.tick() == [.ask(2, nonce: "n1", Self.one, queue: .none)])
        #expect(bench.tick() == [.refuse(1, .failed), .cleanUp(nonce: "n1", Self.one)])
        #expect(bench.now == Self.second)
    }

    @Test func `who leaves during the pause is not asked for again, and there is nothing to withdraw`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.postpone(1)
        #expect(bench.take(.leave(1)) == [])
        #expect(bench.machine.isIdle)
    }

    @Test func `a release is sent again until it is done, and nobody is told meanwhile`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.take(.granted(1, fence: 7))
        #expect(bench.take(.release(value(7, "n1"))) == [.release(2, value(7, "n1"), nil)])
        #expect(bench.postpone(2) == [])
        #expect(bench.tick() == [.release(3, value(7, "n1"), nil)])
        #expect(bench.take(.released(3)) == [.releaseDone(value(7, "n1"), .released)])
        #expect(bench.machine.isIdle)
    }

    @Test func `a release that was refused goes again as soon as the inbox is heard where Redis is by then`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.take(.granted(1, fence: 7))
        _ = bench.take(.release(value(7, "n1")))
        #expect(bench.take(.inboxReady) == [], "while it is under way")
        _ = bench.postpone(2)
        _ = bench.tick()
        #expect(bench.postpone(3) == [])
        #expect(bench.take(.inboxReady) == [.release(4, value(7, "n1"), nil)])
        #expect(bench.take(.inboxReady) == [])
        #expect(bench.take(.released(4)) == [.releaseDone(value(7, "n1"), .released)])
        #expect(bench.machine.isIdle)
    }

    @Test func `a release that is refused for too long is cleaned up`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.take(.granted(1, fence: 7))
        _ = bench.take(.release(value(7, "n1")))
        var ticket: LockMachine.Ticket = 2
        var last: [Action] = []
        for _ in 0..<20 {
            _ = bench.postpone(ticket)
            last = bench.tick()
            guard case .release(let next, _, _) = last.first else { break }
            ticket = next
        }
        #expect(last == [.cleanUpValue(value(7, "n1")), .releaseDone(value(7, "n1"), .unanswered)])
        #expect(bench.now == Self.second)
    }

    @Test func `a release is sent again without the successor that has left, for that was withdrawn`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.take(.granted(1, fence: 7))
        _ = bench.wait(2)
        let successor = LockMachine.Successor(nonce: "n2", terms: Self.one, yields: false)
        #expect(bench.take(.release(value(7, "n1"))) == [.release(2, value(7, "n1"), successor)])
        #expect(bench.postpone(2) == [])
        // It was passed on to nobody, so there is nothing to withdraw either.
        #expect(bench.take(.leave(2)) == [])
        #expect(bench.tick() == [.release(3, value(7, "n1"), nil)])
        #expect(bench.take(.released(3)) == [.releaseDone(value(7, "n1"), .released)])
        #expect(bench.machine.isIdle)
    }

    @Test func `one that left while the release was under way is withdrawn, and not passed on to after that`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.take(.granted(1, fence: 7))
        _ = bench.wait(2)
        _ = bench.take(.release(value(7, "n1")))
        #expect(bench.take(.leave(2)) == [.cleanUp(nonce: "n2", Self.one)])
        #expect(bench.postpone(2) == [])
        #expect(bench.tick() == [.release(3, value(7, "n1"), nil)])
    }

    @Test func `a refusal behind a script that ran leaves something to withdraw`() {
        // WAIT was refused, say; the script before it was not.
        let event = LockMachine.Event.deferred(1, pause: .millisecond, patience: .second)
        #expect(LockLine.Ending(event, isUndone: false) == .mayStand)
        #expect(LockLine.Ending(event, isUndone: true) == .notDone)
    }
}
