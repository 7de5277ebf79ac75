// SPDX-License-Identifier: Apache-2.0

/// An argument outside its limits: which field, and what is allowed.
package struct InvalidArgument: Error, Equatable, Sendable, CustomStringConvertible {
    package var field: String
    package var message: String

    package init(_ field: String, _ message: String) {
        self.field = field
        self.message = message
    }

    package var description: String { "\(field) \(message)" }
}
