// SPDX-License-Identifier: Apache-2.0
import Logging
import Ringfence
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

/// A service on a Redis of its own, and a member of the group `g` on the same Redis whose updates are events.
private func withMember(
    _ more: [String] = [], group: String = "g",
    _ body: @Sendable (Service, RedisServer, RingfenceClient, Membership) async throws -> Void
) async throws {
    try await withService(more) { service, redis in
        let client = try RingfenceClient(
            .init(url: redis.unixURL, commandTimeout: .seconds(30)),
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        do {
            let membership = try await client.group(group).join("m", lease: .seconds(3600))
            try await body(service, redis, client, membership)
        } catch {
            await client.shutdown()
            throw error
        }
        await client.shutdown()
    }
}

@Suite struct EventRouteTests {
    @Test func `pages go forwards from a cursor, and without one show the newest`() async throws {
        try await withMember { service, _, client, member in
            for weight in 2...30 { try await member.update(weight: weight) }
            let end = try await client.eventPage().end
            let newest = try await service.request("GET", "/v1/events?limit=3")
            #expect(newest.status == 200 && newest["next"] == end.description && newest["oldest"] == "0:0")
            #expect(newest.body.contains(#""sequence":28,"#) && newest.body.contains(#""sequence":30,"#))
            #expect(!newest.body.contains(#""sequence":27,"#))
            var cursor = "0:0"
            var seqs: [String] = []
            while true {
                let page = try await service.request("GET", "/v1/events?after=\(cursor)&limit=7")
                try #require(page.status == 200, "\(page.body)")
                seqs += page.body.split(separator: #""sequence":"#).dropFirst().map { String($0.prefix { $0 != "," }) }
                cursor = try #require(page["next"])
                if cursor == page["end"] { break }
            }
            #expect(seqs == (1...30).map { String($0) })
            // An event is given as it stands in the log.
            let first = try await service.request("GET", "/v1/events?after=0:0&limit=1")
            let stored = try #require(try await client.eventPage(after: .start, limit: 1).events.first)
            #expect(first.body.contains(String(decoding: stored.json, as: UTF8.self)))
        }
    }

    @Test func `group and type filter a page, however far what they want lies behind`() async throws {
        try await withMember { service, _, client, member in
            let other = try await client.group("h").join("n", lease: .seconds(3600))
            for weight in 2...40 { try await member.update(weight: weight) }
            try await other.leave()
            let joined = try await service.request("GET", "/v1/events?group=h")
            #expect(joined.body.contains("member.joined") && joined.body.contains("member.left"))
            #expect(!joined.body.contains("member.updated"))
            let left = try await service.request("GET", "/v1/events?after=0:0&group=h&type=member.left&limit=5")
            #expect(left.body.contains("member.left") && !left.body.contains("member.joined"))
            #expect(left["next"] == left["end"])
            let none = try await service.request("GET", "/v1/events?after=0:0&type=other")
            #expect(none.body.hasPrefix(#"{"events":[],"#) && none["next"] == none["end"])
        }
    }

    @Test func `bad arguments are named, and a cursor that the log does not have is 410`() async throws {
        try await withMember { service, _, client, _ in
            for (query, field) in [
                ("after=x", "after"), ("after=g:01", "after"), ("after=", "after"), ("limit=0", "limit"),
                ("limit=x", "limit"), ("wait=60001", "wait"), ("wait=-1", "wait"), ("group=", "group"),
                ("type=", "type"), ("since=1", "since"), ("after=0:0&after=0:0", "after"),
            ] {
                let answer = try await service.request("GET", "/v1/events?" + query)
                #expect(answer.status == 400 && answer["field"] == field, "\(query): \(answer.body)")
            }
            for headers in [["Last-Event-ID: x"], ["Last-Event-ID: g:1:2"]] {
                let answer = try await service.request(
                    "GET", "/v1/events", headers: ["Accept: text/event-stream"] + headers)
                #expect(answer.status == 400 && answer["field"] == "Last-Event-ID")
            }
            let stream = try await service.request("GET", "/v1/events?wait=1", headers: ["Accept: text/event-stream"])
            #expect(stream.status == 400 && stream["field"] == "wait")
            let end = try await client.eventPage().end
            for cursor in ["other:1", "\(end.generation):\(end.sequence + 1)"] {
                let gone = try await service.request("GET", "/v1/events?after=\(cursor)&wait=60000")
                #expect(gone.status == 410 && gone["code"] == "events.gone" && gone["lost"] == "null", "\(gone.body)")
                #expect(gone["cursor"] == end.description && gone["oldest"] == "0:0")
            }
        }
    }

    @Test func `a long poll answers with the next event, or with none when its time is over`() async throws {
        try await withMember { service, _, client, member in
            let end = try await client.eventPage().end
            let empty = try await service.request("GET", "/v1/events?after=\(end)&wait=50")
            #expect(empty.status == 200 && empty.body.hasPrefix(#"{"events":[],"#) && empty["next"] == end.description)
            let connection = try await service.connect()
            try await connection.send("GET", "/v1/events?after=\(end)&wait=60000&type=member.updated")
            try await eventually("it follows", within: .seconds(60)) {
                try await service.request("GET", "/metrics").body.contains("ringfence_event_subscribers 1")
            }
            let other = try await client.group("h").join("n", lease: .seconds(3600))
            try await member.update(weight: 7)
            let answer = try #require(try await connection.answer())
            #expect(answer.status == 200 && answer.body.contains(#""weight":7"#) && !answer.body.contains("joined"))
            #expect(answer["next"] == "\(end.generation):\(end.sequence + 2)")
            try await other.leave()
            // Who hangs up waits no more.
            let gone = try await service.connect()
            try await gone.send("GET", "/v1/events?after=\(end.generation):\(end.sequence + 3)&wait=60000")
            try await eventually("it follows", within: .seconds(60)) {
                try await service.request("GET", "/metrics").body.contains("ringfence_event_subscribers 1")
            }
            gone.close()
            try await eventually("it has gone", within: .seconds(30)) {
                try await service.request("GET", "/metrics").body.contains("ringfence_event_subscribers 0")
            }
        }
    }

    @Test func `a stream begins with the state, gives each event with its id, and goes on after Last-Event-ID`()
        async throws
    {
        try await withMember(["--event-heartbeat", "100ms"]) { service, _, client, member in
            let stream = try await EventClient.open(port: service.port)
            try await eventually("the state comes", within: .seconds(60)) { stream.seen.blocks.count >= 2 }
            #expect(stream.seen.status?.contains("200") == true)
            let state = stream.seen.blocks[1]
            #expect(state.event == "state" && state.data.contains(#""group":"g""#) && state.data.contains(#""id":"m""#))
            #expect(state.id == (try await client.eventPage().end.description))
            for weight in 2...20 { try await member.update(weight: weight) }
            try await eventually("all come", within: .seconds(60)) { stream.events.count == 19 }
            let events = stream.events
            #expect(events.allSatisfy { $0.event == "member.updated" } && stream.seen.isDense)
            let stored = try await client.eventPage(after: EventCursor(state.id ?? ""), limit: 1000).events
            #expect(events.map(\.data) == stored.map { String(decoding: $0.json, as: UTF8.self) })
            #expect(events.map(\.id) == stored.map(\.cursor.description))
            // A heartbeat carries the id, also past what a filter leaves out.
            let filtered = try await EventClient.open(port: service.port, "/v1/events?group=other")
            try await eventually("heartbeats", within: .seconds(60)) { filtered.seen.heartbeats > 0 }
            try await member.update(weight: 50)
            let end = try await client.eventPage().end
            try await eventually("the id goes on", within: .seconds(60)) {
                filtered.seen.blocks.last?.id == end.description
            }
            #expect(filtered.events.isEmpty)

            let again = try await EventClient.open(
                port: service.port, "/v1/events?after=0:0", headers: ["Last-Event-ID: \(events[4].id ?? "")"])
            try await eventually("the rest comes", within: .seconds(60)) { again.events.count == 15 }
            #expect(again.events.first?.id == events[5].id && again.seen.blocks.first { $0.event == "state" } == nil)
            let lost = try await EventClient.open(port: service.port, headers: ["Last-Event-ID: other:9"])
            try await eventually("a reset comes", within: .seconds(60)) {
                lost.seen.blocks.contains { $0.event == "reset" }
            }
            let reset = try #require(lost.seen.blocks.first { $0.event == "reset" })
            #expect(reset.data.contains(#""lost":null"#) && reset.id == end.description)
            for client in [stream, filtered, again, lost] { client.close() }
            try await eventually("all have gone", within: .seconds(90)) {
                try await service.request("GET", "/metrics").body.contains("ringfence_event_subscribers 0")
            }
        }
    }

    @Test func `SIGTERM ends streams with a bye, also one that does not read`() async throws {
        try await withRedis { redis in
            let service = try await Service.start(["--redis", redis.unixURL])
            let client = try RingfenceClient(
                .init(url: redis.unixURL), logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
            let member = try await client.group("g").join("m", lease: .seconds(3600))
            let stream = try await EventClient.open(port: service.port)
            let deaf = try await EventClient.open(port: service.port, "/v1/events?after=0:0", reads: false)
            try await eventually(within: .seconds(60)) { stream.seen.blocks.count >= 2 }
            for weight in 2...10 { try await member.update(weight: weight) }
            try await eventually(within: .seconds(60)) { stream.events.count == 9 }
            let start = ContinuousClock.now
            #expect(await service.stop() == .code(0))
            #expect(ContinuousClock.now - start < .seconds(10))
            try await eventually(within: .seconds(60)) { stream.seen.isClosed }
            #expect(stream.seen.blocks.last?.event == "bye")
            deaf.close()
            await client.shutdown()
        }
    }

    @Test func `without the token nothing is streamed`() async throws {
        let directory = try TemporaryDirectory()
        try writeFile(directory.path + "/tokens", "0123456789abcdef0123\n")
        try await withService(["--token-file", directory.path + "/tokens"]) { service, _ in
            let refused = try await service.request("GET", "/v1/events", headers: ["Accept: text/event-stream"])
            #expect(refused.status == 401)
            let stream = try await EventClient.open(
                port: service.port, headers: ["Authorization: Bearer 0123456789abcdef0123"])
            try await eventually(within: .seconds(60)) { stream.seen.blocks.contains { $0.event == "state" } }
            stream.close()
        }
    }

    @Test func `a thousand streams get every event`() async throws {
        try await withMember { service, _, client, member in
            let streams = try await open(1000, service)
            for weight in 1...20 { try await member.update(weight: weight) }
            let end = try await client.eventPage().end
            for stream in streams {
                try await eventually("stream at the end", within: .seconds(120)) {
                    if stream.seen.isClosed { throw TestSupportError("a stream ended at \(stream.seen.lastSeq)") }
                    return stream.seen.lastSeq == end.sequence
                }
            }
            #expect(streams.allSatisfy { $0.seen.isDense && $0.seen.count == Int(end.sequence) })
            let status = contents(of: "/proc/\(service.program.process.pid)/status")
            let digits = status.split(separator: "VmRSS:").last?.drop { !$0.isNumber }.prefix { $0.isNumber }
            // A thousand connections of the HTTP stack, in a debug build; not a thousand copies of the log.
            let resident = try #require(digits.flatMap { Int($0) })
            #expect(resident < 400_000, "kB")
            for stream in streams { stream.close() }
            try await eventually("all have gone", within: .seconds(60)) {
                try await service.request("GET", "/metrics").body.contains("ringfence_event_subscribers 0")
            }
        }
    }

    @Test func `streams that do not read keep nobody waiting, and miss nothing`() async throws {
        try await withMember { service, _, client, member in
            let quick = try await open(5, service)
            let slow = try await open(10, service, reads: false)
            // More than all buffers between the service and a client that does not read.
            let padding = Dictionary(
                uniqueKeysWithValues: (0..<7).map { ("k\($0)", String(repeating: "x", count: 1000)) })
            for weight in 1...400 {
                try await member.update(weight: weight, metadata: padding.merging(["n": "\(weight)"]) { $1 })
            }
            let end = try await client.eventPage().end
            for stream in quick {
                try await eventually("quick stream at the end", within: .seconds(120)) {
                    if stream.seen.isClosed { throw TestSupportError("a stream ended at \(stream.seen.lastSeq)") }
                    return stream.seen.lastSeq == end.sequence
                }
            }
            #expect(slow.allSatisfy { $0.seen.count == 0 })
            for stream in slow { try await stream.startReading() }
            for stream in slow {
                try await eventually("slow stream at the end", within: .seconds(120)) {
                    stream.seen.lastSeq == end.sequence
                }
            }
            #expect((quick + slow).allSatisfy { $0.seen.isDense && $0.seen.count == Int(end.sequence) })
            for stream in quick + slow { stream.close() }
        }
    }

    private func open(_ count: Int, _ service: Service, reads: Bool = true) async throws -> [EventClient] {
        var streams: [EventClient] = []
        for _ in 0..<count {
            streams.append(
                try await EventClient.open(
                    port: service.port, "/v1/events?after=0:0", keepsBlocks: false, reads: reads))
        }
        if reads {
            for stream in streams {
                try await eventually("streams are open", within: .seconds(120)) { stream.seen.count >= 1 }
            }
        }
        return streams
    }
}
