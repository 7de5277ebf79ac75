// SPDX-License-Identifier: Apache-2.0
//
// The event log over HTTP, three ways on one resource: a page, a long poll, and a stream of server-sent events.
//
// All clients of this instance share one feed (the library's): a stream is a position in it and what the socket has not
// taken yet. A client that reads slowly is written to slowly and holds nobody up; what it misses meanwhile is read from
// Redis.
//
// A cursor that the log does not have: over a page 410 Gone, as Kubernetes' watchers know it, with the end of the log
// to go on from, for a page has no place to say it in and a client must not overlook it. In a stream it is `event:
// reset`, with the state, and the stream goes on.
//
// The id of what was passed over by a filter is given with each heartbeat, so that a browser that comes back with its
// Last-Event-ID does not ask for what was trimmed long ago because its own group was quiet.
import HTTPTypes
import HummingbirdCore
import NIOCore
import Ringfence
import RingfenceCore
import RingfenceOperations

struct EventRoutes: Sendable {
    let client: RingfenceClient
    let shuttingDown: OneShot
    let heartbeat: Duration

    /// Events that one page looks through for those its filter wants.
    static let scanMaximum = 10_000
    static let waitMaximum = 60_000
    /// How long a stream's last words may take.
    static let byeLimit: TimeAmount = .seconds(1)

    var routes: [Route] {
        [
            Route(
                method: .get, path: "/v1/events", operation: "listEvents",
                summary:
                    "Reads the event log: a page, a long poll with wait, or a stream with Accept: text/event-stream.",
                query: [
                    (
                        "after", OpenAPI.reference("Cursor"),
                        "Events behind this cursor; 0:0 for all that are kept. Without it: the newest, or for a stream "
                            + "the state and all that follows. A stream prefers the header Last-Event-ID."
                    ),
                    ("limit", OpenAPI.reference("PageLimit"), "How many at most; not for a stream."),
                    ("group", OpenAPI.reference("Name"), "Only of this group."),
                    ("type", #"{"type":"string","minLength":1,"maxLength":64}"#, "Only of this type."),
                    (
                        "wait", #"{"type":"integer","minimum":0,"maximum":60000,"default":0}"#,
                        "How many milliseconds to wait for the first event."
                    ),
                ],
                response: "EventPage", streams: true, problems: [.eventsGone],
                handle: { exchange in try await answer(exchange) })
        ]
    }

    private struct Wish {
        var after: EventCursor?
        var limit = 100
        var group: String?
        var type: String?
        var wait: Duration = .zero

        func accepts(_ event: Event) -> Bool {
            if let group, event.group?.hasSameBytes(as: group) != true { return false }
            if let type, !event.type.description.hasSameBytes(as: type) { return false }
            return true
        }
    }

    private func answer(_ exchange: Exchange) async throws -> Reply {
        let query = exchange.query
        var wish = Wish()
        if let text = query["after"] { wish.after = try Self.cursor(text, "after") }
        if let group = query["group"] {
            try Limits.check(group: group)
            wish.group = group
        }
        if let type = query["type"] {
            guard (1...64).contains(type.utf8.count) else { throw InvalidArgument("type", "must be 1 to 64 bytes") }
            wish.type = type
        }
        wish.limit = try pageLimit(query)
        if let wait = try number(query, "wait", 0...Self.waitMaximum) { wish.wait = .milliseconds(wait) }
        guard Self.wantsStream(exchange.headers[.accept]) else { return try await page(wish, exchange) }
        for name in ["limit", "wait"] where query[name] != nil {
            throw InvalidArgument(name, "is not for a stream (Accept: text/event-stream)")
        }
        if let text = exchange.headers[HTTPField.Name("Last-Event-ID")!], !text.isEmpty {
            wish.after = try Self.cursor(text, "Last-Event-ID")
        }
        return try await stream(wish, exchange)
    }

    private static func cursor(_ text: String, _ field: String) throws -> EventCursor {
        guard let cursor = EventCursor(text) else {
            throw InvalidArgument(field, "must be a cursor, generation:sequence, as an event or a page gave it")
        }
        return cursor
    }

    /// Whether one of the types that the client takes is the stream's; a browser's EventSource names it alone.
    static func wantsStream(_ accept: String?) -> Bool {
        guard let accept else { return false }
        return accept.split(separator: ",").contains { range in
            let words = range.split(separator: ";").map { $0.filter { $0 != " " && $0 != "\t" }.lowercased() }
            return words.first == "text/event-stream" && !words.contains("q=0")
        }
    }

    // MARK: A page, and a long poll

    private func page(_ wish: Wish, _ exchange: Exchange) async throws -> Reply {
        var page = try await scan(wish)
        if page.events.isEmpty, wish.wait > .zero, page.next == page.end {
            page = try await poll(wish, page, exchange)
        }
        return Reply(JSONWriter.describing(page.events, next: page.next, end: page.end, oldest: page.oldest))
    }

    /// Reads pages until enough are found, the log ends, or enough were looked at.
    private func scan(_ wish: Wish) async throws -> EventPage {
        let isFiltered = wish.group != nil || wish.type != nil
        // The newest that a filter wants lie anywhere; the newest without a filter are a page of their own.
        var result = try await read(wish.after, isFiltered ? 1000 : wish.limit)
        guard isFiltered else { return result }
        if wish.after == nil, result.end != .start {
            let from = max(result.oldest.sequence, result.end.sequence - Int64(Self.scanMaximum))
            guard let start = EventCursor("\(result.end.generation):\(from)") else { return result }
            // If that was trimmed meanwhile, the log is moving fast, and its newest page will do.
            if let older = try await next(start) { result = older }
        }
        var found: [Event] = []
        var scanned = 0
        while true {
            scanned += result.events.count
            for event in result.events where wish.accepts(event) {
                found.append(event)
                guard wish.after != nil, found.count == wish.limit else { continue }
                result.next = event.cursor
                result.events = found
                return result
            }
            guard result.next != result.end, scanned < Self.scanMaximum else { break }
            // What the log drops meanwhile is said to the next request, which goes on from here.
            guard let next = try await next(result.next), !next.events.isEmpty else { break }
            result = next
        }
        result.events = wish.after == nil ? found.suffix(wish.limit) : found
        return result
    }

    private func read(_ cursor: EventCursor?, _ limit: Int) async throws -> EventPage {
        let page = try await client.eventPage(after: cursor, limit: limit)
        guard !page.isReset else { throw Self.gone(page.end, page.oldest, page.lost) }
        return page
    }

    /// The page behind a cursor that nobody asked for by name; nil if the log has no such place any more.
    private func next(_ cursor: EventCursor) async throws -> EventPage? {
        let page = try await client.eventPage(after: cursor, limit: 1000)
        return page.isReset ? nil : page
    }

    private static func gone(_ cursor: EventCursor, _ oldest: EventCursor, _ lost: Int?) -> Problem {
        var problem = Problem(
            .eventsGone,
            "the log does not have what follows this cursor: look at the state anew, then go on after \(cursor)",
            field: "after")
        problem.gone = (cursor.description, oldest.description, lost)
        return problem
    }

    /// Waits for the first event and takes what is there with it.
    private func poll(_ wish: Wish, _ page: EventPage, _ exchange: Exchange) async throws -> EventPage {
        let end = exchange.arrived + wish.wait
        return try await untilHangUp(exchange) {
            var page = page
            var iterator = client.events(after: page.next).makeAsyncIterator()
            while page.events.count < wish.limit {
                let left = page.events.isEmpty ? end - .now : .zero
                switch try await iterator.next(within: max(.zero, left)) {
                case .item(.event(let event)):
                    page.next = event.cursor
                    if wish.accepts(event) { page.events.append(event) }
                    continue
                case .item(.reset(let state, let lost)):
                    // Events that came before it are given first.
                    if page.events.isEmpty { throw Self.gone(state.cursor, state.oldest, lost) }
                case .item(.state), .nothing, .end: break
                }
                break
            }
            page.end = page.next
            return page
        }
    }

    /// Runs `body` in a task that ends when the client hangs up or the service drains.
    private func untilHangUp<Result: Sendable>(
        _ exchange: Exchange, _ body: @Sendable @escaping () async throws -> Result
    ) async throws -> Result {
        let hangUp = try await ConnectionGuard.wait(on: exchange.channel)
        let result = await interruptible(by: [hangUp, shuttingDown], body)
        if hangUp.hasHappened { throw ConnectionEnded() }
        return try result.get()
    }

    private func interruptible<Result: Sendable>(
        by shots: [OneShot], _ body: @Sendable @escaping () async throws -> Result
    ) async -> Swift.Result<Result, any Error> {
        let task = Task { try await body() }
        let observers = shots.map { shot in (shot, shot.observe { task.cancel() }) }
        defer { for (shot, observer) in observers { shot.forget(observer) } }
        return await withTaskCancellationHandler {
            await task.result
        } onCancel: {
            task.cancel()
        }
    }

    // MARK: A stream

    private func stream(_ wish: Wish, _ exchange: Exchange) async throws -> Reply {
        // Redis is asked before the answer begins: what is wrong then is still an HTTP error.
        var reply = Reply(text: "", type: "text/event-stream")
        reply.headers = [
            // Proxies that buffer would make of a stream what it is not.
            HTTPField(name: HTTPField.Name("X-Accel-Buffering")!, value: "no")
        ]
        let events =
            try wish.group.map { try client.events(ofGroup: $0, after: wish.after) } ?? client.events(after: wish.after)
        let pieces = EventPieces(events, type: wish.type, heartbeat: heartbeat)
        reply.stream = { writer in
            let hangUp = try await ConnectionGuard.wait(on: exchange.channel, streams: true)
            // What a client that does not read keeps from being written must not keep the service from ending.
            let channel = exchange.channel
            let onShutdown = shuttingDown.observe {
                channel.eventLoop.scheduleTask(in: Self.byeLimit) { channel.close(promise: nil) }
            }
            defer { shuttingDown.forget(onShutdown) }
            var body = writer
            try await body.write(ByteBuffer(string: "retry: 2000\n\n"))
            var isOver = false
            while !isOver {
                let piece = await interruptible(by: [hangUp, shuttingDown]) { try await pieces.next() }
                if hangUp.hasHappened { throw ConnectionEnded() }
                switch piece {
                case .success(let piece?): try await body.write(piece)
                case .success(nil): isOver = true
                case .failure(let error):
                    try await body.write(EventPieces.block("error", nil, Problem(error).reply.body))
                    isOver = true
                }
            }
            try await body.write(ByteBuffer(string: "event: bye\ndata: {}\n\n"))
            try await body.finish(nil)
        }
        return reply
    }
}

/// Events as pieces of a stream, one consumer.
private actor EventPieces {
    private var iterator: Events.Iterator
    private let type: String?
    private let heartbeat: Duration
    /// How long an event may wait for others to go out with.
    private static let longestPiece: Duration = .milliseconds(20)

    init(_ events: Events, type: String?, heartbeat: Duration) {
        iterator = events.makeAsyncIterator()
        self.type = type
        self.heartbeat = heartbeat
    }

    /// The next piece: whatever is here, or a heartbeat; nil at the end.
    func next() async throws -> ByteBuffer? {
        // A copy, because an actor's own value cannot be changed across a wait; nobody else is here meanwhile.
        var iterator = iterator
        defer { self.iterator = iterator }
        var buffer = ByteBuffer()
        let end = ContinuousClock.now + heartbeat
        // A filter may let one event pass and then nothing of a long backlog: what passed does not wait for the rest.
        var firstAt = end
        while buffer.readableBytes < 65_536 {
            // What is here already goes out in one piece; without anything, it waits.
            let limit = buffer.readableBytes > 0 ? .zero : max(.zero, end - .now)
            switch try await iterator.next(within: limit) {
            case .item(.event(let event)):
                if type.map({ event.type.description.hasSameBytes(as: $0) }) ?? true {
                    if buffer.readableBytes == 0 { firstAt = .now }
                    Self.append(event.type.description, event.cursor, ByteBuffer(bytes: event.json), to: &buffer)
                    continue
                }
                if buffer.readableBytes > 0 {
                    if ContinuousClock.now > firstAt + Self.longestPiece { return buffer }
                    continue
                }
                // A stream whose filter lets nothing pass shows that it lives all the same.
                guard ContinuousClock.now >= end else { continue }
            case .item(.state(let state)):
                Self.append("state", state.cursor, JSONWriter.describing(state).bytes, to: &buffer)
                continue
            case .item(.reset(let state, let lost)):
                Self.append("reset", state.cursor, JSONWriter.describing(state, reset: (lost, ())).bytes, to: &buffer)
                continue
            case .nothing: if buffer.readableBytes > 0 { return buffer }
            case .end: return buffer.readableBytes > 0 ? buffer : nil
            }
            // No data, so no event for the client; but its id is remembered.
            buffer.writeString(": heartbeat\n")
            if let cursor = iterator.cursor { buffer.writeString("id: \(cursor)\n") }
            buffer.writeString("\n")
            return buffer
        }
        return buffer
    }

    static func block(_ event: String, _ cursor: EventCursor?, _ data: ByteBuffer) -> ByteBuffer {
        var buffer = ByteBuffer()
        append(event, cursor, data, to: &buffer)
        return buffer
    }

    private static func append(_ event: String, _ cursor: EventCursor?, _ data: ByteBuffer, to buffer: inout ByteBuffer)
    {
        if let cursor { buffer.writeString("id: \(cursor)\n") }
        // A type is a word of ours or of a later version; a line break in it would be a field of its own.
        buffer.writeString("event: \(event.filter { !$0.isNewline })\n")
        for line in data.readableBytesView.split(
            omittingEmptySubsequences: false, whereSeparator: { $0 == 0x0A || $0 == 0x0D })
        {
            buffer.writeString("data: ")
            buffer.writeBytes(line)
            buffer.writeString("\n")
        }
        buffer.writeString("\n")
    }
}
