// SPDX-License-Identifier: Apache-2.0
//
// lock.lua and renew.lua on a real redis-server against the reference model: the same random calls to both, and after
// each the answer, every key with its time left, and what was pushed to whom must be the same.
//
// The scripts read the clock, so a few lines of Lua before their text answer TIME from one more argument: the model and
// the script then see the same moment, which can also stand still or step back. Nothing else of Redis is faked. Holds
// are long, so that no key ends by itself; a key's end is an explicit DEL. Pushes go to real subscribers, which come
// and go. The calls are encoded and sent, many in one write, by the library's own code.
import Foundation
import Hiredis
import Logging
import Synchronization
import TestSupport
import Testing

@testable import Ringfence
@testable import RingfenceCore

@Suite struct LockScriptFuzzTests {
    @Test(arguments: [1, 2, 3, 4] as [UInt64])
    func `the scripts and the model agree on every step`(seed: UInt64) async throws {
        try await onOwnThread {
            try await withRedis { server in
                let fuzz = try await LockScriptFuzz(server, seed: seed)
                for _ in 0..<130 { try await fuzz.play(steps: 200) }
                await fuzz.close()
                #expect(fuzz.steps >= 25_000)
                #expect(fuzz.verbs.count == 8, "not every verb was tried: \(fuzz.verbs)")
                #expect(fuzz.refusals > 20, "the line was full \(fuzz.refusals) times only")
            }
        }
    }
}

/// The model and the server side by side.
final class LockScriptFuzz {
    struct Ask {
        var nonce: String
        var names: [String]
        var terms: LockTerms
        var place: Place {
            Place(nonce: nonce, owner: terms.owner, holdMilliseconds: terms.holdMilliseconds, names: names)
        }
    }

    enum Step {
        case acquire(Ask, LockMachine.Queueing)
        case release([String], LockValue, LockMachine.Successor?)
        case cancel(Ask)
        case force(String)
        case renew([(names: [String], value: LockValue, milliseconds: Int64)], claimedBy: String?)
        case expireLock(String), expireFence(String), expireQueue(String)

        var verb: String { String("\(self)".prefix { $0 != "(" }) }
    }

    struct Expected {
        var step: Step
        var answer: LockServerModel.Answer
        var model: LockServerModel
    }

    static let names = ["a", "b", "ä:c"]
    private static let claimMilliseconds: Int64 = 3_600_000
    /// Of the fed clock, which ends no key.
    private static let patience: Int64 = 2_000_000
    /// Real time and the fed clock run apart by less than this within a run.
    static let tolerance: Int64 = 300_000

    private let server: RedisServer
    private let client: RedisClient
    let scripts = LockScripts(
        keys: Keyspace(namespace: "fuzz"), auditLength: 100, waiters: 5)
    private let locking: LoadedScript
    private let renewing: LoadedScript
    private let dumping: LoadedScript
    private let seed: UInt64
    var random: SplitMix64
    var model: LockServerModel
    var recent: [Ask] = []
    var values: [(names: [String], value: LockValue)] = []
    var counter = 0
    private var subscribers: [String: RedisSubscriber] = [:]
    var steps = 0
    private(set) var verbs: Set<String> = []
    /// For want of a place.
    var refusals = 0

    private final class Condition: Sendable {
        let isMet = Mutex(false)
    }

    init(_ server: RedisServer, seed: UInt64) async throws {
        self.server = server
        self.seed = seed
        random = SplitMix64(seed: seed)
        model = LockServerModel(
            now: 1_790_000_000_000_000, claimMilliseconds: Self.claimMilliseconds, patience: Self.patience,
            mostWaiters: Int64(scripts.waiters))
        client = RedisClient(try RedisConfiguration(url: server.unixURL), logger: testLogger)
        locking = try await LoadedScript(
            "local time = table.remove(ARGV); ARGV[3] = '\(Self.claimMilliseconds)'\n" + Self.fedClock
                + Self.replacing("claim_ms * 1000", "\(Self.patience)", in: LockScriptText.lock), on: client)
        renewing = try await LoadedScript(LockScripts.renew.source, on: client)
        dumping = try await LoadedScript(Self.dump, on: client)
    }

    private static func replacing(_ text: String, _ other: String, in source: String) throws -> String {
        let parts = source.components(separatedBy: text)
        guard parts.count == 2 else { throw Disagreement(description: "'\(text)' is not in the script once") }
        return parts.joined(separator: other)
    }

    private static let fedClock = """
        local redis = setmetatable({ call = function(command, ...)
            if command == 'TIME' then return { string.sub(time, 1, -7), string.sub(time, -6) } end
            return redis.call(command, ...)
        end }, { __index = redis })

        """

    private static let dump = """
        local state = {}
        for _, name in ipairs(ARGV) do
            local lock, fence, queue = KEYS[1] .. name, KEYS[2] .. name, KEYS[3] .. name
            state[#state + 1] = redis.call('GET', lock)
            state[#state + 1] = redis.call('PTTL', lock)
            state[#state + 1] = redis.call('GET', fence)
            state[#state + 1] = redis.call('PTTL', fence)
            state[#state + 1] = redis.call('ZRANGE', queue, 0, -1, 'WITHSCORES')
            state[#state + 1] = redis.call('PTTL', queue)
        end
        for number = 1, 4 do state[#state + 1] = redis.call('GET', KEYS[4] .. 'p' .. number) end
        local waiting = {}
        for _, key in ipairs(redis.call('KEYS', KEYS[5] .. '*')) do
            waiting[#waiting + 1] = string.sub(key, #KEYS[5] + 1) .. '=' .. redis.call('GET', key)
        end
        table.sort(waiting)
        state[#state + 1] = waiting
        return state
        """

    func close() async {
        for subscriber in subscribers.values { await subscriber.close() }
        await client.close()
    }

    // MARK: Playing

    /// In the model first, then all in one write on Redis. All keys are compared after every step.
    func play(steps count: Int) async throws {
        try await changeSubscribers()
        for nonce in model.expirePlaces() {
            _ = try await client.send { encodeDelete(scripts.keys.place + nonce, &$0) }
        }
        var expected: [Expected] = []
        var clocks: [Int64] = []
        for _ in 0..<count {
            passTime()
            let step = randomStep()
            verbs.insert(step.verb)
            let answer = runInModel(step)
            clocks.append(model.now)
            expected.append(Expected(step: step, answer: answer, model: model))
        }
        let replies = try await client.pipeline(count: 2 * expected.count, deadline: .seconds(60)) { writer in
            for (index, step) in expected.enumerated() {
                encode(step.step, clocks[index], &writer)
                encodeDump(&writer)
            }
        }
        var next = replies[...]
        for expected in expected {
            steps += 1
            let reply = next.popFirst()
            try compare(expected.answer, try #require(reply), expected, steps)
            let dump = next.popFirst()?.array
            try compareState(expected.model, try #require(dump), expected, steps)
        }
        try await comparePushes()
    }

    func complain(_ text: String, _ expected: Expected, _ step: Int) throws {
        throw Disagreement(description: "seed \(seed), step \(step), after \(expected.step): \(text)")
    }

    private struct Disagreement: Error, CustomStringConvertible {
        var description: String
    }

    private func passTime() {
        switch random.pick(0...99) {
        case 0...9: break
        case 10...12: model.now -= random.pick(0...5_000_000)
        case 13...15: model.now += random.pick(0...5_000_000)
        default: model.now += random.pick(1...900)
        }
    }

    // MARK: On Redis

    private func encode(_ step: Step, _ clock: Int64, _ writer: inout CommandWriter) {
        let keys = scripts.keys
        switch step {
        case .acquire(let ask, let queueing):
            encode(scripts.call(ask.names, .acquire(nonce: ask.nonce, ask.terms, queue: queueing)), clock, &writer)
        case .release(let names, let value, let successor):
            encode(scripts.call(names, .release(value, successor: successor)), clock, &writer)
        case .cancel(let ask):
            encode(scripts.cancel(ask.names, nonce: ask.nonce, ask.terms), clock, &writer)
        case .force(let name): encode(scripts.force(name, actor: "admin", reason: "fuzz"), clock, &writer)
        case .renew(let leases, let process):
            let call = scripts.renew(
                leases.map { ($0.names, $0.value.text, $0.milliseconds) }, claimedBy: process)
            encode(call, nil, &writer)
        case .expireLock(let name): encodeDelete(keys.lock + name, &writer)
        case .expireFence(let name): encodeDelete(keys.fence + name, &writer)
        case .expireQueue(let name): encodeDelete(keys.queue + name, &writer)
        }
    }

    private func encode(_ call: ScriptCall, _ clock: Int64?, _ writer: inout CommandWriter) {
        let script = clock == nil ? renewing : locking
        script.begin(&writer, keys: call.keys, arguments: call.arguments + (clock == nil ? 0 : 1))
        call.encode(&writer)
        if let clock { writer.argument(clock) }
    }

    private func encodeDelete(_ key: String, _ writer: inout CommandWriter) {
        writer.begin(2)
        writer.argument("DEL")
        writer.argument(key)
    }

    private func encodeDump(_ writer: inout CommandWriter) {
        dumping.begin(&writer, keys: 5, arguments: Self.names.count)
        writer.argument(scripts.keys.lock)
        writer.argument(scripts.keys.fence)
        writer.argument(scripts.keys.queue)
        writer.argument(scripts.keys.unanswered)
        writer.argument(scripts.keys.place)
        for name in Self.names { writer.argument(name) }
    }

    // MARK: Inboxes

    /// One process starts or stops to listen.
    private func changeSubscribers() async throws {
        let process = "p\(random.pick(1...4))"
        let channel = scripts.keys.inbox(process)
        if let old = subscribers.removeValue(forKey: process) {
            await old.close()
            model.listeners[process] = 0
        } else {
            let condition = Condition()
            let heard = Heard(condition: condition, inbox: self.inbox)
            let subscriber = RedisSubscriber(
                try RedisConfiguration(url: server.unixURL), channels: [channel], logger: testLogger
            ) { event in heard.take(event, process) }
            subscriber.start()
            subscribers[process] = subscriber
            try await eventually("subscribed") { condition.isMet.withLock { $0 } }
            model.listeners[process] = 1
        }
        let count = Int64(model.listeners[process] ?? 0)
        try await eventually("Redis counts the listeners of \(process)", within: .seconds(90)) {
            let reply = try await self.client.send { writer in
                writer.begin(3)
                writer.argument("PUBSUB")
                writer.argument("NUMSUB")
                writer.argument(channel)
            }
            return reply.array?.last?.int == count
        }
    }

    private final class InboxLog: Sendable {
        let messages = Mutex<[String: [String]]>([:])
    }
    private let inbox = InboxLog()

    private struct Heard: Sendable {
        let condition: Condition
        let inbox: InboxLog
        func take(_ event: RedisSubscriber.Event, _ process: String) {
            switch event {
            case .subscribed: condition.isMet.withLock { $0 = true }
            case .message(_, let payload):
                inbox.messages.withLock { $0[process, default: []].append(String(decoding: payload, as: UTF8.self)) }
            case .disconnected, .refused: break
            }
        }
    }

    private func comparePushes() async throws {
        var expected: [String: [String]] = [:]
        for push in model.pushes { expected[push.process, default: []].append(push.text) }
        model.pushes = []
        try await eventually("all pushes came") {
            self.inbox.messages.withLock { messages in
                messages.values.reduce(0) { $0 + $1.count } >= expected.values.reduce(0) { $0 + $1.count }
            }
        }
        let real = inbox.messages.withLock { messages in
            defer { messages = [:] }
            return messages
        }
        #expect(real == expected, "seed \(seed), pushes before step \(steps)")
    }
}
