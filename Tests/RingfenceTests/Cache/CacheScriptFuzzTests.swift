// SPDX-License-Identifier: Apache-2.0
//
// cache.lua on a real redis-server against the reference model: the same random calls to both, and after each the
// answer, and all that is stored, down to the bytes of every entry, must be the same.
//
// The script asks for the time; a line of Lua before its text answers it from one more argument, so that model and
// script see the same moment, which can also stand still or step by minutes. What Redis would forget by itself is
// deleted when the model forgets it; that it really has an end is looked at. Data that Redis loses is really lost:
// flushed, or put back as it was some time ago. The calls are encoded, and their answers decoded, by the library's own
// code.
import Hiredis
import TestSupport
import Testing

@testable import Ringfence
@testable import RingfenceCache
@testable import RingfenceCacheCore
@testable import RingfenceCore

@Suite struct CacheScriptFuzzTests {
    @Test func `cache.lua and the model agree on every step`() async throws {
        let met = try await withThrowingTaskGroup(of: Set<String>.self) { tasks in
            for seed in 1...3 as ClosedRange<UInt64> {
                tasks.addTask {
                    try await onOwnThread {
                        try await withRedis { server in
                            let fuzz = try await CacheScriptFuzz(server, seed: seed)
                            for _ in 0..<40 { try await fuzz.play(steps: 250) }
                            try await fuzz.expectForeignKeysUntouched()
                            await fuzz.close()
                            return fuzz.met
                        }
                    }
                }
            }
            return try await tasks.reduce(into: Set<String>()) { $0.formUnion($1) }
        }
        let missing = CacheScriptFuzz.toBeMet.subtracting(met)
        #expect(missing.isEmpty, "not met: \(missing.sorted())")
    }

    @Test func `an entry is over, stands like a removal, and is forgotten by Redis itself`() async throws {
        try await withRedis { server in
            let client = RedisClient(try RedisConfiguration(url: server.unixURL), logger: testLogger)
            let scripts = CacheScripts(prefix: "ringfence:{t}:", group: "g", freshness: 60_000, hintLimit: 3)
            func ask(_ call: CacheCall) async throws -> CacheAnswer.Result? {
                let encoded = scripts.call(call, stamp: CacheStamp(epoch: 1, change: 7), run: "r")
                let reply = try await client.send { writer in
                    writer.begin(3 + encoded.keys + encoded.arguments)
                    writer.argument("EVAL")
                    writer.argument(CacheScripts.script.source)
                    writer.argument(Int64(encoded.keys))
                    encoded.encode(&writer)
                }
                return scripts.answer(to: call, reply)?.answer.result
            }
            let version = CacheVersion(stamp: 1, writer: 1)
            func put(_ key: String, ttl: Int64, life: Int64) async throws {
                let entry = CacheEntry(version: version, payload: [7], ttlMilliseconds: ttl, lifeMilliseconds: life)
                #expect(try await ask(.put([CacheItem(key, entry)], notAfter: nil)) == .put([nil]))
            }
            try await put("long", ttl: 600_000, life: 900_000)
            guard case .entries(let first)? = try await ask(.get(["long"])), let found = first[0] else {
                Issue.record("nothing is there")
                return
            }
            #expect(found.version == version && found.payload == [7])
            #expect((0...600_000).contains(try #require(found.ttlMilliseconds)))
            #expect((0...900_000).contains(try #require(found.lifeMilliseconds)))
            try await put("k", ttl: 1, life: 3000)
            try await eventually("it is over, and still known") {
                guard case .entries(let entries)? = try await ask(.get(["k"])) else { return false }
                return entries[0]?.version == version && entries[0]?.payload == nil
            }
            try await eventually("it is forgotten") { try await ask(.get(["k"])) == .entries([nil]) }
            #expect(try await ask(.heads(["k"])) == .heads([nil]))
            await client.close()
        }
    }
}

/// The model and the server side by side.
final class CacheScriptFuzz {
    private enum Step {
        /// `word`: what the caller was told once; it is of this stamp and run.
        case call(CacheCall, stamp: CacheStamp, run: String, word: CacheWord?)
        case flush, save, stepBack, newRun
    }

    private struct Expected {
        var step: Step
        var clock: Int64
        /// What Redis would have forgotten by now.
        var forgotten: [String]
        var answer: CacheAnswer?
        /// As it stands in Redis before.
        var word: String?
        var state: String
    }

    private struct Disagreement: Error, CustomStringConvertible {
        var description: String
    }

    private static let keys = ["a", "", "\u{FC}", "u\u{308}", "k*[x]?\\", "long-" + String(repeating: "x", count: 60)]
    private static let targets = ["n1", "\u{FC}", "u\u{308}"]
    /// Real time and the fed clock run apart by less than this within a run.
    private static let leastLife: Int64 = 600_000

    private let client: RedisClient
    private let scripts: CacheScripts
    private let script: LoadedScript
    private let dumping: LoadedScript
    private let copying: LoadedScript
    private let seed: UInt64
    private var random: SplitMix64
    private var model: CacheNodeModel
    private var saved: CacheNodeModel
    private var runs = 1
    private var nonces = ["nonce0"]
    private var words: [String] = []
    private(set) var met: Set<String> = []

    init(_ server: RedisServer, seed: UInt64) async throws {
        self.seed = seed
        random = SplitMix64(seed: seed)
        scripts = CacheScripts(
            prefix: "ringfence:{fuzz}:", group: "zwei/\u{E4}*", freshness: 5000, hintLimit: 3)
        model = CacheNodeModel(clock: 1_790_000_000_000, freshness: 5000, hintLimit: 3)
        saved = model
        client = RedisClient(try RedisConfiguration(url: server.unixURL), logger: testLogger)
        script = try await LoadedScript(Self.fed + CacheScripts.script.source, on: client)
        dumping = try await LoadedScript(Self.dump, on: client)
        copying = try await LoadedScript(LoadedScript.copy, on: client)
    }

    private static let fed = """
        local clock = table.remove(ARGV)
        local redis = setmetatable({ call = function(command, ...)
            if command == 'TIME' then return { string.sub(clock, 1, -4), string.sub(clock, -3) .. '000' } end
            return redis.call(command, ...)
        end }, { __index = redis })

        """

    private static let fields = [
        "stamp", "layout", "run", "wholeEpoch", "swept", "wholeUntil", "behind", "building", "buildingRun",
        "buildingEpoch",
        "began", "wiping", "word",
    ]

    private static let dump = """
        local text, hints = {}, tonumber(ARGV[1])
        for i = 2, #ARGV do text[#text + 1] = redis.call('HGET', KEYS[1], ARGV[i]) or '-' end
        for i = 2, 1 + hints do
            text[#text + 1] = table.concat(redis.call('ZRANGE', KEYS[i], 0, -1, 'WITHSCORES'), ' ')
        end
        for i = 2 + hints, #KEYS do
            local left = redis.call('PTTL', KEYS[i])
            text[#text + 1] = (redis.call('GET', KEYS[i]) or '-') .. (left > 0 and ' ends' or '')
        end
        return table.concat(text, '\\n')
        """

    func close() async { await client.close() }

    static let toBeMet: Set<String> = [
        "outdated", "outdated with layout", "late", "newer", "stored", "value", "over", "nothing", "ended", "not ended",
        "partly ended", "must wipe", "need not wipe", "blank", "wiped", "not wiped", "refused hints", "taken hints",
        "hints",
        "forgotten hints", "whole", "behind", "forgotten", "hello whole", "heads", "scan",
        "a number for a word", "a number and what is newer for a word", "a word", "no word", "a word of before",
        "late with the word that holds", "the word that is there, and does not hold",
    ]

    // MARK: Playing

    /// Plays random steps: in the model first, then all in one write on Redis.
    func play(steps count: Int) async throws {
        var expected: [Expected] = []
        for _ in 0..<count {
            passTime()
            let forgotten = model.forgetWhatMayBe().map(\.text)
            if !forgotten.isEmpty { met.insert("forgotten") }
            let step = randomStep()
            let word = self.word
            let answer = runInModel(step)
            expected.append(
                Expected(
                    step: step, clock: model.clock, forgotten: forgotten, answer: answer, word: word, state: state))
        }
        let commands = 2 * count + expected.reduce(0) { $0 + $1.forgotten.count }
        let replies = try await client.pipeline(count: commands, deadline: .seconds(120)) { writer in
            for step in expected {
                for key in step.forgotten {
                    writer.begin(2)
                    writer.argument("DEL")
                    writer.argument(scripts.key(key))
                }
                encode(step, &writer)
                encodeDump(&writer)
            }
        }
        var next = replies[...]
        for expected in expected {
            for key in expected.forgotten where next.removeFirst().int != 1 {
                throw complaint("\(key) was not there", expected)
            }
            let reply = next.removeFirst()
            if case .call(let call, let stamp, let run, let word) = expected.step {
                guard let (real, told) = scripts.answer(to: call, word: word, reply),
                    Self.inOrder(real) == Self.inOrder(expected.answer!)
                else { throw complaint("the model answers \(expected.answer!), Redis \(reply)", expected) }
                if let told, told.text != expected.word || !told.isOf(stamp, run: run) || real.wholeEpoch < 0 {
                    throw complaint("told the word \(told.text)", expected)
                }
                if case .put = call { meet(reply, word: word, told: told, expected) }
            } else if let error = reply.error {
                throw complaint("\(error)", expected)
            }
            let real = next.removeFirst().text ?? ""
            guard real == expected.state else {
                let lines = zip(real.split(separator: "\n"), expected.state.split(separator: "\n")).first { $0 != $1 }
                throw complaint("Redis has \(lines?.0 ?? ""), the model \(lines?.1 ?? "")", expected)
            }
        }
    }

    /// How much a put was told, and why not less.
    private func meet(_ reply: RedisReply, word: CacheWord?, told: CacheWord?, _ expected: Expected) {
        if let word, case .array(let parts) = reply, parts.count > 2 {
            if word.text != expected.word {
                met.insert("a word of before")
            } else if expected.answer?.result == .late {
                met.insert("late with the word that holds")
            } else {
                met.insert("the word that is there, and does not hold")
            }
        }
        switch reply {
        case .integer: met.insert("a number for a word")
        case .array(let parts) where parts.count == 2: met.insert("a number and what is newer for a word")
        case .array(let parts) where parts.count == 4: met.insert(told == nil ? "no word" : "a word")
        default: break
        }
    }

    /// Redis scans in an order of its own.
    private static func inOrder(_ answer: CacheAnswer) -> CacheAnswer {
        guard case .keys(let cursor, let keys) = answer.result else { return answer }
        var answer = answer
        answer.result = .keys(cursor: cursor, keys.sortedByBytes)
        return answer
    }

    private func complaint(_ text: String, _ expected: Expected) -> Disagreement {
        Disagreement(description: "seed \(seed), clock \(expected.clock), \(expected.step): \(text)")
    }

    func expectForeignKeysUntouched() async throws {
        // Another group whose name the first one's would be a pattern of.
        let other = CacheScripts(prefix: "ringfence:{fuzz}:", group: "zwei/\u{E4}x", freshness: 1, hintLimit: 1)
        try await set(other.key("a"))
        try await set(scripts.key("b"))
        let nonce = "wipes all"
        model.clock += 10_000
        for call in [CacheCall.begin(nonce: nonce), .wipe(nonce: nonce, cursor: "0")] {
            let expected = Expected(
                step: .call(call, stamp: CacheStamp(epoch: 1 << 40, change: 7), run: run, word: nil),
                clock: model.clock,
                forgotten: [], state: "")
            _ = try await client.pipeline(count: 1) { encode(expected, &$0) }
        }
        #expect(try await get(other.key("a")) == "x")
        #expect(try await get(scripts.key("b")) == nil)
    }

    private func set(_ key: [UInt8]) async throws {
        _ = try await client.send { writer in
            writer.begin(3)
            writer.argument("SET")
            writer.argument(key)
            writer.argument("x")
        }
    }

    private func get(_ key: [UInt8]) async throws -> String? {
        try await client.send { writer in
            writer.begin(2)
            writer.argument("GET")
            writer.argument(key)
        }.text
    }

    private func passTime() {
        switch random.pick(0...99) {
        case 0...39: break
        case 40...79: model.clock += random.pick(1...40)
        case 80...91: model.clock += random.pick(500...3000)
        case 92...94: model.clock += random.pick(4900...5100)
        case 95...96: model.clock += Self.leastLife + random.pick(-10...10)
        default: model.clock -= random.pick([1, 30, 2000, 10_000])
        }
    }

    // MARK: Steps

    private var run: String { "run\(runs)" }

    private func randomStep() -> Step {
        switch random.pick(0...199) {
        case 0: return .flush
        case 1...3: return .save
        case 4: return .stepBack
        case 5...6: return .newRun
        default: break
        }
        let known = model.standing.stamp ?? .none
        let other = CacheStamp(
            epoch: max(0, known.epoch + random.pick([-2, -1, -1, 0, 1, 1])), change: random.pick([1, 2, .max]))
        let (stamp, run) = (random.chance(90) ? known : other, random.chance(95) ? run : "run\(max(1, runs - 1))")
        return .call(
            randomCall(), stamp: stamp, run: run, word: randomWord().flatMap { $0.isOf(stamp, run: run) ? $0 : nil })
    }

    /// As it stands in Redis; nil: nothing.
    private var word: String? {
        let standing = model.standing
        guard let stamp = standing.stamp, let swept = standing.swept, let until = standing.wholeUntil else {
            return nil
        }
        let behind = standing.isBehind ? 1 : 0
        return "\(stamp.text) \(standing.run!) \(standing.wholeEpoch!) \(swept) \(until) \(behind)"
    }

    /// The one that holds, or one of before.
    private func randomWord() -> CacheWord? {
        if let word, words.first != word { words = Array(([word] + words).prefix(4)) }
        guard !words.isEmpty, random.chance(80) else { return nil }
        return CacheWord(random.chance(70) ? words[0] : random.pick(words))
    }

    private func randomCall() -> CacheCall {
        switch random.pick(0...99) {
        case 0...29: return .put((0..<random.pick(0...3)).map { _ in randomItem() }, notAfter: randomNotAfter())
        case 30...44: return .get((0..<random.pick(0...4)).map { _ in random.pick(Self.keys) })
        case 45...48: return .heads((0..<random.pick(0...4)).map { _ in random.pick(Self.keys) })
        case 49...52: return .scan(cursor: "0")
        case 53...59:
            nonces = Array((["nonce\(random.pick(1...1_000_000))"] + nonces).prefix(3))
            return .begin(nonce: random.chance(90) ? nonces[0] : random.pick(nonces))
        case 60...62: return .wipe(nonce: randomNonce(), cursor: "0")
        case 63...69: return .end(nonce: randomNonce(), isFull: random.chance(70))
        case 70...72:
            return .raise(
                layout: Array("layout \(random.pick(0...9))".utf8),
                began: max(1, (model.standing.stamp?.epoch ?? 0) + random.pick(-2...1)))
        case 73...79:
            return .hint(
                target: random.pick(Self.targets), keys: (0..<random.pick(0...3)).map { _ in random.pick(Self.keys) })
        case 80...84: return .hinted(target: random.pick(Self.targets))
        case 85...88:
            let target = random.pick(Self.targets)
            let known = (model.hints[CacheNodeModel.Key(target)] ?? [:]).map {
                CacheHint(key: $0.key.text, at: $0.value)
            }
            .sorted { $0.key.isBefore($1.key) }
            return .unhint(
                target: target, known.filter { _ in random.chance(50) } + [CacheHint(key: "a", at: model.clock - 5)])
        case 89...91: return .behind(random.chance(50))
        case 92...94:
            return .drop(
                (0..<random.pick(0...3)).map { _ in
                    let key = random.pick(Self.keys)
                    let version = model.entries[CacheNodeModel.Key(key)]?.version
                    return CacheHead(
                        key: key, version: random.chance(70) ? version ?? randomVersion() : randomVersion())
                })
        default: return .hello(hintedTargets: random.chance(80) ? Self.targets : [])
        }
    }

    private func randomNonce() -> String { random.chance(85) ? nonces[0] : random.pick(nonces) }

    private func randomNotAfter() -> Int64? { random.chance(70) ? nil : model.clock + random.pick([-1, 0, 1, 100]) }

    /// Around the clock and around what is there, with parts that compare otherwise as numbers than as strings of a
    /// locale.
    private func randomVersion() -> CacheVersion {
        let writer = random.pick([0, 1, 9, 10, 0xA_0000_0000, .max] as [UInt64])
        return CacheVersion(
            stamp: UInt64(model.clock + random.pick(-3...3)) << 16 | UInt64(random.pick(0...2)), writer: writer)
    }

    private func randomItem() -> CacheItem {
        let key = random.pick(Self.keys)
        let same = random.chance(15) ? model.entries[CacheNodeModel.Key(key)]?.version : nil
        let life: Int64? =
            random.chance(30) ? nil : random.chance(10) ? 0 : Self.leastLife + random.pick([0, 1, 50_000])
        return CacheItem(
            key,
            CacheEntry(
                version: same ?? randomVersion(),
                payload: random.chance(25) ? nil : Array(random.pick(["", "v", "value \(random.pick(0...999))"]).utf8),
                ttlMilliseconds: random.chance(50) ? nil : random.pick([0, 5, 100, 3000, 550_000]),
                lifeMilliseconds: life))
    }

    // MARK: In the model

    private func runInModel(_ step: Step) -> CacheAnswer? {
        switch step {
        case .flush: model.forgetEverything()
        case .save: saved = model
        case .stepBack:
            model.stepBack(to: saved)
            runs += 1
        case .newRun: runs += 1
        case .call(let call, let stamp, let run, _):
            let before = model
            let answer = model.call(call, stamp: stamp, run: run)
            meet(call, answer, before)
            return answer
        }
        return nil
    }

    private func meet(_ call: CacheCall, _ answer: CacheAnswer, _ before: CacheNodeModel) {
        if answer.wholeEpoch >= 0 { met.insert("whole") }
        if answer.isBehind { met.insert("behind") }
        switch (call, answer.result) {
        case (_, .outdated(let layout)): met.insert(layout == nil ? "outdated" : "outdated with layout")
        case (_, .late): met.insert("late")
        case (_, .put(let newer)): for one in newer { met.insert(one == nil ? "stored" : "newer") }
        case (_, .entries(let entries)):
            for entry in entries { met.insert(entry.map { $0.payload == nil ? "over" : "value" } ?? "nothing") }
        case (.end(_, let isFull), .ended(let isDone)):
            met.insert(isDone ? (isFull ? "ended" : "partly ended") : "not ended")
        case (_, .begun(let mustWipe, let isBlank)):
            met.insert(isBlank ? "blank" : mustWipe ? "must wipe" : "need not wipe")
        case (.wipe, .keys(let cursor, _)): met.insert(cursor.isEmpty ? "not wiped" : "wiped")
        case (.scan, .keys(_, let keys)) where !keys.isEmpty: met.insert("scan")
        case (.hint, .done(let refused)): met.insert(refused > 0 ? "refused hints" : "taken hints")
        case (.hinted(let target), .hints(let hints)):
            if !hints.isEmpty { met.insert("hints") }
            if hints.count < before.hints[CacheNodeModel.Key(target)]?.count ?? 0 { met.insert("forgotten hints") }
        case (_, .hello(_, _, let left)) where left > 0: met.insert("hello whole")
        case (_, .heads): met.insert("heads")
        default: break
        }
    }

    private var state: String {
        let standing = model.standing
        func text(_ number: Int64?) -> String { number.map { "\($0)" } ?? "-" }
        var lines = [
            standing.stamp?.text ?? "-", standing.layout.map { String(decoding: $0, as: UTF8.self) } ?? "-",
            standing.run ?? "-",
            text(standing.wholeEpoch), text(standing.swept), text(standing.wholeUntil), standing.isBehind ? "1" : "-",
            standing.building ?? "-", standing.buildingRun ?? "-", text(standing.buildingEpoch), text(standing.began),
            standing.isWiping ? "1" : "-", word ?? "-",
        ]
        for target in Self.targets {
            let hints = (model.hints[CacheNodeModel.Key(target)] ?? [:]).sorted {
                $0.value != $1.value ? $0.value < $1.value : $0.key.text.isBefore($1.key.text)
            }
            lines.append(hints.map { "\($0.key.text) \($0.value)" }.joined(separator: " "))
        }
        func digits(_ number: Int64) -> String {
            let text = "\(number)"
            return String(repeating: "0", count: 13 - text.count) + text
        }
        for key in Self.keys {
            guard let entry = model.entries[CacheNodeModel.Key(key)] else {
                lines.append("-")
                continue
            }
            lines.append(
                entry.version.text + (entry.isRemoval ? "x" : "v") + digits(entry.ends) + digits(entry.forgets)
                    + String(decoding: entry.payload, as: UTF8.self) + (entry.forgets > 0 ? " ends" : ""))
        }
        return lines.joined(separator: "\n")
    }

    // MARK: On Redis

    private var allKeys: [[UInt8]] {
        [Array(scripts.node.utf8)] + Self.targets.map { scripts.hintKey($0) } + Self.keys.map { scripts.key($0) }
    }

    private func encode(_ expected: Expected, _ writer: inout CommandWriter) {
        let keys = allKeys
        let copies = keys.map { $0 + ":saved".utf8 }.map { Array("s".utf8) + $0 }
        func copy(_ keys: [[UInt8]], _ writer: inout CommandWriter) {
            copying.begin(&writer, keys: keys.count, arguments: 0)
            for key in keys { writer.argument(key) }
        }
        switch expected.step {
        case .flush:
            writer.begin(1 + keys.count)
            writer.argument("DEL")
            for key in keys { writer.argument(key) }
        case .save: copy(copies + keys, &writer)
        case .stepBack: copy(keys + copies, &writer)
        case .newRun:
            writer.begin(1)
            writer.argument("PING")
        case .call(let call, let stamp, let run, let word):
            let encoded = scripts.call(call, stamp: stamp, run: run, word: word)
            script.begin(&writer, keys: encoded.keys, arguments: encoded.arguments + 1)
            encoded.encode(&writer)
            writer.argument(expected.clock)
        }
    }

    private func encodeDump(_ writer: inout CommandWriter) {
        let keys = allKeys
        dumping.begin(&writer, keys: keys.count, arguments: 1 + Self.fields.count)
        for key in keys { writer.argument(key) }
        writer.argument(Int64(Self.targets.count))
        for field in Self.fields { writer.argument(field) }
    }
}
