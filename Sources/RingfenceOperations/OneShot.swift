// SPDX-License-Identifier: Apache-2.0
import Synchronization

/// Something that happens once, such as "the client hung up" or "the service is shutting down", and its listeners.
package final class OneShot: Sendable {
    private struct State {
        var hasHappened = false
        var next = 0
        var observers: [Int: @Sendable () -> Void] = [:]
    }

    private let state = Mutex(State())

    package init() {}

    package var hasHappened: Bool { state.withLock { $0.hasHappened } }

    /// Tells all observers, the first time only.
    package func happen() {
        let observers = state.withLock { state in
            state.hasHappened = true
            defer { state.observers = [:] }
            return state.observers
        }
        for observer in observers.values { observer() }
    }

    /// Calls `observer` when it happens, at once if it has. The result ends that, by `forget`.
    package func observe(_ observer: @Sendable @escaping () -> Void) -> Int {
        let key: Int? = state.withLock { state in
            guard !state.hasHappened else { return nil }
            state.next += 1
            state.observers[state.next] = observer
            return state.next
        }
        if key == nil { observer() }
        return key ?? 0
    }

    package func forget(_ key: Int) {
        state.withLock { _ = $0.observers.removeValue(forKey: key) }
    }
}

extension OneShot {
    /// Returns once it has happened. Cancelling the task does not shorten this.
    package func wait() async {
        await withCheckedContinuation { continuation in
            _ = observe { continuation.resume() }
        }
    }
}
