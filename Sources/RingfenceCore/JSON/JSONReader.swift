// SPDX-License-Identifier: Apache-2.0
//
// A strict reader for the only JSON Ringfence takes: one object of strings, integers, booleans and lists of strings.
// Request bodies, the settings file, the agent's file, members' records and events all pass through it.
//
// Not a general decoder, because each thing a general one lets through is a way to be misunderstood about money: a
// misspelt field silently ignored, the second of two equal names silently winning, 1e3 or 10.5 silently becoming an
// integer. Here each of these is an error that names the field. Objects inside the object are read only where the
// caller says how deep (a record holds its metadata, an event holds a record, an agent's file a list of checks), so no
// input makes it recurse further than that, and its time is linear in the length.

/// Reads from the front of `bytes`; confined to one call, so the pointer outlives it.
struct JSONReader {
    let bytes: UnsafeBufferPointer<UInt8>
    var at = 0

    mutating func document(allowed: [String]?, depth: Int) throws(JSONError) -> [JSONObject.Field] {
        skipSpace()
        guard peek == UInt8(ascii: "{") else { throw error("the body must be a JSON object") }
        let fields = try object(allowed: allowed, depth: depth)
        skipSpace()
        guard at == bytes.count else { throw error("there is more after the JSON object") }
        return fields
    }

    mutating func parts(_ names: [String], raw: String) throws(JSONError) -> (JSONObject, Range<Int>?) {
        var fields: [JSONObject.Field] = []
        var range: Range<Int>?
        skipSpace()
        guard take("{") else { throw error("not a JSON object") }
        skipSpace()
        var isAtEnd = take("}")
        while !isAtEnd {
            skipSpace()
            guard peek == UInt8(ascii: "\"") else { throw error("a field name in double quotes is missing") }
            let name = try string(field: nil)
            skipSpace()
            guard take(":") else { throw error("a colon is missing after \"\(name)\"", name) }
            skipSpace()
            let isRaw = name.hasSameBytes(as: raw)
            let isNew = !fields.contains { $0.name.hasSameBytes(as: name) } && !(isRaw && range != nil)
            guard isNew else { throw error("field \(name) is given twice", name) }
            if names.contains(where: { $0.hasSameBytes(as: name) }) {
                fields.append(JSONObject.Field(name: name, value: try value(name, 0)))
            } else {
                let start = at
                try skipValue(name, depth: 32)
                if isRaw { range = start..<at }
            }
            skipSpace()
            if take(",") { continue }
            guard take("}") else { throw error("a comma or } is missing after the value of \(name)", name) }
            isAtEnd = true
        }
        skipSpace()
        guard at == bytes.count else { throw error("there is more after the JSON object") }
        return (JSONObject(fields: fields), range)
    }

    /// Any JSON value, checked and passed over.
    private mutating func skipValue(_ field: String, depth: Int) throws(JSONError) {
        guard depth > 0 else { throw error("\(field) is nested too deep", field) }
        if take("{") {
            skipSpace()
            if take("}") { return }
            while true {
                skipSpace()
                guard peek == UInt8(ascii: "\"") else { throw error("a field name is missing in \(field)", field) }
                _ = try string(field: field)
                skipSpace()
                guard take(":") else { throw error("a colon is missing in \(field)", field) }
                skipSpace()
                try skipValue(field, depth: depth - 1)
                skipSpace()
                if take(",") { continue }
                if take("}") { return }
                throw error("a comma or } is missing in \(field)", field)
            }
        }
        if take("[") {
            skipSpace()
            if take("]") { return }
            while true {
                skipSpace()
                try skipValue(field, depth: depth - 1)
                skipSpace()
                if take(",") { continue }
                if take("]") { return }
                throw error("a comma or ] is missing in \(field)", field)
            }
        }
        _ = try value(field, 0)
    }

    /// At an opening brace.
    private mutating func object(allowed: [String]?, depth: Int) throws(JSONError) -> [JSONObject.Field] {
        var fields: [JSONObject.Field] = []
        at += 1
        skipSpace()
        if take("}") { return fields }
        while true {
            skipSpace()
            let start = at
            guard peek == UInt8(ascii: "\"") else { throw error("a field name in double quotes is missing") }
            let name = try string(field: nil)
            if let allowed, !allowed.contains(where: { $0.hasSameBytes(as: name) }) {
                let list = allowed.joined(separator: ", ")
                let hint = allowed.isEmpty ? "no fields are taken here" : "the fields are \(list)"
                throw JSONError(field: name, message: "unknown field \(quoted(name)); \(hint)", offset: start)
            }
            guard !fields.contains(where: { $0.name.hasSameBytes(as: name) }) else {
                throw JSONError(field: name, message: "field \(name) is given twice", offset: start)
            }
            skipSpace()
            guard take(":") else { throw error("a colon is missing after \"\(name)\"", name) }
            skipSpace()
            fields.append(JSONObject.Field(name: name, value: try value(name, depth)))
            skipSpace()
            if take(",") { continue }
            if take("}") { return fields }
            throw error("a comma or } is missing after the value of \(name)", name)
        }
    }

    private mutating func value(_ field: String, _ depth: Int) throws(JSONError) -> JSONValue {
        guard let next = peek else { throw error("the JSON ends early", field) }
        switch next {
        case UInt8(ascii: "\""): return .string(try string(field: field))
        case UInt8(ascii: "["):
            if let objects = try objects(field, depth) { return .objects(objects) }
            return .strings(try list(field))
        case UInt8(ascii: "{"):
            guard depth > 0 else { throw error("\(field) must not be an object", field) }
            return .object(JSONObject(fields: try object(allowed: nil, depth: depth - 1)))
        case UInt8(ascii: "t"): return try word("true", .bool(true), field)
        case UInt8(ascii: "f"): return try word("false", .bool(false), field)
        case UInt8(ascii: "n"): return try word("null", .null, field)
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return try number(field)
        default: throw error("the value of \(field) is not JSON", field)
        }
    }

    /// At an opening bracket: the list, if objects may lie here and its first element is one.
    private mutating func objects(_ field: String, _ depth: Int) throws(JSONError) -> [JSONObject]? {
        guard depth > 0 else { return nil }
        let start = at
        at += 1
        skipSpace()
        guard peek == UInt8(ascii: "{") else {
            at = start
            return nil
        }
        var items: [JSONObject] = []
        while true {
            skipSpace()
            guard peek == UInt8(ascii: "{") else { throw error("\(field) must be an array of objects", field) }
            items.append(JSONObject(fields: try object(allowed: nil, depth: depth - 1)))
            skipSpace()
            if take(",") { continue }
            if take("]") { return items }
            throw error("a comma or ] is missing in \(field)", field)
        }
    }

    private mutating func list(_ field: String) throws(JSONError) -> [String] {
        var items: [String] = []
        at += 1
        skipSpace()
        if take("]") { return items }
        while true {
            skipSpace()
            guard peek == UInt8(ascii: "\"") else { throw error("\(field) must be an array of strings", field) }
            items.append(try string(field: field))
            skipSpace()
            if take(",") { continue }
            if take("]") { return items }
            throw error("a comma or ] is missing in \(field)", field)
        }
    }

    private mutating func word(_ text: StaticString, _ value: JSONValue, _ field: String) throws(JSONError) -> JSONValue
    {
        let end = at + text.utf8CodeUnitCount
        guard end <= bytes.count, bytes[at..<end].elementsEqual(text.withUTF8Buffer { Array($0) }) else {
            throw error("the value of \(field) is not JSON", field)
        }
        at = end
        return value
    }

    private mutating func number(_ field: String) throws(JSONError) -> JSONValue {
        let isNegative = take("-")
        var magnitude: UInt64 = 0
        var isInteger = true
        let digits = at
        while let byte = peek, byte >= 0x30, byte <= 0x39 {
            let (product, high) = magnitude.multipliedReportingOverflow(by: 10)
            let (sum, carry) = product.addingReportingOverflow(UInt64(byte - 0x30))
            if high || carry { isInteger = false }
            magnitude = sum
            at += 1
        }
        guard at > digits, at == digits + 1 || bytes[digits] != UInt8(ascii: "0") else {
            throw error("the value of \(field) is not a JSON number", field)
        }
        if take(".") {
            let fraction = at
            try skipDigits(field)
            // 10.0 is the integer 10, as some languages write it, and as JSON Schema has it.
            if bytes[fraction..<at].contains(where: { $0 != UInt8(ascii: "0") }) { isInteger = false }
        }
        if take("e") || take("E") {
            isInteger = false
            if !take("+") { _ = take("-") }
            try skipDigits(field)
        }
        guard isInteger else { return .otherNumber }
        if isNegative {
            return magnitude <= 1 << 63 ? .integer(Int64(truncatingIfNeeded: 0 &- magnitude)) : .otherNumber
        }
        return magnitude <= UInt64(Int64.max) ? .integer(Int64(magnitude)) : .otherNumber
    }

    private mutating func skipDigits(_ field: String) throws(JSONError) {
        let start = at
        while let byte = peek, byte >= 0x30, byte <= 0x39 { at += 1 }
        guard at > start else { throw error("the value of \(field) is not a JSON number", field) }
    }

    /// At an opening quote. The common string, without escapes, is validated and copied once.
    private mutating func string(field: String?) throws(JSONError) -> String {
        at += 1
        let start = at
        while let byte = peek, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\"), byte >= 0x20 { at += 1 }
        if peek == UInt8(ascii: "\"") {
            guard let text = String(validating: bytes[start..<at], as: UTF8.self) else {
                throw error("\(field ?? "a field name") is not UTF-8", field)
            }
            at += 1
            return text
        }
        var collected = Array(bytes[start..<at])
        while let byte = peek {
            at += 1
            switch byte {
            case UInt8(ascii: "\""):
                guard let text = String(validating: collected, as: UTF8.self) else {
                    throw error("\(field ?? "a field name") is not UTF-8", field)
                }
                return text
            case UInt8(ascii: "\\"): collected.append(contentsOf: try escape(field).utf8)
            case 0..<0x20: throw error("a control character must be escaped in \(field ?? "a field name")", field)
            default: collected.append(byte)
            }
        }
        throw error("the JSON ends inside a string", field)
    }

    private mutating func escape(_ field: String?) throws(JSONError) -> String {
        guard let byte = peek else { throw error("the JSON ends inside a string", field) }
        at += 1
        switch byte {
        case UInt8(ascii: "\""): return "\""
        case UInt8(ascii: "\\"): return "\\"
        case UInt8(ascii: "/"): return "/"
        case UInt8(ascii: "b"): return "\u{8}"
        case UInt8(ascii: "f"): return "\u{C}"
        case UInt8(ascii: "n"): return "\n"
        case UInt8(ascii: "r"): return "\r"
        case UInt8(ascii: "t"): return "\t"
        case UInt8(ascii: "u"):
            let first = try hex(field)
            if let scalar = Unicode.Scalar(first) { return String(Character(scalar)) }
            guard first < 0xDC00, take("\\"), take("u") else { break }
            let second = try hex(field)
            guard (0xDC00..<0xE000).contains(second) else { break }
            let value = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00)
            if let scalar = Unicode.Scalar(value) { return String(Character(scalar)) }
        default: throw error("an unknown escape in \(field ?? "a field name")", field)
        }
        throw error("half a surrogate pair in \(field ?? "a field name")", field)
    }

    private mutating func hex(_ field: String?) throws(JSONError) -> UInt32 {
        var value: UInt32 = 0
        for _ in 0..<4 {
            guard let byte = peek, let digit = hexDigit(byte) else {
                throw error("\\u needs four hexadecimal digits in \(field ?? "a field name")", field)
            }
            value = value << 4 | UInt32(digit)
            at += 1
        }
        return value
    }

    private var peek: UInt8? { at < bytes.count ? bytes[at] : nil }

    private mutating func take(_ scalar: Unicode.Scalar) -> Bool {
        guard at < bytes.count, bytes[at] == UInt8(ascii: scalar) else { return false }
        at += 1
        return true
    }

    private mutating func skipSpace() {
        while let byte = peek, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { at += 1 }
    }

    private func error(_ message: String, _ field: String? = nil) -> JSONError {
        JSONError(field: field, message: message, offset: at)
    }
}
