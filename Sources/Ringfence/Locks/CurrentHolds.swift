// SPDX-License-Identifier: Apache-2.0

import RingfenceCore

/// What the running task holds by `withLock`, to refuse the one wait that can never end: for itself.
///
/// Only the very task that runs the body is refused, and only while the lease lives. A task that the body started may
/// well wait for the lock, for the body need not wait for it.
enum CurrentHolds {
    struct Hold: Sendable {
        var state: LeaseState
        var task: Int
    }

    @TaskLocal static var stack: [Hold] = []

    private static var task: Int { withUnsafeCurrentTask { $0?.hashValue ?? 0 } }

    static func adding(_ state: LeaseState) -> [Hold] { stack + [Hold(state: state, task: task)] }

    static func heldByThisTask(_ names: [String]) -> String? {
        let stack = stack
        guard !stack.isEmpty else { return nil }
        let task = task
        let now = Moment.now
        for hold in stack where hold.task == task && hold.state.isHeld(at: now) {
            for name in names where hold.state.names.contains(where: { $0.hasSameBytes(as: name) }) { return name }
        }
        return nil
    }
}
