// SPDX-License-Identifier: Apache-2.0

extension Duration {
    /// Reads `500ms`, `10s`, `5m`, `2h` or `1d`; nil for anything else. A number without a unit is refused:
    /// nobody should have to guess whether 10 is seconds or milliseconds.
    package init?(text: String) {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        guard !digits.isEmpty, digits.count <= 12, let count = Int64(digits) else { return nil }
        switch text[digits.endIndex...] {
        case "ms": self = .milliseconds(count)
        case "s": self = .seconds(count)
        case "m": self = .seconds(count * 60)
        case "h": self = .seconds(count * 3_600)
        case "d": self = .seconds(count * 86_400)
        default: return nil
        }
    }

    /// What to add to a complaint about `text`, if only its unit is missing.
    package static func missingUnit(_ text: String) -> String {
        guard !text.isEmpty, text.allSatisfy({ $0.isASCII && $0.isNumber }) else { return "" }
        return "; the unit is missing, such as \(text)s"
    }

    /// Whole milliseconds, rounded down; 0 when negative.
    package var wholeMilliseconds: Int64 {
        let (seconds, attoseconds) = components
        return max(0, seconds * 1_000 + attoseconds / 1_000_000_000_000_000)
    }

    /// For people: `350 ms`, `9.4 s`, `3 m 20 s`, `2 h 5 m`.
    package var shortText: String {
        let milliseconds = wholeMilliseconds
        switch milliseconds {
        case ..<1_000: return "\(milliseconds) ms"
        case ..<60_000: return "\(milliseconds / 1_000).\(milliseconds % 1_000 / 100) s"
        case ..<3_600_000: return "\(milliseconds / 60_000) m \(milliseconds % 60_000 / 1_000) s"
        default: return "\(milliseconds / 3_600_000) h \(milliseconds % 3_600_000 / 60_000) m"
        }
    }
}
