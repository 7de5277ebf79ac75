// SPDX-License-Identifier: Apache-2.0
import RingfenceConsole
import RingfenceCore
import RingfenceOperations
import Synchronization

/// Rows under a heading, each column as wide as its widest cell.
func tableLines(_ heading: [String], _ rows: [[String]]) -> [String] {
    // What was let in before such characters were refused, or written by others, must not move the cursor.
    let rows = rows.map { $0.map(\.shown) }
    let widths = heading.indices.map { column in ([heading] + rows).map { $0[column].count }.max() ?? 0 }
    return ([heading] + rows).map { row in
        var line = ""
        for (column, cell) in row.enumerated() {
            line +=
                column == row.count - 1 ? cell : cell + String(repeating: " ", count: widths[column] - cell.count + 2)
        }
        while line.last == " " { line.removeLast() }
        return line
    }
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
