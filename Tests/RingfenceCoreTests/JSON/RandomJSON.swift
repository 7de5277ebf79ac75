// SPDX-License-Identifier: Apache-2.0
//
// Documents made at random, written in one of the many ways each can be written, and then spoilt. Knows nothing of the
// reader: it has values and a writer of its own.
import TestSupport

/// A value as it was made.
indirect enum MadeValue {
    case text(String)
    case number(String)
    case word(String)
    case texts([String])
    case objects([[(String, MadeValue)]])
    case object([(String, MadeValue)])
}

struct RandomJSON {
    private var random: SplitMix64
    private(set) var bytes: [UInt8] = []

    /// Few, so that they meet; and some that Unicode calls equal though their bytes are not.
    static let names = ["a", "b", "raw", "K", "\u{212A}", "\u{E9}", "e\u{301}", ""]
    static let numbers = [
        "0", "-0", "1", "-1", "10", "9223372036854775807", "-9223372036854775808", "9223372036854775808",
        "-9223372036854775809", "18446744073709551615", "18446744073709551616", "-18446744073709551616",
        "99999999999999999999999999999999999999999", "0.5", "1e3", "1E+2", "-1.25e-7", "10.0", "1e999", "-0.0",
        "9223372036854775807.0", "9223372036854775808.0", "10.05",
    ]
    /// What a mutation puts somewhere.
    static let pieces: [[UInt8]] =
        [
            "{", "}", "[", "]", "\"", ",", ":", "\\", "\\u", "\\u00", "\\ud800", "\\udc00", "\\ud83d\\ude00",
            "\\ud83d\\u0041", "\\ud83d\\ud83d", "\\udc00\\ud83d", "\\ude00\\ude00", "\\ud83d\\n",
            "\\u0000", "\\x", "\n", " ", "\t", "-", "+", ".", "e", "0", "00", "1.", "1e", "NaN", "Infinity",
            "-Infinity",
            "true", "tru", "null", "nul", "//", "/**/", "'", "{}", "[]", "[[]]", "[{}]", "{\"a\":1}", ",\"a\":1",
            ",\"a\":{\"b\":[{\"a\":{}}]}", "\u{FEFF}", "\u{2028}", "\u{E9}", "9223372036854775808",
        ].map { Array($0.utf8) } + [
            [0], [0x1F], [0x7F], [0x80], [0xC0, 0x80], [0xC3], [0xE2, 0x28, 0xA1], [0xED, 0xA0, 0x80],
            [0xF4, 0x90, 0x80, 0x80], [0xF0, 0x9F, 0x98], [0xFF], [0xFE, 0xFF],
        ]

    init(seed: UInt64) { random = SplitMix64(seed: seed) }

    mutating func pick<Element>(_ elements: [Element]) -> Element { elements[below(elements.count)] }
    mutating func below(_ limit: Int) -> Int { Int(random.next(upperBound: UInt64(limit))) }
    mutating func chance(_ one: Int) -> Bool { below(one) == 0 }

    // MARK: - Values

    /// Fields with different names, in which objects lie at most `depth` deep.
    mutating func fields(depth: Int) -> [(String, MadeValue)] {
        var names = Self.names
        return (0..<below(4)).map { _ in
            (names.remove(at: below(names.count)), value(depth: depth))
        }
    }

    private mutating func value(depth: Int) -> MadeValue {
        switch below(depth > 0 ? 9 : 6) {
        case 0, 1: return .text(text())
        case 2: return .number(pick(Self.numbers))
        case 3: return .number("\(Int64(bitPattern: random.next()) >> below(64))")
        case 4: return .word(pick(["true", "false", "null"]))
        case 5: return .texts((0..<below(4)).map { _ in text() })
        case 6: return .objects((0...below(3)).map { _ in fields(depth: depth - 1) })
        default: return .object(fields(depth: depth - 1))
        }
    }

    private mutating func text() -> String {
        var text = String.UnicodeScalarView()
        for _ in 0..<below(chance(8) ? 40 : 5) {
            let value: UInt32 =
                switch below(6) {
                case 0: UInt32(below(0x20))
                case 1: [0x22, 0x2F, 0x5C, 0x7F, 0xFFFE, 0x10_FFFF][below(6)]
                case 2: UInt32(below(0x11_0000))
                default: UInt32(0x20 + below(0x5F))
                }
            text.append(Unicode.Scalar(value) ?? "?")
        }
        return String(text)
    }

    // MARK: - The writer

    /// Writes a document of `fields`.
    mutating func write(_ fields: [(String, MadeValue)]) {
        bytes = []
        space()
        put(fields)
        space()
    }

    private mutating func put(_ fields: [(String, MadeValue)]) {
        list("{", fields, "}") { writer, field in
            writer.put(field.0)
            writer.space()
            writer.bytes.append(UInt8(ascii: ":"))
            writer.space()
            writer.put(field.1)
        }
    }

    private mutating func put(_ value: MadeValue) {
        switch value {
        case .text(let text): put(text)
        case .number(let text), .word(let text): bytes += text.utf8
        case .texts(let texts): list("[", texts, "]") { writer, text in writer.put(text) }
        case .objects(let objects): list("[", objects, "]") { writer, fields in writer.put(fields) }
        case .object(let fields): put(fields)
        }
    }

    private mutating func list<Item>(
        _ open: Unicode.Scalar, _ items: [Item], _ close: Unicode.Scalar, _ put: (inout Self, Item) -> Void
    ) {
        bytes.append(UInt8(ascii: open))
        space()
        for (index, item) in items.enumerated() {
            if index > 0 {
                bytes.append(UInt8(ascii: ","))
                space()
            }
            put(&self, item)
            space()
        }
        bytes.append(UInt8(ascii: close))
    }

    private mutating func put(_ text: String) {
        bytes.append(UInt8(ascii: "\""))
        for scalar in text.unicodeScalars {
            let short: [UInt32: String] = [
                0x22: "\\\"", 0x5C: "\\\\", 0x2F: "\\/", 8: "\\b", 12: "\\f", 10: "\\n", 13: "\\r", 9: "\\t",
            ]
            if let escape = short[scalar.value], chance(2) {
                bytes += escape.utf8
            } else if scalar.value < 0x20 || scalar == "\"" || scalar == "\\" || chance(6) {
                for unit in String(scalar).utf16 {
                    let digits = String(unit, radix: 16, uppercase: chance(2))
                    bytes += ("\\u" + String(repeating: "0", count: 4 - digits.count) + digits).utf8
                }
            } else {
                bytes += String(scalar).utf8
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }

    private mutating func space() {
        while chance(5) { bytes.append(pick([0x20, 0x0A, 0x0D, 0x09])) }
    }

    // MARK: - Mutations

    /// Spoils the document in one to three places.
    mutating func spoil() {
        for _ in 0...below(3) {
            let at = place()
            let end = min(bytes.count, at + 1 + below(8))
            switch below(8) {
            case 0 where at < bytes.count: bytes[at] ^= 1 << UInt8(below(8))
            case 1 where at < bytes.count: bytes[at] = UInt8(below(256))
            case 2: bytes.removeSubrange(at..<end)
            case 3: bytes.insert(contentsOf: bytes[at..<end], at: at)
            case 4: bytes.removeSubrange(at...)
            case 5: addField()
            case 6:
                let piece = bytes[at..<end]
                bytes.removeSubrange(at..<end)
                bytes.insert(contentsOf: piece, at: below(bytes.count + 1))
            default: bytes.insert(contentsOf: pick(Self.pieces), at: at)
            }
        }
    }

    /// Anywhere, or where something begins.
    private mutating func place() -> Int {
        let at = below(bytes.count + 1)
        guard chance(2), let mark = bytes[at...].firstIndex(where: Self.marks.contains) else { return at }
        return mark + 1
    }

    private static let marks = Array("{[:,\"\\".utf8)

    /// Puts a field in front of an object's others: it may be there twice, or lie about as deep as it may, or deeper.
    private mutating func addField() {
        let brace = UInt8(ascii: "{")
        guard let at = bytes[below(bytes.count + 1)...].firstIndex(of: brace) ?? bytes.firstIndex(of: brace) else {
            return
        }
        let levels = chance(3) ? 0 : chance(40) ? 5_000 : 28 + below(8)
        let isList = chance(2)
        let open = String(repeating: isList ? "[" : "{\"a\":", count: levels)
        let close = String(repeating: isList ? "]" : "}", count: levels)
        let field = "\"\(pick(Self.names))\":\(open)\(isList && levels > 0 ? "" : "1")\(close),"
        bytes.insert(contentsOf: field.utf8, at: at + 1)
    }
}
