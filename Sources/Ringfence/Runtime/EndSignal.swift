// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// Something that is over once and for all, and those who wait for it. Waiting is not cut short by cancellation.
final class EndSignal: Sendable {
    /// nil: it is over.
    private let waiters = Mutex<[CheckedContinuation<Void, Never>]?>([])

    func reach() {
        let waiting = waiters.withLock { waiters in
            defer { waiters = nil }
            return waiters ?? []
        }
        for waiter in waiting { waiter.resume() }
    }

    func reached() async {
        await withCheckedContinuation { continuation in
            let isOver = waiters.withLock { waiters in
                waiters?.append(continuation)
                return waiters == nil
            }
            if isOver { continuation.resume() }
        }
    }
}
