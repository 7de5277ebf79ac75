// SPDX-License-Identifier: Apache-2.0
//
// Writes JSON straight into the buffer that goes to the socket. Written out by hand because a lock pair over HTTP is
// two tiny objects: a reflective encoder costs more than the whole rest of the request.
package import NIOCore

/// Writes one JSON value into `bytes`; commas are its business.
package struct JSONWriter {
    package private(set) var bytes: ByteBuffer
    private var needsComma = false

    /// Starts with an empty buffer.
    package init(capacity: Int = 192) {
        bytes = ByteBufferAllocator().buffer(capacity: capacity)
    }

    /// What was written, as text.
    package var text: String { String(buffer: bytes) }

    /// Writes `{`, what `body` writes, and `}`.
    package mutating func object(_ body: (inout JSONWriter) throws -> Void) rethrows {
        separate()
        bytes.writeInteger(UInt8(ascii: "{"))
        needsComma = false
        try body(&self)
        bytes.writeInteger(UInt8(ascii: "}"))
        needsComma = true
    }

    /// Writes an array with one element for each of `items`.
    package mutating func array<Items: Sequence>(
        _ items: Items, _ body: (inout JSONWriter, Items.Element) throws -> Void
    ) rethrows {
        separate()
        bytes.writeInteger(UInt8(ascii: "["))
        needsComma = false
        for item in items { try body(&self, item) }
        bytes.writeInteger(UInt8(ascii: "]"))
        needsComma = true
    }

    /// Writes a field's name; its value must follow.
    package mutating func key(_ name: String) {
        string(name)
        bytes.writeInteger(UInt8(ascii: ":"))
        needsComma = false
    }

    package mutating func string(_ text: String) {
        separate()
        bytes.writeInteger(UInt8(ascii: "\""))
        if text.utf8.contains(where: { $0 < 0x20 || $0 == UInt8(ascii: "\"") || $0 == UInt8(ascii: "\\") }) {
            for scalar in text.unicodeScalars { escape(scalar) }
        } else {
            bytes.writeString(text)
        }
        bytes.writeInteger(UInt8(ascii: "\""))
        needsComma = true
    }

    package mutating func integer(_ value: some BinaryInteger) { raw(String(value)) }
    package mutating func bool(_ value: Bool) { raw(value ? "true" : "false") }
    package mutating func null() { raw("null") }

    /// Writes text that is JSON already.
    package mutating func raw(_ json: String) {
        separate()
        bytes.writeString(json)
        needsComma = true
    }

    package mutating func field(_ name: String, _ value: String) {
        key(name)
        string(value)
    }

    package mutating func field(_ name: String, _ value: some BinaryInteger) {
        key(name)
        integer(value)
    }

    package mutating func field(_ name: String, _ value: Bool) {
        key(name)
        bool(value)
    }

    package mutating func field(_ name: String, _ values: [String]) {
        key(name)
        array(values) { $0.string($1) }
    }

    private mutating func separate() {
        if needsComma { bytes.writeInteger(UInt8(ascii: ",")) }
    }

    private mutating func escape(_ scalar: Unicode.Scalar) {
        switch scalar {
        case "\"": bytes.writeString("\\\"")
        case "\\": bytes.writeString("\\\\")
        case "\n": bytes.writeString("\\n")
        case "\r": bytes.writeString("\\r")
        case "\t": bytes.writeString("\\t")
        case "\u{0}"..<" ":
            let digits = String(scalar.value, radix: 16)
            bytes.writeString("\\u" + String(repeating: "0", count: 4 - digits.count) + digits)
        default: bytes.writeString(String(scalar))
        }
    }
}
