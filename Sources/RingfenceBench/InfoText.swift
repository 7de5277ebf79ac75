// SPDX-License-Identifier: Apache-2.0

/// The answer to INFO.
enum InfoText {
    /// The number behind `name:`; nil without it.
    static func number(_ name: String, in text: String) -> Double? {
        let line = text.split(whereSeparator: \.isNewline).first { $0.hasPrefix("\(name):") }
        return line.flatMap { Double($0.dropFirst(name.count + 1)) }
    }
}
