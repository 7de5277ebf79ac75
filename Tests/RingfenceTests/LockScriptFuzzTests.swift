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
    private struct Ask {
        var nonce: String
        var names: [String]
        var terms: LockTerms
        var place: Place {
            Place(nonce: nonce, owner: terms.owner, holdMilliseconds: terms.holdMilliseconds, names: names)
        }
    }

    private enum Step {
        case acquire(Ask, LockMachine.Queueing)
        case release([String], LockValue, LockMachine.Successor?)
        case cancel(Ask)
        case force(String)
        case renew([(names: [String], value: LockValue, milliseconds: Int64)], claimedBy: String?)
        case expireLock(String), expireFence(String), expireQueue(String)

        var verb: String { String("\(self)".prefix { $0 != "(" }) }
    }

    private struct Expected {
        var step: Step
        var answer: LockServerModel.Answer
        var model: LockServerModel
    }

    private static let names = ["a", "b", "ä:c"]
    private static let claimMilliseconds: Int64 = 3_600_000
    /// Of the fed clock, which ends no key.
    private static let patience: Int64 = 2_000_000
    /// Real time and the fed clock run apart by less than this within a run.
    private static let tolerance: Int64 = 300_000

    private let server: RedisServer
    private let client: RedisClient
    private let scripts = LockScripts(
        keys: Keyspace(namespace: "fuzz"), auditLength: 100, waiters: 5)
    private let locking: LoadedScript
    private let renewing: LoadedScript
    private let dumping: LoadedScript
    private let seed: UInt64
    private var random: SplitMix64
    private var model: LockServerModel
    private var recent: [Ask] = []
    private var values: [(names: [String], value: LockValue)] = []
    private var counter = 0
    private var subscribers: [String: RedisSubscriber] = [:]
    private(set) var steps = 0
    private(set) var verbs: Set<String> = []
    /// For want of a place.
    private(set) var refusals = 0

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
                + Self.replacing("claim_ms * 1000", "\(Self.patience)", in: LockScripts.lock.source), on: client)
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

    private func complain(_ text: String, _ expected: Expected, _ step: Int) throws {
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

    // MARK: Random steps

    private func randomAsk() -> Ask {
        if !recent.isEmpty, random.chance(45) { return random.pick(recent) }
        counter += 1
        var names = Self.names.shuffled(using: &random)
        names.removeLast(Int(random.pick([0, 1, 1, 2, 2, 2])))
        let ask = Ask(
            nonce: nonce(of: names), names: names,
            terms: LockTerms(
                owner: random.pick(["one", "two:2", "dr\u{F6}i"]), ttl: random.pick(1...5) * 1000 * .second))
        recent.append(ask)
        if recent.count > 12 { recent.removeFirst() }
        return ask
    }

    /// A value that is held, mostly.
    private func randomValue() -> (names: [String], value: LockValue)? {
        if let name = model.locks.keys.sorted().randomElement(using: &random), random.chance(80) {
            let value = model.locks[name]!.value
            return values.last { $0.value == value }
        }
        return values.randomElement(using: &random)
    }

    private func randomStep() -> Step {
        switch random.pick(0...99) {
        case 0...39:
            let ask = randomAsk()
            return .acquire(ask, randomQueueing(ask))
        case 40...69:
            guard let held = randomValue() else { return .acquire(randomAsk(), .none) }
            var successor: LockMachine.Successor?
            if random.chance(50) {
                let ask = random.chance(70) ? newAsk(of: held.names) : (recent.first { $0.names == held.names })
                successor = ask.map { .init(nonce: $0.nonce, terms: $0.terms, yields: random.chance(50)) }
            }
            return .release(held.names, held.value, successor)
        case 70...79: return .cancel(randomAsk())
        case 80...82: return .force(random.pick(Self.names))
        case 83...91:
            let leases = (0..<random.pick(1...3)).compactMap { _ in randomValue() }
            guard !leases.isEmpty else { return .force(random.pick(Self.names)) }
            return .renew(
                leases.map { ($0.names, $0.value, random.pick(1...5) * 1_000_000) },
                claimedBy: random.chance(50) ? "p\(random.pick(1...4))" : nil)
        case 92...95: return .expireLock(random.pick(Self.names))
        case 96...97: return .expireFence(random.pick(Self.names))
        default: return .expireQueue(random.pick(Self.names))
        }
    }

    private func nonce(of names: [String]) -> String {
        "p\(random.pick(1...4))-\(counter)\(names.count > 1 ? "x\(names.count)" : "")-s"
    }

    private func randomQueueing(_ ask: Ask) -> LockMachine.Queueing {
        switch random.pick(0...9) {
        case 0...1: .none
        // Since some time before it was asked, or the time it has, or none that can be.
        case 2...4: .since(model.now - random.pick(-1000...5_000_000))
        default: .last
        }
    }

    private func newAsk(of names: [String]) -> Ask {
        var ask = randomAsk()
        counter += 1
        ask.nonce = nonce(of: names)
        ask.names = names
        recent.append(ask)
        return ask
    }

    // MARK: In the model

    private func runInModel(_ step: Step) -> LockServerModel.Answer {
        defer { learnValues() }
        switch step {
        case .acquire(let ask, let queueing):
            let answer = model.acquire(ask.place, queueing)
            if case .full = answer { refusals += 1 }
            return answer
        case .release(let names, let value, let successor):
            return model.release(
                names, value,
                to: successor.map { next in
                    let ask = Ask(nonce: next.nonce, names: names, terms: next.terms)
                    return LockServerModel.Successor(
                        nonce: next.nonce, owner: next.terms.owner, holdMilliseconds: next.terms.holdMilliseconds,
                        place: next.yields ? ask.place : nil)
                })
        case .cancel(let ask):
            return model.cancel(ask.names, nonce: ask.nonce, place: ask.place)
        case .force(let name): return model.force(name)
        case .renew(let leases, let process):
            return model.renew(leases.map { ($0.names, $0.value, $0.milliseconds) }, claimedBy: process)
        case .expireLock(let name):
            model.expireLock(name)
            return .done
        case .expireFence(let name):
            model.expireFence(name)
            return .done
        case .expireQueue(let name):
            model.expireQueue(name)
            return .done
        }
    }

    /// Remembers what is held under which names, to release and renew it later.
    private func learnValues() {
        for name in model.locks.keys.sorted() {
            let value = model.locks[name]!.value
            guard !values.contains(where: { $0.value == value }) else { continue }
            let names = model.locks.filter { $0.value.value == value }.keys.sorted()
            values.append((recent.last { $0.nonce == value.nonce }?.names ?? names, value))
            if values.count > 12 { values.removeFirst() }
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

    // MARK: Comparing

    private func isNear(_ one: Int64, _ other: Int64?) -> Bool {
        guard let other else { return false }
        return abs(one - other) <= Self.tolerance
    }

    private func compare(_ answer: LockServerModel.Answer, _ reply: RedisReply, _ expected: Expected, _ step: Int)
        throws
    {
        let parts = reply.array ?? []
        let agrees =
            switch answer {
            case .fence(let fence): reply.text == "\(fence)"
            case .queued(let position, let milliseconds, let arrival):
                parts.count == 4 && parts[0].int == 2 && parts[1].int == position
                    && isNear(milliseconds, parts[2].int) && parts[3].int == arrival
            case .busy(let milliseconds, let owner):
                parts.count == 3 && parts[0].int == 0 && isNear(milliseconds, parts[1].int) && parts[2].text == owner
            case .notWhole(let milliseconds, let owner, let freed):
                parts.count == 4 && parts[0].int == 0 && isNear(milliseconds, parts[1].int) && parts[2].text == owner
                    && parts[3].int == freed
            case .done: expected.step.verb.hasPrefix("expire") ? reply.int != nil : reply == .integer(1)
            case .forced(let fence, let value, let milliseconds):
                parts.count == 3 && parts[0].text == "\(fence)" && parts[1].text == value.text
                    && isNear(milliseconds, parts[2].int)
            case .full(let index): parts.map(\.int) == [3, index]
            case .free: reply.isNull
            case .renewed(let results): parts.map(\.int) == results.map { $0 ? 1 : 0 }
            }
        if !agrees { try complain("the model answers \(answer), Redis \(reply)", expected, step) }
    }

    private func compareState(_ model: LockServerModel, _ state: [RedisReply], _ expected: Expected, _ step: Int) throws
    {
        for (index, name) in Self.names.enumerated() {
            let at = 6 * index
            let lock = model.locks[name]
            if state[at].text != lock?.value.text {
                try complain(
                    "lock \(name): \(state[at].text ?? "nil") not \(lock?.value.text ?? "nil")", expected, step)
            }
            try compareEnd("lock \(name)", lock?.expiresAt, state[at + 1], expected, step)
            let fence = model.fences[name]
            if state[at + 2].text != fence.map({ "\($0.value)" }) {
                try complain("fence \(name): \(state[at + 2]) not \(fence as Any)", expected, step)
            }
            try compareEnd("fence \(name)", fence?.expiresAt, state[at + 3], expected, step)
            let queue = model.queues[name]
            let entries = (queue?.value ?? []).flatMap { [$0.text, "\($0.arrival)"] }
            let real = (state[at + 4].array ?? []).map { $0.text ?? "" }
            if real != entries { try complain("queue \(name): \(real) not \(entries)", expected, step) }
            try compareEnd("queue \(name)", queue?.expiresAt, state[at + 5], expected, step)
        }
        let silent = (1...4).map { model.unanswered["p\($0)"].map { "\($0.value)" } }
        let realSilent = state[(6 * Self.names.count)..<(6 * Self.names.count + 4)].map(\.text)
        if realSilent != silent { try complain("unanswered: \(realSilent) not \(silent)", expected, step) }
        let kept = model.several.map { "\($0.key)=\($0.value.joined(separator: "\n"))" }
        let real = (state.last?.array ?? []).map { $0.text ?? "" }
        if real.sorted() != kept.sorted() { try complain("places: \(real) not \(kept)", expected, step) }
    }

    private func compareEnd(
        _ what: String, _ expiresAt: Int64?, _ left: RedisReply, _ expected: Expected, _ step: Int
    ) throws {
        let agrees = expiresAt.map { isNear(($0 - expected.model.now) / 1000, left.int) } ?? (left.int == -2)
        if !agrees { try complain("the end of \(what): \(left) not \(expiresAt as Any)", expected, step) }
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
            case .disconnected: break
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
