// SPDX-License-Identifier: Apache-2.0
//
// How locks look in JSON: the HTTP answers and the command line's --json are the same words. A fence is a decimal
// string, because a JSON number loses digits beyond 2^53 in most readers; times are whole milliseconds.
package import Ringfence

extension JSONWriter {
    /// A lock as `inspect` sees it.
    package static func describing(_ status: LockStatus) -> JSONWriter {
        var json = JSONWriter(capacity: 512)
        json.object { json in
            json.field("name", status.name)
            json.key("holder")
            if let holder = status.holder { json.holder(holder, named: false) } else { json.null() }
            json.key("lastFence")
            if let fence = status.lastFence { json.string(String(fence)) } else { json.null() }
            json.field("queueLength", status.queueLength)
            json.key("queue")
            json.array(status.queue) { json, waiter in
                json.object { json in
                    json.field("owner", waiter.owner)
                    json.field("waitingMs", waiter.waiting.wholeMilliseconds)
                    json.field("names", waiter.names)
                }
            }
        }
        return json
    }

    /// A page of held locks.
    package static func describing(_ page: LockPage) -> JSONWriter {
        var json = JSONWriter(capacity: 1_024)
        json.object { json in
            json.key("locks")
            json.array(page.locks) { $0.holder($1, named: true) }
            json.key("next")
            if let next = page.next { json.string(next) } else { json.null() }
        }
        return json
    }

    /// What a forced release took away.
    package static func describing(_ forced: ForcedRelease) -> JSONWriter {
        var json = JSONWriter(capacity: 256)
        json.object { json in
            json.key("previous")
            json.holder(forced.previous, named: true)
            json.field("fence", String(forced.fence))
        }
        return json
    }

    /// Audit records.
    package static func describing(_ records: [AuditRecord]) -> JSONWriter {
        var json = JSONWriter(capacity: 4_096)
        json.object { json in
            json.key("records")
            json.array(records) { $0.record($1) }
        }
        return json
    }

    /// One audit record.
    package mutating func record(_ record: AuditRecord) {
        object { json in
            json.field("at", record.at)
            json.field("action", record.action)
            json.field("names", record.names)
            json.field("owner", record.owner)
            json.field("ownerProven", false)
            json.field("fence", String(record.fence))
            if let held = record.held { json.field("heldMs", held.wholeMilliseconds) }
            if let waited = record.waited { json.field("waitedMs", waited.wholeMilliseconds) }
            if let reason = record.reason { json.field("reason", reason) }
        }
    }

    /// The holder of a lock; with the lock's name where the context does not tell it.
    package mutating func holder(_ holder: LockHolder, named: Bool) {
        object { json in
            if named { json.field("name", holder.name) }
            json.field("owner", holder.owner)
            json.field("id", holder.id)
            json.field("fence", String(holder.fence))
            json.field("remainingMs", holder.remaining.wholeMilliseconds)
        }
    }
}
