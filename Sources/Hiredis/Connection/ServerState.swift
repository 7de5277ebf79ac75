// SPDX-License-Identifier: Apache-2.0

/// What a server says of itself that decides whether it may be used; nil where it does not say, or may not be asked.
package struct ServerState: Sendable, Equatable {
    /// `standalone`, `cluster` or `sentinel`.
    package var mode: String?
    /// `master` or `slave`.
    package var role: String?
    package var evictionPolicy: String?
    /// Bytes; 0: none.
    package var memoryLimit: Int64?

    package init() {}

    /// From the answer to INFO.
    package init(info text: String) {
        Self.eachField(of: text) { self.take($0, $1) }
    }

    mutating func take(_ name: Substring, _ value: Substring) {
        switch name {
        // Valkey calls it so where it does not call itself Redis.
        case "redis_mode", "server_mode": mode = String(value)
        case "role": role = String(value)
        case "maxmemory_policy": evictionPolicy = String(value)
        case "maxmemory": memoryLimit = Int64(value)
        default: break
        }
    }

    static func eachField(of text: String, _ body: (_ name: Substring, _ value: Substring) -> Void) {
        for line in text.split(whereSeparator: \.isNewline) {
            guard let colon = line.firstIndex(of: ":") else { continue }
            body(line[..<colon], line[line.index(after: colon)...])
        }
    }
}
