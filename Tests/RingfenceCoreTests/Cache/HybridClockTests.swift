// SPDX-License-Identifier: Apache-2.0
import RingfenceCacheCore
import RingfenceCore
import Testing

@Suite struct HybridClockTests {
    @Test func `versions follow the wall clock`() {
        var clock = HybridClock(writer: 7)
        let version = clock.next(wallMilliseconds: 1_790_000_000_000)
        #expect(version == CacheVersion(stamp: 1_790_000_000_000 << 16, writer: 7))
    }

    @Test func `within a millisecond, and when the wall clock goes back, versions still grow`() {
        var clock = HybridClock(writer: 7)
        var last = clock.next(wallMilliseconds: 1000)
        for wall in [1000, 1000, 400, 0, -5, 1001] as [Int64] {
            let next = clock.next(wallMilliseconds: wall)
            #expect(next > last)
            last = next
        }
        #expect(last.stamp == 1001 << 16)
    }

    @Test func `a version is above all that were seen`() {
        var clock = HybridClock(writer: 1)
        let seen = CacheVersion(stamp: 5000 << 16 | 3, writer: 9)
        clock.saw(seen)
        clock.saw(CacheVersion(stamp: 4, writer: 9))
        #expect(clock.next(wallMilliseconds: 1000) > seen)
    }

    @Test func `more than a millisecond's count of versions carries into the next`() {
        var clock = HybridClock(writer: 1)
        clock.saw(CacheVersion(stamp: 1000 << 16 | 0xFFFF, writer: 0))
        #expect(clock.next(wallMilliseconds: 1000).stamp == 1001 << 16)
    }

    @Test func `of two writers with one stamp the higher number is newer`() {
        #expect(CacheVersion(stamp: 5, writer: 1) < CacheVersion(stamp: 5, writer: 2))
        #expect(CacheVersion(stamp: 5, writer: 2) < CacheVersion(stamp: 6, writer: 1))
    }

    @Test(
        arguments: [(0, 0), (1, .max), (.max, 1), (0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210)] as [(UInt64, UInt64)])
    func `a version is 32 digits and reads back`(stamp: UInt64, writer: UInt64) {
        let version = CacheVersion(stamp: stamp, writer: writer)
        #expect(version.text.utf8.count == 32)
        #expect(CacheVersion(text: Array(version.text.utf8)) == version)
    }

    @Test(arguments: ["", "0", String(repeating: "0", count: 31), String(repeating: "A", count: 32)])
    func `anything else is no version`(text: String) {
        #expect(CacheVersion(text: Array(text.utf8)) == nil)
    }
}
