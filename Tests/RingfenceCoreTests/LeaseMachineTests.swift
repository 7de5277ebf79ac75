// SPDX-License-Identifier: Apache-2.0
import RingfenceCore
import Testing

/// A lease as its holder sees it, in sentences. Times are in ms; the ttl is 3 s, asked for at 1 s.
@Suite struct LeaseMachineTests {
    private static let terms = LockTerms(owner: "o", ttl: 3 * .second)

    private func lease(maximumHold: Nanos = 3600 * .second, renews: Bool = true) -> LeaseMachine {
        LeaseMachine(terms: Self.terms, sentAt: 1 * .second, maximumHold: maximumHold, renews: renews)
    }

    @Test func `the deadline is counted from the request, and 1 percent early`() {
        let lease = lease()
        #expect(lease.deadline == 3970 * .millisecond)
        #expect(lease.isHeld(at: 3969 * .millisecond) && !lease.isHeld(at: 3970 * .millisecond))
    }

    @Test func `Redis keeps the key longer than a holder with a clock 1 percent slow believes`() {
        for ttl: Nanos in [100 * .millisecond, 1 * .second, 60 * .second, 86_400 * .second] {
            let terms = LockTerms(owner: "o", ttl: ttl)
            let believed = terms.deadline(sentAt: 0) * 100 / 99
            #expect(believed <= terms.holdMilliseconds * .millisecond)
        }
    }

    @Test func `it asks to be renewed after a third of its ttl, once`() {
        var lease = lease()
        #expect(lease.wakeAt == 2 * .second)
        #expect(lease.tick(now: 1999 * .millisecond) == .none)
        #expect(lease.tick(now: 2 * .second) == .renew)
        #expect(lease.tick(now: 2100 * .millisecond) == .none)
        #expect(lease.wakeAt == lease.deadline)
    }

    @Test func `a renewed lease outlives its first deadline`() {
        var lease = lease()
        _ = lease.tick(now: 2 * .second)
        #expect(lease.renewed(sentAt: 2 * .second, now: 2500 * .millisecond) == .none)
        #expect(lease.deadline == 4970 * .millisecond)
        #expect(lease.tick(now: 3 * .second) == .renew)
    }

    @Test func `a renewal answered after the deadline comes too late`() {
        var lease = lease()
        _ = lease.tick(now: 2 * .second)
        #expect(lease.renewed(sentAt: 2 * .second, now: 3970 * .millisecond) == .lose(.expired))
        #expect(lease.renewed(sentAt: 2 * .second, now: 3971 * .millisecond) == .none)
        #expect(!lease.isHeld(at: 3 * .second))
    }

    @Test func `a renewal that fails is tried again until the deadline`() {
        var lease = lease()
        _ = lease.tick(now: 2 * .second)
        #expect(lease.renewalFailed(now: 2 * .second) == .none)
        #expect(lease.wakeAt == 2100 * .millisecond)
        #expect(lease.tick(now: 2100 * .millisecond) == .renew)
        #expect(lease.renewalFailed(now: 3970 * .millisecond) == .lose(.expired))
    }

    @Test func `the answer to an older renewal does not shorten it`() {
        var lease = lease()
        _ = lease.renewed(sentAt: 3 * .second, now: 3 * .second)
        _ = lease.renewed(sentAt: 2 * .second, now: 3100 * .millisecond)
        #expect(lease.deadline == 5970 * .millisecond)
    }

    @Test func `no renewal goes beyond the maximum hold`() {
        var lease = lease(maximumHold: 3500 * .millisecond)
        #expect(lease.renewed(sentAt: 2 * .second, now: 2 * .second) == .none)
        #expect(lease.deadline == 4500 * .millisecond)
        #expect(lease.tick(now: 4 * .second) == .none)
        #expect(lease.tick(now: 4500 * .millisecond) == .lose(.heldTooLong))
    }

    @Test func `it is lost once, and a released lease is never lost`() {
        var lost = lease()
        #expect(lost.lose(.revoked) == .lose(.revoked))
        #expect(lost.lose(.notHeld) == .none)
        #expect(lost.end() == false)
        var released = lease()
        #expect(released.end() == true)
        #expect(released.lose(.notHeld) == .none && released.tick(now: 9 * .second) == .none)
        #expect(released.wakeAt == .never)
    }

    @Test func `one that does not renew itself is renewed when its holder asks`() {
        var lease = lease(renews: false)
        #expect(lease.tick(now: 3 * .second) == .none)
        #expect(lease.beginRenewal(now: 3 * .second) == true)
        #expect(lease.renewed(sentAt: 3 * .second, now: 3001 * .millisecond) == .none)
        #expect(lease.deadline == 5970 * .millisecond)
        #expect(lease.beginRenewal(now: 5970 * .millisecond) == false)
    }
}
