// SPDX-License-Identifier: Apache-2.0

import RingfenceCore

/// The numbers a ``Balancer`` goes by. The defaults are those of proxies that many run; the limits are checked when a balancer is
/// asked for.
public struct BalancerOptions: Sendable, Hashable {
    /// So long the share of a member grows that is new or comes back: 0 (all of it at once) to 1 h. 10 s.
    public var slowStart: Duration
    /// In this time a member's cost decays to 37 %, for ``BalancePolicy/peakEWMA``: 100 ms to 1 h. 10 s.
    public var costDecay: Duration
    /// So many times its fair part of all outstanding calls a member may have, for ``BalancePolicy/boundedLoad``: 1.01 to
    /// 100. 1.25.
    public var bound: Double
    /// As long as this part of the zone can be picked, all calls stay in it, for ``BalancePolicy/nearestZone(_:)``: 0.01
    /// to 1. 0.7.
    public var spillBelow: Double
    /// Where less than this part of the members with a weight can be picked, all of these are, but the ejected: 0 (never) to
    /// 1. 0.5. In groups of less than four there is no panic.
    public var panicBelow: Double

    /// So many failures one after the other eject a member: 0 (none do) to 1,000,000. 5.
    public var consecutiveFailures: Int
    /// So many members must have had enough calls in an interval for their success rates to be compared: 0 (they are not
    /// compared), 3 to 65,535. 5.
    public var successRateMembers: Int
    /// How many calls are enough for that: 1 to 1,000,000. 100.
    public var successRateCalls: Int
    /// A member is ejected if its success rate is so many standard deviations, and at least 5 of 100 calls, below the mean:
    /// 0.1 to 10. 1.9.
    public var successRateDeviations: Double
    /// Success rates are compared so often: 100 ms to 1 h. 10 s.
    public var outlierInterval: Duration
    /// So long, and up to a tenth longer, the first ejection lasts; the second twice as long, and so on; each such time in
    /// service takes one back: 10 ms to 24 h. 30 s.
    public var ejection: Duration
    /// But not longer than this (and up to a tenth more): at least ``ejection``, up to 24 h. 300 s.
    public var maximumEjection: Duration
    /// At most this part of the members with a weight is ejected at once, though one of two may be: 0 (none is) to 1. 0.33.
    /// The last one that can be picked never is.
    public var maximumEjected: Double

    /// So many calls must have ended in a window for the breaker to judge: 0 (there is no breaker) to 1,000,000. 100.
    public var breakerCalls: Int
    /// It opens when this part of them failed, and opens again when this part of the probes did: 0.01 to 1. 0.5.
    public var breakerFailureRate: Double
    /// The window: 100 ms to 1 h. It moves on by tenths. 10 s.
    public var breakerWindow: Duration
    /// So long it is open at first; each time the probes fail, twice as long: 10 ms to 1 h. 5 s.
    public var breakerOpen: Duration
    /// But not longer than this: at least ``breakerOpen``, up to 24 h. 60 s.
    public var maximumBreakerOpen: Duration
    /// So many calls are let through when it is half open: 1 to 10,000. 10.
    public var breakerProbes: Int

    /// The defaults.
    public init() {
        let core = BalanceSettings()
        slowStart = .nanoseconds(core.slowStart)
        costDecay = .nanoseconds(core.costDecay)
        bound = core.bound
        spillBelow = core.spillBelow
        panicBelow = core.panicBelow
        consecutiveFailures = core.consecutiveFailures
        successRateMembers = core.successRateMembers
        successRateCalls = core.successRateCalls
        successRateDeviations = core.successRateDeviations
        outlierInterval = .nanoseconds(core.outlierInterval)
        ejection = .nanoseconds(core.ejection)
        maximumEjection = .nanoseconds(core.maximumEjection)
        maximumEjected = core.maximumEjected
        breakerCalls = core.breakerCalls
        breakerFailureRate = core.breakerFailureRate
        breakerWindow = .nanoseconds(core.breakerWindow)
        breakerOpen = .nanoseconds(core.breakerOpen)
        maximumBreakerOpen = .nanoseconds(core.maximumBreakerOpen)
        breakerProbes = core.breakerProbes
    }

    /// The same for the machine, each within its limits.
    func checked() throws -> BalanceSettings {
        var core = BalanceSettings()
        core.slowStart = Nanos(saturating: slowStart)
        core.costDecay = Nanos(saturating: costDecay)
        core.bound = bound
        core.spillBelow = spillBelow
        core.panicBelow = panicBelow
        core.consecutiveFailures = consecutiveFailures
        core.successRateMembers = successRateMembers
        core.successRateCalls = successRateCalls
        core.successRateDeviations = successRateDeviations
        core.outlierInterval = Nanos(saturating: outlierInterval)
        core.ejection = Nanos(saturating: ejection)
        core.maximumEjection = Nanos(saturating: maximumEjection)
        core.maximumEjected = maximumEjected
        core.breakerCalls = breakerCalls
        core.breakerFailureRate = breakerFailureRate
        core.breakerWindow = Nanos(saturating: breakerWindow)
        core.breakerOpen = Nanos(saturating: breakerOpen)
        core.maximumBreakerOpen = Nanos(saturating: maximumBreakerOpen)
        core.breakerProbes = breakerProbes
        do { try core.check() } catch { throw RingfenceError(error) }
        return core
    }
}
