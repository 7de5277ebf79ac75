// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import RingfenceCore

/// One lock as one process sees it, in sentences. `Bench` numbers nonces n1, n2, … and tickets count from 1.
@Suite struct LockMachineTests {
    typealias Action = LockMachine.Action

    private struct Bench {
        var machine = LockMachine()
        var now: Nanos = 0
        var isHeard = true
        var nonces = 0

        mutating func take(_ event: LockMachine.Event) -> [Action] {
            machine.handle(event, now: now, inboxHeard: isHeard) {
                nonces += 1
                return "n\(nonces)"
            }
        }

        mutating func wait(
            _ id: UInt64, _ terms: LockTerms = one, waits: Bool = true, giveUpAt: Nanos = .never
        ) -> [Action] {
            take(.wait(.init(id: id, terms: terms, giveUpAt: giveUpAt, waits: waits)))
        }
    }

    private static let one = LockTerms(owner: "one", ttl: 3 * .second)
    private static let two = LockTerms(owner: "two", ttl: 9 * .second)

    private func value(_ fence: Int64, _ nonce: String, _ terms: LockTerms = one) -> LockValue {
        LockValue(fence: fence, nonce: nonce, owner: terms.owner)
    }

    @Test func `a free lock costs one command, and its grant counts from when that was sent`() {
        var bench = Bench()
        #expect(bench.wait(1) == [.ask(1, nonce: "n1", Self.one, queue: .last)])
        bench.now = 5
        #expect(
            bench.take(.granted(1, fence: 7))
                == [.deliver(1, .init(value: value(7, "n1"), terms: Self.one, sentAt: 0))])
        #expect(bench.take(.release(value(7, "n1"))) == [.release(2, value(7, "n1"), nil)])
        #expect(bench.take(.released(2)) == [.releaseDone(value(7, "n1"), .released)])
        #expect(bench.machine.isIdle)
    }

    @Test func `who does not wait is refused at once where others hold or wait here`() {
        var bench = Bench()
        _ = bench.wait(1)
        #expect(bench.wait(2, waits: false) == [.refuse(2, .busy)])
    }

    @Test func `a push is claimed before the lock is delivered`() {
        var bench = Bench()
        _ = bench.wait(1)
        #expect(bench.take(.queued(1, position: 0, milliseconds: 500, arrival: 70)) == [])
        bench.now = 100
        #expect(bench.take(.pushed(nonce: "n1", fence: 7)) == [.claim(2, value(7, "n1"), Self.one)])
        #expect(
            bench.take(.claimed(2)) == [.deliver(1, .init(value: value(7, "n1"), terms: Self.one, sentAt: 100))])
    }

    @Test func `a push that overtakes its answer is not forgotten`() {
        var bench = Bench()
        _ = bench.wait(1)
        #expect(bench.take(.pushed(nonce: "n1", fence: 7)) == [])
        #expect(
            bench.take(.queued(1, position: 0, milliseconds: 500, arrival: 70)) == [.claim(2, value(7, "n1"), Self.one)]
        )
    }

    @Test func `a push that never came costs the holder's time at most`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.take(.queued(1, position: 0, milliseconds: 500, arrival: 70))
        bench.now = bench.machine.wakeAt
        #expect(bench.now <= 510 * .millisecond)
        #expect(bench.take(.tick) == [.ask(2, nonce: "n1", Self.one, queue: .since(70))])
    }

    /// The key may vanish: DEL, FLUSHALL, an eviction. Nothing is pushed then.
    @Test func `the first in line looks every few seconds, however long the lock is held`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.take(.queued(1, position: 0, milliseconds: 3_600_000, arrival: 70))
        #expect(bench.machine.wakeAt <= 3 * .second)
    }

    @Test func `whoever asks again says when it came, over failures and a silent inbox too`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.take(.queued(1, position: 0, milliseconds: 500, arrival: 70))
        #expect(bench.take(.inboxReady) == [.ask(2, nonce: "n1", Self.one, queue: .since(70))])
        _ = bench.take(.failed(2, retriable: true))
        bench.now = bench.machine.wakeAt
        bench.isHeard = false
        #expect(bench.take(.tick) == [.ask(3, nonce: "n1", Self.one, queue: .none)])
        bench.isHeard = true
        #expect(bench.take(.busy(3, milliseconds: 5)) == [.ask(4, nonce: "n1", Self.one, queue: .since(70))])
    }

    /// The place of the nonce may still stand: a new nonce would leave it as a ghost, and queue a second time behind
    /// it.
    @Test func `a refused claim asks again with the same nonce`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.take(.queued(1, position: 0, milliseconds: 500, arrival: 70))
        _ = bench.take(.pushed(nonce: "n1", fence: 7))
        #expect(bench.take(.claimRefused(2)) == [.ask(3, nonce: "n1", Self.one, queue: .since(70))])
    }

    /// While the inbox was away the place may have stood: the same nonce with other terms would be a second place.
    @Test func `a nonce keeps its terms when its waiter leaves`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.wait(2, Self.two)
        _ = bench.take(.queued(1, position: 0, milliseconds: 500, arrival: 70))
        _ = bench.take(.leave(1))
        bench.isHeard = false
        bench.now = bench.machine.wakeAt
        #expect(bench.take(.tick) == [.ask(2, nonce: "n1", Self.one, queue: .none)])
        bench.isHeard = true
        #expect(bench.take(.busy(2, milliseconds: 5)) == [.ask(3, nonce: "n1", Self.one, queue: .since(70))])
        // Granted on terms that nobody here has any more: passed on, on those of the waiter that is here.
        #expect(
            bench.take(.granted(3, fence: 7))
                == [.release(4, value(7, "n1"), .init(nonce: "n2", terms: Self.two, yields: false))])
    }

    @Test func `a holder passes the lock to the next waiter here in one command`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.wait(2, Self.two)
        _ = bench.take(.granted(1, fence: 7))
        #expect(
            bench.take(.release(value(7, "n1")))
                == [.release(2, value(7, "n1"), .init(nonce: "n2", terms: Self.two, yields: false))])
        #expect(
            bench.take(.granted(2, fence: 8)) == [
                .releaseDone(value(7, "n1"), .released),
                .deliver(2, .init(value: value(8, "n2", Self.two), terms: Self.two, sentAt: 0)),
            ])
    }

    @Test func `after sixteen passes in a row it queues behind others`() {
        var bench = Bench()
        for id in 1...20 as ClosedRange<UInt64> { _ = bench.wait(id) }
        var actions = bench.take(.granted(1, fence: 1))
        var yields: [Bool] = []
        for _ in 1...18 {
            guard case .deliver(_, let grant)? = actions.last else { break }
            guard case .release(let ticket, _, let successor?)? = bench.take(.release(grant.value)).last else { break }
            yields.append(successor.yields)
            actions = bench.take(.granted(ticket, fence: grant.value.fence + 1))
        }
        #expect(yields == Array(repeating: false, count: 16) + [true, false])
    }

    @Test func `who leaves in whatever state takes back what was asked for it`() {
        let withdrawn: [Action] = [.cleanUp(nonce: "n1", Self.one)]
        var bench = Bench()
        _ = bench.wait(1)
        var asking = bench
        #expect(asking.take(.leave(1)) == withdrawn)
        // Its answer, when it comes, is nobody's.
        #expect(asking.take(.granted(1, fence: 7)) == [] && asking.machine.isIdle)
        var failed = bench
        _ = failed.take(.failed(1, retriable: true))
        #expect(failed.take(.leave(1)) == withdrawn)
        _ = bench.take(.queued(1, position: 0, milliseconds: 500, arrival: 70))
        var claiming = bench
        #expect(bench.take(.leave(1)) == withdrawn)
        _ = claiming.take(.pushed(nonce: "n1", fence: 7))
        #expect(claiming.take(.leave(1)) == withdrawn)
        #expect(claiming.take(.claimed(2)) == [] && claiming.machine.isIdle)
    }

    @Test func `a successor that left does not leave the machine stuck, whatever the answer`() {
        let answers: [LockMachine.Event] = [
            .granted(2, fence: 8), .queued(2, position: 0, milliseconds: 5, arrival: 70), .unconfirmed(2, fence: 8),
            .busy(2, milliseconds: 5), .released(2), .failed(2, retriable: true),
        ]
        for answer in answers {
            var bench = Bench()
            _ = bench.wait(1)
            _ = bench.wait(2)
            _ = bench.take(.granted(1, fence: 7))
            _ = bench.take(.release(value(7, "n1")))
            #expect(bench.take(.leave(2)) == [.cleanUp(nonce: "n2", Self.one)])
            _ = bench.take(answer)
            #expect(bench.machine.isIdle, "\(answer)")
        }
    }

    @Test func `a lost release lets go again, and its successor asks with its nonce`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.wait(2)
        _ = bench.take(.granted(1, fence: 7))
        _ = bench.take(.release(value(7, "n1")))
        #expect(
            bench.take(.failed(2, retriable: true)) == [
                .cleanUpValue(value(7, "n1")), .releaseDone(value(7, "n1"), .unanswered),
                .ask(3, nonce: "n2", Self.one, queue: .last),
            ])
    }

    @Test func `after a lost lease the next waiter here asks Redis, and the late release harms nobody`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.wait(2)
        _ = bench.take(.granted(1, fence: 7))
        #expect(bench.take(.forget(value(7, "n1"))) == [.ask(2, nonce: "n2", Self.one, queue: .last)])
        #expect(
            bench.take(.release(value(7, "n1")))
                == [.cleanUpValue(value(7, "n1")), .releaseDone(value(7, "n1"), .released)])
    }

    @Test func `a failure that repeating does not mend refuses everybody`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.wait(2)
        #expect(
            bench.take(.failed(1, retriable: false))
                == [.refuse(1, .failed), .refuse(2, .failed), .cleanUp(nonce: "n1", Self.one)])
    }

    @Test func `the answer to a former command is not taken for the newest`() {
        var bench = Bench()
        _ = bench.wait(1)
        _ = bench.take(.leave(1))
        // The shell drops an idle machine; the next of the same names counts on.
        bench.machine = LockMachine(ticketsAfter: bench.machine.lastTicket)
        #expect(bench.wait(2) == [.ask(2, nonce: "n2", Self.one, queue: .last)])
        #expect(bench.take(.granted(1, fence: 7)) == [])
    }
}
