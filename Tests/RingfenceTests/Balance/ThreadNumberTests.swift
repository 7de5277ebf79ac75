// SPDX-License-Identifier: Apache-2.0

import CThreadNumber
import RingfencePlatform
import Synchronization
import Testing

@Suite struct ThreadNumberTests {
    /// What threads have to do with each other.
    private final class Meeting: Sendable {
        let numbers = Mutex<[Int]>([])
        let wanted: Int
        init(_ wanted: Int) { self.wanted = wanted }
    }

    /// Runs this many threads, of which each has its number before one ends; what numbers they had.
    private func numbers(_ count: Int) -> [Int] {
        let meeting = Meeting(count)
        var threads: [pthread_t] = []
        for _ in 0..<count {
            // SAFETY: consumed by the thread.
            let argument = Unmanaged.passRetained(meeting).toOpaque()
            var thread = pthread_t()
            pthread_create(
                &thread, nil,
                { argument in
                    let meeting = Unmanaged<Meeting>.fromOpaque(argument!).takeRetainedValue()
                    let number = Int(rf_thread_number())
                    let same = Int(rf_thread_number())
                    meeting.numbers.withLock { $0.append(number == same ? number : -1) }
                    while meeting.numbers.withLock({ $0.count }) < meeting.wanted { sched_yield() }
                    return nil
                }, argument)
            threads.append(thread)
        }
        for thread in threads { pthread_join(thread, nil) }
        return meeting.numbers.withLock { $0 }
    }

    @Test func `threads that live at one time have different numbers, and numbers are given again`() {
        for _ in 0..<50 {
            let numbers = numbers(16)
            #expect(Set(numbers).count == 16 && numbers.allSatisfy { (0..<Int(RF_THREAD_NUMBERS)).contains($0) })
        }
        let many = numbers(100)
        #expect(many.count == 100 && many.allSatisfy { (0..<Int(RF_THREAD_NUMBERS)).contains($0) })
    }
}
