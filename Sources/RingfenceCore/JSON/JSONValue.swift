// SPDX-License-Identifier: Apache-2.0

/// A value of a field.
package enum JSONValue: Sendable, Hashable {
    case string(String)
    case integer(Int64)
    case bool(Bool)
    case strings([String])
    case object(JSONObject)
    /// A list of objects, at least one; an empty list is `strings`.
    case objects([JSONObject])
    case null
    /// A number that is not a 64-bit integer: a fraction, an exponent, or too large.
    case otherNumber

    /// The kind as a message names it.
    package var kind: String {
        switch self {
        case .string: "a string"
        case .integer: "an integer"
        case .bool: "a boolean"
        case .strings: "an array"
        case .object: "an object"
        case .objects: "an array of objects"
        case .null: "null"
        case .otherNumber: "a number that is not a 64-bit integer"
        }
    }
}

/// Why some bytes are not the object asked for.
package struct JSONError: Error, Sendable, CustomStringConvertible {
    /// The field at fault, where one is known.
    package var field: String?
    /// What is wrong, for a person.
    package var message: String
    /// Offset of the byte at fault.
    package var offset: Int
    package var description: String { message }

    package init(field: String? = nil, message: String, offset: Int) {
        self.field = field
        self.message = message
        self.offset = offset
    }
}
