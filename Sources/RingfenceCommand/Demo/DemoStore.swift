// SPDX-License-Identifier: Apache-2.0
//
// The bank of the demo: its data in Redis and what can be done with it. Balances are plain strings, read and written by
// clients that compute in between, as with any store that knows no atomic "add": the very thing locks are for.
//
// Work is dealt by a queue that delivers at least once, as queues do: a worker moves a transfer from `todo` to a list
// of its own (LMOVE, so it is never nowhere), and a process that finds a worker dead or silent moves its list back. So
// transfers are delivered twice now and then, even to two live workers. That each is applied once is up to lock, guard
// and mark.
//
// All keys of a run, its locks' too, share a hash tag, which is new for each run: runs do not meet, and in a Cluster
// all are in one slot.

import Hiredis
import Logging
import Ringfence
import RingfenceConsole
import RingfenceOperations

/// The data of one run of the demo.
struct DemoStore: Sendable {
    /// What a guarded read found.
    enum Read: Sendable, Equatable {
        case balances(from: Int64, to: Int64)
        case applied
        case stale
    }

    /// What became of a write.
    enum Write: Sendable, Equatable { case written, applied, stale }

    private static let readScript = RedisScript(
        RingfenceGuard.lua + "\n" + String(decoding: PackageResources.read_lua, as: UTF8.self))
    private static let writeScript = RedisScript(
        RingfenceGuard.lua + "\n" + String(decoding: PackageResources.write_lua, as: UTF8.self))

    let redis: RedisClient
    private let prefix: String
    /// What the keys of this run's locks begin with.
    private let lockPrefix: String

    /// `configuration`: that of the locks.
    init(_ configuration: RingfenceConfiguration, run: String, logger: Logger) throws {
        var configuration = try configuration.redisConfiguration()
        configuration.hashTag = Self.namespace(run: run)
        // A failover takes seconds.
        configuration.commandTimeout = .seconds(30)
        // Where the locks are, also after a failover.
        configuration.locator = Locator(configuration, logger: logger)
        redis = RedisClient(configuration, logger: logger)
        prefix = "ringfence-demo:{\(Self.namespace(run: run))}:"
        lockPrefix = "ringfence:{\(Self.namespace(run: run))}:"
    }

    /// How the Redis of a run is reached, by its locks and by its store. `environment`: the settings beside the URL,
    /// such as the password of the Sentinels.
    static func configuration(
        url: String, run: String, owner: String? = nil, environment: [String: String]
    ) throws -> RingfenceConfiguration {
        var settings = try Settings(flags: [:], environment: environment, file: nil)
        settings.namespace = namespace(run: run)
        if let owner { settings.owner = owner }
        return settings.configuration(url: url)
    }

    /// The namespace of the locks of a run.
    static func namespace(run: String) -> String { "demo-\(run)" }

    func close() async { await redis.close() }

    // MARK: under a lock, by its holder

    /// Reads both balances and tells Redis of the lease's fence.
    func read(_ transfer: Transfer, _ lease: Lease) async throws -> Read {
        let keys = guardedKeys(transfer)
        let reply = try await redis.run(Self.readScript, keys: keys.count, arguments: 3) { writer in
            for key in keys { writer.argument(key) }
            writer.argument(lease.fence)
            writer.argument(lease.id)
            writer.argument(transfer.id)
        }
        let words = (reply.array ?? []).map { $0.text ?? "" }
        switch words.first {
        case "stale": return .stale
        case "applied": return .applied
        case "balances":
            guard words.count == 3, let from = Int64(words[1]), let to = Int64(words[2]) else { break }
            return .balances(from: from, to: to)
        default: break
        }
        throw CommandFailure("no balances of \(transfer.from) and \(transfer.to): Redis answered \(words)")
    }

    /// Writes both balances and marks the transfer as applied, unless the lease was overtaken.
    func write(_ transfer: Transfer, _ lease: Lease, from: Int64, to: Int64, worker: String) async throws -> Write {
        let keys = guardedKeys(transfer) + [journalKey, refusedKey]
        let reply = try await redis.run(Self.writeScript, keys: keys.count, arguments: 6) { writer in
            for key in keys { writer.argument(key) }
            writer.argument(lease.fence)
            writer.argument(lease.id)
            writer.argument(transfer.id)
            writer.argument(from)
            writer.argument(to)
            writer.argument(worker)
        }
        switch reply.text {
        case "written": return .written
        case "applied": return .applied
        case "stale": return .stale
        default: throw CommandFailure("the write of \(transfer.id) was answered with \(reply)")
        }
    }

    private func guardedKeys(_ transfer: Transfer) -> [String] {
        [guardKey(transfer.from), guardKey(transfer.to)] + [
            balanceKey(transfer.from), balanceKey(transfer.to), appliedKey,
        ]
    }

    // MARK: without locks, for `--unsafe`

    /// Reads both balances, as code that never heard of locks does.
    func readUnsafely(_ transfer: Transfer) async throws -> Read {
        let replies = try await commands([
            ["SISMEMBER", appliedKey, transfer.id],
            ["GET", balanceKey(transfer.from)],
            ["GET", balanceKey(transfer.to)],
        ])
        if replies[0] == .integer(1) { return .applied }
        guard let from = replies[1].text.flatMap({ Int64($0) }), let to = replies[2].text.flatMap({ Int64($0) }) else {
            throw CommandFailure("no balances of \(transfer.from) and \(transfer.to)")
        }
        return .balances(from: from, to: to)
    }

    /// Writes both balances over whatever is there by now.
    func writeUnsafely(_ transfer: Transfer, from: Int64, to: Int64) async throws {
        _ = try await commands([
            ["SET", balanceKey(transfer.from), String(from)],
            ["SET", balanceKey(transfer.to), String(to)],
            ["SADD", appliedKey, transfer.id],
            ["RPUSH", journalKey, transfer.id],
        ])
    }

    // MARK: the queue

    /// The next transfer of the queue, now on the list of the lane; nil if there is none.
    /// `mayHold`: an answer was lost before, so the lane's list may hold one already. So it may when the queue is
    /// empty: a failover can undo a transfer, and its being taken off the list.
    func take(_ lane: String, mayHold: Bool) async throws -> Transfer? {
        if mayHold, let held = try await held(lane) { return held }
        let reply = try await commands([["LMOVE", todoKey, laneKey(lane), "LEFT", "RIGHT"]])[0]
        return if let text = reply.text { try decode(text) } else { try await held(lane) }
    }

    private func held(_ lane: String) async throws -> Transfer? {
        try await commands([["LINDEX", laneKey(lane), "0"]])[0].text.map(decode)
    }

    /// Takes a finished transfer off the list of the lane.
    func finish(_ transfer: Transfer, _ lane: String) async throws {
        _ = try await commands([["LREM", laneKey(lane), "1", encode(transfer)]])
    }

    /// A transfer on the queue: its fields, a line each. Names have no line breaks (`TransferFile` sees to that).
    private func encode(_ transfer: Transfer) -> String {
        "\(transfer.id)\n\(transfer.from)\n\(transfer.to)\n\(transfer.amount)"
    }

    private func decode(_ text: String) throws -> Transfer {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        guard lines.count == 4, let amount = Int64(lines[3]) else {
            throw CommandFailure("the queue holds something that is not a transfer")
        }
        return Transfer(id: String(lines[0]), from: String(lines[1]), to: String(lines[2]), amount: amount)
    }

    // MARK: keys

    private var todoKey: String { prefix + "todo" }
    private var appliedKey: String { prefix + "applied" }
    private var journalKey: String { prefix + "journal" }
    private var refusedKey: String { prefix + "refused" }
    private func laneKey(_ lane: String) -> String { prefix + "lane:" + lane }
    private func balanceKey(_ account: String) -> String { prefix + "balance:" + account }
    private func guardKey(_ account: String) -> String { prefix + "guard:" + account }

    /// Sends commands in one write; an error answer is thrown.
    private func commands(_ list: [[String]]) async throws -> [RedisReply] {
        let replies = try await redis.pipeline(count: list.count) { writer in
            for words in list {
                writer.begin(words.count)
                for word in words { writer.argument(word) }
            }
        }
        for reply in replies {
            if let error = reply.error { throw RedisError(error) }
        }
        return replies
    }
}

// MARK: for the parent

/// It waits while Redis is away, and sends again what may have been done: to read twice, to deliver twice and to remove
/// twice is harmless here.
extension DemoStore {
    /// How long Redis may be away.
    private static let patience = Duration.seconds(60)

    private func commandsInTheEnd(_ list: [[String]]) async throws -> [RedisReply] {
        let end = ContinuousClock.now + Self.patience
        while true {
            do { return try await commands(list) } catch let error as RedisError {
                guard error.isRetriable || error.effect == .unknown, ContinuousClock.now < end else { throw error }
                try await Task.sleep(for: .milliseconds(50))
            }
        }
    }

    /// Gives what is on the list of a lane back to the queue, for others; returns how many transfers that were.
    func redeliver(_ lane: String) async throws -> Int {
        let move = ["LMOVE", laneKey(lane), todoKey, "RIGHT", "LEFT"]
        var count = 0
        while try await commandsInTheEnd([move])[0] != .null { count += 1 }
        return count
    }

    /// Opens the accounts and fills the queue.
    func open(_ file: TransferFile, opening: Int64) async throws {
        try await inChunks(file.accounts) { ["SET", balanceKey($0), String(opening)] }
        try await inChunks(file.transfers) { ["RPUSH", todoKey, encode($0)] }
    }

    func appliedCount() async throws -> Int {
        Int(try await commandsInTheEnd([["SCARD", appliedKey]])[0].int ?? 0)
    }

    func isApplied(_ id: String) async throws -> Bool {
        try await commandsInTheEnd([["SISMEMBER", appliedKey, id]])[0] == .integer(1)
    }

    /// The refused writes, as `<worker> <transfer>`.
    func refusedWrites() async throws -> [String] {
        try await commandsInTheEnd([["LRANGE", refusedKey, "0", "-1"]])[0].array?.compactMap(\.text) ?? []
    }

    /// The id of each transfer, once for each time it was applied.
    func journal() async throws -> [String] {
        try await commandsInTheEnd([["LRANGE", journalKey, "0", "-1"]])[0].array?.compactMap(\.text) ?? []
    }

    func balances(_ accounts: [String]) async throws -> [String: Int64] {
        var balances: [String: Int64] = [:]
        for (account, reply) in zip(accounts, try await inChunks(accounts) { ["GET", balanceKey($0)] }) {
            balances[account] = reply.text.flatMap { Int64($0) }
        }
        return balances
    }

    /// Removes the run from a Redis that outlives it. Locks and places of killed workers expire by themselves.
    func remove(_ accounts: [String], lanes: [String]) async throws {
        try await inChunks(accounts) { ["UNLINK", balanceKey($0), guardKey($0)] }
        try await inChunks(accounts) { ["UNLINK", lockPrefix + "fence:" + $0] }
        try await inChunks(lanes) { ["UNLINK", laneKey($0)] }
        _ = try await commandsInTheEnd([["UNLINK", todoKey, appliedKey, journalKey, refusedKey]])
        _ = try await commandsInTheEnd([["UNLINK", lockPrefix + "audit"]])
    }

    /// One command for each item, a thousand in a write.
    @discardableResult
    private func inChunks<Item>(_ items: [Item], _ command: (Item) -> [String]) async throws -> [RedisReply] {
        var replies: [RedisReply] = []
        for start in stride(from: 0, to: items.count, by: 1000) {
            replies += try await commandsInTheEnd(items[start..<min(start + 1000, items.count)].map(command))
        }
        return replies
    }
}
