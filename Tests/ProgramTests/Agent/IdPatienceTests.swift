// SPDX-License-Identifier: Apache-2.0
import Ringfence
import RingfenceAgent
import RingfenceOperations
import Testing

@Suite struct IdPatienceTests {
    private static let taken = RingfenceError(
        .membershipTaken, effect: .none, isRetriable: true, "another lives under this id")

    /// The pauses until it gives up, when the other's lease has so long to go at first.
    private func pauses(left: Int64) -> [Duration] {
        var error = Self.taken
        error.retryAfterMilliseconds = left
        var patience = IdPatience()
        var now = ContinuousClock.now
        var pauses: [Duration] = []
        while let pause = patience.pause(error, now: now), pauses.count < 1000 {
            pauses.append(pause)
            now += pause
        }
        return pauses
    }

    @Test(arguments: [0, 1, 900, 3_000, 60_000, 3_600_000] as [Int64])
    func `it waits until a second after the other's lease, in pauses that double up to 8 s`(left: Int64) {
        let pauses = pauses(left: left)
        #expect(pauses.reduce(.zero, +) == .milliseconds(left) + .seconds(1))
        #expect(pauses.allSatisfy { $0 <= .seconds(8) && $0 > .zero })
        for (index, pause) in pauses.dropLast().enumerated() {
            #expect(pause == min(.milliseconds(250 * (1 << min(index, 10))), .seconds(8)))
        }
    }

    @Test func `an error without a time is waited out for a second`() {
        var patience = IdPatience()
        let now = ContinuousClock.now
        #expect(patience.pause(Self.taken, now: now) == .milliseconds(250))
        #expect(patience.pause(Self.taken, now: now + .milliseconds(999)) == .milliseconds(10))
        #expect(patience.pause(Self.taken, now: now + .seconds(1)) == nil)
        #expect(patience.pause(Self.taken, now: now) != nil, "it goes by the clock alone")
    }
}
