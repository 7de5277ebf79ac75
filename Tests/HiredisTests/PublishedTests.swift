// SPDX-License-Identifier: Apache-2.0
import Hiredis
import NIOPosix
import Synchronization
import TestSupport
import Testing

/// Counts those that live.
private final class Numbered: Sendable {
    let number: Int
    let copy: Int
    private let living: Living
    init(_ number: Int, _ living: Living) {
        self.number = number
        copy = number
        self.living = living
        living.count.add(1, ordering: .relaxed)
    }
    deinit { living.count.subtract(1, ordering: .relaxed) }
}

private final class Living: Sendable {
    let count = Atomic<Int>(0)
}

@Suite struct PublishedTests {
    @Test func `the newest value is read, and old ones are let go of`() {
        let living = Living()
        do {
            let published = Published(Numbered(0, living))
            for number in 1...100 {
                published.store(Numbered(number, living))
                #expect(published.load().number == number)
            }
            #expect(published.retiredCount <= 1)
            #expect(living.count.load(ordering: .relaxed) <= 2)
        }
        #expect(living.count.load(ordering: .relaxed) == 0)
    }

    @Test func `a value that a reader holds outlives its replacement`() {
        let living = Living()
        let published = Published(Numbered(0, living))
        let held = published.load()
        for number in 1...10 { published.store(Numbered(number, living)) }
        #expect(held.number == 0 && held.copy == 0)
    }

    /// Run under the address sanitizer this finds a value freed under a reader; without it, a torn one.
    @Test func `many readers beside a writer never meet a dead value and never step back`() async throws {
        let living = Living()
        let published = Published(Numbered(0, living))
        let isOver = Living()
        // Threads of their own: what is tested is what happens when they meet.
        let threads = NIOThreadPool(numberOfThreads: 5)
        threads.start()
        let readers = (0..<4).map { _ in
            Task {
                try await threads.runIfActive { () -> Bool in
                    var last = 0
                    while isOver.count.load(ordering: .relaxed) == 0 {
                        let value = published.load()
                        guard value.number == value.copy, value.number >= last else { return false }
                        last = value.number
                    }
                    return true
                }
            }
        }
        try await threads.runIfActive {
            for number in 1...100_000 { published.store(Numbered(number, living)) }
            isOver.count.store(1, ordering: .relaxed)
        }
        for reader in readers {
            let isGood = try await reader.value
            #expect(isGood)
        }
        try await threads.shutdownGracefully()
        published.store(Numbered(100_001, living))
        published.store(Numbered(100_002, living))
        #expect(published.retiredCount <= 1)
        #expect(living.count.load(ordering: .relaxed) <= 2)
    }
}
