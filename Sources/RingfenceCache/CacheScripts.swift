// SPDX-License-Identifier: Apache-2.0
//
// cache.lua as typed calls. Its header says what each argument means. Answers are decoded strictly: a shape that the
// script cannot have made is no answer.
//
// Callers wait for a put, and telling the state of a node takes as long as storing something. So the node tells it as
// one word with the answer to the first put; a put that sends the word back is answered by a number.
//
// Nodes are Redis servers of their own, so their keys need no common slot; they have the braces all the same, so that
// one rule holds for all keys. A group's name may hold any character, and so may a key, so the name's length stands
// before it: no key of one group can be one of another.

import Hiredis
import Ringfence
import RingfenceCacheCore
import RingfenceCore

/// The state of a node, in the words in which it was told: while that is the same, the node need not say more.
struct CacheWord: Sendable {
    let text: String
    let wholeEpoch: Int64
    let isBehind: Bool
    /// From when until when it holds; ms of the node's clock.
    let from, until: Int64
    private let stamp, run: Substring

    init?(_ text: String) {
        let parts = text.split(separator: " ", omittingEmptySubsequences: false)
        guard parts.count == 6, let whole = Int64(parts[2]), let from = Int64(parts[3]), let until = Int64(parts[4]),
            parts[5] == "0" || parts[5] == "1"
        else { return nil }
        self.text = text
        (stamp, run) = (parts[0], parts[1])
        wholeEpoch = whole
        isBehind = parts[5] == "1"
        (self.from, self.until) = (from, until)
    }

    /// What is sent where none is known yet.
    static func opening(_ stamp: CacheStamp, run: String) -> String { "\(stamp.text) \(run)" }

    /// Whether it is of this layout and this process of the server.
    func isOf(_ stamp: CacheStamp, run: String) -> Bool {
        self.stamp == stamp.text && self.run == run
    }
}

struct CacheScripts: Sendable {
    static let script = RedisScript(String(decoding: PackageResources.cache_lua, as: UTF8.self))

    /// How many keys are looked at in one call of a scan, about.
    static let page = 256

    let node: String
    private let prefix: String
    private let prefixBytes: [UInt8]
    private let pattern: [UInt8]
    private let hints: String
    /// ms for which a completed node is taken for complete.
    let freshness: Int64
    /// How many hints a node keeps for another.
    let hintLimit: Int

    init(prefix namespace: String, group: String, freshness: Int64, hintLimit: Int) {
        let name = "\(group.utf8.count):\(group)"
        node = namespace + "cachenode:" + name
        hints = namespace + "cachehints:" + name + ":"
        prefix = namespace + "cache:" + name + ":"
        prefixBytes = Array(prefix.utf8)
        pattern = Self.literal(prefixBytes) + [UInt8(ascii: "*")]
        self.freshness = freshness
        self.hintLimit = hintLimit
    }

    /// A pattern that matches exactly these bytes.
    private static func literal(_ bytes: [UInt8]) -> [UInt8] {
        bytes.flatMap { byte -> [UInt8] in
            switch byte {
            case UInt8(ascii: "*"), UInt8(ascii: "?"), UInt8(ascii: "["), UInt8(ascii: "]"), UInt8(ascii: "\\"):
                [UInt8(ascii: "\\"), byte]
            default: [byte]
            }
        }
    }

    /// The key of Redis that a key of the cache stands under.
    func key(_ key: String) -> [UInt8] { prefixBytes + key.utf8 }

    // MARK: Calls

    /// - Parameter word: the node's as it was told last, of this layout and run.
    func call(_ call: CacheCall, stamp: CacheStamp, run: String, word: CacheWord? = nil) -> ScriptCall {
        func make(
            _ verb: String, _ prefix: String, _ names: [String], _ arguments: Int,
            _ encode: @escaping @Sendable (inout CommandWriter) -> Void
        ) -> ScriptCall {
            ScriptCall(script: Self.script, keys: 1 + names.count, arguments: 3 + arguments) { [node] writer in
                writer.argument(node)
                for name in names { writer.argument(prefix, name) }
                writer.argument(verb)
                writer.argument(stamp.text)
                writer.argument(run)
                encode(&writer)
            }
        }
        let (pattern, freshness, hintLimit) = (pattern, freshness, hintLimit)
        switch call {
        case .hello(let targets): return make("hello", hints, targets, 0) { _ in }
        case .put(let items, let notAfter):
            return ScriptCall(script: Self.script, keys: 1 + items.count, arguments: 5 + 3 * items.count) {
                [node, prefix] writer in
                writer.argument(node)
                for item in items { writer.argument(prefix, item.key) }
                writer.argument("put")
                writer.argument(word?.text ?? CacheWord.opening(stamp, run: run))
                writer.argument(word?.from ?? 0)
                writer.argument(word?.until ?? 0)
                writer.argument(notAfter ?? 0)
                for item in items {
                    writer.argument(Self.head(item.entry), item.entry.payload ?? [])
                    writer.argument(item.entry.ttlMilliseconds ?? -1)
                    writer.argument(item.entry.lifeMilliseconds ?? -1)
                }
            }
        case .get(let names): return make("get", prefix, names, 0) { _ in }
        case .heads(let names): return make("heads", prefix, names, 0) { _ in }
        case .scan(let cursor):
            return make("scan", "", [], 3) { writer in
                writer.argument(cursor)
                writer.argument(pattern)
                writer.argument(Self.page)
            }
        case .wipe(let nonce, let cursor):
            return make("wipe", "", [], 4) { writer in
                writer.argument(cursor)
                writer.argument(pattern)
                writer.argument(Self.page)
                writer.argument(nonce)
            }
        case .begin(let nonce):
            return make("begin", "", [], 2) { writer in
                writer.argument(nonce)
                writer.argument(freshness)
            }
        case .end(let nonce, let isFull):
            return make("end", "", [], 3) { writer in
                writer.argument(nonce)
                writer.argument(freshness)
                writer.argument(isFull ? "1" : "0")
            }
        case .raise(let layout, let began):
            return make("raise", "", [], 2) { writer in
                writer.argument(layout)
                writer.argument(began)
            }
        case .hint(let target, let names):
            return make("hint", hints, [target], 1 + names.count) { writer in
                writer.argument(hintLimit)
                for name in names { writer.argument(name) }
            }
        case .hinted(let target):
            return make("hinted", hints, [target], 2) { writer in
                writer.argument(Self.page)
                writer.argument(freshness)
            }
        case .unhint(let target, let list):
            return make("unhint", hints, [target], 2 * list.count) { writer in
                for hint in list {
                    writer.argument(hint.key)
                    writer.argument(hint.at)
                }
            }
        case .behind(let isBehind): return make("behind", "", [], 1) { $0.argument(isBehind ? "1" : "0") }
        case .drop(let heads):
            return make("drop", prefix, heads.map(\.key), heads.count) { writer in
                for head in heads { writer.argument(head.version.text) }
            }
        }
    }

    /// What stands before the bytes of a value that never ends.
    private static func head(_ entry: CacheEntry) -> [UInt8] {
        Array((entry.version.text + (entry.payload == nil ? "x" : "v") + never).utf8)
    }

    /// When it is over and when it may be forgotten.
    private static let never = String(repeating: "0", count: 26)

    func hintKey(_ target: String) -> [UInt8] { Array((hints + target).utf8) }

    // MARK: Answers

    /// What a node answered to `call`, and its word if it told that; nil if it cannot be that.
    /// - Parameter word: as it was given with the call.
    func answer(
        to call: CacheCall, word: CacheWord? = nil, _ reply: RedisReply
    ) -> (answer: CacheAnswer, word: CacheWord?)? {
        if case .put(let items, _) = call, let stored = stored(items.count, word, reply) { return stored }
        guard let parts = reply.array, parts.count == 5, let status = parts[0].text, let now = parts[1].int,
            let whole = parts[2].int, let behind = parts[3].int
        else { return nil }
        let result: CacheAnswer.Result?
        switch status {
        case "ok": result = self.result(of: call, parts[4])
        case "late": result = .late
        case "outdated": result = parts[4].bytes.map { .outdated(layout: $0.isEmpty ? nil : $0) }
        default: result = nil
        }
        return result.map {
            (CacheAnswer(now: now, wholeEpoch: whole, isBehind: behind == 1, result: $0), nil)
        }
    }

    /// What most puts are answered.
    private func stored(
        _ count: Int, _ word: CacheWord?, _ reply: RedisReply
    ) -> (answer: CacheAnswer, word: CacheWord?)? {
        func answer(_ now: Int64, _ whole: Int64, _ isBehind: Bool, _ newer: [CacheVersion?]) -> CacheAnswer {
            CacheAnswer(now: now, wholeEpoch: whole, isBehind: isBehind, result: .put(newer))
        }
        if let word, case .integer(let now) = reply {
            return (answer(now, word.wholeEpoch, word.isBehind, Array(repeating: nil, count: count)), nil)
        }
        guard let parts = reply.array else { return nil }
        if let word, parts.count == 2, let now = parts[0].int, let list = parts[1].array,
            let newer = versions(list, count)
        {
            return (answer(now, word.wholeEpoch, word.isBehind, newer), nil)
        }
        guard parts.count == 4, let now = parts[0].int, let whole = parts[1].int, let behind = parts[2].int,
            let told = parts[3].text
        else { return nil }
        return (answer(now, whole, behind == 1, Array(repeating: nil, count: count)), CacheWord(told))
    }

    private func versions(_ list: [RedisReply], _ count: Int) -> [CacheVersion?]? {
        guard list.count == count else { return nil }
        var versions: [CacheVersion?] = []
        for item in list {
            guard let bytes = item.bytes else { return nil }
            guard !bytes.isEmpty else {
                versions.append(nil)
                continue
            }
            guard let version = CacheVersion(text: bytes) else { return nil }
            versions.append(version)
        }
        return versions
    }

    private func result(of call: CacheCall, _ reply: RedisReply) -> CacheAnswer.Result? {
        guard let list = reply.array else { return nil }
        switch call {
        case .hello(let targets):
            let numbers = list.dropFirst().compactMap(\.int)
            guard list.count == 2 + targets.count, numbers.count == 1 + targets.count, let layout = list[0].bytes
            else { return nil }
            return .hello(
                layout: layout.isEmpty ? nil : layout, hints: Array(numbers.dropFirst()), wholeLeft: numbers[0])
        case .put(let items, _): return versions(list, items.count).map { .put($0) }
        case .heads(let names): return versions(list, names.count).map { .heads($0) }
        case .get(let names):
            guard list.count == names.count else { return nil }
            var entries: [CacheEntry?] = []
            for item in list {
                guard let parts = item.array else { return nil }
                guard !parts.isEmpty else {
                    entries.append(nil)
                    continue
                }
                guard parts.count == 5, let text = parts[0].bytes, let version = CacheVersion(text: text),
                    let kind = parts[1].text, let ttl = parts[2].int, let life = parts[3].int,
                    let payload = parts[4].bytes
                else { return nil }
                entries.append(
                    CacheEntry(
                        version: version, payload: kind == "v" ? payload : nil, ttlMilliseconds: ttl < 0 ? nil : ttl,
                        lifeMilliseconds: life < 0 ? nil : life))
            }
            return .entries(entries)
        case .scan, .wipe:
            guard let cursor = list.first?.text else { return nil }
            var names: [String] = []
            for item in list.dropFirst() {
                guard let bytes = item.bytes, bytes.starts(with: prefixBytes) else { return nil }
                // What is no text is no key of a cache: somebody else's, and left alone.
                let name = bytes.dropFirst(prefixBytes.count)
                if let name = String(validating: name, as: UTF8.self) { names.append(name) }
            }
            return .keys(cursor: cursor, names)
        case .begin:
            guard list.count == 2, let wipe = list[0].int, let blank = list[1].int else { return nil }
            return .begun(mustWipe: wipe == 1, isBlank: blank == 1)
        case .end: return list.first?.int.map { .ended($0 == 1) }
        case .raise, .hint, .unhint, .behind, .drop: return list.first?.int.map { .done($0) }
        case .hinted:
            guard list.count.isMultiple(of: 2) else { return nil }
            var hints: [CacheHint] = []
            for index in stride(from: 0, to: list.count, by: 2) {
                guard let key = list[index].text, let at = list[index + 1].int else { return nil }
                hints.append(CacheHint(key: key, at: at))
            }
            return .hints(hints)
        }
    }
}
