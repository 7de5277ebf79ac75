// SPDX-License-Identifier: Apache-2.0
//
// What a cache promises, key by key, said of the calls alone: when they began, when they ended, and with what.
//
//  - Regular. A read must not return what was replaced before it began: if write w' succeeded before that, then
//    nothing that had completed before w' began. A write that failed may take effect at any time.
//  - Newest. Versions say more than times: a read returns nothing older than the newest write that had succeeded before
//    it began, whether that older one succeeded, failed or came late.
//  - Nobody reads what nobody wrote, nor what was over long ago.
//
// Absence is the value of a removal, of a value whose time is over, and of the time before the first write.
import RingfenceCacheCore
import RingfenceCore

final class CacheChecker {
    final class Write {
        let number: Int
        let key: String
        /// nil: a removal.
        let payload: [UInt8]?
        let ttl: Nanos?
        let began: Nanos
        fileprivate(set) var completed: Nanos?
        /// All that were sent, the last one last.
        fileprivate(set) var versions: [CacheVersion] = []

        fileprivate init(number: Int, key: String, payload: [UInt8]?, ttl: Nanos?, began: Nanos) {
            self.number = number
            self.key = key
            self.payload = payload
            self.ttl = ttl
            self.began = began
        }

        /// Whether what it wrote may have become absence by `time`.
        func mayBeAbsent(at time: Nanos) -> Bool {
            payload == nil || ttl.map { began + $0 <= time + CacheWorld.steps } ?? false
        }
    }

    /// A value may live longer by this than it was to after it was written: it was copied, or came late to a node.
    static let slack = CacheWorld.latest + 10 * .second

    /// What is known of one key; kept so that a read is judged without going through all its writes.
    private struct History {
        /// In the order in which they succeeded.
        var done: [Done] = []
        /// Removals that have not succeeded, or not yet: they may take effect at any time.
        var openRemovals = 0
        var lastRemoval: Nanos = -1
        /// The highest version of a removal.
        var removed: CacheVersion?
        /// Values that are over some time.
        var limited: [Write] = []
    }

    private struct Done {
        var completed: Nanos
        /// Of those that had succeeded by then: the one that began last, the same of those that stay, and the newest.
        var last: Write
        var lastToStay: Write?
        var newest: Write
    }

    unowned var world: CacheWorld!
    private var writes: [Write] = []
    private var histories: [String: History] = [:]
    private(set) var completed = 0
    private(set) var reads = 0
    private(set) var found = 0
    private(set) var failed = 0

    func began(_ key: String, payload: Bool, ttl: Nanos?) -> Write {
        let number = writes.count
        let write = Write(
            number: number, key: key, payload: payload ? Array("\(number)".utf8) : nil, ttl: ttl, began: world.now)
        writes.append(write)
        if !payload { histories[key, default: History()].openRemovals += 1 }
        if ttl != nil { histories[key, default: History()].limited.append(write) }
        return write
    }

    func sent(_ write: Write, _ version: CacheVersion) {
        write.versions.append(version)
        guard write.payload == nil else { return }
        let removed = histories[write.key]!.removed
        histories[write.key]!.removed = removed.map { max($0, version) } ?? version
    }

    func completed(_ write: Write) {
        completed += 1
        write.completed = world.now
        var history = histories[write.key] ?? History()
        if write.payload == nil {
            history.openRemovals -= 1
            history.lastRemoval = world.now
        }
        let stays = write.payload != nil && write.ttl == nil
        var done = Done(completed: world.now, last: write, lastToStay: stays ? write : nil, newest: write)
        if let before = history.done.last {
            if before.last.began > write.began { done.last = before.last }
            if let last = before.lastToStay, !stays || last.began > write.began { done.lastToStay = last }
            if before.newest.versions.last! > write.versions.last! { done.newest = before.newest }
        }
        history.done.append(done)
        histories[write.key] = history
    }

    func failedOne() { failed += 1 }

    func read(_ key: String, began: Nanos, _ entry: CacheEntry?) {
        reads += 1
        let history = histories[key] ?? History()
        let when = "a read that began at \(Self.time(began))"
        var source: Write?
        if let payload = entry?.payload {
            found += 1
            guard let number = Int(String(decoding: payload, as: UTF8.self)), writes[number].key == key,
                writes[number].versions.contains(entry!.version)
            else { return world.fail("\(key): \(when) returns \(payload), which nobody wrote") }
            source = writes[number]
            if let ttl = source!.ttl, let completed = source!.completed, began > completed + ttl + Self.slack {
                world.fail("\(key): over: \(when) returns write \(number), which was over long ago")
            }
        }
        guard let done = history.done.last(where: { $0.completed < began }) else { return }
        func tell(_ other: Write) -> String {
            "write \(other.number), \(other.versions.last!.text), was done at \(Self.time(other.completed!))"
        }
        let (newest, version) = (done.newest, done.newest.versions.last!)
        if let source {
            let what = "write \(source.number), \(entry!.version.text)"
            if let own = source.completed, own < done.last.began {
                world.fail("\(key): stale: \(when) returns \(what), though after it \(tell(done.last))")
            } else if entry!.version < version {
                world.fail("\(key): older: \(when) returns \(what), though \(tell(newest))")
            }
            return
        }
        let now = world.now
        let what = "\(when) finds \(entry?.version.text ?? "nothing")"
        if let other = done.lastToStay, history.openRemovals == 0, history.lastRemoval < other.began,
            !history.limited.contains(where: {
                $0.mayBeAbsent(at: now) && ($0.completed.map { $0 >= other.began } ?? true)
            })
        {
            world.fail("\(key): missing: \(what), though \(tell(other))")
        } else if !newest.mayBeAbsent(at: now), history.removed.map({ $0 < version }) ?? true,
            !history.limited.contains(where: { $0.mayBeAbsent(at: now) && $0.versions.contains { $0 > version } })
        {
            world.fail("\(key): lost: \(what), though \(tell(newest))")
        }
    }

    static func time(_ nanos: Nanos) -> String { "\(Double(nanos) / 1e9)" }
}
