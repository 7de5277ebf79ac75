// SPDX-License-Identifier: Apache-2.0
//
// A load on a store of many keys that knows what each of its reads may find.
//
// Each key has one writer, who writes 1, 2, 3, … to it, and now and then removes it in place of a number. So a value
// says which write it is, and one comparison tells whether it may be found. The rules are those of a regular register:
//
//   latest   no read finds a write older than the latest one that was acknowledged before the read began
//   honest   a write that failed with effect none is found by nobody, neither before it had failed nor after
//   written  nothing is found that was not written
//
// A write that failed otherwise may be found or not, now or later, until the next one to its key. The load knows
// nothing of what stores the values: it is given functions, several where several clients have ways of their own to the
// same data.
import Synchronization

/// A way to the data that a ``RegisterLoad`` writes and reads.
package struct RegisterStore: Sendable {
    package var get: @Sendable (String) async throws -> [UInt8]?
    /// nil: the key is removed.
    package var set: @Sendable (String, [UInt8]?) async throws -> Void
    /// Whether an error of `set` says that the write is not there and never will be.
    package var isWithoutEffect: @Sendable (any Error) -> Bool

    package init(
        get: @escaping @Sendable (String) async throws -> [UInt8]?,
        set: @escaping @Sendable (String, [UInt8]?) async throws -> Void,
        isWithoutEffect: @escaping @Sendable (any Error) -> Bool
    ) {
        self.get = get
        self.set = set
        self.isWithoutEffect = isWithoutEffect
    }
}

/// Writes and reads all the time, and checks what it finds.
package final class RegisterLoad: Sendable {
    /// What one store's calls came to.
    package struct Tally: Sendable {
        package var reads = 0
        package var writes = 0
        package var failedReads = 0
        /// Failed with effect none.
        package var failedWithoutEffect = 0
        /// Failed, and may be there.
        package var failedUnknown = 0
        /// The longest that a call took which did not fail.
        package var longest: Duration = .zero

        package var failed: Int { failedReads + failedWithoutEffect + failedUnknown }
    }

    fileprivate struct Register {
        var tried = 0
        var acknowledged = 0
        /// The last removal that was tried and may have an effect.
        var removal = 0
        var newestFound = 0
        var withoutEffect: Set<Int> = []
    }

    fileprivate struct State {
        var registers: [Int: Register] = [:]
        var tallies: [Tally]
        /// The first of each kind: a store that is away fails thousands of times.
        var failures: [String] = []
        var wrong: [String] = []
        var isOver = false
    }

    fileprivate static let kept = 16
    /// Every so many-th write of a key is a removal.
    private static let removalEvery = 7

    private let stores: [RegisterStore]
    package let keys: Int
    private let state: Mutex<State>

    package init(_ stores: [RegisterStore], keys: Int) {
        self.stores = stores
        self.keys = keys
        state = Mutex(State(tallies: stores.map { _ in Tally() }))
    }

    /// Calls that did not fail, so far.
    package var calls: Int { state.withLock { $0.tallies.reduce(0) { $0 + $1.reads + $1.writes } } }
    /// The first calls that failed.
    package var failures: [String] { state.withLock { $0.failures } }
    /// The first reads that found what they must not.
    package var wrong: [String] { state.withLock { $0.wrong } }
    package func tally(_ store: Int = 0) -> Tally { state.withLock { $0.tallies[store] } }

    package static func name(_ key: Int) -> String { "key-\(key)" }

    // MARK: One call

    /// Writes a key's next number, or removes it.
    /// - Returns: whether it was acknowledged.
    @discardableResult
    package func write(_ key: Int, through store: Int = 0) async -> Bool {
        let (number, earlierRemoval) = state.withLock { state in
            var register = state.registers[key, default: Register()]
            let earlier = register.removal
            register.tried += 1
            if register.tried % Self.removalEvery == 0 { register.removal = register.tried }
            state.registers[key] = register
            return (register.tried, earlier)
        }
        let isRemoval = number % Self.removalEvery == 0
        let start = ContinuousClock.now
        do {
            try await stores[store].set(Self.name(key), isRemoval ? nil : Array("\(number)".utf8))
            state.withLock { state in
                state.registers[key]!.acknowledged = number
                state.tallies[store].writes += 1
                state.tallies[store].longest = max(state.tallies[store].longest, ContinuousClock.now - start)
            }
            return true
        } catch {
            let isWithoutEffect = stores[store].isWithoutEffect(error)
            state.withLock { state in
                state.note(failure: "write of \(Self.name(key)): \(error)")
                guard isWithoutEffect else { return state.tallies[store].failedUnknown += 1 }
                state.tallies[store].failedWithoutEffect += 1
                state.registers[key]!.withoutEffect.insert(number)
                if isRemoval { state.registers[key]!.removal = earlierRemoval }
                if state.registers[key]!.newestFound == number {
                    state.note(wrong: "\(Self.name(key)): \(number) was found, and then failed without effect")
                }
            }
            return false
        }
    }

    /// Reads a key and checks what is found.
    /// - Returns: whether the read did not fail.
    @discardableResult
    package func read(_ key: Int, through store: Int = 0) async -> Bool {
        let floor = state.withLock { $0.registers[key]?.acknowledged ?? 0 }
        let start = ContinuousClock.now
        do {
            let bytes = try await stores[store].get(Self.name(key))
            let found = bytes.map { Int(String(decoding: $0, as: UTF8.self)) ?? -1 }
            state.withLock { state in
                state.tallies[store].reads += 1
                state.tallies[store].longest = max(state.tallies[store].longest, ContinuousClock.now - start)
                if let why = state.registers[key, default: Register()].objection(to: found, floor: floor) {
                    state.note(wrong: "\(Self.name(key)): \(why)")
                }
            }
            return true
        } catch {
            state.withLock { state in
                state.tallies[store].failedReads += 1
                state.note(failure: "read of \(Self.name(key)): \(error)")
            }
            return false
        }
    }

    // MARK: Many

    /// Writes every key once.
    package func fill() async { await forAll { load, key in await load.write(key) } }

    /// Reads every key once more.
    package func readAll(through store: Int = 0) async {
        await forAll { load, key in await load.read(key, through: store) }
    }

    private func forAll(_ body: @escaping @Sendable (RegisterLoad, Int) async -> Void) async {
        let tasksAtOnce = 16
        await withTaskGroup(of: Void.self) { tasks in
            for first in 0..<tasksAtOnce {
                tasks.addTask { [self] in
                    for key in stride(from: first, to: keys, by: tasksAtOnce) { await body(self, key) }
                }
            }
        }
    }

    /// Runs so many writers at once until `body` returns. Each has keys of its own and one store to write them through;
    /// what it reads in between are keys of all, through all stores in turn.
    package func run(_ writers: Int = 4, _ body: @Sendable () async throws -> Void) async throws {
        state.withLock { $0.isOver = false }
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for writer in 0..<writers {
                tasks.addTask { [self] in await work(writer, of: writers) }
            }
            do {
                try await body()
            } catch {
                state.withLock { $0.isOver = true }
                throw error
            }
            state.withLock { $0.isOver = true }
            for try await _ in tasks {}
        }
    }

    private func work(_ writer: Int, of writers: Int) async {
        var turn = 0
        while !state.withLock({ $0.isOver }) {
            turn += 1
            let hasWritten = await write(
                writer + writers * (turn % (keys / writers)), through: writer % stores.count)
            let hasRead = await read((writer + turn * 7) % keys, through: (writer + turn) % stores.count)
            // Whoever is cut off fails at once, and would only take the processor from the others.
            if !hasWritten || !hasRead { try? await Task.sleep(for: .milliseconds(1)) }
        }
    }

    /// Waits until so many more calls did not fail.
    package func goOn(_ count: Int, file: StaticString = #fileID, line: UInt = #line) async throws {
        let before = calls
        try await eventually("the load goes on", within: .seconds(60), file: file, line: line) {
            calls >= before + count
        }
    }
}

extension RegisterLoad.Register {
    /// Why this must not be found, if it must not.
    fileprivate mutating func objection(to found: Int?, floor: Int) -> String? {
        guard let found else {
            return floor == 0 || removal >= floor ? nil : "nothing, after \(floor) was acknowledged"
        }
        newestFound = max(newestFound, found)
        if found < 1 || found > tried { return "what nobody wrote" }
        if withoutEffect.contains(found) { return "\(found), which failed without effect" }
        return found < floor ? "\(found), after \(floor) was acknowledged" : nil
    }
}

extension RegisterLoad.State {
    fileprivate mutating func note(failure: String) {
        if failures.count < RegisterLoad.kept { failures.append(failure) }
    }

    fileprivate mutating func note(wrong what: String) {
        if wrong.count < RegisterLoad.kept { wrong.append(what) }
    }
}

extension RedisServer {
    /// What a node of the replicated cache `name` really has, read past everything that is tested: for each key its
    /// version, whether it is a value or a removal, and the value. (Not its times: those are of each server's own
    /// clock.)
    package func cacheCopies(_ name: String) async throws -> [String: String] {
        let prefix = "ringfence:{default}:cache:\(name.utf8.count):\(name):"
        let script = """
            local all = {}
            for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
                local entry = redis.call('GET', key)
                all[#all + 1] = string.sub(key, #ARGV[1] + 1) .. ' ' .. string.sub(entry, 1, 33)
                    .. string.sub(entry, 60)
            end
            return all
            """
        var copies: [String: String] = [:]
        for line in try await cli("--raw", "EVAL", script, "0", prefix).split(separator: "\n") {
            let parts = line.split(separator: " ", maxSplits: 1)
            copies[String(parts[0])] = String(parts[1])
        }
        return copies
    }
}
