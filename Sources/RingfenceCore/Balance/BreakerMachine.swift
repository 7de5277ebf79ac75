// SPDX-License-Identifier: Apache-2.0
//
// A circuit breaker: when most calls fail, whichever member they go to, no more are made for a while. Ejection deals
// with one failing member; the breaker deals with what is behind all of them, which recovers sooner when it is left
// alone, and with callers that would wait for a certain failure.
//
//             enough calls, and enough of them failed
//      closed ---------------------------------------> open <----------.
//        ^                                               | its time     | as many of the probes failed;
//        |    the probes ended, and most were good       v              | it is open twice as long
//        '------------------------------------------ half-open ---------'
//
// Each process counts for itself: a shared count would put Redis into the path of every call. Users of such breakers
// ask for a switch for all of them instead, and that is `force`.
//
// Probes are judged by the same rate as all calls: were a single failure enough, a service in which one call of ten
// fails, as some do all the time, would hardly ever be let back. Probes that do not end must not hold it up: after as
// long a time as it was open, there are new ones.

package struct BreakerMachine: Sendable {
    package enum State: Sendable, Hashable {
        case closed
        case open(until: Nanos)
        case halfOpen
    }

    package enum Admission: Sendable, Hashable {
        case go
        /// A probe of this round: what comes of it is to be said with it.
        case probe(round: Int)
        case refused(until: Nanos)
        /// All probes are under way: it is decided when they end, and at that time there are new ones.
        case probing(until: Nanos)
        /// An operator forced it open.
        case forbidden
    }

    package enum Change: Sendable, Hashable {
        case opened(until: Nanos, failed: Int, of: Int)
        case closed
    }

    private struct Bucket {
        var number = Int64.min
        var calls = 0
        var failed = 0
    }

    private static let buckets: Int64 = 10

    package private(set) var state = State.closed
    package private(set) var force = GroupBreaker.automatic
    private let settings: BalanceSettings
    private var window = [Bucket](repeating: Bucket(), count: Int(Self.buckets))
    /// How long it was open, or is; 0: it was closed since.
    private var openFor: Nanos = 0
    private var round = 0
    private var roundEnd: Nanos = 0
    private var probesLeft = 0
    private var probesGood = 0
    private var probesFailed = 0

    package init(_ settings: BalanceSettings) { self.settings = settings }

    /// Each call has to be admitted: it is not simply closed.
    package var isGated: Bool {
        switch force {
        case .open: true
        case .closed: false
        case .automatic: state != .closed
        }
    }

    package mutating func set(_ force: GroupBreaker) {
        guard force != self.force else { return }
        // The operator who held it open says with this that the trouble is over; and one who held it closed judged so
        // until now.
        if self.force == .open || (force == .closed && state != .closed) { close() }
        self.force = force
    }

    /// Whether a call may be made.
    package mutating func admit(now: Nanos) -> Admission {
        switch force {
        case .open: return .forbidden
        case .closed: return .go
        case .automatic: break
        }
        _ = tick(now: now)
        switch state {
        case .closed: return .go
        case .open(let until): return .refused(until: until)
        case .halfOpen:
            guard probesLeft > 0 else { return .probing(until: roundEnd) }
            probesLeft -= 1
            return .probe(round: round)
        }
    }

    /// Until when no call is made; only a look, nothing is admitted. `.never`: an operator forced it open.
    package func openUntil(now: Nanos) -> Nanos? {
        switch (force, state) {
        case (.open, _): .never
        case (.automatic, .open(let until)) where until > now: until
        default: nil
        }
    }

    /// A call ended. `isFailure`: nil if it tells nothing. `probe`: the round that it was admitted in, if it was a
    /// probe.
    package mutating func finished(isFailure: Bool?, probe: Int?, now: Nanos) -> Change? {
        guard settings.breakerMinimumCalls > 0 else { return nil }
        if let probe {
            guard case .halfOpen = state, probe == round else { return nil }
            return probed(isFailure, now: now)
        }
        guard let isFailure, case .closed = state else { return nil }
        let number = now / max(1, settings.breakerWindow / Self.buckets)
        let index = Int(number % Self.buckets)
        if window[index].number != number { window[index] = Bucket(number: number) }
        window[index].calls += 1
        guard isFailure else { return nil }
        window[index].failed += 1
        guard force == .automatic else { return nil }
        var (calls, failed) = (0, 0)
        for bucket in window where bucket.number > number - Self.buckets {
            calls += bucket.calls
            failed += bucket.failed
        }
        guard calls >= settings.breakerMinimumCalls, Double(failed) >= settings.breakerFailureRate * Double(calls)
        else {
            return nil
        }
        return open(now: now, failed: failed, of: calls)
    }

    private mutating func probed(_ isFailure: Bool?, now: Nanos) -> Change? {
        switch isFailure {
        case nil: probesLeft += 1
        case true?: probesFailed += 1
        case false?: probesGood += 1
        }
        if probesFailed > 0,
            Double(probesFailed) >= settings.breakerFailureRate * Double(settings.breakerHalfOpenCalls)
        {
            return open(now: now, failed: probesFailed, of: probesFailed + probesGood)
        }
        guard probesGood + probesFailed == settings.breakerHalfOpenCalls else { return nil }
        close()
        return .closed
    }

    private mutating func open(now: Nanos, failed: Int, of calls: Int) -> Change {
        openFor =
            openFor == 0
            ? settings.breakerOpenDuration : min(openFor.multipliedClamping(by: 2), settings.maximumBreakerOpenDuration)
        let until = now.adding(openFor)
        state = .open(until: until)
        return .opened(until: until, failed: failed, of: calls)
    }

    private mutating func close() {
        state = .closed
        openFor = 0
        window = [Bucket](repeating: Bucket(), count: Int(Self.buckets))
    }

    /// Its time is over, or that of its probes. True if it went on by it.
    package mutating func tick(now: Nanos) -> Bool {
        switch state {
        case .open(let until) where until <= now: break
        case .halfOpen where roundEnd <= now: break
        default: return false
        }
        state = .halfOpen
        round += 1
        roundEnd = now.adding(openFor)
        probesLeft = settings.breakerHalfOpenCalls
        (probesGood, probesFailed) = (0, 0)
        return true
    }

    package var wakeAt: Nanos {
        // A new round of probes needs no alarm: the next call begins it.
        if force == .automatic, case .open(let until) = state { until } else { .never }
    }
}
