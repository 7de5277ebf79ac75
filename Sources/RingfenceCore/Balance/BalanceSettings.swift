// SPDX-License-Identifier: Apache-2.0
//
// The rule by which a balancer picks, and its settings. The default and the range of each setting are defined here,
// once.

/// How one member is picked of those that can be.
package enum PickRule: Sendable, Hashable {
    case roundRobin
    case weighted
    case random
    case leastLoaded
    case peakEWMA
    case ringHash
    case boundedLoad
    case primaryOnly
    case nearestZone(String)

    /// It finds a member by a key.
    package var needsKey: Bool { self == .ringHash || self == .boundedLoad }

    package var name: String {
        switch self {
        case .roundRobin: "roundRobin"
        case .weighted: "weighted"
        case .random: "random"
        case .leastLoaded: "leastLoaded"
        case .peakEWMA: "peakEWMA"
        case .ringHash: "ringHash"
        case .boundedLoad: "boundedLoad"
        case .primaryOnly: "primaryOnly"
        case .nearestZone: "nearestZone"
        }
    }
}

package struct BalanceSettings: Sendable, Hashable {
    /// How long a new member's share ramps up; 0: it has all of it at once.
    package var slowStart: Nanos = 10 * .second
    /// The time in which a cost decays to 37 %.
    package var costDecay: Nanos = 10 * .second
    /// How many times its fair part of all outstanding calls a member may have.
    package var maximumLoadFactor = 1.25
    /// Calls stay in the zone as long as this part of it can be picked.
    package var zoneSpilloverThreshold = 0.7
    /// Where less than this part of the members can be picked, all are; 0: never.
    package var panicThreshold = 0.5

    /// How many failures one after the other eject a member; 0: none do.
    package var consecutiveFailures = 5
    /// How many members must have had enough calls for success rates to be compared; 0: they are not compared.
    package var successRateMembers = 5
    package var successRateCalls = 100
    /// How many standard deviations below the mean a success rate must be for its member to be ejected.
    package var successRateDeviations = 1.9
    package var outlierInterval: Nanos = 10 * .second
    package var baseEjectionTime: Nanos = 30 * .second
    package var maximumEjectionTime: Nanos = 300 * .second
    /// The largest part of the members that is ejected at once; of two, one may be.
    package var maximumEjectionFraction = 0.33

    /// How many calls must have ended in a window for the breaker to judge; 0: there is no breaker.
    package var breakerMinimumCalls = 100
    package var breakerFailureRate = 0.5
    package var breakerWindow: Nanos = 10 * .second
    package var breakerOpenDuration: Nanos = 5 * .second
    package var maximumBreakerOpenDuration: Nanos = 60 * .second
    package var breakerHalfOpenCalls = 10

    package init() {}

    /// How many members a pool must have for panic: one left of three is no reason to call two that fail.
    package static let panicMembers = 4
    /// How far below the mean a success rate must be at least: in a pool where next to nothing fails, the standard
    /// deviation is next to nothing too.
    package static let successRateMargin = 0.05
    /// An event of one type about one member is written at most once in this time.
    package static let noteInterval: Nanos = 10 * .second

    package func check() throws(InvalidArgument) {
        let second = Nanos.second
        try Limits.check(slowStart, "slowStart", 0...3600 * second)
        try Limits.check(costDecay, "costDecay", 100 * .millisecond...3600 * second)
        try Self.check(maximumLoadFactor, "maximumLoadFactor", 1.01...100)
        try Self.check(zoneSpilloverThreshold, "zoneSpilloverThreshold", 0.01...1)
        try Self.check(panicThreshold, "panicThreshold", 0...1)
        try Limits.check(consecutiveFailures, "consecutiveFailures", 0...1_000_000)
        try Limits.check(successRateMembers, "successRateMembers", 0...65_535)
        guard successRateMembers != 1, successRateMembers != 2 else {
            throw InvalidArgument(
                "successRateMembers", "must be 0 (not compared) or at least 3: of two neither is an outlier")
        }
        try Limits.check(successRateCalls, "successRateCalls", 1...1_000_000)
        try Self.check(successRateDeviations, "successRateDeviations", 0.1...10)
        try Limits.check(outlierInterval, "outlierInterval", 100 * .millisecond...3600 * second)
        try Limits.check(baseEjectionTime, "baseEjectionTime", 10 * .millisecond...86_400 * second)
        try Limits.check(maximumEjectionTime, "maximumEjectionTime", baseEjectionTime...86_400 * second)
        try Self.check(maximumEjectionFraction, "maximumEjectionFraction", 0...1)
        try Limits.check(breakerMinimumCalls, "breakerMinimumCalls", 0...1_000_000)
        try Self.check(breakerFailureRate, "breakerFailureRate", 0.01...1)
        try Limits.check(breakerWindow, "breakerWindow", 100 * .millisecond...3600 * second)
        try Limits.check(breakerOpenDuration, "breakerOpenDuration", 10 * .millisecond...3600 * second)
        try Limits.check(
            maximumBreakerOpenDuration, "maximumBreakerOpenDuration", breakerOpenDuration...86_400 * second)
        try Limits.check(breakerHalfOpenCalls, "breakerHalfOpenCalls", 1...10_000)
    }

    private static func check(_ value: Double, _ field: String, _ range: ClosedRange<Double>) throws(InvalidArgument) {
        guard range.contains(value) else {
            throw InvalidArgument(field, "must be \(range.lowerBound) to \(range.upperBound), not \(value)")
        }
    }
}

/// Chance as a value: the same seed, the same dice.
package struct Dice: Sendable, Hashable {
    private var state: UInt64

    package init(seed: UInt64) { state = seed }

    /// 64 bits, by the SplitMix64 generator.
    @inline(__always)
    package mutating func roll() -> UInt64 {
        state &+= RingHash.golden
        var z = state
        z = (z ^ (z &>> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z &>> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z &>> 31)
    }

    /// 0 to `count` - 1.
    @inline(__always)
    package mutating func roll(_ count: Int) -> Int {
        Int(truncatingIfNeeded: UInt64(truncatingIfNeeded: count).multipliedFullWidth(by: roll()).high)
    }

    /// 0 up to 1.
    package mutating func fraction() -> Double { Double(roll() >> 11) * 0x1p-53 }
}
