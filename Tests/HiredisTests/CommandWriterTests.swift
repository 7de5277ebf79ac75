// SPDX-License-Identifier: Apache-2.0
import CHiredis
import TestSupport
import Testing

@testable import Hiredis

@Suite struct CommandWriterTests {
    /// What hiredis itself makes of these arguments.
    static func reference(_ arguments: [[UInt8]]) -> [UInt8] {
        var target: UnsafeMutablePointer<CChar>?
        let buffers = arguments.map { bytes in
            let buffer = UnsafeMutableBufferPointer<CChar>.allocate(capacity: max(1, bytes.count))
            for (index, byte) in bytes.enumerated() { buffer[index] = CChar(bitPattern: byte) }
            return buffer
        }
        defer { for buffer in buffers { buffer.deallocate() } }
        var pointers = buffers.map { UnsafePointer($0.baseAddress) }
        let lengths = arguments.map(\.count)
        let length = rf_format_command(&target, Int32(arguments.count), &pointers, lengths)
        defer { rf_free_command(target) }
        return [UInt8](UnsafeRawBufferPointer(start: target, count: Int(length)))
    }

    @Test(arguments: 0..<40)
    func `random binary commands are byte for byte those of hiredis`(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var writer = CommandWriter(capacity: 16)
        var expected: [UInt8] = []
        for _ in 0..<50 {
            let arguments = (0..<Int.random(in: 1...(seed % 4 == 0 ? 120 : 12), using: &random)).map { _ in
                let length = Int.random(in: 0...(Bool.random(using: &random) ? 12 : 3000), using: &random)
                return (0..<length).map { _ in UInt8.random(in: 0...255, using: &random) }
            }
            expected += Self.reference(arguments)
            writer.begin(arguments.count)
            for argument in arguments { writer.argument(argument) }
        }
        let written = Array(writer.bytes)
        #expect(written == expected)
    }

    @Test func `numbers and text are those of hiredis`() {
        var numbers: [Int64] = [0, 9, 10, 99, 100, .max, .min, -1, -9, -10, 1_000_000_000_000_000_000]
        var power: Int64 = 1
        while power < 1_000_000_000_000_000_000 {
            numbers += [power, power - 1, -power, 1 - power]
            power *= 10
        }
        for number in numbers {
            var writer = CommandWriter()
            writer.begin(2)
            writer.argument(number)
            writer.argument("grüße \(number) 💳")
            let written = Array(writer.bytes)
            #expect(written == Self.reference([Array("\(number)".utf8), Array("grüße \(number) 💳".utf8)]))
        }
    }

    @Test func `an argument of parts is the argument of the whole`() {
        for (first, second) in [("", ""), ("key:", "grüße"), ("a", String(repeating: "💳", count: 500))] {
            var writer = CommandWriter(capacity: 16)
            writer.begin(5)
            writer.argument("X")
            writer.argument(first, second)
            writer.argument(Array(first.utf8), Array(second.utf8))
            writer.argument(1_795_399_200_123_456, first, second)
            writer.argument(Int64(7), second, first)
            let written = Array(writer.bytes)
            let both = first + second
            let whole = ["X", both, both, "1795399200123456:\(first):\(second)", "7:\(second):\(first)"]
            #expect(written == Self.reference(whole.map { Array($0.utf8) }))
        }
    }

    @Test(arguments: [0, 1, 3, 20])
    func `a template is the same command`(following: Int) {
        let template = CommandTemplate(["SET", "key with space", ""], following: following)
        let rest = (0..<following).map { "argument \($0)" }
        var writer = CommandWriter()
        writer.template(template)
        for argument in rest { writer.argument(argument) }
        let (written, missing) = (Array(writer.bytes), writer.missing)
        #expect(written == Self.reference((["SET", "key with space", ""] + rest).map { Array($0.utf8) }))
        #expect(missing == 0)
    }

    @Test func `a script call is the same command, by name and by text`() {
        let script = RedisScript("return {KEYS[1], ARGV[1]}")
        for (whole, head) in [(false, ["EVALSHA", script.sha1]), (true, ["EVAL", script.source])] {
            var writer = CommandWriter()
            script.begin(&writer, keys: 1, arguments: 1, whole: whole)
            writer.argument("k")
            writer.argument(7)
            let written = Array(writer.bytes)
            #expect(written == Self.reference((head + ["1", "k", "7"]).map { Array($0.utf8) }))
        }
    }

    @Test func `a wrong number of arguments ends the process rather than shifting answers`() async {
        await #expect(processExitsWith: .failure) {
            var writer = CommandWriter()
            writer.begin(2)
            writer.argument("GET")
            writer.begin(1)
        }
        await #expect(processExitsWith: .failure) {
            var writer = CommandWriter()
            writer.begin(1)
            writer.argument("GET")
            writer.argument("k")
        }
        await #expect(processExitsWith: .failure) {
            var queue = CommandQueue<Int>(limits: .init(commands: 9, bytes: 999))
            _ = queue.submit(1, replies: 1, isSingle: true, deadline: 0) { $0.begin(2) }
        }
    }

    @Test func `SHA-1 is what SCRIPT LOAD answers, for every length around a block`() async throws {
        #expect(SHA1.hexadecimal("abc".utf8) == "a9993e364706816aba3e25717850c26c9cd0d89d")
        try await withRedis { server async throws in
            try await withClient(server.unixURL) { client async throws in
                let sources = (0..<200).map {
                    "return 1 --" + String(repeating: "é", count: $0 / 2) + "x" + "\($0 % 2)"
                }
                let names = try await client.pipeline(count: sources.count) { writer in
                    for source in sources { writer.command("SCRIPT", "LOAD", source) }
                }
                for (source, name) in zip(sources, names) { #expect(RedisScript(source).sha1 == name.text) }
            }
        }
    }
}
