// SPDX-License-Identifier: Apache-2.0
import RingfenceCore
import TestSupport
import Testing

@Suite struct WakeQueueTests {
    @Test(arguments: 0..<20 as Range<UInt64>)
    func `everybody is woken when the time comes that was asked for last, and once`(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        var queue = WakeQueue<Int>()
        var wanted: [Int: Nanos] = [:]
        var now: Nanos = 0
        for _ in 0..<3000 {
            switch Int.random(in: 0..<10, using: &random) {
            case 0..<6:
                let key = Int.random(in: 0..<50, using: &random)
                let at = now + Nanos.random(in: 0...100, using: &random)
                queue.add(key, at: at)
                wanted[key] = min(wanted[key] ?? .never, at)
            case 6:
                let key = Int.random(in: 0..<50, using: &random)
                queue.forget(key)
                wanted[key] = nil
            case 7: queue.add(1, at: .never)
            default:
                now += Nanos.random(in: 0...20, using: &random)
                let due = queue.takeDue(now: now)
                #expect(Set(due) == Set(wanted.filter { $0.value <= now }.keys) && Set(due).count == due.count)
                for key in due { wanted[key] = nil }
            }
            #expect(queue.first <= wanted.values.min() ?? .never)
        }
    }

    @Test func `what is asked for in vain does not pile up`() {
        var queue = WakeQueue<Int>()
        // As members that beat: the end of the lease, then the next beat, which comes first.
        for round in 0..<1000 as Range<Nanos> {
            for key in 0..<50 {
                queue.add(key, at: round * 10 + 100_000)
                queue.add(key, at: round * 10 + 10)
            }
            #expect(queue.takeDue(now: round * 10 + 10).count == 50)
        }
        #expect(queue.count < 500, "\(queue.count) for 50 members")
    }
}
