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
    enum Step {
        /// `word`: what the caller was told once; it is of this stamp and run.
        case call(CacheCall, stamp: CacheStamp, run: String, word: CacheWord?)
        case flush, save, stepBack, newRun
    }

    struct Expected {
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

    static let keys = ["a", "", "\u{FC}", "u\u{308}", "k*[x]?\\", "long-" + String(repeating: "x", count: 60)]
    static let targets = ["n1", "\u{FC}", "u\u{308}"]
    /// Real time and the fed clock run apart by less than this within a run.
    static let leastLife: Int64 = 600_000

    private let client: RedisClient
    private let scripts: CacheScripts
    private let script: LoadedScript
    private let dumping: LoadedScript
    private let copying: LoadedScript
    private let seed: UInt64
    var random: SplitMix64
    var model: CacheNodeModel
    var saved: CacheNodeModel
    var runs = 1
    var nonces = ["nonce0"]
    var words: [String] = []
    var met: Set<String> = []

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
    func meet(_ reply: RedisReply, word: CacheWord?, told: CacheWord?, _ expected: Expected) {
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

    func get(_ key: [UInt8]) async throws -> String? {
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
