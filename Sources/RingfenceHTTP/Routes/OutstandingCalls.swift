// SPDX-License-Identifier: Apache-2.0
//
// Calls that were picked over HTTP and are outstanding, so that the balancer knows of them what it knows of a call in
// the library: that it is under way, how long it took, how it ended.
//
// They are in the memory of this instance and nowhere else: in Redis each would cost two round trips, more than what
// balancing by load is worth. So the end must be reported to the instance that picked; and a call ends by itself when
// the time that its caller gave it is over. That teaches nothing: a report that never came says as little of the member
// as of the caller that did not send it. Their number is limited; beyond the limit picks go on, uncounted, for a
// payment is worth more than knowing of it.
import NIOCore
import Ringfence
import Synchronization

/// The calls of one instance of the service.
final class OutstandingCalls: Sendable {
    private struct Entry {
        var group: String
        var call: BalancedCall
        var timer: Scheduled<Void>
    }

    private let most: Int
    private let entries = Mutex<[UInt64: Entry]>([:])

    init(most: Int = 65_536) { self.most = most }

    /// Keeps a call until it is ended or `milliseconds` are over.
    /// - Returns: its id; nil if there are too many.
    func keep(_ call: BalancedCall, of group: String, for milliseconds: Int64, on loop: any EventLoop) -> String? {
        let id = UInt64.random(in: .min ... .max)
        let timer = loop.scheduleTask(in: .milliseconds(milliseconds)) { [weak self] in
            _ = self?.entries.withLock { $0.removeValue(forKey: id) }
        }
        let isKept = entries.withLock { entries in
            guard entries.count < most else { return false }
            entries[id] = Entry(group: group, call: call, timer: timer)
            return true
        }
        guard isKept else {
            timer.cancel()
            return nil
        }
        return Self.text(id)
    }

    /// Whether there is room for one more, roughly.
    var hasRoom: Bool { entries.withLock { $0.count < most } }

    /// Ends a call.
    /// - Returns: who was called; nil if there is no such call.
    func end(_ text: String, of group: String, _ outcome: BalancedCall.Outcome) -> BalancedMember? {
        guard let id = UInt64(text, radix: 16), Self.text(id) == text else { return nil }
        let entry = entries.withLock { entries -> Entry? in
            guard let entry = entries[id], entry.group.utf8.elementsEqual(group.utf8) else { return nil }
            entries[id] = nil
            return entry
        }
        guard let entry else { return nil }
        entry.timer.cancel()
        entry.call.end(outcome)
        return entry.call.member
    }

    private static func text(_ id: UInt64) -> String {
        let digits = String(id, radix: 16)
        return String(repeating: "0", count: 16 - digits.utf8.count) + digits
    }
}
