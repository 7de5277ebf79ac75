// SPDX-License-Identifier: Apache-2.0
import RingfenceConsole
import RingfenceOperations
import Synchronization

/// Rows under a heading, each column as wide as its widest cell.
func tableLines(_ heading: [String], _ rows: [[String]]) -> [String] {
    let table = Table(heading, sample: rows)
    return [table.headingLine] + rows.map { table.line($0) }
}

/// Prints rows under a heading.
func printTable(_ heading: [String], _ rows: [[String]]) throws {
    for line in tableLines(heading, rows) { try put(line) }
}

/// An object of JSON with the Redis that it tells of, as `redis`, behind its other fields.
func namingRedis(_ object: String) -> String {
    guard let redis = Settings.Place.taken.withLock({ $0 }), object.count > 2, object.hasSuffix("}") else {
        return object
    }
    var name = JSONWriter()
    name.object { $0.field("redis", redis) }
    return object.dropLast() + "," + name.text.dropFirst()
}
