// SPDX-License-Identifier: Apache-2.0

import Hiredis
import Ringfence
import RingfenceCore
import TestSupport
import Testing

@Suite struct EventTests {
    @Test func `state comes first, then every event once and in order, with all it holds`() async throws {
        try await withEvents { _, observer, writer, client in
            try await observer.send("SADD", "ringfence:{default}:groups", "g", "h")
            try await observer.send("HSET", "ringfence:{default}:state:g", "version", "7")
            let record = MemberRecord(id: "m", session: "s", leaseMilliseconds: 3000, zone: "a")
            try await observer.send(
                "HSET", "ringfence:{default}:members:g", "m", String(decoding: record.json, as: UTF8.self))
            let before = try await writer.append(3)
            let listener = Listener(client.events())
            try await listener.began()
            let end = try await writer.append(1000)
            try await listener.reaches(end)
            guard case .state(let state) = listener.items[0] else { return }
            #expect(state.cursor == before && state.oldest == .start)
            #expect(state.groups.map(\.group) == ["g", "h"] && state.groups.map(\.version) == [7, 0])
            #expect(state.groups[0].members.map(\.record) == [record])
            #expect(listener.count == 1001)
            try await expectWhole(listener.events, observer, from: 3)
            let event = listener.events[0]
            #expect(
                event.cursor.sequence == 4 && event.type == .memberJoined && event.group == "g" && event.member == "m")
            #expect(event.version == 4 && event.reason == "new" && event.at == 1_763_850_000_123 && event.changes == 1)
            #expect(event.joined?.metadata["n"] == "4" && event.joined?.id == "m")
            #expect(event.detail?.hasPrefix(#"{"session":"s""#) == true)
        }
    }

    @Test func `a cursor goes on behind it, from the start, the middle and the end`() async throws {
        try await withEvents { _, observer, writer, client in
            let first = try await writer.append(1)
            let middle = try await writer.append(499)
            let end = try await writer.append(1500)
            let listeners = [EventCursor.start, first, middle, end].map { Listener(client.events(after: $0)) }
            let last = try await writer.append(10)
            for (listener, from) in zip(listeners, [0, 1, 500, 2000]) {
                try await listener.reaches(last)
                try await expectWhole(listener.events, observer, from: from)
                #expect(listener.count == 2010 - from)
            }
        }
    }

    @Test func `a group's events are its own, and its cursor passes over the others`() async throws {
        try await withEvents { _, _, writer, client in
            let listener = Listener(try client.events(ofGroup: "a", after: .start))
            for _ in 0..<50 {
                try await writer.append(1, group: "a")
                try await writer.append(7, group: "b")
            }
            let end = try await writer.append(1, group: "a")
            try await listener.reaches(end)
            #expect(listener.events.map(\.group) == Array(repeating: "a", count: 51))
            #expect(listener.events.map(\.sequence) == (0..<51).map { $0 * 8 + 1 })

            var iterator = try client.events(ofGroup: "a", after: end).makeAsyncIterator()
            let last = try await writer.append(20, group: "b")
            try await writer.append(1, group: "a")
            #expect(try await iterator.next()?.cursor.sequence == last.sequence + 1)
            #expect(iterator.cursor?.sequence == last.sequence + 1)
        }
    }

    @Test func `cursors that the log does not have begin with a reset, and say what is lost`() async throws {
        try await withEvents { _, observer, writer, client in
            let end = try await writer.append(300, retain: 100, isExact: true)
            func first(_ cursor: EventCursor) async throws -> Events.Item? {
                var iterator = client.events(after: cursor).makeAsyncIterator()
                return try await iterator.next()
            }
            for (text, lost) in [
                ("\(end.generation):100", 200), ("0:0", 300), ("\(end.generation):301", nil), ("other:5", nil),
                ("other:300", nil),
            ] as [(String, Int?)] {
                guard case .reset(let state, let told)? = try await first(try #require(EventCursor(text))) else {
                    Issue.record("\(text) is taken")
                    continue
                }
                #expect(told == lost && state.cursor == end && state.oldest.sequence == 200, "\(text)")
            }
            // What the log still keeps of it can be read from there.
            let item = try await first(try #require(EventCursor("\(end.generation):200")))
            #expect(item?.cursor.sequence == 201)
            // Not trimmed but taken out by hand: lost all the same.
            try await observer.send("XDEL", "ringfence:{default}:events", "250-0")
            let listener = Listener(client.events(after: EventCursor("\(end.generation):240")))
            try await listener.reaches(end)
            #expect(listener.events.map(\.sequence) == Array(241...249) && listener.resets == [51])
        }
    }

    @Test func `a slow subscriber costs nobody anything and gets everything`() async throws {
        try await withEvents { _, observer, writer, client in
            let slow = Listener(client.events(after: .start), pausesAt: 5)
            let quick = Listener(client.events(after: .start))
            var end = EventCursor.start
            for _ in 0..<50 { end = try await writer.append(100) }
            try await quick.reaches(end)
            #expect(slow.count == 5)
            slow.resume()
            try await slow.reaches(end)
            try await expectWhole(slow.events, observer)
            try await expectWhole(quick.events, observer)
        }
    }

    @Test func `a subscriber that pauses while the log is trimmed is reset once, with the exact count`() async throws {
        try await withEvents { _, observer, writer, client in
            try await writer.append(20)
            let listener = Listener(client.events(after: .start), pausesAt: 11)
            try await eventually { listener.count == 11 }
            var end = EventCursor.start
            for _ in 0..<30 { end = try await writer.append(100, retain: 200) }
            listener.resume()
            try await listener.reaches(end)
            end = try await writer.append(5, retain: 200)
            try await listener.reaches(end)
            // What it had taken from the ring before is given first.
            let given = listener.events.count - 5
            #expect(given >= 11 && listener.resets == [3020 - given])
            #expect(listener.events.suffix(5).map(\.sequence) == Array(3021...3025))
        }
    }

    @Test func `iteration ends with its task and with the client, and a client that was shut down gives none`()
        async throws
    {
        try await withEvents { _, _, writer, client in
            let cancelled = Listener(client.events())
            let ended = Listener(client.events())
            try await cancelled.began()
            try await ended.began()
            cancelled.cancel()
            await cancelled.ended()
            #expect(cancelled.error == nil)
            let last = try await writer.append()
            try await ended.reaches(last)
            await client.shutdown()
            await ended.ended()
            #expect(ended.error == nil && ended.count == 2)
            let late = Listener(client.events())
            await late.ended()
            #expect(late.error?.code == .clientShutDown)
        }
    }

    @Test func `nobody who follows, no connection; who comes again is served again`() async throws {
        try await withEvents { _, observer, writer, client in
            func subscriptions() async throws -> Int {
                try await observer.send("PUBSUB", "CHANNELS").array?.count ?? -1
            }
            let first = Listener(client.events())
            try await first.began()
            try await eventually { client.eventStatus.isLive }
            #expect(try await subscriptions() == 1)
            #expect(client.eventStatus.subscribers == 1)
            first.cancel()
            await first.ended()
            try await eventually("the subscription ends", within: .seconds(60)) { try await subscriptions() == 0 }
            #expect(client.eventStatus.subscribers == 0 && !client.eventStatus.isLive)
            let end = try await writer.append(10)
            let second = Listener(client.events(after: .start))
            try await second.reaches(end)
            #expect(second.events.count == 10)
        }
    }

    @Test func `a group's iteration tells who waits only so long where it is, in the midst of others' events`()
        async throws
    {
        try await withEvents { _, _, writer, client in
            let mine = try await writer.append(1, group: "x")
            let end = try await writer.append(5000, group: "y")
            var iterator = try client.events(ofGroup: "x", after: .start).makeAsyncIterator()
            guard case .item(.event(let event)) = try await iterator.next(within: .seconds(120)) else {
                throw TestSupportError("the first event comes first")
            }
            #expect(event.cursor == mine)
            var stops: [EventCursor] = []
            while stops.last != end {
                guard case .nothing = try await iterator.next(within: .zero) else {
                    throw TestSupportError("nothing else is of this group")
                }
                if let cursor = iterator.cursor, cursor != stops.last { stops.append(cursor) }
            }
            #expect(stops.count > 5, "\(stops)")
        }
    }

    @Test func `a Redis that refuses is said, not waited for`() async throws {
        try await withEvents { server, observer, writer, _ in
            try await writer.append(3)
            try await observer.send("ACL", "SETUSER", "blind", "on", ">pw", "+@all", "-xrange", "~*", "&*")
            let url = "redis://blind:pw@127.0.0.1:\(server.port)"
            try await withClient(url) { client in
                let listener = Listener(client.events(after: .start))
                await listener.ended()
                #expect(listener.error?.code == .coordinatorRefused, "\(listener.error.map { "\($0)" } ?? "no error")")
            }
        }
    }

    @Test func `without the channel events come all the same, only later`() async throws {
        try await withEvents { server, observer, writer, _ in
            try await observer.send("ACL", "SETUSER", "deaf", "on", ">pw", "+@all", "-subscribe", "~*", "&*")
            try await withClient("redis://deaf:pw@127.0.0.1:\(server.port)") { client in
                let listener = Listener(client.events())
                try await listener.began()
                let end = try await writer.append(10)
                try await listener.reaches(end)
                #expect(listener.events.count == 10 && !client.eventStatus.isLive)
            }
        }
    }

    @Test func `what others publish or write on the channel disturbs nobody`() async throws {
        try await withEvents { _, observer, writer, client in
            let listener = Listener(client.events())
            try await listener.began()
            for text in ["", "garbage", "{}", #"{"generation":"x","sequence":1,"at":1,"type":"t"}"#] {
                try await observer.send("PUBLISH", "ringfence:{default}:events", text)
                try await writer.append(5)
            }
            try await listener.reaches(try await writer.append(5))
            #expect(listener.resets == [])
            try await expectWhole(listener.events, observer)
        }
    }

    @Test func `pages are read forwards from a cursor, or the newest of all`() async throws {
        try await withEvents { _, _, writer, client in
            let empty = try await client.eventPage()
            #expect(empty.events.isEmpty && empty.next == .start && empty.end == .start && !empty.isReset)
            #expect(try await client.eventPage(after: .start).events.isEmpty)
            let end = try await writer.append(250)
            let newest = try await client.eventPage(limit: 10)
            #expect(newest.events.map(\.sequence) == Array(241...250) && newest.next == end && newest.oldest == .start)
            var cursor = EventCursor.start
            var seqs: [Int64] = []
            repeat {
                let page = try await client.eventPage(after: cursor, limit: 100)
                seqs += page.events.map(\.sequence)
                cursor = page.next
                #expect(page.end == end)
            } while cursor != end
            #expect(seqs == Array(1...250))
            #expect(try await client.eventPage(after: end).events.isEmpty)
            let gone = try await client.eventPage(after: EventCursor("other:3"))
            #expect(gone.isReset && gone.lost == nil && gone.next == end && gone.events.isEmpty)
            for limit in [0, 1001, -1] {
                #expect(await failure { try await client.eventPage(limit: limit) }?.code == .argumentInvalid)
            }
            #expect(throws: RingfenceError.self) { try client.events(ofGroup: "") }
        }
    }
}
