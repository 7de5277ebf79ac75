// SPDX-License-Identifier: Apache-2.0

/// One reply of Redis (RESP2).
package enum RedisReply: Sendable, Equatable {
    /// The null bulk string or the null array: nothing there.
    case null
    case integer(Int64)
    /// A bulk string: any bytes.
    case string([UInt8])
    /// A simple string such as `OK`.
    case status(String)
    /// An error reply. At the top of a single command it is thrown instead.
    case error(RedisServerError)
    case array([RedisReply])
}

extension RedisReply {
    /// `OK`, as SET and many others answer.
    package static let ok = RedisReply.status("OK")

    package var isNull: Bool { self == .null }

    /// The integer, also when it was sent as decimal text; nil when it is anything else.
    package var int: Int64? {
        switch self {
        case .integer(let value): value
        case .string, .status: text.flatMap { Int64($0) }
        case .null, .error, .array: nil
        }
    }

    /// The text of a bulk or simple string; nil when it is anything else or not UTF-8.
    package var text: String? {
        switch self {
        case .string(let bytes): String(validating: bytes, as: UTF8.self)
        case .status(let text): text
        case .null, .integer, .error, .array: nil
        }
    }

    /// The bytes of a bulk or simple string; nil when it is anything else.
    package var bytes: [UInt8]? {
        switch self {
        case .string(let bytes): bytes
        case .status(let text): Array(text.utf8)
        case .null, .integer, .error, .array: nil
        }
    }

    /// The elements of an array; nil when it is anything else.
    package var array: [RedisReply]? {
        if case .array(let elements) = self { elements } else { nil }
    }

    /// An array of names and values, one after the other; nil when it is anything else. What is no text is left out.
    package var fields: [String: String]? {
        guard let elements = array else { return nil }
        var fields: [String: String] = [:]
        for index in stride(from: 0, to: elements.count - 1, by: 2) {
            if let name = elements[index].text, let value = elements[index + 1].text { fields[name] = value }
        }
        return fields
    }

    /// The error of an error reply; nil when it is anything else.
    package var error: RedisServerError? {
        if case .error(let error) = self { error } else { nil }
    }
}
