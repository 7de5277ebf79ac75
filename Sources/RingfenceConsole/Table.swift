// SPDX-License-Identifier: Apache-2.0
//
// Rows under a heading. A terminal gets what fits its width, because a line that wraps is no row any more: the widest
// columns are cut, with an ellipsis. A file or a pipe gets all of it.
import RingfenceCore

/// A table whose columns are as wide as the widest cell of the rows it was made with.
package struct Table: Sendable {
    private let heading: [String]
    private var widths: [Int]
    /// No line is longer; nil: a line may have any length.
    private let columns: Int?

    /// - Parameters:
    ///   - sample: all rows, or the first of many.
    ///   - columns: of the terminal; nil if it is none.
    package init(_ heading: [String], sample: [[String]], columns: Int? = Output.columns) {
        self.heading = heading
        self.columns = columns
        widths = heading.indices.map { column in
            max(heading[column].count, sample.map { $0[column].shown.count }.max() ?? 0)
        }
        guard let columns else { return }
        let room = columns - Self.gap.count * (heading.count - 1)
        while widths.reduce(0, +) > room {
            // Never narrower than its heading, nor than what says anything.
            let narrowable = widths.indices.filter { widths[$0] > max(heading[$0].count, Self.narrowest) }
            guard let widest = narrowable.max(by: { widths[$0] < widths[$1] }) else { break }
            widths[widest] -= 1
        }
    }

    private static let gap = "  "
    private static let narrowest = 8

    /// The heading as a line.
    package var headingLine: String { line(heading) }

    /// A row as a line.
    package func line(_ row: [String]) -> String {
        var line = ""
        for (column, cell) in row.enumerated() {
            // What was let in before such characters were refused, or written by others, must not move the cursor.
            var cell = cell.shown
            if columns != nil { cell = cell.cut(to: widths[column]) }
            line += cell
            if column < row.count - 1 {
                line += String(repeating: " ", count: max(0, widths[column] - cell.count)) + Self.gap
            }
        }
        while line.last == " " { line.removeLast() }
        return columns.map { line.cut(to: $0) } ?? line
    }
}

extension String {
    /// The first `count` characters, the last of them an ellipsis if there are more.
    package func cut(to count: Int) -> String { self.count > count ? prefix(max(0, count - 1)) + "…" : self }
}
