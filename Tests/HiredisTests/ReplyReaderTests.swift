// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Hiredis

@Suite struct ReplyReaderTests {
    /// Every kind of reply, nested and empty ones included, back to back.
    private static let wire = Array(
        ("+OK\r\n-ERR no\r\n:-42\r\n$3\r\na\r\n\r\n$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n"
            + "*3\r\n:1\r\n*2\r\n$1\r\nx\r\n*0\r\n-NOSCRIPT gone\r\n:9223372036854775807\r\n+\r\n").utf8)
    private static let expected: [RedisReply] = [
        .ok, .error(RedisServerError(message: "ERR no")), .integer(-42), .string([97, 13, 10]), .string([]), .null,
        .null,
        .array([]),
        .array([
            .integer(1), .array([.string([120]), .array([])]), .error(RedisServerError(message: "NOSCRIPT gone")),
        ]),
        .integer(.max), .status(""),
    ]

    private static func read(_ pieces: [ArraySlice<UInt8>], _ reader: ReplyReader = ReplyReader()) -> ReplyReader {
        for piece in pieces { _ = piece.withUnsafeBytes { reader.feed($0) } }
        return reader
    }

    @Test func `replies are the same whole, byte by byte, and in every split`() {
        let wire = Self.wire
        #expect(Self.read([wire[...]]).replies == Self.expected)
        #expect(Self.read(wire.indices.map { wire[$0...$0] }).replies == Self.expected)
        for first in wire.indices {
            #expect(Self.read([wire[..<first], wire[first...]]).replies == Self.expected)
            for second in first..<wire.count where second % 3 == 0 {
                let pieces = [wire[..<first], wire[first..<second], wire[second...]]
                #expect(Self.read(pieces).replies == Self.expected)
            }
        }
    }

    @Test func `a reply is given only when it is whole`() {
        let wire = Array("*2\r\n$1\r\na\r\n$2\r\nbc\r\n".utf8)
        let reader = ReplyReader()
        for (index, byte) in wire.enumerated() {
            _ = [byte].withUnsafeBytes { reader.feed($0) }
            #expect(reader.replies.count == (index == wire.count - 1 ? 1 : 0))
        }
    }

    @Test func `a huge bulk and a huge array arrive whole`() {
        let length = 20_000_000
        let bulk = Array("$\(length)\r\n".utf8) + [UInt8](repeating: 7, count: length) + [13, 10]
        #expect(Self.read([bulk[...]]).replies == [.string([UInt8](repeating: 7, count: length))])
        let count = 200_000
        let array = Array(("*\(count)\r\n" + String(repeating: ":7\r\n", count: count)).utf8)
        #expect(Self.read([array[...]]).replies == [.array([RedisReply](repeating: .integer(7), count: count))])
    }

    @Test(arguments: [
        "HELLO\r\n", "$abc\r\n", ":12x\r\n", "*x\r\n", "$-2\r\n", "*-2\r\n", "\r\n", "%1\r\n+a\r\n+b\r\n",
        ":99999999999999999999\r\n",
    ])
    func `what is not RESP2 breaks the reader for good`(wire: String) {
        let reader = Self.read([Array(wire.utf8)[...]])
        #expect(reader.failure != nil)
        let before = reader.replies
        #expect(Self.read([Array("+OK\r\n".utf8)[...]], reader).replies == before)
        #expect(reader.failure != nil)
    }

    @Test func `replies before the broken one are still given`() {
        let reader = Self.read([Array(":1\r\n+two\r\n?\r\n:3\r\n".utf8)[...]])
        #expect(reader.replies == [.integer(1), .status("two")])
        #expect(reader.failure != nil)
    }

    @Test func `seven levels of nesting pass and eight do not`() {
        func nested(_ levels: Int) -> ArraySlice<UInt8> {
            Array((String(repeating: "*1\r\n", count: levels) + ":1\r\n").utf8)[...]
        }
        #expect(Self.read([nested(7)]).failure == nil)
        #expect(Self.read([nested(7)]).replies.count == 1)
        #expect(Self.read([nested(8)]).failure != nil)
        #expect(Self.read([nested(9)]).failure != nil)
    }

    @Test func `limits on bytes and elements hold, also for lengths that are only announced`() {
        let limits = ReplyReader.Limits(bytes: 1000, elements: 10, depth: 7)
        func failure(_ wire: String) -> String? {
            Self.read([Array(wire.utf8)[...]], ReplyReader(limits: limits)).failure
        }
        let large = String(repeating: "x", count: 600)
        #expect(failure("$600\r\n\(large)\r\n$600\r\n\(large)\r\n") == nil)
        #expect(failure("*2\r\n$600\r\n\(large)\r\n$600\r\n\(large)\r\n")?.contains("1000 bytes") == true)
        #expect(failure("*10\r\n") == nil)
        #expect(failure("*11\r\n")?.contains("10 elements") == true)
        #expect(failure("*5\r\n*6\r\n")?.contains("10 elements") == true)
        // A bulk that never ends: refused when it has passed the limit, not when memory is full.
        let endless = ReplyReader(limits: limits)
        _ = Self.read([Array("$1000000000\r\n".utf8)[...]], endless)
        let piece = [UInt8](repeating: 0, count: 50_000)[...]
        var fed = 0
        while endless.failure == nil, fed < 10_000_000 {
            _ = Self.read([piece], endless)
            fed += piece.count
        }
        #expect(endless.failure?.contains("1000 bytes") == true)
        #expect(fed < 200_000)
    }
}
