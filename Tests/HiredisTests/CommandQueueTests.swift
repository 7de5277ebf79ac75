// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Hiredis

@Suite struct CommandQueueTests {
    /// The plainest thing that could be right: a list of commands, each in one of four states.
    private struct Model {
        struct Command {
            var id: Int
            var replies: Int
            var deadline: Int64
            var isWritten = false
            var isDead = false
            var got: [Int] = []
        }

        var commands: [Command] = []
        var cancelled: Set<Int> = []
        /// What the server got on this connection and has not answered: (command, reply).
        var onWire: [(id: Int, reply: Int)] = []
    }

    private static func encode(_ id: Int, _ replies: Int) -> (inout CommandWriter) -> Void {
        { writer in
            for reply in 0..<replies {
                writer.begin(2)
                writer.argument(id)
                writer.argument(reply)
            }
        }
    }

    /// Reads the commands of `encode` back.
    private static func decode(_ bytes: [UInt8]) -> [(id: Int, reply: Int)] {
        let reader = ReplyReader()
        _ = bytes.withUnsafeBytes { reader.feed($0) }
        return reader.replies.map { reply in
            (Int(reply.array?[0].int ?? -1), Int(reply.array?[1].int ?? -1))
        }
    }

    @Test func `what was withdrawn is never written, and what was written cannot be withdrawn`() {
        var queue = CommandQueue<Int>(limits: .init(commands: 10, bytes: 2_000))
        func submit(_ id: Int) -> UInt64 {
            _ = queue.submit(id, replies: 1, isSingle: true, deadline: 100, Self.encode(id, 1))
            return queue.submitted
        }
        func taken() -> [Int] {
            var bytes: [UInt8] = []
            if queue.needsSweep(now: 0) { _ = queue.sweep(now: 0) { _ in false } }
            queue.takeUnwritten { bytes += $0 }
            return Self.decode(bytes).map(\.id)
        }
        func withdraw(_ number: UInt64) -> Bool { queue.withdraw(number) }
        let first = submit(1)
        let early = queue.wasWritten(first)
        #expect(!early)
        #expect(taken() == [1])
        let late = queue.wasWritten(first)
        #expect(late)
        let (second, third, fourth) = (submit(2), submit(3), submit(4))
        #expect(!withdraw(first))
        #expect(withdraw(third))
        #expect(!withdraw(third))
        #expect(taken() == [2, 4])
        #expect(!withdraw(second) && !withdraw(fourth))
        #expect(withdraw(submit(5)))
        #expect(taken() == [])
        var answered: [(waiter: Int, reply: RedisReply)] = []
        let isMatched = queue.complete([.integer(1), .integer(2), .integer(4)], &answered)
        #expect(isMatched && answered.map(\.waiter) == [1, 2, 4])
        let (count, live, bytes) = (queue.count, queue.live, queue.bytesInFlight)
        #expect(count == 0 && live == 0 && bytes == 0)
    }

    @Test(arguments: 0..<100)
    func `random histories give every command its own answers or one ending, and never send the dead`(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var queue = CommandQueue<Int>(limits: .init(commands: 40, bytes: 2_000))
        var model = Model()
        var now: Int64 = 0
        var next = 0
        var bytes: [Int: Int] = [:]

        func check(_ ended: [CommandQueue<Int>.Ended], _ expected: [Model.Command]) {
            #expect(ended.map(\.waiter) == expected.map(\.id), "seed \(seed)")
            #expect(ended.map(\.wasWritten) == expected.map(\.isWritten), "seed \(seed)")
        }
        for _ in 0..<400 {
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<45:
                let replies = Int.random(in: 1...3, using: &random)
                let deadline = now + Int64.random(in: 0...60, using: &random)
                next += 1
                let size = CommandWriterTests.reference([Array("\(next)".utf8), [48]]).count * replies
                let inFlight = model.commands.reduce(0) { $0 + (bytes[$1.id] ?? 0) }
                let refusal = queue.submit(
                    next, replies: replies, isSingle: replies == 1, deadline: deadline, Self.encode(next, replies))
                if model.commands.count >= 40 {
                    #expect(refusal == .tooManyCommands, "seed \(seed)")
                } else if inFlight + size > 2_000 {
                    #expect(refusal == .tooManyBytes, "seed \(seed)")
                } else {
                    #expect(refusal == nil, "seed \(seed)")
                    bytes[next] = size
                    model.commands.append(Model.Command(id: next, replies: replies, deadline: deadline))
                }
            case 45..<60:
                var sent: [UInt8] = []
                queue.takeUnwritten { sent += Array($0) }
                var expected: [(id: Int, reply: Int)] = []
                for index in model.commands.indices where !model.commands[index].isWritten {
                    model.commands[index].isWritten = true
                    for reply in 0..<model.commands[index].replies {
                        expected.append((model.commands[index].id, reply))
                    }
                }
                #expect(Self.decode(sent).map(\.id) == expected.map(\.id), "seed \(seed)")
                #expect(Self.decode(sent).map(\.reply) == expected.map(\.reply), "seed \(seed)")
                model.onWire += expected
            case 60..<80:
                let count = Int.random(in: 0...model.onWire.count, using: &random)
                let replies = model.onWire.prefix(count).map { RedisReply.integer(Int64($0.id * 10 + $0.reply)) }
                var expected: [(waiter: Int, reply: RedisReply)] = []
                for (id, reply) in model.onWire.prefix(count) {
                    #expect(model.commands[0].id == id)
                    model.commands[0].got.append(id * 10 + reply)
                    guard model.commands[0].got.count == model.commands[0].replies else { continue }
                    let done = model.commands.removeFirst()
                    let values = done.got.map { RedisReply.integer(Int64($0)) }
                    if !done.isDead { expected.append((id, done.replies == 1 ? values[0] : .array(values))) }
                }
                model.onWire.removeFirst(count)
                var answered: [(waiter: Int, reply: RedisReply)] = []
                let isMatched = queue.complete(replies, &answered)
                #expect(isMatched, "seed \(seed)")
                #expect(answered.map(\.waiter) == expected.map(\.waiter), "seed \(seed)")
                #expect(answered.map(\.reply) == expected.map(\.reply), "seed \(seed)")
            case 80..<95:
                now += Int64.random(in: 0...20, using: &random)
                if let victim = model.commands.randomElement(using: &random) { model.cancelled.insert(victim.id) }
                let gone: (Model.Command) -> Bool = { [cancelled = model.cancelled, now] command in
                    !command.isDead && (command.deadline <= now || cancelled.contains(command.id))
                }
                let late = model.commands.contains { !$0.isWritten && $0.deadline <= now }
                let isDue = queue.needsSweep(now: now)
                if late { #expect(isDue, "seed \(seed)") }
                let expected = model.commands.filter(gone)
                check(queue.sweep(now: now) { [cancelled = model.cancelled] in cancelled.contains($0) }, expected)
                for index in model.commands.indices where gone(model.commands[index]) {
                    model.commands[index].isDead = true
                }
                model.commands.removeAll { $0.isDead && !$0.isWritten }
                let isStillDue = queue.needsSweep(now: now)
                #expect(!isStillDue, "seed \(seed)")
            case 95..<98:
                check(queue.loseWritten(), model.commands.filter { $0.isWritten && !$0.isDead })
                model.commands.removeAll(where: \.isWritten)
                model.onWire = []
            default:
                check(queue.failUnwritten(), model.commands.filter { !$0.isWritten })
                model.commands.removeAll { !$0.isWritten }
            }
            let (count, written, live) = (queue.count, queue.written, queue.live)
            let inFlight = queue.bytesInFlight
            #expect(count == model.commands.count, "seed \(seed)")
            #expect(written == model.commands.count(where: \.isWritten), "seed \(seed)")
            #expect(live == model.commands.count { !$0.isDead }, "seed \(seed)")
            #expect(inFlight == model.commands.reduce(0) { $0 + (bytes[$1.id] ?? 0) }, "seed \(seed)")
        }
    }

    @Test func `a reply nobody asked for is noticed`() {
        var queue = CommandQueue<Int>(limits: .init(commands: 9, bytes: 999))
        var answered: [(waiter: Int, reply: RedisReply)] = []
        let empty = queue.complete([.ok], &answered)
        #expect(!empty)
        _ = queue.submit(1, replies: 1, isSingle: true, deadline: 9, Self.encode(1, 1))
        // Submitted is not written: an answer now cannot be its own.
        let unwritten = queue.complete([.ok], &answered)
        #expect(!unwritten)
        queue.takeUnwritten { _ in }
        let oneTooMany = queue.complete([.ok, .ok], &answered)
        #expect(!oneTooMany)
        #expect(answered.map(\.waiter) == [1])
    }

    @Test func `a ring that wraps and grows keeps its order`() {
        var queue = CommandQueue<Int>(limits: .init(commands: 100_000, bytes: 100_000_000))
        var answered: [(waiter: Int, reply: RedisReply)] = []
        var submitted = 0
        for round in 0..<200 {
            for _ in 0..<(round * 3) {
                submitted += 1
                _ = queue.submit(submitted, replies: 1, isSingle: true, deadline: .max, Self.encode(submitted, 1))
            }
            queue.takeUnwritten { _ in }
            let isMatched = queue.complete([RedisReply](repeating: .ok, count: round * 2), &answered)
            #expect(isMatched)
        }
        #expect(answered.map(\.waiter) == Array(1...answered.count))
    }
}
