// SPDX-License-Identifier: Apache-2.0

import Hiredis
import Ringfence
import RingfenceCore
import TestSupport
import Testing

/// Appends events as group.lua does, many in one step: a log to read from, without a group behind it.
final class EventWriter: Sendable {
    /// The twin of `append` in group.lua.
    private static let script = RedisScript(
        """
        local replication = redis.pcall('INFO', 'replication')
        local run = type(replication) == 'string' and string.match(replication, 'master_replid:(%w+)') or ''
        local log = redis.call('HMGET', KEYS[1], 'generation', 'run', 'sequence', 'forks')
        local generation = log[1]
        if not generation then
            generation = ARGV[1]
            redis.call('HSET', KEYS[1], 'generation', generation, 'run', run)
        elseif log[2] ~= run then
            local forks = generation .. '@' .. (log[3] or '0') .. ' ' .. (log[4] or '')
            generation = ARGV[1]
            redis.call('HSET', KEYS[1], 'generation', generation, 'run', run, 'forks', (string.gsub(forks, ' $', '')))
        end
        local sequence
        for i = 1, tonumber(ARGV[3]) do
            sequence = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'sequence', 1))
            local json = '{"generation":"' .. generation .. '","sequence":' .. sequence
                .. ',"at":1763850000123,"type":"member.joined","group":' .. cjson.encode(ARGV[4])
                .. ',"member":"m","version":' .. sequence .. ',"reason":"new","detail":'
                .. '{"session":"s","leaseMs":3000,"weight":1,"priority":0,"metadata":{"n":"' .. (ARGV[5] + i)
                .. '","pad":"' .. ARGV[6] .. '"}}}'
            redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[7], ARGV[2], sequence .. '-0', 'e', json)
            redis.call('PUBLISH', KEYS[2], json)
        end
        return generation .. ':' .. sequence
        """)

    private let client: RedisClient
    /// Every event has a number of its own, whatever becomes of the log.
    private let written = Shared(0)

    init(_ url: String) throws {
        var configuration = try RedisConfiguration(url: url)
        configuration.commandTimeout = .seconds(60)
        configuration.connectTimeout = .seconds(20)
        client = RedisClient(configuration, logger: testLogger)
    }

    func close() async { await client.close() }

    /// Returns once it is connected again after a restart: what it sends into a connection that is just ending is lost.
    func reconnected() async throws {
        try await eventually("the writer is connected again", within: .seconds(60)) {
            let reply = try? await self.client.send { writer in
                writer.begin(1)
                writer.argument("PING")
            }
            return reply != nil
        }
    }

    /// Appends `count` events in one step.
    ///
    /// - Returns: the cursor behind the last.
    @discardableResult
    func append(
        _ count: Int = 1, group: String = "g", retain: Int = 100_000, isExact: Bool = false, padding: Int = 0
    ) async throws -> EventCursor {
        let serial = written.change { written in
            defer { written += count }
            return written
        }
        let reply = try await client.run(Self.script, keys: 2, arguments: 7) { writer in
            writer.argument("ringfence:{default}:log")
            writer.argument("ringfence:{default}:events")
            writer.argument("g\(UInt64.random(in: 1...UInt64.max))")
            writer.argument(retain)
            writer.argument(count)
            writer.argument(group)
            writer.argument(serial)
            writer.argument(String(repeating: "x", count: padding))
            writer.argument(isExact ? "=" : "~")
        }
        return try #require(reply.text.flatMap { EventCursor($0) })
    }
}

/// A Redis of its own, a look at it, a log and a client.
func withEvents<Result: Sendable>(
    _ arguments: [String] = [], _ configure: @Sendable (inout RingfenceConfiguration) -> Void = { _ in },
    _ body: @Sendable (RedisServer, Observer, EventWriter, RingfenceClient) async throws -> Result
) async throws -> Result {
    try await withObservedRedis(arguments) { server, observer in
        let writer = try EventWriter(server.unixURL)
        do {
            let result = try await withClient(server.unixURL, configure) { client in
                try await body(server, observer, writer, client)
            }
            await writer.close()
            return result
        } catch {
            await writer.close()
            throw error
        }
    }
}

/// One iteration over events, in a task of its own, and what it gave.
final class Listener: Sendable {
    struct View: Sendable {
        var items: [Events.Item] = []
        var error: RingfenceError?
        var hasEnded = false
        /// It takes no further item while there are so many.
        var pausesAt = Int.max
    }

    private let view = Shared(View())
    private let task: Task<Void, Never>

    init(_ events: Events, pausesAt: Int = .max) {
        view.change { $0.pausesAt = pausesAt }
        task = Task { [view] in
            do {
                var iterator = events.makeAsyncIterator()
                while true {
                    while view.value.items.count >= view.value.pausesAt { try await Task.sleep(for: .milliseconds(2)) }
                    guard let item = try await iterator.next() else { break }
                    view.change { $0.items.append(item) }
                }
            } catch {
                view.change { $0.error = error as? RingfenceError }
            }
            view.change { $0.hasEnded = true }
        }
    }

    deinit { task.cancel() }

    func resume() { view.change { $0.pausesAt = .max } }
    func cancel() { task.cancel() }
    func ended() async { await task.value }
    var error: RingfenceError? { view.value.error }
    var hasEnded: Bool { view.value.hasEnded }
    var items: [Events.Item] { view.value.items }
    var count: Int { view.value.items.count }

    var events: [Event] {
        items.compactMap { item in
            if case .event(let event) = item { event } else { nil }
        }
    }

    /// What was lost at each reset.
    var resets: [Int?] {
        items.compactMap { item in
            if case .reset(_, let lost) = item { .some(lost) } else { nil }
        }
    }

    /// Waits until it stands at `cursor`; if it never does, the state of `client`'s feed is told.
    func reaches(_ cursor: EventCursor, by client: RingfenceClient? = nil) async throws {
        do {
            try await eventually("reaching the end", within: .seconds(120)) {
                if let error = self.error { throw error }
                return self.items.last?.cursor == cursor
            }
        } catch let error as TestSupportError {
            let last = items.last.map { "\($0.cursor)" } ?? "nothing"
            throw TestSupportError(
                "\(error): the listener stands at \(last) after \(count) items, not at \(cursor); "
                    + "has ended: \(hasEnded)" + (client.map { ", \($0.eventStatus)" } ?? ""))
        }
    }

    /// Waits for the first item, which must be a state.
    func began() async throws {
        try await eventually("the listener has a state", within: .seconds(120)) { self.count > 0 }
        guard case .state = items[0] else { throw TestSupportError("\(items[0]) is no state") }
    }
}

/// The entries of the stream, as they stand there.
func storedEvents(_ observer: Observer) async throws -> [[UInt8]] {
    let reply = try await observer.send("XRANGE", "ringfence:{default}:events", "-", "+")
    return (reply.array ?? []).compactMap { $0.array?.last?.array?.last?.bytes }
}

/// Checks that events came exactly once and in order: each is the one that stands in the log.
func expectWhole(_ events: [Event], _ observer: Observer, from first: Int = 0) async throws {
    let stored = try await storedEvents(observer)
    #expect(events.map(\.sequence) == Array(Int64(first) + 1..<Int64(first + events.count) + 1))
    let isSame = events.map(\.json) == Array(stored.dropFirst(first))
    #expect(isSame, "\(events.count) events, \(stored.count - first) in the log")
}
