// SPDX-License-Identifier: Apache-2.0
//
// How long Redis has refused everything for now, as this client has seen it; and whose slot it is, where it is a slot.
//
// A slot that has been moving for a second will be there in a moment; one that has been moving for ten minutes was
// forgotten by somebody. Redis says neither, so the time from the first refusal is added to the sentence. Whoever waits
// asks again a few times a second, so a time without a refusal is a time in which Redis took commands, or nobody asked:
// then the count begins anew.

import CoreMetrics
import Hiredis
import RingfenceCore
import Synchronization

final class Refusals: Sendable {
    private struct Span {
        var kind: RedisServerError.Prefix
        var first: Nanos
        var last: Nanos
    }

    /// Longer than any pause before a call is sent again.
    private static let pause = 2 * Nanos.second
    private let span = Mutex<Span?>(nil)
    private let namespace: String

    init(namespace: String) { self.namespace = namespace }

    /// Counts a refusal for now, and says in it for how long there were such. Any other error comes back as it is.
    func noted(_ error: RedisError, now: Nanos = Moment.now) -> RedisError {
        guard error.isForNow, let prefix = error.server?.prefix else { return error }
        Counter(label: "ringfence_redis_refusals_total", dimensions: [("prefix", prefix.rawValue)]).increment()
        // The two sides of a slot that is being moved use one word each.
        let kind = prefix == .ask ? RedisServerError.Prefix.tryAgain : prefix
        let first = span.withLock { span in
            if var known = span, known.kind == kind, now - known.last <= Self.pause {
                known.last = max(known.last, now)
                span = known
                return known.first
            }
            span = Span(kind: kind, first: now, last: now)
            return now
        }
        let seconds = (now - first) / Nanos.second
        var lasting = error
        if [.tryAgain, .moved].contains(kind) { lasting.message += "; it is the slot of the namespace \(namespace)" }
        if seconds > 0 { lasting.message += "; it has been so for \(seconds) s" }
        return lasting
    }
}
