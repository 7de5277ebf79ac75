// SPDX-License-Identifier: Apache-2.0

import RingfenceCore

/// The options of a ``Balancer``. The defaults are those of common proxies; the limits are checked when a balancer is
/// created.
public struct BalancerOptions: Sendable, Hashable {
    /// How long the share of a new or returning member ramps up. 0 (all of it at once) to 1 h; default 10 s.
    public var slowStart: Duration {
        get { .nanoseconds(settings.slowStart) }
        set { settings.slowStart = Nanos(saturating: newValue) }
    }
    /// How long a member's cost takes to decay to 37 %, for ``BalancePolicy/peakEWMA``. 100 ms to 1 h; default 10 s.
    public var costDecay: Duration {
        get { .nanoseconds(settings.costDecay) }
        set { settings.costDecay = Nanos(saturating: newValue) }
    }
    /// The most calls outstanding that a member may have, as a multiple of its fair share, for
    /// ``BalancePolicy/boundedLoad``. 1.01 to 100; default 1.25.
    public var maximumLoadFactor: Double {
        get { settings.maximumLoadFactor }
        set { settings.maximumLoadFactor = newValue }
    }
    /// The healthy share of the own zone below which calls spill over to others, for ``BalancePolicy/nearestZone(_:)``.
    /// 0.01 to 1; default 0.7.
    public var zoneSpilloverThreshold: Double {
        get { settings.zoneSpilloverThreshold }
        set { settings.zoneSpilloverThreshold = newValue }
    }
    /// The healthy share of the group below which health is ignored (panic): then all members with a weight are picked
    /// but the ejected ones. 0 (never) to 1; default 0.5. Groups of less than four never panic.
    public var panicThreshold: Double {
        get { settings.panicThreshold }
        set { settings.panicThreshold = newValue }
    }

    /// How many failures in a row eject a member. 0 (none do) to 1,000,000; default 5.
    public var consecutiveFailures: Int {
        get { settings.consecutiveFailures }
        set { settings.consecutiveFailures = newValue }
    }
    /// How many members must have had enough calls in an interval for success rates to be compared. 0 (they are not
    /// compared) or 3 to 65,535; default 5.
    public var successRateMembers: Int {
        get { settings.successRateMembers }
        set { settings.successRateMembers = newValue }
    }
    /// How many calls in an interval are enough for a member's success rate. 1 to 1,000,000; default 100.
    public var successRateCalls: Int {
        get { settings.successRateCalls }
        set { settings.successRateCalls = newValue }
    }
    /// How many standard deviations below the mean a success rate must lie, and at least 5 of 100 calls, to eject a
    /// member. 0.1 to 10; default 1.9.
    public var successRateDeviations: Double {
        get { settings.successRateDeviations }
        set { settings.successRateDeviations = newValue }
    }
    /// How often success rates are compared. 100 ms to 1 h; default 10 s.
    public var outlierInterval: Duration {
        get { .nanoseconds(settings.outlierInterval) }
        set { settings.outlierInterval = Nanos(saturating: newValue) }
    }
    /// How long the first ejection lasts, and up to a tenth longer. The second lasts twice as long, and so on; each
    /// such time in service takes one back. 10 ms to 24 h; default 30 s.
    public var baseEjectionTime: Duration {
        get { .nanoseconds(settings.baseEjectionTime) }
        set { settings.baseEjectionTime = Nanos(saturating: newValue) }
    }
    /// The longest ejection, and up to a tenth more. ``baseEjectionTime`` to 24 h; default 300 s.
    public var maximumEjectionTime: Duration {
        get { .nanoseconds(settings.maximumEjectionTime) }
        set { settings.maximumEjectionTime = Nanos(saturating: newValue) }
    }
    /// The largest share of the members with a weight that is ejected at once, though one of two may be. 0 (none) to 1;
    /// default 0.33. The last member that can be picked is never ejected.
    public var maximumEjectionFraction: Double {
        get { settings.maximumEjectionFraction }
        set { settings.maximumEjectionFraction = newValue }
    }

    /// How many calls must have ended in a window before the breaker judges. 0 (no breaker) to 1,000,000; default 100.
    public var breakerMinimumCalls: Int {
        get { settings.breakerMinimumCalls }
        set { settings.breakerMinimumCalls = newValue }
    }
    /// The share of failed calls that opens the breaker, and of failed probes that opens it again. 0.01 to 1; default
    /// 0.5.
    public var breakerFailureRate: Double {
        get { settings.breakerFailureRate }
        set { settings.breakerFailureRate = newValue }
    }
    /// The breaker's window, which moves on by tenths. 100 ms to 1 h; default 10 s.
    public var breakerWindow: Duration {
        get { .nanoseconds(settings.breakerWindow) }
        set { settings.breakerWindow = Nanos(saturating: newValue) }
    }
    /// How long the breaker is open at first; twice as long each time the probes fail. 10 ms to 1 h; default 5 s.
    public var breakerOpenDuration: Duration {
        get { .nanoseconds(settings.breakerOpenDuration) }
        set { settings.breakerOpenDuration = Nanos(saturating: newValue) }
    }
    /// The longest time the breaker is open. ``breakerOpenDuration`` to 24 h; default 60 s.
    public var maximumBreakerOpenDuration: Duration {
        get { .nanoseconds(settings.maximumBreakerOpenDuration) }
        set { settings.maximumBreakerOpenDuration = Nanos(saturating: newValue) }
    }
    /// How many calls a half-open breaker lets through. 1 to 10,000; default 10.
    public var breakerHalfOpenCalls: Int {
        get { settings.breakerHalfOpenCalls }
        set { settings.breakerHalfOpenCalls = newValue }
    }

    /// The defaults.
    public init() {}

    /// For the machine, each within its limits.
    func checked() throws -> BalanceSettings {
        do { try settings.check() } catch { throw RingfenceError(error) }
        return settings
    }

    private var settings = BalanceSettings()
}
