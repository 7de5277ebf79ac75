// SPDX-License-Identifier: Apache-2.0
//
// What operators and dashboards ask: who holds what, who waits, who held it; and the one thing they may do, take a lock
// away. Nothing here shows a secret: holders appear by owner and by the public id of their hold.

import Hiredis
import Logging
import RingfenceCore

/// The holder of a lock, as Redis has it.
///
/// Of a lock that something else than Ringfence wrote, `owner` says so, `id` is empty and `fence` 0.
public struct LockHolder: Sendable, Hashable {
    /// The name of the lock.
    public var name: String
    /// The name of the holder, for people: what the holder called itself.
    public var owner: String
    /// The public id of the hold; no secret.
    public var id: String
    /// The fence it was granted under.
    public var fence: Int64
    /// How long until Redis lets it expire, unless it is renewed. The holder's own deadline is earlier.
    public var remaining: Duration
}

/// One lock, seen in one atomic look.
public struct LockStatus: Sendable {
    /// A place in the lock's queue.
    public struct Waiter: Sendable, Hashable {
        /// The name of the waiter, for people. Waiters of one process share a place; this is the one that took it.
        public var owner: String
        /// The public id of the place; no secret.
        public var id: String
        /// How long ago it came, by Redis' clock.
        public var waiting: Duration
        /// All names that it waits for.
        public var names: [String]
    }

    /// The name of the lock.
    public var name: String
    /// The holder; nil if nobody holds it.
    public var holder: LockHolder?
    /// The last fence given for it, by a grant or a forced release; nil if none was within
    /// ``RingfenceConfiguration/fenceRetention``.
    public var lastFence: Int64?
    /// The number of places in its queue.
    public var queueLength: Int
    /// The first 100 places, first come first.
    public var queue: [Waiter]
}

/// A page of held locks.
public struct LockPage: Sendable {
    /// The locks of this page, in no particular order. May be empty although more follow.
    public var locks: [LockHolder]
    /// The cursor of the next page; nil if this was the last.
    public var next: String?
}

/// A lock that was taken away.
public struct ForcedRelease: Sendable {
    /// The former holder.
    public var previous: LockHolder
    /// The highest fence that is dead: every later grant has a higher one. Raise the guards of the resource to it to
    /// refuse the former holder at once.
    public var fence: Int64
}

/// One entry of the audit: something that happened to a lock.
public struct AuditRecord: Sendable, Hashable {
    /// What happened: `grant`, `release`, `force` (a forced release) or `cancel`. The last is a grant that was
    /// withdrawn because its wait was given up, or let go because its release was in doubt.
    public var action: String
    /// When it happened: milliseconds since 1970, by Redis' clock.
    public var at: Int64
    /// The names of the locks, taken together. If a part of several was given back, each has an entry of its own.
    public var names: [String]
    /// The name of the holder, for people: what the holder called itself, and no proof of who it was.
    public var owner: String
    /// The fence of the hold; 0 if something else than Ringfence wrote the lock.
    public var fence: Int64
    /// How long it was held since the grant, to the millisecond, by Redis' clock; nil for a grant.
    public var held: Duration?
    /// For a grant from Redis' queue: how long it was waited for; else nil.
    public var waited: Duration?
    /// For a forced release: who ordered it and why, as `actor: reason`; else nil.
    public var reason: String?
}

extension RingfenceClient {
    /// The number of acquires of this client that wait for an answer or a grant now.
    public var waiterCount: Int { table.waiterCount }

    /// The number of leases that this client holds now; a ``LockGrant`` is none.
    public var leaseCount: Int { keeper.count }

    /// The holder of a lock and its queue, by one atomic look.
    ///
    /// - Throws: ``RingfenceError``. Nothing is changed by asking, whatever its effect.
    public func inspect(_ name: String) async throws -> LockStatus {
        do { try Limits.check(name: name) } catch { throw RingfenceError(error) }
        let reply = try await runner.run(scripts.inspect(name, waiters: 100), "inspecting '\(name)'")
        guard case .array(let items) = reply, items.count == 7, case .integer(let ms) = items[1],
            case .integer(let length) = items[3], let now = items[4].text.flatMap({ Int64($0) }),
            case .array(let places) = items[5], case .array(let names) = items[6], names.count * 2 == places.count
        else { throw RingfenceError.unexpected(reply) }
        var queue: [LockStatus.Waiter] = []
        for index in stride(from: 0, to: places.count - 1, by: 2) {
            guard let place = places[index].text.flatMap({ Place(parsing: $0, names: names[index / 2].text ?? "") }),
                let arrival = places[index + 1].text.flatMap({ Double($0) })
            else { continue }
            queue.append(
                LockStatus.Waiter(
                    owner: place.owner, id: LockValue.id(of: place.nonce),
                    waiting: .microseconds(max(0, now - Int64(arrival))), names: place.names))
        }
        return LockStatus(
            name: name, holder: items[0].text.flatMap { LockHolder(name: name, value: $0, milliseconds: ms) },
            lastFence: items[2].text.flatMap { Int64($0) }, queueLength: Int(length), queue: queue)
    }

    /// A page of the locks that are held and whose names start with `prefix`.
    ///
    /// Pages are a walk, not a snapshot: a lock that is held from the first page to the last is seen at least once,
    /// perhaps twice; one that comes or goes meanwhile may be seen or not.
    ///
    /// - Parameters:
    ///   - prefix: up to 512 bytes; empty, the default, for all.
    ///   - cursor: ``LockPage/next`` of the page before; nil to begin.
    ///   - limit: about how many keys Redis looks at for a page, keys of other kinds included: 1 to 1000; default 100.
    /// - Throws: ``RingfenceError``. Nothing is changed by asking, whatever its effect.
    public func locks(prefix: String = "", cursor: String? = nil, limit: Int = 100) async throws -> LockPage {
        let position = try checked(prefix: prefix, cursor: cursor, limit: limit)
        let page = try await scan(
            "listing locks", from: position, keys: keys.lock.globEscaped + prefix.globEscaped + "*", count: limit,
            answerBytes: limit * 600)
        let lockKeys = page.items
        var locks: [LockHolder] = []
        if !lockKeys.isEmpty {
            let replies: [RedisReply]
            do {
                let count = lockKeys.count * 2
                replies = try await runner.bulk(count: count, answerBytes: count * 200) { writer in
                    for key in lockKeys {
                        for command in ["GET", "PTTL"] {
                            writer.begin(2)
                            writer.argument(command)
                            writer.argument(key)
                        }
                    }
                }
            } catch { throw RingfenceError(error, "listing locks") }
            // What is of another type is no lock; any other refusal means that we do not know.
            if let refusal = replies.lazy.compactMap(\.error).first(where: { $0.prefix != .wrongType }) {
                throw RingfenceError(RedisError(refusal), "listing locks")
            }
            for (index, key) in lockKeys.enumerated() {
                guard let value = replies[index * 2].text, case .integer(let ms) = replies[index * 2 + 1], ms >= 0
                else { continue }
                let name = String(decoding: key.utf8.dropFirst(keys.lock.utf8.count), as: UTF8.self)
                if let holder = LockHolder(name: name, value: value, milliseconds: ms) { locks.append(holder) }
            }
        }
        return LockPage(locks: locks, next: page.next == ScannedPage.first ? nil : page.next)
    }

    /// Takes the lock away from its holder and hands it to the first waiter.
    ///
    /// The holder's process is told at once, or learns it at its next renewal if that push is missed; one that holds by
    /// a ``LockGrant`` learns it when it renews. The next fence is higher than any before. The work may still be
    /// running: raise the resource's guard to ``ForcedRelease/fence`` to stop its writes. The audit keeps who ordered
    /// it and why.
    ///
    /// Of several names taken together only this one is taken away. The whole hold is over by that. Its holder gives
    /// the others back when it has heard of it and ended its work; else they end with the ttl.
    ///
    /// - Parameters:
    ///   - name: the name of the lock.
    ///   - actor: the name of who orders it, for the audit. 1 to 128 bytes.
    ///   - reason: the reason, for the audit. Up to 512 bytes.
    /// - Returns: what was taken away; nil if nobody held it.
    /// - Throws: ``RingfenceError``. With effect `unknown` it may have been done; repeated, it then may take the lock
    ///   from the next holder.
    public func forceRelease(_ name: String, actor: String, reason: String = "") async throws -> ForcedRelease? {
        do {
            try Limits.check(name: name)
            try Limits.check(owner: actor, field: "actor")
            try Limits.check(reason: reason)
        } catch { throw RingfenceError(error) }
        let reply = try await runner.run(scripts.force(name, actor: actor, reason: reason), "taking '\(name)' away")
        if case .null = reply { return nil }
        guard case .array(let items) = reply, items.count == 3, case .string(let fence) = items[0],
            let fence = LockScripts.fence(fence), let value = items[1].text, case .integer(let ms) = items[2],
            let previous = LockHolder(name: name, value: value, milliseconds: ms)
        else { throw RingfenceError.unexpected(reply) }
        logger.notice(
            "lock taken away",
            metadata: [
                LoggingKeys.lock: "\(name)", LoggingKeys.owner: "\(previous.owner)", LoggingKeys.actor: "\(actor)",
                LoggingKeys.reason: "\(reason)",
            ])
        return ForcedRelease(previous: previous, fence: fence)
    }

    /// The newest entries of the audit, newest first.
    ///
    /// The audit is bounded (``RingfenceConfiguration/auditLength``) and never stands in the way of a lock: with Redis
    /// out of memory an entry may be missing. A lock that expired has a grant and no release.
    ///
    /// - Parameter limit: how many at most: 1 to 1000; default 100.
    /// - Throws: ``RingfenceError``. Nothing is changed by asking, whatever its effect.
    public func audit(limit: Int = 100) async throws -> [AuditRecord] {
        _ = try checked(prefix: "", cursor: nil, limit: limit)
        let reply = try await fetch("reading the audit", answerBytes: limit * 1024) { [keys] writer in
            writer.begin(6)
            for word in ["XREVRANGE", keys.audit, "+", "-", "COUNT"] { writer.argument(word) }
            writer.argument(Int64(limit))
        }
        guard case .array(let entries) = reply else { throw RingfenceError.unexpected(reply) }
        return entries.compactMap { AuditRecord($0) }
    }

    private func checked(prefix: String, cursor: String?, limit: Int) throws -> String {
        do {
            try Limits.check(reason: prefix, field: "prefix")
            guard Limits.page.contains(limit) else { throw InvalidArgument("limit", "must be 1 to 1000, not \(limit)") }
            guard let cursor else { return ScannedPage.first }
            guard UInt64(cursor) != nil, cursor.utf8.count <= 20 else {
                throw InvalidArgument("cursor", "is not one that a page gave as next")
            }
            return cursor
        } catch let error as InvalidArgument {
            throw RingfenceError(error)
        }
    }

    /// The answer to one command, of about so many bytes.
    func fetch(
        _ doing: String, answerBytes: Int, _ encode: @escaping @Sendable (inout CommandWriter) -> Void
    ) async throws -> RedisReply {
        try await fetch(doing, count: 1, answerBytes: answerBytes, encode)[0]
    }

    private func fetch(
        _ doing: String, count: Int, answerBytes: Int, _ encode: @escaping @Sendable (inout CommandWriter) -> Void
    ) async throws -> [RedisReply] {
        do {
            let replies = try await runner.bulk(count: count, answerBytes: answerBytes, encode)
            if let error = replies.lazy.compactMap(\.error).first { throw RedisError(error) }
            return replies
        } catch let error as RedisError {
            throw RingfenceError(error, doing)
        }
    }

    /// A page of the keys that match `pattern`.
    ///
    /// `SCAN` names no key, so every server answers it, also a node of a Cluster that does not have the namespace's
    /// slot (any more): with nothing. So a key of the namespace that does not exist is asked for in the same write,
    /// which such a node refuses, and one from which the slot is being moved as well.
    func scan(
        _ doing: String, from position: String, keys pattern: String, count: Int, answerBytes: Int
    ) async throws -> ScannedPage {
        let replies = try await fetch(doing, count: 2, answerBytes: answerBytes) { [keys] writer in
            writer.begin(2)
            writer.argument("EXISTS")
            writer.argument(keys.absent)
            writer.begin(6)
            for word in ["SCAN", position, "MATCH", pattern, "COUNT"] { writer.argument(word) }
            writer.argument(Int64(count))
        }
        guard let page = ScannedPage(replies[1]) else { throw RingfenceError.unexpected(replies[1]) }
        return page
    }
}

extension LockHolder {
    /// From a lock key's value; a value that Ringfence did not write is not shown, it may be a secret.
    init?(name: String, value: String, milliseconds: Int64) {
        let parsed = LockValue(parsing: value)
        self.init(
            name: name, owner: parsed?.owner ?? "(written by somebody else)", id: parsed?.id ?? "",
            fence: parsed?.fence ?? 0, remaining: .milliseconds(max(0, milliseconds)))
    }
}

extension AuditRecord {
    init?(_ entry: RedisReply) {
        guard case .array(let parts) = entry, parts.count == 2, let id = parts[0].text,
            let at = id.split(separator: "-").first.flatMap({ Int64($0) }), let values = parts[1].fields,
            let action = values["action"], let names = values["names"], let owner = values["owner"],
            let fence = values["fence"].flatMap({ Int64($0) })
        else { return nil }
        // A fence is the server's µs at the grant.
        let isKnown = action != "grant" && fence > 0
        let held = isKnown ? Duration.milliseconds(max(0, at - fence / 1000)) : nil
        self.init(
            action: action, at: at, names: names.split(separator: "\n").map { String($0) }, owner: owner, fence: fence,
            held: held, waited: values["waitedUs"].flatMap { Int64($0) }.map { .microseconds($0) },
            reason: values["reason"])
    }
}

extension String {
    /// For MATCH: everything stands for itself.
    var globEscaped: String {
        var escaped = ""
        for character in unicodeScalars {
            if "*?[]\\^".unicodeScalars.contains(character) { escaped.unicodeScalars.append("\\") }
            escaped.unicodeScalars.append(character)
        }
        return escaped
    }
}
