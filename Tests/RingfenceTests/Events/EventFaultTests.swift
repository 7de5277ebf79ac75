// SPDX-License-Identifier: Apache-2.0
//
// Real faults, every event checked: exactly once and in order, or a reset that was needed.

import Hiredis
import Ringfence
import RingfencePlatform
import TestSupport
import Testing

@Suite struct EventFaultTests {
    /// Appends `batches` of 20 while `disturb` runs again and again; all listeners must get everything, without a
    /// reset.
    private func underLoad(
        _ arguments: [String] = [], batches: Int = 150, padding: Int = 0,
        _ disturb: @Sendable @escaping (RedisServer, Observer) async throws -> Void
    ) async throws {
        try await withEvents(arguments) { server, observer, writer, client in
            let listeners = (0..<3).map { _ in Listener(client.events(after: .start)) }
            let isOver = Shared(false)
            try await withThrowingTaskGroup { group in
                group.addTask {
                    while !isOver.value {
                        try await disturb(server, observer)
                        try await Task.sleep(for: .milliseconds(3))
                    }
                }
                var end = EventCursor.start
                for _ in 0..<batches {
                    end = try await writer.append(20, padding: padding)
                    try await Task.sleep(for: .milliseconds(1))
                }
                isOver.change { $0 = true }
                for try await _ in group {}
                end = try await writer.append(1)
                for listener in listeners {
                    try await listener.reaches(end, by: client)
                    #expect(listener.resets == [])
                    try await expectWhole(listener.events, observer)
                }
                try await eventually("live again", within: .seconds(60)) { client.eventStatus.isLive }
            }
        }
    }

    @Test func `a subscription killed again and again loses nothing`() async throws {
        try await underLoad { _, observer in try await observer.send("CLIENT", "KILL", "TYPE", "pubsub") }
    }

    @Test func `all connections killed again and again lose nothing`() async throws {
        try await underLoad { server, _ in
            // Another hand than the writer's, whose connection must live.
            let list = try await server.cli("CLIENT", "LIST")
            for line in list.split(separator: "\n") where line.contains("name=ringfence") {
                let id = line.split(separator: " ")[0].dropFirst(3)
                try await server.cli("CLIENT", "KILL", "ID", String(id))
            }
        }
    }

    @Test func `a Redis that stops for a moment again and again loses nothing`() async throws {
        try await underLoad(batches: 60) { server, _ in try await server.cli("DEBUG", "SLEEP", "0.05") }
    }

    @Test func `a subscription cut for its output buffer loses nothing`() async throws {
        let limits = ["--client-output-buffer-limit", "pubsub", "32kb", "16kb", "1"]
        try await withEvents(limits) { _, observer, writer, client in
            let listener = Listener(client.events(after: .start))
            try await eventually { client.eventStatus.isLive }
            var end = EventCursor.start
            for _ in 0..<10 {
                // Far more than the buffer, before Redis writes a byte of it.
                end = try await writer.append(500, padding: 200)
            }
            try await listener.reaches(end)
            try await expectWhole(listener.events, observer)
            #expect(listener.resets == [])
            let cut = try await observer.send("INFO", "stats").text?.contains(
                "client_output_buffer_limit_disconnections:0")
            #expect(cut == false)
        }
    }

    @Test func `a Redis killed and restarted with its file costs nobody a reset`() async throws {
        let file = ["--appendonly", "yes", "--appendfsync", "always"]
        try await withEvents(file) { server, observer, writer, client in
            let live = Listener(client.events(after: .start))
            let slow = Listener(client.events(after: .start), pausesAt: 30)
            var gens: Set<String> = []
            var end = EventCursor.start
            for _ in 0..<4 {
                for _ in 0..<10 { end = try await writer.append(20) }
                gens.insert(end.generation)
                if gens.count % 2 == 0 { try await live.reaches(end) }
                await server.kill(SIGKILL)
                try await server.restart()
                try await writer.reconnected()
            }
            end = try await writer.append(1)
            slow.resume()
            for listener in [live, slow] {
                try await listener.reaches(end)
                #expect(listener.resets == [])
                try await expectWhole(listener.events, observer)
            }
            #expect(gens.count == 4)
        }
    }

    @Test func `a Redis that comes back empty resets everybody once, and goes on`() async throws {
        try await withEvents { server, observer, writer, client in
            let listener = Listener(client.events(after: .start))
            let before = try await writer.append(100)
            try await listener.reaches(before)
            await server.kill(SIGKILL)
            try await server.restart()
            try await writer.reconnected()
            try await eventually("the reset is told", within: .seconds(60)) { listener.resets.count == 1 }
            let end = try await writer.append(100)
            try await listener.reaches(end)
            #expect(listener.resets == [nil] && end.sequence == 100)
            try await expectWhole(Array(listener.events.dropFirst(100)), observer)
            // As late as this somebody comes back with a cursor of the log that is no more.
            let late = Listener(client.events(after: before))
            try await late.reaches(end)
            #expect(late.resets == [nil] && late.events.isEmpty)
        }
    }

    @Test func `a flushed Redis resets everybody, also when the new log is longer than the old`() async throws {
        try await withEvents { _, observer, writer, client in
            let listener = Listener(client.events(after: .start))
            try await listener.reaches(try await writer.append(10))
            try await observer.send("FLUSHALL")
            let end = try await writer.append(200)
            try await listener.reaches(end)
            #expect(listener.resets == [nil])
            #expect(listener.events.prefix(10).map(\.generation) != Array(repeating: end.generation, count: 10))
            let after = try await writer.append(50)
            try await listener.reaches(after)
            try await expectWhole(Array(listener.events.suffix(50)), observer, from: Int(after.sequence) - 50)
        }
    }

    @Test func `a replica promoted without the last events resets who saw them, and nobody else`() async throws {
        let arguments = ["--hz", "500", "--repl-diskless-load", "swapdb"]
        try await withObservedRedis(arguments) { primary, ofPrimary in
            try await withObservedRedis(arguments) { replica, ofReplica in
                // The address at which clients look for the primary.
                let directory = try TemporaryDirectory()
                let address = directory.path + "/primary.sock"
                try #require(symlink(primary.socketPath, address) == 0)
                let writer = try EventWriter(primary.unixURL)
                let newWriter = try EventWriter(replica.unixURL)
                try await withClient("unix://\(address)") { client in
                    let saw = Listener(client.events(after: .start))
                    let slept = Listener(client.events(after: .start), pausesAt: 40)
                    try await ofReplica.send("REPLICAOF", "127.0.0.1", "\(primary.port)")
                    // A primary's first replica begins a new generation, so not that of the lost ones.
                    let kept = try await writer.append(50)
                    try await eventually("the replica has 50", within: .seconds(60)) {
                        try await ofReplica.send("HGET", "ringfence:{default}:log", "sequence").text == "50"
                    }
                    try await eventually { slept.count == 40 }
                    try await ofReplica.send("REPLICAOF", "NO", "ONE")
                    // Published, seen, and on no other server.
                    let lost = try await writer.append(7)
                    try await saw.reaches(lost)
                    try #require(unlink(address) == 0 && symlink(replica.socketPath, address) == 0)
                    await primary.kill(SIGKILL)
                    let fork = try await newWriter.append(1)
                    #expect(fork.sequence == 51 && fork.generation != lost.generation)
                    let end = try await newWriter.append(100)
                    slept.resume()
                    try await saw.reaches(end)
                    #expect(saw.resets == [nil])
                    try await slept.reaches(end)
                    // It had taken what the ring had then: 50 or more, lost ones among them only if it had seen them.
                    if slept.resets.isEmpty { try await expectWhole(slept.events, ofReplica) }
                    #expect(slept.resets == [] || slept.resets == [nil])
                    // Stored cursors: before the fork they go on, in the lost part they are reset.
                    let good = Listener(client.events(after: kept))
                    let bad = Listener(client.events(after: lost))
                    try await good.reaches(end)
                    try await bad.reaches(end)
                    #expect(good.resets == [] && bad.resets == [nil])
                    try await expectWhole(good.events, ofReplica, from: 50)
                }
                await writer.close()
                await newWriter.close()
            }
        }
    }

    @Test func `ten promotions in a row: every view is of one log or is reset`() async throws {
        let arguments = ["--hz", "500", "--repl-diskless-load", "swapdb"]
        try await withObservedRedis(arguments) { one, ofOne in
            try await withObservedRedis(arguments) { two, ofTwo in
                let directory = try TemporaryDirectory()
                let address = directory.path + "/primary.sock"
                try #require(symlink(one.socketPath, address) == 0)
                let writers = [try EventWriter(one.unixURL), try EventWriter(two.unixURL)]
                let (servers, observers) = ([one, two], [ofOne, ofTwo])
                try await withClient("unix://\(address)") { client in
                    let listener = Listener(client.events(after: .start))
                    var history: [[UInt8]] = []
                    for round in 0..<10 {
                        let (now, next) = (round % 2, (round + 1) % 2)
                        try await observers[next].send("REPLICAOF", "127.0.0.1", "\(servers[now].port)")
                        try await writers[now].append(20)
                        let sequence = try await observers[now].send("HGET", "ringfence:{default}:log", "sequence")
                        try await eventually("in step", within: .seconds(60)) {
                            try await observers[next].send("HGET", "ringfence:{default}:log", "sequence") == sequence
                        }
                        try await observers[next].send("REPLICAOF", "NO", "ONE")
                        let isLossy = round % 3 == 0
                        if isLossy { try await listener.reaches(try await writers[now].append(3)) }
                        try #require(unlink(address) == 0 && symlink(servers[next].socketPath, address) == 0)
                        try await observers[now].send("CLIENT", "KILL", "TYPE", "pubsub")
                        let list = try await servers[now].cli("CLIENT", "LIST")
                        for line in list.split(separator: "\n") where line.contains("name=ringfence") {
                            try await servers[now].cli(
                                "CLIENT", "KILL", "ID", String(line.split(separator: " ")[0].dropFirst(3)))
                        }
                        let end = try await writers[next].append(20)
                        try await listener.reaches(end)
                        history = try await storedEvents(observers[next])
                    }
                    #expect(listener.resets == [nil, nil, nil, nil])
                    // From the last reset on it is the log as it is.
                    let items = listener.items
                    let last = try #require(
                        items.lastIndex { item in
                            if case .reset = item { true } else { false }
                        })
                    let cursor = items[last].cursor.sequence
                    let tail = items[(last + 1)...].compactMap { item -> [UInt8]? in
                        if case .event(let event) = item { event.json } else { nil }
                    }
                    #expect(tail == Array(history.dropFirst(Int(cursor))))
                }
                for writer in writers { await writer.close() }
            }
        }
    }

    @Test func `a subscriber's process killed again and again takes each event once with its stored cursor`()
        async throws
    {
        try await withEvents { server, observer, writer, _ in
            let total = 3000
            let writing = Task {
                for _ in 0..<total / 20 {
                    try await writer.append(20)
                    try await Task.sleep(for: .milliseconds(2))
                }
            }
            var cursor = "0:0"
            var effects: [String] = []
            var lives = 0
            while effects.count < total {
                lives += 1
                let process = try TalkingProcess.start("TestSubscriber", [server.unixURL, cursor])
                // It is killed wherever it is when this many have come; what it had said by then is its effect.
                let until = min(total, effects.count + 37 * lives)
                while effects.count < until, let line = try await process.line() {
                    effects.append(line)
                    cursor = String(line.split(separator: " ")[0])
                }
                process.signal(SIGKILL)
                while let line = try await process.line() {
                    effects.append(line)
                    cursor = String(line.split(separator: " ")[0])
                }
                try await process.end()
            }
            try await writing.value
            let stored = try await storedEvents(observer)
            #expect(lives > 3 && stored.count == total)
            let generation = cursor.prefix { $0 != ":" }
            let expected = (1...total).map { "\(generation):\($0) \($0)" }
            #expect(effects == expected)
        }
    }
}
